"""The second stage of reading JSON: spans of one column (see `kernels.json_scan`) to the buffers of an Arrow array.

Each kernel writes a value per span, sets the bit of those that are there, counts the others, and marks in `bad` what it
cannot vouch for: what is refused and what is merely rare (a plus sign, blanks around a number in text). Marked rows are read
again by the reference, so a kernel here may give up on anything but must never read a value differently.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float64, int32, int64, types, uint64, void

from forebay.kernels.hash import i32_in, i64_in, i64_out, u8_in, u8_out, u64_in
from forebay.kernels.jit import inline, kernel, routine
from forebay.kernels.json_scan import (
    ESCAPED,
    FALSE,
    INTEGER,
    LIST,
    LONGEST,
    MISSING,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    TRUE,
)
from forebay.kernels.memory import copy_bytes, load_u64, store_u8, store_u64
from forebay.kernels.words import address_of, byte_at, high_product, high_zeros, word

f64_out = types.Array(float64, 1, "C")
i32_out = types.Array(int32, 1, "C")
pairs_out = types.Array(uint64, 2, "C")

DATE, TIME, TIMESTAMP = 0, 1, 2
"""What `moments` reads."""

_TEN = np.uint64(10)
_MOST = np.uint64(0x7FFFFFFFFFFFFFFF)
_LEAST = -(1 << 63)
_LOWER = np.uint64(0x2020202020202020)
"""Makes letters small; no other byte becomes one."""


@routine
def kind_of(span):
    return span & 15


@routine
def begin_of(span):
    return span >> 32


@routine
def size_of(span):
    return (span >> 4) & LONGEST


@inline
def _set(bits, i):
    bits[i >> 3] |= np.uint8(1 << (i & 7))


@routine
def _is_scalar_text(kind):
    return kind == STRING or kind == INTEGER


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
        _set(bits, i)
        at, size = begin_of(spans[i]), size_of(spans[i])
        end = at + size
        negative = size > 0 and byte_at(text, at) == 45
        if negative:
            at += 1
        number = -1
        if _is_scalar_text(kind) and 0 < end - at <= 18:
            number = decimal_digits(text, at, end)
        elif _is_scalar_text(kind) and end - at == 19:
            head = decimal_digits(text, at, end - 1)
            digit = byte_at(text, end - 1) - 48
            if head >= 0 and 0 <= digit <= 9:
                magnitude = np.uint64(head) * _TEN + np.uint64(digit)
                if magnitude <= _MOST:
                    number = np.int64(magnitude)
                elif negative and magnitude == _MOST + np.uint64(1) and low == _LEAST:
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
        _set(bits, i)
        if kind == TRUE:
            _set(out, i)
        elif kind != FALSE:
            head = word(text, begin_of(spans[i]), data.shape[0])
            if not _is_scalar_text(kind):
                bad[i] = 1
            elif size == 1 and head & np.uint64(0xFF) == np.uint64(0x31):
                _set(out, i)
            elif size == 4 and (head | _LOWER) & np.uint64(0xFFFFFFFF) == np.uint64(0x65757274):
                _set(out, i)
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
        _set(bits, i)
        at, size = begin_of(spans[i]), size_of(spans[i])
        if not (kind == NUMBER or _is_scalar_text(kind)) or size == 0:
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
        _set(bits, i)
        at, size = begin_of(spans[i]), size_of(spans[i])
        if not (kind == NUMBER or _is_scalar_text(kind)) or size == 0:
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


@kernel(int64(i64_in))
def text_room(spans):
    """Bytes that `texts` may write."""
    total = 0
    for i in range(spans.shape[0]):
        if kind_of(spans[i]) <= FALSE and kind_of(spans[i]) > NULL:
            total += size_of(spans[i])
    return total + 16


@routine
def _hex(c):
    return (c & 15) + (9 if c > 57 else 0)


@routine
def _four_hex(text, at):
    return (
        _hex(byte_at(text, at)) << 12
        | _hex(byte_at(text, at + 1)) << 8
        | _hex(byte_at(text, at + 2)) << 4
        | _hex(byte_at(text, at + 3))
    )


@routine
def _put_character(out, to, code):
    """Write a code point as UTF-8; returns the place behind it."""
    if code < 0x80:
        store_u8(out + to, code)
        return to + 1
    if code < 0x800:
        store_u8(out + to, 0xC0 | code >> 6)
        store_u8(out + to + 1, 0x80 | code & 63)
        return to + 2
    if code < 0x10000:
        store_u8(out + to, 0xE0 | code >> 12)
        store_u8(out + to + 1, 0x80 | code >> 6 & 63)
        store_u8(out + to + 2, 0x80 | code & 63)
        return to + 3
    store_u8(out + to, 0xF0 | code >> 18)
    store_u8(out + to + 1, 0x80 | code >> 12 & 63)
    store_u8(out + to + 2, 0x80 | code >> 6 & 63)
    store_u8(out + to + 3, 0x80 | code & 63)
    return to + 4


@routine
def _unescaped(text, at, end, out, to):
    """Write a string whose escapes are known to be well formed; returns the place behind it, -1 for half a surrogate pair."""
    while at < end:
        c = byte_at(text, at)
        if c != 92:
            store_u8(out + to, c)
            at += 1
            to += 1
            continue
        c = byte_at(text, at + 1)
        if c != 117:
            if c == 98:
                c = 8
            elif c == 102:
                c = 12
            elif c == 110:
                c = 10
            elif c == 114:
                c = 13
            elif c == 116:
                c = 9
            store_u8(out + to, c)
            at += 2
            to += 1
            continue
        code = _four_hex(text, at + 2)
        at += 6
        if 0xD800 <= code < 0xE000:
            if code >= 0xDC00 or at + 6 > end or byte_at(text, at) != 92 or byte_at(text, at + 1) != 117:
                return -1
            second = _four_hex(text, at + 2)
            if second < 0xDC00 or second > 0xDFFF:
                return -1
            code = 0x10000 + ((code - 0xD800) << 10) + second - 0xDC00
            at += 6
        to = _put_character(out, to, code)
    return to


@kernel(int64(u8_in, i64_in, i32_out, u8_out, u8_out, u8_out))
def texts(data, spans, offsets, out, bits, bad):
    """Strings, and numbers and truth values as they are written. Returns the number of NULLs.

    offsets: one more than spans; out: `text_room` bytes, of which offsets[-1] are used.
    """
    text, target = address_of(data), address_of(out)
    nulls, to = 0, 0
    offsets[0] = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        if kind <= NULL:
            nulls += 1
        else:
            _set(bits, i)
            at, size = begin_of(spans[i]), size_of(spans[i])
            if kind > FALSE:
                bad[i] = 1
            elif kind == ESCAPED:
                behind = _unescaped(text, at, at + size, target, to)
                if behind < 0:
                    bad[i] = 1
                else:
                    to = behind
            elif size <= 16 and at + 16 <= data.shape[0]:
                store_u64(target + to, load_u64(text + at))
                store_u64(target + to + 8, load_u64(text + at + 8))
                to += size
            else:
                copy_bytes(target + to, text + at, size)
                to += size
            if kind == INTEGER and size == 2 and byte_at(text, at) == 45 and byte_at(text, at + 1) == 48:
                bad[i] = 1  # the integer -0 is 0
        offsets[i + 1] = to
    return nulls


@routine
def _two(text, at):
    """The number of two digits; a million if they are none."""
    tens, ones = byte_at(text, at) - 48, byte_at(text, at + 1) - 48
    return tens * 10 + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else 1_000_000


@routine
def _day(text, at):
    """Days since 1970 of yyyy-MM-dd at `at`; the least int64 if it is none, or of the year 0 (Hinnant, days_from_civil)."""
    century, year = _two(text, at), _two(text, at + 2)
    month, day = _two(text, at + 5), _two(text, at + 8)
    y = century * 100 + year
    if y < 1 or y > 9999 or byte_at(text, at + 4) != 45 or byte_at(text, at + 7) != 45:
        return _LEAST
    if month < 1 or month > 12 or day < 1 or day > 31:
        return _LEAST
    if day > 28:
        leap = y & 3 == 0 and (y % 100 != 0 or y % 400 == 0)
        if month == 2:
            if day > 29 or not leap:
                return _LEAST
        elif day == 31 and (month == 4 or month == 6 or month == 9 or month == 11):
            return _LEAST
    if month <= 2:
        y -= 1
        month += 12
    u = np.uint64(y)
    era_days = u * np.uint64(365) + (u >> np.uint64(2)) - u // np.uint64(100) + u // np.uint64(400)
    return np.int64(era_days) + (153 * (month - 3) + 2) // 5 + day - 1 - 719468


@routine
def _clock(text, at, end):
    """(nanoseconds of the day of HH:mm:ss[.fraction] at `at`, the place behind it); (-1, 0) if it is none."""
    if at + 8 > end or byte_at(text, at + 2) != 58 or byte_at(text, at + 5) != 58:
        return -1, 0
    hour, minute, second = _two(text, at), _two(text, at + 3), _two(text, at + 6)
    if hour > 23 or minute > 59 or second > 59:
        return -1, 0
    nanos = ((hour * 60 + minute) * 60 + second) * 1_000_000_000
    at += 8
    if at < end and byte_at(text, at) == 46:
        at += 1
        unit, first = 100_000_000, at
        while at < end and 48 <= byte_at(text, at) <= 57:
            nanos += (byte_at(text, at) - 48) * unit
            unit //= 10
            at += 1
        if at == first or at > first + 9:
            return -1, 0
    return nanos, at


@routine
def _offset(text, at, end):
    """Seconds of the zone Z, +HH, +HHmm or +HH:mm at data[at:end]; a day if it is none."""
    size = end - at
    if size == 1 and byte_at(text, at) == 90:
        return 0
    sign = byte_at(text, at) if size > 0 else 0
    if (sign != 43 and sign != 45) or size not in (3, 5, 6) or (size == 6 and byte_at(text, at + 3) != 58):
        return 86_400
    hours, minutes = _two(text, at + 1), 0
    if size > 3:
        minutes = _two(text, end - 2)
    if hours > 23 or minutes > 59:
        return 86_400
    seconds = hours * 3600 + minutes * 60
    return -seconds if sign == 45 else seconds


@routine
def _epoch(text, at, end, what):
    """The moment that a number in Debezium's units means; the least int64 if it is none, or has more than 18 digits."""
    negative = byte_at(text, at) == 45
    if end - at > 18:
        return _LEAST
    number = decimal_digits(text, at + 1 if negative else at, end)
    if negative:
        number = -number
    if what == DATE and (number < -(1 << 31) or number >= 1 << 31):
        return _LEAST
    if what == TIME:
        return number // 1000 if 0 <= number < 86_400_000_000 else _LEAST
    return number


