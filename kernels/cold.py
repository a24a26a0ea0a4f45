"""Cold rows: blocks of a few KB that hold some rows of a hash-sorted segment column by column, filters and fences.

A block, little-endian, C columns, n rows:

    u32 n, u32 C, C × (u32 values, u32 validity), u64 hash[n], then the columns where the directory says

Values of fixed width lie side by side; a text column has u32[n + 1] offsets and its bytes after them; validity (0: no NULLs) is
a byte per row. Blocks are addressed raw (`kernels.memory`): only `engine.state.cold` may call these kernels, it owns the
buffers. The filter is a split-block Bloom filter (Putze, Sanders, Singler 2007; constants as in the Parquet specification);
fences are the first hash of each block, found by interpolation, for hashes are uniform.
"""

from __future__ import annotations

import numpy as np
from numba import int64, types, uint32, void

from forebay.kernels.hash import i32_in, i64_in, i64_out, tables_in, u8_out, u64_in, u64_out
from forebay.kernels.jit import inline, kernel
from forebay.kernels.memory import (
    copy_bytes,
    load_i32,
    load_u8,
    load_u32,
    load_u64,
    prefetch,
    store_i32,
    store_u8,
    store_u64,
)

HEAD = 8
ENTRY = 8
"""Bytes of a block's head, and of one column's entry in its directory."""
SLACK = 16
"""Bytes that may be read and written past the end of any buffer here."""
LANES = 8
"""32-bit words of one block of a filter."""
_AHEAD = 16
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_SALT = np.array(
    [0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31], np.uint32
)
u32_out = types.Array(uint32, 1, "C")


# --- filters and fences ----------------------------------------------------------------------------------------------


@inline
def _lane(x, count):
    """Place of the 8 words for hash x among `count` blocks of a filter."""
    return np.int64(((x >> _HALF) * np.uint64(count)) >> _HALF) * LANES


@inline
def _bit(x, lane):
    return np.uint32(1) << np.uint32(np.uint32(np.uint32(x & _LOW) * _SALT[lane]) >> np.uint32(27))


@kernel(void(u64_in, u32_out))
def filter_add(hashes, words):
    """Put hashes into a filter of len(words) / 8 blocks."""
    count = words.shape[0] // LANES
    for i in range(hashes.shape[0]):
        x = hashes[i]
        at = _lane(x, count)
        for lane in range(LANES):
            words[at + lane] |= _bit(x, lane)


@inline
def _may_have(words, count, x):
    """Whether the filter at address `words` lets hash x through."""
    at = words + _lane(x, count) * 4
    missing = np.uint32(0)
    for lane in range(LANES):
        missing |= ~np.uint32(load_u32(at + lane * 4)) & _bit(x, lane)
    return missing == np.uint32(0)


@inline
def _fence(fences, blocks, x):
    """The first of so many blocks, whose fences are at an address, that may have hash x."""
    b = np.int64(((x >> _HALF) * np.uint64(blocks)) >> _HALF)
    while b > 0 and load_u64(fences + b * 8) >= x:
        b -= 1
    while b + 1 < blocks and load_u64(fences + (b + 1) * 8) < x:
        b += 1
    return b


@inline
def _within(keys, i, low, high):
    """Whether hash i may be of a key between low and high; without keys any may be."""
    return keys.shape[0] == 0 or low <= keys[i] <= high


@kernel(int64(u64_in, i64_in, tables_in, i64_out, i64_out, i64_out, i64_out, i64_out))
def candidates(hashes, keys, segments, asked, passed, which, slot, block):
    """Where each hash may be found: hashes[which[i]] in block block[i] of segment slot[i], slots ascending.

    `keys`: what the hashes are of, or none. `segments` is int64[S, 6]: {address of the filter, its blocks of 8 words, address of
    the fences, blocks, least key, greatest key}. asked[s] = hashes whose keys lie between these; passed[s] = those of them that
    the filter of s lets through. Returns how many places there are; those beyond the room that the outputs have are only
    counted.
    """
    n = hashes.shape[0]
    room = which.shape[0]
    w = 0
    for s in range(segments.shape[0]):
        words, count, fences, blocks = segments[s, 0], segments[s, 1], segments[s, 2], segments[s, 3]
        low, high = segments[s, 4], segments[s, 5]
        asked[s] = 0
        passed[s] = 0
        for i in range(n):
            if i + _AHEAD < n and _within(keys, i + _AHEAD, low, high):
                prefetch(words + _lane(hashes[i + _AHEAD], count) * 4)
            if not _within(keys, i, low, high):
                continue
            asked[s] += 1
            x = hashes[i]
            if not _may_have(words, count, x):
                continue
            passed[s] += 1
            b = _fence(fences, blocks, x)
            while True:
                if w < room:
                    which[w] = i
                    slot[w] = s
                    block[w] = b
                w += 1
                b += 1
                if b >= blocks or load_u64(fences + b * 8) != x:
                    break
    return w


# --- searching blocks ------------------------------------------------------------------------------------------------


@inline
def _lower(at, n, x):
    """The first of n ascending hashes at `at` that is not below x."""
    low = 0
    high = n
    while low < high:
        middle = (low + high) >> 1
        if load_u64(at + middle * 8) < x:
            low = middle + 1
        else:
            high = middle
    return low


