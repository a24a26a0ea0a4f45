"""Strings and bytes as text: what JSON escapes, base64, and fields of separated values.

A column is `data` and per value a start and an end in it; what `null` marks is empty (and `null` itself if there are no NULLs).
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int32, int64, types, uint8, void

from forebay.kernels.hash import i32_in, u8_in, u8_out
from forebay.kernels.jit import kernel, routine

i32_out = types.Array(int32, 1, "C")

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_BASE64 = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
_PAD, _BACKSLASH, _U, _ZERO, _HASH = (np.uint8(ord(c)) for c in "=\\u0#")
_TRUE, _FALSE = (np.frombuffer(w, np.uint8) for w in (b"true", b"false"))
ESCAPE_WIDTH = 6
"""The most bytes that one byte takes."""


def _short_escapes():
    short = np.zeros(256, np.uint8)
    for character, letter in zip('"\\\b\f\n\r\t', '"\\bfnrt'):
        short[ord(character)] = ord(letter)
    return short


_SHORT = _short_escapes()


@kernel(boolean(u8_in))
def needs_escapes(data):
    """Is there a quote, a backslash or a control character?"""
    found = uint8(0)
    for k in range(data.shape[0]):
        byte = data[k]
        found |= uint8(byte < 0x20) | uint8(byte == 0x22) | uint8(byte == 0x5C)
    return found != 0


@kernel(int64(u8_in, i32_in, i32_in))
def special_bytes(data, starts, ends):
    """How many bytes JSON escapes."""
    count = 0
    for i in range(starts.shape[0]):
        for k in range(starts[i], ends[i]):
            byte = data[k]
            count += int64(byte < 0x20) | int64(byte == 0x22) | int64(byte == 0x5C)
    return count


@kernel(void(u8_in, i32_in, i32_in, u8_in, u8_out, i32_out))
def escape(data, starts, ends, null, out, out_starts):
    """The content of JSON strings; out_starts[n] = the end."""
    at = 0
    for i in range(starts.shape[0]):
        out_starts[i] = at
        if null.shape[0] != 0 and null[i] != 0:
            continue
        for k in range(starts[i], ends[i]):
            byte = data[k]
            if byte >= 0x20 and byte != 0x22 and byte != 0x5C:
                out[at] = byte
                at += 1
                continue
            out[at] = _BACKSLASH
            if _SHORT[byte] != 0:
                out[at + 1] = _SHORT[byte]
                at += 2
                continue
            out[at + 1] = _U
            out[at + 2] = _ZERO
            out[at + 3] = _ZERO
            out[at + 4] = _DIGITS[byte >> 4]
            out[at + 5] = _DIGITS[byte & 15]
            at += 6
    out_starts[starts.shape[0]] = at


@kernel(void(u8_in, i32_in, i32_in, u8_in, u8_out, i32_out))
def base64(data, starts, ends, null, out, out_starts):
    """RFC 4648 with padding; out_starts[n] = the end."""
    at = 0
    for i in range(starts.shape[0]):
        out_starts[i] = at
        if null.shape[0] != 0 and null[i] != 0:
            continue
        for k in range(starts[i], ends[i], 3):
            left = ends[i] - k
            word = int64(data[k]) << 16
            if left > 1:
                word |= int64(data[k + 1]) << 8
            if left > 2:
                word |= int64(data[k + 2])
            out[at] = _BASE64[word >> 18]
            out[at + 1] = _BASE64[(word >> 12) & 63]
            out[at + 2] = _BASE64[(word >> 6) & 63] if left > 1 else _PAD
            out[at + 3] = _BASE64[word & 63] if left > 2 else _PAD
            at += 4
    out_starts[starts.shape[0]] = at


@kernel(void(u8_in, u8_in, u8_out, i32_out))
def boolean_text(values, null, out, starts):
    """'true' and 'false'; starts[n] = the end."""
    at = 0
    for i in range(values.shape[0]):
        starts[i] = at
        if null.shape[0] != 0 and null[i] != 0:
            continue
        word = _TRUE if values[i] != 0 else _FALSE
        for k in range(word.shape[0]):
            out[at + k] = word[k]
        at += word.shape[0]
    starts[values.shape[0]] = at


@routine
def _is_special(data, start, end, special):
    found = start < end and data[start] == _HASH
    for k in range(start, end):
        found |= special[data[k]] != 0
    return found


@kernel(int64(u8_in, i32_in, i32_in, u8_in))
def special_fields(data, starts, ends, special):
    """How many fields hold one of the 256 bytes that `special` marks, or begin like a comment."""
    count = 0
    for i in range(starts.shape[0]):
        count += int64(_is_special(data, starts[i], ends[i], special))
    return count


@kernel(void(u8_in, i32_in, i32_in, u8_in, u8_in, u8_in, u8_in, u8_out, i32_out))
def protect(data, starts, ends, special, before, quote, null, out, out_starts):
    """Fields, of which the `special_fields` stand between quotes (`quote` holds one or none), with the byte `before`[b] in front
    of every byte b where that is not 0; out_starts[n] = the end."""
    at = 0
    for i in range(starts.shape[0]):
        out_starts[i] = at
        if null.shape[0] != 0 and null[i] != 0:
            continue
        changed = _is_special(data, starts[i], ends[i], special)
        if changed and quote.shape[0] != 0:
            out[at] = quote[0]
            at += 1
        for k in range(starts[i], ends[i]):
            byte = data[k]
            if changed and before[byte] != 0:
                out[at] = before[byte]
                at += 1
            out[at] = byte
            at += 1
        if changed and quote.shape[0] != 0:
            out[at] = quote[0]
            at += 1
    out_starts[starts.shape[0]] = at
