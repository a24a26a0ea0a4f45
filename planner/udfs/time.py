"""Functions on dates and times; the current time is one value per epoch, set by whoever drives the epochs.

Java's date patterns (yyyy-MM-dd HH:mm:ss) are translated once per pattern.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa

from forebay.engine.errors import DataError
from forebay.planner.udfs import ArrowFunction, per_row

_S, _I, _L, _US = pa.string(), pa.int32(), pa.int64(), pa.timestamp("us")


class EpochClock:
    """The processing time that NOW() and its kin read: fixed while an epoch runs, the system's clock otherwise."""

    def __init__(self) -> None:
        self._micros: int | None = None

    def set(self, micros: int | None) -> None:
        """Fixes the time at `micros` since 1970, or lets it follow the system's clock again (None)."""
        self._micros = micros

    def micros(self) -> int:
        return time.time_ns() // 1000 if self._micros is None else self._micros


CLOCK = EpochClock()

_JAVA = re.compile(r"'((?:[^']|'')*)'|([a-zA-Z])\2*|%")
_TOKENS = {
    "yyyy": "%Y", "uuuu": "%Y", "yy": "%y", "y": "%Y", "MMMM": "%B", "MMM": "%b", "MM": "%m", "M": "%-m", "dd": "%d",
    "d": "%-d", "HH": "%H", "H": "%-H", "hh": "%I", "h": "%-I", "mm": "%M", "m": "%-M", "ss": "%S", "s": "%-S",
    "a": "%p", "E": "%a", "EE": "%a", "EEE": "%a", "EEEE": "%A", "DDD": "%j", "SSS": "%3f", "SSSSSS": "%6f",
    "SSSSSSSSS": "%9f",
}  # fmt: skip


@cache
def java_pattern(pattern: str) -> str:
    """A Java date pattern in the words of strftime, with %3f, %6f and %9f for fractions of a second.

    Raises:
        DataError: a letter that is not supported.
    """

    def translate(found: re.Match[str]) -> str:
        text = found.group(0)
        if text == "%":
            return "%%"
        if text.startswith("'"):
            return (found.group(1).replace("''", "'") or "'").replace("%", "%%")
        if text not in _TOKENS:
            raise DataError(
                f"'{text}' in the date pattern '{pattern}' is not supported", hint="put plain text in single quotes"
            )
        return _TOKENS[text]

    return _JAVA.sub(translate, pattern)


def format_time(at: dt.datetime, pattern: str) -> str:
    """The time under a Java pattern."""
    form = java_pattern(pattern)
    for digits in (3, 6, 9):
        form = form.replace(f"%{digits}f", f"{at.microsecond:06}".ljust(9, "0")[:digits])
    return at.strftime(form)


def parse_time(text: str, pattern: str) -> dt.datetime | None:
    """The time that a text gives under a Java pattern; None if it does not fit."""
    form = re.sub(r"%[369]f", "%f", java_pattern(pattern)).replace("%-", "%")
    try:
        return dt.datetime.strptime(text, form)
    except ValueError:
        return None


def convert_tz(text: str, source: str, target: str) -> str | None:
    """A time without zone in `source` as the same instant's time in `target`; None if it cannot be read."""
    at = parse_time(text, "yyyy-MM-dd HH:mm:ss")
    try:
        zones = ZoneInfo(source), ZoneInfo(target)
    except (ZoneInfoNotFoundError, ValueError):
        return None
    return None if at is None else at.replace(tzinfo=zones[0]).astimezone(zones[1]).strftime("%Y-%m-%d %H:%M:%S")


def months_between(start: dt.datetime, end: dt.datetime) -> int:
    """Whole months from start to end, negative if the end is earlier."""
    if end < start:
        return -months_between(end, start)
    months = (end.year - start.year) * 12 + end.month - start.month
    rest = (end.day, end.time()) < (start.day, start.time())
    return months - 1 if rest else months


def _now(unit: str, tz: str | None) -> ArrowFunction:
    kind = pa.timestamp(unit, tz=tz)

    def apply(marker: pa.Array) -> pa.Array:
        value = pa.scalar(CLOCK.micros() // 1000, kind)
        return pa.repeat(value, len(marker))

    return ArrowFunction("current_timestamp" if tz else "localtimestamp", (_I,), kind, apply, volatile=True)


def _today(marker: pa.Array) -> pa.Array:
    return pa.repeat(pa.scalar(CLOCK.micros() // 86_400_000_000, pa.date32()), len(marker))


def _time_of_day(marker: pa.Array) -> pa.Array:
    return pa.repeat(pa.scalar(CLOCK.micros() % 86_400_000_000 // 1000, pa.time32("ms")), len(marker))


def _unix_now(marker: pa.Array) -> pa.Array:
    return pa.array(np.full(len(marker), CLOCK.micros() // 1_000_000, np.int64))


TIME_FUNCTIONS = (
    _now("ms", "UTC"),
    _now("ms", None),
    ArrowFunction("current_date", (_I,), pa.date32(), _today, volatile=True),
    ArrowFunction("localtime", (_I,), pa.time32("ms"), _time_of_day, volatile=True),
    ArrowFunction("unix_timestamp", (_I,), _L, _unix_now, volatile=True),
    ArrowFunction("date_format", (_US, _S), _S, per_row(format_time, _S)),
    ArrowFunction("parse_timestamp", (_S, _S), pa.timestamp("ms"), per_row(parse_time, pa.timestamp("ms"))),
    ArrowFunction("convert_tz", (_S, _S, _S), _S, per_row(convert_tz, _S)),
    ArrowFunction("months_between", (_US, _US), _L, per_row(months_between, _L)),
)
