"""The arrangement: the rows of one relation indexed by one key, with multiset weights, shared by any number of readers.

Births and deaths have an epoch. Row ids ascend, so births need no column: the first id of each recent epoch is enough. A
death is stamped on the row, which stays in its chain until `commit`, and longer while a reader *holds* an older epoch. So a
reader can ask for the contents before an epoch (*old*) or after it (*new*), whoever else has moved on:

    visible(most, least)   id < most, and alive or dead since epoch `least` or later
    old of epoch e         most = first id of e,      least = e
    new of epoch e         most = first id of e + 1,  least = e + 1

That is what makes ΔL ⋈ R_old + L_new ⋈ ΔR exact for any order of processing, self joins included.
A retraction finds its row through the key's chain if that is short, else through an index by *identity*: columns known to be
unique, or the whole row. A retraction that finds no row is dropped and counted.

Two tiers. Rows with ids from `_sealed_to` on are *hot*: in the row store and its index. With a cold store the oldest full chunks
can be *sealed*: their live rows go into a segment of `engine.state.cold`, slice by slice between epochs, and leave memory when
the segment is finished. Cold rows keep their ids, but are spoken of by handles; what readers get from `probe` may be either, and
every method that takes ids takes both. Whether a row is hot or cold changes no result.

Rows may have a *time*: a column of theirs, or (*stamped*) a last column that tells when each came, and is no part of the row: a
retraction, which cannot know it, takes the youngest of the rows that are equal otherwise. A view looks back to a time `since`;
older rows are not there for it, although others may see them. What is older than every reader looks back to is dropped, chunk
by chunk and segment by segment, some time later: that too changes no result.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, take
from forebay.engine.consolidate import consolidate
from forebay.engine.errors import StateError
from forebay.engine.state import Tiered
from forebay.engine.state.arrays import hash_rows, is_fixed, is_null
from forebay.engine.state.cold import COLD, NONE, ColdRows, Deaths
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.index import Hashes, RowIndex
from forebay.engine.state.rows import CHUNK, Ids, RowStore, SparseColumn, same_at
from forebay.engine.state.sealing import Sealing
from forebay.engine.state.segment import Segment
from forebay.engine.state.times import NEVER, Micros, time_of
from forebay.kernels.rows import MASK, SHIFT

PAIRS = 1 << 16
"""Most pairs in one piece of a probe: output batches stay bounded."""
_FOREVER = 2**62
ALWAYS = -NEVER
"""The time before all times: whoever looks back to it sees every row."""
_EXPIRED_CHUNKS = 4
"""Hot chunks that are rid of expired rows in one step."""
OPEN = 8 << 20
"""Bytes from which a chunk that is not full may be sealed."""
_SHORT_CHAIN = 8
"""Rows per key up to which looking through them beats a second index (24 bytes a row, and its upkeep)."""
_PART = b"part"
_NOTE = b"note"
_ID = pa.field("__id", pa.int64(), False)
_WEIGHT = pa.field("__weight", pa.int64(), False)


class View:
    """What a reader sees of an arrangement: its rows before or after an epoch, or none at all; none older than `since`."""

    __slots__ = ("least", "most", "since")

    def __init__(self, most: int, least: int, since: int = ALWAYS) -> None:
        self.most = most
        self.least = least
        self.since = since


NOTHING = View(0, _FOREVER)


class Reader:
    """One who reads an arrangement: rows older than `since` (µs) it will never ask for again."""

    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since = ALWAYS


class Arrangement(Tiered):
    """Rows by key. One writer (`update`, then `commit` or `rollback`) per epoch; readers in between."""

    def __init__(
        self,
        schema: pa.Schema,
        key: Sequence[int],
        identity: Sequence[int] | None = None,
        *,
        time: int | None = None,
        stamped: bool = False,
    ) -> None:
        """`key`: columns of the index (none: one chain with all rows). `identity`: columns known to be unique.

        `time`: the column with the time of a row; `stamped`: it is the last one, and tells when the row came.
        """
        self.schema = schema
        self.key = tuple(key)
        self.time = time
        self.stamped = stamped
        self.whole = range(len(schema) - stamped)
        """The columns by which rows are equal: all but a stamp."""
        self.identity = tuple(identity) if identity is not None else tuple(self.whole)
        self._readers: list[Reader] = []
        self.dropped = ALWAYS
        """Rows older than this may be gone."""
        self.unmatched = 0
        """Retractions that found no row."""
        self._unmatched_before = 0
        self._found_hot = 0
        self._found_cold = 0
        self._held: dict[int, int] = {}
        self._closed = -1
        """The last epoch that was committed."""
        self._cold: ColdRows | None = None
        self._sealing: Sealing | None = None
        self._sealed_to = 1
        """Row ids below are cold, or gone."""
        self._reset()

    def _reset(self) -> None:
        self._store = RowStore(self.schema)
        self._index = RowIndex()
        self._by_identity: RowIndex | None = None
        self._died = SparseColumn()
        """Epoch of death; 0 while alive, -1 for rows of an epoch that was rolled back."""
        self._weights = SparseColumn()
        """Weight - 1."""
        self._live = 0
        self._dead = 0
        self._buried: dict[int, int] = {}
        self._dropped: set[int] = set()
        self._firsts: list[tuple[int, int]] = []
        self._pending: list[tuple[int, Ids]] = []
        self._null_keys = 0
        self._saved_to = 1
        self._killed: list[Ids] = []
        self._cold_killed: list[Ids] = []
        """Handles of the rows that died in the open epoch."""
        self._due: dict[int, int] = {}
        """Per full hot chunk the time that readers must have passed for another look at what has expired in it."""
        self._moved = False

    # -- writing ------------------------------------------------------------------------------------------------

    def update(self, batches: Sequence[Batch], epoch: int) -> list[Batch]:
        """Apply all changes of one epoch: births first, so that a row may be born and die in it.

        Returns them; of a stamped relation births as they are given, and the rows that were taken with their own times.
        """
        if not self._firsts or self._firsts[-1][0] != epoch:
            self._firsts.append((epoch, self._store.next_id))
            self._unmatched_before = self.unmatched
        births, deaths = [], []
        for batch in batches:
            if batch.weights is None or (positive := batch.weights > 0).all():
                births.append(batch)
                continue
            births.append(batch.filter(pa.array(positive)))
            deaths.append(batch.filter(pa.array(batch.weights < 0)))
        for batch in births:
            self._born(batch.rows, batch.weights)
        gone = consolidate([self._unstamped(b) for b in deaths]) if deaths else None
        taken = None if gone is None else self._kill(gone.rows, -gone.weight_array(), epoch)
        if not self.stamped or not deaths:
            return list(batches)
        return births if taken is None else [*births, taken]

    def _unstamped(self, batch: Batch) -> Batch:
        return batch.with_rows(batch.rows.select(list(self.whole))) if self.stamped else batch

    def _born(self, rows: pa.RecordBatch, weights: Weights | None) -> None:
        if not rows.num_rows:
            return
        first = self._store.append(rows)
        ids = np.arange(first, first + rows.num_rows)
        self._died.reserve(int(ids[-1]) >> SHIFT)
        self._index.insert(self._hash_keys(rows), ids)
        if self._by_identity is not None:
            self._by_identity.insert(hash_rows(rows, self.identity), ids)
        if any(rows.column(k).null_count for k in self.key):
            self._null_keys += rows.num_rows
        if weights is not None and not (weights == 1).all():
            self._weights.set(ids, weights - 1)
        self._live += rows.num_rows

    def _kill(self, rows: pa.RecordBatch, counts: Weights, epoch: int) -> Batch | None:
        """Take `counts` of each row away; what is left of a heavier row is born again. Returns what was taken if stamped."""
        probe, ids = self._find(rows, counts)
        order = np.lexsort((-self._times(ids) if self.stamped else ids, probe))
        probe, ids = probe[order], ids[order]
        held = self._weight_of(ids)
        before = np.cumsum(held) - held
        starts = np.flatnonzero(np.r_[True, probe[1:] != probe[:-1]]) if probe.size else np.zeros(0, np.int64)
        before -= np.repeat(before[starts], np.diff(np.r_[starts, probe.size])) if probe.size else 0
        taken = np.clip(counts[probe] - before, 0, held)
        matched = np.zeros(rows.num_rows, np.int64)
        np.add.at(matched, probe, taken)
        self.unmatched += int((counts - matched).sum())
        hit = taken > 0
        dead, left = ids[hit], (held - taken)[hit]
        if not dead.size:
            return None
        gone = Batch(self.rows_at(dead), -taken[hit]) if self.stamped else None
        rest = Batch(self.rows_at(dead[left > 0]), left[left > 0]) if left.any() else None
        self._stamp(dead, epoch)
        self._live -= dead.size
        if rest is not None:
            self._born(rest.rows, rest.weights)
        return gone

    def _stamp(self, dead: Ids, epoch: int) -> None:
        """These rows die in the epoch."""
        hot = dead[dead < COLD]
        if hot.size:
            self._died.set(hot, np.full(hot.size, epoch, np.int64))
            self._pending.append((epoch, hot))
        if self._cold is not None and hot.size < dead.size:
            handles = dead[dead >= COLD]
            self._cold_killed.append(handles)
            self._pending.append((epoch, self._cold.kill(handles)))

    def _find(self, rows: pa.RecordBatch, counts: Weights) -> tuple[npt.NDArray[np.int32], Ids]:
        """(index of the row, live row id) of every stored row that equals one of `rows`; cold ones where hot ones do not do.

        Whole rows are compared, also when the identity is a key: between two changes of one epoch a key may have several rows,
        and each retraction must take its own.
        """
        index, hashes = self._candidates(rows)
        whole = self.whole
        probes, found = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for probe, ids in index.pairs(hashes, self._died.addresses, _FOREVER, _FOREVER, PAIRS):
            keep = self._store.same(ids, whole, rows, whole, probe)
            probes.append(probe[keep])
            found.append(ids[keep])
        if self._cold:
            have = np.zeros(rows.num_rows, np.int64)
            for probe, ids in zip(probes, found):
                np.add.at(have, probe, self._weight_of(ids))
            short = np.flatnonzero((have < counts) | self.stamped).astype(np.int32)  # the youngest may be any of them
            wanted = take(rows, short)
            for probe, ids in self._cold_pairs(hash_rows(wanted, self.key), View(_FOREVER, _FOREVER)):
                keep = self._same(ids, whole, wanted, whole, probe)
                probes.append(short[probe[keep]])
                found.append(ids[keep])
        return np.concatenate(probes), np.concatenate(found)

    def _candidates(self, rows: pa.RecordBatch) -> tuple[RowIndex, Hashes]:
        """The index and hashes by which to look for retracted rows: by key while its chains are short, else by identity.

        The index by identity is made when it is first needed: relations that are append-only, or whose key nearly tells the
        row, never pay for it.
        """
        if self._by_identity is None:
            by_key = hash_rows(rows, self.key)
            if set(self.identity) <= set(self.key) or self._index.candidates(by_key) <= _SHORT_CHAIN * rows.num_rows:
                return self._index, by_key
            self._by_identity = RowIndex()
            for ids in self._live_ids():
                self._by_identity.insert(self._hashes_of(ids, self.identity), ids)
        return self._by_identity, hash_rows(rows, self.identity)

    # -- reading ------------------------------------------------------------------------------------------------

    def old(self, epoch: int, since: int = ALWAYS) -> View:
        """The contents before the epoch, without what is older than `since`."""
        return View(self._first_of(epoch), epoch, since)

    def new(self, epoch: int, since: int = ALWAYS) -> View:
        """The contents after the epoch, without what is older than `since`."""
        return View(self._first_of(epoch + 1), epoch + 1, since)

    def _first_of(self, epoch: int) -> int:
        """The first row id born in `epoch` or later."""
        at = bisect_left(self._firsts, (epoch, 0))
        return self._firsts[at][1] if at < len(self._firsts) else self._store.next_id

    def probe(
        self, keys: pa.RecordBatch, columns: Sequence[int], view: View, *, nulls_match: bool = False
    ) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        """(index into `keys`, row id) of every visible row whose key equals `columns` of keys[i], in bounded pieces.

        A NULL in a key matches nothing, or with `nulls_match` another NULL.
        """
        if not (self._live or self._pending or self._cold):
            return
        usable, places = keys, None
        if not nulls_match:
            valid = _valid(keys, columns)
            if valid is not None:
                places = np.flatnonzero(valid).astype(np.int32)
                usable = take(keys, places)
        hashes = hash_rows(usable, columns)
        for index, ids in self._pairs(hashes, view):
            if self._must_verify(usable, columns):
                same = self._same_keys(usable, columns, index, ids)
                index, ids = index[same], ids[same]
            if ids.size:
                yield (index if places is None else places[index]), ids

    def _pairs(self, hashes: Hashes, view: View) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        """(index of the hash, row) of every visible row under each hash, hot ones first, in pieces."""
        for index, ids in self._index.pairs(hashes, self._died.addresses, view.most, view.least, PAIRS):
            if view.since > ALWAYS:
                young = self._times(ids) >= view.since
                index, ids = index[young], ids[young]
            self._found_hot += ids.size
            yield index, ids
        if self._cold:
            yield from self._cold_pairs(hashes, view)

    def _cold_pairs(self, hashes: Hashes, view: View) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        assert self._cold is not None
        for index, handles, ids in self._cold.find(hashes, view.since):
            seen = self._seen(handles, ids, view)
            self._found_cold += int(np.count_nonzero(seen))
            yield index[seen], handles[seen]

    def _seen(self, handles: Ids, ids: Ids, view: View) -> npt.NDArray[np.bool_]:
        """Which cold rows, with these ids, the view has."""
        assert self._cold is not None
        dead = self._cold.dead.test(ids)
        if dead.any():
            for epoch, pending in self._pending:
                if epoch >= view.least:
                    dead &= ~np.isin(ids, pending)
        seen: npt.NDArray[np.bool_] = (ids < view.most) & ~dead
        if view.since > ALWAYS:
            seen &= self._cold.times_of(handles) >= view.since
        return seen

    def _times(self, ids: Ids) -> Micros:
        """The times of rows, hot and cold."""
        assert self.time is not None
        return time_of(self.rows_at(ids, [self.time]).column(0))

    def hash_keys(self, keys: pa.RecordBatch, columns: Sequence[int]) -> Hashes:
        """What `exists` takes as `hashes`, for callers that ask about the same keys several times."""
        return hash_rows(keys, columns)

    def exists(
        self,
        keys: pa.RecordBatch,
        columns: Sequence[int],
        view: View,
        *,
        nulls_match: bool = False,
        hashes: Hashes | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Whether each key has a visible row: bool[n]. Costs one probe however many rows match."""
        found = np.zeros(keys.num_rows, bool)
        if not (self._live or self._pending or self._cold):
            return found
        if hashes is None:
            hashes = hash_rows(keys, columns)
        ids = self._index.newest(hashes, self._died.addresses, view.most, view.least)
        hit = np.flatnonzero(ids)
        found[hit] = True
        self._found_hot += hit.size
        if view.since > ALWAYS and hit.size:
            hit = self._look_behind(keys, columns, view, hit, ids, found, nulls_match)
        if hit.size and self._must_verify(keys, columns):
            same = self._same_keys(keys, columns, hit.astype(np.int32), ids[hit])
            for place in hit[~same].tolist():
                one = keys.slice(place, 1)
                found[place] = any(True for _ in self.probe(one, columns, view, nulls_match=nulls_match))
        if self._cold and np.count_nonzero(ids) < keys.num_rows:
            missing = np.flatnonzero(ids == 0)
            for places, handles in self._cold_pairs(hashes[missing], view):
                places = missing[places].astype(np.int32)
                if self._must_verify(keys, columns):
                    places = places[self._same_keys(keys, columns, places, handles)]
                found[places] = True
        if not nulls_match:
            valid = _valid(keys, columns)
            if valid is not None:
                found &= valid
        return found

    def count(self, rows: pa.RecordBatch, view: View) -> Weights:
        """How often each of `rows` (of this schema) is there for the view: int64[n]."""
        out = np.zeros(rows.num_rows, np.int64)
        for places, ids in self.probe(rows, self.key, view, nulls_match=True):
            same = self._same(ids, self.whole, rows, self.whole, places)
            np.add.at(out, places[same], self._weight_of(ids[same]))
        return out

    def _look_behind(
        self,
        keys: pa.RecordBatch,
        columns: Sequence[int],
        view: View,
        hit: Ids,
        ids: Ids,
        found: npt.NDArray[np.bool_],
        nulls_match: bool,
    ) -> Ids:
        """Those of the keys `hit` whose newest row is young enough; for the others older rows are asked, into `found`."""
        young = self._times(ids[hit]) >= view.since
        doubt = hit[~young]
        found[doubt] = False
        if doubt.size:
            for places, _ in self.probe(take(keys, doubt), columns, view, nulls_match=nulls_match):
                found[doubt[places]] = True
        return hit[young]

    def rows_at(self, ids: Ids, wanted: list[int] | None = None) -> pa.RecordBatch:
        """The rows with these ids (some columns of them)."""
        if not self._cold or not ids.size or not (cold := ids >= COLD).any():
            return self._store.gather(ids, wanted)
        if cold.all():
            return self._cold.gather(ids, wanted)
        both = [self._store.gather(ids[~cold], wanted), self._cold.gather(ids[cold], wanted)]
        order = np.empty(ids.size, np.int64)
        order[~cold], order[cold] = np.arange(both[0].num_rows), np.arange(both[0].num_rows, ids.size)
        return pa.concat_batches(both).take(pa.array(order))

    def weights_at(self, ids: Ids) -> Weights | None:
        """Their weights; None when all are 1."""
        return self._weight_of(ids) if self._weights.chunks else None

    def contents(self, view: View | None = None) -> Iterator[Batch]:
        """All live rows (or those that a view sees), a chunk at a time."""
        for ids in self.visible(view):
            yield Batch(self.rows_at(ids), self.weights_at(ids))

    def lookup(self, keys: pa.RecordBatch) -> pa.RecordBatch:
        """Live rows whose key equals one of `keys` (the key columns, in the order of `key`)."""
        columns = range(len(self.key))
        found = [ids for _, ids in self.probe(keys, columns, View(_FOREVER, _FOREVER))]
        return self.rows_at(np.concatenate(found) if found else np.zeros(0, np.int64))

    def visible(self, view: View | None = None) -> Iterator[Ids]:
        """The row ids that the view has (None: all live ones), some at a time, oldest first."""
        if self._cold:
            for handles in self._cold.scan():
                yield handles[self._seen(handles, self._cold.ids(handles), view or View(_FOREVER, _FOREVER))]
        for ids in self._live_ids(view):
            yield ids if view is None or view.since == ALWAYS else ids[self._times(ids) >= view.since]

    def null_keyed(self, view: View) -> Iterator[Ids]:
        """The row ids in the view with a NULL in their key, in pieces."""
        if not self._null_keys:
            return
        if len(self.key) == 1:  # they share a chain
            null = pa.RecordBatch.from_arrays([pa.nulls(1, self.schema.field(self.key[0]).type)], names=["key"])
            yield from (ids for _, ids in self.probe(null, (0,), view, nulls_match=True))
            return
        for ids in self.visible(view):
            valid = _valid(self.rows_at(ids, list(self.key)), range(len(self.key)))
            if valid is not None:
                yield ids[~valid]

    def hot_ids(self) -> Iterator[Ids]:
        """The ids of live rows in memory, a chunk at a time."""
        return self._live_ids()

    def _live_ids(self, view: View | None = None, since: int = 1, until: int = _FOREVER) -> Iterator[Ids]:
        """The hot row ids that the view has, a chunk at a time."""
        last = min(self._store.next_id, until)
        most, least = (view.most, view.least) if view is not None else (_FOREVER, _FOREVER)
        for start in range(since & ~MASK, last, CHUNK):
            if start >> SHIFT in self._dropped:
                continue
            ids = np.arange(max(start, since), min(start + CHUNK, last, most))
            died = self._died.chunks.get(start >> SHIFT)
            if died is not None and ids.size:
                stamps = died[: CHUNK * 8].view(np.int64)[ids & MASK]
                ids = ids[(stamps == 0) | (stamps >= least)]
            if ids.size:
                yield ids

    # -- keys ---------------------------------------------------------------------------------------------------

    def _hash_keys(self, rows: pa.RecordBatch) -> Hashes:
        return hash_rows(rows, self.key)

    def _hashes_of(self, ids: Ids, columns: Sequence[int]) -> Hashes:
        """Hashes of stored rows over some columns."""
        return hash_rows(self._store.gather(ids, list(columns)), range(len(columns)))

    def _must_verify(self, keys: pa.RecordBatch, columns: Sequence[int]) -> bool:
        """Equal hashes are equal keys for one fixed-width column without NULLs, and for no columns at all."""
        if len(self.key) != 1:
            return bool(self.key)
        kind, probed = self.schema.field(self.key[0]).type, keys.column(columns[0])
        return self._null_keys > 0 or not is_fixed(kind) or kind != probed.type or probed.null_count > 0

    def _same_keys(
        self, keys: pa.RecordBatch, columns: Sequence[int], probe: npt.NDArray[np.int32], ids: Ids
    ) -> npt.NDArray[np.bool_]:
        return self._same(ids, self.key, keys, columns, probe)

    def _same(
        self,
        ids: Ids,
        wanted: Sequence[int],
        rows: pa.RecordBatch,
        columns: Sequence[int],
        places: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.bool_]:
        """Whether `wanted` columns of rows ids[i], all hot or all cold, equal `columns` of rows[places[i]]."""
        if not self._cold or not ids.size or ids[0] < COLD:
            return self._store.same(ids, wanted, rows, columns, places)
        equal = np.ones(ids.shape[0], bool)
        for mine, theirs in zip(self._cold.gather(ids, wanted).columns, columns):
            equal &= same_at(mine, rows.column(theirs), places)
        return equal

    def _weight_of(self, ids: Ids) -> Weights:
        out = np.ones(ids.shape[0], np.int64)
        if self._cold and self._weights.chunks and (cold := ids >= COLD).any():
            ids = ids.copy()
            ids[cold] = self._cold.ids(ids[cold])
        self._weights.add_to(ids, out)
        return out

    # -- the state contract -------------------------------------------------------------------------------------

    def hold(self, epoch: int) -> None:
        """Keep what a reader needs to go on from the end of `epoch`; may be held several times."""
        self._held[epoch] = self._held.get(epoch, 0) + 1

    def release(self, epoch: int) -> None:
        """Undo one `hold`."""
        self._held[epoch] -= 1
        if not self._held[epoch]:
            del self._held[epoch]

    def nbytes(self) -> int:
        extra = self._by_identity.nbytes() if self._by_identity is not None else 0
        tables = self._died.nbytes() + self._weights.nbytes()
        cold = self._cold.nbytes() if self._cold is not None else 0
        return self._store.nbytes() + self._index.nbytes() + extra + tables + cold

    def rows(self) -> int:
        return self._live

    def commit(self) -> None:
        """Close the epoch: rows that no reader can see any more leave their chains."""
        if not self._firsts:
            return
        oldest = min(self._held, default=_FOREVER)
        self._killed.extend(ids for epoch, ids in self._pending if epoch > self._closed)
        self._closed = max(self._closed, self._firsts[-1][0])
        self._cold_killed = []
        gone = [ids for epoch, ids in self._pending if epoch <= oldest]
        self._pending = [(epoch, ids) for epoch, ids in self._pending if epoch > oldest]
        self._firsts = [(e, first) for e, first in self._firsts if e > oldest]
        if gone:
            ids = np.concatenate(gone)
            self._unlink(ids[ids >= self._sealed_to])
        if not self._held and not self._cold and self._sealing is None and self._dead > max(self._live, CHUNK):
            self._compact()

    def rollback(self) -> None:
        """Undo the open epoch."""
        if not self._firsts or self._firsts[-1][0] <= self._closed:
            return
        epoch, first = self._firsts.pop()
        for handles in self._cold_killed:
            assert self._cold is not None
            self._cold.count_deaths(handles, -1)
        self._cold_killed = []
        self.unmatched = self._unmatched_before
        revived = [ids for e, ids in self._pending if e == epoch]
        self._pending = [(e, ids) for e, ids in self._pending if e != epoch]
        for ids in revived:
            self._live += ids.size
            if ids[0] < self._sealed_to and self._cold is not None:
                self._cold.dead.set(ids, False)
            else:
                self._died.set(ids, np.zeros(ids.size, np.int64))
        born = np.arange(first, self._store.next_id)
        alive = np.concatenate([np.zeros(0, np.int64), *self._live_ids(since=first)])
        self._live -= alive.size
        self._died.set(born, np.full(born.size, -1, np.int64))
        self._unlink(born)

    def _unlink(self, ids: Ids) -> None:
        self._index.unlink(self._hashes_of(ids, self.key), ids)
        if self._by_identity is not None:
            self._by_identity.unlink(self._hashes_of(ids, self.identity), ids)
        self._bury(ids)

    def _bury(self, ids: Ids) -> None:
        """Count rows that are in no chain any more; a full chunk of them is given back."""
        self._dead += ids.size
        for chunk, count in zip(*(a.tolist() for a in np.unique(ids >> SHIFT, return_counts=True))):
            self._buried[chunk] = self._buried.get(chunk, 0) + count
            if self._sealing is not None and chunk < self._sealing.end:
                continue  # its rows are being read; it goes when they have been
            if chunk < self._store.next_id >> SHIFT and self._buried[chunk] == (CHUNK if chunk else CHUNK - 1):
                self._drop(chunk)
                self._dead -= self._buried.pop(chunk)

    def _drop(self, chunk: int, weights: bool = True) -> None:
        self._dropped.add(chunk)
        for part in (self._store, self._index, self._by_identity, self._died, self._weights if weights else None):
            if part is not None:
                part.drop(chunk)

    def _compact(self) -> None:
        """Build the arrangement again from its live rows, in their order; amortised over at least as many deaths."""
        live, store, weights = list(self._live_ids()), self._store, self._weights
        self._reset()
        self._sealed_to = 1
        if self._cold is not None:
            self._cold.dead = Deaths()  # of rows that are gone, whose ids are given again
        for ids in live:
            held = np.ones(ids.shape[0], np.int64)
            weights.add_to(ids, held)
            self._born(store.gather(ids), held)
            store.drop(int(ids[0]) >> SHIFT)
        self._moved = True

    # -- tiers --------------------------------------------------------------------------------------------------

    def use(self, store: ColdStore) -> None:
        """Rows may go to this store from now on."""
        if self._cold is None:
            self._cold = ColdRows(self.schema, store, self.time)

    def cold_rows(self) -> ColdRows:
        """Its cold rows; `use` has made them."""
        if self._cold is None:
            raise StateError("an arrangement without a cold store cannot have cold rows")
        return self._cold

    def adopt(self, segments: Iterable[Segment], rows: int, null_keys: int) -> None:
        """Take over segments with rows of ids 1 to `rows`, built elsewhere; the arrangement must be empty until then."""
        assert self._cold is not None and self._store.next_id == 1
        for segment in segments:
            self._cold.add(segment)
        self._live, self._null_keys = rows, null_keys
        self._sealed_to = ((rows >> SHIFT) + 1) << SHIFT
        self._leave_out(self._sealed_to >> SHIFT)
        self._saved_to = self._store.next_id

    def hot_bytes(self) -> int:
        """Bytes that sealing could give back."""
        return self._store.nbytes()

    def idle_bytes(self) -> int:
        return 0

    def seal(self, share: float) -> bool:
        """Begin to seal the oldest `share` of the hot chunks; `maintain` goes on with it. False if there is nothing to seal.

        With no full chunk the open one is closed, if it is large enough: rows may be wide, and budgets small.
        """
        last, rows = divmod(self._store.next_id, CHUNK)
        if self._sealed_to >> SHIFT == last and self._store.nbytes() * rows > OPEN * CHUNK:
            self._leave_out(last + 1)
        first, last = self._sealed_to >> SHIFT, self._store.next_id >> SHIFT
        end = first + max(1, int((last - first) * share))
        for _, ids in self._pending:
            end = min(end, *(ids[ids >= self._sealed_to] >> SHIFT).tolist(), end)
        if self._cold is None or self._sealing is not None or end > last or end <= first:
            return False
        ids = np.concatenate([np.zeros(0, np.int64), *self._live_ids(since=self._sealed_to, until=end << SHIFT)])
        ids = self._without_expired(ids)
        self._sealing = Sealing(self._cold, ids, self._hashes_of(ids, self.key), end)
        return True

    @property
    def sealing(self) -> bool:
        """Whether rows are on their way out of memory."""
        return self._sealing is not None

    def maintain(self) -> bool:
        """One step of sealing and one of merging, between epochs; False when there is nothing to do."""
        expiring = self.time is not None and self._expire()
        if self._cold is None:
            return expiring
        merging = self._cold.maintain(np.concatenate([ids for _, ids in self._pending]) if self._pending else NONE)
        self._live -= self._cold.take_dropped()
        if self._sealing is None:
            return merging or expiring
        self._seal_slice(self._sealing, self._cold)
        return True

    def finish_sealing(self) -> None:
        """All that is left of the sealing under way."""
        while self._sealing is not None and self._cold is not None:
            self._seal_slice(self._sealing, self._cold)

    def stay(self) -> None:
        if self._sealing is not None:
            self._sealing.abandon()
            self._sealing = None
        if self._cold is not None:
            self._cold.abandon_merge()

    def _seal_slice(self, sealing: Sealing, cold: ColdRows) -> None:
        if sealing.step(self._store.gather):
            self._sealed(sealing, cold)
            self._sealing = None

    def _sealed(self, done: Sealing, cold: ColdRows) -> None:
        """The rows of a finished segment leave memory; those that have died meanwhile are dead there."""
        stamps = np.zeros(done.ids.size, np.int64)
        self._died.add_to(done.ids, stamps)
        died = done.ids[stamps != 0]
        cold.dead.set(died)
        if died.size:
            next(reversed(cold.segments.values())).dead = died.size
        self._killed.append(died)  # a checkpoint may have passed over them, for they were not saved as rows
        self._index.unlink(done.hashes, done.ids)
        self._index.shrink()
        if self._by_identity is not None:
            self._by_identity.unlink(self._hashes_of(done.ids, self.identity), done.ids)
            self._by_identity.shrink()
        for chunk in range(self._sealed_to >> SHIFT, done.end):
            if chunk not in self._dropped:
                self._drop(chunk, weights=False)
                self._dead -= self._buried.pop(chunk, 0)
        self._sealed_to = done.end << SHIFT

    # -- expiry -------------------------------------------------------------------------------------------------

    def reader(self) -> Reader:
        """Become a reader: nothing is dropped that the reader has not passed. `leave` ends it."""
        reader = Reader()
        self._readers.append(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """The reader reads no more."""
        self._readers.remove(reader)

    @property
    def since(self) -> int:
        """The time that every reader has passed: older rows may be gone."""
        return min((r.since for r in self._readers), default=ALWAYS)

    def _expire(self) -> bool:
        """Drop what has expired in some hot chunks, and let the cold rows know; False when there was nothing to do."""
        since = self.since
        if since == ALWAYS:
            return False
        self.dropped = max(self.dropped, since)
        if self._cold is not None:
            self._cold.expired = max(self._cold.expired, since)
        first = self._sealing.end if self._sealing is not None else self._sealed_to >> SHIFT
        looked = 0
        for chunk in range(first, self._store.next_id >> SHIFT):
            if chunk in self._dropped or self._due.get(chunk, ALWAYS) >= since:
                continue
            begin, end = max(chunk << SHIFT, 1), (chunk + 1) << SHIFT
            ids = np.concatenate([np.zeros(0, np.int64), *self._live_ids(since=begin, until=end)])
            left = self._without_expired(ids)
            self._due[chunk] = int(np.median(self._times(left))) if left.size else NEVER
            looked += left.size < ids.size
            if looked == _EXPIRED_CHUNKS:
                break
        return looked > 0

    def _without_expired(self, ids: Ids) -> Ids:
        """Drop the hot rows among these that have expired for every reader; the others."""
        since = self.since
        if self.time is None or since == ALWAYS or not ids.size:
            return ids
        old = self._times(ids) < since
        if not old.any():
            return ids
        gone = ids[old]
        self._died.set(gone, np.full(gone.size, -1, np.int64))
        self._live -= gone.size
        self._killed.append(gone)
        self._unlink(gone)
        return ids[~old]

    @property
    def on_disk(self) -> ColdRows | None:
        return self._cold

    def memory_hits(self) -> float | None:
        """Of the rows that probes have found."""
        found = self._found_hot + self._found_cold
        return self._found_hot / found if found else None

    def renew(self) -> None:
        """What checkpoints have under its name was another arrangement's: the next one has this one whole."""
        self._moved = True

    def close(self) -> None:
        """Nobody will read the arrangement again."""
        if self._sealing is not None:
            self._sealing.abandon()
        if self._cold is not None:
            self._cold.close()

    # -- checkpoints --------------------------------------------------------------------------------------------

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        whole = full or self._moved
        since, killed = (1, []) if whole else (self._saved_to, self._killed)
        batches = [_note(b"reset")] if self._moved and not full else []
        if self.dropped > ALWAYS:
            batches.append(_note(b"dropped", str(self.dropped).encode()))
        if killed:
            dead = np.concatenate(killed)
            dead = dead[dead < max(since, self._sealed_to)]
            if dead.size:
                batches.append(pa.RecordBatch.from_arrays([pa.array(dead)], schema=pa.schema([_ID], {_PART: b"dead"})))
        if self._cold is not None and self._sealed_to > 1:  # also when all that was sealed is gone again
            batches += self._saved_cold(self._cold, whole)
        batches += [self._saved_rows(ids) for ids in self._live_ids(since=since)]
        self._saved_to = self._store.next_id
        self._killed = []
        self._moved = False
        return batches

    def _saved_cold(self, cold: ColdRows, whole: bool) -> list[pa.RecordBatch]:
        """Which segments there are; with `whole` also which of their rows are dead. Weights other than 1, each time."""
        note = {
            "segments": list(cold.segments),
            "dead": [s.dead for s in cold.segments.values()],
            "sealed_to": self._sealed_to,
            "live": self._live,
            "null_keys": self._null_keys,
        }
        batches = [_note(b"cold", json.dumps(note).encode())]
        heavy = [c for c in self._weights.chunks if c < self._sealed_to >> SHIFT]
        for chunk in heavy:
            values = self._weights.chunks[chunk][: CHUNK * 8].view(np.int64)
            places = np.flatnonzero(values)
            columns = [pa.array(places + (chunk << SHIFT)), pa.array(values[places] + 1)]
            batches.append(pa.RecordBatch.from_arrays(columns, schema=pa.schema([_ID, _WEIGHT], {_PART: b"weights"})))
        if whole:
            gone = cold.dead.save()
            batches.append(gone.replace_schema_metadata({_PART: b"gone"}))
        return batches

    def _saved_rows(self, ids: Ids) -> pa.RecordBatch:
        rows = self._store.gather(ids)
        schema = pa.schema([_ID, _WEIGHT, *rows.schema], {_PART: b"rows"})
        return pa.RecordBatch.from_arrays([pa.array(ids), pa.array(self._weight_of(ids)), *rows.columns], schema=schema)

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Rows keep the ids they were saved under, because later changes speak of them."""
        kept: list[pa.RecordBatch] = []
        cold: dict[bytes, list[pa.RecordBatch]] = {}
        dead: list[Ids] = []
        for batch in batches:
            part = batch.schema.metadata[_PART]
            if part == b"reset":
                kept, dead, cold = [], [], {}
            elif part == b"dead":
                dead.append(batch.column(0).to_numpy())
            elif part == b"rows":
                kept.append(batch)
            elif part == b"dropped":
                self.dropped = int(batch.schema.metadata[_NOTE])
            elif part == b"cold":
                cold[part] = [batch]
            else:
                cold.setdefault(part, []).append(batch)
        gone = np.concatenate(dead) if dead else np.zeros(0, np.int64)
        note = json.loads(cold[b"cold"][0].schema.metadata[_NOTE]) if cold else {"sealed_to": 1}
        for batch in kept:
            if batch.column(0)[0].as_py() >= note["sealed_to"]:
                self._restore(batch, gone)
        if cold:
            self._load_cold(cold, note, gone)
        self._saved_to = self._store.next_id
        self._killed = []

    def _load_cold(self, parts: dict[bytes, list[pa.RecordBatch]], note: dict[str, Any], gone: Ids) -> None:
        if self._cold is None:
            raise StateError("a checkpoint has cold state, and there is no store for it")
        self._sealed_to = note["sealed_to"]
        self._leave_out(self._sealed_to >> SHIFT)
        self._cold.open(note["segments"], note.get("dead", ()))
        for batch in parts.get(b"gone", ()):
            self._cold.dead.load(batch)
        self._cold.dead.set(gone[gone < self._sealed_to])
        for batch in parts.get(b"weights", ()):
            self._weights.set(batch.column(0).to_numpy(), batch.column(1).to_numpy() - 1)
        self._live, self._null_keys = note["live"], note["null_keys"]

    def _restore(self, batch: pa.RecordBatch, gone: Ids) -> None:
        ids, weights = batch.column(0).to_numpy(), batch.column(1).to_numpy()
        self._leave_out(int(ids[0]) >> SHIFT)
        start = self._store.next_id
        rows = pa.RecordBatch.from_arrays(batch.columns[2:], schema=self.schema)
        span = np.arange(start, int(ids[-1]) + 1)
        source = np.searchsorted(ids, span)
        live = (ids[source] == span) & ~np.isin(span, gone)
        self._store.append(rows if span.size == ids.size else take(rows, source))
        self._died.reserve(int(span[-1]) >> SHIFT)
        self._died.set(span[~live], np.full(int((~live).sum()), -1, np.int64))
        self._bury(span[~live])
        kept, held = take(rows, source[live]), weights[source[live]]
        self._live += kept.num_rows
        self._index.insert(self._hash_keys(kept), span[live])
        if (held != 1).any():
            self._weights.set(span[live], held - 1)
        if any(kept.column(k).null_count for k in self.key):
            self._null_keys += kept.num_rows

    def _leave_out(self, chunk: int) -> None:
        """Go on at `chunk`; no row between here and there was saved."""
        first = self._store.next_id
        if first >> SHIFT >= chunk:
            return
        rest = np.arange(first, ((first >> SHIFT) + 1) << SHIFT)
        self._store.skip_to(chunk)
        self._dropped.update(range((first >> SHIFT) + 1, chunk))
        self._died.set(rest, np.full(rest.size, -1, np.int64))
        self._bury(rest)


def _valid(keys: pa.RecordBatch, columns: Sequence[int]) -> npt.NDArray[np.bool_] | None:
    """True where no key column is NULL; None when none is anywhere."""
    valid = None
    for column in columns:
        array = keys.column(column)
        if array.null_count:
            mask = ~is_null(array)
            valid = mask if valid is None else valid & mask
    return valid


def _note(part: bytes, text: bytes = b"") -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], pa.int64())], schema=pa.schema([_ID], {_PART: part, _NOTE: text}))
