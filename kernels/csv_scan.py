"""Where the fields of lines of separated values are, as spans in the manner of `kernels.json_scan`: NULL or STRING.

Left to the reference are malformed lines (another number of fields, an open quote, bad UTF-8) and rare ones: line breaks
outside quotes, comments, empty lines. Fields that hold doubled quotes or escapes are written without them behind the records.
"""

from __future__ import annotations

from numba import boolean, int64

from forebay.kernels.hash import i32_in, i64_out, u8_in, u8_out
from forebay.kernels.jit import kernel, routine
from forebay.kernels.json_scan import ABSENT, LEFT, NULL, READ, STRING, behind_character
from forebay.kernels.memory import store_u8
from forebay.kernels.words import address_of, byte, byte_at

LONGEST = 131_072
"""Bytes of a record beyond which a field may be longer than the reference allows."""

BAD, REWRITE = -1, -2

_NEWLINE, _RETURN = 10, 13


@routine
def _line_end(text, at, end):
    """The end of a line without its line break."""
    if end > at and byte_at(text, end - 1) == _NEWLINE:
        end -= 1
    if end > at and byte_at(text, end - 1) == _RETURN:
        end -= 1
    return end


@routine
def _equal(text, at, size, other, other_size):
    """Whether the text at `at` is the other one."""
    if size != other_size:
        return False
    for k in range(size):
        if byte_at(text, at + k) != byte_at(other, k):
            return False
    return True


@routine
def _field(text, at, end, delimiter, quote, escape):
    """Where the field at `at` ends, where its text begins, and its size; BAD or REWRITE instead of the first."""
    quoted = byte(text, at, end) == quote
    if quoted:
        at += 1
    begin = at
    while at < end:
        c = byte_at(text, at)
        if c == escape:
            return REWRITE, 0, 0
        if c >= 0x80:
            at = behind_character(text, at, end)
            if at < 0:
                return BAD, 0, 0
            continue
        if quoted:
            if c == quote:
                return (REWRITE if byte(text, at + 1, end) == quote else at + 1), begin, at - begin
        elif c == delimiter:
            break
        elif c == _NEWLINE or c == _RETURN:
            return BAD, 0, 0
        at += 1
    return (BAD if quoted else at), begin, at - begin


@routine
def _rewrite(text, at, end, delimiter, quote, escape, to):
    """Write the text of the field at `at`, without quotes and escapes, to `to`: where the field ends, or BAD, and the text."""
    quoted = byte(text, at, end) == quote
    if quoted:
        at += 1
    while at < end or quoted:
        c = byte(text, at, end)
        if at >= end or (not quoted and (c == _NEWLINE or c == _RETURN)):
            return BAD, to
        if c == escape:
            at += 1
            if at == end or byte_at(text, at) == _NEWLINE or byte_at(text, at) == _RETURN:
                return BAD, to
        elif quoted and c == quote:
            at += 1
            if byte(text, at, end) != quote:
                break
        elif not quoted and c == delimiter:
            break
        behind = at + 1
        if byte_at(text, at) >= 0x80:
            behind = behind_character(text, at, end)
            if behind < 0:
                return BAD, to
        for k in range(at, behind):
            store_u8(text + to, byte_at(text, k))
            to += 1
        at = behind
    return at, to


@kernel(int64(u8_in, i32_in, u8_in, int64, int64, int64, int64, int64, u8_in, boolean, u8_in, i64_out, u8_out, i64_out))
def split(
    data, offsets, valid, spare, delimiter, quote, escape, comment, null, nullable, textual, spans, state, record
):
    """Spans of the fields of every record data[offsets[r]:offsets[r + 1]], column by column.

    valid: a byte per record, 0 for a tombstone; or none at all. From data[spare] on there is room for as many bytes as records
    have, or none. quote, escape, comment: -1 where there is none. null: the text of NULL if `nullable`; an empty field is
    NULL where the column is not `textual`. spans has len(state) places per column; record gets the number of each row's
    record, state each record's. Returns the number of rows; -1 if there is no room, and some field needs it.
    """
    columns, places, rows = textual.shape[0], state.shape[0], 0
    text, other = address_of(data), address_of(null)
    roomy = spare < data.shape[0]
    for r in range(places):
        if valid.shape[0] > 0 and valid[r] == 0:
            state[r] = ABSENT
            continue
        state[r] = LEFT
        at, last = int64(offsets[r]), int64(offsets[r + 1])
        end = _line_end(text, at, last)
        if end == at or last - at > LONGEST or byte_at(text, at) == comment:
            continue
        found = 0
        while found < columns:
            behind, begin, size = _field(text, at, end, delimiter, quote, escape)
            if behind == REWRITE:
                if not roomy:
                    return -1
                behind, stop = _rewrite(text, at, end, delimiter, quote, escape, spare)
                begin, size, spare = spare, stop - spare, stop
            if behind == BAD:
                break
            is_null = size == 0 and textual[found] == 0
            if nullable and _equal(text, begin, size, other, null.shape[0]):
                is_null = True
            spans[found * places + rows] = begin << 32 | size << 4 | (NULL if is_null else STRING)
            found += 1
            if behind == end:
                break
            if byte_at(text, behind) != delimiter:
                found = 0
                break
            at = behind + 1
            if found == columns:
                found = 0  # one more field
                break
        if found == columns and behind == end:
            record[rows] = r
            rows += 1
            state[r] = READ
    return rows
