"""Rows by group, in order: what an aggregate cannot invert and what a Top-N may need again.

`Multiset` takes back what it was given: rows are found by hash and verified, and have one count per *variant* (DISTINCT under
several FILTERs shares one row). A count never goes below zero: what is missing is dropped and counted. `BestRows` keeps the
best `limit` rows of each group of an input that never retracts. Both keep their groups in order by columns or by arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.state import Segmented
from forebay.engine.state.coldtable import COLD_PART, ColdTable, open_cold, read_note
from forebay.engine.state.groups import UNMATCHED, GroupTable, Ids, Words
from forebay.engine.state.keys import KeyTable, RowTable
from forebay.engine.state.order import Order, OrderIndex
from forebay.engine.state.slots import grown
from forebay.kernels import topn
from forebay.kernels.aggregate import add_count

Mask = npt.NDArray[np.bool_]

UNLIMITED = 2**62
_ARRIVAL = pa.schema([pa.field("arrival", pa.int64(), False)])


class OrderedRows(Segmented):
    """Rows of `schema`, each in a group, with words (count per variant, group, arrival number).

    They leave memory with their groups, if these have them as dependents. With `grouped` the first column is the group's id
    as well. `orders` are over `schema`, ties go by the hash of the columns in `ties`; `arrival` orders by arrival, the newest
    first if `newest`. With neither there is no order, and `first`, `last` and `walk` may not be asked.
    """

    def __init__(
        self,
        keys: KeyTable | RowTable,
        variants: int,
        orders: Sequence[Order],
        ties: Sequence[int],
        arrival: bool,
        newest: bool = False,
        grouped: bool = False,
    ) -> None:
        self.table = GroupTable(keys, variants + 2)
        self.variants = variants
        self.cold: ColdTable | None = None
        self._grouped = grouped
        self._index: OrderIndex | None = None
        if arrival:
            self._index = OrderIndex(_ARRIVAL, [Order(0, not newest)])
        elif orders:
            self._index = OrderIndex(keys.schema, orders, ties)
        self._by_arrival = arrival
        self._arrived = 0

    @property
    def index(self) -> OrderIndex:
        """The order; present unless made without one."""
        assert self._index is not None
        return self._index

    def first(self, groups: Ids) -> Ids:
        """The first row of each group, -1 where there is none."""
        return self._ask(groups).first(groups)

    def last(self, groups: Ids) -> Ids:
        """The last row of each group, -1 where there is none."""
        return self._ask(groups).last(groups)

    def walk(
        self,
        groups: Ids,
        kind: int = topn.ROW_NUMBER,
        start: int = 1,
        end: int = UNLIMITED,
        ranked: bool = False,
        beyond: bool = False,
    ) -> Words:
        """(index into groups, row, rank, weight) of the rows ranked in [start, end]; see `kernels.topn.walk`."""
        return self._ask(groups).walk(groups, self._counts(), kind, start, end, ranked, beyond)

    def _counts(self) -> Words:
        """Words of which the first counts equal rows; none where each row stands for one."""
        return self.table.words

    def _ask(self, groups: Ids) -> OrderIndex:
        self.index.reserve(int(groups.max(initial=-1)) + 1, 0)
        return self.index

    def gather(self, ids: Ids) -> pa.RecordBatch:
        """The rows with these ids; those that died in the open epoch are still there."""
        return self.table.keys.gather(ids)

    def drop(self, groups: Ids) -> None:
        """Let every row of these groups die; after `apply`, if both happen in one epoch."""
        ids = self.table.all_ids()
        if not ids.shape[0] or not groups.shape[0]:
            return
        words = self.table.read(ids)
        owners = words[:, self.variants]
        doomed = np.zeros(int(max(owners.max(), groups.max())) + 1, bool)
        doomed[groups] = True
        hit = doomed[owners] & words[:, : self.variants].any(axis=1)
        self.remove(ids[hit], np.ascontiguousarray(owners[hit]))

    def remove(self, ids: Ids, owners: Ids) -> None:
        """Let these rows of the groups `owners` die."""
        if self._index is not None:
            self._index.remove(owners, ids)
        self.table.open(ids)
        self.table.write(ids, np.zeros((ids.shape[0], self.table.width), np.int64))
        self.table.free(ids)

    def _number(self, count: int) -> Ids:
        self._arrived += count
        return np.arange(self._arrived - count, self._arrived)

    def _ordering(self, rows: pa.RecordBatch, arrived: Ids) -> pa.RecordBatch:
        """The rows that the index orders by."""
        return pa.RecordBatch.from_arrays([pa.array(arrived)], schema=_ARRIVAL) if self._by_arrival else rows

    # -- tiers --------------------------------------------------------------------------------------------------

    def rows_of(self, place: Ids) -> tuple[Ids, Ids]:
        """(row, place[its group]) of the hot rows whose groups have a place that is not negative."""
        ids = self.table.all_ids()
        places = place[self.table.words[ids, self.variants]]
        hit = places >= 0
        return ids[hit], places[hit]

    def evict(self, ids: Ids, groups: Ids) -> None:
        """Forget these rows, which are all that these groups have: they are cold."""
        if self._index is not None:
            self._index.forget(groups, ids)
        self.table.evict(ids)

    def forget(self, groups: Ids) -> None:
        """The rows of these groups, which have expired, are gone, whatever becomes of the epoch. It has changed none yet."""
        nodes = self._ask(groups).walk(groups, self.table.words[:0])
        self.evict(np.array(nodes[:, 1]), groups)

    def admit(self, groups: Ids, rows: pa.RecordBatch, words: Words) -> None:
        """Take back rows that were evicted, into these groups."""
        if self._grouped:
            rows = pa.RecordBatch.from_arrays([pa.array(groups), *rows.columns[1:]], schema=rows.schema)
        words[:, self.variants] = groups
        ids = self.table.admit(rows, words)
        if self._index is not None:
            arrived = np.array(words[:, self.variants + 1])
            self._index.reserve(int(groups.max()) + 1, self.table.words.shape[0])
            self._index.adopt(groups, ids, self._ordering(rows, arrived))

    def idle_bytes(self) -> int:
        """Bytes held for rows to come."""
        index = self._index.nbytes() if self._index is not None else 0
        return self.table.idle_bytes() + int(index * (1 - self.table.keys.used_share()))

    @property
    def on_disk(self) -> ColdTable | None:
        return self.cold

    @property
    def unmatched(self) -> int:  # type: ignore[override]
        return self.table.unmatched

    # -- the state contract -------------------------------------------------------------------------------------

    def rows(self) -> int:
        return self.table.rows() + (self.cold.live if self.cold is not None else 0)

    def nbytes(self) -> int:
        return self.table.nbytes() + (self._index.nbytes() if self._index else 0) + self._cold_bytes()

    def _cold_bytes(self) -> int:
        return sum(s.nbytes() for s in self.cold_segments())

    def commit(self) -> None:
        self.table.commit()
        if self._index is not None:
            self._index.commit()

    def rollback(self) -> None:
        if self._index is not None:
            self._index.rollback()
        self.table.rollback()

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        saved = self.table.changes(full)
        return saved if self.cold is None else saved + self.cold.note(full, arrived=self._arrived)

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        batches = list(batches)
        notes = [b for b in batches if b.schema.metadata[b"part"] == COLD_PART]
        self.table.load([b for b in batches if b.schema.metadata[b"part"] != COLD_PART])
        ids = self.table.all_ids()
        if ids.shape[0]:
            words = self.table.read(ids)
            owners, arrived = np.array(words[:, self.variants]), np.array(words[:, self.variants + 1])
            self._arrived = int(arrived.max()) + 1
            if self._index is not None:
                self._index.reserve(int(owners.max()) + 1, self.table.words.shape[0])
                self._index.adopt(owners, ids, self._ordering(self.gather(ids), arrived))
        if notes:
            note = read_note(notes[-1])
            self._arrived = note["arrived"]
            open_cold(self.cold, note)


class Step(NamedTuple):
    """What one epoch did: the rows touched, where in the input each appeared first, and their counts by variant."""

    ids: Ids
    first: Ids
    before: Words
    after: Words


class Multiset(OrderedRows):
    """Rows with counts that may be taken back. Identity is the whole row; include the group if equal rows may be in two."""

    def __init__(
        self,
        schema: pa.Schema,
        variants: int = 1,
        orders: Sequence[Order] = (),
        ties: Sequence[int] = (),
        arrival: bool = False,
        newest: bool = False,
        grouped: bool = False,
    ) -> None:
        super().__init__(KeyTable(schema), variants, orders, ties, arrival, newest, grouped)

    def apply(self, groups: Ids, rows: pa.RecordBatch, weights: Words) -> Step:
        """Add weights, int64[n] or int64[n, variants], to the counts of rows; all changes of an epoch in one call."""
        ids = self.table.intern(rows)
        opened = self.table.open(ids)
        columns = weights.reshape(ids.shape[0], self.variants)
        for variant in range(columns.shape[1]):
            add_count(self.table.words, variant, ids, np.ascontiguousarray(columns[:, variant]))
        words = self.table.read(opened.ids)
        counts = words[:, : self.variants]
        self.table.counters[UNMATCHED] -= int(np.minimum(counts, 0).sum())
        np.maximum(counts, 0, out=counts)
        before = opened.words[:, : self.variants]
        was, lives = np.asarray(before.any(axis=1)), np.asarray(counts.any(axis=1))
        born = lives & ~was
        words[:, self.variants] = groups[opened.first]
        words[born, self.variants + 1] = self._number(int(born.sum()))
        self.table.write(opened.ids, words)
        if self._index is not None:
            self._reorder(opened.ids, words, rows, opened.first, born, was & ~lives)
        self.table.free(opened.ids[~lives])
        return Step(opened.ids, opened.first, before, counts)

    def _reorder(self, ids: Ids, words: Words, rows: pa.RecordBatch, first: Ids, born: Mask, died: Mask) -> None:
        groups = np.array(words[:, self.variants])
        self.index.reserve(int(groups.max(initial=-1)) + 1, self.table.words.shape[0])
        ordering = self._ordering(rows.take(pa.array(first[born])), words[born, self.variants + 1])
        self.index.insert(groups[born], ids[born], ordering)
        self.index.remove(groups[died], ids[died])


class BestRows(OrderedRows):
    """The `limit` best rows of each group of an input that never retracts; equal rows are kept apart."""

    def __init__(
        self,
        schema: pa.Schema,
        limit: int,
        orders: Sequence[Order] = (),
        ties: Sequence[int] = (),
        arrival: bool = False,
        newest: bool = False,
        grouped: bool = False,
    ) -> None:
        super().__init__(RowTable(schema), 1, orders, ties, arrival, newest, grouped)
        self._limit = limit
        self._sizes: Ids = np.zeros(0, np.int64)
        self._resized: list[tuple[Ids, Ids]] = []

    def _counts(self) -> Words:
        return self.table.words[:0]

    def promising(self, groups: Ids, rows: pa.RecordBatch) -> Ids:
        """The rows that may be kept, as far as the order columns tell; all of them for an order of arrival."""
        if self._by_arrival or self._limit == UNLIMITED:
            return np.arange(groups.shape[0])
        self._sizes = grown(self._sizes, int(groups.max(initial=-1)) + 1, 0)
        self._ask(groups)
        return self.index.promising(groups, rows, self._sizes, self._limit)

    def apply(self, groups: Ids, rows: pa.RecordBatch, weights: Ids) -> tuple[Ids, Ids]:
        """Offer rows to their groups, each as often as its weight, which is not negative.

        Returns (index, id) of the rows that were taken.
        """
        repeated = np.arange(weights.shape[0])
        if (weights != 1).any():
            repeated = np.repeat(repeated, weights)
            groups, rows = groups[repeated], rows.take(pa.array(repeated))
        if not groups.shape[0]:
            return repeated, repeated
        self._sizes = grown(self._sizes, int(groups.max()) + 1, 0)
        self._resized.append((groups, self._sizes[groups]))
        arrived = self._number(groups.shape[0])
        ids = self.table.keys.take_ids(groups.shape[0])
        self.index.reserve(int(groups.max()) + 1, int(ids.max()) + 1)
        words = self.index.encode(self._ordering(rows, arrived))
        accepted, evicted = self.index.offer(groups, words, self._sizes, self._limit, ids)
        kept = np.flatnonzero(accepted >= 0)
        born = accepted[kept]
        self.table.keys.give_back(np.setdiff1d(ids, born, assume_unique=True))
        self.table.keys.put(born, rows if kept.shape[0] == groups.shape[0] else rows.take(pa.array(kept)))
        self.table.reserve(self.table.keys.capacity)
        self.table.open(born)
        ones = np.ones(born.shape[0], np.int64)
        self.table.write(born, np.column_stack([ones, groups[kept], arrived[kept]]))
        self.table.open(evicted)
        self.table.free(evicted)
        return repeated[kept], born

    def sizes(self, groups: Ids) -> Ids:
        """How many rows each group has in memory."""
        self._sizes = grown(self._sizes, int(groups.max(initial=-1)) + 1, 0)
        return self._sizes[groups]

    def remove(self, ids: Ids, owners: Ids) -> None:
        touched = np.unique(owners)
        self._resized.append((touched, self._sizes[touched]))
        np.subtract.at(self._sizes, owners, 1)
        super().remove(ids, owners)

    def evict(self, ids: Ids, groups: Ids) -> None:
        super().evict(ids, groups)
        self._sizes[groups[groups < self._sizes.shape[0]]] = 0

    def admit(self, groups: Ids, rows: pa.RecordBatch, words: Words) -> None:
        super().admit(groups, rows, words)
        self._sizes = grown(self._sizes, int(groups.max()) + 1, 0)
        np.add.at(self._sizes, groups, 1)

    def commit(self) -> None:
        super().commit()
        self._resized.clear()

    def rollback(self) -> None:
        super().rollback()
        for groups, sizes in reversed(self._resized):
            self._sizes[groups] = sizes
        self._resized.clear()

    def nbytes(self) -> int:
        return super().nbytes() + self._sizes.nbytes

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        super().load(batches)
        owners = self.table.read(self.table.all_ids())[:, self.variants]
        self._sizes = np.bincount(owners).astype(np.int64)