@routine
def _moment(text, at, end, what, digits, unit, per_second, zoned):
    """The moment that a text means, as `moments` has it; the least int64 if none, or if it leaves out the seconds."""
    if what == TIME:
        nanos, at = _clock(text, at, end)
        return nanos // 1_000_000 if nanos >= 0 and at == end else _LEAST
    if end - at < 10:
        return _LEAST
    days = _day(text, at)
    if what == DATE or days == _LEAST:
        return days if end - at == 10 else _LEAST
    at += 10
    nanos = 0
    if at < end:
        c = byte_at(text, at)
        if c != 32 and c != 84:
            return _LEAST
        nanos, at = _clock(text, at + 1, end)
        if nanos < 0:
            return _LEAST
    seconds = days * 86_400
    if zoned:
        offset = _offset(text, at, end)
        if offset == 86_400:
            return _LEAST
        seconds -= offset
    elif at != end:
        return _LEAST
    if digits == 9 and (days < -106_000 or days > 106_000):
        return _LEAST
    return seconds * per_second + nanos // unit


@kernel(int64(u8_in, i64_in, int64, int64, boolean, boolean, i64_out, u8_out, u8_out))
def moments(data, spans, what, digits, zoned, epochs, out, bits, bad):
    """Dates (days), times of day (ms) or timestamps (in units of 10**-digits s; with or without a zone) from text.

    epochs: numbers too, in Debezium's units: days, µs of the day, the timestamp's unit. Returns the number of NULLs.
    """
    text = address_of(data)
    unit = 10 ** (9 - digits)
    per_second = 10**digits
    nulls = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        out[i] = 0
        if kind <= NULL:
            nulls += 1
            continue
        _set(bits, i)
        at = begin_of(spans[i])
        end = at + size_of(spans[i])
        moment = _LEAST
        if kind == STRING:
            moment = _moment(text, at, end, what, digits, unit, per_second, zoned)
        elif kind == INTEGER and epochs:
            moment = _epoch(text, at, end, what)
        if moment == _LEAST:
            bad[i] = 1
        else:
            out[i] = moment
    return nulls


