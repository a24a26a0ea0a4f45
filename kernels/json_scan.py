"""The first stage of reading JSON: where the wanted values of a batch of records are.

What is wanted is a tree of *entries* (see `connectors.formats.shape`): members of objects by name, and elements of arrays. Every
entry may have a *slot*, which gets one *span* per row: start << 32 | length << 4 | kind, 0 where the value is absent. Rows live
in *spaces*: space 0 has one row per record, each wanted array has a space of its own with one row per element. The span of
such an array holds the number of its first element and their count instead of a place in the text.

A record either adds its rows or none. What is skipped is checked as strictly as what is wanted: grammar, UTF-8, escapes. Left to
the reference are malformed records, and what is rare: escaped or repeated names of wanted members, NaN, deep nesting.

Names are predicted: after a member the next entry of its object is tried first, with one comparison. String ends are found eight
bytes at a time (Mycroft's test for a zero byte; its lowest hit is exact).
"""

from __future__ import annotations

import numpy as np
from numba import int64, types

from forebay.kernels.hash import i32_in, i64_in, i64_out, u8_in, u8_out
from forebay.kernels.jit import inline, kernel, routine
from forebay.kernels.memory import load_u64
from forebay.kernels.words import address_of, byte, byte_at, low_zeros, word

MISSING, NULL, STRING, ESCAPED, INTEGER, NUMBER, TRUE, FALSE, OBJECT, ARRAY, LIST = range(11)
"""Kinds of spans. ESCAPED is a string that holds an escape, NUMBER one with a fraction or an exponent, LIST a wanted array."""
READ, LEFT, ABSENT = 0, 1, 2
"""States of records: its rows are there, it is left to the reference, it is a tombstone."""
NAME_AT, NAME_SIZE, SLOT, SPACE, CHILD, ELEMENT = range(6)
"""Columns of the table of entries; -1 where there is no slot, no object node, no element."""
LEVELS = 48
LONGEST = (1 << 28) - 1

i64_table = types.Array(int64, 2, "C", readonly=True)

_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _DOT = 34, 92, 44, 58, 45, 46
_LBRACE, _RBRACE, _LBRACKET, _RBRACKET, _ZERO, _NINE = 123, 125, 91, 93, 48, 57
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_BLANKS = np.uint64(0x2020202020202020)
_LOW32 = np.uint64(0xFFFFFFFF)
_NULL_TEXT = np.uint64(0x6C6C756E)
_TRUE_TEXT = np.uint64(0x65757274)
_LOW40 = np.uint64(0xFFFFFFFFFF)
_FALSE_TEXT = np.uint64(0x65736C6166)


@routine
def blank(text, at, end):
    """The first byte from `at` that is no white space."""
    while at < end:
        c = byte_at(text, at)
        if c > 32 or not (c == 32 or c == 10 or c == 13 or c == 9):
            break
        at += 1
    return at


@routine
def special(w):
    """High bits of the bytes that end a run of plain text: quote, backslash, control, non-ASCII. The lowest is exact."""
    quote = w ^ _QUOTES
    backslash = w ^ _BACKSLASHES
    found = ((quote - _ONES) & ~quote) | ((backslash - _ONES) & ~backslash) | ((w - _BLANKS) & ~w) | w
    return found & _HIGHS


@routine
def _hexadecimal(text, at):
    """Whether four hexadecimal digits stand at `at`."""
    for k in range(4):
        c = byte_at(text, at + k)
        if not (48 <= c <= 57 or 65 <= c <= 70 or 97 <= c <= 102):
            return False
    return True


@routine
def _behind_escape(text, at, end):
    """Where the escape at `at` ends; -1 if it is none."""
    c = byte(text, at + 1, end)
    if c == 117:
        return at + 6 if at + 6 <= end and _hexadecimal(text, at + 2) else -1
    if c == 34 or c == 92 or c == 47 or c == 98 or c == 102 or c == 110 or c == 114 or c == 116:
        return at + 2
    return -1


@routine
def behind_character(text, at, end):
    """Where the UTF-8 character of several bytes at `at` ends; -1 if it is none (The Unicode Standard, table 3-7)."""
    lead = byte_at(text, at)
    low, high, more = 0x80, 0xBF, 1
    if lead < 0xC2:
        return -1
    if lead >= 0xE0:
        more = 2
        if lead == 0xE0:
            low = 0xA0
        elif lead == 0xED:
            high = 0x9F
        elif lead >= 0xF0:
            more = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
            elif lead > 0xF4:
                return -1
    if at + more >= end:
        return -1
    c = byte_at(text, at + 1)
    if c < low or c > high:
        return -1
    for k in range(2, more + 1):
        if byte_at(text, at + k) & 0xC0 != 0x80:
            return -1
    return at + more + 1


