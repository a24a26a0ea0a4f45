"""Between upserts and changelogs: an upsert stream becomes net changes per primary key, and a changelog one net change per key
of the sink.

*Normalisation* keeps the last row of every key. Records of one epoch are taken in order; a record with weight +1 upserts its
row, -1 deletes the key. *Materialisation by sink key* is for a changelog whose own key is another: it keeps the live rows of
each sink key, of which the one that came last is shown, so that a key passed from one row to another ends as it should.

Keys may expire (`engine.operators.expiry`): the next row of one that has is an insertion, a delete of it that of an unknown key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.consolidate import same_rows
from forebay.engine.operators.base import Carried, Turn
from forebay.engine.operators.expiry import UNDATED, GroupingOperator, GroupLife
from forebay.engine.state import State
from forebay.engine.state.aging import Aging
from forebay.engine.state.arrays import Mask
from forebay.engine.state.groups import UNMATCHED, GroupTable, Ids, Opened
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.multiset import Multiset
from forebay.kernels.aggregate import add_count


class LastRows(GroupTable):
    """The last row of each key; word 0 is 1 while the key lives, word 1 may date it. Replaced rows come back on rollback."""

    def __init__(self, schema: pa.Schema, key: Sequence[int], aging: Aging | None = None) -> None:
        self._by_key = KeyTable(schema, key)
        super().__init__(self._by_key, 1 if aging is None else 2, aging=aging)
        self._replaced: list[tuple[Ids, pa.RecordBatch]] = []

    def replace(self, ids: Ids, rows: pa.RecordBatch, old: pa.RecordBatch) -> None:
        """Store other rows under opened ids that hold `old`."""
        if ids.shape[0]:
            self._replaced.append((ids, old))
            self._by_key.replace(ids, rows)

    def commit(self) -> None:
        self._replaced.clear()
        super().commit()

    def rollback(self) -> None:
        for ids, old in reversed(self._replaced):
            self._by_key.replace(ids, old)
        self._replaced.clear()
        super().rollback()


class NormalizeOperator(GroupingOperator):
    """Upserts by the key columns `key` in, a changelog with old rows out. A delete of an unknown key is counted."""

    def __init__(self, schema: pa.Schema, key: Sequence[int], life: GroupLife = UNDATED) -> None:
        super().__init__(life, 1)
        self.schema = schema
        self.rows = LastRows(schema, key, self.aging)

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        if self.expiry is not None:
            self.expiry.begin(turn)
        batches = [b for b in inputs[0] if b.num_rows]
        if not batches:
            return []
        batch = concat(batches)
        ids = self.rows.intern(batch.rows)
        batch, ids, times = self.in_time(self.rows, batch, ids, turn.now)
        opened = self.rows.open(ids[::-1].copy())
        last = batch.num_rows - 1 - opened.first
        weights = batch.weight_array()
        was, lives = opened.words[:, 0] == 1, weights[last] > 0
        self.rows.counters[UNMATCHED] += _unknown_deletes(ids, weights, opened.ids[was])
        words = opened.words.copy()
        words[:, 0] = lives
        self.rows.write(opened.ids, words)
        self.renew(self.rows, ids, times)
        self.rows.free(opened.ids[~lives])
        return self._emit(opened, was, lives, batch.rows.take(pa.array(last)))

    def _emit(self, opened: Opened, was: Mask, lives: Mask, new: pa.RecordBatch) -> list[Batch]:
        """-old +new of the keys whose rows differ; store the new."""
        old = self.rows.keys.gather(opened.ids)
        same = same_rows(old, new)
        self.rows.replace(opened.ids[lives & ~same], *(rows.filter(pa.array(lives & ~same)) for rows in (new, old)))
        gone = old.filter(pa.array(was & ~(lives & same)))
        come = pa.RecordBatch.from_arrays(new.filter(pa.array(lives & ~(was & same))).columns, schema=self.schema)
        if not gone.num_rows and not come.num_rows:
            return []
        rows = pa.concat_batches([gone, come])
        return [Batch(rows, np.repeat(np.array([-1, 1]), [gone.num_rows, come.num_rows]) if gone.num_rows else None)]

    def contents(self) -> Iterator[Batch]:
        """The live rows, in batches."""
        return map(Batch, self.rows.contents())

    @property
    def metrics(self) -> dict[str, int]:
        """Counters since the operator was made."""
        return {UNMATCHED: int(self.rows.counters[UNMATCHED]), **self.late}

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        return [(rows.select(list(self.rows.key)), self.rows.key)]

    def states(self) -> Mapping[str, State]:
        return {"rows": self.rows, **self.horizon}


def _unknown_deletes(ids: Ids, weights: Ids, live: Ids) -> int:
    """How many deletes found no row: the key was not among `live`, or the record before it was a delete too."""
    if not (weights < 0).any():
        return 0
    order = np.argsort(ids, kind="stable")
    key, deletes = ids[order], weights[order] < 0
    first = np.concatenate([[True], key[1:] != key[:-1]])
    absent = np.where(first, ~np.isin(key, live), np.concatenate([[False], deletes[:-1]]))
    return int((deletes & absent).sum())


class UpsertKeyOperator(GroupingOperator):
    """A changelog in; out, at most one old and one new row per value of the key columns `key` and epoch, old rows first."""

    def __init__(self, schema: pa.Schema, key: Sequence[int], life: GroupLife = UNDATED) -> None:
        super().__init__(life, 1)
        self.schema = schema
        self._key = list(key)
        self._rows = Multiset(schema, arrival=True)
        keys = KeyTable(pa.schema([schema.field(i) for i in key]))
        self._keys = GroupTable(keys, 1 + life.dated, [self._rows], aging=self.aging)

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        if self.expiry is not None:
            self.expiry.begin(turn)
        batches = [b for b in inputs[0] if b.num_rows]
        if not batches:
            return []
        batch = concat(batches)
        groups = self._keys.intern(batch.rows.select(self._key) if self._key else batch.rows)
        batch, groups, times = self.in_time(self._keys, batch, groups, turn.now)
        opened = self._keys.open(groups)
        self.renew(self._keys, groups, times)
        before = self._rows.last(opened.ids)
        step = self._rows.apply(groups, batch.rows, batch.weight_array())
        births = (step.after[:, 0] > 0).astype(np.int64) - (step.before[:, 0] > 0)
        add_count(self._keys.words, 0, groups[step.first], births)
        self._keys.free(opened.ids[self._keys.read(opened.ids)[:, 0] == 0])
        after = self._rows.last(opened.ids)
        gone, come = before[(before != after) & (before >= 0)], after[(before != after) & (after >= 0)]
        if not gone.shape[0] and not come.shape[0]:
            return []
        rows = self._rows.gather(np.concatenate([gone, come]))
        return [Batch(rows, np.repeat(np.array([-1, 1]), [gone.shape[0], come.shape[0]]))]

    @property
    def metrics(self) -> dict[str, int]:
        """Counters since the operator was made."""
        return {UNMATCHED: int(self._rows.table.counters[UNMATCHED]), **self.late}

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        return [(rows.select(self._key), tuple(self._key))]

    def states(self) -> Mapping[str, State]:
        return {"keys": self._keys, "rows": self._rows, **self.horizon}
