"""JSON values to SQL values, one at a time: what each type accepts, exactly.

A converter takes a parsed value (see `documents`) and returns what `pyarrow.array(..., type)` takes: numbers of days, of
milliseconds or of the timestamp's unit for temporal types. Text is accepted where Flink accepts it ('12' for an INT). Unlike
Flink, what does not fit is refused rather than changed: 1.5 for an INT, a decimal with too many integer digits; surplus
fraction digits of a DECIMAL round half up, those of a timestamp are cut, as in Flink. Temporal text may use 'T' or a space
whatever the standard, since neither reading is ambiguous.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import pyarrow as pa

from forebay.connectors.formats.documents import Instant, Literal, Malformed, Number, kind, text_of
from forebay.engine.errors import OptionError
from forebay.engine.types import from_arrow

Converter = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """How strictly to read."""

    null_on_error: bool = False
    """A value that cannot be read is NULL ('ignore-parse-errors')."""
    fail_on_missing: bool = False
    epochs: bool = False
    """Temporal columns take numbers, in Debezium's units: days; µs of the day; ms, µs or ns since 1970 by precision."""


_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)
_WIDE = Context(prec=80, rounding=ROUND_HALF_UP)
_LONGEST_NUMBER = 400
_DAY = 86400 * 10**9
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}


def converter(type_: pa.DataType, rules: Rules) -> Converter:
    """The converter of a type; None passes as None.

    Raises:
        OptionError: the type has no JSON form (INTERVAL).
    """
    convert = _strict(type_, rules)

    def nullable(value: Any) -> Any:
        return None if value is None else convert(value)

    def lenient(value: Any) -> Any:
        try:
            return None if value is None else convert(value)
        except Malformed:
            return None

    return lenient if rules.null_on_error else nullable


def _strict(type_: pa.DataType, rules: Rules) -> Converter:
    if pa.types.is_struct(type_):
        return _row(type_, rules)
    if pa.types.is_map(type_):
        return _map(type_, rules)
    if pa.types.is_list(type_):
        return _array(type_, rules)
    if pa.types.is_boolean(type_):
        return _boolean
    if pa.types.is_integer(type_):
        return _integer(type_)
    if pa.types.is_floating(type_):
        return _float32 if type_ == pa.float32() else _float64
    if pa.types.is_decimal(type_):
        return _decimal(type_)
    if pa.types.is_string(type_):
        return _string
    if pa.types.is_binary(type_):
        return _bytes
    if pa.types.is_date(type_):
        return _date(rules)
    if pa.types.is_time(type_):
        return _time(rules)
    if pa.types.is_timestamp(type_):
        return _timestamp(type_, rules)
    raise OptionError(f"a column of type {from_arrow(type_)} has no JSON form", hint="cast it to STRING")


def _wrong(wanted: str, value: Any) -> Malformed:
    shown = f" {str(value)[:40]!r}" if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return Malformed(f"expected {wanted}, found {kind(value)}{shown}")


def _scalar_text(value: Any, wanted: str) -> str:
    """The text of a number or string, trimmed; anything else is refused."""
    if isinstance(value, bool | list | dict | Literal):
        raise _wrong(wanted, value)
    text = str(value).strip()
    if len(text) > _LONGEST_NUMBER:
        raise Malformed(f"expected {wanted}, found {len(text)} characters")
    return text


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = _scalar_text(value, "a boolean").lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise _wrong("a boolean", value)


def _integer(type_: pa.DataType) -> Converter:
    bits = type_.bit_width
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if pa.types.is_signed_integer(type_) else (0, (1 << bits) - 1)
    name = str(from_arrow(type_))

    def convert(value: Any) -> int:
        number = value if type(value) is int else _whole(value, name)
        if not low <= number <= high:
            raise Malformed(f"{_short(value)} is out of range for {name}")
        return int(number)

    return convert


def _whole(value: Any, name: str) -> int:
    text = _scalar_text(value, name)
    if _WHOLE.fullmatch(text):
        return int(text)
    number = _parse_decimal(text, value, name)
    if number.adjusted() > 40 or number != number.to_integral_value(context=_WIDE):
        raise _wrong(name, value)
    return int(number)


