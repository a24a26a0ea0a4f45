"""Typed reading of option values: numbers, booleans, durations ('500 ms', '1 min') and sizes ('128 mb'), as Flink writes them.

Every function takes the options of a table and an `Option` (its default included) and raises `OptionError` that names the
option, the value and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from forebay.engine.connector import Option
from forebay.engine.errors import OptionError
from forebay.engine.secrets import is_secret

_QUANTITY = re.compile(r"\s*(\d+)\s*([a-zA-Zµ]*)\s*")

_SECONDS = {
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("", "ms", "milli", "millis", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("µs", "us", "micro", "micros", "microsecond", "microseconds"), 1e-6),
}
_BYTES = {
    **dict.fromkeys(("", "b", "bytes"), 1),
    **dict.fromkeys(("k", "kb", "kibibytes"), 1 << 10),
    **dict.fromkeys(("m", "mb", "mebibytes"), 1 << 20),
    **dict.fromkeys(("g", "gb", "gibibytes"), 1 << 30),
    **dict.fromkeys(("t", "tb", "tebibytes"), 1 << 40),
}


def bad_value(option: Option, value: str, wanted: str) -> OptionError:
    """The error for a value that cannot be read."""
    shown = "******" if option.secret or is_secret(option.name) else value
    return OptionError(f"option '{option.name}' cannot be '{shown}'", hint=f"give {wanted}")


def text(options: Mapping[str, str], option: Option) -> str | None:
    """The value, else the default, else None."""
    return options.get(option.name, option.default)


def required(options: Mapping[str, str], option: Option) -> str:
    """The value or default of an option that must have one."""
    value = text(options, option)
    if value is None:
        raise OptionError(f"option '{option.name}' is missing", hint=option.doc)
    return value


def integer(options: Mapping[str, str], option: Option, least: int | None = None) -> int:
    """A whole number, at least `least`."""
    value = required(options, option)
    wanted = "a whole number" if least is None else f"a whole number of at least {least}"
    try:
        number = int(value)
    except ValueError:
        raise bad_value(option, value, wanted) from None
    if least is not None and number < least:
        raise bad_value(option, value, wanted)
    return number


def boolean(options: Mapping[str, str], option: Option) -> bool:
    """'true' or 'false', in any case."""
    value = required(options, option)
    if value.lower() not in ("true", "false"):
        raise bad_value(option, value, "'true' or 'false'")
    return value.lower() == "true"


def duration(options: Mapping[str, str], option: Option) -> float:
    """Seconds, from a number and a unit; without a unit milliseconds, as in Flink."""
    value = required(options, option)
    amount = _quantity(value, _SECONDS)
    if amount is None:
        raise bad_value(option, value, "a duration such as '500 ms', '10 s' or '1 h'")
    return float(amount)


def size(options: Mapping[str, str], option: Option) -> int:
    """Bytes, from a number and a unit of powers of 1024; without a unit bytes."""
    value = required(options, option)
    amount = _quantity(value, _BYTES)
    if amount is None:
        raise bad_value(option, value, "a size such as '100b', '64 kb' or '128 mb'")
    return int(amount)


def _quantity(value: str, units: Mapping[str, float]) -> float | None:
    found = _QUANTITY.fullmatch(value)
    if not found or found[2].lower() not in units:
        return None
    return int(found[1]) * units[found[2].lower()]
