"""How fast a log of records grows, from the times of its records: offsets at some times of the past, no record is read for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from forebay.engine.connector import Rate

P = TypeVar("P")
_SPANS = (("hour", 3600), ("day", 86_400), ("30 days", 30 * 86_400), ("10 years", 3650 * 86_400))
"""The shortest that has records is taken, in seconds."""
_LEAST = 60.0
"""Seconds over which a rate may be measured: what was loaded at once tells nothing of one."""


def recent_rate(
    partitions: Sequence[P],
    now: int,
    bounds: Callable[[P], tuple[int, int]],
    offset_at: Callable[[P, int], int],
    first_time: Callable[[P], int | None],
) -> Rate | None:
    """Records per second over the last hour, or a longer span if none came in that. None: there are none, or none is older than
    a minute.

    Times in ms since 1970. `bounds`: the first offset and the next; `offset_at`: of the first record that is not older than a
    time, or the next; `first_time`: of the first record.
    """
    ends = {p: bounds(p) for p in partitions}
    for name, seconds in _SPANS:
        since = now - seconds * 1000
        firsts = {p: max(offset_at(p, since), low) for p, (low, high) in ends.items() if low < high}
        count = sum(ends[p][1] - first for p, first in firsts.items())
        if count <= 0:
            continue
        if all(first == ends[p][0] for p, first in firsts.items()):  # the log is younger than the span
            begun = [t for p in firsts if (t := first_time(p)) is not None]
            since = max([since, min(begun)]) if begun else since
        span = (now - since) / 1000
        if span < _LEAST:
            return None
        return Rate(count / span, f"{count} records in the last {_told(span) if span < 0.9 * seconds else name}")
    return None


def _told(seconds: float) -> str:
    for name, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
