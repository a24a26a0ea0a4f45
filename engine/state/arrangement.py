"""The arrangement: the rows of one relation indexed by one key, with multiset weights, shared by any number of readers.

Births and deaths have an epoch. Row ids ascend, so births need no column: the first id of each recent epoch is enough. A
death is stamped on the row, which stays in its chain until `commit`, and longer while a reader *holds* an older epoch. So a
reader can ask for the contents before an epoch (*old*) or after it (*new*), whoever else has moved on:

    visible(most, least)   id < most, and alive or dead since epoch `least` or later
    old of epoch e         most = first id of e,      least = e
    new of epoch e         most = first id of e + 1,  least = e + 1

That is what makes ΔL ⋈ R_old + L_new ⋈ ΔR exact for any order of processing, self joins included.
A retraction that finds no row is dropped and counted.

Its rows are in two tiers (`engine.state.tiers`): what readers get from `probe` are ids of hot rows or handles of cold ones, and
every method that takes ids takes both. Whether a row is hot or cold changes no result.

Rows may have a *time*: a column of theirs, or (*stamped*) a last column that tells when each came, and is no part of the row: a
retraction, which cannot know it, takes the youngest of the rows that are equal otherwise. A view looks back to a time `since`;
older rows are not there for it, although others may see them. What is older than every reader looks back to is dropped some
time later: that too changes no result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, take
from forebay.engine.consolidate import consolidate
from forebay.engine.errors import StateError
from forebay.engine.state import Change, Tiered, arrays
from forebay.engine.state.arrays import Mask, hash_rows, is_fixed, is_null
from forebay.engine.state.cold import NONE, ColdRows
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.hot import PAIRS
from forebay.engine.state.index import Hashes
from forebay.engine.state.rows import CHUNK, Ids
from forebay.engine.state.saving import Saving
from forebay.engine.state.segment import Segment
from forebay.engine.state.tiers import TieredRows
from forebay.engine.state.view import ALIVE, ALWAYS, FOREVER, NOTHING, View

__all__ = ["ALWAYS", "NOTHING", "PAIRS", "Arrangement", "Reader", "View"]


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
        self.unmatched = 0
        """Retractions that found no row."""
        self._unmatched_before = 0
        self._rows = TieredRows(schema, self.key, self.identity, time)
        self._saving = Saving(self._rows)
        self._readers: list[Reader] = []
        self._held: dict[int, int] = {}
        self._firsts: list[tuple[int, int]] = []
        """(epoch, first row id born in it), for the epochs that somebody may ask about."""
        self._closed = -1
        """The last epoch that was committed."""

    # -- writing ------------------------------------------------------------------------------------------------

    def update(self, batches: Sequence[Batch], epoch: int) -> list[Batch]:
        """Apply all changes of one epoch: births first, so that a row may be born and die in it.

        Returns them; of a stamped relation births as they are given, and the rows that were taken with their own times.
        """
        if not self._firsts or self._firsts[-1][0] != epoch:
            self._firsts.append((epoch, self._rows.hot.next_id))
            self._unmatched_before = self.unmatched
        births, deaths = [], []
        for batch in batches:
            if batch.weights is None or (positive := batch.weights > 0).all():
                births.append(batch)
                continue
            births.append(batch.filter(pa.array(positive)))
            deaths.append(batch.filter(pa.array(batch.weights < 0)))
        for batch in births:
            self._rows.add(batch.rows, batch.weights)
        gone = consolidate([self._unstamped(b) for b in deaths]) if deaths else None
        taken = None if gone is None else self._kill(gone.rows, -gone.weight_array(), epoch)
        if not self.stamped or not deaths:
            return list(batches)
        return births if taken is None else [*births, taken]

    def _unstamped(self, batch: Batch) -> Batch:
        return batch.with_rows(batch.rows.select(list(self.whole))) if self.stamped else batch

    def _kill(self, rows: pa.RecordBatch, counts: Weights, epoch: int) -> Batch | None:
        """Take `counts` of each row away; what is left of a heavier row is born again. Returns what was taken if stamped."""
        probe, found, ids = self._find(rows, counts)
        order = np.lexsort((-self._rows.times(found) if self.stamped else found, probe))
        probe, found, ids = probe[order], found[order], ids[order]
        held = self._rows.weights(ids)
        before = np.cumsum(held) - held
        starts = np.flatnonzero(np.r_[True, probe[1:] != probe[:-1]]) if probe.size else np.zeros(0, np.int64)
        before -= np.repeat(before[starts], np.diff(np.r_[starts, probe.size])) if probe.size else 0
        taken = np.clip(counts[probe] - before, 0, held)
        matched = np.zeros(rows.num_rows, np.int64)
        np.add.at(matched, probe, taken)
        self.unmatched += int((counts - matched).sum())
        hit = taken > 0
        dead, left = found[hit], (held - taken)[hit]
        if not dead.size:
            return None
        gone = Batch(self.rows_at(dead), -taken[hit]) if self.stamped else None
        rest = Batch(self.rows_at(dead[left > 0]), left[left > 0]) if left.any() else None
        self._rows.kill(dead, ids[hit], epoch)
        if rest is not None:
            self._rows.add(rest.rows, rest.weights)
        return gone

    def _find(self, rows: pa.RecordBatch, counts: Weights) -> tuple[npt.NDArray[np.int32], Ids, Ids]:
        """(index of the row, live row, its row id) of every stored row that equals one of `rows`; cold ones where hot ones do not
        do.

        Whole rows are compared, also when the identity is a key: between two changes of one epoch a key may have several rows,
        and each retraction must take its own.
        """
        whole = self.whole
        probes, found, numbers = [np.zeros(0, np.int32)], [NONE], [NONE]
        for probe, ids in self._rows.hot.equal(rows, whole):
            probes.append(probe)
            found.append(ids)
            numbers.append(ids)
        if self._rows.cold:
            have = np.zeros(rows.num_rows, np.int64)
            for probe, ids in zip(probes, numbers):
                np.add.at(have, probe, self._rows.weights(ids))
            short = np.flatnonzero((have < counts) | self.stamped).astype(np.int32)  # the youngest may be any of them
            wanted = take(rows, short)
            for probe, handles, ids in self._rows.cold_pairs(hash_rows(wanted, self.key), ALIVE):
                keep = self._rows.same(handles, whole, wanted, whole, probe)
                probes.append(short[probe[keep]])
                found.append(handles[keep])
                numbers.append(ids[keep])
        return np.concatenate(probes), np.concatenate(found), np.concatenate(numbers)

    # -- views --------------------------------------------------------------------------------------------------

    def old(self, epoch: int, since: int = ALWAYS) -> View:
        """The contents before the epoch, without what is older than `since`."""
        return View(self._first_of(epoch), epoch, since)

    def new(self, epoch: int, since: int = ALWAYS) -> View:
        """The contents after the epoch, without what is older than `since`."""
        return View(self._first_of(epoch + 1), epoch + 1, since)

    def _first_of(self, epoch: int) -> int:
        """The first row id born in `epoch` or later."""
        at = bisect_left(self._firsts, (epoch, 0))
        return self._firsts[at][1] if at < len(self._firsts) else self._rows.hot.next_id

    def hold(self, epoch: int) -> None:
        """Keep what a reader needs to go on from the end of `epoch`; may be held several times."""
        self._held[epoch] = self._held.get(epoch, 0) + 1

    def release(self, epoch: int) -> None:
        """Undo one `hold`."""
        self._held[epoch] -= 1
        if not self._held[epoch]:
            del self._held[epoch]

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

    @property
    def dropped(self) -> int:
        """Rows older than this may be gone."""
        return self._rows.dropped

    # -- reading by key -----------------------------------------------------------------------------------------

    def probe(
        self,
        keys: pa.RecordBatch,
        columns: Sequence[int],
        view: View,
        *,
        nulls_match: bool = False,
        hashes: Hashes | None = None,
    ) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        """(index into `keys`, row id) of every visible row whose key equals `columns` of keys[i], in bounded pieces.

        A NULL in a key matches nothing, or with `nulls_match` another NULL. `hashes`: what `hash_keys` said of the keys.
        """
        if not self._rows:
            return
        usable, places = keys, None
        if not nulls_match:
            valid = _valid(keys, columns)
            if valid is not None:
                places = np.flatnonzero(valid).astype(np.int32)
                usable, hashes = take(keys, places), None
        hashes = hash_rows(usable, columns) if hashes is None else hashes
        for index, ids in self._rows.pairs(hashes, view):
            if self._must_verify(usable, columns):
                same = self._rows.same(ids, self.key, usable, columns, index)
                index, ids = index[same], ids[same]
            if ids.size:
                yield (index if places is None else places[index]), ids

    def hash_keys(self, keys: pa.RecordBatch, columns: Sequence[int]) -> Hashes:
        """What `probe` and `exists` take as `hashes`, for callers that ask about the same keys several times."""
        return hash_rows(keys, columns)

    @property
    def found_cold(self) -> int:
        """Cold rows that probes have found, since the process began."""
        return self._rows.found_cold

    @property
    def at_once(self) -> int:
        """Cold rows, about, whose blocks stay in memory while a piece of changes looks at them and the next one's come."""
        return self._rows.cold.at_once if self._rows.cold else 0

    def prepare(self, keys: pa.RecordBatch, columns: Sequence[int], view: View, hashes: Hashes) -> None:
        """Begin to bring cold rows into memory for probes, in the open epoch, for these keys with this very array of hashes."""
        if self._rows.cold:
            alike = len(self.key) == 1 and self.schema.field(self.key[0]).type == keys.column(columns[0]).type
            ordinals = arrays.ordinals(keys.column(columns[0])) if alike else None
            self._rows.cold.prepare(hashes, view.since, NONE if ordinals is None else ordinals)

    @property
    def is_prepared(self) -> bool:
        """Whether somebody has begun that in the open epoch."""
        return self._rows.cold is not None and self._rows.cold.is_prepared()

    def exists(
        self,
        keys: pa.RecordBatch,
        columns: Sequence[int],
        view: View,
        *,
        nulls_match: bool = False,
        hashes: Hashes | None = None,
    ) -> Mask:
        """Whether each key has a visible row: bool[n]. Costs one probe however many rows match."""
        found = np.zeros(keys.num_rows, bool)
        if not self._rows:
            return found
        if hashes is None:
            hashes = hash_rows(keys, columns)
        ids = self._rows.newest(hashes, view)
        hit = np.flatnonzero(ids)
        found[hit] = True
        if view.since > ALWAYS and hit.size:
            hit = self._look_behind(keys, columns, view, hit, ids, found, nulls_match)
        if hit.size and self._must_verify(keys, columns):
            same = self._rows.same(ids[hit], self.key, keys, columns, hit.astype(np.int32))
            for place in hit[~same].tolist():
                one = keys.slice(place, 1)
                found[place] = any(True for _ in self.probe(one, columns, view, nulls_match=nulls_match))
        if self._rows.cold and np.count_nonzero(ids) < keys.num_rows:
            missing = None if self._rows.cold.is_prepared(hashes) else np.flatnonzero(ids == 0)
            for places, handles, _ in self._rows.cold_pairs(hashes if missing is None else hashes[missing], view):
                places = places if missing is None else missing[places].astype(np.int32)
                if self._must_verify(keys, columns):
                    places = places[self._rows.same(handles, self.key, keys, columns, places)]
                found[places] = True
        if not nulls_match:
            valid = _valid(keys, columns)
            if valid is not None:
                found &= valid
        return found

    def _look_behind(
        self,
        keys: pa.RecordBatch,
        columns: Sequence[int],
        view: View,
        hit: Ids,
        ids: Ids,
        found: Mask,
        nulls_match: bool,
    ) -> Ids:
        """Those of the keys `hit` whose newest row is young enough; for the others older rows are asked, into `found`."""
        young = self._rows.times(ids[hit]) >= view.since
        doubt = hit[~young]
        found[doubt] = False
        if doubt.size:
            for places, _ in self.probe(take(keys, doubt), columns, view, nulls_match=nulls_match):
                found[doubt[places]] = True
        return hit[young]

    def count(self, rows: pa.RecordBatch, view: View) -> Weights:
        """How often each of `rows` (of this schema) is there for the view: int64[n]."""
        out = np.zeros(rows.num_rows, np.int64)
        for places, ids in self.probe(rows, self.key, view, nulls_match=True):
            same = self._rows.same(ids, self.whole, rows, self.whole, places)
            np.add.at(out, places[same], self._rows.weights(ids[same]))
        return out

    def lookup(self, keys: pa.RecordBatch) -> pa.RecordBatch:
        """Live rows whose key equals one of `keys` (the key columns, in the order of `key`)."""
        found = [ids for _, ids in self.probe(keys, range(len(self.key)), ALIVE)]
        return self.rows_at(np.concatenate(found) if found else NONE)

    def null_keyed(self, view: View) -> Iterator[Ids]:
        """The row ids in the view with a NULL in their key, in pieces."""
        if not self._rows.hot.null_keys:
            return
        if len(self.key) == 1:  # they share a chain
            null = pa.RecordBatch.from_arrays([pa.nulls(1, self.schema.field(self.key[0]).type)], names=["key"])
            yield from (ids for _, ids in self.probe(null, (0,), view, nulls_match=True))
            return
        for ids in self.visible(view):
            valid = _valid(self.rows_at(ids, list(self.key)), range(len(self.key)))
            if valid is not None:
                yield ids[~valid]

    def _must_verify(self, keys: pa.RecordBatch, columns: Sequence[int]) -> bool:
        """Equal hashes are equal keys for one fixed-width column without NULLs, and for no columns at all."""
        if len(self.key) != 1:
            return bool(self.key)
        kind, probed = self.schema.field(self.key[0]).type, keys.column(columns[0])
        return self._rows.hot.null_keys > 0 or not is_fixed(kind) or kind != probed.type or probed.null_count > 0

    # -- reading by id ------------------------------------------------------------------------------------------

    def rows_at(self, ids: Ids, wanted: list[int] | None = None) -> pa.RecordBatch:
        """The rows with these ids (some columns of them)."""
        return self._rows.gather(ids, wanted)

    def weights_at(self, ids: Ids) -> Weights | None:
        """Their weights; None when all are 1."""
        return self._rows.weights(ids) if self._rows.hot.weights.chunks else None

    def contents(self, view: View | None = None) -> Iterator[Batch]:
        """All live rows (or those that a view sees), a chunk at a time."""
        for ids in self.visible(view):
            yield Batch(self.rows_at(ids), self.weights_at(ids))

    def visible(self, view: View | None = None) -> Iterator[Ids]:
        """The row ids that the view has (None: all live ones), some at a time, oldest first."""
        return self._rows.visible(ALIVE if view is None else view)

    def hot_ids(self) -> Iterator[Ids]:
        """The ids of live rows in memory, a chunk at a time."""
        return self._rows.hot.ids()

    # -- the state contract -------------------------------------------------------------------------------------

    def nbytes(self) -> int:
        return self._rows.nbytes()

    def rows(self) -> int:
        return self._rows.live

    def commit(self) -> None:
        """Close the epoch: rows that no reader can see any more leave their chains."""
        self._rows.unprepare()
        if not self._firsts:
            return
        oldest, rows = min(self._held, default=FOREVER), self._rows
        rows.commit(self._closed, oldest)
        self._closed = max(self._closed, self._firsts[-1][0])
        self._firsts = [(e, first) for e, first in self._firsts if e > oldest]
        if not self._held and not rows.cold and not rows.sealing and rows.hot.dead > max(rows.live, CHUNK):
            rows.compact()  # amortised over at least as many deaths
            self._saving.renew()

    def rollback(self) -> None:
        """Undo the open epoch."""
        self._rows.unprepare()
        if not self._firsts or self._firsts[-1][0] <= self._closed:
            return
        self._rows.rollback(*self._firsts.pop())
        self.unmatched = self._unmatched_before

    def changes(self, full: bool) -> list[Change]:
        return self._saving.changes(full)

    def load(self, changes: Iterable[Change]) -> None:
        self._saving.load(changes)

    def renew(self) -> None:
        """What checkpoints have under its name was another arrangement's: the next one has this one whole."""
        self._saving.renew()

    # -- tiers --------------------------------------------------------------------------------------------------

    def use(self, store: ColdStore) -> None:
        """Rows may go to this store from now on."""
        self._rows.use(store)

    def cold_rows(self) -> ColdRows:
        """Its cold rows; `use` has made them."""
        if self._rows.cold is None:
            raise StateError("an arrangement without a cold store cannot have cold rows")
        return self._rows.cold

    def adopt(self, segments: Iterable[Segment], rows: int, null_keys: int) -> None:
        """Take over segments with rows of ids 1 to `rows`, built elsewhere; the arrangement must be empty until then."""
        self._rows.adopt(segments, rows, null_keys)

    def hot_bytes(self) -> int:
        """Bytes that sealing could give back."""
        return self._rows.hot.store_bytes()

    def idle_bytes(self) -> int:
        return 0

    def seal(self, share: float) -> bool:
        """Begin to seal the oldest `share` of the hot chunks; `maintain` goes on with it. False if there is nothing to seal."""
        return self._rows.seal(share, self.since)

    @property
    def sealing(self) -> bool:
        """Whether rows are on their way out of memory."""
        return self._rows.sealing

    def maintain(self) -> bool:
        """One step of sealing and one of merging, between epochs; False when there is nothing to do."""
        return self._rows.maintain(self.since)

    def ahead(self) -> None:
        """As much of that as can be done in the middle of an epoch, while somebody reads."""
        self._rows.ahead()

    def finish_sealing(self) -> None:
        """All that is left of the sealing under way."""
        self._rows.finish_sealing()

    def stay(self) -> None:
        self._rows.stay()

    @property
    def on_disk(self) -> ColdRows | None:
        return self._rows.cold

    def memory_hits(self) -> float | None:
        """Of the rows that probes have found."""
        hot, cold = self._rows.found_hot, self._rows.found_cold
        return hot / (hot + cold) if hot + cold else None

    def close(self) -> None:
        """Nobody will read the arrangement again."""
        self._rows.close()


def _valid(keys: pa.RecordBatch, columns: Sequence[int]) -> Mask | None:
    """True where no key column is NULL; None when none is anywhere."""
    valid = None
    for column in columns:
        array = keys.column(column)
        if array.null_count:
            mask = ~is_null(array)
            valid = mask if valid is None else valid & mask
    return valid
