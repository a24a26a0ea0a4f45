"""Entries of table files: which pages to read for them, and whether what came is what was asked for.

An entry of a table file that holds one value per RocksDB block, without compression, little-endian:

    0, 20, varint32 size, key[12], RocksDB's 8 bytes of the key, value[size], RocksDB's 13 bytes after it

(RocksDB wiki, *Rocksdb BlockBasedTable Format*; the 13 are the restart array and the trailer). A value of ours is some `WORDS`,
as many as there is room for, a checksum of them, and zeros. The checksum has four lanes of 64-bit multiplications whose halves
are xored, as in wyhash (Wang Yi 2019).
Addresses are raw (`kernels.memory`): only `engine.state.extents` and `engine.state.segment` may call these kernels.
"""

from __future__ import annotations

import numpy as np
from numba import int64, void

from forebay.kernels.hash import i64_in, i64_out, tables_in, u64_in
from forebay.kernels.jit import inline, kernel
from forebay.kernels.memory import (
    copy_bytes,
    fold_multiply,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    store_i64,
    store_u8,
    store_u64,
)

PAGE = 4096
KEY = 12
BEFORE, AFTER = 2 + KEY + 8, 13
"""Bytes of an entry before its value, but for those of the size, and after it."""
CHECK = 8
"""Bytes of the checksum."""
WORDS = 32
"""The bytes that are summed are a multiple of this."""
_GAP = 2 * PAGE
"""Bytes that are read in between rather than read apart."""
_MOST = 1 << 20
"""Bytes of one read, about at most."""
_K0, _K1, _K2, _K3 = (
    np.uint64(k) for k in (0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3)
)


@inline
def _sum(at, size):
    a, b, c, d = _K0, _K1, _K2, _K3
    for k in range(0, size, WORDS):
        a = fold_multiply(a ^ load_u64(at + k), _K1)
        b = fold_multiply(b ^ load_u64(at + k + 8), _K2)
        c = fold_multiply(c ^ load_u64(at + k + 16), _K3)
        d = fold_multiply(d ^ load_u64(at + k + 24), _K0)
    return fold_multiply(a ^ c, b ^ d ^ np.uint64(size))


@inline
def _summed(size):
    """How many bytes of a value the checksum is of; it follows them."""
    return (size - CHECK) // WORDS * WORDS


@kernel(void(i64_in, i64_in, i64_in))
def put_sums(values, used, sizes):
    """Finish the values at addresses values[i], of sizes[i] bytes: zeros from used[i] on, and the checksum."""
    for i in range(values.shape[0]):
        end = _summed(sizes[i])
        for k in range(used[i], sizes[i]):
            store_u8(values[i] + k, np.int64(0))
        store_u64(values[i] + end, _sum(values[i], end))


@kernel(void(i64_in, i64_in, i64_in, i64_out))
def get_addresses(slots, blocks, tables, out):
    """out[i] = entry blocks[i] of the int64[] at address tables[slots[i]]."""
    for i in range(slots.shape[0]):
        out[i] = load_i64(tables[slots[i]] + blocks[i] * 8)


@kernel(void(i64_in, i64_in, i64_in, i64_in))
def put_addresses(slots, blocks, tables, values):
    """Entry blocks[i] of the int64[] at address tables[slots[i]] = values[i]."""
    for i in range(slots.shape[0]):
        store_i64(tables[slots[i]] + blocks[i] * 8, values[i])


@kernel(void(i64_in, i64_in, tables_in, i64_in, i64_in, i64_out, i64_out, i64_out))
def locate(slots, blocks, tables, firsts, ends, files, begins, stops):
    """The entry of block blocks[i] of segment slots[i] lies in files[i], from begins[i] to stops[i].

    `tables` is int64[S, 4]: {address of u32[], where each entry begins; blocks; first file; files}. firsts[f] is the first block
    of file f, and ends[f] where the entry of its last one ends.
    """
    for i in range(slots.shape[0]):
        starts, block = tables[slots[i], 0], blocks[i]
        file = tables[slots[i], 2]
        last = file + tables[slots[i], 3] - 1
        while file < last and firsts[file + 1] <= block:
            file += 1
        after = firsts[file + 1] if file < last else tables[slots[i], 1]
        files[i] = file
        begins[i] = np.int64(load_u32(starts + 4 * block))
        stops[i] = ends[file] if block + 1 == after else np.int64(load_u32(starts + 4 * (block + 1)))


@kernel(int64(i64_in, i64_in, i64_in, i64_out, i64_out, i64_out, i64_out, i64_out, i64_out))
def plan(files, starts, ends, read_files, offsets, sizes, places, read, at):
    """Which pages hold entries starts[i]..ends[i] of files[i], which ascend: sizes[k] bytes at offsets[k] of read_files[k].

    They go to places[k] of a buffer, one after the other. Entry i comes with read[i], to at[i] of the buffer. Returns the
    number of reads.
    """
    k = -1
    total = 0
    for i in range(files.shape[0]):
        first = starts[i] // PAGE * PAGE
        last = (ends[i] + PAGE - 1) // PAGE * PAGE
        if (
            k >= 0
            and files[i] == read_files[k]
            and first >= offsets[k]
            and first <= offsets[k] + sizes[k] + _GAP
            and last - offsets[k] <= _MOST
        ):
            more = last - offsets[k] - sizes[k]
            if more > 0:
                sizes[k] += more
                total += more
        else:
            k += 1
            read_files[k], offsets[k], sizes[k], places[k] = files[i], first, last - first, total
            total += last - first
        read[i] = k
        at[i] = places[k] + starts[i] - offsets[k]
    return k + 1


@kernel(int64(int64, i64_in, i64_in, u64_in, u64_in, int64, i64_out))
def settle(base, at, ends, segments, blocks, target, out):
    """Copy the value of the entry at base + at[i] that ends before base + ends[i] to address out[i], one after the other from
    `target`; out[i] = 0 if it is not whole, or not of the key whose bytes are segments[i] and blocks[i].

    Returns how many bytes were copied, at most those from at[i] to ends[i] for all i.
    """
    begin = target
    for i in range(at.shape[0]):
        out[i] = 0
        entry = base + at[i]
        room = ends[i] - at[i] - BEFORE - AFTER
        size = np.int64(0)
        shift = 0
        p = entry + 2
        if room > 0 and load_u8(entry) == 0 and load_u8(entry + 1) == KEY + 8:
            while shift < 35:
                byte = np.int64(load_u8(p))
                size |= (byte & 127) << shift
                shift += 7
                p += 1
                if byte < 128:
                    break
            value = p + KEY + 8
            if (
                load_u64(p) == segments[i]
                and np.uint64(load_u32(p + 8)) == blocks[i]
                and size + (p - entry - 2) <= room
                and size >= CHECK
                and _sum(value, _summed(size)) == load_u64(value + _summed(size))
            ):
                copy_bytes(target, value, size)
                out[i] = target
                target += size
    return target - begin
