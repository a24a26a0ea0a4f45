"""How far an operator looks back: what a time to live (TTL) means, epoch by epoch.

H is the least of the watermarks of the operator's inputs as they were when the epoch began; a row is visible while its time is at
least H − TTL, its side's *bound*. Time is event time where the side has a watermark, else the processing time at which a row
came, and then the clock is that side's watermark. Three rules make it safe:

    an input that has ended (its watermark is MAX) says nothing more about time: the others alone tell H, and when all have
        ended H stays, so that the last rows of bounded inputs are joined before anything expires
    before every input has a watermark nothing expires
    a bound never goes back: what has expired stays so, also when the TTL becomes longer, or the clock jumps

Bounds and watermarks are state: they are in the checkpoint, and go back with a failed epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from forebay.engine.operators.base import MAX_WATERMARK, Turn
from forebay.engine.state import State
from forebay.engine.state.times import NEVER

ALWAYS = -NEVER
"""The bound of a side that sees all its rows."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long rows of one input are visible, and by which clock. `ttl` in µs; None: for ever."""

    ttl: int | None = None
    arrival: bool = False
    """Its rows are dated by when they came, not by event time."""
    table: str = ""
    """The table whose option says so, for when it changes; empty: none does."""


class Horizon(State):
    """Bounds per input, moved on by `advance` at the start of each epoch."""

    def __init__(self, lives: Sequence[Lifetime]) -> None:
        self.lives = list(lives)
        self.bounds = [ALWAYS] * len(lives)
        self.late = 0
        """Rows that had expired when they came."""
        self._marks: list[int | None] = [None] * len(lives)
        self._committed = self._value()

    def __bool__(self) -> bool:
        return any(life.ttl is not None for life in self.lives)

    def advance(self, turn: Turn) -> None:
        """An epoch begins."""
        seen = turn.watermarks if turn.initial else self._marks
        marks = [turn.now if life.arrival else mark for life, mark in zip(self.lives, seen)]
        self._marks = list(turn.watermarks)
        known = [m for m in marks if m is not None and m != MAX_WATERMARK]
        if None in marks or not known:
            return
        for i, life in enumerate(self.lives):
            if life.ttl is not None:
                self.bounds[i] = max(self.bounds[i], min(known) - life.ttl)

    def set_ttl(self, index: int, ttl: int | None) -> None:
        """From the next epoch on. A longer one brings nothing back."""
        self.lives[index] = replace(self.lives[index], ttl=ttl)

    def _value(self) -> tuple[list[int], list[int | None], int]:
        return list(self.bounds), list(self._marks), self.late

    def nbytes(self) -> int:
        return 64

    def rows(self) -> int:
        return 1

    def commit(self) -> None:
        self._committed = self._value()

    def rollback(self) -> None:
        bounds, marks, self.late = self._committed
        self.bounds, self._marks = list(bounds), list(marks)

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        columns = {
            "bounds": pa.array(self.bounds, pa.int64()),
            "marks": pa.array(self._marks, pa.int64()),
            "late": pa.array([self.late] * len(self.bounds), pa.int64()),
        }
        return [pa.record_batch(columns)]

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            self.bounds, self._marks = batch.column(0).to_pylist(), batch.column(1).to_pylist()
            self.late = batch.column(2)[0].as_py()
        self._committed = self._value()
