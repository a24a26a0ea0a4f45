"""Spans of JSON values to columns of dates, times of day and timestamps; see `kernels.json_values` for the contract."""

from __future__ import annotations

import numpy as np
from numba import boolean, int64

from forebay.kernels.hash import i64_in, i64_out, u8_in, u8_out
from forebay.kernels.jit import kernel, routine
from forebay.kernels.json_numbers import LEAST, decimal_digits
from forebay.kernels.json_scan import INTEGER, NULL, STRING
from forebay.kernels.json_spans import begin_of, kind_of, set_bit, size_of
from forebay.kernels.words import address_of, byte_at

DATE, TIME, TIMESTAMP = 0, 1, 2
"""What `moments` reads."""


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
        return LEAST
    if month < 1 or month > 12 or day < 1 or day > 31:
        return LEAST
    if day > 28:
        leap = y & 3 == 0 and (y % 100 != 0 or y % 400 == 0)
        if month == 2:
            if day > 29 or not leap:
                return LEAST
        elif day == 31 and (month == 4 or month == 6 or month == 9 or month == 11):
            return LEAST
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
        return LEAST
    number = decimal_digits(text, at + 1 if negative else at, end)
    if negative:
        number = -number
    if what == DATE and (number < -(1 << 31) or number >= 1 << 31):
        return LEAST
    if what == TIME:
        return number // 1000 if 0 <= number < 86_400_000_000 else LEAST
    return number


@routine
def _moment(text, at, end, what, digits, unit, per_second, zoned):
    """The moment that a text means, as `moments` has it; the least int64 if none, or if it leaves out the seconds."""
    if what == TIME:
        nanos, at = _clock(text, at, end)
        return nanos // 1_000_000 if nanos >= 0 and at == end else LEAST
    if end - at < 10:
        return LEAST
    days = _day(text, at)
    if what == DATE or days == LEAST:
        return days if end - at == 10 else LEAST
    at += 10
    nanos = 0
    if at < end:
        c = byte_at(text, at)
        if c != 32 and c != 84:
            return LEAST
        nanos, at = _clock(text, at + 1, end)
        if nanos < 0:
            return LEAST
    seconds = days * 86_400
    if zoned:
        offset = _offset(text, at, end)
        if offset == 86_400:
            return LEAST
        seconds -= offset
    elif at != end:
        return LEAST
    if digits == 9 and (days < -106_000 or days > 106_000):
        return LEAST
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
        set_bit(bits, i)
        at = begin_of(spans[i])
        end = at + size_of(spans[i])
        moment = LEAST
        if kind == STRING:
            moment = _moment(text, at, end, what, digits, unit, per_second, zoned)
        elif kind == INTEGER and epochs:
            moment = _epoch(text, at, end, what)
        if moment == LEAST:
            bad[i] = 1
        else:
            out[i] = moment
    return nulls
