"""What a failed job has missed: the changes of its inputs, epoch by epoch, kept in checkpoints too.

A job that is resumed, by itself or after a restart, replays exactly these. The state of the nodes that it shares with others has
gone on meanwhile; what it adds up to before an epoch follows from the same changes (`recall` in the dataflow).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.runtime.outbox import WEIGHT

_META = b"missed"


@dataclass(frozen=True, slots=True)
class Missed:
    """What crossed the border into a parked job in one epoch."""

    epoch: int
    now: int
    inputs: Mapping[str, tuple[list[Batch], int | None]]
    """Per border node id: its delta and its watermark."""


class Backlog:
    """Missed epochs, oldest first. A `State`, for checkpoints; it changes at epoch boundaries only."""

    def __init__(self) -> None:
        self.missed: list[Missed] = []
        self._bytes = 0
        self._saved = 0
        self._moved = True
        """The front has gone since the last checkpoint, or there was none: all is saved anew."""

    def append(self, missed: Missed) -> None:
        """One more epoch."""
        self.missed.append(missed)
        self._bytes += _nbytes(missed)

    def pop(self) -> Missed:
        """Take the oldest epoch."""
        missed = self.missed.pop(0)
        self._bytes -= _nbytes(missed)
        self._moved = True
        return missed

    def clear(self) -> None:
        """Forget everything."""
        self.missed, self._bytes, self._moved = [], 0, True

    def renumber(self, epochs: Mapping[int, int]) -> None:
        """Give the epochs other numbers."""
        self.missed = [Missed(epochs[m.epoch], m.now, m.inputs) for m in self.missed]
        self._moved = True

    def nbytes(self) -> int:
        return self._bytes

    def rows(self) -> int:
        return sum(b.num_rows for m in self.missed for batches, _ in m.inputs.values() for b in batches)

    def commit(self) -> None:
        """Nothing is open between epochs."""

    def rollback(self) -> None:
        """Nothing is open between epochs."""

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        whole = full or self._moved
        fresh = self.missed if whole else self.missed[self._saved :]
        self._saved, self._moved = len(self.missed), False
        return [*([_empty({"reset": True})] if whole else []), *(b for m in fresh for b in _encode(m))]

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        parts: list[tuple[dict[str, object], pa.RecordBatch]] = []
        for batch in batches:
            note = json.loads(batch.schema.metadata[_META])
            parts = [] if "reset" in note else [*parts, (note, batch)]
        by_epoch: dict[tuple[int, int], dict[str, tuple[list[Batch], int | None]]] = {}
        for note, batch in parts:
            inputs = by_epoch.setdefault((note["epoch"], note["now"]), {})  # type: ignore[arg-type]
            inputs[str(note["node"])] = (_decode(batch), note["watermark"])  # type: ignore[assignment]
        for (epoch, now), inputs in by_epoch.items():
            self.append(Missed(epoch, now, inputs))


def _nbytes(missed: Missed) -> int:
    return sum(b.rows.nbytes for batches, _ in missed.inputs.values() for b in batches)


def _encode(missed: Missed) -> list[pa.RecordBatch]:
    out = []
    for node, (batches, watermark) in missed.inputs.items():
        note = {"epoch": missed.epoch, "now": missed.now, "node": node, "watermark": watermark}
        if not batches:
            out.append(_empty(note))
            continue
        batch = concat(batches)
        rows = batch.rows.append_column(WEIGHT, pa.array(batch.weight_array()))
        out.append(rows.replace_schema_metadata({_META: json.dumps(note).encode()}))
    return out


def _empty(note: Mapping[str, object]) -> pa.RecordBatch:
    schema = pa.schema([pa.field(WEIGHT, pa.int64())], {_META: json.dumps(note).encode()})
    return pa.RecordBatch.from_arrays([pa.array([], pa.int64())], schema=schema)


def _decode(batch: pa.RecordBatch) -> list[Batch]:
    if batch.num_rows == 0:
        return []
    names = batch.schema.names[:-1]
    rows = pa.RecordBatch.from_arrays(
        batch.columns[:-1], schema=pa.schema([batch.schema.field(i) for i in range(len(names))])
    )
    return [Batch(rows, np.asarray(batch.column(batch.num_columns - 1)))]
