"""Envelopes and the unified ODS: a mixed binlog split by table, and read back as typed changelogs."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors.formats.envelope import COLUMNS
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog
from forebay.engine.errors import DataError, OptionError
from tests.formats.reading import decoder, encoder, meta, one_at_a_time, records, rows, together
from tests.formats.test_changes import LIFE, RETRACTED, SCHEMA, UPSERTED, A, B, canal, encode

ENVELOPE = pa.schema(list(COLUMNS.items()))
OPS = ["INSERT", "UPDATE", "UPDATE", "DELETE"]


@pytest.mark.parametrize("name", LIFE)
def test_every_dialect_becomes_the_same_rows(name: str) -> None:
    made = decoder(name, ENVELOPE, envelope="true")
    assert made.changelog is Changelog.APPEND
    decoded = made.decode(records(encode(LIFE[name])))
    assert decoded.batch.weights is None and not decoded.dead
    found = decoded.batch.rows.to_pylist()
    assert [r["op"] for r in found] == OPS
    images = [(r["before"] and json.loads(r["before"]), r["after"] and json.loads(r["after"])) for r in found]
    c = {"id": 2, "s": "b"}
    assert images == [(None, A), (A, B), (B, c), (c, None)]
    assert {str(r["table_name"]).lower() for r in found} == {"t"}
    assert {str(r["database_name"]).lower() for r in found} == {"d"}
    assert all(r["event_time"] is not None for r in found)


def split(values: list[bytes | None]) -> dict[str, list[bytes | None]]:
    """What INSERT INTO ods SELECT ..., CONCAT('ods_', table_name) FROM binlog does, by topic."""
    decoded = decoder("canal-json", ENVELOPE, envelope="true").decode(records(values))
    messages = encoder("ods-json", ENVELOPE, envelope="true").encode(decoded.batch).to_pylist()
    topics: dict[str, list[bytes | None]] = {}
    for table, message in zip(decoded.batch.rows.column("table_name").to_pylist(), messages):
        topics.setdefault(f"ods_{table}", []).append(message)
    return topics


def test_a_mixed_binlog_is_split_by_table_and_read_back_typed() -> None:
    other = {"shop": "s", "open": True}
    events: list[Any] = []
    for event in LIFE["canal-json"] * 8:
        events += [event, canal("INSERT", [other, other], table="shops", database="e")]
    topics = split(encode([*events, canal("ALTER", None, isDdl=True, sql="ALTER ..."), None]))
    assert sorted(topics) == ["ods_shops", "ods_t"]
    assert rows(decoder("ods-json", SCHEMA).decode(records(topics["ods_t"]))) == RETRACTED * 8
    upsert = decoder("ods-json", SCHEMA, changelog__upsert="true", changelog__key="id")
    assert rows(upsert.decode(records(topics["ods_t"]))) == UPSERTED * 8
    shops = decoder("ods-json", pa.schema([("shop", pa.string()), ("open", pa.bool_())]))
    assert rows(shops.decode(records(topics["ods_shops"]))) == [(1, ("s", True))] * 64


def test_one_ods_topic_is_filtered_by_table() -> None:
    events = [*LIFE["canal-json"], canal("INSERT", [{"id": {}}], table="u")] * 8
    mixed = [m for topic in split(encode(events)).values() for m in topic]
    made = decoder("ods-json", SCHEMA, table__include="t", database__include="d")
    assert rows(made.decode(records(mixed))) == RETRACTED * 8


def test_numbers_stay_as_written() -> None:
    image = b'{"a":1.10,"b":12345678901234567890,"c":1E5,"d":"1.10","e":[1.0,{"f":-0.50}],"g":"\\ud83d\\ude00"}'
    record = b'{"data":[' + image + b'],"type":"INSERT","database":"d","table":"t","es":1}'
    schema = pa.schema([("op", pa.string()), ("after", pa.string())])
    decoded = decoder("canal-json", schema, envelope="true").decode(records([record]))
    assert decoded.batch.rows.column("after")[0].as_py() == image.decode().replace("\\ud83d\\ude00", "😀")
    written = encoder("ods-json", schema, envelope="true").encode(decoded.batch)
    typed = pa.schema([("a", pa.decimal128(5, 2)), ("b", pa.decimal128(20, 0))])
    assert str(rows(decoder("ods-json", typed).decode(records(written.to_pylist())))[0][1]) == (
        "(Decimal('1.10'), Decimal('12345678901234567890'))"
    )


def test_log_events_are_written_in_the_same_envelope() -> None:
    schema = pa.schema([("user_id", pa.int64()), ("ts", pa.timestamp("ms"))])
    options = {"event_time_column": "ts", "database_name": "log", "table_name": "clicks"}
    batch = Batch(
        pa.RecordBatch.from_pylist([{"user_id": 1, "ts": dt.datetime(2024, 1, 31)}, {"user_id": 2}], schema),
        np.array([1, -1], np.int64),
    )
    written = encoder("ods-json", schema, **options).encode(batch).to_pylist()
    assert written == [
        b'{"op":"INSERT","event_time":"2024-01-31 00:00:00Z","database_name":"log","table_name":"clicks",'
        b'"before":null,"after":{"user_id":1,"ts":"2024-01-31 00:00:00"}}',
        b'{"op":"DELETE","event_time":null,"database_name":"log","table_name":"clicks",'
        b'"before":{"user_id":2,"ts":null},"after":null}',
    ]
    with_time = pa.schema(
        [*schema, meta("t", "table", pa.string()), meta("e", "event-time", pa.timestamp("ms", "UTC"))]
    )
    for times in (1, 20):
        decoded = decoder("ods-json", with_time).decode(records(written * times))
        assert (
            rows(decoded) == [(1, (1, 1706659200000, "clicks", 1706659200000)), (-1, (2, None, "clicks", None))] * times
        )
    with pytest.raises(OptionError, match="did you mean 'ts'"):
        encoder("ods-json", schema, event_time_column="tss")


def test_further_columns_stand_beside_the_envelope() -> None:
    source = pa.struct([("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64())])
    schema = pa.schema([("op", pa.string()), ("after", pa.string()), ("source", source)])
    row = {"op": "INSERT", "after": '{"a":1}', "source": {"topic": "binlog", "partition": 0, "offset": 7}}
    batch = Batch(pa.RecordBatch.from_pylist([row], schema))
    written = encoder("ods-json", schema, envelope="true").encode(batch).to_pylist()
    assert written == [b'{"op":"INSERT","after":{"a":1},"source":{"topic":"binlog","partition":0,"offset":7}}']
    assert decoder("ods-json", schema, envelope="true").decode(records(written)).batch.rows.equals(batch.rows)


def test_what_an_envelope_refuses() -> None:
    with pytest.raises(OptionError, match="did you mean 'table_name'"):
        decoder("canal-json", pa.schema([("table_nam", pa.string())]), envelope="true")
    with pytest.raises(OptionError, match="cannot be BIGINT"):
        decoder("canal-json", pa.schema([("op", pa.int64())]), envelope="true")
    with pytest.raises(OptionError, match="needs column 'op'"):
        encoder("ods-json", pa.schema([("after", pa.string())]), envelope="true")
    schema = pa.schema([("op", pa.string()), ("after", pa.string())])
    made = encoder("ods-json", schema, envelope="true")
    row = pa.RecordBatch.from_pylist([{"op": "INSERT", "after": "oops"}], schema)
    with pytest.raises(DataError, match="JSON object"):
        made.encode(Batch(row))
    with pytest.raises(DataError, match="append-only"):
        made.encode(Batch(row, np.array([-1], np.int64)))


def test_bad_messages_and_statements_in_an_envelope() -> None:
    values = encode(
        [b"{", canal("INSERT", [A]), canal("X", [A]), canal("CREATE", None, isDdl=True, sql="CREATE ..."), None]
    )
    decoded = decoder("canal-json", ENVELOPE, envelope="true").decode(records(values))
    assert decoded.batch.num_rows == 1
    assert [d.offset for d in decoded.dead] == [0, 2]
    assert [c.statement for c in decoded.schema_changes] == ["CREATE ..."]


MESSAGES = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["INSERT", "UPDATE", "DELETE", "DDL", "x"]),
        "before": st.sampled_from([None, {"id": 1, "s": "a"}, {"id": 2, "s": None}]),
        "after": st.sampled_from([None, {"id": 1, "s": "b"}, {"id": 3}]),
        "table_name": st.sampled_from(["t", "u", None]),
        "event_time": st.sampled_from(["2024-01-31 12:00:00Z", "x", None]),
    }
)


@pytest.mark.parametrize(
    "options", [{}, {"changelog__upsert": "true", "changelog__key": "id"}, {"table__include": "t"}]
)
@settings(max_examples=25, deadline=None)
@given(messages=st.lists(MESSAGES, min_size=25, max_size=40), with_time=st.booleans())
def test_batches_of_messages_agree_with_single_ones(
    options: dict[str, str], messages: list[Any], with_time: bool
) -> None:
    extra = [meta("e", "event-time", pa.timestamp("ms", "UTC"))] if with_time else []
    made = decoder("ods-json", pa.schema([*SCHEMA, *extra]), **options)
    values = encode(messages)
    assert together(made, values) == one_at_a_time(made, values)
