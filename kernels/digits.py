"""Numbers to decimal digits: integers, decimals of up to 38 digits, shortest round-trip floats.

Floats follow R. Giulietti, "The Schubfach way to render doubles" (2020): of the shortest decimals that read back as the same
number, the closest. Powers of ten have 128 bits, so one routine serves DOUBLE and FLOAT. `at` is the address of the next byte
of an array that a kernel here was given: calls that pass whole arrays cost more than the digits.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int32, int64, types, uint64, void

from forebay.kernels.hash import i64_in, u8_in, u8_out, u64_in
from forebay.kernels.jit import kernel, routine
from forebay.kernels.memory import store_u8, store_u64
from forebay.kernels.words import address_of, byte_at, high_product

WIDTH = 48
"""The most bytes that a value takes, and may overwrite."""

i32_out = types.Array(int32, 1, "C")

_TENS = np.array([10**k for k in range(20)], np.uint64)
_LEAST, _MOST = -292, 324
"""The decimal exponents of `_HIGH` and `_LOW`."""


def _power(k):
    """10^k as the upper 128 bits of its binary digits, rounded up."""
    if k >= 0:
        shift = (10**k).bit_length() - 128
        return -(-(10**k) >> shift) if shift > 0 else 10**k << -shift
    return -(-(1 << (10**-k).bit_length() + 127) // 10**-k)


_POWERS = [_power(k) for k in range(_LEAST, _MOST + 1)]
_HIGH = np.array([p >> 64 for p in _POWERS], np.uint64)
_LOW = np.array([p & (2**64 - 1) for p in _POWERS], np.uint64)

_ZERO, _POINT, _MINUS, _PLUS, _QUOTE, _SMALL_E, _LARGE_E = (ord(c) for c in '0.-+"eE')
_NAN, _INFINITY, _MINUS_INFINITY, _WHOLE_ZERO = (
    np.frombuffer(w, np.uint8) for w in (b"NaN", b"Infinity", b"-Infinity", b"0.0")
)
_WORD, _BILLION = np.uint64(2**32 - 1), np.uint64(10**9)


@routine
def count_digits(u):
    """Decimal digits of a uint64; 1 for 0."""
    n = 1
    while n < 20 and u >= _TENS[n]:
        n += 1
    return n


@routine
def _eight(u):
    """Eight ASCII digits of u < 10^8, the first one in the lowest byte: halves, then quarters, then eighths of one word."""
    high = u // uint64(10_000)
    word = high | ((u - high * uint64(10_000)) << uint64(32))
    high = ((word * uint64(10_486)) >> uint64(20)) & uint64(0x0000007F0000007F)
    word = high | ((word - high * uint64(100)) << uint64(16))
    high = ((word * uint64(103)) >> uint64(10)) & uint64(0x000F000F000F000F)
    word = high | ((word - high * uint64(10)) << uint64(8))
    return word | uint64(0x3030303030303030)


@routine
def put_digits(at, u, count):
    """Write the last `count` digits of `u`, 1 to 20; returns where they end. Up to 7 bytes more may be overwritten."""
    if count > 16:
        rest = u // uint64(10**16)
        store_u64(at, _eight(rest) >> uint64(192 - 8 * count))
        at += count - 16
        u -= rest * uint64(10**16)
        count = 16
    if count > 8:
        rest = u // uint64(10**8)
        store_u64(at, _eight(rest) >> uint64(128 - 8 * count))
        at += count - 8
        u -= rest * uint64(10**8)
        count = 8
    store_u64(at, _eight(u) >> uint64(64 - 8 * count))
    return at + count


@routine
def put_two(at, value):
    """Write an integer below 100 as two digits; returns where they end."""
    tens = value // 10
    store_u8(at, 48 + tens)
    store_u8(at + 1, 48 + value - 10 * tens)
    return at + 2


@routine
def put_word(at, word):
    """Write an array of bytes; returns where they end."""
    for k in range(word.shape[0]):
        store_u8(at + k, int64(word[k]))
    return at + word.shape[0]


@routine
def put_integer(at, value):
    """Write an int64; returns where it ends."""
    u = uint64(value)
    if value < 0:
        store_u8(at, _MINUS)
        at += 1
        u = uint64(0) - u
    return put_digits(at, u, count_digits(u))


@kernel(void(i64_in, u8_in, u8_out, i32_out))
def integer_text(values, null, out, starts):
    """starts[i] = where the digits of values[i] begin in `out`, starts[n] = the end; what `null` marks is empty."""
    base = at = address_of(out)
    for i in range(values.shape[0]):
        starts[i] = at - base
        if null.shape[0] == 0 or null[i] == 0:
            at = put_integer(at, values[i])
    starts[values.shape[0]] = at - base


@routine
def _scaled(high, low, c):
    """floor(power · c / 2^128) with the last bit set if anything was cut off ("round to odd")."""
    carry = high_product(low, c)
    middle = high * c + carry
    top = high_product(high, c) + uint64(middle < carry)
    return top | uint64(middle > uint64(1))


@routine
def shortest(fraction, exponent, smallest):
    """(digits, decimal exponent) of fraction · 2^exponent; `smallest`: the gap below is half the one above."""
    k = (exponent * 1262611 - (524031 if smallest else 0)) >> 22
    h = uint64(exponent + ((-k * 1741647) >> 19) + 1)
    high, low = _HIGH[-k - _LEAST], _LOW[-k - _LEAST]
    four = fraction << uint64(2)
    odd = fraction & uint64(1)
    lower = _scaled(high, low, (four - uint64(2) + uint64(smallest)) << h) + odd
    value = _scaled(high, low, four << h)
    upper = _scaled(high, low, (four + uint64(2)) << h) - odd
    s = value >> uint64(2)
    if s >= uint64(10):
        tens = s // uint64(10)
        below, above = lower <= uint64(40) * tens, uint64(40) * tens + uint64(40) <= upper
        if below != above:
            return tens + uint64(above), k + 1
    below, above = lower <= uint64(4) * s, uint64(4) * s + uint64(4) <= upper
    if below != above:
        return s + uint64(above), k
    middle = uint64(4) * s + uint64(2)
    up = value > middle or (value == middle and (s & uint64(1)) != uint64(0))
    return s + uint64(up), k


@routine
def put_point(at, count, scale):
    """Set a point before the last `scale` of the `count` > scale digits that begin at `at` + 1; returns where they end."""
    whole = count - scale
    for j in range(at, at + whole):
        store_u8(j, byte_at(j, 1))
    store_u8(at + whole, _POINT)
    return at + 1 + count


@routine
def put_scientific(at, count, exponent, letter):
    """Turn the `count` digits that begin at `at` + 1 into d.dddE±x; returns where that ends."""
    store_u8(at, byte_at(at, 1))
    end = at + 1
    if count > 1:
        store_u8(end, _POINT)
        end += count
    store_u8(end, letter)
    store_u8(end + 1, _MINUS if exponent < 0 else _PLUS)
    size = uint64(abs(exponent))
    return put_digits(end + 2, size, count_digits(size))


@routine
def put_zeros(at, count):
    """Write zeros; returns where they end."""
    for j in range(at, at + count):
        store_u8(j, _ZERO)
    return at + count


@routine
def put_float(at, digits, exponent):
    """Write digits · 10^exponent: plain from 1e-6 up to 1e10, else scientific ('1.5e+10')."""
    while digits % uint64(10) == uint64(0):
        digits = digits // uint64(10)
        exponent += 1
    count = count_digits(digits)
    scientific = count + exponent - 1
    if scientific < -6 or scientific >= 10:
        put_digits(at + 1, digits, count)
        return put_scientific(at, count, scientific, _SMALL_E)
    if exponent >= 0:
        at = put_digits(at, digits * _TENS[exponent], count + exponent)
        store_u8(at, _POINT)
        store_u8(at + 1, _ZERO)
        return at + 2
    pad = max(1 - exponent - count, 0)
    put_digits(put_zeros(at + 1, pad), digits, count)
    return put_point(at, pad + count, -exponent)


@kernel(void(u64_in, int64, boolean, u8_in, u8_out, i32_out))
def float_text(bits, mantissa, quoted, null, out, starts):
    """As `integer_text`, for DOUBLE (`mantissa` 52) or FLOAT (23) values given as bits. A whole number ends in '.0'; NaN and
    ±Infinity are words, which may be quoted."""
    width = 11 if mantissa == 52 else 8
    special = (1 << width) - 1
    bias = special // 2 + mantissa
    hidden = uint64(1) << uint64(mantissa)
    base = at = address_of(out)
    for i in range(bits.shape[0]):
        starts[i] = at - base
        if null.shape[0] != 0 and null[i] != 0:
            continue
        fraction = bits[i] & (hidden - uint64(1))
        exponent = int64((bits[i] >> uint64(mantissa)) & uint64(special))
        negative = (bits[i] >> uint64(mantissa + width)) != uint64(0)
        if exponent == special:
            if quoted:
                store_u8(at, _QUOTE)
                at += 1
            if fraction != uint64(0):
                at = put_word(at, _NAN)
            else:
                at = put_word(at, _MINUS_INFINITY) if negative else put_word(at, _INFINITY)
            if quoted:
                store_u8(at, _QUOTE)
                at += 1
            continue
        if negative:
            store_u8(at, _MINUS)
            at += 1
        if exponent == 0 and fraction == uint64(0):
            at = put_word(at, _WHOLE_ZERO)
            continue
        smallest = fraction == uint64(0) and exponent > 1
        power = 1 - bias
        if exponent != 0:
            fraction |= hidden
            power = exponent - bias
        if -mantissa <= power <= 0 and fraction & ((uint64(1) << uint64(-power)) - uint64(1)) == uint64(0):
            at = put_float(at, fraction >> uint64(-power), 0)
            continue
        digits, tens = shortest(fraction, power, smallest)
        at = put_float(at, digits, tens)
    starts[bits.shape[0]] = at - base


@routine
def put_wide(at, low, high):
    """Write a uint128 of at most 38 digits; returns where it ends."""
    if high == uint64(0):
        return put_digits(at, low, count_digits(low))
    a, b = high >> uint64(32), high & _WORD
    c, d = low >> uint64(32), low & _WORD
    for lowest in (at + 30, at + 21, at + 12):  # three times nine digits, the last ones first
        a, rest = a // _BILLION, a % _BILLION
        b, rest = ((rest << uint64(32)) | b) // _BILLION, ((rest << uint64(32)) | b) % _BILLION
        c, rest = ((rest << uint64(32)) | c) // _BILLION, ((rest << uint64(32)) | c) % _BILLION
        d, rest = ((rest << uint64(32)) | d) // _BILLION, ((rest << uint64(32)) | d) % _BILLION
        put_digits(lowest, rest, 9)
    first = (c << uint64(32)) | d
    put_digits(at, first, 12)
    zeros = 0
    while byte_at(at, zeros) == _ZERO:
        zeros += 1
    for j in range(at, at + 39 - zeros):
        store_u8(j, byte_at(j, zeros))
    return at + 39 - zeros


@kernel(void(u64_in, u64_in, int64, boolean, u8_in, u8_out, i32_out))
def decimal_text(low, high, scale, plain, null, out, starts):
    """As `integer_text`, for DECIMALs of `scale` ≥ 0 in two words; below 1e-6 scientific ('1.0E-7') unless `plain`."""
    base = at = address_of(out)
    for i in range(low.shape[0]):
        starts[i] = at - base
        if null.shape[0] != 0 and null[i] != 0:
            continue
        lower, upper = low[i], high[i]
        if int64(upper) < 0:
            store_u8(at, _MINUS)
            at += 1
            lower, upper = uint64(0) - lower, ~upper + uint64(lower == uint64(0))
        count = put_wide(at + 1, lower, upper) - at - 1
        exponent = count - 1 - scale
        if scale == 0:
            for j in range(at, at + count):
                store_u8(j, byte_at(j, 1))
            at += count
        elif exponent < -6 and not plain:
            at = put_scientific(at, count, exponent, _LARGE_E)
        else:
            pad = max(scale + 1 - count, 0)
            for j in range(at + count, at, -1):
                store_u8(j + pad, byte_at(j, 0))
            put_zeros(at + 1, pad)
            at = put_point(at, pad + count, scale)
    starts[low.shape[0]] = at - base