def _parse_decimal(text: str, value: Any, name: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise _wrong(name, value)
    number = Decimal(text)
    if number and abs(number.adjusted()) > 4000:
        raise Malformed(f"{_short(value)} is out of range for {name}")
    return number


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _float64(value: Any) -> float:
    text = _scalar_text(value, "DOUBLE")
    if text in _SPECIAL and not isinstance(value, Number):
        return _SPECIAL[text]
    if not _NUMBER.fullmatch(text):
        raise _wrong("DOUBLE", value)
    number = float(text)
    if math.isinf(number):
        raise Malformed(f"{_short(value)} is out of range for DOUBLE")
    return number


def _float32(value: Any) -> float:
    text = _scalar_text(value, "FLOAT")
    if text in _SPECIAL:
        return _SPECIAL[text]
    if not _NUMBER.fullmatch(text):
        raise _wrong("FLOAT", value)
    number = float(pa.scalar(text.lstrip("+")).cast(pa.float32()).as_py()) if abs(float(text)) < 1e39 else math.inf
    if math.isinf(number):
        raise Malformed(f"{_short(value)} is out of range for FLOAT")
    return number


def _decimal(type_: pa.DataType) -> Converter:
    quantum, integers = Decimal(1).scaleb(-type_.scale), type_.precision - type_.scale
    name = f"DECIMAL({type_.precision}, {type_.scale})"

    def convert(value: Any) -> Decimal:
        number = _parse_decimal(_scalar_text(value, name), value, name)
        if number and number.adjusted() >= integers:
            raise Malformed(f"{_short(value)} is out of range for {name}")
        rounded = number.quantize(quantum, context=_WIDE)
        if rounded and rounded.adjusted() >= integers:
            raise Malformed(f"{_short(value)} is out of range for {name}")
        return rounded

    return convert


def _string(value: Any) -> str:
    text = str(value) if isinstance(value, str) else text_of(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Malformed("a string holds half of a surrogate pair") from None
    return text


def _bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise _wrong("a base64 string", value)
    try:
        return binascii.a2b_base64(value.encode(), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _wrong("a base64 string", value) from None


_DAYS_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365)


def _days(year: int, month: int, day: int, value: Any) -> int:
    """Days since 1970 of a date of the proleptic Gregorian calendar; year 0 exists."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if 1 <= month <= 12:
        length = _DAYS_BEFORE_MONTH[month] - _DAYS_BEFORE_MONTH[month - 1] + (leap and month == 2)
        if 1 <= day <= length:
            past = year - 1
            before = past * 365 + past // 4 - past // 100 + past // 400
            return before + _DAYS_BEFORE_MONTH[month - 1] + (leap and month > 2) + day - 719163
    raise Malformed(f"{_short(value)!r} is no date of the calendar")


def _moment(value: Any, wanted: str, text: str) -> tuple[int, int, int, str | None]:
    """Days since 1970, nanoseconds of the day, offset in seconds, and the zone's text."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise _wrong(wanted, value)
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    h, m, s = int(hour or 0), int(minute or 0), int(second or 0)
    if h > 23 or m > 59 or s > 59:
        raise Malformed(f"{_short(value)!r} is no time of a day")
    offset = 0
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        if int(digits[:2]) > 23 or int(digits[2:]) > 59:
            raise _wrong(wanted, value)
        offset = (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * (-1 if zone[0] == "-" else 1)
    nanos = (h * 3600 + m * 60 + s) * 10**9 + int((fraction or "").ljust(9, "0"))
    return _days(int(year), int(month), int(day), value), nanos, offset, zone


def _date(rules: Rules) -> Converter:
    def convert(value: Any) -> int:
        if isinstance(value, Instant):
            return _bounded(value.nanos // _DAY, 32, value, "DATE")
        if rules.epochs and type(value) is int:
            return _bounded(value, 32, value, "DATE")
        if type(value) is not str or len(value) != 10:
            raise _wrong("a date 'yyyy-MM-dd'", value)
        return _moment(value, "a date 'yyyy-MM-dd'", value)[0]

    return convert


def _time(rules: Rules) -> Converter:
    def convert(value: Any) -> int:
        if isinstance(value, Instant) or (rules.epochs and type(value) is int):
            millis = value.nanos // 10**6 if isinstance(value, Instant) else value // 1000
            if not 0 <= millis < 86_400_000:
                raise Malformed(f"{value} is no time of a day")
            return int(millis)
        if type(value) is not str:
            raise _wrong("a time 'HH:mm:ss'", value)
        _, nanos, _, zone = _moment(value, "a time 'HH:mm:ss'", f"1970-01-01 {value}")
        if zone:
            raise _wrong("a time without zone", value)
        return nanos // 10**6

    return convert


def _timestamp(type_: pa.DataType, rules: Rules) -> Converter:
    digits, zoned = _UNIT_DIGITS[type_.unit], type_.tz is not None
    wanted = "a timestamp 'yyyy-MM-dd HH:mm:ss.SSSZ'" if zoned else "a timestamp 'yyyy-MM-dd HH:mm:ss.SSS'"

    def convert(value: Any) -> int:
        if isinstance(value, Instant):
            return _bounded(value.nanos // 10 ** (9 - digits), 64, value, f"TIMESTAMP({digits})")
        if rules.epochs and type(value) is int:
            return _bounded(value, 64, value, f"TIMESTAMP({digits})")
        if type(value) is not str:
            raise _wrong(wanted, value)
        days, nanos, offset, zone = _moment(value, wanted, value)
        if (zone is not None) != zoned:
            raise _wrong(wanted, value)
        total = ((days * 86400 - offset) * 10**9 + nanos) // 10 ** (9 - digits)
        return _bounded(total, 64, value, f"TIMESTAMP({digits})")

    return convert


def _bounded(number: int, bits: int, value: Any, name: str) -> int:
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise Malformed(f"{_short(value)} is out of range for {name}")
    return number


def _row(type_: pa.DataType, rules: Rules) -> Converter:
    fields = [(f.name, field_converter(f, rules)) for f in type_]

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong("an object", value)
        return {name: read(value) for name, read in fields}

    return convert


def field_converter(field: pa.Field, rules: Rules) -> Callable[[Mapping[str, Any]], Any]:
    """Reads one field out of an object; errors name the field."""
    name, convert = field.name, converter(field.type, rules)

    def read(document: Mapping[str, Any]) -> Any:
        if rules.fail_on_missing and name not in document:
            raise Malformed(f"field '{name}' is missing")
        try:
            return convert(document.get(name))
        except Malformed as error:
            raise Malformed(f"field '{name}': {error}") from None

    return read


def _array(type_: pa.DataType, rules: Rules) -> Converter:
    convert = converter(type_.value_type, rules)

    def elements(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong("an array", value)
        return [convert(v) for v in value]

    return elements


def _map(type_: pa.DataType, rules: Rules) -> Converter:
    if not pa.types.is_string(type_.key_type):
        raise OptionError("a MAP in JSON needs STRING keys", hint="declare it MAP<STRING, ...>")
    convert = converter(type_.item_type, rules)

    def entries(value: Any) -> list[tuple[str, Any]]:
        if not isinstance(value, dict):
            raise _wrong("an object", value)
        return [(_string(k), convert(v)) for k, v in value.items()]

    return entries
