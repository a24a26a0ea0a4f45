"""One net change per row and epoch, deletions first: what goes to a sink that takes changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.consolidate import consolidate
from forebay.engine.operators.base import Operator, Turn


class ConsolidateOperator(Operator):
    """Consolidates each epoch's changes."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        net = consolidate(inputs[0])
        if net is None:
            return []
        return [net.take(np.argsort(net.weight_array() > 0, kind="stable"))]


class RenameOperator(Operator):
    """The same rows under other column names."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        return [b.with_rows(pa.RecordBatch.from_arrays(b.rows.columns, schema=self.schema)) for b in inputs[0]]
