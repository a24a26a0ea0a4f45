"""Dates, times and timestamps to text: 2024-01-31, 12:30:00.5, 2024-01-31 12:30:00.5; fractions lose trailing zeros.

Days become years, months and days by H. Hinnant's "chrono-compatible low-level date algorithms" (2013), exact over the whole
range. Beyond the years ±32767 the text says so, as Arrow's does.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, uint8, uint64, void

from forebay.kernels.digits import i32_out, put_digits, put_integer, put_two, put_word
from forebay.kernels.hash import i64_in, u8_in, u8_out
from forebay.kernels.jit import kernel, routine
from forebay.kernels.memory import load_u64, store_u8, store_u64
from forebay.kernels.words import address_of, byte_at

WIDTH = 48
"""The most bytes that a value takes."""
FIRST_DAY, LAST_DAY = -12687428, 11248737

_DASH, _COLON, _POINT, _ZERO, _Z, _MORE = (ord(c) for c in "-:.0Z>")
_OUT_OF, _RANGE = (np.frombuffer(w, np.uint8) for w in (b"<value", b"out of range: "))


@routine
def put_date(at, day):
    """Write the date of a day since 1970; returns where it ends."""
    z = day + 719468
    era = z // 146097
    doe = z - era * 146097
    yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    shifted = (5 * doy + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = yoe + era * 400 + (1 if month <= 2 else 0)
    if year < 0:
        store_u8(at, _DASH)
        at += 1
        year = -year
    at = put_digits(at, uint64(year), 4 if year < 10000 else 5)
    store_u8(at, _DASH)
    put_two(at + 1, month)
    store_u8(at + 3, _DASH)
    return put_two(at + 4, doy - (153 * shifted + 2) // 5 + 1)


@routine
def put_time(at, rest, second, digits):
    """Write the time of `rest` units since midnight, `second` = 10^digits to a second; returns where it ends."""
    seconds = rest // second
    at = put_two(at, seconds // 3600)
    store_u8(at, _COLON)
    put_two(at + 1, seconds // 60 % 60)
    store_u8(at + 3, _COLON)
    at = put_two(at + 4, seconds % 60)
    fraction = rest - seconds * second
    if fraction == 0:
        return at
    store_u8(at, _POINT)
    at = put_digits(at + 1, uint64(fraction), digits)
    while byte_at(at, -1) == _ZERO:
        at -= 1
    return at


@routine
def put_out_of_range(at, value, separator):
    """Write that a value has no date."""
    at = put_word(at, _OUT_OF)
    store_u8(at, int64(separator))
    at = put_integer(put_word(at + 1, _RANGE), value)
    store_u8(at, _MORE)
    return at + 1


@kernel(void(i64_in, int64, boolean, boolean, uint8, boolean, u8_in, u8_out, i32_out))
def time_text(values, digits, dated, timed, separator, zoned, null, out, starts):
    """starts[i] = where the text of values[i] begins in `out`, starts[n] = the end; what `null` marks is empty.

    `values` are days if only `dated`; else units of 10^-digits seconds, since midnight if only `timed`, since 1970 if both,
    which `separator` keeps apart. `zoned` texts end in 'Z'.
    """
    second = 1
    for _ in range(digits):
        second *= 10
    day = 86400 * second if timed else 1
    base = at = address_of(out)
    last, written, size = FIRST_DAY - 1, at, 0
    for i in range(values.shape[0]):
        starts[i] = at - base
        if null.shape[0] != 0 and null[i] != 0:
            continue
        value = values[i]
        days = value // day
        rest = value - days * day
        if (dated and (days < FIRST_DAY or days > LAST_DAY)) or (not dated and days != 0):
            at = put_out_of_range(at, value, separator)
        else:
            if dated and days == last:  # as a rule: times that come together are near each other
                store_u64(at, load_u64(written))
                store_u64(at + 8, load_u64(written + 8))
                at, written = at + size, at
            elif dated:
                last, written = days, at
                at = put_date(at, days)
                size = at - written
            if dated and timed:
                store_u8(at, int64(separator))
                at += 1
            if timed:
                at = put_time(at, rest, second, digits)
        if zoned:
            store_u8(at, _Z)
            at += 1
    starts[values.shape[0]] = at - base
