"""The hash index of an arrangement: 256 open-addressing tables by the top bits of the hash, chains newest row first.

A slot is 16 bytes {hash, newest row : 40 | chain length : 24}; an empty slot has payload 0, because row ids start at 1. The
row before `r` under the same hash is in the chunked column `chain`, the one after it in `back`. `parts` is int64[256, 4]:
{address, mask, used, limit}; tables grow one at a time at jittered limits, so that no batch pays for all of them. Layout and
loops follow the partitioned tables of Balkesen et al. (ICDE 2013); probes prefetch ahead as in Chen et al. (ICDE 2004).

A row is *visible* below `most` and if it is alive, or died in epoch `least` or later (`died` has no address for chunks
without deaths).
"""

from __future__ import annotations

import numpy as np
from numba import int32, int64, types, void

from forebay.kernels.hash import i64_in, i64_out, u64_in, u64_out
from forebay.kernels.jit import inline, kernel
from forebay.kernels.memory import load_i64, load_u64, prefetch, store_i64, store_u64
from forebay.kernels.rows import AHEAD, MASK, SHIFT, table_in

PART_BITS = 8
PARTS = 1 << PART_BITS
_TOP = np.uint64(64 - PART_BITS)
_ROW = np.uint64((1 << 40) - 1)
_COUNT = np.uint64(40)
_ONE = np.uint64(1 << 40)
_FULL = np.uint64(0xFFFFFF)

parts_in = types.Array(int64, 2, "C", readonly=True)
parts_out = types.Array(int64, 2, "C")
i32_out = types.Array(int32, 1, "C")


@inline
def _slot(parts, x):
    """Address of the slot that has hash x, or of the empty one where it belongs."""
    p = np.int64(x >> _TOP)
    base = parts[p, 0]
    mask = np.uint64(parts[p, 1])
    s = x & mask
    at = base + np.int64(s) * 16
    while load_u64(at + 8) != np.uint64(0) and load_u64(at) != x:
        s = (s + np.uint64(1)) & mask
        at = base + np.int64(s) * 16
    return at


@inline
def _prefetch_slot(parts, x):
    p = np.int64(x >> _TOP)
    prefetch(parts[p, 0] + np.int64(x & np.uint64(parts[p, 1])) * 16)


@inline
def _visible(died, r, most, least):
    if r >= most:
        return False
    base = died[r >> SHIFT]
    if base == 0:
        return True
    d = load_i64(base + (r & MASK) * 8)
    return d == 0 or d >= least


@inline
def _close(base, mask, gap):
    s = gap
    while True:
        s = (s + np.uint64(1)) & mask
        at = base + np.int64(s) * 16
        payload = load_u64(at + 8)
        if payload == np.uint64(0):
            break
        home = load_u64(at) & mask
        if ((s - home) & mask) >= ((s - gap) & mask):
            store_u64(base + np.int64(gap) * 16, load_u64(at))
            store_u64(base + np.int64(gap) * 16 + 8, payload)
            gap = s
    store_u64(base + np.int64(gap) * 16 + 8, np.uint64(0))


@kernel(void(u64_in, i64_out))
def histogram(hashes, out):
    """out[p] = how many hashes belong to part p."""
    out[:] = 0
    for i in range(hashes.shape[0]):
        out[np.int64(hashes[i] >> _TOP)] += 1


@kernel(void(int64, int64, int64, int64))
def rehash(old, slots, new, mask):
    """Move `slots` slots into a zeroed table of another size, with room for them."""
    for i in range(slots):
        payload = load_u64(old + i * 16 + 8)
        if payload != np.uint64(0):
            x = load_u64(old + i * 16)
            s = x & np.uint64(mask)
            while load_u64(new + np.int64(s) * 16 + 8) != np.uint64(0):
                s = (s + np.uint64(1)) & np.uint64(mask)
            store_u64(new + np.int64(s) * 16, x)
            store_u64(new + np.int64(s) * 16 + 8, payload)


@kernel(int64(u64_in, i64_in, parts_out, table_in, table_in))
def insert(hashes, rows, parts, chain, back):
    """Put each row at the head of its hash's chain; the parts have room and fresh rows zeros in `chain` and `back`.

    The first row of a chain touches neither: with unique keys their pages never come to be. Returns how many others there were.
    """
    n = hashes.shape[0]
    chained = 0
    for i in range(n):
        if i + AHEAD < n:
            _prefetch_slot(parts, hashes[i + AHEAD])
        x = hashes[i]
        r = rows[i]
        at = _slot(parts, x)
        payload = load_u64(at + 8)
        count = payload >> _COUNT
        if payload == np.uint64(0):
            store_u64(at, x)
            parts[np.int64(x >> _TOP), 2] += 1
        else:
            head = np.int64(payload & _ROW)
            store_i64(chain[r >> SHIFT] + (r & MASK) * 8, head)
            store_i64(back[head >> SHIFT] + (head & MASK) * 8, r)
            chained += 1
        if count < _FULL:
            count += np.uint64(1)
        store_u64(at + 8, np.uint64(r) | (count << _COUNT))
    return chained


