"""Formats csv and raw, both ways."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.batch import Batch
from forebay.engine.errors import OptionError
from tests.formats.reading import decoder, encoder, one_at_a_time, records, rows, together

SCHEMA = pa.schema(
    [("i", pa.int32()), ("s", pa.string()), ("n", pa.decimal128(8, 2)), ("ts", pa.timestamp("ms")), ("b", pa.bool_())]
)
GOOD = b"1,a,1.25,2024-01-31 12:00:00,true"
PARSED = (1, "a", Decimal("1.25"), 1706702400000, True)

BAD = {
    "too few fields": (b"1,a", "expected 5 fields, found 2"),
    "too many fields": (GOOD + b",x", "found 6"),
    "text for a number": (b"x,a,,,", "field 'i'"),
    "overflow": (b"2147483648,a,,,", "out of range for INT"),
    "too wide": (b"1,a,1234567,,", "out of range for DECIMAL(8, 2)"),
    "open quote": (b'1,"a,,,', "invalid CSV"),
    "text behind a quote": (b'1,"a"b,,,', "invalid CSV"),
    "two lines": (GOOD + b"\n" + GOOD, "line"),
    "invalid UTF-8": (b"1,\xff,,,", "invalid UTF-8"),
    "empty": (b"", "expected 5 fields"),
    "no boolean": (b"1,a,,,maybe", "expected a boolean"),
}
ODD = {
    "NULL fields": (b",,,,", (None, "", None, None, None)),
    "quoted": (b'"1","a,""b""",,,', (1, 'a,"b"', None, None, None)),
    "line break in quotes": (b'1,"a\nb",,,', (1, "a\nb", None, None, None)),
    "white space": (b" 1 , a ,,,", (1, " a ", None, None, None)),
    "trailing line break": (GOOD + b"\r\n", PARSED),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_lines_among_good_ones(kind: str) -> None:
    bad, reason = BAD[kind]
    decoded = decoder("csv", SCHEMA).decode(records([GOOD] * 30 + [bad] + [GOOD] * 30))
    assert [(d.offset, reason in d.reason) for d in decoded.dead] == [(30, True)]
    assert rows(decoded) == [(1, PARSED)] * 60


@pytest.mark.parametrize("kind", ODD)
def test_odd_lines(kind: str) -> None:
    value, expected = ODD[kind]
    for n in (0, 30):
        assert rows(decoder("csv", SCHEMA).decode(records([value] + [GOOD] * n)))[0] == (1, expected)


def test_options() -> None:
    made = decoder(
        "csv", SCHEMA, field_delimiter="\\t", null_literal="\\N", allow_comments="true", ignore_parse_errors="true"
    )
    lines = [b"# skipped", b"1\t\\N\t\\N\t\\N\t1", b"x\t#\t1", None]
    assert rows(made.decode(records(lines))) == [
        (1, (1, None, None, None, True)),
        (1, (None, "#", Decimal("1.00"), None, None)),
    ]
    plain = decoder("csv", pa.schema([("s", pa.string())]), disable_quote_character="true")
    assert rows(plain.decode(records([b'"a']))) == [(1, ('"a',))]
    escaped = decoder("csv", pa.schema([("s", pa.string()), ("t", pa.string())]), escape_character="\\")
    assert rows(escaped.decode(records([b"a\\,b,c"]))) == [(1, ("a,b", "c"))]
    with pytest.raises(OptionError):
        decoder("csv", SCHEMA, field_delimiter="||")
    with pytest.raises(OptionError):
        decoder("csv", pa.schema([("m", pa.map_(pa.string(), pa.string()))]))


FIELD = st.one_of(
    st.text(st.sampled_from('ab1.- ,"\\#\né€'), max_size=4),
    st.sampled_from(
        ['"a,b"', '"a""b"', '"é\n€"', "\\,", "n", "1", "-1.5", "true", "2024-01-31 12:00:00", "YQ==", "NaN"]
    ),
)
LINES = st.lists(st.lists(FIELD, min_size=1, max_size=4).map(",".join).map(str.encode), min_size=25, max_size=40)
DIALECTS: list[dict[str, str]] = [
    {},
    {"escape_character": "\\", "allow_comments": "true"},
    {"disable_quote_character": "true", "null_literal": "n"},
    {"disable_quote_character": "true", "escape_character": "\\"},
    {"quote_character": "b", "null_literal": "", "ignore_parse_errors": "true"},
    {"escape_character": '"'},
]
COLUMNS = [
    pa.schema([("s", pa.string()), ("i", pa.int32())]),
    pa.schema([("d", pa.float64()), pa.field("s", pa.string(), False), ("n", pa.decimal128(8, 2))]),
    pa.schema([("ts", pa.timestamp("ms")), ("b", pa.bool_()), ("raw", pa.binary())]),
]


