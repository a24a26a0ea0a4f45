"""UNNEST: one row per element of a list or map column, under the weight of the row that holds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Operator, Turn


class UnnestOperator(Operator):
    """Replaces `column` by its elements (a map's are key and value structs); the other columns repeat.

    A row whose list is NULL or empty gives none, or with `outer` one with a NULL element.
    """

    pure = True

    def __init__(self, schema: pa.Schema, column: int, *, outer: bool) -> None:
        self.schema = schema
        self._column = column
        self._outer = outer

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        out = [self._unnested(b) for b in inputs[0] if b.num_rows]
        return [b for b in out if b.num_rows]

    def _unnested(self, batch: Batch) -> Batch:
        lists = batch.rows.column(self._column)
        if pa.types.is_map(lists.type):
            lists = lists.cast(pa.list_(pa.struct([("key", lists.type.key_type), ("value", lists.type.item_type)])))
        rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
        elements = pc.list_flatten(lists)
        if self._outer:
            empty = np.setdiff1d(np.arange(batch.num_rows), rows)
            rows = np.concatenate([rows, empty])
            elements = pa.concat_arrays([elements, pa.nulls(empty.shape[0], elements.type)])
        kept = batch.take(rows)
        columns = list(kept.rows.columns)
        wanted = self.schema.field(self._column).type
        columns[self._column] = elements if elements.type == wanted else elements.cast(wanted)
        return kept.with_rows(pa.RecordBatch.from_arrays(columns, schema=self.schema))