@kernel(int64(u64_in, parts_in, u64_out))
def find(hashes, parts, out):
    """out[i] = payload under hashes[i], 0 for none. Returns the sum of the chain lengths."""
    n = hashes.shape[0]
    total = 0
    for i in range(n):
        if i + AHEAD < n:
            _prefetch_slot(parts, hashes[i + AHEAD])
        payload = load_u64(_slot(parts, hashes[i]) + 8)
        out[i] = payload
        total += np.int64(payload >> _COUNT)
    return total


@kernel(int64(u64_out, table_in, table_in, int64, int64, i32_out, i64_out, i64_out))
def expand(cursor, chain, died, most, least, index, rows, progress):
    """Pairs (index of the probe, visible row) for every chain, until `index` is full; call again to go on.

    `cursor` holds what `find` gave and is consumed; `progress` is int64[1], zero before the first call, and -1 when all
    chains are done. Returns the number of pairs.
    """
    w = 0
    n = cursor.shape[0]
    room = index.shape[0]
    i = progress[0]
    while i < n:
        if i + AHEAD < n:
            r = np.int64(cursor[i + AHEAD] & _ROW)
            prefetch(chain[r >> SHIFT] + (r & MASK) * 8)
        r = np.int64(cursor[i] & _ROW)
        single = (cursor[i] >> _COUNT) == np.uint64(1)
        while r != 0:
            if w >= room:
                cursor[i] = np.uint64(r) | (np.uint64(2) << _COUNT)
                progress[0] = i
                return w
            if _visible(died, r, most, least):
                index[w] = np.int32(i)
                rows[w] = r
                w += 1
            r = 0 if single else load_i64(chain[r >> SHIFT] + (r & MASK) * 8)
        i += 1
    progress[0] = -1
    return w


@kernel(void(u64_in, table_in, table_in, int64, int64, i64_out))
def first_visible(payloads, chain, died, most, least, out):
    """out[i] = the newest visible row of the chain that `find` gave, 0 for none."""
    for i in range(payloads.shape[0]):
        r = np.int64(payloads[i] & _ROW)
        single = (payloads[i] >> _COUNT) == np.uint64(1)
        while r != 0 and not _visible(died, r, most, least):
            r = 0 if single else load_i64(chain[r >> SHIFT] + (r & MASK) * 8)
        out[i] = r


@kernel(int64(u64_in, i64_in, parts_out, table_in, table_in))
def unlink(hashes, rows, parts, chain, back):
    """Take rows out of their chains; a slot whose chain ends is closed (Knuth 6.4, algorithm R). Returns how many were there.

    A row that is no head and has none before it is in no chain. The links back make this independent of the chain's length.
    """
    found = 0
    for i in range(hashes.shape[0]):
        if i + AHEAD < hashes.shape[0]:
            _prefetch_slot(parts, hashes[i + AHEAD])
        x = hashes[i]
        r = rows[i]
        at = _slot(parts, x)
        payload = load_u64(at + 8)
        before = load_i64(back[r >> SHIFT] + (r & MASK) * 8)
        is_head = np.int64(payload & _ROW) == r
        if before == 0 and not is_head:
            continue
        found += 1
        count = payload >> _COUNT
        after = np.int64(0)
        if count != np.uint64(1):
            after = load_i64(chain[r >> SHIFT] + (r & MASK) * 8)
        if after != 0:
            store_i64(back[after >> SHIFT] + (after & MASK) * 8, before)
        fewer = count - np.uint64(1) if np.uint64(1) < count < _FULL else count
        if not is_head:
            store_i64(chain[before >> SHIFT] + (before & MASK) * 8, after)
            store_i64(back[r >> SHIFT] + (r & MASK) * 8, 0)
            store_u64(at + 8, (payload & _ROW) | (fewer << _COUNT))
        elif after != 0:
            store_u64(at + 8, np.uint64(after) | (fewer << _COUNT))
        else:
            p = np.int64(x >> _TOP)
            parts[p, 2] -= 1
            _close(parts[p, 0], np.uint64(parts[p, 1]), np.uint64((at - parts[p, 0]) // 16))
    return found
