"""The stateless operators: filter, project, union."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.expression import Evaluator
from forebay.engine.operators.base import Operator, Turn

Mask = Callable[[pa.RecordBatch], pa.BooleanArray]


class FilterProjectOperator(Operator):
    """Rows where `mask` is true, through `program`; either may be absent."""

    def __init__(self, schema: pa.Schema, mask: Mask | None, program: Evaluator | None) -> None:
        self.schema = schema
        self._mask = mask
        self._program = program

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        out = []
        for batch in inputs[0]:
            kept = batch if self._mask is None else batch.filter(self._mask(batch.rows))
            if kept.num_rows:
                out.append(kept if self._program is None else kept.with_rows(self._program(kept.rows)))
        return out


class UnionOperator(Operator):
    """All rows of all inputs (UNION ALL)."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        return [b.with_rows(_renamed(b.rows, self.schema)) for batches in inputs for b in batches]


def _renamed(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if rows.schema.equals(schema):
        return rows
    columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(rows.columns, schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
