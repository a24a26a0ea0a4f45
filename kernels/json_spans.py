"""Spans themselves (see `kernels.json_scan`): their parts, where the elements of arrays are, and choosing among them."""

from __future__ import annotations

import numpy as np
from numba import int32, int64, types, void

from forebay.kernels.hash import i32_in, i64_in, i64_out, u8_in, u8_out
from forebay.kernels.jit import inline, kernel, routine
from forebay.kernels.json_scan import INTEGER, LIST, LONGEST, MISSING, NULL, OBJECT, STRING
from forebay.kernels.words import address_of, byte_at

_offsets = types.Array(int32, 1, "C")


@routine
def kind_of(span):
    return span & 15


@routine
def begin_of(span):
    return span >> 32


@routine
def size_of(span):
    return (span >> 4) & LONGEST


@inline
def set_bit(bits, i):
    bits[i >> 3] |= np.uint8(1 << (i & 7))


@routine
def is_plain(kind):
    return kind == STRING or kind == INTEGER


@kernel(int64(i64_in, int64, u8_out, u8_out))
def containers(spans, wanted, bits, bad):
    """Validity of rows (`wanted` is OBJECT) or arrays (LIST). Returns the number of NULLs."""
    nulls = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        if kind <= NULL:
            nulls += 1
            continue
        set_bit(bits, i)
        if kind != wanted:
            bad[i] = 1
    return nulls


@kernel(int64(i64_in, _offsets))
def list_offsets(spans, offsets):
    """Offsets of the arrays' elements laid end to end; returns their number."""
    to = 0
    offsets[0] = 0
    for i in range(spans.shape[0]):
        if kind_of(spans[i]) == LIST:
            to += size_of(spans[i])
        offsets[i + 1] = to
    return to


@kernel(void(i64_in, i64_in, i64_out))
def list_elements(spans, at, out):
    """The numbers of the elements of all arrays, end to end; ~number where `at` (if given) says that the array is of the
    second set."""
    to = 0
    for i in range(spans.shape[0]):
        if kind_of(spans[i]) == LIST:
            first = begin_of(spans[i])
            second = at.shape[0] > 0 and at[i] < 0
            for k in range(size_of(spans[i])):
                out[to] = ~(first + k) if second else first + k
                to += 1


@kernel(void(i64_in, i32_in, u8_in, u8_out))
def spread(spans, offsets, element_bad, bad):
    """Marks the arrays that hold a marked element."""
    for i in range(spans.shape[0]):
        for k in range(offsets[i], offsets[i + 1]):
            bad[i] |= element_bad[k]


@kernel(void(i64_in, int64, int64, i64_in, i64_out))
def gather(spans, first, second, at, out):
    """out[j]: the span of row at[j] of the slot that begins at `first`; for negative ones of row ~at[j] of `second`."""
    for j in range(at.shape[0]):
        out[j] = spans[first + at[j]] if at[j] >= 0 else spans[second + ~at[j]]


@kernel(int64(i64_in, i64_in, i64_in, i64_out))
def overlay(former, at, old, out):
    """out[j] = old[j] where that is ~row of a given span among `former`, else at[j]. Returns how many are given."""
    given = 0
    for j in range(at.shape[0]):
        out[j] = at[j]
        if old[j] < 0 and former[~old[j]] != MISSING:
            out[j] = old[j]
            given += 1
    return given


@kernel(void(i64_in, i64_in, u8_out))
def absent(spans, parents, bad):
    """Marks the rows that lack the member altogether, though its object (if any) is there."""
    for i in range(spans.shape[0]):
        if spans[i] == MISSING and (parents.shape[0] == 0 or kind_of(parents[i]) == OBJECT):
            bad[i] = 1


@kernel(void(u8_in, i64_in, u8_in, i64_in, i64_out))
def codes(data, spans, names, name_offsets, out):
    """out[i]: which of the names (end to end; up to 8 bytes are compared at once) the string is, -1 if none."""
    text, name = address_of(data), address_of(names)
    for i in range(spans.shape[0]):
        out[i] = -1
        if kind_of(spans[i]) != STRING:
            continue
        at, size = begin_of(spans[i]), size_of(spans[i])
        for k in range(name_offsets.shape[0] - 1):
            since = name_offsets[k]
            if name_offsets[k + 1] - since != size:
                continue
            same = True
            for j in range(size):
                if byte_at(text, at + j) != byte_at(name, since + j):
                    same = False
                    break
            if same:
                out[i] = k
                break


@kernel(void(u8_in, i64_in, i64_in, u8_out, u8_out))
def changed(data, before, after, out, bad):
    """out[i] |= 1 where a value before, that is not NULL, differs from the one after, as JSON; marks what is not obvious."""
    text = address_of(data)
    for i in range(before.shape[0]):
        kind, other = kind_of(before[i]), kind_of(after[i])
        if kind <= NULL:
            continue
        if not is_plain(kind) or not (other <= NULL or other == kind):
            bad[i] = 1
            continue
        at, to, size = begin_of(before[i]), begin_of(after[i]), size_of(before[i])
        if kind == INTEGER and (byte_at(text, at) == 45 or byte_at(text, to) == 45) and size <= 2:
            bad[i] = 1  # perhaps -0
            continue
        same = other == kind and size == size_of(after[i])
        k = 0
        while same and k < size:
            same = byte_at(text, at + k) == byte_at(text, to + k)
            k += 1
        if not same:
            out[i] = 1
