"""Change formats: weights, upserts, before images, statements, metadata, and bad events among good ones."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from forebay.engine.connector import Changelog
from forebay.engine.errors import OptionError
from tests.formats.reading import decoder, meta, records, rows

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("s", pa.string())])
A, B, C = {"id": 1, "s": "a"}, {"id": 1, "s": "b"}, {"id": 2, "s": "b"}


def debezium(op: str, before: Any = None, after: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "op": op,
        "ts_ms": 5,
        "source": {"db": "d", "table": "t", "ts_ms": 4},
        **more,
    }


def canal(op: str, data: Any, old: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "data": data,
        "old": old,
        "type": op,
        "database": "d",
        "table": "t",
        "isDdl": False,
        "es": 4,
        "ts": 5,
        **more,
    }


def maxwell(op: str, data: Any, old: Any = None, **more: Any) -> dict[str, Any]:
    return {"data": data, "old": old, "type": op, "database": "d", "table": "t", "ts": 4, **more}


def ogg(op: str, before: Any = None, after: Any = None, **more: Any) -> dict[str, Any]:
    times = {"op_ts": "2024-01-31 12:00:00.000001", "current_ts": "2024-01-31T12:00:00.000002"}
    return {"before": before, "after": after, "op_type": op, "table": "D.T", **times, **more}


LIFE: dict[str, list[Any]] = {
    "debezium-json": [debezium("c", None, A), debezium("u", A, B), debezium("u", B, C), debezium("d", C, None)],
    "canal-json": [
        canal("INSERT", [A]),
        canal("UPDATE", [B], [{"s": "a"}]),
        canal("UPDATE", [C], [{"id": 1}]),
        canal("DELETE", [C]),
    ],
    "maxwell-json": [
        maxwell("insert", A),
        maxwell("update", B, {"s": "a"}),
        maxwell("update", C, {"id": 1}),
        maxwell("delete", C),
    ],
    "ogg-json": [ogg("I", None, A), ogg("U", A, B), ogg("U", B, C), ogg("D", C, None)],
}
RETRACTED = [(1, (1, "a")), (-1, (1, "a")), (1, (1, "b")), (-1, (1, "b")), (1, (2, "b")), (-1, (2, "b"))]
UPSERTED = [(1, (1, "a")), (1, (1, "b")), (-1, (1, "b")), (1, (2, "b")), (-1, (2, "b"))]


def encode(events: list[Any]) -> list[bytes | None]:
    return [None if e is None else e if isinstance(e, bytes) else json.dumps(e).encode() for e in events]


@pytest.mark.parametrize("name", LIFE)
@pytest.mark.parametrize("times", [1, 10], ids=["one by one", "columns"])
def test_the_life_of_a_row(name: str, times: int) -> None:
    values = encode(LIFE[name] * times)
    made = decoder(name, SCHEMA)
    assert made.changelog is Changelog.RETRACT
    assert rows(made.decode(records(values))) == RETRACTED * times
    made = decoder(name, SCHEMA, changelog__upsert="true", changelog__key="id")
    assert made.changelog is Changelog.UPSERT
    assert rows(made.decode(records(values))) == UPSERTED * times


@pytest.mark.parametrize("name", LIFE)
def test_bad_events_and_statements_between_good_ones(name: str) -> None:
    statement = {
        "debezium-json": {"source": {"db": "d", "table": "t"}, "databaseName": "d", "ddl": "ALTER TABLE t ADD x INT"},
        "canal-json": canal("ALTER", None, isDdl=True, sql="ALTER TABLE t ADD x INT"),
        "maxwell-json": {"type": "table-alter", "database": "d", "table": "t", "sql": "ALTER TABLE t ADD x INT"},
        "ogg-json": ogg("T"),
    }[name]
    bad = [b"{", b"[]", b"{}", {"op": "x", "type": "x", "op_type": "x"}, {**LIFE[name][0], "data": 1, "after": 1}]
    values = encode([*LIFE[name] * 6, None, statement, *bad, *LIFE[name] * 6])
    decoded = decoder(name, SCHEMA).decode(records(values, first=100))
    assert rows(decoded) == RETRACTED * 12
    assert [d.offset for d in decoded.dead] == list(range(126, 131))
    assert [(c.offset, c.table) for c in decoded.schema_changes] == [(125, "T" if name == "ogg-json" else "t")]
    assert "TABLE" in decoded.schema_changes[0].statement
    lenient = decoder(name, SCHEMA, ignore_parse_errors="true").decode(records(values))
    assert not lenient.dead and rows(lenient) == RETRACTED * 12


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("debezium-json", debezium("u", None, B)),
        ("ogg-json", ogg("U", None, B)),
        ("maxwell-json", maxwell("update", B)),
    ],
)
def test_updates_without_the_row_before(name: str, event: Any) -> None:
    values = encode([*LIFE[name] * 6, event])
    strict = decoder(name, SCHEMA).decode(records(values))
    assert [d.offset for d in strict.dead] == [24]
    assert "no row before the change" in strict.dead[0].reason and "hint" in strict.dead[0].reason
    upsert = decoder(name, SCHEMA, changelog__upsert="true", changelog__key="id").decode(records(values))
    assert not upsert.dead and rows(upsert)[-1] == (1, (1, "b"))


@pytest.mark.parametrize(("name", "make"), [("canal-json", None), ("maxwell-json", maxwell)])
def test_null_in_old_differs_from_absence(name: str, make: Any) -> None:
    def update(data: Any, old: Any) -> Any:
        return canal("UPDATE", [data], [old]) if make is None else make("update", data, old)

    events = [update(B, {"s": None}), update(B, {}), update({"id": 1, "s": None}, {"s": "a"})] * 10
    expected = [
        (-1, (1, None)),
        (1, (1, "b")),
        (-1, (1, "b")),
        (1, (1, "b")),
        (-1, (1, "a")),
        (1, (1, None)),
    ]
    assert rows(decoder(name, SCHEMA).decode(records(encode(events)))) == expected * 10


def test_canal_records_hold_many_rows_and_are_filtered() -> None:
    events = [
        canal("INSERT", [A, C]),
        canal("INSERT", [{"id": 9}], table="other"),
        canal("INSERT", [{"id": {}}], database="else", table="t"),
        canal("UPDATE", [B, C], [{"s": "a"}, {"id": 3}]),
    ] * 10
    made = decoder("canal-json", SCHEMA, table__include="t|u", database__include="d")
    decoded = made.decode(records(encode(events)))
    once = [(1, (1, "a")), (1, (2, "b")), (-1, (1, "a")), (1, (1, "b")), (-1, (3, "b")), (1, (2, "b"))]
    assert not decoded.dead and rows(decoded) == once * 10
    assert decoded.record.tolist()[:8] == [0, 0, 3, 3, 3, 3, 4, 4]
    with pytest.raises(OptionError):
        decoder("canal-json", SCHEMA, table__include="(")


LTZ = pa.timestamp("ms", tz="UTC")
CASES: list[tuple[str, str, pa.DataType, Any]] = [
    ("debezium-json", "source.database", pa.string(), "d"),
    ("debezium-json", "source.timestamp", LTZ, 4),
    ("debezium-json", "ingestion-timestamp", pa.timestamp("us", tz="UTC"), 5000),
    (
        "debezium-json",
        "source.properties",
        pa.map_(pa.string(), pa.string()),
        "[('db', 'd'), ('table', 't'), ('ts_ms', '4')]",
    ),
    ("canal-json", "table", pa.string(), "t"),
    ("canal-json", "event-timestamp", LTZ, 4),
    ("canal-json", "pk-names", pa.list_(pa.string()), "['id']"),
    ("canal-json", "sql-type", pa.map_(pa.string(), pa.int32()), "[('id', -5)]"),
    ("maxwell-json", "ingestion-timestamp", LTZ, 4000),
    ("maxwell-json", "primary-key-columns", pa.list_(pa.string()), "['id']"),
    ("ogg-json", "event-timestamp", pa.timestamp("us", tz="UTC"), 1706702400000001),
    ("ogg-json", "primary-keys", pa.list_(pa.string()), "['id']"),
    ("ogg-json", "table", pa.string(), "D.T"),
]


@pytest.mark.parametrize(("name", "key", "type_", "expected"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
@pytest.mark.parametrize("times", [1, 10], ids=["one by one", "columns"])
def test_metadata_columns(name: str, key: str, type_: pa.DataType, expected: Any, times: int) -> None:
    keys = {"pkNames": ["id"], "sqlType": {"id": -5}, "primary_key_columns": ["id"], "primary_keys": ["id"]}
    values = encode([{**e, **keys} for e in LIFE[name]] * times)
    schema = pa.schema([SCHEMA.field("id"), meta("m", key, type_), SCHEMA.field("s")])
    decoded = decoder(name, schema).decode(records(values))
    assert not decoded.dead
    assert rows(decoded) == [(w, (i, expected, s)) for w, (i, s) in RETRACTED] * times
    with pytest.raises(OptionError, match="metadata"):
        decoder(name, pa.schema([meta("m", "offset", pa.int64())]))


def test_debezium_units_come_from_the_schema() -> None:
    def f(name: str, semantic: str, **parameters: str) -> dict[str, Any]:
        return {"field": name, "name": semantic, "parameters": parameters}

    fields = [
        f("day", "io.debezium.time.Date"),
        f("t", "io.debezium.time.Time"),
        f("a", "io.debezium.time.Timestamp"),
        f("b", "io.debezium.time.NanoTimestamp"),
        f("n", "org.apache.kafka.connect.data.Decimal", scale="2"),
    ]
    schema = pa.schema(
        [
            ("day", pa.date32()),
            ("t", pa.time32("ms")),
            ("a", pa.timestamp("us")),
            ("b", pa.timestamp("us")),
            ("n", pa.decimal128(10, 2)),
        ]
    )
    row = {"day": 1, "t": 1000, "a": 7, "b": 9000, "n": "BNI="}
    wrapped = {"schema": {"fields": [{"field": "after", "fields": fields}]}, "payload": debezium("c", None, row)}
    values = encode([wrapped] * 30)
    decoded = decoder("debezium-json", schema, schema_include="true").decode(records(values))
    assert str(rows(decoded)[29]) == "(1, (1, 1000, 7000, 9, Decimal('12.34')))"
    plain = decoder("debezium-json", schema.remove(4)).decode(records(encode([debezium("c", None, row)] * 30)))
    assert rows(plain)[29] == (1, (1, 1, 7, 9000))


def test_debezium_with_schema_goes_through_columns_too() -> None:
    values = encode([{"schema": {}, "payload": e} for e in LIFE["debezium-json"]] * 10)
    for option in ("true", "false"):
        decoded = decoder("debezium-json", SCHEMA, schema_include=option).decode(records(values))
        assert not decoded.dead and rows(decoded) == RETRACTED * 10


@pytest.mark.parametrize(
    ("name", "key", "field"),
    [
        ("debezium-json", "ingestion-timestamp", "ts_ms"),
        ("canal-json", "event-timestamp", "es"),
        ("maxwell-json", "ingestion-timestamp", "ts"),
        ("ogg-json", "event-timestamp", "op_ts"),
        ("debezium-json", "source.table", "source"),
    ],
)
@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**64, "x", None, {"ts_ms": []}, [1]])
def test_odd_metadata_is_null_and_harms_no_row(name: str, key: str, field: str, value: Any) -> None:
    type_ = pa.string() if key == "source.table" else pa.timestamp("us", tz="UTC")
    made = decoder(name, pa.schema([*SCHEMA, meta("m", key, type_)]))
    odd = made.decode(records(encode([{**e, field: value} for e in LIFE[name]] * 10)))
    assert not odd.dead
    assert rows(odd) == [(w, (*row, None)) for w, row in RETRACTED] * 10
