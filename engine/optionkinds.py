"""What the values of options are: numbers, booleans, durations ('500 ms', '1 min') and sizes ('128 mb') as Flink writes them.

One reading serves the check when a table is made and the use later, so what is accepted once can be used.
"""

from __future__ import annotations

import re
from enum import Enum

_QUANTITY = re.compile(r"\s*(\d+)\s*([a-zA-Zµ]*)\s*")
SECONDS = {
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("", "ms", "milli", "millis", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("µs", "us", "micro", "micros", "microsecond", "microseconds"), 1e-6),
}
BYTES = {
    **dict.fromkeys(("", "b", "bytes"), 1),
    **dict.fromkeys(("k", "kb", "kibibytes"), 1 << 10),
    **dict.fromkeys(("m", "mb", "mebibytes"), 1 << 20),
    **dict.fromkeys(("g", "gb", "gibibytes"), 1 << 30),
    **dict.fromkeys(("t", "tb", "tebibytes"), 1 << 40),
}


class Kind(Enum):
    """What a value must be; the text says so in an error's hint."""

    TEXT = "a text"
    INTEGER = "a whole number"
    BOOLEAN = "'true' or 'false'"
    DURATION = "a duration such as '500 ms', '10 s' or '1 h'"
    SIZE = "a size such as '100b', '64 kb' or '128 mb'"
    PATTERN = "a regular expression"


def wanted(kind: Kind, least: int | None = None) -> str:
    """What to give, in words."""
    return kind.value if least is None else f"{kind.value} of at least {least}"


def fits(kind: Kind, value: str, least: int | None = None) -> bool:
    """Whether a value is of the kind; `least`: of a whole number."""
    match kind:
        case Kind.INTEGER:
            number = integer(value)
            return number is not None and (least is None or number >= least)
        case Kind.BOOLEAN:
            return value.lower() in ("true", "false")
        case Kind.DURATION:
            return quantity(value, SECONDS) is not None
        case Kind.SIZE:
            return quantity(value, BYTES) is not None
        case Kind.PATTERN:
            return _compiles(value)
    return True


def integer(value: str) -> int | None:
    """A whole number, None if it is none."""
    try:
        return int(value)
    except ValueError:
        return None


def quantity(value: str, units: dict[str, float] | dict[str, int]) -> float | None:
    """A number and a unit as one number, None if it cannot be read."""
    found = _QUANTITY.fullmatch(value)
    if not found or found[2].lower() not in units:
        return None
    return int(found[1]) * units[found[2].lower()]


def _compiles(value: str) -> bool:
    try:
        re.compile(value)
    except re.error:
        return False
    return True
