"""One net change per row and epoch, deletions first: what goes to a sink that takes changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat, take
from forebay.engine.consolidate import net_changes
from forebay.engine.operators.base import Operator, Turn


class ConsolidateOperator(Operator):
    """Consolidates each epoch's changes."""

    pure = True

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        batches = [b for b in inputs[0] if b.num_rows]
        if not batches:
            return []
        changes = concat(batches)
        if changes.weights is None:
            return [changes]
        places, weights = net_changes(changes)
        if not places.shape[0]:
            return []
        positive = weights > 0
        if positive.all() and places.shape[0] == changes.num_rows:
            return [changes]
        order = np.r_[np.flatnonzero(~positive), np.flatnonzero(positive)]
        return [Batch(take(changes.rows, places[order]), weights[order])]


class RenameOperator(Operator):
    """The same rows under other column names."""

    pure = True

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        return [b.with_rows(pa.RecordBatch.from_arrays(b.rows.columns, schema=self.schema)) for b in inputs[0]]
