"""Arrow columns as numpy arrays and back: the one place that reads raw Arrow buffers, with offsets and bitmaps minded.

A *value view* may hold anything where the column is NULL. Nested and other rare types have no view; they go through Python
values in a canonical, hashable form.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forebay.kernels import hash as kernels

Mask = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_NULL_HASH = np.uint64(0x7FB5D329728EA185)
_DTYPES = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_TEXT = {pa.string().id, pa.binary().id}
_PAIR = {pa.decimal128(1).id, pa.month_day_nano_interval().id}
_FIXED = {
    *(t.id for t in (pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())),
    *(t.id for t in (pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64())),
    *(t.id for t in (pa.time32("ms"), pa.time64("us"), pa.timestamp("us"), pa.duration("us"))),
}
"""Arrow type ids; a set look-up is what the hot path can afford per column and batch."""
_UNSIGNED = {t.id for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())}
_FLOATS = {t.id for t in (pa.float16(), pa.float32(), pa.float64())}
_BOOL = pa.bool_().id


def is_text(kind: pa.DataType) -> bool:
    """Is it a type of byte strings?"""
    return kind.id in _TEXT


def is_pair(kind: pa.DataType) -> bool:
    """Does a value take 16 bytes?"""
    return kind.id in _PAIR


def is_fixed(kind: pa.DataType) -> bool:
    """Does a value take 1, 2, 4 or 8 bytes, or one bit?"""
    return kind.id in _FIXED


def is_null(array: pa.Array) -> Mask:
    """True where the column is NULL: a fresh bool[n]."""
    n = len(array)
    if pa.types.is_null(array.type):
        return np.ones(n, bool)
    if not array.null_count:
        return np.zeros(n, bool)
    bitmap = array.buffers()[0]
    if bitmap is None:
        return np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)
    return ~_bits(bitmap, array.offset, n)


def _bits(buffer: pa.Buffer, offset: int, n: int) -> Mask:
    start = offset // 8
    raw = np.frombuffer(buffer, np.uint8, count=(offset + n + 7) // 8 - start, offset=start)
    return np.unpackbits(raw, count=offset % 8 + n, bitorder="little")[offset % 8 :].astype(bool)


def raw(array: pa.Array) -> npt.NDArray[Any]:
    """The value view of an `is_fixed` column in the signed integer (or, for BOOLEAN, uint8) of its width."""
    n = len(array)
    kind = array.type
    if kind.id == _BOOL:
        return _bits(array.buffers()[1], array.offset, n).view(np.uint8) if n else np.zeros(0, np.uint8)
    dtype = np.dtype(_DTYPES[kind.bit_width // 8])
    data = array.buffers()[1]
    if data is None or n == 0:
        return np.zeros(n, dtype)
    return np.frombuffer(data, dtype, count=n, offset=array.offset * dtype.itemsize)


def ordinals(array: pa.Array) -> npt.NDArray[np.int64] | None:
    """The values of a column as integers in the order of its type; None if that has none, or there are NULLs."""
    kind = array.type
    if array.null_count or not (pa.types.is_signed_integer(kind) or (pa.types.is_temporal(kind) and is_fixed(kind))):
        return None
    return raw(array).astype(np.int64, copy=False)


def pairs(array: pa.Array) -> UInt64s:
    """The value view of an `is_pair` column: uint64[n, 2], low word first."""
    n = len(array)
    if n == 0:
        return np.zeros((0, 2), np.uint64)
    return np.frombuffer(array.buffers()[1], np.uint64, count=2 * n, offset=16 * array.offset).reshape(n, 2)


def text(array: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """(offsets int32[n + 1], bytes) of an `is_text` column."""
    n = len(array)
    _, offsets, data = array.buffers()
    if n == 0 or offsets is None:
        return np.zeros(n + 1, np.int32), np.zeros(0, np.uint8)
    places = np.frombuffer(offsets, np.int32, count=n + 1, offset=4 * array.offset)
    return places, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)


def integers(array: pa.Array) -> Int64s:
    """A BOOLEAN, integer, date, time or timestamp column as int64[n]; uint64 by its bits."""
    values = raw(array)
    if array.type.id in _UNSIGNED:
        values = values.view(values.dtype.str.replace("i", "u"))
    return values if values.dtype == np.int64 else values.astype(np.int64)


def doubles(array: pa.Array) -> npt.NDArray[np.float64]:
    """A number column as float64[n]."""
    kind = array.type
    if pa.types.is_float64(kind):
        return raw(array).view(np.float64)
    if pa.types.is_float32(kind):
        return raw(array).view(np.float32).astype(np.float64)
    return np.asarray(array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False))


def decimals(array: pa.Array) -> tuple[UInt64s, UInt64s]:
    """(low words, high words) of a DECIMAL column."""
    words = pairs(array)
    return np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])


def canonical(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A copy with one zero and one NaN."""
    out = np.empty(values.shape[0], np.uint64)
    kernels.canonical_f64(np.ascontiguousarray(values), out)
    return out.view(np.float64)