@pytest.mark.parametrize("options", DIALECTS, ids=lambda o: " ".join(o) or "plain")
@settings(max_examples=40, deadline=None)
@given(LINES, st.sampled_from(COLUMNS), st.integers(0, 3))
def test_batches_of_lines_agree_with_single_lines(
    options: dict[str, str], lines: list[bytes], schema: pa.Schema, cut: int
) -> None:
    made = decoder("csv", schema, **options)
    lines[:cut] = [line[:-1] for line in lines[:cut]]  # perhaps within a character
    assert str(together(made, lines)) == str(one_at_a_time(made, lines))


NESTED = pa.schema(
    [
        *SCHEMA,
        ("a", pa.list_(pa.int32())),
        ("r", pa.struct([("x", pa.int64()), ("y", pa.string())])),
        ("raw", pa.binary()),
    ]
)
VALUES = st.fixed_dictionaries(
    {
        "i": st.integers(-9, 9),
        "s": st.text(st.sampled_from('ab,"\\#\n é'), min_size=1),
        "n": st.decimals(-999, 999, places=2),
        "ts": st.datetimes(dt.datetime(1, 1, 1)).map(lambda d: d.replace(microsecond=0)),
        "b": st.booleans(),
        "a": st.lists(st.integers(-9, 9), min_size=1, max_size=3),
        "r": st.fixed_dictionaries({"x": st.integers(-9, 9), "y": st.sampled_from(["u", "v,"])}),
        "raw": st.binary(min_size=1, max_size=5),
    }
)


@pytest.mark.parametrize("options", [{}, {"field_delimiter": "|", "escape_character": "\\"}], ids=["plain", "escaped"])
@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, max_size=30))
def test_lines_are_read_back(options: dict[str, str], values: list[dict[str, Any]]) -> None:
    given_rows = pa.RecordBatch.from_pylist(values, NESTED)
    written = encoder("csv", NESTED, **options).encode(Batch(given_rows)).to_pylist()
    decoded = decoder("csv", NESTED, **options).decode(records(written))
    assert not decoded.dead
    assert decoded.batch.rows.equals(given_rows)


RAW: list[tuple[pa.DataType, dict[str, str], Any, bytes]] = [
    (pa.string(), {}, "é", "é".encode()),
    (pa.string(), {"charset": "UTF-16LE"}, "é", "é".encode("utf-16le")),
    (pa.binary(), {}, b"\xff", b"\xff"),
    (pa.bool_(), {}, True, b"\x01"),
    (pa.int8(), {}, -1, b"\xff"),
    (pa.int32(), {}, 1, b"\0\0\0\1"),
    (pa.int64(), {"endianness": "little-endian"}, 1, b"\1" + b"\0" * 7),
    (pa.float64(), {}, 1.0, b"\x3f\xf0" + b"\0" * 6),
    (pa.float32(), {}, 1.0, b"\x3f\x80\0\0"),
]


@pytest.mark.parametrize(("type_", "options", "value", "written"), RAW, ids=[f"{r[0]} {r[1]}" for r in RAW])
def test_raw(type_: pa.DataType, options: dict[str, str], value: Any, written: bytes) -> None:
    schema = pa.schema([("c", type_)])
    column = pa.array([value, None, value], type_)
    batch = Batch(pa.RecordBatch.from_arrays([column], schema=schema))
    assert encoder("raw", schema, **options).encode(batch).to_pylist() == [written, None, written]
    decoded = decoder("raw", schema, **options).decode(records([written, None, written]))
    assert decoded.batch.rows.equals(batch.rows)


def test_raw_refuses_what_is_not_the_type() -> None:
    number = decoder("raw", pa.schema([("c", pa.int32())])).decode(records([b"\0\0\0\1", b"\1", b""]))
    assert [(d.offset, d.reason) for d in number.dead] == [
        (1, "expected 4 bytes, found 1"),
        (2, "expected 4 bytes, found 0"),
    ]
    assert rows(number) == [(1, (1,))]
    text = decoder("raw", pa.schema([("c", pa.string())])).decode(records([b"a", b"\xff", b"b"]))
    assert [d.offset for d in text.dead] == [1] and rows(text) == [(1, ("a",)), (1, ("b",))]
    for schema in (SCHEMA, pa.schema([("c", pa.date32())])):
        with pytest.raises(OptionError):
            decoder("raw", schema)
