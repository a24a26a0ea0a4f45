"""Spans of JSON values to columns of numbers and truth values; see `kernels.json_values` for the contract."""

from __future__ import annotations

import numpy as np
from numba import boolean, float64, int64, types, uint64

from forebay.kernels.hash import i64_in, i64_out, u8_in, u8_out, u64_in
from forebay.kernels.jit import kernel, routine
from forebay.kernels.json_scan import FALSE, INTEGER, NULL, NUMBER, TRUE
from forebay.kernels.json_spans import begin_of, is_plain, kind_of, set_bit, size_of
from forebay.kernels.memory import load_u64
from forebay.kernels.words import address_of, byte_at, high_product, high_zeros, word

f64_out = types.Array(float64, 1, "C")
pairs_out = types.Array(uint64, 2, "C")
LEAST = -(1 << 63)

_TEN = np.uint64(10)
_MOST = np.uint64(0x7FFFFFFFFFFFFFFF)
_LOWER = np.uint64(0x2020202020202020)
"""Makes letters small; no other byte becomes one."""


@routine
def decimal_digits(text, at, end):
    """The number of the digits data[at:end], of which there are 1 to 18; -1 if others are among them."""
    number = 0
    while at + 8 <= end:
        w = load_u64(text + at)
        if (w & np.uint64(0xF0F0F0F0F0F0F0F0)) != np.uint64(0x3030303030303030):
            return -1
        if ((w + np.uint64(0x0606060606060606)) & np.uint64(0xF0F0F0F0F0F0F0F0)) != np.uint64(0x3030303030303030):
            return -1
        w -= np.uint64(0x3030303030303030)  # eight digits at once: pairs, then fours, then all (Mula, 2014)
        w = w * _TEN + (w >> np.uint64(8))
        low = (w & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
        high = ((w >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(0x0000271000000001)
        number = number * 100_000_000 + np.int64((low + high) >> np.uint64(32))
        at += 8
    while at < end:
        digit = byte_at(text, at) - 48
        if digit < 0 or digit > 9:
            return -1
        number = number * 10 + digit
        at += 1
    return number


@kernel(int64(u8_in, i64_in, int64, int64, i64_out, u8_out, u8_out))
def integers(data, spans, low, high, out, bits, bad):
    """Whole numbers between `low` and `high`, also as text. Returns the number of NULLs."""
    text = address_of(data)
    nulls = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        out[i] = 0
        if kind <= NULL:
            nulls += 1
            continue
        set_bit(bits, i)
        at, size = begin_of(spans[i]), size_of(spans[i])
        end = at + size
        negative = size > 0 and byte_at(text, at) == 45
        if negative:
            at += 1
        number = -1
        if is_plain(kind) and 0 < end - at <= 18:
            number = decimal_digits(text, at, end)
        elif is_plain(kind) and end - at == 19:
            head = decimal_digits(text, at, end - 1)
            digit = byte_at(text, end - 1) - 48
            if head >= 0 and 0 <= digit <= 9:
                magnitude = np.uint64(head) * _TEN + np.uint64(digit)
                if magnitude <= _MOST:
                    number = np.int64(magnitude)
                elif negative and magnitude == _MOST + np.uint64(1) and low == LEAST:
                    out[i] = low
                    continue
        if number < 0:
            bad[i] = 1
            continue
        if negative:
            number = -number
        if number < low or number > high:
            bad[i] = 1
            continue
        out[i] = number
    return nulls


@kernel(int64(u8_in, i64_in, u8_out, u8_out, u8_out))
def booleans(data, spans, out, bits, bad):
    """Truth values into the bits of `out`; also 1 and 0, and either as text in any case. Returns the number of NULLs."""
    text = address_of(data)
    nulls = 0
    for i in range(spans.shape[0]):
        kind, size = kind_of(spans[i]), size_of(spans[i])
        if kind <= NULL:
            nulls += 1
            continue
        set_bit(bits, i)
        if kind == TRUE:
            set_bit(out, i)
        elif kind != FALSE:
            head = word(text, begin_of(spans[i]), data.shape[0])
            if not is_plain(kind):
                bad[i] = 1
            elif size == 1 and head & np.uint64(0xFF) == np.uint64(0x31):
                set_bit(out, i)
            elif size == 4 and (head | _LOWER) & np.uint64(0xFFFFFFFF) == np.uint64(0x65757274):
                set_bit(out, i)
            elif not (size == 1 and head & np.uint64(0xFF) == np.uint64(0x30)) and not (
                size == 5 and (head | _LOWER) & np.uint64(0xFFFFFFFFFF) == np.uint64(0x65736C6166)
            ):
                bad[i] = 1
    return nulls


@routine
def _number(text, at, end):
    """Of an unsigned number as JSON writes it, leading zeros allowed: its digits as an integer, the exponent of ten, and
    whether that is all: not if it is no such number or has more than 19 digits."""
    digits, point, exponent, some = np.uint64(0), -1, 0, 0
    significant = 0
    if end - at > 400:
        return np.uint64(0), 0, False
    while at < end:
        c = byte_at(text, at)
        if 48 <= c <= 57:
            if significant > 0 or c != 48:
                significant += 1
                if significant > 19:
                    return np.uint64(0), 0, False
            digits = digits * _TEN + np.uint64(c - 48)
            some += 1
        elif c == 46 and point < 0 and some > 0:
            point = some
        else:
            break
        at += 1
    if some == 0 or point == some:
        return np.uint64(0), 0, False
    if point >= 0:
        exponent = point - some
    if at < end:
        if byte_at(text, at) | 32 != 101:
            return np.uint64(0), 0, False
        at += 1
        negative = at < end and byte_at(text, at) == 45
        if at < end and (negative or byte_at(text, at) == 43):
            at += 1
        if at == end or end - at > 4:
            return np.uint64(0), 0, False
        power = decimal_digits(text, at, end)
        if power < 0:
            return np.uint64(0), 0, False
        exponent += -power if negative else power
    return digits, exponent, True


@routine
def _between(number):
    """Whether a double lies halfway between two normal floats, so that its text may be nearer to either."""
    bits = np.float64(number).view(np.int64)
    return bits & 0x1FFFFFFF == 0x10000000


@routine
def _nearest(digits, exponent, high5, low5):
    """The double nearest to digits * 10**exponent; negative if that is left: subnormal, infinite or not decided by 128 bits.

    high5, low5: the first 128 bits of 5**exponent. Eisel and Lemire (Lemire 2021, "Number parsing at a gigabyte per second").
    """
    shift = high_zeros(digits)
    w = digits << np.uint64(shift)
    low, high = w * high5, high_product(w, high5)
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):
        more = high_product(w, low5)
        low += more
        if low < more:
            high += np.uint64(1)
        if low == ~np.uint64(0) and (exponent < -27 or exponent > 55):
            return -1.0
    upper = high >> np.uint64(63)
    mantissa = high >> (upper + np.uint64(9))
    power = ((217706 * exponent) >> 16) + 63 + np.int64(upper) - shift + 1023
    if power <= 0:
        return -1.0
    if low <= np.uint64(1) and -4 <= exponent <= 23 and mantissa & np.uint64(3) == np.uint64(1):
        if mantissa << (upper + np.uint64(9)) == high:
            mantissa &= ~np.uint64(1)  # a tie: to even
    mantissa = (mantissa + (mantissa & np.uint64(1))) >> np.uint64(1)
    if mantissa >= np.uint64(1 << 53):
        mantissa = np.uint64(1 << 52)
        power += 1
    if power >= 0x7FF:
        return -1.0
    bits = (mantissa & np.uint64((1 << 52) - 1)) | np.uint64(power) << np.uint64(52)
    return np.uint64(bits).view(np.float64)


@kernel(int64(u8_in, i64_in, boolean, u64_in, u64_in, f64_out, u8_out, u8_out))
def floats(data, spans, single, high5, low5, out, bits, bad):
    """Numbers, correctly rounded; `single`: those of which the nearest float32 is the one nearest to the text.

    high5, low5: the first 128 bits of 5**k for k from -342 to 308 (see `_nearest`). Returns the number of NULLs.
    """
    text = address_of(data)
    nulls = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        out[i] = 0.0
        if kind <= NULL:
            nulls += 1
            continue
        set_bit(bits, i)
        at, size = begin_of(spans[i]), size_of(spans[i])
        if not (kind == NUMBER or is_plain(kind)) or size == 0:
            bad[i] = 1
            continue
        negative = byte_at(text, at) == 45
        digits, exponent, fine = _number(text, at + 1 if negative else at, at + size)
        if not fine or exponent < -342 or exponent > 308:
            bad[i] = 1
            continue
        number = 0.0
        if digits != np.uint64(0):
            number = _nearest(digits, exponent, high5[exponent + 342], low5[exponent + 342])
            if single and (number > 3.4e38 or number < 1.2e-38 or _between(number)):
                number = -1.0
        elif negative and kind == INTEGER:
            number = -1.0  # the integer -0 is 0
        if number < 0.0:
            bad[i] = 1
        else:
            out[i] = -number if negative else number
    return nulls


@kernel(int64(u8_in, i64_in, int64, u64_in, u64_in, pairs_out, u8_out, u8_out))
def decimals(data, spans, scale, tens, limit, out, bits, bad):
    """Numbers times 10**scale as 128-bit integers, surplus digits rounded half up; below `limit` (low and high word).

    tens: 10**0 to 10**19. Returns the number of NULLs.
    """
    text = address_of(data)
    nulls = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        out[i, 0] = np.uint64(0)
        out[i, 1] = np.uint64(0)
        if kind <= NULL:
            nulls += 1
            continue
        set_bit(bits, i)
        at, size = begin_of(spans[i]), size_of(spans[i])
        if not (kind == NUMBER or is_plain(kind)) or size == 0:
            bad[i] = 1
            continue
        negative = byte_at(text, at) == 45
        digits, exponent, fine = _number(text, at + 1 if negative else at, at + size)
        shift = scale + exponent
        if not fine or shift > 19 or shift < -19:
            bad[i] = 1
            continue
        low, high = digits, np.uint64(0)
        if shift < 0:
            low = digits // tens[-shift]
            rest = digits - low * tens[-shift]
            if rest >= tens[-shift] - rest:
                low += np.uint64(1)
        elif shift > 0:
            low, high = digits * tens[shift], high_product(digits, tens[shift])
        if high > limit[1] or (high == limit[1] and low >= limit[0]):
            bad[i] = 1
            continue
        if negative:
            low = ~low + np.uint64(1)
            high = ~high + (np.uint64(1) if low == np.uint64(0) else np.uint64(0))
        out[i, 0] = low
        out[i, 1] = high
    return nulls
