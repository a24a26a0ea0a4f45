"""Accumulators: what a batch of weighted values does to the rows of their groups, and what the rows then say.

`acc` is int64[groups, width]: one row of words per group; an accumulator owns the words from column `at` on. `gids` names
each value's group and `weights` says how often it counts: 0 for a NULL or a value that FILTER leaves out, negative for a
retraction. Updates are sums of weights, so they do not depend on order; `*_result` kernels read a gathered `acc[touched]`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import boolean, float64, int64, types, uint64, void

from forebay.kernels import wide
from forebay.kernels.hash import f64_in, i64_in, u8_out, u64_in
from forebay.kernels.jit import kernel, routine

acc_rows = types.Array(int64, 2, "C")
acc_in = types.Array(int64, 2, "C", readonly=True)
f64_out = types.Array(float64, 1, "C")
words_out = types.Array(uint64, 2, "C")

FLOAT_WIDTH = 7  # window (4 words), count, NaNs, infinities (positive ones in the low half, negative in the high half)
VARIANCE_WIDTH = 11  # the same for the values, then a window for their squares
DECIMAL_WIDTH = 4  # wide (3 words), count

_INFINITY = 0x7FF0000000000000
_NOISE = 2.0**-98  # of a double-double: equal values have no spread


@kernel(void(acc_rows, int64, i64_in, i64_in))
def add_count(acc, at, gids, weights):
    """Word 0 counts."""
    for i in range(gids.shape[0]):
        acc[gids[i], at] += weights[i]


@kernel(void(acc_rows, int64, i64_in, i64_in, i64_in))
def add_int(acc, at, gids, weights, values):
    """Word 0 sums (wrapping), word 1 counts."""
    for i in range(gids.shape[0]):
        g = gids[i]
        acc[g, at] += weights[i] * values[i]
        acc[g, at + 1] += weights[i]


@kernel(void(acc_rows, int64, i64_in, i64_in, u64_in, u64_in))
def add_decimal(acc, at, gids, weights, low, high):
    """Words 0 to 2 sum 128-bit integers, word 3 counts."""
    for i in range(gids.shape[0]):
        w = weights[i]
        if w == 0:
            continue
        row = acc[gids[i]]
        row[at + 3] += w
        sign = np.uint64(0) if np.int64(high[i]) >= 0 else np.uint64(0xFFFFFFFFFFFFFFFF)
        negative, x0, x1, x2 = wide.magnitude(low[i], high[i], sign)
        if w != 1 and w != -1:
            times = np.uint64(w if w > 0 else -w)
            x0, carry = wide.multiply(x0, times)
            x1, x2 = wide.multiply(x1, times)
            x0, x1, x2 = wide.add(x0, x1, x2, np.uint64(0), carry, np.uint64(0))
        if (negative < 0) != (w < 0):
            x0, x1, x2 = wide.negate(x0, x1, x2)
        y0, y1, y2 = wide.load(row, at)
        y0, y1, y2 = wide.add(y0, y1, y2, x0, x1, x2)
        wide.store(row, at, y0, y1, y2)


@routine
def _note_special(row, at, bits, weight):
    """Count an infinity or a NaN."""
    if bits & 0x7FFFFFFFFFFFFFFF != _INFINITY:
        row[at + 5] += weight
    elif bits >= 0:
        row[at + 6] += weight
    else:
        row[at + 6] += weight << 32


@kernel(void(acc_rows, int64, i64_in, i64_in, i64_in))
def add_float(acc, at, gids, weights, bits):
    """FLOAT_WIDTH words sum the doubles with these bits, exactly."""
    for i in range(gids.shape[0]):
        w = weights[i]
        if w == 0:
            continue
        row = acc[gids[i]]
        row[at + 4] += w
        if bits[i] & _INFINITY == _INFINITY:
            _note_special(row, at, bits[i], w)
        else:
            wide.add_double(row, at, bits[i], w)


@routine
def _two_product(a, b):
    """(p, e) with p + e = a · b exactly (Dekker 1971)."""
    p = a * b
    t = 134217729.0 * a
    a1 = t - (t - a)
    t = 134217729.0 * b
    b1 = t - (t - b)
    a2, b2 = a - a1, b - b1
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


@kernel(void(acc_rows, int64, i64_in, i64_in, f64_in, i64_in, types.Array(float64, 1, "C")))
def add_variance(acc, at, gids, weights, values, bits, scratch):
    """VARIANCE_WIDTH words sum the doubles and their squares, exactly; `bits` views `values`, `scratch` is double[2]."""
    square = scratch.view(np.int64)
    for i in range(gids.shape[0]):
        w = weights[i]
        if w == 0:
            continue
        row = acc[gids[i]]
        row[at + 4] += w
        if bits[i] & _INFINITY == _INFINITY or abs(values[i]) > 1e150:
            _note_special(row, at, bits[i] | _INFINITY, w)
        else:
            wide.add_double(row, at, bits[i], w)
            p, e = _two_product(values[i], values[i])
            scratch[0] = p
            scratch[1] = e
            wide.add_double(row, at + 7, square[0], w)
            wide.add_double(row, at + 7, square[1], w)


@kernel(void(acc_rows, int64, i64_in, i64_in, acc_in, boolean))
def keep_best(acc, at, gids, weights, words, greatest):
    """The least (or greatest) words seen, in words 0 to k - 1; word k counts. Weights are not negative."""
    k = words.shape[1]
    for i in range(gids.shape[0]):
        if weights[i] == 0:
            continue
        row = acc[gids[i]]
        better = row[at + k] == 0
        if not better:
            for j in range(k):
                if words[i, j] != row[at + j]:
                    better = (words[i, j] > row[at + j]) == greatest
                    break
        if better:
            for j in range(k):
                row[at + j] = words[i, j]
        row[at + k] += weights[i]


@kernel(void(acc_in, int64, f64_out))
def float_result(rows, at, out):
    """out[i] = the sum, correctly rounded; NaN and infinities as IEEE adds them."""
    for i in range(rows.shape[0]):
        row = rows[i]
        positive = row[at + 6] & 0xFFFFFFFF
        negative = (row[at + 6] - positive) >> 32
        if row[at + 5] != 0 or (positive != 0 and negative != 0):
            out[i] = math.nan
        elif positive != 0:
            out[i] = math.inf
        elif negative != 0:
            out[i] = -math.inf
        elif row[at + 3] == 0:
            out[i] = 0.0
        else:
            out[i], _ = wide.to_double(row, at)


@kernel(void(acc_in, int64, int64, f64_out))
def variance_result(rows, at, less, out):
    """out[i] = (Σx² - (Σx)²/n) / (n - less), in double-double; NaN where n <= less or a value is not finite."""
    for i in range(rows.shape[0]):
        row = rows[i]
        n = np.float64(row[at + 4])
        if n <= less or row[at + 5] != 0 or row[at + 6] != 0:
            out[i] = math.nan
            continue
        s, s_low, q, q_low = 0.0, 0.0, 0.0, 0.0
        if row[at + 3] != 0:
            s, s_low = wide.to_double(row, at)
        if row[at + 10] != 0:
            q, q_low = wide.to_double(row, at + 7)
        p, p_low = _two_product(s, s)
        p_low += 2.0 * s * s_low
        mean = p / n
        back, back_low = _two_product(mean, n)
        mean_low = ((p - back) - back_low + p_low) / n
        spread = (q - mean) + (q_low - mean_low)
        out[i] = spread / (n - less) if row[at + 4] > 1 and spread > q * _NOISE else 0.0


@kernel(void(acc_in, int64, i64_in, int64, int64, uint64, uint64, words_out, u8_out))
def decimal_result(rows, at, divisors, up, down, limit_low, limit_high, out, valid):
    """out[i] = 128 bits of the sum · 10^up / (divisors[i] · down), half away from zero.

    valid[i] = 0 where the divisor is 0 or the result reaches the limit (10 to the power of the precision).
    """
    for i in range(rows.shape[0]):
        valid[i] = 0
        out[i, 0] = 0
        out[i, 1] = 0
        if divisors[i] <= 0:
            continue
        x0, x1, x2 = wide.load(rows[i], at)
        sign, x0, x1, x2 = wide.magnitude(x0, x1, x2)
        for _ in range(up):
            x0, carry = wide.multiply(x0, np.uint64(10))
            x1, carry2 = wide.multiply(x1, np.uint64(10))
            x2 *= np.uint64(10)
            x0, x1, x2 = wide.add(x0, x1, x2, np.uint64(0), carry, carry2)
        divisor = np.uint64(divisors[i] * down)
        if divisor != 1:
            x0, x1, x2, rest = wide.divide(x0, x1, x2, divisor)
            if rest >= divisor - rest:
                x0, x1, x2 = wide.add(x0, x1, x2, np.uint64(1), np.uint64(0), np.uint64(0))
        if x2 != 0 or x1 > limit_high or (x1 == limit_high and x0 >= limit_low):
            continue
        if sign < 0:
            x0, x1, x2 = wide.negate(x0, x1, x2)
        out[i, 0] = x0
        out[i, 1] = x1
        valid[i] = 1
