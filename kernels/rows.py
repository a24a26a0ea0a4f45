"""Moving rows between columnar 64K-row chunks and flat arrays, by width. A chunk table holds one address per chunk.

Row `r` lies in chunk `r >> 16` at place `r & 65535`. Loops prefetch some rows ahead: a gather from gigabytes is bound by
cache misses, and a core has about that many in flight. Only `engine.state.rows` may call these (see `kernels.memory`).
"""

from __future__ import annotations

import numpy as np
from numba import int32, int64, types, void

from forebay.kernels.hash import i64_in, u8_out
from forebay.kernels.jit import kernel
from forebay.kernels.memory import copy_bytes, load_i32, load_u8, load_u32, load_u64, prefetch, store_u64

SHIFT = 16
MASK = (1 << SHIFT) - 1
AHEAD = 16

i32_out = types.Array(int32, 1, "C")
table_in = types.Array(int64, 1, "C", readonly=True)
bytes_out = types.Array(types.uint8, 1, "C")
b16_out = types.Array(types.int16, 1, "C")
b32_out = types.Array(types.int32, 1, "C")
b64_out = types.Array(types.uint64, 1, "C")


@kernel(void(table_in, i64_in, bytes_out))
def gather_1(table, rows, out):
    """out[i] = the byte of rows[i]."""
    for i in range(rows.shape[0]):
        if i + AHEAD < rows.shape[0]:
            r = rows[i + AHEAD]
            prefetch(table[r >> SHIFT] + (r & MASK))
        r = rows[i]
        out[i] = load_u8(table[r >> SHIFT] + (r & MASK))


@kernel(void(table_in, i64_in, b16_out))
def gather_2(table, rows, out):
    """out[i] = the 2 bytes of rows[i]."""
    for i in range(rows.shape[0]):
        r = rows[i]
        at = table[r >> SHIFT] + (r & MASK) * 2
        out[i] = np.int16(load_u8(at) | (load_u8(at + 1) << np.uint64(8)))


@kernel(void(table_in, i64_in, b32_out))
def gather_4(table, rows, out):
    """out[i] = the 4 bytes of rows[i]."""
    for i in range(rows.shape[0]):
        if i + AHEAD < rows.shape[0]:
            r = rows[i + AHEAD]
            prefetch(table[r >> SHIFT] + (r & MASK) * 4)
        r = rows[i]
        out[i] = np.int32(load_i32(table[r >> SHIFT] + (r & MASK) * 4))


@kernel(void(table_in, i64_in, b64_out))
def gather_8(table, rows, out):
    """out[i] = the 8 bytes of rows[i]."""
    for i in range(rows.shape[0]):
        if i + AHEAD < rows.shape[0]:
            r = rows[i + AHEAD]
            prefetch(table[r >> SHIFT] + (r & MASK) * 8)
        r = rows[i]
        out[i] = load_u64(table[r >> SHIFT] + (r & MASK) * 8)


@kernel(void(table_in, i64_in, b64_out))
def gather_16(table, rows, out):
    """out[2i], out[2i + 1] = the two words of rows[i]."""
    for i in range(rows.shape[0]):
        if i + AHEAD < rows.shape[0]:
            r = rows[i + AHEAD]
            prefetch(table[r >> SHIFT] + (r & MASK) * 16)
        r = rows[i]
        at = table[r >> SHIFT] + (r & MASK) * 16
        out[2 * i] = load_u64(at)
        out[2 * i + 1] = load_u64(at + 8)


@kernel(int64(table_in, i64_in, u8_out))
def gather_valid(table, rows, out):
    """out[i] = 1 where rows[i] is not NULL; a chunk without an address has no NULLs. Returns the number of NULLs."""
    nulls = 0
    for i in range(rows.shape[0]):
        r = rows[i]
        base = table[r >> SHIFT]
        if base == 0:
            out[i] = 1
        else:
            valid = load_u8(base + (r & MASK))
            out[i] = valid
            nulls += 1 - np.int64(valid)
    return nulls


@kernel(int64(table_in, i64_in, i32_out))
def text_offsets(offsets, rows, out):
    """out = Arrow offsets of the texts of `rows`; returns their total length (beyond int32 `out` is meaningless)."""
    total = 0
    out[0] = 0
    for i in range(rows.shape[0]):
        if i + 2 * AHEAD < rows.shape[0]:
            r = rows[i + 2 * AHEAD]
            prefetch(offsets[r >> SHIFT] + (r & MASK) * 4)
        r = rows[i]
        at = offsets[r >> SHIFT] + (r & MASK) * 4
        total += np.int64(load_u32(at + 4) - load_u32(at))
        out[i + 1] = np.int32(total)
    return total


@kernel(void(table_in, table_in, i64_in, types.Array(int32, 1, "C", readonly=True), int64))
def text_copy(offsets, data, rows, starts, out):
    """Copy the text of rows[i] to address out + starts[i]; `out` and the chunks have 16 bytes of slack."""
    for i in range(rows.shape[0]):
        if i + AHEAD < rows.shape[0]:
            r = rows[i + AHEAD]
            prefetch(data[r >> SHIFT] + np.int64(load_u32(offsets[r >> SHIFT] + (r & MASK) * 4)))
        r = rows[i]
        source = data[r >> SHIFT] + np.int64(load_u32(offsets[r >> SHIFT] + (r & MASK) * 4))
        target = out + starts[i]
        length = starts[i + 1] - starts[i]
        if length <= 16:
            store_u64(target, load_u64(source))
            store_u64(target + 8, load_u64(source + 8))
        else:
            copy_bytes(target, source, length)
