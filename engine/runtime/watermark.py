"""Event-time watermarks of a scan: per split the highest watermark seen, over all splits the least.

A split that has been silent for the idle timeout does not hold the others back. Event times further ahead of the clock than
`max_future` pass, but do not advance the watermark: one row of the year 9999 must not close every window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.operators.base import MAX_WATERMARK

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True, slots=True)
class WatermarkSpec:
    """How a scan's watermark follows from its rows. Times in µs."""

    evaluate: Callable[[pa.RecordBatch], pa.Array]
    """The watermark expression per row: a timestamp column, NULL where there is none."""
    max_future: int | None = None
    """None: no limit (bounded inputs)."""
    idle_timeout: int | None = None
    """None: a silent split holds the watermark for ever."""
    group: str | None = None
    """Scans of one group are read at one pace: none is further ahead of the slowest than `max_drift`."""
    max_drift: int = 0


class WatermarkTracker:
    """The watermark of one scan. Splits are known by their index in the reader."""

    def __init__(self, spec: WatermarkSpec) -> None:
        self._spec = spec
        self._highest: list[int | None] = []
        self._last_seen: list[int] = []
        self._current: int | None = None
        self.ignored_future = 0

    def observe(self, rows: pa.RecordBatch, split: npt.NDArray[np.int32] | None, splits: int, now: int) -> None:
        """Take a batch in; `split` holds a split index per row (None: all of split 0)."""
        self._grow(splits, now)
        micros, valid = to_micros(self._spec.evaluate(rows))
        if self._spec.max_future is not None:
            far = valid & (micros > now + self._spec.max_future)
            self.ignored_future += int(far.sum())
            valid &= ~far
        if split is None:
            self._raise_to(0, micros[valid], now)
            return
        for index in np.unique(split):
            self._raise_to(int(index), micros[valid & (split == index)], now)

    def current(self, splits: int, finished: bool, now: int) -> int | None:
        """The scan's watermark; never goes back."""
        if finished:
            self._current = MAX_WATERMARK
            return self._current
        self._grow(splits, now)
        idle = self._spec.idle_timeout
        awake = [high for high, seen in zip(self._highest, self._last_seen) if idle is None or now - seen < idle]
        known = [high for high in awake if high is not None]
        if awake and len(known) == len(awake):
            least = min(known)
            self._current = least if self._current is None else max(self._current, least)
        return self._current

    @property
    def told(self) -> int | None:
        """What `current` gave last."""
        return self._current

    def save(self) -> dict[str, Any]:
        """A JSON value for the checkpoint, which is written later: nothing in it changes any more."""
        return {"highest": list(self._highest), "current": self._current}

    def load(self, saved: Mapping[str, Any], now: int) -> None:
        """Continue from `save`'s value; every split counts as just seen."""
        self._highest = list(saved["highest"])
        self._last_seen = [now] * len(self._highest)
        self._current = saved["current"]

    def _grow(self, splits: int, now: int) -> None:
        while len(self._highest) < splits:
            self._highest.append(None)
            self._last_seen.append(now)

    def _raise_to(self, index: int, micros: npt.NDArray[np.int64], now: int) -> None:
        self._last_seen[index] = now
        if micros.size:
            top = int(micros.max())
            before = self._highest[index]
            self._highest[index] = top if before is None else max(before, top)


def to_micros(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """A timestamp column as (int64 µs, validity); NULLs have any value."""
    per_second = _PER_SECOND[column.type.unit]
    valid = np.asarray(column.is_valid())
    values = np.asarray(column.cast(pa.int64()).fill_null(0), dtype=np.int64)
    if per_second < 10**6:
        values = values * (10**6 // per_second)
    elif per_second > 10**6:
        values = values // (per_second // 10**6)
    return values, valid
