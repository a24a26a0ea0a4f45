"""Bad records among good ones: the good survive in order, each bad one is a dead letter with its offset and reason."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest

from tests.formats.reading import decoder, records, rows

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("i8", pa.int8()),
        ("f", pa.float32()),
        ("d", pa.float64()),
        ("n", pa.decimal128(6, 2)),
        ("b", pa.bool_()),
        ("s", pa.string()),
        ("raw", pa.binary()),
        ("day", pa.date32()),
        ("t", pa.time32("ms")),
        ("ts", pa.timestamp("ms")),
        ("ns", pa.timestamp("ns")),
        ("tz", pa.timestamp("ms", tz="UTC")),
        ("a", pa.list_(pa.int32())),
        ("r", pa.struct([("x", pa.int64())])),
    ]
)


def member(name: str, text: str) -> bytes:
    return f'{{"id":0,"{name}":{text}}}'.encode()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "white space": (b" \n\t", "empty"),
    "truncated object": (b'{"id":1', "invalid JSON"),
    "truncated string": (b'{"id":1,"s":"abc', "invalid JSON"),
    "truncated inside, brace last": (b'{"id":1,"r":{"x":1}', "invalid JSON"),
    "only an opening brace": (b"{", "invalid JSON"),
    "closing brace only": (b"}", "invalid JSON"),
    "trailing comma": (b'{"id":1,}', "invalid JSON"),
    "trailing garbage": (b'{"id":1} x', "invalid JSON: Extra data"),
    "two objects": (b'{"id":1}{"id":2}', "invalid JSON: Extra data"),
    "two objects on lines": (b'{"id":1}\n{"id":2}', "invalid JSON: Extra data"),
    "array for an object": (b'[{"id":1}]', "found an array"),
    "string for an object": (b'"id"', "found a string"),
    "number for an object": (b"1", "found a number"),
    "null for an object": (b"null", "found null"),
    "text": (b"hello", "invalid JSON"),
    "single quotes": (b"{'id':1}", "invalid JSON"),
    "comment": (b'{"id":1/*x*/}', "invalid JSON"),
    "missing colon": (b'{"id" 1}', "invalid JSON"),
    "control character in a string": (b'{"id":1,"s":"a\x01b"}', "invalid JSON"),
    "line break in a string": (b'{"id":1,"s":"a\nb"}', "invalid JSON"),
    "bad escape": (b'{"id":1,"s":"\\x"}', "invalid JSON"),
    "NUL bytes": (b"\x00\x00", "invalid JSON"),
    "NUL behind the object": (b'{"id":1}\x00', "invalid JSON"),
    "invalid UTF-8": (b'{"id":1,"s":"\xff"}', "invalid UTF-8 at byte 13"),
    "UTF-8 of a surrogate": (b'{"id":1,"s":"\xed\xa0\x80"}', "invalid UTF-8"),
    "UTF-16": ('{"id":1}'.encode("utf-16"), "invalid UTF-8"),
    "lone high surrogate": (b'{"id":1,"s":"\\ud800"}', "surrogate"),
    "lone low surrogate": (b'{"id":1,"s":"\\udc00"}', "surrogate"),
    "deep nesting, unknown field": (b'{"id":1,"z":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
    "deep nesting, objects": (b'{"id":1,"z":' + b'{"a":' * 600 + b"1" + b"}" * 601, "nested deeper"),
    "NaN": (member("d", "NaN"), "field 'd'"),
    "Infinity": (member("f", "Infinity"), "field 'f'"),
    "-Infinity": (member("d", "-Infinity"), "field 'd'"),
    "Inf": (member("d", "Inf"), "invalid JSON"),
    "leading zero": (member("d", "01"), "invalid JSON"),
    "plus sign": (member("d", "+1"), "invalid JSON"),
    "hexadecimal": (member("i8", "0x1F"), "invalid JSON"),
    "hexadecimal text": (member("i8", '"0x1F"'), "field 'i8': expected TINYINT"),
    "overflow of TINYINT": (member("i8", "128"), "128 is out of range for TINYINT"),
    "overflow of BIGINT": (b'{"id":9223372036854775808}', "out of range for BIGINT"),
    "5000 digits": (member("i8", "9" * 5000), "5000 characters"),
    "huge exponent for BIGINT": (b'{"id":1e400}', "field 'id'"),
    "fraction for BIGINT": (b'{"id":1.5}', "expected BIGINT"),
    "huge DOUBLE": (member("d", "1e999"), "out of range for DOUBLE"),
    "huge FLOAT": (member("f", "1e39"), "out of range for FLOAT"),
    "decimal too wide": (member("n", "12345"), "out of range for DECIMAL(6, 2)"),
    "decimal too wide after rounding": (member("n", "9999.999"), "out of range for DECIMAL(6, 2)"),
    "decimal of a huge exponent": (member("n", "1e999999999"), "out of range"),
    "text for a decimal": (member("n", '"12,5"'), "expected DECIMAL(6, 2)"),
    "text for a number": (b'{"id":"abc"}', "found a string 'abc'"),
    "empty text for a number": (b'{"id":""}', "expected BIGINT"),
    "other digits": ('{"id":"१"}'.encode(), "expected BIGINT"),
    "boolean for a number": (b'{"id":true}', "found a boolean"),
    "object for a number": (b'{"id":{}}', "found an object"),
    "array for a number": (b'{"id":[1]}', "found an array"),
    "text for a boolean": (member("b", '"yes"'), "expected a boolean"),
    "no base64": (member("raw", '"a"'), "base64"),
    "number for bytes": (member("raw", "1"), "base64"),
    "no date": (member("day", '"2024-02-30"'), "no date of the calendar"),
    "number for a date": (member("day", "19000"), "found a number"),
    "text for a date": (member("day", '"yesterday"'), "expected a date"),
    "no time": (member("t", '"25:00:00"'), "no time of a day"),
    "leap second": (member("ts", '"2016-12-31 23:59:60"'), "no time of a day"),
    "zone for TIMESTAMP": (member("ts", '"2024-01-31 12:00:00Z"'), "expected a timestamp"),
    "no zone for TIMESTAMP_LTZ": (member("tz", '"2024-01-31 12:00:00"'), "expected a timestamp"),
    "offset beyond a day": (member("tz", '"2024-01-31 12:00:00+99:00"'), "expected a timestamp"),
    "year 9999 in nanoseconds": (member("ns", '"9999-12-31 23:59:59"'), "out of range for TIMESTAMP(9)"),
    "number for an array": (member("a", "1"), "expected an array"),
    "text in an array": (member("a", '[1,"x"]'), "field 'a': expected INT"),
    "array for a row": (member("r", "[]"), "expected an object"),
    "bad field of a row": (member("r", '{"x":"y"}'), "field 'r': field 'x': expected BIGINT"),
    "NULL for NOT NULL": (b'{"id":null}', "NOT NULL"),
    "NOT NULL missing": (b"{}", "NOT NULL"),
    "10 MB of text": (b'{"id":1,"s":"' + b"x" * 10_000_000, "invalid JSON"),
    "duplicate key, the last is bad": (b'{"id":1,"id":"x"}', "expected BIGINT"),
}
ODD_BUT_GOOD: dict[str, tuple[bytes, dict[str, object]]] = {
    "byte order mark": (b'\xef\xbb\xbf{"id":7}', {"id": 7}),
    "white space around": (b'\r\n {"id":7}\n', {"id": 7}),
    "line breaks within": (b'{\n"id"\n:\r7}', {"id": 7}),
    "duplicate keys": (b'{"id":"x","id":7}', {"id": 7}),
    "duplicate unknown keys": (b'{"z":1,"id":7,"z":2}', {"id": 7}),
    "escaped key": (b'{"\\u0069d":7}', {"id": 7}),
    "number as text": (b'{"id":" 7 "}', {"id": 7}),
    "exponent for BIGINT": (b'{"id":7e0}', {"id": 7}),
    "object as text": (b'{"id":7,"s":{"a":[1.50,null]}}', {"id": 7, "s": '{"a":[1.50,null]}'}),
    "number for text": (b'{"id":7,"s":1.50}', {"id": 7, "s": "1.50"}),
    "brackets in text": (b'{"id":7,"s":"' + b"[" * 2000 + b'"}', {"id": 7, "s": "[" * 2000}),
    "NaN in an unknown field": (b'{"id":7,"z":NaN}', {"id": 7}),
    "huge number in an unknown field": (b'{"id":7,"z":' + b"9" * 5000 + b"}", {"id": 7}),
    "surrogate pair": (b'{"id":7,"s":"\\ud83d\\ude00"}', {"id": 7, "s": "😀"}),
    "10 MB": (b'{"id":7,"s":"' + b"x" * 10_000_000 + b'"}', {"id": 7, "s": "x" * 10_000_000}),
    "year 9999": (member("ts", '"9999-12-31 23:59:59.999"'), {"ts": 253402300799999, "id": 0}),
    "before 1970": (member("ts", '"1969-12-31T23:59:59.9999"'), {"ts": -1, "id": 0}),
    "offset": (member("tz", '"1970-01-01 08:00:00.001+08:00"'), {"tz": 1, "id": 0}),
}


def good(i: int) -> bytes:
    return json.dumps({"id": i, "n": 1.25, "s": "é", "ts": "2024-01-31 12:00:00", "a": [i]}).encode()


def test_kinds_are_many() -> None:
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("kind", BROKEN)
def test_one_bad_record_among_good_ones(kind: str) -> None:
    bad, reason = BROKEN[kind]
    for at in (0, 17, 39):
        values = [good(i) for i in range(39)]
        values.insert(at, bad)
        decoded = decoder("json", SCHEMA).decode(records(values, first=1000))
        assert [d.offset for d in decoded.dead] == [1000 + at]
        assert reason in decoded.dead[0].reason
        assert decoded.dead[0].value == bad and decoded.dead[0].source == "topic"
        assert decoded.batch.rows.column("id").to_pylist() == list(range(39))
        assert decoded.record.tolist() == [i for i in range(40) if i != at]


@pytest.mark.parametrize("kind", ODD_BUT_GOOD)
def test_odd_records_that_are_good(kind: str) -> None:
    value, expected = ODD_BUT_GOOD[kind]
    values = [good(i) for i in range(30)]
    values[11] = value
    decoded = decoder("json", SCHEMA).decode(records(values))
    assert not decoded.dead
    _, row = rows(decoded)[11]
    assert {n: v for n, v in zip(SCHEMA.names, row) if v is not None} == expected


def test_everything_at_once_in_any_order() -> None:
    shuffled = [(bad, reason) for bad, reason in BROKEN.values()] + [(None, "")] * 3
    random.Random(7).shuffle(shuffled)
    values: list[bytes | None] = []
    expected, reasons = [], []
    for i, (bad, reason) in enumerate(shuffled):
        expected += [len(values), len(values) + 1]
        values += [good(2 * i), good(2 * i + 1), bad]
        if bad is not None:
            reasons.append((len(values) - 1, reason))
    decoded = decoder("json", SCHEMA).decode(records(values))
    assert decoded.record.tolist() == expected
    assert decoded.batch.rows.column("id").to_pylist() == list(range(2 * len(shuffled)))
    assert [d.offset for d in decoded.dead] == [offset for offset, _ in reasons]
    assert all(reason in d.reason for d, (_, reason) in zip(decoded.dead, reasons))


def test_ignoring_errors_gives_null_fields_and_skips_records() -> None:
    values = [good(1), b"{", member("i8", "999"), b'{"id":"x","s":"y"}', good(2)]
    decoded = decoder("json", pa.schema([("id", pa.int64()), ("i8", pa.int8())]), ignore_parse_errors="true").decode(
        records(values * 10)
    )
    assert not decoded.dead
    expected = [(1, (1, None)), (1, (0, None)), (1, (None, None)), (1, (2, None))]
    assert rows(decoded) == expected * 10


def test_missing_fields_are_bad_when_asked() -> None:
    made = decoder("json", pa.schema([("a", pa.int64()), ("b", pa.string())]), fail_on_missing_field="true")
    values = [b'{"a":1,"b":"x"}', b'{"a":1}', b'{"a":null,"b":null}'] * 10
    decoded = made.decode(records(values))
    assert [d.offset for d in decoded.dead] == list(range(1, 30, 3))
    assert decoded.dead[0].reason == "field 'b' is missing"
    assert rows(decoded) == [(1, (1, "x")), (1, (None, None))] * 10


def test_unknown_fields_are_counted_one_by_one_and_seen_in_batches() -> None:
    made = decoder("json", pa.schema([("a", pa.int64())]))
    few = made.decode(records([b'{"a":1,"x":1}', b'{"a":1,"x":1,"y":{"z":1}}']))
    assert few.unknown_fields == {"x": 2, "y": 1}
    many = made.decode(records([b'{"a":1,"x":1}'] * 1000))
    assert many.unknown_fields["x"] > 0
