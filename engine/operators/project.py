"""The stateless operators: filter, project, union."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.expression import Evaluator, Pick
from forebay.engine.operators.base import Operator, Turn

Mask = Callable[[pa.RecordBatch], pa.BooleanArray]


class FilterProjectOperator(Operator):
    """Rows where `mask` is true, through `program`, which reads the leaves of `pick`; either may be absent."""

    pure = True

    def __init__(self, schema: pa.Schema, mask: Mask | None, pick: Pick | None, program: Evaluator | None) -> None:
        self.schema = schema
        self._mask = mask
        self._pick = pick
        self._program = program

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        return [b for b in map(self.apply, inputs[0]) if b.num_rows]

    def apply(self, batch: Batch) -> Batch:
        """The output of one batch. Leaves are picked before rows are dropped: nothing is copied only to be left out."""
        mask = None if self._mask is None else self._mask(batch.rows)
        if self._pick is not None:
            batch = batch.with_rows(self._pick(batch.rows))
        if mask is not None and mask.true_count < len(mask):
            batch = batch.filter(mask)
        return batch if self._program is None or not batch.num_rows else batch.with_rows(self._program(batch.rows))


class UnionOperator(Operator):
    """All rows of all inputs (UNION ALL)."""

    pure = True

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        return [b.with_rows(_renamed(b.rows, self.schema)) for batches in inputs for b in batches]


def _renamed(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if rows.schema.equals(schema):
        return rows
    columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(rows.columns, schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
