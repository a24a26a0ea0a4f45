"""Saving: what a checkpoint has of the rows of an arrangement, as record batches of several kinds, and the rows made of them.

The kind of a batch, its *part*, is in the metadata of its schema, with a *note* for what is no column:

    rows      hot rows under their ids, with weights: those that have come since the last checkpoint
    dead      ids of rows that were saved earlier and have died since
    cold      which segments there are, and counts: of several the last one holds
    weights   of cold rows, those other than 1
    gone      bitmaps of the cold rows that are dead, in a full set of changes
    dropped   rows older than the note's time may be gone
    reset     all that was saved before is void: rows have other ids

Invariant: rows keep the ids that they were saved under, because later changes speak of them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Weights
from forebay.engine.errors import StateError
from forebay.engine.state import Change, Frozen, whole
from forebay.engine.state.cold import NONE, ColdRows
from forebay.engine.state.rows import CHUNK, Ids, RowStore
from forebay.engine.state.tiers import TieredRows
from forebay.engine.state.view import ALWAYS
from forebay.kernels.rows import MASK, SHIFT

_PART = b"part"
_NOTE = b"note"
_ID = pa.field("__id", pa.int64(), False)
_WEIGHT = pa.field("__weight", pa.int64(), False)


class Saving:
    """How far some rows are saved. The two halves of the `State` contract, `changes` and `load`, are its own."""

    def __init__(self, rows: TieredRows) -> None:
        self._rows = rows
        self._saved_to = 1
        """Rows with ids below are saved."""
        self._void = False

    def renew(self) -> None:
        """What is saved is void: the next changes have the rows whole."""
        self._void = True

    def changes(self, full: bool) -> list[Change]:
        """See `State.changes`."""
        rows, anew = self._rows, full or self._void
        since, dead = (1 if anew else self._saved_to), rows.take_killed()
        batches: list[Change] = [_note(b"reset")] if self._void and not full else []
        if rows.dropped > ALWAYS:
            batches.append(_note(b"dropped", str(rows.dropped).encode()))
        dead = dead[dead < max(since, rows.hot.first)]
        if dead.size and not anew:
            batches.append(pa.RecordBatch.from_arrays([pa.array(dead)], schema=pa.schema([_ID], {_PART: b"dead"})))
        if rows.cold is not None and rows.hot.first > 1:  # also when all that was sealed is gone again
            batches += self._cold(rows.cold, anew)
        batches += [_Hot.of(rows, ids) for ids in rows.hot.ids(since=since)]
        self._saved_to = rows.hot.next_id
        self._void = False
        return batches

    def _cold(self, cold: ColdRows, anew: bool) -> list[pa.RecordBatch]:
        """Which segments there are; with `anew` also which of their rows are dead. Weights other than 1, each time."""
        hot = self._rows.hot
        note = {
            "segments": list(cold.segments),
            "dead": [s.dead for s in cold.segments.values()],
            "sealed_to": hot.first,
            "live": self._rows.live,
            "null_keys": hot.null_keys,
        }
        batches = [_note(b"cold", json.dumps(note).encode())]
        for chunk in [c for c in hot.weights.chunks if c < hot.first >> SHIFT]:
            values = hot.weights.chunks[chunk][: CHUNK * 8].view(np.int64)
            places = np.flatnonzero(values)
            columns = [pa.array(places + (chunk << SHIFT)), pa.array(values[places] + 1)]
            batches.append(pa.RecordBatch.from_arrays(columns, schema=pa.schema([_ID, _WEIGHT], {_PART: b"weights"})))
        if anew:
            batches.append(cold.dead.save().replace_schema_metadata({_PART: b"gone"}))
        return batches

    def load(self, changes: Iterable[Change]) -> None:
        """See `State.load`."""
        rows, saved = self._rows, _Saved()
        for batch in map(whole, changes):
            saved.take(batch)
        gone = np.concatenate([NONE, *saved.dead])
        sealed_to = saved.cold["sealed_to"] if saved.cold is not None else 1
        for batch in itertools.islice(map(whole, changes), saved.reset, None):  # rows are not kept until all is known
            if batch.schema.metadata[_PART] == b"rows" and batch.column(0)[0].as_py() >= sealed_to:
                ids, weights = batch.column(0).to_numpy(), batch.column(1).to_numpy()
                values = pa.RecordBatch.from_arrays(batch.columns[2:], schema=rows.schema)
                rows.live += rows.hot.restore(ids, values, weights, gone)
        if saved.cold is not None:
            self._load_cold(saved, saved.cold, gone)
        if saved.dropped is not None:
            rows.dropped = saved.dropped
        self._saved_to = rows.hot.next_id

    def _load_cold(self, saved: _Saved, note: dict[str, Any], gone: Ids) -> None:
        rows, hot, cold = self._rows, self._rows.hot, self._rows.cold
        if cold is None:
            raise StateError("a checkpoint has cold state, and there is no store for it")
        hot.begin(note["sealed_to"] >> SHIFT)
        cold.open(note["segments"], note.get("dead", ()))
        for batch in saved.gone:
            cold.dead.load(batch)
        cold.dead.set(gone[gone < hot.first])
        for batch in saved.weights:
            hot.weights.set(batch.column(0).to_numpy(), batch.column(1).to_numpy() - 1)
        rows.live, hot.null_keys = note["live"], note["null_keys"]


@dataclass(frozen=True, slots=True)
class _Hot(Frozen):
    """Hot rows of one chunk. They never change, so they are gathered when they are written, and a copy of all is not kept."""

    store: RowStore
    chunk: int
    places: npt.NDArray[np.uint16]
    weights: Weights | None
    """None: all are 1."""

    @classmethod
    def of(cls, rows: TieredRows, ids: Ids) -> _Hot:
        """Those with these ids."""
        chunk, weights = int(ids[0]) >> SHIFT, rows.weights(ids)
        places = (ids & MASK).astype(np.uint16)
        return cls(rows.hot.only(chunk), chunk, places, None if (weights == 1).all() else weights)

    def batch(self) -> pa.RecordBatch:
        ids = (self.chunk << SHIFT) + self.places.astype(np.int64)
        rows = self.store.gather(ids)
        weights = np.ones(ids.size, np.int64) if self.weights is None else self.weights
        schema = pa.schema([_ID, _WEIGHT, *rows.schema], {_PART: b"rows"})
        return pa.RecordBatch.from_arrays([pa.array(ids), pa.array(weights), *rows.columns], schema=schema)

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + (0 if self.weights is None else self.weights.nbytes)


@dataclass(slots=True)
class _Saved:
    """What the changes of several checkpoints add up to, but for the rows themselves."""

    taken: int = 0
    reset: int = 0
    """Changes before this one are void."""
    dead: list[Ids] = field(default_factory=list)
    cold: dict[str, Any] | None = None
    gone: list[pa.RecordBatch] = field(default_factory=list)
    weights: list[pa.RecordBatch] = field(default_factory=list)
    dropped: int | None = None

    def take(self, batch: pa.RecordBatch) -> None:
        """The next batch."""
        part, note = batch.schema.metadata[_PART], batch.schema.metadata.get(_NOTE)
        self.taken += 1
        if part == b"reset":
            self.reset, self.dead, self.cold, self.gone, self.weights = self.taken, [], None, [], []
        elif part == b"dead":
            self.dead.append(batch.column(0).to_numpy())
        elif part == b"dropped":
            self.dropped = int(note)
        elif part == b"cold":
            self.cold = json.loads(note)
        elif part == b"gone":
            self.gone.append(batch)
        elif part == b"weights":
            self.weights.append(batch)


def _note(part: bytes, text: bytes = b"") -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], pa.int64())], schema=pa.schema([_ID], {_PART: part, _NOTE: text}))
