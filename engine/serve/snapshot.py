"""Snapshot queries: DataFusion over the contents of relations, all pinned at one epoch.

Contents are gathered once per change of a relation and kept until it changes again, so that a dashboard's repeated query
costs the query alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.engine.batch import Batch
from forebay.engine.errors import InternalError, StateError
from forebay.engine.runtime.dataflow import Dataflow

ZERO_AND_NAN = {t: (pa.scalar(0.0, t), pa.scalar(math.nan, t)) for t in (pa.float32(), pa.float64())}


@dataclass(slots=True)
class Snapshots:
    """Materialised contents per relation, valid for the version they were taken at. Used under the driver's lock."""

    most: Callable[[], int]
    """Bytes that the contents of one relation may have."""
    _kept: dict[str, tuple[int, pa.Table]] = field(default_factory=dict)
    _read: dict[object, tuple[pa.Table, ...]] = field(default_factory=dict)
    """What each query reads that works now."""

    def pin(self, flow: Dataflow, names: Iterable[str]) -> Mapping[str, pa.Table]:
        """The rows of each relation at the current epoch boundary."""
        return {name: self._table(flow, name) for name in names}

    def _table(self, flow: Dataflow, name: str) -> pa.Table:
        node = flow.relation(name)
        kept = self._kept.get(name)
        if kept is not None and kept[0] == node.version:
            return kept[1]
        contents = node.contents()
        if contents is None or node.operator is None:
            raise InternalError(f"relation '{name}' does not hold its rows")
        batches = list(self._within(name, contents))
        table = canonical_floats(pa.Table.from_batches(batches, schema=node.operator.schema))
        self._kept[name] = (node.version, table)
        return table

    def _within(self, name: str, contents: Iterable[Batch]) -> Iterator[pa.RecordBatch]:
        most, size = self.most(), 0
        for batch in map(expand, contents):
            size += batch.nbytes
            if size > most:
                raise StateError(
                    f"the contents of {name} do not fit the memory budget",
                    detail=f"a query that is answered once has them in memory, and they are more than {most >> 20} MB",
                    hint="SET 'memory.budget' higher, ask for single keys, or let a materialized view keep what the query needs",
                )
            yield batch

    @contextmanager
    def reading(self, tables: Iterable[pa.Table]) -> Iterator[None]:
        """Count tables while a query reads them."""
        query = object()
        self._read[query] = tuple(tables)
        try:
            yield
        finally:
            del self._read[query]

    def nbytes(self) -> int:
        """Bytes of the contents that are kept, or read by a query."""
        kept, read = list(self._kept.values()), list(self._read.values())
        tables = {id(t): t for t in (*(table for _, table in kept), *(t for tables in read for t in tables))}
        return sum(t.nbytes for t in tables.values())

    def give_back(self) -> None:
        """Gather contents anew when they are asked for again."""
        self._kept.clear()

    def forget(self, name: str) -> None:
        """The relation is gone, or is another one of the same name."""
        self._kept.pop(name, None)


def canonical_floats(table: pa.Table) -> pa.Table:
    """The table with one zero and one NaN in its float columns.

    DataFusion compares the bits of floats; without this -0.0 would join and group here otherwise than in the dataflow.
    """
    for i, column_field in enumerate(table.schema):
        if column_field.type in ZERO_AND_NAN and table.num_rows:
            zero, nan = ZERO_AND_NAN[column_field.type]
            column = table.column(i)
            column = pc.if_else(pc.equal(column, zero), zero, column)
            table = table.set_column(i, column_field, pc.if_else(pc.is_nan(column), nan, column))
    return table


def expand(batch: Batch) -> pa.RecordBatch:
    """Rows repeated by their (positive) weights."""
    if batch.weights is None or bool((batch.weights == 1).all()):
        return batch.rows
    return batch.rows.take(pa.array(np.repeat(np.arange(batch.num_rows), batch.weights)))
