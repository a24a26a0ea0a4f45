"""Records out of text fragments: constant text and the values of parallel columns, interleaved row by row.

A column of fragments is a row of `columns`, four addresses and two bytes: the data, int32 starts, int32 ends, uint8 marks of
NULLs (0: there are none), the byte before and the byte behind a value (0: none). Constants are slices of one byte array:
head and tail of an ordinary record, head and tail of a marked one, the text of NULL, then one label per column.
Only `connectors.formats.fragments` may call this (see `kernels.memory`).
"""

from __future__ import annotations

from numba import boolean, int64, types

from forebay.kernels.hash import i64_in, u8_in, u8_out
from forebay.kernels.jit import kernel, routine
from forebay.kernels.memory import copy_bytes, load_i32, load_u8, load_u32, load_u64, store_i32, store_u8, store_u64
from forebay.kernels.words import address_of, byte_at

DATA, STARTS, ENDS, NULLS, OPENING, CLOSING = range(6)
"""What a row of `columns` holds."""
NULL_TEXT = 4
LABELS = 5
SLACK = 16
"""Places among the constants: `marked` * 2 for the head, `marked` * 2 + 1 for the tail."""

i32_out = types.Array(types.int32, 1, "C")
table_in = types.Array(int64, 2, "C", readonly=True)


@routine
def copy(target, source, count):
    """Exactly `count` bytes; short ones by two overlapping words."""
    if count > 32:
        copy_bytes(target, source, count)
    elif count >= 16:
        a, b = load_u64(source), load_u64(source + 8)
        c, d = load_u64(source + count - 16), load_u64(source + count - 8)
        store_u64(target, a)
        store_u64(target + 8, b)
        store_u64(target + count - 16, c)
        store_u64(target + count - 8, d)
    elif count >= 8:
        a, b = load_u64(source), load_u64(source + count - 8)
        store_u64(target, a)
        store_u64(target + count - 8, b)
    elif count >= 4:
        e, f = load_u32(source), load_u32(source + count - 4)
        store_i32(target, int64(e))
        store_i32(target + count - 4, int64(f))
    else:
        for k in range(count):
            store_u8(target + k, byte_at(source, k))
    return target + count


@routine
def copy_constant(target, source, count):
    """As `copy`, of bytes with 16 of slack on both sides."""
    store_u64(target, load_u64(source))
    store_u64(target + 8, load_u64(source + 8))
    if count > 16:
        copy(target + 16, source + 16, count - 16)
    return target + count


@kernel(int64(table_in, u8_in, i64_in, int64, boolean, u8_in, u8_out, i32_out))
def assemble(columns, constants, places, drop, skip, marked, out, offsets):
    """out = the records back to back, offsets = Arrow offsets; returns their total length (beyond int32 they are meaningless).

    `places` bounds the constants; the first label of a record loses `drop` bytes; with `skip` NULLs are left out, label and
    all; `marked` chooses head and tail of each record (empty: none is marked). `constants` and `out` have `SLACK` bytes to spare.
    """
    base, text = address_of(out), address_of(constants)
    at = base
    offsets[0] = 0
    for i in range(offsets.shape[0] - 1):
        frame = 2 if marked.shape[0] > 0 and marked[i] != 0 else 0
        at = copy_constant(at, text + places[frame], places[frame + 1] - places[frame])
        lost = drop
        for c in range(columns.shape[0]):
            null = columns[c, NULLS] != 0 and load_u8(columns[c, NULLS] + i) != 0
            if null and skip:
                continue
            label = places[LABELS + c] + lost
            lost = 0
            at = copy_constant(at, text + label, places[LABELS + c + 1] - label)
            if null:
                at = copy_constant(at, text + places[NULL_TEXT], places[NULL_TEXT + 1] - places[NULL_TEXT])
                continue
            start, end = load_i32(columns[c, STARTS] + 4 * i), load_i32(columns[c, ENDS] + 4 * i)
            if columns[c, OPENING] != 0:
                store_u8(at, columns[c, OPENING])
                at += 1
            at = copy(at, columns[c, DATA] + start, end - start)
            if columns[c, CLOSING] != 0:
                store_u8(at, columns[c, CLOSING])
                at += 1
        at = copy_constant(at, text + places[frame + 1], places[frame + 2] - places[frame + 1])
        offsets[i + 1] = at - base
    return at - base
