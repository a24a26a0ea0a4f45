"""The hot rows of one arrangement: in memory, under ascending ids, found by the hash of their key.

A row that dies is stamped with its epoch and stays in its chain, for readers of older epochs, until it is *unlinked*; then it
is *buried*: counted as dead, and a chunk with nothing but buried rows is given back. The oldest chunks may be *leaving*: their
rows are being sealed, so they go when that is finished, whatever dies in them.

A retraction finds its row through the key's chain if that is short, else through an index by *identity*: columns known to be
unique, or the whole row.

Invariant: the chains have the rows from `first` on that are alive, or dead and not yet unlinked, and no others. Ids below `first`
have left memory: only their weights, and whether keys have NULLs, are still known here, for sealing changes no id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Weights, take
from forebay.engine.state.arrays import Mask, hash_rows
from forebay.engine.state.index import Hashes, RowIndex
from forebay.engine.state.rows import CHUNK, Ids, Places, RowStore, SparseColumn
from forebay.engine.state.view import ALIVE, FOREVER, View
from forebay.kernels.rows import MASK, SHIFT

PAIRS = 1 << 16
"""Most pairs in one piece of a probe: output batches stay bounded."""
_SHORT_CHAIN = 8
"""Rows per key up to which looking through them beats a second index (24 bytes a row, and its upkeep)."""
_VOID = -1
"""Epoch of death of rows that never were: of an epoch that was rolled back, or not among those that were loaded."""


class HotRows:
    """Rows of one schema in chunks, with an index by key, deaths and weights."""

    def __init__(self, schema: pa.Schema, key: Sequence[int], identity: Sequence[int]) -> None:
        self.key = key
        self.identity = identity
        self.first = 1
        """Row ids below have left memory: cold, or gone."""
        self.weights = SparseColumn()
        """Weight - 1."""
        self.null_keys = 0
        """Rows that have come, or have come in one batch with one, with a NULL in their key."""
        self.dead = 0
        """Rows that take memory and are in no chain."""
        self.leaving = 0
        """Chunks below are being sealed."""
        self._store = RowStore(schema)
        self._index = RowIndex()
        self._by_identity: RowIndex | None = None
        self._died = SparseColumn()
        """Epoch of death; 0 while alive."""
        self._buried: dict[int, int] = {}
        self._dropped: set[int] = set()

    @property
    def next_id(self) -> int:
        """The id of the next row to come."""
        return self._store.next_id

    @property
    def open_chunk(self) -> int:
        """The chunk that is being filled; those before it are full."""
        return self._store.next_id >> SHIFT

    def holds(self, chunk: int) -> bool:
        """Whether a chunk is in memory."""
        return chunk not in self._dropped

    def open_bytes(self) -> int:
        """Bytes of the rows of the open chunk, if no other is in memory."""
        return self._store.nbytes() * (self._store.next_id & MASK) >> SHIFT

    def store_bytes(self) -> int:
        """Bytes of the rows alone."""
        return self._store.nbytes()

    def nbytes(self) -> int:
        extra = self._by_identity.nbytes() if self._by_identity is not None else 0
        return self._store.nbytes() + self._index.nbytes() + extra + self._died.nbytes() + self.weights.nbytes()

    # -- births and deaths --------------------------------------------------------------------------------------

    def append(self, rows: pa.RecordBatch, weights: Weights | None) -> None:
        """Rows (at least one) are born."""
        first = self._store.append(rows)
        ids = np.arange(first, first + rows.num_rows)
        self._died.reserve(int(ids[-1]) >> SHIFT)
        self._link(rows, ids, weights)

    def _link(self, rows: pa.RecordBatch, ids: Ids, weights: Weights | None) -> None:
        """Stored rows can be found from now on."""
        self._index.insert(hash_rows(rows, self.key), ids)
        if self._by_identity is not None:
            self._by_identity.insert(hash_rows(rows, self.identity), ids)
        if any(rows.column(k).null_count for k in self.key):
            self.null_keys += rows.num_rows
        if weights is not None and not (weights == 1).all():
            self.weights.set(ids, weights - 1)

    def kill(self, ids: Ids, epoch: int) -> None:
        """Rows die in an epoch. They stay in their chains."""
        self._died.set(ids, np.full(ids.size, epoch, np.int64))

    def revive(self, ids: Ids) -> None:
        """Undo `kill`."""
        self._died.set(ids, np.zeros(ids.size, np.int64))

    def discard(self, ids: Ids) -> None:
        """Rows go at once, whoever might look for them."""
        self.kill(ids, _VOID)
        self.unlink(ids)

    def unlink(self, ids: Ids) -> None:
        """Dead rows leave their chains: nobody will look for them."""
        self._index.unlink(self.hashes(ids, self.key), ids)
        if self._by_identity is not None:
            self._by_identity.unlink(self.hashes(ids, self.identity), ids)
        self._bury(ids)

    def _bury(self, ids: Ids) -> None:
        """Count rows that are in no chain any more; a full chunk of them is given back."""
        self.dead += ids.size
        for chunk, count in zip(*(a.tolist() for a in np.unique(ids >> SHIFT, return_counts=True))):
            self._buried[chunk] = self._buried.get(chunk, 0) + count
            if chunk < self.leaving:
                continue  # its rows are being read; it goes when they have been
            if chunk < self.open_chunk and self._buried[chunk] == (CHUNK if chunk else CHUNK - 1):
                self._drop(chunk)
                self.weights.drop(chunk)
                self.dead -= self._buried.pop(chunk)

    def _drop(self, chunk: int) -> None:
        self._dropped.add(chunk)
        for part in (self._store, self._index, self._by_identity, self._died):
            if part is not None:
                part.drop(chunk)

    def leave(self, ids: Ids, hashes: Hashes) -> Ids:
        """The leaving chunks go, whose rows `ids` have been sealed under their hashes; those of them that died meanwhile."""
        stamps = np.zeros(ids.size, np.int64)
        self._died.add_to(ids, stamps)
        self._index.unlink(hashes, ids)
        self._index.shrink()
        if self._by_identity is not None:
            self._by_identity.unlink(self.hashes(ids, self.identity), ids)
            self._by_identity.shrink()
        for chunk in range(self.first >> SHIFT, self.leaving):
            if chunk not in self._dropped:
                self._drop(chunk)
                self.dead -= self._buried.pop(chunk, 0)
        self.first = self.leaving << SHIFT
        self.leaving = 0
        died: Ids = ids[stamps != 0]
        return died

    def compacted(self) -> HotRows:
        """The live rows in their order, under ids from 1 on; these here are used up, a chunk at a time."""
        made = HotRows(self._store.schema, self.key, self.identity)
        self._index, self._by_identity = RowIndex(), None
        for ids in self.ids():
            held = np.ones(ids.shape[0], np.int64)
            self.weights.add_to(ids, held)
            made.append(self._store.gather(ids), held)
            self._drop(int(ids[0]) >> SHIFT)
        return made

    # -- by id --------------------------------------------------------------------------------------------------

    def gather(self, ids: Ids, wanted: list[int] | None = None) -> pa.RecordBatch:
        """The rows with these ids (some columns of them)."""
        return self._store.gather(ids, wanted)

    def hashes(self, ids: Ids, columns: Sequence[int]) -> Hashes:
        """Hashes of rows over some columns."""
        return hash_rows(self._store.gather(ids, list(columns)), range(len(columns)))

    def same(
        self, ids: Ids, wanted: Sequence[int], rows: pa.RecordBatch, columns: Sequence[int], places: Places
    ) -> Mask:
        """Whether the `wanted` columns of row ids[i] equal `columns` of rows[places[i]]; NULL equals NULL."""
        return self._store.same(ids, wanted, rows, columns, places)

    def ids(self, view: View = ALIVE, *, since: int = 1, until: int = FOREVER) -> Iterator[Ids]:
        """The ids from `since` to below `until` that the view has, whatever their time, a chunk at a time."""
        last = min(self.next_id, until)
        for start in range(since & ~MASK, last, CHUNK):
            if start >> SHIFT in self._dropped:
                continue
            ids = np.arange(max(start, since), min(start + CHUNK, last, view.most))
            died = self._died.chunks.get(start >> SHIFT)
            if died is not None and ids.size:
                stamps = died[: CHUNK * 8].view(np.int64)[ids & MASK]
                ids = ids[(stamps == 0) | (stamps >= view.least)]
            if ids.size:
                yield ids

    # -- by hash ------------------------------------------------------------------------------------------------

    def pairs(self, hashes: Hashes, view: View) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        """(index of the hash, id) of every row under each hash that the view has, whatever its time, in pieces."""
        return self._index.pairs(hashes, self._died.addresses, view.most, view.least, PAIRS)

    def newest(self, hashes: Hashes, view: View) -> Ids:
        """The newest row under each hash that the view has, whatever its time; 0 for none."""
        return self._index.newest(hashes, self._died.addresses, view.most, view.least)

    def equal(self, rows: pa.RecordBatch, columns: Sequence[int]) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        """(index of the row, id) of every live row that equals one of `rows` in all `columns`, the identity among them."""
        index, hashes = self._candidates(rows)
        for probe, ids in index.pairs(hashes, self._died.addresses, ALIVE.most, ALIVE.least, PAIRS):
            keep = self._store.same(ids, columns, rows, columns, probe)
            yield probe[keep], ids[keep]

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
            for ids in self.ids():
                self._by_identity.insert(self.hashes(ids, self.identity), ids)
        return self._by_identity, hash_rows(rows, self.identity)

    # -- loading ------------------------------------------------------------------------------------------------

    def only(self, chunk: int) -> RowStore:
        """See `RowStore.only`."""
        return self._store.only(chunk)

    def restore(self, ids: Ids, rows: pa.RecordBatch, weights: Weights, gone: Ids) -> int:
        """Rows (at least one) come under the ids that they had, above all others, but those that are `gone`; how many."""
        self.close(int(ids[0]) >> SHIFT)
        span = np.arange(self.next_id, int(ids[-1]) + 1)
        source = np.searchsorted(ids, span)
        live = (ids[source] == span) & ~np.isin(span, gone)
        self._store.append(rows if span.size == ids.size else take(rows, source))
        self._died.reserve(int(span[-1]) >> SHIFT)
        self.kill(span[~live], _VOID)
        self._bury(span[~live])
        kept = take(rows, source[live])
        self._link(kept, span[live], weights[source[live]])
        return int(live.sum())

    def begin(self, chunk: int) -> None:
        """Rows before a chunk are elsewhere."""
        self.first = chunk << SHIFT
        self.close(chunk)

    def close(self, chunk: int) -> None:
        """Go on at `chunk`: no row between here and there will come."""
        at = self.next_id
        if at >> SHIFT >= chunk:
            return
        rest = np.arange(at, ((at >> SHIFT) + 1) << SHIFT)
        self._store.skip_to(chunk)
        self._dropped.update(range((at >> SHIFT) + 1, chunk))
        self.kill(rest, _VOID)
        self._bury(rest)
