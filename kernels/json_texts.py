"""Spans of JSON values to columns of text and bytes; see `kernels.json_values` for the contract."""

from __future__ import annotations

import numpy as np
from numba import int32, int64, types

from forebay.kernels.hash import i64_in, u8_in, u8_out
from forebay.kernels.jit import kernel, routine
from forebay.kernels.json_compact import SCRATCH, compact
from forebay.kernels.json_scan import ESCAPED, FALSE, INTEGER, NULL, STRING
from forebay.kernels.json_spans import begin_of, kind_of, set_bit, size_of
from forebay.kernels.memory import copy_bytes, load_u64, store_u8, store_u64
from forebay.kernels.words import address_of, byte_at

i32_out = types.Array(int32, 1, "C")


@kernel(int64(i64_in))
def text_room(spans):
    """Bytes that `texts` may write."""
    total = 0
    for i in range(spans.shape[0]):
        if kind_of(spans[i]) > NULL:
            total += size_of(spans[i])
    return total + 16


@routine
def _hex(c):
    return (c & 15) + (9 if c > 57 else 0)


@routine
def _four_hex(text, at):
    return (
        _hex(byte_at(text, at)) << 12
        | _hex(byte_at(text, at + 1)) << 8
        | _hex(byte_at(text, at + 2)) << 4
        | _hex(byte_at(text, at + 3))
    )


@routine
def _put_character(out, to, code):
    """Write a code point as UTF-8; returns the place behind it."""
    if code < 0x80:
        store_u8(out + to, code)
        return to + 1
    if code < 0x800:
        store_u8(out + to, 0xC0 | code >> 6)
        store_u8(out + to + 1, 0x80 | code & 63)
        return to + 2
    if code < 0x10000:
        store_u8(out + to, 0xE0 | code >> 12)
        store_u8(out + to + 1, 0x80 | code >> 6 & 63)
        store_u8(out + to + 2, 0x80 | code & 63)
        return to + 3
    store_u8(out + to, 0xF0 | code >> 18)
    store_u8(out + to + 1, 0x80 | code >> 12 & 63)
    store_u8(out + to + 2, 0x80 | code >> 6 & 63)
    store_u8(out + to + 3, 0x80 | code & 63)
    return to + 4


@routine
def _unescaped(text, at, end, out, to):
    """Write a string whose escapes are known to be well formed; returns the place behind it, -1 for half a surrogate pair."""
    while at < end:
        c = byte_at(text, at)
        if c != 92:
            store_u8(out + to, c)
            at += 1
            to += 1
            continue
        c = byte_at(text, at + 1)
        if c != 117:
            if c == 98:
                c = 8
            elif c == 102:
                c = 12
            elif c == 110:
                c = 10
            elif c == 114:
                c = 13
            elif c == 116:
                c = 9
            store_u8(out + to, c)
            at += 2
            to += 1
            continue
        code = _four_hex(text, at + 2)
        at += 6
        if 0xD800 <= code < 0xE000:
            if code >= 0xDC00 or at + 6 > end or byte_at(text, at) != 92 or byte_at(text, at + 1) != 117:
                return -1
            second = _four_hex(text, at + 2)
            if second < 0xDC00 or second > 0xDFFF:
                return -1
            code = 0x10000 + ((code - 0xD800) << 10) + second - 0xDC00
            at += 6
        to = _put_character(out, to, code)
    return to


@kernel(int64(u8_in, i64_in, i32_out, u8_out, u8_out, u8_out))
def texts(data, spans, offsets, out, bits, bad):
    """Strings; numbers and truth values as they are written; objects and arrays as compact JSON. Returns the number of NULLs.

    offsets: one more than spans; out: `text_room` bytes, of which offsets[-1] are used.
    """
    text, target = address_of(data), address_of(out)
    scratch = np.empty(SCRATCH, np.int64)
    nulls, to = 0, 0
    offsets[0] = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        if kind <= NULL:
            nulls += 1
        else:
            set_bit(bits, i)
            at, size = begin_of(spans[i]), size_of(spans[i])
            if kind > FALSE:
                behind = compact(text, at, at + size, data.shape[0], target, to, address_of(scratch))
                if behind < 0:
                    bad[i] = 1
                else:
                    to = behind
            elif kind == ESCAPED:
                behind = _unescaped(text, at, at + size, target, to)
                if behind < 0:
                    bad[i] = 1
                else:
                    to = behind
            elif size <= 16 and at + 16 <= data.shape[0]:
                store_u64(target + to, load_u64(text + at))
                store_u64(target + to + 8, load_u64(text + at + 8))
                to += size
            else:
                copy_bytes(target + to, text + at, size)
                to += size
            if kind == INTEGER and size == 2 and byte_at(text, at) == 45 and byte_at(text, at + 1) == 48:
                bad[i] = 1  # the integer -0 is 0
        offsets[i + 1] = to
    return nulls


@kernel(int64(u8_in, i64_in, u8_in, i32_out, u8_out, u8_out, u8_out))
def base64(data, spans, alphabet, offsets, out, bits, bad):
    """Bytes from padded base64. alphabet: the value of each character, 255 for none. Returns the number of NULLs."""
    text, target = address_of(data), address_of(out)
    nulls, to = 0, 0
    offsets[0] = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        if kind <= NULL:
            nulls += 1
        else:
            set_bit(bits, i)
            at, size = begin_of(spans[i]), size_of(spans[i])
            end = at + size
            if kind != STRING or size & 3 != 0:
                bad[i] = 1
            elif size > 0:
                padding = 0
                if byte_at(text, end - 1) == 61:
                    padding = 2 if byte_at(text, end - 2) == 61 else 1
                group, wrong, count = 0, 0, 0
                start = to
                while at < end - padding:
                    value = np.int64(alphabet[byte_at(text, at)])
                    wrong |= value
                    group = group << 6 | value & 63
                    count += 1
                    at += 1
                    if count == 4:
                        store_u8(target + to, group >> 16)
                        store_u8(target + to + 1, group >> 8)
                        store_u8(target + to + 2, group)
                        to += 3
                        group, count = 0, 0
                if padding == 1:
                    store_u8(target + to, group >> 10)
                    store_u8(target + to + 1, group >> 2)
                    to += 2
                    wrong |= (group & 3) << 6
                elif padding == 2:
                    store_u8(target + to, group >> 4)
                    to += 1
                    wrong |= (group & 15) << 6
                if wrong > 63:
                    bad[i] = 1
                    to = start
        offsets[i + 1] = to
    return nulls