@kernel(int64(u64_in, i64_in, i64_in, i64_out, i64_out))
def search(hashes, which, blocks, begin, count):
    """begin[i], count[i] = the rows of the block at address blocks[i] with hashes[which[i]]; returns the sum of the counts."""
    total = 0
    for i in range(which.shape[0]):
        if i + 1 < which.shape[0]:
            prefetch(blocks[i + 1])
        x = hashes[which[i]]
        at = blocks[i]
        n = np.int64(load_u32(at))
        keys = at + HEAD + ENTRY * np.int64(load_u32(at + 4))
        low = _lower(keys, n, x)
        end = low
        while end < n and load_u64(keys + end * 8) == x:
            end += 1
        begin[i] = low
        count[i] = end - low
        total += end - low
    return total


# --- writing blocks --------------------------------------------------------------------------------------------------


@kernel(void(int64, i64_in, i64_in, i64_in, int64))
def put_fixed(source, rows, counts, targets, width):
    """Copy counts[b] values from row rows[b] of a column of `width` bytes at `source` to address targets[b]."""
    for b in range(rows.shape[0]):
        copy_bytes(targets[b], source + rows[b] * width, counts[b] * width)


@kernel(void(i32_in, int64, i64_in, i64_in, i64_in))
def put_text(starts, source, rows, counts, targets):
    """Write the offsets and bytes of texts rows[b] .. rows[b] + counts[b] to address targets[b]."""
    for b in range(rows.shape[0]):
        at = targets[b]
        first = np.int64(starts[rows[b]])
        for k in range(counts[b] + 1):
            store_i32(at + 4 * k, np.int64(starts[rows[b] + k]) - first)
        copy_bytes(at + 4 * (counts[b] + 1), source + first, np.int64(starts[rows[b] + counts[b]]) - first)


# --- reading rows ----------------------------------------------------------------------------------------------------


@inline
def _values(block, column):
    return block + np.int64(load_u32(block + HEAD + ENTRY * column))


@kernel(void(i64_in, i64_in, int64, int64, int64))
def gather_fixed(blocks, rows, column, width, out):
    """Write the value of row rows[i] in the block at address blocks[i], of a column of `width` bytes, to out + i * width."""
    n = blocks.shape[0]
    for i in range(n):
        at = _values(blocks[i], column) + rows[i] * width
        if width == 8:
            store_u64(out + i * 8, load_u64(at))
        elif width == 4:
            store_i32(out + i * 4, load_i32(at))
        elif width == 16:
            store_u64(out + i * 16, load_u64(at))
            store_u64(out + i * 16 + 8, load_u64(at + 8))
        else:
            for k in range(width):
                store_u8(out + i * width + k, np.int64(load_u8(at + k)))


@kernel(void(i64_in, i64_in, u64_out))
def gather_hashes(blocks, rows, out):
    """out[i] = the hash of row rows[i] of the block at blocks[i]."""
    for i in range(blocks.shape[0]):
        at = blocks[i]
        out[i] = load_u64(at + HEAD + ENTRY * np.int64(load_u32(at + 4)) + rows[i] * 8)


@kernel(int64(i64_in, i64_in, int64, u8_out))
def gather_valid(blocks, rows, column, out):
    """out[i] = 1 where the value is not NULL; returns the number of NULLs."""
    nulls = 0
    for i in range(blocks.shape[0]):
        place = np.int64(load_u32(blocks[i] + HEAD + ENTRY * column + 4))
        valid = np.uint64(1) if place == 0 else load_u8(blocks[i] + place + rows[i])
        out[i] = valid
        nulls += 1 - np.int64(valid)
    return nulls


@kernel(int64(i64_in, i64_in, int64, i64_out))
def text_offsets(blocks, rows, column, out):
    """out = offsets, from 0, of the texts; returns their total length."""
    total = 0
    out[0] = 0
    for i in range(blocks.shape[0]):
        at = _values(blocks[i], column) + rows[i] * 4
        total += np.int64(load_u32(at + 4) - load_u32(at))
        out[i + 1] = total
    return total


@kernel(void(i64_in, i64_in, int64, i64_in, int64))
def text_copy(blocks, rows, column, starts, out):
    """Copy each text to address out + starts[i]; sources and `out` have slack."""
    for i in range(blocks.shape[0]):
        at = _values(blocks[i], column)
        n = np.int64(load_u32(blocks[i]))
        source = at + 4 * (n + 1) + np.int64(load_u32(at + 4 * rows[i]))
        copy_bytes(out + starts[i], source, starts[i + 1] - starts[i])


# --- deaths ----------------------------------------------------------------------------------------------------------


@kernel(void(i64_in, i64_in, int64))
def set_bits(table, ids, on):
    """Set (or clear) the bit of each id; table[id >> 16] is the address of that chunk's 8 KB bitmap, which is there."""
    for i in range(ids.shape[0]):
        r = ids[i]
        at = table[r >> 16] + ((r & 65535) >> 3)
        mask = np.int64(1) << (r & 7)
        byte = np.int64(load_u8(at))
        store_u8(at, byte | mask if on else byte & ~mask)


@kernel(void(i64_in, i64_in, u8_out))
def test_bits(table, ids, out):
    """out[i] = 1 where the bit of ids[i] is set; a chunk without an address has none."""
    for i in range(ids.shape[0]):
        r = ids[i]
        chunk = r >> 16
        out[i] = 0
        if chunk < table.shape[0] and table[chunk] != 0:
            out[i] = np.uint8((load_u8(table[chunk] + ((r & 65535) >> 3)) >> np.uint64(r & 7)) & np.uint64(1))
