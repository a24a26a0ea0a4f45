"""Signed 192-bit integers in three words, and sums of doubles that are exact because they are such integers.

A *wide* is three consecutive int64 words of a group's row, lowest first, in two's complement. A *window* is a wide plus the
binary exponent of its lowest bit: a small superaccumulator (Kulisch 1976; Neal 2015) that follows the data instead of
spanning all exponents. Sums are exact, so they do not depend on order and a retraction leaves no trace, as long as the values
of a group lie within 2^96 of each other and number less than 2^40; beyond, the lowest bits of the smallest go.
"""

from __future__ import annotations

import math

import numpy as np

from forebay.kernels.jit import routine

_LOW = np.uint64(0xFFFFFFFF)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_TOP = 150  # values and sums stay below 2^_TOP when placed: 41 bits of head room for later additions
_PLACE = 64  # bits left free below the first value of a window
_BIAS = 4096  # stored exponents are positive, so that 0 says "no value yet"


@routine
def multiply(a, b):
    """(low, high) words of the product of two uint64."""
    a0, a1 = a & _LOW, a >> np.uint64(32)
    b0, b1 = b & _LOW, b >> np.uint64(32)
    low = a0 * b0
    middle = a1 * b0 + (low >> np.uint64(32))
    cross = a0 * b1 + (middle & _LOW)
    return (cross << np.uint64(32)) | (low & _LOW), a1 * b1 + (middle >> np.uint64(32)) + (cross >> np.uint64(32))


@routine
def negate(x0, x1, x2):
    """-x."""
    y0 = ~x0 + _ONE
    carry = _ONE if y0 == _ZERO else _ZERO
    y1 = ~x1 + carry
    carry = _ONE if (carry == _ONE and y1 == _ZERO) else _ZERO
    return y0, y1, ~x2 + carry


@routine
def add(x0, x1, x2, y0, y1, y2):
    """x + y."""
    s0 = x0 + y0
    carry = _ONE if s0 < x0 else _ZERO
    s1 = x1 + y1
    carry2 = _ONE if s1 < x1 else _ZERO
    s1 = s1 + carry
    if s1 < carry:
        carry2 = _ONE
    return s0, s1, x2 + y2 + carry2


@routine
def shift_left(x0, x1, x2, count):
    """x · 2^count, 0 <= count < 192."""
    words = count >> 6
    bits = np.uint64(count & 63)
    if words == 1:
        x0, x1, x2 = _ZERO, x0, x1
    elif words == 2:
        x0, x1, x2 = _ZERO, _ZERO, x0
    if bits == _ZERO:
        return x0, x1, x2
    back = np.uint64(64) - bits
    return x0 << bits, (x1 << bits) | (x0 >> back), (x2 << bits) | (x1 >> back)


@routine
def shift_right(x0, x1, x2, count):
    """floor(x / 2^count) of a non-negative x, 0 <= count < 192."""
    words = count >> 6
    bits = np.uint64(count & 63)
    if words == 1:
        x0, x1, x2 = x1, x2, _ZERO
    elif words == 2:
        x0, x1, x2 = x2, _ZERO, _ZERO
    if bits == _ZERO:
        return x0, x1, x2
    back = np.uint64(64) - bits
    return (x0 >> bits) | (x1 << back), (x1 >> bits) | (x2 << back), x2 >> bits


@routine
def bit_length(x0, x1, x2):
    """The number of bits of a non-negative x."""
    length, x = 0, x0
    if x2 != _ZERO:
        length, x = 128, x2
    elif x1 != _ZERO:
        length, x = 64, x1
    while x != _ZERO:
        length += 1
        x >>= _ONE
    return length


@routine
def load(row, at):
    """The words of the wide at row[at:at + 3]."""
    return np.uint64(row[at]), np.uint64(row[at + 1]), np.uint64(row[at + 2])


@routine
def store(row, at, x0, x1, x2):
    """Write a wide at row[at:at + 3]."""
    row[at] = np.int64(x0)
    row[at + 1] = np.int64(x1)
    row[at + 2] = np.int64(x2)


@routine
def magnitude(x0, x1, x2):
    """(sign, |x|): sign is -1 or 1."""
    if np.int64(x2) < 0:
        y0, y1, y2 = negate(x0, x1, x2)
        return -1, y0, y1, y2
    return 1, x0, x1, x2


