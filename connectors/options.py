"""Typed reading of option values: numbers, booleans, durations ('500 ms', '1 min') and sizes ('128 mb'), as Flink writes them.

Every function takes the options of a table and an `Option` (its default included) and raises `OptionError` that names the
option, the value and what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping

from forebay.engine import optionkinds as kinds
from forebay.engine.connector import Option
from forebay.engine.errors import OptionError
from forebay.engine.optionkinds import Kind
from forebay.engine.secrets import is_secret


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
    number = kinds.integer(value)
    if number is None or (least is not None and number < least):
        raise bad_value(option, value, kinds.wanted(Kind.INTEGER, least))
    return number


def boolean(options: Mapping[str, str], option: Option) -> bool:
    """'true' or 'false', in any case."""
    value = required(options, option)
    if not kinds.fits(Kind.BOOLEAN, value):
        raise bad_value(option, value, kinds.wanted(Kind.BOOLEAN))
    return value.lower() == "true"


def duration(options: Mapping[str, str], option: Option) -> float:
    """Seconds, from a number and a unit; without a unit milliseconds, as in Flink."""
    value = required(options, option)
    amount = kinds.quantity(value, kinds.SECONDS)
    if amount is None:
        raise bad_value(option, value, kinds.wanted(Kind.DURATION))
    return float(amount)


def size(options: Mapping[str, str], option: Option) -> int:
    """Bytes, from a number and a unit of powers of 1024; without a unit bytes."""
    value = required(options, option)
    amount = kinds.quantity(value, kinds.BYTES)
    if amount is None:
        raise bad_value(option, value, kinds.wanted(Kind.SIZE))
    return int(amount)
