"""Comparing probe rows with stored rows where both lie, and 8-byte columns that most rows lack.

Equal hashes make candidate pairs; these kernels tell whether the keys are equal. Only `engine.state.rows` may call them (see
`kernels.memory`); chunk tables and row numbers are those of `kernels.rows`.
"""

from __future__ import annotations

import numpy as np
from numba import int32, types, void

from forebay.kernels.hash import i32_in, i64_in, i64_out, u8_in, u8_out
from forebay.kernels.jit import kernel
from forebay.kernels.memory import load_i64, load_u8, load_u32, load_u64, prefetch, store_i64
from forebay.kernels.rows import AHEAD, MASK, SHIFT, table_in

i32_places = types.Array(int32, 1, "C", readonly=True)


@kernel(void(table_in, table_in, i64_in, i32_in, u8_in, i32_places, u8_out))
def equal_text(offsets, heap, rows, starts, data, places, out):
    """out[i] = 1 where the stored text of rows[i] is data[starts[p]:starts[p + 1]], p = places[i]; else 0."""
    n = rows.shape[0]
    for i in range(n):
        if i + 2 * AHEAD < n:
            r = rows[i + 2 * AHEAD]
            prefetch(offsets[r >> SHIFT] + (r & MASK) * 4)
        if i + AHEAD < n:
            r = rows[i + AHEAD]
            prefetch(heap[r >> SHIFT] + np.int64(load_u32(offsets[r >> SHIFT] + (r & MASK) * 4)))
        r = rows[i]
        at = offsets[r >> SHIFT] + (r & MASK) * 4
        begin = np.int64(load_u32(at))
        size = np.int64(load_u32(at + 4)) - begin
        p = places[i]
        start = starts[p]
        out[i] = 0
        if size != starts[p + 1] - start:
            continue
        stored = heap[r >> SHIFT] + begin
        k = 0
        while k + 8 <= size:
            word = np.uint64(0)
            for j in range(8):
                word |= np.uint64(data[start + k + j]) << np.uint64(8 * j)
            if load_u64(stored + k) != word:
                break
            k += 8
        if k + 8 <= size:
            continue
        while k < size and load_u8(stored + k) == np.uint64(data[start + k]):
            k += 1
        if k == size:
            out[i] = 1


@kernel(void(table_in, i64_in, i64_out))
def add_sparse(table, rows, out):
    """out[i] += the value of rows[i]; a chunk without an address holds zeros."""
    for i in range(rows.shape[0]):
        chunk = rows[i] >> SHIFT
        if chunk < table.shape[0] and table[chunk] != 0:
            out[i] += load_i64(table[chunk] + (rows[i] & MASK) * 8)


@kernel(void(table_in, i64_in, i64_in))
def put_sparse(table, rows, values):
    """The value of rows[i] becomes values[i]; the chunks are there."""
    for i in range(rows.shape[0]):
        r = rows[i]
        store_i64(table[r >> SHIFT] + (r & MASK) * 8, values[i])
