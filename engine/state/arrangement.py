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
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, take
from forebay.engine.consolidate import consolidate
from forebay.engine.state.arrays import hash_rows, is_fixed, is_null
from forebay.engine.state.index import Hashes, RowIndex
from forebay.engine.state.rows import CHUNK, Ids, RowStore, SparseColumn
from forebay.kernels.rows import MASK, SHIFT

PAIRS = 1 << 16
"""Most pairs in one piece of a probe: output batches stay bounded."""
_FOREVER = 2**62
_SHORT_CHAIN = 8
"""Rows per key up to which looking through them beats a second index (24 bytes a row, and its upkeep)."""
_PART = b"part"
_ID = pa.field("__id", pa.int64(), False)
_WEIGHT = pa.field("__weight", pa.int64(), False)


class View:
    """What a reader sees of an arrangement: its rows before or after an epoch, or none at all."""

    __slots__ = ("least", "most")

    def __init__(self, most: int, least: int) -> None:
        self.most = most
        self.least = least


NOTHING = View(0, _FOREVER)


class Arrangement:
    """Rows by key. One writer (`update`, then `commit` or `rollback`) per epoch; readers in between."""

    def __init__(self, schema: pa.Schema, key: Sequence[int], identity: Sequence[int] | None = None) -> None:
        """`key`: columns of the index (none: one chain with all rows). `identity`: columns known to be unique."""
        self.schema = schema
        self.key = tuple(key)
        self.identity = tuple(identity) if identity is not None else tuple(range(len(schema)))
        self.unmatched = 0
        """Retractions that found no row."""
        self._unmatched_before = 0
        self._held: dict[int, int] = {}
        self._closed = -1
        """The last epoch that was committed."""
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
        self._moved = False

    # -- writing ------------------------------------------------------------------------------------------------

    def update(self, batches: Sequence[Batch], epoch: int) -> None:
        """Apply all changes of one epoch: births first, so that a row may be born and die in it."""
        if not self._firsts or self._firsts[-1][0] != epoch:
            self._firsts.append((epoch, self._store.next_id))
            self._unmatched_before = self.unmatched
        deaths = []
        for batch in batches:
            if batch.weights is None:
                self._born(batch.rows, None)
                continue
            positive = batch.weights > 0
            if positive.all():
                self._born(batch.rows, batch.weights)
            else:
                self._born(batch.rows.filter(pa.array(positive)), batch.weights[positive])
                negative = batch.weights < 0
                deaths.append(Batch(batch.rows.filter(pa.array(negative)), batch.weights[negative]))
        gone = consolidate(deaths) if deaths else None
        if gone is not None:
            self._kill(gone.rows, -gone.weight_array(), epoch)

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

    def _kill(self, rows: pa.RecordBatch, counts: Weights, epoch: int) -> None:
        """Take `counts` of each row away; what is left of a heavier row is born again."""
        probe, ids = self._find(rows)
        order = np.lexsort((ids, probe))
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
            return
        self._died.set(dead, np.full(dead.size, epoch, np.int64))
        self._pending.append((epoch, dead))
        self._live -= dead.size
        if left.any():
            self._born(self._store.gather(dead[left > 0]), left[left > 0])

    def _find(self, rows: pa.RecordBatch) -> tuple[npt.NDArray[np.int32], Ids]:
        """(index of the row, live row id) of every stored row that equals one of `rows`.

        Whole rows are compared, also when the identity is a key: between two changes of one epoch a key may have several rows,
        and each retraction must take its own.
        """
        index, hashes = self._candidates(rows)
        whole = range(len(self.schema))
        probes, found = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for probe, ids in index.pairs(hashes, self._died.addresses, _FOREVER, _FOREVER, PAIRS):
            keep = self._store.same(ids, whole, rows, whole, probe)
            probes.append(probe[keep])
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

    def old(self, epoch: int) -> View:
        """The contents before the epoch."""
        return View(self._first_of(epoch), epoch)

    def new(self, epoch: int) -> View:
        """The contents after the epoch."""
        return View(self._first_of(epoch + 1), epoch + 1)

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
        if not self._live and not self._pending:
            return
        usable, places = keys, None
        if not nulls_match:
            valid = _valid(keys, columns)
            if valid is not None:
                places = np.flatnonzero(valid).astype(np.int32)
                usable = take(keys, places)
        hashes = hash_rows(usable, columns)
        for index, ids in self._index.pairs(hashes, self._died.addresses, view.most, view.least, PAIRS):
            if self._must_verify(usable, columns):
                same = self._same_keys(usable, columns, index, ids)
                index, ids = index[same], ids[same]
            if ids.size:
                yield (index if places is None else places[index]), ids

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
        if not self._live and not self._pending:
            return found
        if hashes is None:
            hashes = hash_rows(keys, columns)
        ids = self._index.newest(hashes, self._died.addresses, view.most, view.least)
        hit = np.flatnonzero(ids)
        found[hit] = True
        if hit.size and self._must_verify(keys, columns):
            same = self._same_keys(keys, columns, hit.astype(np.int32), ids[hit])
            for place in hit[~same].tolist():
                one = keys.slice(place, 1)
                found[place] = any(True for _ in self.probe(one, columns, view, nulls_match=nulls_match))
        if not nulls_match:
            valid = _valid(keys, columns)
            if valid is not None:
                found &= valid
        return found

    def rows_at(self, ids: Ids) -> pa.RecordBatch:
        """The rows with these ids."""
        return self._store.gather(ids)

    def weights_at(self, ids: Ids) -> Weights | None:
        """Their weights; None when all are 1."""
        return self._weight_of(ids) if self._weights.chunks else None

    def contents(self, view: View | None = None) -> Iterator[Batch]:
        """All live rows (or those that a view sees), a chunk at a time."""
        for ids in self._live_ids(view):
            yield Batch(self._store.gather(ids), self.weights_at(ids))

    def lookup(self, keys: pa.RecordBatch) -> pa.RecordBatch:
        """Live rows whose key equals one of `keys` (the key columns, in the order of `key`)."""
        columns = range(len(self.key))
        found = [ids for _, ids in self.probe(keys, columns, View(_FOREVER, _FOREVER))]
        return self._store.gather(np.concatenate(found) if found else np.zeros(0, np.int64))

    def visible(self, view: View) -> Iterator[Ids]:
        """The row ids that the view has, a chunk at a time."""
        return self._live_ids(view)

    def null_keyed(self, view: View) -> Iterator[Ids]:
        """The row ids in the view with a NULL in their key, in pieces."""
        if not self._null_keys:
            return
        if len(self.key) == 1:  # they share a chain
            null = pa.RecordBatch.from_arrays([pa.nulls(1, self.schema.field(self.key[0]).type)], names=["key"])
            yield from (ids for _, ids in self.probe(null, (0,), view, nulls_match=True))
            return
        for ids in self._live_ids(view):
            valid = _valid(self._store.gather(ids, list(self.key)), range(len(self.key)))
            if valid is not None:
                yield ids[~valid]

    def _live_ids(self, view: View | None = None, since: int = 1) -> Iterator[Ids]:
        last = self._store.next_id
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
        return self._store.same(ids, self.key, keys, columns, probe)

    def _weight_of(self, ids: Ids) -> Weights:
        out = np.ones(ids.shape[0], np.int64)
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
        return self._store.nbytes() + self._index.nbytes() + extra + tables

    def rows(self) -> int:
        return self._live

    def commit(self) -> None:
        """Close the epoch: rows that no reader can see any more leave their chains."""
        if not self._firsts:
            return
        oldest = min(self._held, default=_FOREVER)
        self._killed.extend(ids for epoch, ids in self._pending if epoch > self._closed)
        self._closed = max(self._closed, self._firsts[-1][0])
        gone = [ids for epoch, ids in self._pending if epoch <= oldest]
        self._pending = [(epoch, ids) for epoch, ids in self._pending if epoch > oldest]
        self._firsts = [(e, first) for e, first in self._firsts if e > oldest]
        if gone:
            self._unlink(np.concatenate(gone))
        if not self._held and self._dead > max(self._live, CHUNK):
            self._compact()

    def rollback(self) -> None:
        """Undo the open epoch."""
        if not self._firsts or self._firsts[-1][0] <= self._closed:
            return
        epoch, first = self._firsts.pop()
        self.unmatched = self._unmatched_before
        revived = [ids for e, ids in self._pending if e == epoch]
        self._pending = [(e, ids) for e, ids in self._pending if e != epoch]
        for ids in revived:
            self._died.set(ids, np.zeros(ids.size, np.int64))
            self._live += ids.size
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
            if chunk < self._store.next_id >> SHIFT and self._buried[chunk] == (CHUNK if chunk else CHUNK - 1):
                self._drop(chunk)
                self._dead -= self._buried.pop(chunk)

    def _drop(self, chunk: int) -> None:
        self._dropped.add(chunk)
        for part in (self._store, self._index, self._by_identity, self._died, self._weights):
            if part is not None:
                part.drop(chunk)

    def _compact(self) -> None:
        """Build the arrangement again from its live rows, in their order; amortised over at least as many deaths."""
        live, store, weights = list(self._live_ids()), self._store, self._weights
        self._reset()
        for ids in live:
            held = np.ones(ids.shape[0], np.int64)
            weights.add_to(ids, held)
            self._born(store.gather(ids), held)
            store.drop(int(ids[0]) >> SHIFT)
        self._moved = True

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        whole = full or self._moved
        since, killed = (1, []) if whole else (self._saved_to, self._killed)
        batches = [_note(b"reset")] if self._moved and not full else []
        if killed:
            dead = np.concatenate(killed)
            dead = dead[dead < since]
            if dead.size:
                batches.append(pa.RecordBatch.from_arrays([pa.array(dead)], schema=pa.schema([_ID], {_PART: b"dead"})))
        batches += [self._saved(ids) for ids in self._live_ids(since=since)]
        self._saved_to = self._store.next_id
        self._killed = []
        self._moved = False
        return batches

    def _saved(self, ids: Ids) -> pa.RecordBatch:
        rows = self._store.gather(ids)
        schema = pa.schema([_ID, _WEIGHT, *rows.schema], {_PART: b"rows"})
        return pa.RecordBatch.from_arrays([pa.array(ids), pa.array(self._weight_of(ids)), *rows.columns], schema=schema)

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Rows keep the ids they were saved under, because later changes speak of them."""
        kept: list[pa.RecordBatch] = []
        dead: list[Ids] = []
        for batch in batches:
            part = batch.schema.metadata[_PART]
            if part == b"reset":
                kept, dead = [], []
            elif part == b"dead":
                dead.append(batch.column(0).to_numpy())
            else:
                kept.append(batch)
        gone = np.concatenate(dead) if dead else np.zeros(0, np.int64)
        for batch in kept:
            self._restore(batch, gone)
        self._saved_to = self._store.next_id
        self._killed = []

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


def _note(part: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], pa.int64())], schema=pa.schema([_ID], {_PART: part}))
