"""Row hashes, column by column: the first column starts a uint64 per row, later columns combine into it.

`mix` is the finaliser of splitmix64 (Steele, Lea, Flood 2014) and bijective: for a single key of up to 8 bytes equal hashes
*are* equal keys. Byte strings use the wyhash construction (Wang Yi, public domain). Values are canonical before they come
here: -0.0 is 0.0 and every NaN is one NaN (`canonical_f64`), decimals have a common scale.
"""

from __future__ import annotations

import numpy as np
from numba import float64, int32, int64, types, uint8, uint64, void

from forebay.kernels.jit import inline, kernel
from forebay.kernels.memory import fold_multiply

_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_W0 = np.uint64(0xA0761D6478BD642F)
_W1 = np.uint64(0xE7037ED1A0B428DB)
NULL_HASH = np.uint64(0x7FB5D329728EA185)

u64_in = types.Array(uint64, 1, "C", readonly=True)
i64_in = types.Array(int64, 1, "C", readonly=True)
tables_in = types.Array(int64, 2, "C", readonly=True)
i32_in = types.Array(int32, 1, "C", readonly=True)
u8_in = types.Array(uint8, 1, "C", readonly=True)
f64_in = types.Array(float64, 1, "C", readonly=True)
u64_out = types.Array(uint64, 1, "C")
u8_out = types.Array(uint8, 1, "C")
i64_out = types.Array(int64, 1, "C")


@inline
def mix(x):
    """A bijection of uint64 that spreads every bit."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


@inline
def combine(seed, x):
    """Hash of (what `seed` stands for, x)."""
    return mix(seed * _GOLDEN + x)


@inline
def word(data, at, count):
    """`count` (1 to 8) bytes from `at`, little-endian."""
    x = np.uint64(0)
    for k in range(count):
        x |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return x


@inline
def hash_bytes(data, start, stop, seed):
    """Hash of data[start:stop]."""
    seed = seed ^ _W0
    size = stop - start
    at = start
    while stop - at > 16:
        seed = fold_multiply(word(data, at, 8) ^ _W1, word(data, at + 8, 8) ^ seed)
        at += 16
    left = stop - at
    a = word(data, at, min(left, 8))
    b = word(data, at + 8, left - 8) if left > 8 else np.uint64(0)
    return fold_multiply(_W1 ^ np.uint64(size), fold_multiply(a ^ _W1, b ^ seed))


@kernel(void(u64_in, u64_out))
def hash_words(values, out):
    """out[i] = mix(values[i])."""
    for i in range(values.shape[0]):
        out[i] = mix(values[i])


@kernel(void(u64_in, u64_out))
def combine_words(values, out):
    """out[i] = combine(out[i], values[i])."""
    for i in range(values.shape[0]):
        out[i] = combine(out[i], values[i])


@kernel(void(i32_in, u8_in, u64_out))
def hash_strings(offsets, data, out):
    """out[i] = hash of data[offsets[i]:offsets[i + 1]]."""
    for i in range(out.shape[0]):
        out[i] = hash_bytes(data, offsets[i], offsets[i + 1], np.uint64(0))


@kernel(void(i32_in, u8_in, u64_out))
def combine_strings(offsets, data, out):
    """out[i] = hash of the i-th string seeded with out[i]."""
    for i in range(out.shape[0]):
        out[i] = hash_bytes(data, offsets[i], offsets[i + 1], out[i])


@kernel(void(u8_in, u64_in, u64_out))
def null_hashes(valid, before, out):
    """Where valid[i] is 0, out[i] = combine(before[i], NULL_HASH): a NULL hashes like that one word, and like no other."""
    for i in range(out.shape[0]):
        if valid[i] == 0:
            out[i] = combine(before[i], NULL_HASH)


@kernel(void(i64_in, u64_in, u64_out))
def fold_lists(lengths, words, out):
    """out[i] = hash of the next lengths[i] of `words`, which are the hashes of the elements, list after list."""
    at = 0
    for i in range(lengths.shape[0]):
        x = mix(np.uint64(lengths[i]))
        for k in range(lengths[i]):
            x = combine(x, words[at + k])
        at += lengths[i]
        out[i] = x


@kernel(void(f64_in, u64_out))
def canonical_f64(values, out):
    """Bits of each value, with one zero and one NaN."""
    for i in range(values.shape[0]):
        x = values[i]
        if x != x:
            out[i] = np.uint64(0x7FF8000000000000)
        elif x == 0.0:
            out[i] = np.uint64(0)
        else:
            out[i] = values[i : i + 1].view(np.uint64)[0]
