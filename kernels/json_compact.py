"""Objects and arrays as text: JSON that is known to be valid, without its white space, as `documents.text_of` writes it.

Given up, and left to the reference, where more than white space may have to change: escapes of characters (\\u, \\/), the
integer -0, and repeated names, of which a document keeps the last. Names are compared by their length and first bytes, so
some objects with similar names are given up too.
"""

from __future__ import annotations

import numpy as np

from forebay.kernels.jit import routine
from forebay.kernels.json_scan import LEVELS, string_end
from forebay.kernels.memory import copy_bytes, load_i64, store_i64, store_u8
from forebay.kernels.words import byte, byte_at, word

NAMES = 256
SCRATCH = LEVELS + 1 + NAMES
"""Words that `compact` needs: per level the number of names above it, then the marks of all names that are open."""

_QUOTE, _BACKSLASH, _COMMA, _MINUS, _ZERO, _DOT = 34, 92, 44, 45, 48, 46
_LBRACE, _RBRACE, _LBRACKET, _RBRACKET = 123, 125, 91, 93
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@routine
def _plain_escapes(text, at, end):
    """Whether the escapes of a string are those that are written again as they are."""
    while at < end:
        c = byte_at(text, at)
        if c == _BACKSLASH:
            c = byte_at(text, at + 1)
            if c == 117 or c == 47:
                return False
            at += 1
        at += 1
    return True


@routine
def _mark(text, at, end, size):
    """A number that is equal for equal names."""
    length = end - at
    head = word(text, at, size)
    if length < 8:
        head &= (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    else:
        head ^= word(text, end - 8, size) * _GOLDEN
    return np.int64((head ^ np.uint64(length)) * _GOLDEN)


@routine
def compact(text, at, end, size, out, to, scratch):
    """Write the JSON at text[at:end] to the address out + to; returns the place behind it, -1 if it is given up.

    scratch: the address of SCRATCH words.
    """
    marks = scratch + 8 * (LEVELS + 1)
    depth, count = 0, 0
    objects = np.uint64(0)  # a bit per level: it is an object
    is_name = False
    while at < end:
        c = byte_at(text, at)
        if c <= 32:
            at += 1
            continue
        if c == _QUOTE:
            q = string_end(text, at + 1, end, size)
            behind = (q >> 1) + 1
            if q & 1 and not _plain_escapes(text, at + 1, behind):
                return -1
            if is_name:
                mark = _mark(text, at + 1, behind - 1, size)
                for k in range(load_i64(scratch + 8 * depth), count):
                    if load_i64(marks + 8 * k) == mark:
                        return -1
                if count == NAMES:
                    return -1
                store_i64(marks + 8 * count, mark)
                count += 1
                is_name = False
            copy_bytes(out + to, text + at, behind - at)
            to += behind - at
            at = behind
            continue
        if c == _MINUS and byte(text, at + 1, end) == _ZERO:
            follows = byte(text, at + 2, end)
            if follows != _DOT and follows | 32 != 101:
                return -1
        elif c == _LBRACE or c == _LBRACKET:
            depth += 1
            store_i64(scratch + 8 * depth, count)
            bit = np.uint64(1) << np.uint64(depth)
            is_name = c == _LBRACE
            objects = objects | bit if is_name else objects & ~bit
        elif c == _RBRACE or c == _RBRACKET:
            count = load_i64(scratch + 8 * depth)
            depth -= 1
            is_name = False
        elif c == _COMMA:
            is_name = objects >> np.uint64(depth) & np.uint64(1) == np.uint64(1)
        store_u8(out + to, c)
        to += 1
        at += 1
    return to
