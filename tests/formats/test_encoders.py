"""Rows to bytes: the text that Flink would write, and back again to the same rows."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.batch import Batch
from forebay.engine.errors import OptionError
from tests.formats.reading import decoder, encoder, records, rows

SCHEMA = pa.schema(
    [
        ("b", pa.bool_()),
        ("i", pa.int64()),
        ("f", pa.float32()),
        ("d", pa.float64()),
        ("n", pa.decimal128(12, 8)),
        ("s", pa.string()),
        ("raw", pa.binary()),
        ("day", pa.date32()),
        ("t", pa.time32("ms")),
        ("ts", pa.timestamp("us")),
        ("tz", pa.timestamp("ms", tz="UTC")),
        ("a", pa.list_(pa.string())),
        ("m", pa.map_(pa.string(), pa.int32())),
        ("r", pa.struct([("x", pa.int64()), ("a", pa.list_(pa.date32()))])),
    ]
)
FULL: dict[str, Any] = {
    "b": True,
    "i": -(2**63),
    "f": 1.5,
    "d": 1.0,
    "n": Decimal("0.00000010"),
    "s": 'é "quoted" \\ \n',
    "raw": b"abc",
    "day": dt.date(2024, 2, 29),
    "t": dt.time(12, 30),
    "ts": dt.datetime(2024, 1, 31, 12, 0, 0, 120000),
    "tz": dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC),
    "a": ["x", None, "]"],
    "m": {"k": 1, 'q"': None},
    "r": {"x": 1, "a": [dt.date(1969, 12, 31)]},
}


def batch(values: list[dict[str, Any]], schema: pa.Schema = SCHEMA, weights: list[int] | None = None) -> Batch:
    given = [{k: list(v.items()) if k == "m" and v is not None else v for k, v in row.items()} for row in values]
    return Batch(pa.RecordBatch.from_pylist(given, schema), None if weights is None else np.array(weights, np.int64))


def test_json_is_written_as_flink_writes_it() -> None:
    text = encoder("json", SCHEMA).encode(batch([FULL, {}])).to_pylist()
    assert text[0].decode() == (
        '{"b":true,"i":-9223372036854775808,"f":1.5,"d":1.0,"n":1.0E-7,"s":"é \\"quoted\\" \\\\ \\n","raw":"YWJj",'
        '"day":"2024-02-29","t":"12:30:00","ts":"2024-01-31 12:00:00.12","tz":"2024-01-31 12:00:00Z",'
        '"a":["x",null,"]"],"m":{"k":1,"q\\"":null},"r":{"x":1,"a":["1969-12-31"]}}'
    )
    assert json.loads(text[1]) == dict.fromkeys(SCHEMA.names)


def test_options_of_writing() -> None:
    style = {"timestamp_format__standard": "ISO-8601", "encode__decimal_as_plain_number": "true"}
    made = encoder("json", SCHEMA, **style, encode__ignore_null_fields="true")
    text = made.encode(batch([{k: FULL[k] for k in ("n", "ts", "tz")}, {}, {"a": []}])).to_pylist()
    assert text == [
        b'{"n":0.00000010,"ts":"2024-01-31T12:00:00.12","tz":"2024-01-31T12:00:00Z"}',
        b"{}",
        b'{"a":[]}',
    ]


def test_special_floats_and_no_columns() -> None:
    schema = pa.schema([("d", pa.float64())])
    values = [float("nan"), float("inf"), -float("inf"), 1e300, -0.0, 1e-7]
    text = encoder("json", schema).encode(batch([{"d": v} for v in values], schema))
    assert [json.loads(t)["d"] for t in text.to_pylist()] == ["NaN", "Infinity", "-Infinity", 1e300, 0.0, 1e-7]
    assert rows(decoder("json", schema).decode(records(text.to_pylist())))[0] == (1, ("NaN",))
    assert encoder("json", schema).encode(batch([], schema)).to_pylist() == []


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "b": st.booleans(),
        "i": st.integers(-(2**63), 2**63 - 1),
        "f": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "d": st.floats(),
        "n": st.decimals(-9999, 9999, places=8),
        "s": st.text(st.characters(exclude_categories=["Cs"])),
        "raw": st.binary(max_size=9),
        "day": st.dates(dt.date(1, 1, 1)),
        "t": st.times().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
        "ts": st.datetimes(dt.datetime(1, 1, 1)),
        "tz": st.datetimes(dt.datetime(1900, 1, 1)).map(
            lambda d: d.replace(microsecond=d.microsecond // 1000 * 1000, tzinfo=dt.UTC)
        ),
        "a": st.lists(st.one_of(st.none(), st.text('ab"\\]', max_size=3)), max_size=3),
        "m": st.dictionaries(st.text('ab"', max_size=3), st.one_of(st.none(), st.integers(-9, 9)), max_size=3),
        "r": st.fixed_dictionaries({}, optional={"x": st.integers(-9, 9), "a": st.lists(st.dates(), max_size=2)}),
    },
)


@pytest.mark.parametrize("name", ["json", "debezium-json", "canal-json", "maxwell-json", "ogg-json"])
@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, max_size=30), st.data())
def test_what_is_written_is_read_back(name: str, values: list[dict[str, Any]], data: st.DataObject) -> None:
    changes = name != "json"
    signs = [data.draw(st.sampled_from([1, -1])) if changes else 1 for _ in values]
    given_batch = batch(values, weights=signs if changes else None)
    written = encoder(name, SCHEMA).encode(given_batch)
    sliced = Batch(given_batch.rows.slice(1), None if given_batch.weights is None else given_batch.weights[1:])
    assert encoder(name, SCHEMA).encode(sliced).to_pylist() == written.to_pylist()[1:]
    decoded = decoder(name, SCHEMA).decode(records(written.to_pylist()))
    assert not decoded.dead and not decoded.unknown_fields
    assert decoded.batch.weight_array().tolist() == signs
    for column in SCHEMA.names:
        assert str(decoded.batch.rows.column(column).to_pylist()) == str(given_batch.rows.column(column).to_pylist())


@pytest.mark.parametrize(
    ("name", "insert", "delete"),
    [
        ("debezium-json", '{"before":null,"after":{"i":1},"op":"c"}', '{"before":{"i":1},"after":null,"op":"d"}'),
        ("canal-json", '{"data":[{"i":1}],"type":"INSERT"}', '{"data":[{"i":1}],"type":"DELETE"}'),
        ("maxwell-json", '{"data":{"i":1},"type":"insert"}', '{"data":{"i":1},"type":"delete"}'),
        ("ogg-json", '{"before":null,"after":{"i":1},"op_type":"I"}', '{"before":{"i":1},"after":null,"op_type":"D"}'),
    ],
)
def test_changes_are_written_as_flink_writes_them(name: str, insert: str, delete: str) -> None:
    schema = pa.schema([("i", pa.int64())])
    written = encoder(name, schema).encode(batch([{"i": 1}, {"i": 1}], schema, [1, -1]))
    assert written.to_pylist() == [insert.encode(), delete.encode()]


@pytest.mark.parametrize("type_", [pa.month_day_nano_interval(), pa.map_(pa.int32(), pa.int32())])
def test_types_without_a_json_form_are_refused(type_: pa.DataType) -> None:
    schema = pa.schema([("c", pa.struct([("x", type_)]))])
    for make in (encoder, decoder):
        with pytest.raises(OptionError):
            make("json", schema)
