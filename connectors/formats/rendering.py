"""Columns to JSON text, one renderer per column type: numbers, times and strings by kernels, nested types by assembling.

Numbers and times look as Flink writes them: 1.0 keeps its fraction, NaN is a word, 1E-7 is plain with
'decimal-as-plain-number', fractions of seconds lose trailing zeros. Types of no SQL column go through Arrow's cast to text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.connectors.formats.fragments import (
    NOTHING,
    Bytes,
    Frame,
    Template,
    Text,
    assemble,
    marks,
    passed,
    room,
    room_for_offsets,
)
from forebay.engine.state import arrays
from forebay.kernels import digits, strings, times

Render = Callable[[pa.Array], Text]

_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


@dataclass(frozen=True, slots=True)
class Style:
    """How values are written."""

    iso: bool = False
    """Timestamps with 'T'."""
    plain_decimals: bool = False
    skip_nulls: bool = False
    """Leave out NULL fields."""
    quotes: bytes = b'""'
    """What encloses strings, and all that JSON has no type for."""
    escapes: bool = True
    """Whether strings are escaped."""


def renderer(type_: pa.DataType, style: Style) -> Render:
    """What renders columns of a type."""
    kind = pa.types
    if kind.is_string(type_):
        return lambda array: _strings(array, style)
    if kind.is_boolean(type_):
        return _booleans
    if kind.is_signed_integer(type_):
        return _integers
    if kind.is_float32(type_) or kind.is_float64(type_):
        return lambda array: _floats(array, style)
    if kind.is_decimal128(type_) and type_.scale >= 0:
        return lambda array: _decimals(array, style)
    if kind.is_binary(type_):
        return lambda array: _base64(array, style)
    if kind.is_temporal(type_):
        return _temporal(type_, style)
    if kind.is_struct(type_):
        return _structs(type_, style)
    if kind.is_map(type_):
        return _maps(type_, style)
    if kind.is_list(type_):
        return lists(renderer(type_.value_type, style), b",", b"null", b"[]")
    return lambda array: passed(array.cast(pa.string()))


def label(name: str) -> bytes:
    """A separator and the name of a member."""
    return f",{json.dumps(name, ensure_ascii=False)}:".encode()


def object_template(
    names: Sequence[str], style: Style, plain: Frame = (b"", b""), marked: Frame = (b"", b"")
) -> Template:
    """Members of an object, without its braces, between the frames of a `Template`."""
    return Template([label(name) for name in names], plain, marked, drop=1, skip=style.skip_nulls)


def _rendered(kernel: Callable[..., Any], n: int, width: int, null: Bytes, *arguments: Any) -> Text:
    """What a kernel writes that takes (arguments..., null, out, starts), at most `width` bytes a value."""
    out, offsets = room((n + 1) * width), room_for_offsets(n)
    kernel(*arguments, null, out, offsets)
    return Text.of(out, offsets, null)


def _bracketed(text: Text, brackets: bytes) -> Text:
    return Text(text.data, text.starts, text.ends, text.null, brackets)


def _booleans(array: pa.Array) -> Text:
    return _rendered(strings.boolean_text, len(array), 5, marks(array), arrays.raw(array))


def _integers(array: pa.Array) -> Text:
    return _rendered(digits.integer_text, len(array), digits.WIDTH, marks(array), arrays.integers(array))


def _floats(array: pa.Array, style: Style) -> Text:
    bits, mantissa = arrays.raw(array), 52
    if bits.dtype == np.int32:
        bits, mantissa = bits.view(np.uint32).astype(np.uint64), 23
    quoted = bool(style.quotes)
    null = marks(array)
    return _rendered(digits.float_text, len(array), digits.WIDTH, null, bits.view(np.uint64), mantissa, quoted)


def _decimals(array: pa.Array, style: Style) -> Text:
    low, high = arrays.decimals(array)
    scale, plain = array.type.scale, style.plain_decimals
    return _rendered(digits.decimal_text, len(array), digits.WIDTH, marks(array), low, high, scale, plain)


def _temporal(type_: pa.DataType, style: Style) -> Render:
    """Dates, times and timestamps; TIMESTAMP_LTZ ends in 'Z'."""
    stamp = pa.types.is_timestamp(type_)
    dated, timed = stamp or pa.types.is_date(type_), not pa.types.is_date(type_)
    zoned = stamp and type_.tz is not None
    separator = ord("T" if style.iso and stamp else " ")
    unit = _DIGITS[type_.unit] if timed else 0

    def render(array: pa.Array) -> Text:
        moments = arrays.integers(array)
        text = _rendered(
            times.time_text, len(array), times.WIDTH, marks(array), moments, unit, dated, timed, separator, zoned
        )
        return _bracketed(text, style.quotes)

    return render


def _strings(array: pa.Array, style: Style) -> Text:
    text = passed(array, style.quotes)
    if not style.escapes or not len(array) or not strings.needs_escapes(text.data[text.starts[0] : text.ends[-1]]):
        return text
    special = strings.special_bytes(text.data, text.starts, text.ends)
    size = int(text.ends[-1]) - int(text.starts[0]) + (strings.ESCAPE_WIDTH - 1) * special
    return _bracketed(rewritten(strings.escape, text, size), style.quotes)


def _base64(array: pa.Array, style: Style) -> Text:
    text = passed(array)
    return _bracketed(rewritten(strings.base64, text, 4 * len(array) + 4 * text.nbytes // 3), style.quotes)


def rewritten(kernel: Callable[..., Any], text: Text, size: int, *arguments: Any) -> Text:
    """What a kernel makes of the bytes of every value, `size` bytes in all at most."""
    out, offsets = room(size), room_for_offsets(len(text.starts))
    kernel(text.data, text.starts, text.ends, *arguments, text.null, out, offsets)
    return Text.of(out, offsets, text.null)


def _structs(type_: pa.DataType, style: Style) -> Render:
    renders = [renderer(field.type, style) for field in type_]
    template = object_template([field.name for field in type_], style)

    def render(array: pa.StructArray) -> Text:
        columns = [render(array.field(i)) for i, render in enumerate(renders)]
        return Text.of(*assemble(template, columns, len(array)), marks(array), b"{}")

    return render


def _maps(type_: pa.DataType, style: Style) -> Render:
    keys, items = renderer(type_.key_type, style), renderer(type_.item_type, style)
    entry = Template([b"", b":"])

    def entries(array: pa.StructArray) -> Text:
        columns = [keys(array.field(0)), items(array.field(1))]
        return Text.of(*assemble(entry, columns, len(array)), NOTHING)

    return lists(entries, b",", b"null", b"{}")


def lists(elements: Render, separator: bytes, null: bytes, brackets: bytes) -> Render:
    """Elements with a separator between them: each is a record of its own, so a list is a run of records."""
    template = Template([separator], null=null)

    def render(array: pa.ListArray | pa.MapArray) -> Text:
        if not len(array):
            return Text.of(NOTHING, np.zeros(1, np.int32), NOTHING)
        bounds = arrays.raw(array.offsets)
        first, last = int(bounds[0]), int(bounds[-1])
        data, offsets = assemble(template, [elements(array.values.slice(first, last - first))], last - first)
        starts, ends = offsets[bounds[:-1] - first], offsets[bounds[1:] - first]
        starts += (ends > starts).astype(np.int32) * len(separator)
        return Text(data, starts, ends, marks(array), brackets)

    return render
