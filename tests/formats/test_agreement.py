"""The columnar reader and the reference agree: a batch gives what its records give one by one."""

from __future__ import annotations

import json
import string
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.reading import decoder, meta, one_at_a_time, together

SCHEMA = pa.schema(
    [
        ("b", pa.bool_()),
        ("i8", pa.int8()),
        ("i", pa.int64()),
        ("f", pa.float32()),
        ("d", pa.float64()),
        ("n", pa.decimal128(10, 2)),
        ("s", pa.string()),
        ("raw", pa.binary()),
        ("day", pa.date32()),
        ("t", pa.time32("ms")),
        ("ts", pa.timestamp("ms")),
        ("tz", pa.timestamp("us", tz="UTC")),
        ("a", pa.list_(pa.int32())),
        ("r", pa.struct([("x", pa.int64()), ("y", pa.timestamp("ms"))])),
    ]
)
ODD = st.sampled_from(
    [
        "",
        " 1 ",
        "0x1F",
        "+1",
        "1_0",
        "1.",
        ".5",
        "-0",
        "1e2",
        "NaN",
        "Infinity",
        "nan",
        "true",
        "TRUE",
        "t",
        "१",
        "abc",
        "\x00",
    ]
)
MOMENTS = st.sampled_from(
    [
        "2024-02-29",
        "2023-02-29",
        "2024-01-31 12:00:00.123",
        "2024-01-31T12:00:00.123456Z",
        "2024-01-31 12:00:00+08:00",
        "2024-01-31 12:00:00.1234",
        "9999-12-31 23:59:59.999",
        "0000-01-01 00:00:00",
        "2016-12-31 23:59:60",
        "2024-01-31 24:00:00",
        "12:34:56.789",
        "12:34",
        "12",
        "1969-12-31 23:59:59.9999",
        "2024-01-31 12",
        "2024-01-31Z",
        "2024-13-01",
        "",
    ]
)
LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-200, 200),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(string.printable, max_size=5),
    ODD,
    MOMENTS,
    st.lists(st.integers(-5, 5), max_size=3),
    st.fixed_dictionaries({}, optional={"x": st.integers(-5, 5), "y": MOMENTS, "z": st.none()}),
)
GOOD = {
    "b": st.booleans(),
    "i8": st.integers(-128, 127),
    "i": st.integers(-(2**63), 2**63 - 1),
    "f": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "d": st.floats(allow_nan=False, allow_infinity=False),
    "n": st.decimals(-(10**7), 10**7, places=2).map(float),
    "s": st.text(max_size=8).filter(lambda s: not any(0xD800 <= ord(c) < 0xE000 for c in s)),
    "raw": st.sampled_from(["", "YWJj", "/+8="]),
    "day": st.sampled_from(["2024-02-29", "1969-01-01", "9999-12-31"]),
    "t": st.sampled_from(["00:00:00", "23:59:59.999"]),
    "ts": st.sampled_from(["2024-01-31 12:00:00.123", "1969-12-31 23:59:59", "9999-12-31T23:59:59.999"]),
    "tz": st.sampled_from(["2024-01-31 12:00:00.123456Z", "1969-12-31T23:59:59Z"]),
    "a": st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=3),
    "r": st.fixed_dictionaries({}, optional={"x": st.integers(-5, 5), "y": st.just("2024-01-31 12:00:00")}),
}


def row(**odd: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={**{k: st.one_of(st.none(), v) for k, v in GOOD.items()}, **odd})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_json_batches_agree_with_single_records(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SCHEMA.names))
    usual = data.draw(st.lists(row(unknown=st.integers()), min_size=25, max_size=40))
    odd = data.draw(st.lists(row(**{name: LEAF}), max_size=3))
    values = [json.dumps(r).encode() for r in usual]
    for r in odd:
        values.insert(data.draw(st.integers(0, len(values))), json.dumps(r).encode())
    made = decoder("json", SCHEMA)
    assert together(made, values) == one_at_a_time(made, values)