@routine
def rescale(row, at, count):
    """Multiply the window's number by 2^count (a negative count drops bits) and move its exponent against it."""
    x0, x1, x2 = load(row, at)
    sign, x0, x1, x2 = magnitude(x0, x1, x2)
    if count >= 0:
        x0, x1, x2 = shift_left(x0, x1, x2, count)
    elif count > -192:
        x0, x1, x2 = shift_right(x0, x1, x2, -count)
    else:
        x0, x1, x2 = _ZERO, _ZERO, _ZERO
    if sign < 0:
        x0, x1, x2 = negate(x0, x1, x2)
    store(row, at, x0, x1, x2)
    row[at + 3] -= count


@routine
def add_double(row, at, bits, weight):
    """Add weight times the finite double with these `bits` to the window at row[at:at + 4]."""
    exponent = (bits >> 52) & 0x7FF
    mantissa = np.uint64(bits & 0xFFFFFFFFFFFFF)
    if exponent == 0:
        exponent = 1
    else:
        mantissa |= np.uint64(1 << 52)
    if mantissa == _ZERO or weight == 0:
        return
    x0, x1 = multiply(mantissa, np.uint64(weight if weight > 0 else -weight))
    if row[at + 3] == 0:
        row[at + 3] = exponent - _PLACE + _BIAS
    shift = exponent + _BIAS - row[at + 3]
    size = bit_length(x0, x1, _ZERO)
    if shift < 0:
        w0, w1, w2 = load(row, at)
        _, w0, w1, w2 = magnitude(w0, w1, w2)
        if bit_length(w0, w1, w2) - shift <= _TOP:
            rescale(row, at, -shift)
            shift = 0
    elif shift + size > _TOP:
        rescale(row, at, _TOP - shift - size)
        shift = _TOP - size
    if shift < 0:  # the value lies below the window: its lowest bits go
        x0, x1, x2 = shift_right(x0, x1, _ZERO, min(-shift, 191))
    else:
        x0, x1, x2 = shift_left(x0, x1, _ZERO, shift)
    if (bits < 0) != (weight < 0):
        x0, x1, x2 = negate(x0, x1, x2)
    y0, y1, y2 = load(row, at)
    y0, y1, y2 = add(y0, y1, y2, x0, x1, x2)
    store(row, at, y0, y1, y2)


@routine
def rounded(x0, x1, x2):
    """(m, shift): m · 2^shift is the non-negative x rounded to 53 bits, half to even."""
    shift = bit_length(x0, x1, x2) - 53
    if shift <= 0:
        return x0, 0
    m, _, _ = shift_right(x0, x1, x2, shift)
    y0, y1, y2 = shift_left(m, _ZERO, _ZERO, shift)
    y0, y1, y2 = negate(y0, y1, y2)
    y0, y1, y2 = add(x0, x1, x2, y0, y1, y2)  # what is left below m
    h0, h1, h2 = shift_left(_ONE, _ZERO, _ZERO, shift - 1)
    h0, h1, h2 = negate(h0, h1, h2)
    h0, h1, h2 = add(y0, y1, y2, h0, h1, h2)  # left - half
    if np.int64(h2) >= 0 and ((h0 | h1 | h2) != _ZERO or (m & _ONE) == _ONE):
        m += _ONE
    return m, shift


@routine
def to_double(row, at):
    """The double nearest to the window at row[at:at + 4], and the double nearest to the rest."""
    x0, x1, x2 = load(row, at)
    sign, x0, x1, x2 = magnitude(x0, x1, x2)
    m, shift = rounded(x0, x1, x2)
    exponent = row[at + 3] - _BIAS - 1075
    high = math.ldexp(np.float64(m), int(shift + exponent)) * sign
    y0, y1, y2 = shift_left(m, _ZERO, _ZERO, shift)
    y0, y1, y2 = negate(y0, y1, y2)
    y0, y1, y2 = add(x0, x1, x2, y0, y1, y2)
    sign2, y0, y1, y2 = magnitude(y0, y1, y2)
    m, shift = rounded(y0, y1, y2)
    return high, math.ldexp(np.float64(m), int(shift + exponent)) * (sign * sign2)


@routine
def divide(x0, x1, x2, divisor):
    """(quotient, remainder) of a non-negative x by 0 < divisor < 2^63: binary long division from the top bit."""
    remainder = _ZERO
    q0, q1, q2 = _ZERO, _ZERO, _ZERO
    length = bit_length(x0, x1, x2)
    x0, x1, x2 = shift_left(x0, x1, x2, (192 - length) % 192)
    for _ in range(length):
        remainder = (remainder << _ONE) | (x2 >> np.uint64(63))
        x0, x1, x2 = shift_left(x0, x1, x2, 1)
        q0, q1, q2 = shift_left(q0, q1, q2, 1)
        if remainder >= divisor:
            remainder -= divisor
            q0 |= _ONE
    return q0, q1, q2, remainder