@routine
def string_end(text, at, end, size):
    """(place of the closing quote) << 1 | (whether there are escapes), of the string whose text starts at `at`; -1 if bad."""
    escaped = 0
    while at < end:
        found = special(word(text, at, size))
        if found == np.uint64(0):
            at += 8
            continue
        at += low_zeros(found) >> 3
        if at >= end:
            return -1
        c = byte_at(text, at)
        if c == _QUOTE:
            return at << 1 | escaped
        if c == _BACKSLASH:
            escaped = 1
            at = _behind_escape(text, at, end)
        elif c >= 0x80:
            at = behind_character(text, at, end)
        else:
            return -1
        if at < 0:
            return -1
    return -1


@routine
def _digits(text, at, end):
    while at < end and _ZERO <= byte_at(text, at) <= _NINE:
        at += 1
    return at


@routine
def number_end(text, at, end):
    """(end of the number at `at`) << 1 | (whether it has a fraction or an exponent); -1 if it is none."""
    if byte(text, at, end) == _MINUS:
        at += 1
    first = byte(text, at, end)
    if first == _ZERO:
        at += 1
    elif _ZERO < first <= _NINE:
        at = _digits(text, at + 1, end)
    else:
        return -1
    c = byte(text, at, end)
    if c != _DOT and c | 32 != 101:
        return at << 1
    if c == _DOT:
        behind = _digits(text, at + 1, end)
        if behind == at + 1:
            return -1
        at = behind
    if byte(text, at, end) | 32 == 101:
        at += 1
        sign = byte(text, at, end)
        if sign == 43 or sign == _MINUS:
            at += 1
        behind = _digits(text, at, end)
        if behind == at:
            return -1
        at = behind
    return at << 1 | 1


@routine
def named(text, at, end, size, name, length):
    """Whether the `length` bytes at the address `name` (padded to whole words) stand at `at`."""
    if at + length > end:
        return False
    k = 0
    while k + 8 <= length:
        if load_u64(text + at + k) != load_u64(name + k):
            return False
        k += 8
    if k == length:
        return True
    return (word(text, at + k, size) ^ load_u64(name + k)) << np.uint64(8 * (8 - length + k)) == np.uint64(0)


@inline
def add_row(spans, counts, space, bases, spaces, members):
    """A row of absent values at the end of a space."""
    row = counts[space]
    counts[space] = row + 1
    first = spaces[space, 0]
    for k in range(first, first + spaces[space, 1]):
        spans[bases[members[k]] + row] = 0


_KIND, _NODE, _HINT, _CELEMENT, _PLACE, _START = range(6)