def fixed_array(values: npt.NDArray[Any], null: Mask | None, kind: pa.DataType) -> pa.Array:
    """The column of an `is_fixed` or `is_pair` type with these values, as `raw` and `pairs` give them."""
    n = values.shape[0]
    if kind.id == _BOOL:
        values = np.packbits(values.astype(bool), bitorder="little")
    validity, nulls = None, 0
    if null is not None and null.any():
        validity, nulls = pa.py_buffer(np.packbits(~null, bitorder="little")), int(null.sum())
    return pa.Array.from_buffers(kind, n, [validity, pa.py_buffer(np.ascontiguousarray(values))], nulls)


def decimal_array(words: UInt64s, null: Mask | None, kind: pa.DataType) -> pa.Array:
    """The DECIMAL column of uint64[n, 2] words, low first."""
    return fixed_array(words, null, kind)


def integer_array(values: Int64s, null: Mask | None, kind: pa.DataType) -> pa.Array:
    """The column of a type that `integers` reads, wrapping to its width."""
    if pa.types.is_boolean(kind) or kind.bit_width == 64:
        return fixed_array(values, null, kind)
    return fixed_array(values.astype(_DTYPES[kind.bit_width // 8]), null, kind)


def text_array(
    offsets: npt.NDArray[np.int32], data: npt.NDArray[np.uint8], null: Mask | None, kind: pa.DataType
) -> pa.Array:
    """The text column with these offsets and bytes."""
    validity, nulls = None, 0
    if null is not None and null.any():
        validity, nulls = pa.py_buffer(np.packbits(~null, bitorder="little")), int(null.sum())
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, offsets.shape[0] - 1, buffers, nulls)


def canonical_value(value: Any) -> Any:
    """A hashable form of a Python value in which equal SQL values are equal."""
    if isinstance(value, float):
        return ("NaN",) if math.isnan(value) else value + 0.0
    if isinstance(value, list | tuple):
        return tuple(canonical_value(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, canonical_value(v)) for k, v in value.items())
    return value


def as_list(array: pa.Array) -> tuple[Int64s, pa.Array]:
    """(lengths, elements) of an `is_list` column, NULLs as empty; the elements of a MAP are ROW<key, value>."""
    kind = array.type
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    lengths = pc.list_value_length(array).cast(pa.int64()).fill_null(0).to_numpy()
    return lengths, array.flatten()


def is_list(kind: pa.DataType) -> bool:
    """Is it a type of lists or maps?"""
    return bool(pa.types.is_list(kind) or pa.types.is_map(kind) or pa.types.is_fixed_size_list(kind))


def _rare_words(array: pa.Array) -> UInt64s:
    """A hash per value of a nested or rare type."""
    kind, out = array.type, np.zeros(len(array), np.uint64)
    if pa.types.is_struct(kind):
        for number, child in enumerate(array.flatten()):
            _hash_column(child, out, number == 0)
        return out
    if is_list(kind):
        lengths, elements = as_list(array)
        words = np.zeros(len(elements), np.uint64)
        _hash_column(elements, words, True)
        kernels.fold_lists(lengths, words, out)
        return out
    digests = [hashlib.blake2b(repr(canonical_value(v)).encode(), digest_size=8).digest() for v in array.to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint64)


def hash_rows(batch: pa.RecordBatch, columns: Sequence[int]) -> UInt64s:
    """A hash per row over `columns`, equal for equal values: NULL equals NULL, NaN equals NaN, -0.0 equals 0.0.

    Hashes of a single NOT NULL column of up to 8 bytes are equal only for equal values.
    """
    out = np.zeros(batch.num_rows, np.uint64)
    for number, column in enumerate(columns):
        _hash_column(batch.column(column), out, number == 0)
    return out


def _hash_column(array: pa.Array, out: UInt64s, start: bool) -> None:
    before = out.copy() if array.null_count else out
    kind = array.type
    if is_text(kind):
        (kernels.hash_strings if start else kernels.combine_strings)(*text(array), out)
    elif is_pair(kind):
        low, high = decimals(array)
        (kernels.hash_words if start else kernels.combine_words)(low, out)
        kernels.combine_words(high, out)
    else:
        if kind.id in _FLOATS:
            words = canonical(doubles(array)).view(np.uint64)
        elif is_fixed(kind):
            words = integers(array).view(np.uint64)
        elif pa.types.is_null(kind):
            words = np.zeros(len(array), np.uint64)
        else:
            words = _rare_words(array)
        (kernels.hash_words if start else kernels.combine_words)(words, out)
    if array.null_count:
        kernels.null_hashes((~is_null(array)).view(np.uint8), before, out)


def rank_of(values: pa.Array) -> npt.NDArray[np.int64]:
    """int64[n]: equal values have equal ranks from 1 on, greater ones greater; NULL has 0."""
    ranks = np.array(pc.rank(values, sort_keys="ascending", tiebreaker="dense"), dtype=np.int64)
    if values.null_count:
        ranks[is_null(values)] = 0
    return ranks
