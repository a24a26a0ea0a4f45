"""Spans of JSON values (see `shape`) to Arrow columns: the fast twin of `values`.

Everything here is exact or refused: a row that holds a value which a kernel cannot vouch for is marked `bad`, and its record is
read by the reference instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors.formats.documents import Malformed, parse
from forebay.connectors.formats.shape import Bytes, Indices, Scan, Slot
from forebay.connectors.formats.values import Rules, converter

_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_TENS = np.array([10**k for k in range(20)], np.uint64)
_ALPHABET = np.full(256, 255, np.uint8)
_ALPHABET[np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)] = np.arange(64)
_WORD = (1 << 64) - 1
_READ_BY_KERNELS = (
    pa.types.is_string,
    pa.types.is_binary,
    pa.types.is_boolean,
    pa.types.is_decimal128,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_signed_integer,
    pa.types.is_date32,
    pa.types.is_time32,
    pa.types.is_timestamp,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of a slot, or of its twin, make a column."""

    at: Indices
    """Row of the slot, or ~row of its twin."""
    distance: int = 0
    """From the slot to its twin."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Reads columns out of a scan under some rules."""

    scan: Scan
    rules: Rules

    def column(self, slot: Slot, bad: Bytes, choice: Choice | None = None) -> pa.Array:
        """The values of a slot, of all rows of its space in order or of chosen ones; bad rows are marked."""
        spans = self._spans(slot, choice)
        if self.rules.fail_on_missing:
            _kernels().absent(spans, _NO_SPANS, bad)
        return self._read(slot, spans, choice, bad)

    def instants(self, slot: Slot, bad: Bytes, choice: Choice, type_: pa.DataType, nanos: int) -> pa.Array:
        """Numbers of `nanos` nanoseconds since 1970, whole and of up to 18 digits, as a timestamp type."""
        kernels, spans, n = _kernels(), self._spans(slot, choice), len(choice.at)
        bits, out = _bits(n), np.empty(n, np.int64)
        unit = 10 ** (9 - _DIGITS[type_.unit])
        bound = min(10**17, ((1 << 63) - 1) // max(nanos // unit, 1)) - 1
        nulls = kernels.integers(self.scan.data, spans, -bound, bound, out, bits, bad)
        kinds = spans & 15
        bad |= (kinds > kernels.NULL) & (kinds != kernels.INTEGER)
        moments = out * (nanos // unit) if nanos >= unit else out // (unit // nanos)
        return _fixed(type_, n, bits, nulls, moments)

    def utc(self, slot: Slot, bad: Bytes, choice: Choice, type_: pa.DataType) -> pa.Array:
        """Timestamps in text that have no zone but mean UTC."""
        kernels, spans, n = _kernels(), self._spans(slot, choice), len(choice.at)
        bits, out = _bits(n), np.empty(n, np.int64)
        data, digits = self.scan.data, _DIGITS[type_.unit]
        nulls = kernels.moments(data, spans, kernels.TIMESTAMP, digits, False, False, out, bits, bad)
        bad |= (spans & 15 > kernels.NULL) & ((spans >> 4) & kernels.LONGEST <= len("yyyy-MM-dd"))  # 'Z' needs a time
        return _fixed(type_, n, bits, nulls, out)

    def compare(self, slot: Slot, before: Choice, after: Choice, changed: Bytes, bad: Bytes) -> None:
        """Mark the rows whose value before, unless NULL, differs from the one after, and those where that is not obvious."""
        _kernels().changed(self.scan.data, self._spans(slot, before), self._spans(slot, after), changed, bad)

    def _spans(self, slot: Slot, choice: Choice | None) -> Indices:
        scan = self.scan
        if choice is None:
            return scan.spans(slot)
        spans = np.empty(len(choice.at), np.int64)
        bases = scan.bases
        _kernels().gather(scan.flat, bases[slot.number], bases[slot.number + choice.distance], choice.at, spans)
        return spans

    def _read(self, slot: Slot, spans: Indices, choice: Choice | None, bad: Bytes) -> pa.Array:
        type_ = slot.type
        if pa.types.is_struct(type_):
            return self._struct(slot, spans, choice, bad)
        if pa.types.is_list(type_):
            return self._list(slot, spans, choice, bad)
        if any(is_kind(type_) for is_kind in _READ_BY_KERNELS):
            return _leaf(type_, self.scan.data, spans, self.rules.epochs, bad)
        return self._one_by_one(type_, spans, bad)

    def _one_by_one(self, type_: pa.DataType, spans: Indices, bad: Bytes) -> pa.Array:
        """Objects as a type without a kernel (MAP), by the reference."""
        kernels, convert = _kernels(), converter(type_, self.rules)
        values: list[Any] = [None] * len(spans)
        for i, span in enumerate(spans.tolist()):
            if span & 15 == kernels.OBJECT:
                start = span >> 32
                try:
                    values[i] = convert(parse(self.scan.data[start : start + (span >> 4 & kernels.LONGEST)].tobytes()))
                except Malformed:
                    bad[i] = 1
            elif span & 15 > kernels.NULL:
                bad[i] = 1
        return pa.array(values, type_)

    def _struct(self, slot: Slot, spans: Indices, choice: Choice | None, bad: Bytes) -> pa.Array:
        kernels, n = _kernels(), len(spans)
        bits = _bits(n)
        nulls = kernels.containers(spans, kernels.OBJECT, bits, bad)
        children = []
        for below in slot.members.values():
            inner = self._spans(below, choice)
            if self.rules.fail_on_missing:
                kernels.absent(inner, spans, bad)
            children.append(self._read(below, inner, choice, bad))
        return pa.Array.from_buffers(slot.type, n, [_validity(bits, nulls)], nulls, children=children)

    def _list(self, slot: Slot, spans: Indices, choice: Choice | None, bad: Bytes) -> pa.Array:
        assert slot.element is not None
        kernels, n = _kernels(), len(spans)
        bits, offsets = _bits(n), np.empty(n + 1, np.int32)
        nulls = kernels.containers(spans, kernels.LIST, bits, bad)
        size = kernels.list_offsets(spans, offsets)
        inner = None
        if choice is not None:
            inner = Choice(np.empty(size, np.int64), choice.distance)
            kernels.list_elements(spans, choice.at, inner.at)
        marks = np.zeros(size, np.uint8)
        elements = self._read(slot.element, self._spans(slot.element, inner), inner, marks)
        if marks.any():
            kernels.spread(spans, offsets, marks, bad)
        buffers = [_validity(bits, nulls), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(slot.type, n, buffers, nulls, children=[elements])


def overlaid(former: Indices, at: Indices, old: Indices) -> Indices:
    """Where values are: at ~row of `former` that `old` names, if that is given, else at the row that `at` names."""
    out = np.empty(len(at), np.int64)
    return out if _kernels().overlay(former, at, old, out) else at


_NO_SPANS = np.empty(0, np.int64)


def _kernels() -> Any:
    from forebay.kernels import json_values  # compiled, or loaded, by processes that read JSON only

    return json_values


@cache
def _fives() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The first 128 bits of 5**k for k from -342 to 308, in two words; rounded up for negative k, else cut."""
    powers = []
    for k in range(-342, 309):
        power = 5 ** abs(k)
        if k < 0:
            power = (
                1 << (power - 1).bit_length() + 127 if k >= -27 else 1 << 2 * (power - 1).bit_length() + 128
            ) // power + 1
        excess = power.bit_length() - 128
        powers.append(power >> excess if excess >= 0 else power << -excess)
    return np.array([p >> 64 for p in powers], np.uint64), np.array([p & _WORD for p in powers], np.uint64)


def _bits(n: int) -> Bytes:
    return np.zeros((n + 7) // 8, np.uint8)


def _validity(bits: Bytes, nulls: int) -> pa.Buffer | None:
    return pa.py_buffer(bits) if nulls else None


def _leaf(type_: pa.DataType, data: Bytes, spans: Indices, epochs: bool, bad: Bytes) -> pa.Array:
    """A column of scalars."""
    kernels, n = _kernels(), len(spans)
    bits = _bits(n)
    if pa.types.is_string(type_):
        offsets, text = np.empty(n + 1, np.int32), np.empty(kernels.text_room(spans), np.uint8)
        nulls = kernels.texts(data, spans, offsets, text, bits, bad)
        return _variable(type_, n, bits, nulls, offsets, text)
    if pa.types.is_binary(type_):
        offsets, text = np.empty(n + 1, np.int32), np.empty(kernels.text_room(spans), np.uint8)
        nulls = kernels.base64(data, spans, _ALPHABET, offsets, text, bits, bad)
        return _variable(type_, n, bits, nulls, offsets, text)
    if pa.types.is_boolean(type_):
        truths = _bits(n)
        return _fixed(type_, n, bits, kernels.booleans(data, spans, truths, bits, bad), truths)
    if pa.types.is_decimal(type_):
        limit = 10**type_.precision
        pairs = np.empty((n, 2), np.uint64)
        words = np.array([limit & _WORD, limit >> 64], np.uint64)
        return _fixed(type_, n, bits, kernels.decimals(data, spans, type_.scale, _TENS, words, pairs, bits, bad), pairs)
    if pa.types.is_floating(type_):
        numbers = np.empty(n, np.float64)
        nulls = kernels.floats(data, spans, type_.bit_width == 32, *_fives(), numbers, bits, bad)
        return _fixed(type_, n, bits, nulls, numbers.astype(type_.to_pandas_dtype(), copy=False))
    out = np.empty(n, np.int64)
    if pa.types.is_temporal(type_):
        nulls = kernels.moments(data, spans, *_moment(type_), epochs, out, bits, bad)
    else:
        bound = 1 << type_.bit_width - 1
        nulls = kernels.integers(data, spans, -bound, bound - 1, out, bits, bad)
    return _fixed(type_, n, bits, nulls, out if type_.bit_width == 64 else out.astype(f"i{type_.bit_width // 8}"))


def _moment(type_: pa.DataType) -> tuple[int, int, bool]:
    """What `moments` is to read: the kind, digits of the fraction, whether with a zone."""
    kernels = _kernels()
    if pa.types.is_date(type_):
        return kernels.DATE, 0, False
    if pa.types.is_time(type_):
        return kernels.TIME, 3, False
    return kernels.TIMESTAMP, _DIGITS[type_.unit], type_.tz is not None


def _fixed(type_: pa.DataType, n: int, bits: Bytes, nulls: int, values: Any) -> pa.Array:
    return pa.Array.from_buffers(type_, n, [_validity(bits, nulls), pa.py_buffer(values)], nulls)


def _variable(type_: pa.DataType, n: int, bits: Bytes, nulls: int, offsets: Any, text: Bytes) -> pa.Array:
    buffers = [_validity(bits, nulls), pa.py_buffer(offsets), pa.py_buffer(text[: offsets[-1]])]
    return pa.Array.from_buffers(type_, n, buffers, nulls)