@kernel(
    int64(
        u8_in,
        i32_in,
        u8_in,
        i64_table,
        i64_table,
        u8_in,
        i64_table,
        i64_in,
        i64_in,
        i64_in,
        i64_out,
        i64_out,
        u8_out,
        i64_out,
    )
)
def scan(data, offsets, valid, entries, nodes, names, spaces, members, bases, room, spans, counts, state, record):
    """Spans of the wanted values of every record data[offsets[r]:offsets[r + 1]].

    valid: a byte per record, 0 for a tombstone; or none at all. entries, nodes (first entry and count), names, spaces (first
    and count among members), members (slots): see `Shape`. Slot s has its spans from bases[s] on; space x has room[x] rows.
    counts gets the number of rows per space, record that of each row of space 0, state each record's. Returns the space that
    is too small, or -1.
    """
    stack = np.empty((LEVELS, 6), np.int64)
    saved = np.zeros(counts.shape[0], np.int64)
    text, size, name = address_of(data), data.shape[0], address_of(names)
    counts[:] = 0
    for r in range(state.shape[0]):
        if valid.shape[0] > 0 and valid[r] == 0:
            state[r] = ABSENT
            continue
        state[r] = LEFT
        p, end = np.int64(offsets[r]), np.int64(offsets[r + 1])
        p = blank(text, p, end)
        if byte(text, p, end) != _LBRACE or end - p > LONGEST:
            continue
        for x in range(counts.shape[0]):
            saved[x] = counts[x]
        add_row(spans, counts, 0, bases, spaces, members)
        entry, depth, inside, node, hint, element = 0, 0, 0, -1, 0, -1
        good = False
        while True:
            # `p` is where a value should be
            c = byte(text, p, end)
            place = -1
            if entry >= 0 and entries[entry, SLOT] >= 0:
                place = bases[entries[entry, SLOT]] + counts[entries[entry, SPACE]] - 1
                if spans[place] != 0:
                    break
            opened = False
            if c == _QUOTE:
                q = string_end(text, p + 1, end, size)
                if q < 0:
                    break
                if place >= 0:
                    spans[place] = (p + 1) << 32 | ((q >> 1) - p - 1) << 4 | (STRING + (q & 1))
                p = (q >> 1) + 1
            elif c == _LBRACE or c == _LBRACKET:
                if depth == LEVELS:
                    break
                stack[depth, _KIND], stack[depth, _NODE], stack[depth, _HINT] = inside, node, hint
                stack[depth, _CELEMENT], stack[depth, _PLACE], stack[depth, _START] = element, place, p
                depth += 1
                node, hint, element = -1, 0, -1
                inside = c + 2  # the closing bracket
                if entry >= 0 and c == _LBRACE:
                    node = entries[entry, CHILD]
                elif entry >= 0:
                    element = entries[entry, ELEMENT]
                    if element >= 0:
                        stack[depth - 1, _START] = counts[entries[element, SPACE]]
                p = blank(text, p + 1, end)
                opened = byte(text, p, end) != inside
            elif c == _MINUS or _ZERO <= c <= _NINE:
                q = number_end(text, p, end)
                if q < 0:
                    break
                if place >= 0:
                    spans[place] = p << 32 | ((q >> 1) - p) << 4 | (INTEGER + (q & 1))
                p = q >> 1
            else:
                kind = MISSING
                literal = word(text, p, size) & _LOW40
                length = 4
                if literal & _LOW32 == _NULL_TEXT:
                    kind = NULL
                elif literal & _LOW32 == _TRUE_TEXT:
                    kind = TRUE
                elif literal == _FALSE_TEXT:
                    kind = FALSE
                    length = 5
                if kind == MISSING or p + length > end:
                    break
                if place >= 0:
                    spans[place] = p << 32 | length << 4 | kind
                p += length
            # behind a value: close what ends here, up to a comma
            if not opened:
                more = False
                while depth > 0:
                    p = blank(text, p, end)
                    c = byte(text, p, end)
                    p += 1
                    if c == _COMMA:
                        more = True
                        p = blank(text, p, end)
                        break
                    if c != inside:
                        break
                    depth -= 1
                    place, start = stack[depth, _PLACE], stack[depth, _START]
                    if place >= 0:
                        if element >= 0:
                            length = counts[entries[element, SPACE]] - start
                            spans[place] = start << 32 | length << 4 | LIST
                        else:
                            spans[place] = start << 32 | (p - start) << 4 | (OBJECT if c == _RBRACE else ARRAY)
                    inside, node, hint = stack[depth, _KIND], stack[depth, _NODE], stack[depth, _HINT]
                    element = stack[depth, _CELEMENT]
                if depth == 0:
                    good = blank(text, p, end) == end
                    break
                if not more:
                    break
            # `p` is where a member or an element should be
            if inside == _RBRACKET:
                entry = element
                if entry >= 0:
                    space = entries[entry, SPACE]
                    if counts[space] == room[space]:
                        return space
                    add_row(spans, counts, space, bases, spaces, members)
                continue
            if byte(text, p, end) != _QUOTE:
                break
            p += 1
            entry = -1
            if node >= 0:
                first, count = nodes[node, 0], nodes[node, 1]
                e = first + hint
                if hint < count and named(text, p, end, size, name + entries[e, NAME_AT], entries[e, NAME_SIZE]):
                    entry = e
                    hint += 1
                    p += entries[e, NAME_SIZE]
                else:
                    q = string_end(text, p, end, size)
                    if q < 0 or q & 1:
                        break
                    length = (q >> 1) - p + 1
                    for k in range(count):
                        e = first + (hint + k if hint + k < count else hint + k - count)
                        if entries[e, NAME_SIZE] == length and named(
                            text, p, end, size, name + entries[e, NAME_AT], length
                        ):
                            entry = e
                            hint = e - first + 1
                            break
                    p = (q >> 1) + 1
            else:
                q = string_end(text, p, end, size)
                if q < 0:
                    break
                p = (q >> 1) + 1
            if byte(text, p, end) != _COLON:
                p = blank(text, p, end)
                if byte(text, p, end) != _COLON:
                    break
            p += 1
            if byte(text, p, end) <= 32:
                p = blank(text, p, end)
        if good:
            record[counts[0] - 1] = r
            state[r] = READ
        else:
            for x in range(counts.shape[0]):
                counts[x] = saved[x]
    return -1