@kernel(int64(u8_in, i64_in, u8_in, i32_out, u8_out, u8_out, u8_out))
def base64(data, spans, alphabet, offsets, out, bits, bad):
    """Bytes from padded base64. alphabet: the value of each character, 255 for none. Returns the number of NULLs."""
    text, target = address_of(data), address_of(out)
    nulls, to = 0, 0
    offsets[0] = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        if kind <= NULL:
            nulls += 1
        else:
            _set(bits, i)
            at, size = begin_of(spans[i]), size_of(spans[i])
            end = at + size
            if kind != STRING or size & 3 != 0:
                bad[i] = 1
            elif size > 0:
                padding = 0
                if byte_at(text, end - 1) == 61:
                    padding = 2 if byte_at(text, end - 2) == 61 else 1
                group, wrong, count = 0, 0, 0
                start = to
                while at < end - padding:
                    value = np.int64(alphabet[byte_at(text, at)])
                    wrong |= value
                    group = group << 6 | value & 63
                    count += 1
                    at += 1
                    if count == 4:
                        store_u8(target + to, group >> 16)
                        store_u8(target + to + 1, group >> 8)
                        store_u8(target + to + 2, group)
                        to += 3
                        group, count = 0, 0
                if padding == 1:
                    store_u8(target + to, group >> 10)
                    store_u8(target + to + 1, group >> 2)
                    to += 2
                    wrong |= (group & 3) << 6
                elif padding == 2:
                    store_u8(target + to, group >> 4)
                    to += 1
                    wrong |= (group & 15) << 6
                if wrong > 63:
                    bad[i] = 1
                    to = start
        offsets[i + 1] = to
    return nulls


