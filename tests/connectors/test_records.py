"""Rows in keyed records: layouts, pruning, metadata, tombstones, bad keys and values, and the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors.records import (
    METADATA,
    RecordDecoder,
    RecordEncoder,
    check_metadata,
    layout_of,
    value_format,
)
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, ColumnSpec, Records, Registry, TableSpec
from forebay.engine.errors import DataError, OptionError

from . import plain
from .conftest import table

REGISTRY = plain.register(Registry())
COLUMNS = {"id": pa.int64(), "name": pa.string(), "n": pa.int32()}
KEYED = {"format": "plain", "key.format": "plain", "key.fields": "id"}


def records(values: list[bytes | None], keys: list[bytes | None] | None = None) -> Records:
    n = len(values)
    return Records(
        pa.array(values, pa.binary()),
        "topic",
        np.zeros(n, np.int32),
        np.arange(100, 100 + n),
        None if keys is None else pa.array(keys, pa.binary()),
        np.arange(1000, 1000 + n),
    )


def rows(decoder: RecordDecoder, given: Records) -> list[dict[str, Any]]:
    decoded = decoder.decode(given)
    assert decoded.batch.schema.equals(decoder.schema)
    decoded.batch.rows.validate(full=True)
    assert (np.diff(decoded.record) >= 0).all()
    return decoded.batch.rows.to_pylist()


def test_value_only() -> None:
    decoder = RecordDecoder(REGISTRY, table(COLUMNS, {"format": "plain"}))
    got = decoder.decode(records([b'{"id":1,"name":"a","n":2}', b"{", b'{"id":2,"more":1}']))
    assert got.batch.rows.to_pylist() == [{"id": 1, "name": "a", "n": 2}, {"id": 2, "name": None, "n": None}]
    assert got.record.tolist() == [0, 2]
    assert [(d.offset, d.value) for d in got.dead] == [(101, b"{")]
    assert got.unknown_fields == {"more": 1}
    assert decoder.changelog is Changelog.APPEND
    assert got.batch.weights is None


def test_pruned_columns_are_null_and_not_unknown() -> None:
    decoder = RecordDecoder(REGISTRY, table(COLUMNS, {"format": "plain"}, read_columns=("n",)))
    got = decoder.decode(records([b'{"id":1,"name":"a","n":2,"x":0}']))
    assert got.batch.rows.to_pylist() == [{"id": None, "name": None, "n": 2}]
    assert got.unknown_fields == {"x": 1}
    counted = RecordDecoder(REGISTRY, table(COLUMNS, {"format": "plain"}, read_columns=()))
    assert counted.decode(records([b"{}", b"{}"])).batch.num_rows == 2


def test_key_columns_outside_the_value() -> None:
    options = KEYED | {"value.fields-include": "EXCEPT_KEY"}
    decoder = RecordDecoder(REGISTRY, table(COLUMNS, options))
    values = [b'{"name":"a"}', b'{"name":"b"}', b'{"name":"c"}', b"bad"]
    got = decoder.decode(records(values, [b'{"id":1}', None, b"bad key", b'{"id":4}']))
    assert [(r["id"], r["name"]) for r in got.batch.rows.to_pylist()] == [(1, "a"), (None, "b")]
    assert got.record.tolist() == [0, 1]
    assert sorted((d.offset, d.key, d.value, d.reason.split(":")[0]) for d in got.dead) == [
        (102, b"bad key", b'{"name":"c"}', "key"),
        (103, None, b"bad", "bad"),
    ]


def test_key_prefix() -> None:
    options = KEYED | {"key.fields": "k_id", "key.fields-prefix": "k_", "value.fields-include": "EXCEPT_KEY"}
    decoder = RecordDecoder(REGISTRY, table({"k_id": pa.int64(), "id": pa.int64()}, options))
    assert rows(decoder, records([b'{"id":7}'], [b'{"id":1}'])) == [{"k_id": 1, "id": 7}]


@pytest.mark.parametrize("include", ["ALL", "EXCEPT_KEY"])
def test_upsert_tombstones_keep_their_place(include: str) -> None:
    options = {"format": "plain", "key.format": "plain", "value.fields-include": include}
    decoder = RecordDecoder(REGISTRY, table(COLUMNS, options, primary_key=("id",)), upsert=True)
    values = [b'{"id":1,"name":"a"}', None, b'{"id":2,"name":"b"}', None, b"bad", None]
    keys = [b'{"id":1}', b'{"id":1}', b'{"id":2}', None, b'{"id":5}', b"bad"]
    got = decoder.decode(records(values, keys))
    pairs = zip(got.batch.rows.to_pylist(), got.batch.weight_array().tolist())
    assert [(r["id"], r["name"], w) for r, w in pairs] == [(1, "a", 1), (1, None, -1), (2, "b", 1)]
    assert got.record.tolist() == [0, 1, 2]
    assert decoder.changelog is Changelog.UPSERT
    assert sorted(d.offset for d in got.dead) == [103, 104, 105]


def test_changelog_format_with_a_primary_key_upserts() -> None:
    options = {"format": "plain-cdc"}
    assert RecordDecoder(REGISTRY, table(COLUMNS, options)).changelog is Changelog.RETRACT
    keyed = RecordDecoder(REGISTRY, table(COLUMNS, options, primary_key=("id",)))
    assert keyed.changelog is Changelog.UPSERT


def metadata_table(read: tuple[str, ...] | None = None) -> TableSpec:
    metadata = [
        ColumnSpec(f"m_{k}", t, metadata=k, virtual=k not in ("topic", "timestamp")) for k, t in METADATA.items()
    ]
    columns = (metadata[0], ColumnSpec("id", pa.int64()), *metadata[1:])
    return TableSpec("t", columns, {"format": "plain"}, read_columns=read)


def test_metadata_columns() -> None:
    decoder = RecordDecoder(REGISTRY, metadata_table())
    given = Records(
        pa.array([b'{"id":1}', b"bad", b'{"id":2}']),
        pa.array(["a", "b", "c"]),
        np.array([0, 1, 2], np.int32),
        np.array([5, 6, 7]),
        pa.array([b"k", None, None]),
        np.array([1000, 2000, -1]),
        [[("h", b"v"), ("h", None)], None, None],
    )
    got = rows(decoder, given)
    assert decoder.schema.names[:2] == ["m_topic", "id"]
    assert [r["m_topic"] for r in got] == ["a", "c"]
    assert [r["m_partition"] for r in got] == [0, 2]
    assert [r["m_offset"] for r in got] == [5, 7]
    assert [r["m_timestamp"] and r["m_timestamp"].timestamp() for r in got] == [1.0, None]
    assert [r["m_headers"] for r in got] == [[("h", b"v"), ("h", None)], None]
    assert [r["m_key"] for r in got] == [b"k", None]
    pruned = rows(RecordDecoder(REGISTRY, metadata_table(("id", "m_offset"))), given)
    assert [(r["m_offset"], r["m_topic"]) for r in pruned] == [(5, None), (7, None)]


def test_unknown_metadata_is_named() -> None:
    spec = TableSpec("t", (ColumnSpec("o", pa.int64(), metadata="ofset"),), {"format": "plain"})
    with pytest.raises(OptionError, match="did you mean 'offset'"):
        check_metadata(spec)
    spec = TableSpec("t", (ColumnSpec("o", pa.int64(), metadata="value.when"),), {"format": "plain"})
    with pytest.raises(OptionError, match="has no metadata 'when'"):
        RecordDecoder(REGISTRY, spec)


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({}, {}, "needs option 'format'"),
        ({"format": "plain", "value.format": "plain-cdc"}, {}, "differ"),
        ({"format": "plane"}, {}, "did you mean 'plain'"),
        ({"format": "plain", "plain.strickt": "true"}, {}, "did you mean 'strict'"),
        (KEYED | {"key.fields": "ids"}, {}, "did you mean 'id'"),
        (KEYED | {"key.fields-prefix": "k_", "value.fields-include": "EXCEPT_KEY"}, {}, "does not start"),
        (
            KEYED | {"key.format": "plain-cdc", "value.fields-include": "EXCEPT_KEY"},
            {},
            "cannot be the format of a key",
        ),
        (
            {"format": "plain", "key.fields": "id", "value.fields-include": "EXCEPT_KEY"},
            {},
            "needs option 'key.format'",
        ),
    ],
)
def test_mistakes_are_named(options: dict[str, str], more: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RecordDecoder(REGISTRY, table(COLUMNS, options, **more))


def test_upsert_needs_a_key_and_a_plain_format() -> None:
    with pytest.raises(OptionError, match="needs a primary key"):
        layout_of(table(COLUMNS, KEYED), upsert=True)
    with pytest.raises(OptionError, match="plain format"):
        RecordDecoder(REGISTRY, table(COLUMNS, KEYED | {"format": "plain-cdc"}, primary_key=("id",)), upsert=True)


ROW = st.tuples(
    st.integers(0, 5), st.one_of(st.none(), st.text(max_size=4)), st.integers(-9, 9), st.sampled_from([1, -1, 2])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=12), st.sampled_from(["ALL", "EXCEPT_KEY"]), st.sampled_from(["append", "upsert", "cdc"]))
def test_encode_then_decode_is_the_identity(given: list[tuple[Any, ...]], include: str, mode: str) -> None:
    upsert = mode == "upsert"
    options = {"format": "plain-cdc" if mode == "cdc" else "plain", "key.format": "plain"}
    options |= {"value.fields-include": include} | ({} if upsert else {"key.fields": "id"})
    spec = table(COLUMNS, options, primary_key=("id",) if upsert else ())
    batch = pa.RecordBatch.from_pylist(
        [{"id": i, "name": s, "n": n} for i, s, n, _ in given], pa.schema(list(COLUMNS.items()))
    )
    weights = np.array([w if mode != "append" else abs(w) for *_, w in given], np.int64)
    encoded = RecordEncoder(REGISTRY, spec, upsert).encode(Batch(batch, weights))
    n = int(np.abs(weights).sum())
    assert len(encoded) == n
    decoded = RecordDecoder(REGISTRY, spec, upsert).decode(
        Records(encoded.values, "t", np.zeros(n, np.int32), np.arange(n), encoded.keys)
    )
    want = [
        ((i, None, None) if upsert and w < 0 else (i, s, m), np.sign(w))
        for (i, s, m, _), w in zip(given, weights)
        for _ in range(abs(w))
    ]
    got = zip(decoded.batch.rows.to_pylist(), decoded.batch.weight_array())
    assert [(tuple(r.values()), w) for r, w in got] == want


def test_writable_metadata() -> None:
    spec = metadata_table()
    schema = pa.schema([("m_topic", pa.string()), ("id", pa.int64()), ("m_timestamp", METADATA["timestamp"])])
    batch = pa.RecordBatch.from_pylist(
        [{"m_topic": "x", "id": 1, "m_timestamp": 5000}, {"m_topic": "y", "id": 2}], schema
    )
    encoded = RecordEncoder(REGISTRY, spec).encode(Batch(batch))
    assert encoded.values.to_pylist() == [b'{"id": 1}', b'{"id": 2}']
    assert encoded.topics is not None
    assert encoded.topics.to_pylist() == ["x", "y"]
    assert encoded.timestamps is not None
    assert encoded.timestamps.tolist() == [5000, -1]
    bad = TableSpec("t", (ColumnSpec("id", pa.int64()), ColumnSpec("o", pa.int64(), metadata="offset")), spec.options)
    with pytest.raises(OptionError, match="VIRTUAL"):
        RecordEncoder(REGISTRY, bad)


def test_append_format_refuses_deletions() -> None:
    batch = Batch(pa.RecordBatch.from_pydict({"id": [1]}), np.array([-1], np.int64))
    with pytest.raises(DataError):
        RecordEncoder(REGISTRY, table({"id": pa.int64()}, {"format": "plain"})).encode(batch)


def test_options_of_a_value_format_may_carry_the_prefix_or_not() -> None:
    spec = table(COLUMNS, {"value.format": "plain", "plain.strict": "true"})
    assert value_format(REGISTRY, spec).options["strict"] == "true"
    both = table(COLUMNS, {"value.format": "plain", "value.plain.strict": "x", "plain.strict": "true"})
    assert value_format(REGISTRY, both).options["strict"] == "x"