@pytest.mark.parametrize("column", SCHEMA.names)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_column_of_one_odd_value_agrees(column: str, data: st.DataObject) -> None:
    """All records alike, so that the columnar reader does not refuse for a neighbour's sake."""
    value = data.draw(LEAF)
    values = [json.dumps({column: value}).encode()] * 25
    made = decoder("json", pa.schema([SCHEMA.field(column)]))
    assert together(made, values) == one_at_a_time(made, values)


IMAGE = pa.schema([("id", pa.int64()), ("s", pa.string()), ("n", pa.decimal128(10, 2)), ("ts", pa.timestamp("ms"))])
IMAGES = st.fixed_dictionaries(
    {"id": st.integers(0, 3)},
    optional={
        "s": st.sampled_from([None, "a", 'say "old"', "null", "]"]),
        "n": st.sampled_from([None, "1.10", "2"]),
        "ts": st.sampled_from([None, "2024-01-31 12:00:00"]),
    },
)
OLDS = st.fixed_dictionaries({}, optional={"id": st.integers(0, 3), "s": st.sampled_from([None, "b"]), "n": st.none()})


@st.composite
def canal(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["INSERT", "UPDATE", "UPDATE", "DELETE", "CREATE", "what"]))
    data = draw(st.lists(IMAGES, min_size=1, max_size=3))
    size = len(data) if draw(st.integers(0, 9)) else 1
    old = draw(st.lists(OLDS, min_size=size, max_size=size)) if kind == "UPDATE" else None
    ddl = kind == "CREATE"
    return {
        "data": None if ddl else data,
        "database": "d",
        "isDdl": ddl,
        "old": old,
        "sql": "",
        "table": "t",
        "type": kind,
    }


@st.composite
def debezium(draw: st.DrawFn) -> dict[str, Any]:
    op = draw(st.sampled_from(["c", "r", "u", "u", "d", "x", None]))
    image = st.one_of(st.none(), IMAGES) if not draw(st.integers(0, 9)) else IMAGES
    return {
        "before": draw(image) if op in ("u", "d") else None,
        "after": None if op == "d" else draw(image),
        "op": op,
        "ts_ms": draw(st.integers(0, 10)),
    }


@st.composite
def maxwell(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["insert", "update", "update", "delete", "table-alter", "bootstrap-start"]))
    old = draw(OLDS) if kind == "update" and draw(st.integers(0, 9)) else None
    return {
        "data": draw(IMAGES),
        "database": "d",
        "old": old,
        "table": "t",
        "type": kind,
        "ts": draw(st.integers(0, 9)),
    }


@st.composite
def ogg(draw: st.DrawFn) -> dict[str, Any]:
    event = draw(debezium())
    op = {"c": "I", "r": "T", "u": "U", "d": "D"}.get(event.pop("op"), "?")
    return {**event, "op_type": op, "table": "d.t", "op_ts": draw(st.sampled_from(["2024-01-31 12:00:00.000001", "x"]))}


METADATA = {
    "canal-json": [meta("m", "database", pa.string()), meta("e", "event-timestamp", pa.timestamp("us", "UTC"))],
    "debezium-json": [
        meta("m", "source.database", pa.string()),
        meta("e", "ingestion-timestamp", pa.timestamp("ms", "UTC")),
    ],
    "maxwell-json": [meta("m", "table", pa.string()), meta("e", "ingestion-timestamp", pa.timestamp("ms", "UTC"))],
    "ogg-json": [meta("m", "table", pa.string()), meta("e", "event-timestamp", pa.timestamp("ms", "UTC"))],
}


@pytest.mark.parametrize("upsert", ["false", "true"])
@pytest.mark.parametrize(
    ("name", "events"),
    [("canal-json", canal()), ("debezium-json", debezium()), ("maxwell-json", maxwell()), ("ogg-json", ogg())],
)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_changes_agree(name: str, events: st.SearchStrategy[Any], upsert: str, data: st.DataObject) -> None:
    schema = pa.schema([*IMAGE, *METADATA[name]]) if data.draw(st.booleans()) else IMAGE
    values = [json.dumps(e).encode() for e in data.draw(st.lists(events, min_size=25, max_size=40))]
    made = decoder(name, schema, changelog__upsert=upsert, changelog__key="id")
    assert together(made, values) == one_at_a_time(made, values)