@kernel(int64(i64_in, int64, u8_out, u8_out))
def containers(spans, wanted, bits, bad):
    """Validity of rows (`wanted` is OBJECT) or arrays (LIST). Returns the number of NULLs."""
    nulls = 0
    for i in range(spans.shape[0]):
        kind = kind_of(spans[i])
        if kind <= NULL:
            nulls += 1
            continue
        _set(bits, i)
        if kind != wanted:
            bad[i] = 1
    return nulls


@kernel(int64(i64_in, i32_out))
def list_offsets(spans, offsets):
    """Offsets of the arrays' elements laid end to end; returns their number."""
    to = 0
    offsets[0] = 0
    for i in range(spans.shape[0]):
        if kind_of(spans[i]) == LIST:
            to += size_of(spans[i])
        offsets[i + 1] = to
    return to


@kernel(void(i64_in, i64_in, i64_out))
def list_elements(spans, at, out):
    """The numbers of the elements of all arrays, end to end; ~number where `at` (if given) says that the array is of the
    second set."""
    to = 0
    for i in range(spans.shape[0]):
        if kind_of(spans[i]) == LIST:
            first = begin_of(spans[i])
            second = at.shape[0] > 0 and at[i] < 0
            for k in range(size_of(spans[i])):
                out[to] = ~(first + k) if second else first + k
                to += 1


@kernel(void(i64_in, i32_in, u8_in, u8_out))
def spread(spans, offsets, element_bad, bad):
    """Marks the arrays that hold a marked element."""
    for i in range(spans.shape[0]):
        for k in range(offsets[i], offsets[i + 1]):
            bad[i] |= element_bad[k]


@kernel(void(i64_in, int64, int64, i64_in, i64_out))
def gather(spans, first, second, at, out):
    """out[j]: the span of row at[j] of the slot that begins at `first`; for negative ones of row ~at[j] of `second`."""
    for j in range(at.shape[0]):
        out[j] = spans[first + at[j]] if at[j] >= 0 else spans[second + ~at[j]]


@kernel(int64(i64_in, i64_in, i64_in, i64_out))
def overlay(former, at, old, out):
    """out[j] = old[j] where that is ~row of a given span among `former`, else at[j]. Returns how many are given."""
    given = 0
    for j in range(at.shape[0]):
        out[j] = at[j]
        if old[j] < 0 and former[~old[j]] != MISSING:
            out[j] = old[j]
            given += 1
    return given


@kernel(void(i64_in, i64_in, u8_out))
def absent(spans, parents, bad):
    """Marks the rows that lack the member altogether, though its object (if any) is there."""
    for i in range(spans.shape[0]):
        if spans[i] == MISSING and (parents.shape[0] == 0 or kind_of(parents[i]) == OBJECT):
            bad[i] = 1


@kernel(void(u8_in, i64_in, u8_in, i64_in, i64_out))
def codes(data, spans, names, name_offsets, out):
    """out[i]: which of the names (end to end; up to 8 bytes are compared at once) the string is, -1 if none."""
    text, name = address_of(data), address_of(names)
    for i in range(spans.shape[0]):
        out[i] = -1
        if kind_of(spans[i]) != STRING:
            continue
        at, size = begin_of(spans[i]), size_of(spans[i])
        for k in range(name_offsets.shape[0] - 1):
            since = name_offsets[k]
            if name_offsets[k + 1] - since != size:
                continue
            same = True
            for j in range(size):
                if byte_at(text, at + j) != byte_at(name, since + j):
                    same = False
                    break
            if same:
                out[i] = k
                break


@kernel(void(u8_in, i64_in, i64_in, u8_out, u8_out))
def changed(data, before, after, out, bad):
    """out[i] |= 1 where a value before, that is not NULL, differs from the one after, as JSON; marks what is not obvious."""
    text = address_of(data)
    for i in range(before.shape[0]):
        kind, other = kind_of(before[i]), kind_of(after[i])
        if kind <= NULL:
            continue
        if not _is_scalar_text(kind) or not (other <= NULL or other == kind):
            bad[i] = 1
            continue
        at, to, size = begin_of(before[i]), begin_of(after[i]), size_of(before[i])
        if kind == INTEGER and (byte_at(text, at) == 45 or byte_at(text, to) == 45) and size <= 2:
            bad[i] = 1  # perhaps -0
            continue
        same = other == kind and size == size_of(after[i])
        k = 0
        while same and k < size:
            same = byte_at(text, at + k) == byte_at(text, to + k)
            k += 1
        if not same:
            out[i] = 1
