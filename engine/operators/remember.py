"""A projection or filter with volatile expressions over rows that may be retracted: it remembers what it made of each.

Evaluated again at a retraction, NOW() or RAND() would give another value and take away a row that was never there. So every
row that came out is kept beside the row that it was made of, and a retraction gives back what its row gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.consolidate import consolidate
from forebay.engine.expression import Evaluator, Pick
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.operators.project import FilterProjectOperator, Mask
from forebay.engine.state import State
from forebay.engine.state.arrangement import Arrangement


class RememberOperator(Operator):
    """`FilterProjectOperator` with a memory."""

    def __init__(
        self, inputs: pa.Schema, schema: pa.Schema, mask: Mask | None, pick: Pick | None, program: Evaluator | None
    ) -> None:
        self.schema = schema
        self._mask = mask
        self._program = FilterProjectOperator(schema, None, pick, program)
        self._width = len(inputs)
        fields = [f.with_name(f"c{i}").with_nullable(True) for i, f in enumerate([*inputs, *schema])]
        self._pairs = Arrangement(pa.schema(fields), range(self._width))

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        net = consolidate(inputs[0])
        if net is None:
            return []
        weights = net.weight_array()
        gone = self._remembered(net.take(np.flatnonzero(weights < 0)), turn.epoch)
        come = self._made(net.take(np.flatnonzero(weights > 0)))
        pairs = [b for b in (gone, come) if b.num_rows]
        self._pairs.update(pairs, turn.epoch)
        return [b.with_rows(self._output(b.rows)) for b in pairs]

    def _made(self, come: Batch) -> Batch:
        """New rows with what they give, for those that pass the filter."""
        if come.num_rows and self._mask is not None:
            come = come.filter(self._mask(come.rows))
        if not come.num_rows:
            return self._nothing()
        made = self._program.apply(come).rows
        return come.with_rows(
            pa.RecordBatch.from_arrays([*come.rows.columns, *made.columns], schema=self._pairs.schema)
        )

    def _remembered(self, gone: Batch, epoch: int) -> Batch:
        """Rows that go, with what each gave; per row as many as its weight says. A row that the filter held back has none."""
        view, key = self._pairs.new(epoch), range(self._width)
        found = list(self._pairs.probe(gone.rows, key, view, nulls_match=True)) if gone.num_rows else []
        if not found:
            return self._nothing()
        places = np.concatenate([p for p, _ in found])
        ids = np.concatenate([i for _, i in found])
        held = self._pairs.weights_at(ids)
        counts = np.ones(ids.shape[0], np.int64) if held is None else held.copy()
        left = -gone.weight_array()
        for at, place in enumerate(places.tolist()):
            counts[at] = min(int(counts[at]), int(left[place]))
            left[place] -= counts[at]
        taken = np.flatnonzero(counts)
        return Batch(self._pairs.rows_at(ids[taken]), -counts[taken])

    def _output(self, pairs: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(pairs.columns[self._width :], schema=self.schema)

    def _nothing(self) -> Batch:
        return Batch(pa.RecordBatch.from_pylist([], schema=self._pairs.schema))

    def states(self) -> Mapping[str, State]:
        return {"rows": self._pairs}
