"""Grouping the rows of one batch by hash, and summing weights by group."""

from __future__ import annotations

import numpy as np
from numba import int64, void

from forebay.kernels.hash import i64_in, i64_out, u64_in
from forebay.kernels.jit import kernel


@kernel(int64(u64_in, i64_out, i64_out, i64_out))
def group_hashes(hashes, table, group, first):
    """Number equal hashes: group[i] is the number of hashes[i], first[k] the first row of number k; returns how many.

    `table` is scratch of a power of two > rows, all zero.
    """
    mask = np.uint64(table.shape[0] - 1)
    n = 0
    for i in range(hashes.shape[0]):
        x = hashes[i]
        slot = x & mask
        while True:
            k = table[slot]
            if k == 0:
                first[n] = i
                group[i] = n
                n += 1
                table[slot] = n
                break
            if hashes[first[k - 1]] == x:
                group[i] = k - 1
                break
            slot = (slot + np.uint64(1)) & mask
    return n


@kernel(void(i64_in, i64_in, i64_out))
def sum_by_group(group, weights, out):
    """out[group[i]] += weights[i]."""
    for i in range(group.shape[0]):
        out[group[i]] += weights[i]
