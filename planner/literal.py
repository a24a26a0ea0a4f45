"""Types and constants of DataFusion's serialized expressions: protobuf messages to Arrow types and `Literal`s.

A constant's Python value is what pyarrow gives for the type: `datetime` would lose nanoseconds, so timestamps, dates,
times and durations are kept as integers in the type's unit; decimals are `Decimal`, intervals `pa.MonthDayNano`.
"""

from __future__ import annotations

import struct
from decimal import Context, Decimal

import pyarrow as pa

from forebay.engine.errors import InternalError, UnsupportedError
from forebay.planner.expr import Literal
from forebay.planner.wire import Message

_PLAIN = {
    1: pa.null(), 2: pa.bool_(), 3: pa.uint8(), 4: pa.int8(), 5: pa.uint16(), 6: pa.int16(), 7: pa.uint32(),
    8: pa.int32(), 9: pa.uint64(), 10: pa.int64(), 11: pa.float16(), 12: pa.float32(), 13: pa.float64(),
    14: pa.string(), 15: pa.binary(), 17: pa.date32(), 18: pa.date64(), 23: pa.month_day_nano_interval(),
    31: pa.large_binary(), 32: pa.large_string(), 34: pa.binary(), 35: pa.string(),
}  # fmt: skip
_UNITS = ("s", "ms", "us", "ns")
_INTEGERS = {
    4: pa.int8(), 5: pa.int16(), 6: pa.int32(), 7: pa.int64(), 8: pa.uint8(), 9: pa.uint16(), 10: pa.uint32(),
    11: pa.uint64(), 14: pa.date32(), 21: pa.date64(), 35: pa.duration("s"), 36: pa.duration("ms"),
    37: pa.duration("us"), 38: pa.duration("ns"),
}  # fmt: skip
_TEXTS = {2, 3, 23}
_BLOBS = {22, 28, 29}
_NESTED = {16, 17, 18, 32, 41}
_DECIMALS = {20: pa.decimal128, 39: pa.decimal256, 43: pa.decimal32, 44: pa.decimal64}
_EXACT = Context(prec=80)


def data_type(message: Message) -> pa.DataType:
    """The Arrow type of a type message. View types come back as plain ones.

    Raises:
        UnsupportedError: a type that Forebay does not carry.
    """
    number = message.one_of()
    if number is None:
        raise InternalError("an empty type")
    if number in _PLAIN:
        return _PLAIN[number]
    if number in (19, 21, 22):
        unit = _UNITS[message.uint(number)]
        return pa.duration(unit) if number == 19 else pa.time32(unit) if number == 21 else pa.time64(unit)
    if number == 16:
        return pa.binary(message.uint(16))
    m = message.message(number)
    match number:
        case 20:
            return pa.timestamp(_UNITS[m.uint(1)], tz=m.text(2) or None)
        case 24:
            return pa.decimal128(m.uint(3), m.sint(4))
        case 36:
            return pa.decimal256(m.uint(3), m.sint(4))
        case 40 | 41:
            return pa.decimal128(m.uint(3), m.sint(4))
        case 25 | 26 | 27:
            return pa.list_(_field(m.message(1)))
        case 28:
            return pa.struct([_field(f) for f in m.messages(1)])
        case 30:
            return data_type(m.message(2))
        case 33:
            key, item = _entries(m.message(1))
            return pa.map_(key, item)
    raise UnsupportedError(f"a column type is not supported (type {number} of the planner)")


def _field(message: Message) -> pa.Field:
    return pa.field(message.text(1), data_type(message.message(2)), message.flag(3))


def _entries(field: Message) -> tuple[pa.Field, pa.Field]:
    """Key and item field of a map's entries."""
    entries = _field(field).type
    return entries.field(0), entries.field(1)


def scalar(message: Message) -> Literal:
    """The constant of a scalar value message.

    Raises:
        UnsupportedError: a kind of constant that Forebay does not carry.
    """
    number = message.one_of()
    if number is None:
        return Literal(None, pa.null())
    if number == 1:
        return Literal(message.flag(1), pa.bool_())
    if number in _TEXTS:
        return Literal(message.text(number), pa.string())
    if number in _BLOBS:
        return Literal(message.raw(number), pa.binary())
    if number in _INTEGERS:
        arrow = _INTEGERS[number]
        return Literal(message.uint(number) if str(arrow).startswith("uint") else message.sint(number), arrow)
    match number:
        case 12:
            return Literal(message.float32(12), pa.float32())
        case 13:
            return Literal(message.float64(13), pa.float64())
        case 24:
            return Literal(pa.MonthDayNano([message.sint(24), 0, 0]), pa.month_day_nano_interval())
        case 33:
            return Literal(None, data_type(message.message(33)))
    m = message.message(number)
    if number in _NESTED:
        return _nested(m)
    if number in _DECIMALS:
        unscaled = int.from_bytes(m.raw(1), "big", signed=True)
        value = Decimal(unscaled).scaleb(-m.sint(3), _EXACT)
        make = pa.decimal256 if number == 39 else pa.decimal128
        return Literal(value, make(m.uint(2), m.sint(3)))
    match number:
        case 15:
            part = m.one_of() or 2
            return Literal(m.sint(part), pa.time32("s" if part == 1 else "ms"))
        case 30:
            part = m.one_of() or 1
            return Literal(m.sint(part), pa.time64("us" if part == 1 else "ns"))
        case 25:
            return Literal(pa.MonthDayNano([0, m.sint(1), m.sint(2) * 1_000_000]), pa.month_day_nano_interval())
        case 26:
            return _timestamp(m)
        case 27:
            return scalar(m.message(2))
        case 31:
            return Literal(pa.MonthDayNano([m.sint(1), m.sint(2), m.sint(3)]), pa.month_day_nano_interval())
    raise UnsupportedError(f"a constant is not supported (kind {number} of the planner)")


def _timestamp(m: Message) -> Literal:
    units = {1: "us", 2: "ns", 3: "s", 4: "ms"}
    part = next(n for n in m.fields if n in units)
    return Literal(m.sint(part), pa.timestamp(units[part], tz=m.text(5) or None))


def _nested(m: Message) -> Literal:
    """A list, struct or map constant: an Arrow IPC record batch of one row, without the framing."""
    schema = pa.schema([_field(f) for f in m.message(3).messages(1)])
    head = m.raw(1)
    head += b"\0" * (-len(head) % 8)
    buffer = pa.py_buffer(struct.pack("<Ii", 0xFFFFFFFF, len(head)) + head + m.raw(2))
    column = pa.ipc.read_record_batch(pa.ipc.read_message(buffer), schema).column(0)
    return Literal(column[0].as_py(), column.type)
