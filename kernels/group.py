"""Dense ids: finding them by hash, which of them an epoch touches, and moving the words and texts of many at once."""

from __future__ import annotations

import numpy as np
from numba import int64, types, uint64, void

from forebay.kernels.hash import i32_in, i64_in, i64_out, u8_in, u8_out, u64_in
from forebay.kernels.jit import kernel
from forebay.kernels.memory import copy_bytes

matrix = types.Array(int64, 2, "C")
matrix_in = types.Array(int64, 2, "C", readonly=True)
pairs_out = types.Array(uint64, 2, "C")
pairs_in = types.Array(uint64, 2, "C", readonly=True)


@kernel(int64(i64_in, i64_out, int64, i64_out, i64_out))
def touch(ids, stamp, now, out, first):
    """The distinct ids whose stamp is not `now`, in order of appearance, and where; stamps them. Returns how many."""
    n = 0
    for i in range(ids.shape[0]):
        g = ids[i]
        if stamp[g] != now:
            stamp[g] = now
            out[n] = g
            first[n] = i
            n += 1
    return n


@kernel(void(matrix_in, i64_in, matrix))
def gather(words, ids, out):
    """out[i] = words[ids[i]]."""
    for i in range(ids.shape[0]):
        g = ids[i]
        for j in range(words.shape[1]):
            out[i, j] = words[g, j]


@kernel(void(matrix_in, i64_in, matrix))
def scatter(rows, ids, words):
    """words[ids[i]] = rows[i]."""
    for i in range(ids.shape[0]):
        g = ids[i]
        for j in range(words.shape[1]):
            words[g, j] = rows[i, j]


@kernel(int64(matrix_in, matrix_in, i64_out))
def changed(before, after, out):
    """The indices of the rows that differ; returns how many."""
    n = 0
    for i in range(before.shape[0]):
        for j in range(before.shape[1]):
            if before[i, j] != after[i, j]:
                out[n] = i
                n += 1
                break
    return n


@kernel(int64(i64_in, u8_out, i64_out))
def take_live(ids, live, out):
    """The distinct ids that are live, in order of appearance; clears them. Returns how many."""
    n = 0
    for i in range(ids.shape[0]):
        if live[ids[i]] != 0:
            live[ids[i]] = 0
            out[n] = ids[i]
            n += 1
    return n


@kernel(int64(u64_in, pairs_out, i64_in, i64_out, i64_out))
def intern(hashes, slots, free, ids, born):
    """ids[i] = the id under hashes[i]; a new hash takes the next of `free`. born = the first row of each; returns how many.

    `slots` is uint64[power of two, 2]: (hash, id + 1), 0 for empty, linear probing; it must have room for all rows.
    """
    mask = np.uint64(slots.shape[0] - 1)
    n = 0
    for i in range(hashes.shape[0]):
        x = hashes[i]
        slot = x & mask
        while True:
            held = slots[slot, 1]
            if held == 0:
                slots[slot, 0] = x
                slots[slot, 1] = np.uint64(free[n] + 1)
                ids[i] = free[n]
                born[n] = i
                n += 1
                break
            if slots[slot, 0] == x:
                ids[i] = np.int64(held) - 1
                break
            slot = (slot + np.uint64(1)) & mask
    return n


@kernel(void(u64_in, pairs_in, i64_out))
def find(hashes, slots, ids):
    """ids[i] = the id under hashes[i], or -1."""
    mask = np.uint64(slots.shape[0] - 1)
    for i in range(hashes.shape[0]):
        x = hashes[i]
        slot = x & mask
        while slots[slot, 1] != 0 and slots[slot, 0] != x:
            slot = (slot + np.uint64(1)) & mask
        ids[i] = np.int64(slots[slot, 1]) - 1


@kernel(void(u64_in, i64_in, pairs_out))
def place(hashes, ids, slots):
    """Enter hashes that are not there under the given ids."""
    mask = np.uint64(slots.shape[0] - 1)
    for i in range(hashes.shape[0]):
        slot = hashes[i] & mask
        while slots[slot, 1] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot, 0] = hashes[i]
        slots[slot, 1] = np.uint64(ids[i] + 1)


@kernel(void(u64_in, i64_in, pairs_out))
def displace(hashes, ids, slots):
    """Take out entries, closing the gap by moving later ones of the run back (Knuth 6.4, algorithm R)."""
    mask = np.uint64(slots.shape[0] - 1)
    one = np.uint64(1)
    for i in range(hashes.shape[0]):
        gap = hashes[i] & mask
        while slots[gap, 1] != np.uint64(ids[i] + 1):
            gap = (gap + one) & mask
        slot = gap
        while True:
            slot = (slot + one) & mask
            if slots[slot, 1] == 0:
                break
            home = slots[slot, 0] & mask
            if ((slot - home) & mask) >= ((slot - gap) & mask):
                slots[gap, 0] = slots[slot, 0]
                slots[gap, 1] = slots[slot, 1]
                gap = slot
        slots[gap, 0] = 0
        slots[gap, 1] = 0


@kernel(void(i64_in, i64_in, i64_in, u8_in, i32_in, u8_in, u8_out))
def equal_text(ids, places, lengths, heap, offsets, data, equal):
    """equal[i] = 0 where the text stored under ids[i] is not data[offsets[i]:offsets[i + 1]]."""
    for i in range(ids.shape[0]):
        start, length = places[ids[i]], lengths[ids[i]]
        if length != offsets[i + 1] - offsets[i]:
            equal[i] = 0
            continue
        for k in range(length):
            if heap[start + k] != data[offsets[i] + k]:
                equal[i] = 0
                break


@kernel(void(i64_in, i64_in, u8_in, i32_in, u8_out))
def copy_text(places, lengths, heap, offsets, out):
    """out[offsets[i]:] = the text at places[i]."""
    for i in range(places.shape[0]):
        copy_bytes(out.ctypes.data + offsets[i], heap.ctypes.data + places[i], lengths[i])
