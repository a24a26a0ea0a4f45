"""Embedded tables: rows that DML and jobs write, kept as an arrangement.

With a primary key a write is an upsert: +1 puts the row of its key, -1 takes the key away, in the order of the rows; what flows
on is the net change. Without one the table is a multiset.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.consolidate import group_rows, same_rows
from forebay.engine.operators.base import Carried, Turn
from forebay.engine.operators.join import ArrangeOperator, Places
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.arrays import rank_of
from forebay.kernels.newest import newest_write


class TableOperator(ArrangeOperator):
    """An embedded table. `key`: positions of the primary key, empty for a multiset."""

    def __init__(self, schema: pa.Schema, key: tuple[int, ...]) -> None:
        super().__init__(Arrangement(schema, key or tuple(range(len(schema))), key or None))
        self.key = key

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        writes = [b for b in inputs[0] if b.num_rows]
        if not writes:
            return []
        changes = [_with_schema(b, self.schema) for b in writes]
        if self.key:
            changes = self._net(concat(changes), turn.epoch)
        self.arrangement.update(changes, turn.epoch)
        return changes

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        return [(rows.select(list(self.key)), self.key)] if self.key else super().carried(number, rows)

    def _net(self, writes: Batch, epoch: int) -> list[Batch]:
        """The last write of each key against the row that is there."""
        group, first = group_rows(writes.rows.select(list(self.key)))
        last = np.zeros(first.shape[0], np.int64)
        np.maximum.at(last, group, np.arange(writes.num_rows))
        final = writes.rows.take(pa.array(last))
        puts = writes.weight_array()[last] > 0
        places, old = self._stored(final, epoch)
        same = same_rows(old, final.take(pa.array(places))) & puts[places]
        puts[places[same]] = False
        gone = old.filter(pa.array(~same))
        out = []
        if gone.num_rows:
            out.append(Batch(gone, np.full(gone.num_rows, -1, np.int64)))
        if puts.any():
            out.append(Batch(final.filter(pa.array(puts))))
        return out

    def _stored(self, rows: pa.RecordBatch, epoch: int) -> tuple[Places, pa.RecordBatch]:
        """(index into `rows`, stored row) of every key of `rows` that has a row."""
        found = list(self.arrangement.probe(rows, self.key, self.arrangement.new(epoch)))
        places = np.concatenate([p for p, _ in found]) if found else np.zeros(0, np.int32)
        ids = np.concatenate([i for _, i in found]) if found else np.zeros(0, np.int64)
        return places, self.arrangement.rows_at(ids)


class KeyedTableOperator(TableOperator):
    """The newest row of each primary key of a stream of upserts: a table that an outside writer owns.

    With a `version` column a write that is older than the row that is there does nothing; NULL is older than any version, and a
    delete without a version takes the row whatever its version.
    """

    def __init__(self, schema: pa.Schema, key: tuple[int, ...], version: int | None = None) -> None:
        super().__init__(schema, key)
        self._version = version
        self.outdated = 0
        """Writes that were older than the row that was there."""

    def _net(self, writes: Batch, epoch: int) -> list[Batch]:
        if self._version is None:
            return super()._net(writes, epoch)
        group, first = group_rows(writes.rows.select(list(self.key)))
        keys = writes.rows.take(pa.array(first))
        places, old = self._stored(keys, epoch)
        versions = pa.concat_arrays([writes.rows.column(self._version), old.column(self._version)])
        ranks = rank_of(versions) - 1
        held = np.full(first.shape[0], -2, np.int64)
        held[places] = ranks[writes.num_rows :]
        last = np.full(first.shape[0], -1, np.int64)
        puts = writes.weight_array() > 0
        newest_write(group, np.ascontiguousarray(ranks[: writes.num_rows]), puts, held, last)
        counted = np.flatnonzero(last >= 0)
        self.outdated += first.shape[0] - counted.shape[0]
        return super()._net(writes.take(last[counted]), epoch)


def _with_schema(batch: Batch, schema: pa.Schema) -> Batch:
    if batch.schema.equals(schema):
        return batch
    return batch.with_rows(pa.RecordBatch.from_arrays(batch.rows.columns, schema=schema))
