"""The rows of one arrangement in both tiers, as one set: by id, by hash, and on their way from one tier to the other.

Rows with ids from `hot.first` on are hot (`engine.state.hot`). With a cold store the oldest full chunks can be *sealed*: their
live rows go into a segment of `engine.state.cold`, slice by slice between epochs, and leave memory when the segment is finished.
Cold rows keep their ids, but are spoken of by handles; what is found here may be either, and what takes ids takes both.

A death is *recent* while a reader may ask for the contents before it. What has *expired*, being older than every reader looks
back to, is dropped chunk by chunk and segment by segment, some time later.

Invariant: a live row is found in exactly one tier, and neither sealing, merging nor expiry changes what a view has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Weights
from forebay.engine.state.arrays import Mask
from forebay.engine.state.cold import COLD, NONE, ColdRows, Deaths
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.hot import HotRows
from forebay.engine.state.index import Hashes
from forebay.engine.state.rows import Ids, Places, same_at
from forebay.engine.state.sealing import Sealing
from forebay.engine.state.segment import Segment
from forebay.engine.state.times import NEVER, Micros, time_of
from forebay.engine.state.view import ALIVE, ALWAYS, View
from forebay.kernels.rows import SHIFT

OPEN = 8 << 20
"""Bytes from which a chunk that is not full may be sealed."""
_EXPIRED_CHUNKS = 4
"""Hot chunks that are rid of expired rows in one step."""


class TieredRows:
    """Hot rows, and cold ones if there is a store for them."""

    def __init__(self, schema: pa.Schema, key: Sequence[int], identity: Sequence[int], time: int | None) -> None:
        """`key` and `identity`: columns of the indexes. `time`: the column with the time of a row, if rows expire."""
        self.schema = schema
        self.time = time
        self.hot = HotRows(schema, key, identity)
        self._key = key[0] if len(key) == 1 else None
        self.cold: ColdRows | None = None
        self.live = 0
        """Rows that have not died, in both tiers."""
        self.dropped = ALWAYS
        """Rows older than this may be gone."""
        self.found_hot = 0
        self.found_cold = 0
        """Rows that probes have found, since the process began."""
        self._recent: list[tuple[int, Ids]] = []
        self._open_cold: list[Ids] = []
        """Handles of the rows that died in the open epoch."""
        self._killed: list[Ids] = []
        """Rows that have died for good since the last `take_killed`."""
        self._sealing: Sealing | None = None
        self._due: dict[int, int] = {}
        """Per full hot chunk the time that readers must have passed for another look at what has expired in it."""

    def __bool__(self) -> bool:
        """Whether any view may have a row."""
        return bool(self.live or self._recent or self.cold)

    def nbytes(self) -> int:
        return self.hot.nbytes() + (self.cold.nbytes() if self.cold is not None else 0)

    # -- births and deaths --------------------------------------------------------------------------------------

    def add(self, rows: pa.RecordBatch, weights: Weights | None) -> None:
        """Rows are born."""
        if rows.num_rows:
            self.hot.append(rows, weights)
            self.live += rows.num_rows

    def kill(self, dead: Ids, ids: Ids, epoch: int) -> None:
        """These rows, of which `ids` are the row ids whether they are hot or cold, die in the epoch."""
        self.live -= dead.size
        hot = dead[dead < COLD]
        if hot.size:
            self.hot.kill(hot, epoch)
            self._recent.append((epoch, hot))
        if self.cold is not None and hot.size < dead.size:
            cold = dead >= COLD
            self._open_cold.append(dead[cold])
            self._recent.append((epoch, self.cold.kill(dead[cold], ids[cold])))

    def commit(self, closed: int, oldest: int) -> None:
        """Deaths of epochs after `closed` are for good. Rows that died up to `oldest` leave their chains."""
        self._killed.extend(ids for epoch, ids in self._recent if epoch > closed)
        self._open_cold = []
        gone = [ids for epoch, ids in self._recent if epoch <= oldest]
        self._recent = [(epoch, ids) for epoch, ids in self._recent if epoch > oldest]
        if gone:
            ids = np.concatenate(gone)
            self.hot.unlink(ids[ids >= self.hot.first])

    def rollback(self, epoch: int, first: int) -> None:
        """Undo the deaths of the open epoch, and the births from row id `first` on."""
        for handles in self._open_cold:
            assert self.cold is not None
            self.cold.count_deaths(handles, -1)
        self._open_cold = []
        revived = [ids for e, ids in self._recent if e == epoch]
        self._recent = [(e, ids) for e, ids in self._recent if e != epoch]
        for ids in revived:
            self.live += ids.size
            if ids[0] < self.hot.first and self.cold is not None:
                self.cold.dead.set(ids, False)
            else:
                self.hot.revive(ids)
        self.live -= sum(ids.size for ids in self.hot.ids(since=first))
        self.hot.discard(np.arange(first, self.hot.next_id))

    def take_killed(self) -> Ids:
        """The ids of rows that have died for good since the last call."""
        killed, self._killed = self._killed, []
        return np.concatenate([NONE, *killed])

    def compact(self) -> None:
        """Hot rows get new ids, and only the live ones stay. There are no cold ones, and no recent deaths."""
        self.hot = self.hot.compacted()
        self.live = self.hot.next_id - 1
        if self.cold is not None:
            self.cold.dead = Deaths()  # of rows that are gone, whose ids are given again
        self._killed, self._due = [], {}

    # -- by id --------------------------------------------------------------------------------------------------

    def gather(self, ids: Ids, wanted: list[int] | None = None) -> pa.RecordBatch:
        """The rows with these ids (some columns of them)."""
        if not self.cold or not ids.size or not (cold := ids >= COLD).any():
            return self.hot.gather(ids, wanted)
        if cold.all():
            return self.cold.gather(ids, wanted)
        both = [self.hot.gather(ids[~cold], wanted), self.cold.gather(ids[cold], wanted)]
        order = np.empty(ids.size, np.int64)
        order[~cold], order[cold] = np.arange(both[0].num_rows), np.arange(both[0].num_rows, ids.size)
        return pa.concat_batches(both).take(pa.array(order))

    def weights(self, ids: Ids) -> Weights:
        """Their weights."""
        out = np.ones(ids.shape[0], np.int64)
        if self.cold and self.hot.weights.chunks and (cold := ids >= COLD).any():
            ids = ids.copy()
            ids[cold] = self.cold.ids(ids[cold])
        self.hot.weights.add_to(ids, out)
        return out

    def times(self, ids: Ids) -> Micros:
        """Their times, for rows that have one."""
        assert self.time is not None
        return time_of(self.gather(ids, [self.time]).column(0))

    def same(
        self, ids: Ids, wanted: Sequence[int], rows: pa.RecordBatch, columns: Sequence[int], places: Places
    ) -> Mask:
        """Whether `wanted` columns of rows ids[i], all hot or all cold, equal `columns` of rows[places[i]]."""
        if not self.cold or not ids.size or ids[0] < COLD:
            return self.hot.same(ids, wanted, rows, columns, places)
        equal = np.ones(ids.shape[0], bool)
        for mine, theirs in zip(self.cold.gather(ids, wanted).columns, columns):
            equal &= same_at(mine, rows.column(theirs), places)
        return equal

    def visible(self, view: View = ALIVE) -> Iterator[Ids]:
        """The row ids that the view has, some at a time, oldest first."""
        if self.cold:
            for handles in self.cold.scan():
                yield handles[self._seen(handles, self.cold.ids(handles), view)]
        for ids in self.hot.ids(view):
            yield ids if view.since == ALWAYS else ids[self.times(ids) >= view.since]

    # -- by hash ------------------------------------------------------------------------------------------------

    def pairs(self, hashes: Hashes, view: View) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        """(index of the hash, row) of every visible row under each hash, hot ones first, in pieces."""
        for index, ids in self.hot.pairs(hashes, view):
            if view.since > ALWAYS:
                young = self.times(ids) >= view.since
                index, ids = index[young], ids[young]
            self.found_hot += ids.size
            yield index, ids
        if self.cold:
            for index, handles, _ in self.cold_pairs(hashes, view):
                yield index, handles

    def cold_pairs(self, hashes: Hashes, view: View) -> Iterator[tuple[npt.NDArray[np.int32], Ids, Ids]]:
        """(index of the hash, row, row id) of every visible cold row under each hash, in pieces; there must be some."""
        assert self.cold is not None
        for index, handles, ids in self.cold.find(hashes, view.since):
            seen = self._seen(handles, ids, view)
            self.found_cold += int(np.count_nonzero(seen))
            yield index[seen], handles[seen], ids[seen]

    def newest(self, hashes: Hashes, view: View) -> Ids:
        """The newest hot row under each hash that the view has, but for its time; 0 for none."""
        ids = self.hot.newest(hashes, view)
        self.found_hot += int(np.count_nonzero(ids))
        return ids

    def _seen(self, handles: Ids, ids: Ids, view: View) -> Mask:
        """Which cold rows, with these ids, the view has."""
        assert self.cold is not None
        dead = self.cold.dead.test(ids)
        if dead.any():
            for epoch, recent in self._recent:
                if epoch >= view.least:
                    dead[dead] = ~np.isin(ids[dead], recent)
        seen: Mask = (ids < view.most) & ~dead
        if view.since > ALWAYS:
            seen &= self.cold.times_of(handles) >= view.since
        return seen

    # -- moving -------------------------------------------------------------------------------------------------

    def use(self, store: ColdStore) -> None:
        """Rows may go to this store from now on."""
        if self.cold is None:
            self.cold = ColdRows(self.schema, store, self.time, self._key)

    def unprepare(self) -> None:
        """The epoch is over: nobody will look for the cold rows that were asked for in it."""
        if self.cold is not None:
            self.cold.unprepare()

    def adopt(self, segments: Iterable[Segment], rows: int, null_keys: int) -> None:
        """Take over segments with rows of ids 1 to `rows`, built elsewhere; there must be none until then."""
        assert self.cold is not None and self.hot.next_id == 1
        for segment in segments:
            self.cold.add(segment)
        self.live, self.hot.null_keys = rows, null_keys
        self.hot.begin((rows >> SHIFT) + 1)

    def seal(self, share: float, since: int) -> bool:
        """Begin to seal the oldest `share` of the hot chunks, without rows older than `since`; False if there is none.

        With no full chunk the open one is closed, if it is large enough: rows may be wide, and budgets small.
        """
        if self.hot.first >> SHIFT == self.hot.open_chunk and self.hot.open_bytes() > OPEN:
            self.hot.close(self.hot.open_chunk + 1)
        first, last = self.hot.first >> SHIFT, self.hot.open_chunk
        end = first + max(1, int((last - first) * share))
        for _, ids in self._recent:
            end = min(end, *(ids[ids >= self.hot.first] >> SHIFT).tolist(), end)
        if self.cold is None or self._sealing is not None or end > last or end <= first:
            return False
        ids = np.concatenate([NONE, *self.hot.ids(since=self.hot.first, until=end << SHIFT)])
        ids = self._without_expired(ids, since)
        self._sealing = Sealing(self.cold, ids, self.hot.hashes(ids, self.hot.key), end)
        self.hot.leaving = end
        return True

    @property
    def sealing(self) -> bool:
        """Whether rows are on their way out of memory."""
        return self._sealing is not None

    def maintain(self, since: int) -> bool:
        """One step each of dropping what is older than `since`, of merging, and of sealing; False when none had a thing to do."""
        expiring = self.time is not None and self._expire(since)
        if self.cold is None:
            return expiring
        merging = self.cold.maintain(self._held())
        self.live -= self.cold.take_dropped()
        if self._sealing is None:
            return merging or expiring
        self._seal_slice(self._sealing, self.cold)
        return True

    def ahead(self) -> None:
        """A step of sealing or merging in the middle of an epoch, if it ends neither: then no row goes anywhere."""
        if self._sealing is not None and not self._sealing.ends:
            self._sealing.step(self.hot.gather)
        elif self.cold is not None and self.cold.may_step:
            self.cold.ahead(self._held())

    def _held(self) -> Ids:
        """Dead rows that somebody may still ask for."""
        return np.concatenate([NONE, *(ids for _, ids in self._recent)])

    def finish_sealing(self) -> None:
        """All that is left of the sealing under way."""
        while self._sealing is not None and self.cold is not None:
            self._seal_slice(self._sealing, self.cold)

    def _seal_slice(self, sealing: Sealing, cold: ColdRows) -> None:
        """One step; after the last the rows leave memory, and those that have died meanwhile are dead in the segment."""
        if not sealing.step(self.hot.gather):
            return
        died = self.hot.leave(sealing.ids, sealing.hashes)
        cold.dead.set(died)
        if died.size:
            next(reversed(cold.segments.values())).dead = died.size
        self._killed.append(died)  # a checkpoint may have passed over them, for they were not saved as rows
        self._sealing = None

    def stay(self) -> None:
        """Give up the sealing and the merging under way: what is hot stays hot."""
        if self._sealing is not None:
            self._sealing.abandon()
            self._sealing = None
            self.hot.leaving = 0
        if self.cold is not None:
            self.cold.abandon_merge()

    def close(self) -> None:
        """Nobody will read these rows again."""
        self.stay()
        if self.cold is not None:
            self.cold.close()

    # -- expiry -------------------------------------------------------------------------------------------------

    def _expire(self, since: int) -> bool:
        """Drop what has expired in some hot chunks, and let the cold rows know; False when there was nothing to do."""
        if since == ALWAYS:
            return False
        self.dropped = max(self.dropped, since)
        if self.cold is not None:
            self.cold.expired = max(self.cold.expired, since)
        looked = 0
        for chunk in range(self.hot.leaving or self.hot.first >> SHIFT, self.hot.open_chunk):
            if not self.hot.holds(chunk) or self._due.get(chunk, ALWAYS) >= since:
                continue
            begin, end = max(chunk << SHIFT, 1), (chunk + 1) << SHIFT
            ids = np.concatenate([NONE, *self.hot.ids(since=begin, until=end)])
            left = self._without_expired(ids, since)
            self._due[chunk] = int(np.median(self.times(left))) if left.size else NEVER
            looked += left.size < ids.size
            if looked == _EXPIRED_CHUNKS:
                break
        return looked > 0

    def _without_expired(self, ids: Ids, since: int) -> Ids:
        """Drop the hot rows among these that are older than `since`; the others."""
        if self.time is None or since == ALWAYS or not ids.size:
            return ids
        old = self.times(ids) < since
        if not old.any():
            return ids
        gone = ids[old]
        self.dropped = max(self.dropped, since)
        self.live -= gone.size
        self._killed.append(gone)
        self.hot.discard(gone)
        return ids[~old]
