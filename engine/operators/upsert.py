"""A changelog for a sink that is keyed by other columns: one net change per sink key and epoch.

Several rows of the changelog may have one sink key at a time (an order re-assigned to a shop that has another order): all of
them are kept, and the sink shows the one that came last. So a key that loses its row shows the one below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.consolidate import group_rows, same_rows
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.state import State
from forebay.engine.state.arrangement import NOTHING, Arrangement, View


class UpsertKeyOperator(Operator):
    """Keeps the input by `key` and emits, per changed key, -old and +new of the row that came last."""

    def __init__(self, schema: pa.Schema, key: tuple[int, ...]) -> None:
        self.schema = schema
        self._key = key
        self._rows = Arrangement(schema, key)

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        changes = [b for b in inputs[0] if b.num_rows]
        if not changes:
            return []
        self._rows.update(changes, turn.epoch)
        rows = concat(changes).rows
        _, first = group_rows(rows.select(list(self._key)))
        keys = rows.take(pa.array(first))
        old_places, old = self._last(keys, NOTHING if turn.initial else self._rows.old(turn.epoch))
        new_places, new = self._last(keys, self._rows.new(turn.epoch))
        both, at_old, at_new = np.intersect1d(old_places, new_places, return_indices=True)
        same = np.zeros(keys.num_rows, bool)
        same[both] = same_rows(old.take(pa.array(at_old)), new.take(pa.array(at_new)))
        out = []
        gone, come = old.filter(pa.array(~same[old_places])), new.filter(pa.array(~same[new_places]))
        if gone.num_rows:
            out.append(Batch(gone, np.full(gone.num_rows, -1, np.int64)))
        if come.num_rows:
            out.append(Batch(come))
        return out

    def _last(self, keys: pa.RecordBatch, view: View) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], pa.RecordBatch]:
        """(index of the key, the newest visible row of it) for the keys that have one."""
        newest = np.zeros(keys.num_rows, np.int64)
        for places, ids in self._rows.probe(keys, self._key, view, nulls_match=True):
            np.maximum.at(newest, places, ids)
        found = np.flatnonzero(newest)
        return found, self._rows.rows_at(newest[found])

    def states(self) -> Mapping[str, State]:
        return {"rows": self._rows}
