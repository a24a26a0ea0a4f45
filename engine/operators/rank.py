"""Top-N: the rows of each partition whose ROW_NUMBER, RANK or DENSE_RANK lies in [start, end], as net changes per epoch.

Deduplication is ROW_NUMBER with end 1 ordered by time; a global ORDER BY ... LIMIT has no partition. Over append-only input only
rows that can still enter are kept; over updating input all are, since any may move up. Rows that ORDER BY leaves equal go by
the hash of all their columns: a total order that does not depend on arrival.

Partitions may expire (`engine.operators.expiry`). Over append-only input only a row that enters updates its partition, as in
Flink: a duplicate that is dropped does not lengthen the life of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.operators.base import Carried, Turn
from forebay.engine.operators.expiry import UNDATED, GroupingOperator, GroupLife
from forebay.engine.state import State
from forebay.engine.state.groups import UNMATCHED, GroupTable, Ids, Opened, Words
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.multiset import UNLIMITED, BestRows, Multiset
from forebay.engine.state.order import Order
from forebay.engine.state.times import Micros
from forebay.kernels import topn
from forebay.kernels.aggregate import add_count

_KINDS = {"row_number": topn.ROW_NUMBER, "rank": topn.RANK, "dense_rank": topn.DENSE_RANK}


@dataclass(frozen=True, slots=True)
class RankSpec:
    """`kind` is row_number, rank or dense_rank; positions count from 1, `end` None is no end.

    `schema` is the input's, plus the rank (int64) as the last column if `with_rank`. The input may have more columns, which only
    date its rows.
    """

    kind: str
    partition: tuple[int, ...]
    order: tuple[Order, ...]
    start: int
    end: int | None
    with_rank: bool
    schema: pa.Schema
    append_only: bool = False
    life: GroupLife = UNDATED


class RankOperator(GroupingOperator):
    """Top-N by partition. The words of a partition are the number of its rows, over updating input, and what dates it."""

    def __init__(self, spec: RankSpec) -> None:
        super().__init__(spec.life, 1)
        self.schema = spec.schema
        self._spec = spec
        self._kind = _KINDS[spec.kind]
        self._end = UNLIMITED if spec.end is None else spec.end
        fields = list(spec.schema)[: len(spec.schema) - spec.with_rank]
        rows = pa.schema([f.with_nullable(True) for f in fields])  # a declared NOT NULL is not proof
        every = range(len(rows))
        orders = [Order(*o) for o in spec.order]
        if spec.append_only:
            limit = self._end if self._kind == topn.ROW_NUMBER else UNLIMITED
            self._rows: BestRows | Multiset = BestRows(rows, limit, orders, every)
        else:
            self._rows = Multiset(rows, 1, orders, every)
        partitions = KeyTable(pa.schema([rows.field(i) for i in spec.partition]))
        self._width = len(rows)
        self._partitions = GroupTable(partitions, 1 + spec.life.dated, [self._rows], aging=self.aging)

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        if self.expiry is not None:
            self.expiry.begin(turn)
        batches = [b for b in inputs[0] if b.num_rows]
        if not batches:
            return []
        groups, batch, times = self._located(concat(batches), turn.now)
        if isinstance(self._rows, BestRows):
            hopeful = self._hopeful(self._rows, groups, batch)
            if hopeful.shape[0] < batch.num_rows:
                groups, batch, times = groups[hopeful], batch.take(hopeful), times[hopeful]
        opened = self._partitions.open(groups)
        before = self._ranked(opened.ids)
        if isinstance(self._rows, BestRows):
            updates = self._offer(self._rows, groups, batch, opened)
        else:
            updates = self._change(self._rows, groups, batch, opened)
        if self.expiry is not None:
            self.renew(self._partitions, groups[updates], times[updates])
        return self._emit(self._rows.index.difference(before, self._ranked(opened.ids), self._spec.with_rank))

    def _located(self, batch: Batch, now: int) -> tuple[Ids, Batch, Micros]:
        """The rows with their partitions, and with their times where partitions expire, without those that are late."""
        table = self._partitions
        groups = table.intern(batch.rows.select(self._spec.partition) if self._spec.partition else batch.rows)
        batch, groups, times = self.in_time(table, batch, groups, now)
        if len(batch.schema) > self._width:
            batch = batch.with_rows(batch.rows.select(range(self._width)))
        return groups, batch, times

    def _hopeful(self, rows: BestRows, groups: Ids, batch: Batch) -> Ids:
        """The rows that may enter."""
        hopeful = rows.promising(groups, batch.rows)
        expired = np.flatnonzero(self._partitions.expired(groups)) if self.aging is not None else hopeful[:0]
        return np.union1d(hopeful, expired) if expired.shape[0] else hopeful

    def _ranked(self, partitions: Ids) -> Words:
        """What the output shows of these partitions."""
        return self._rows.walk(partitions, self._kind, self._spec.start, self._end, self._spec.with_rank)

    def _offer(self, rows: BestRows, groups: Ids, batch: Batch, opened: Opened) -> Ids:
        """Append-only: keep what can still enter. Returns which rows have, if that matters."""
        taken, ids = rows.apply(groups, batch.rows, batch.weight_array())
        if self._kind != topn.ROW_NUMBER:
            beyond = rows.walk(opened.ids, self._kind, 1, self._end, beyond=True)
            rows.remove(np.array(beyond[:, 1]), opened.ids[beyond[:, 0]])
        if self.expiry is None:
            return ids
        kept: Ids = taken[rows.table.words[ids, 0] > 0]
        return kept

    def _change(self, rows: Multiset, groups: Ids, batch: Batch, opened: Opened) -> Ids:
        """Updating: keep all; a partition without rows dies. Its word is the number of its distinct rows."""
        step = rows.apply(groups, batch.rows, batch.weight_array())
        births = (step.after[:, 0] > 0).astype(np.int64) - (step.before[:, 0] > 0)
        add_count(self._partitions.words, 0, groups[step.first], births)
        self._partitions.free(opened.ids[self._partitions.read(opened.ids)[:, 0] == 0])
        return np.arange(groups.shape[0])

    def _emit(self, change: Words) -> list[Batch]:
        if not change.shape[0]:
            return []
        columns = self._rows.gather(np.array(change[:, 0])).columns
        if self._spec.with_rank:
            columns.append(pa.array(np.array(change[:, 1])))
        return [Batch(pa.RecordBatch.from_arrays(columns, schema=self.schema), np.array(change[:, 2]))]

    def contents(self) -> Iterator[Batch]:
        """The output's rows, between epochs. Cold partitions are asked for as an epoch does it, which is then rolled back."""
        for keys in self._partitions.contents():
            try:
                ranked = self._ranked(self._partitions.intern(keys))
                columns = self._rows.gather(np.array(ranked[:, 1])).columns
            finally:
                for state in self.states().values():
                    state.rollback()
            if self._spec.with_rank:
                columns.append(pa.array(np.array(ranked[:, 2])))
            yield Batch(pa.RecordBatch.from_arrays(columns, schema=self.schema), np.array(ranked[:, 3]))

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        return [(rows.select(self._spec.partition), self._spec.partition)]

    @property
    def keeps(self) -> int | None:
        """Rows that are kept of a partition at most; None: all."""
        return None if isinstance(self._rows, Multiset) or self._end == UNLIMITED else self._end

    def of(self, kept: pa.RecordBatch) -> list[Batch]:
        """What the output has of partitions of which these rows are kept, equal rows as often as they are there."""
        return RankOperator(self._spec).process([[Batch(kept)]], Turn(1, 0, (None,)))

    @property
    def metrics(self) -> dict[str, int]:
        """Counters since the operator was made."""
        return {UNMATCHED: int(self._rows.table.counters[UNMATCHED]), **self.late}

    def states(self) -> Mapping[str, State]:
        return {"partitions": self._partitions, "rows": self._rows, **self.horizon}
