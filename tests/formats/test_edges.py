"""Batches of odd shape: none, only tombstones, slices of larger arrays, no columns; and encoders of nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from tests.formats.reading import REGISTRY, decoder, encoder, records, rows
from tests.formats.test_changes import LIFE, RETRACTED, SCHEMA, encode

NAMES = sorted(n for n, f in REGISTRY.formats.items() if f.decoder is not None)
ONE = pa.schema([("s", pa.string())])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_nothing_out(name: str) -> None:
    made = decoder(name, ONE)
    empty = made.decode(records([]))
    assert empty.batch.num_rows == 0 and not len(empty.record) and empty.batch.schema == ONE
    tombstones = made.decode(records([None] * 40))
    assert tombstones.batch.num_rows == (40 if name == "raw" else 0) and not tombstones.dead
    nothing = pa.RecordBatch.from_pylist([], ONE)
    for weights in (None, np.empty(0, np.int64)):
        assert encoder(name, ONE).encode(Batch(nothing, weights)).to_pylist() == []


@pytest.mark.parametrize("name", LIFE)
def test_slices(name: str) -> None:
    values = encode(LIFE[name] * 12)
    whole = records([b"{", b"x" * 100, *values, b"}"])
    part = replace(whole, values=whole.values[2:-1], partitions=whole.partitions[2:-1], offsets=whole.offsets[2:-1])
    assert rows(decoder(name, SCHEMA).decode(part)) == RETRACTED * 12


@pytest.mark.parametrize("name", ["json", *LIFE])
@pytest.mark.parametrize("times", [1, 10], ids=["one by one", "columns"])
def test_rows_are_counted_without_any_column(name: str, times: int) -> None:
    values = [b'{"a":1}', b"{}"] if name == "json" else encode(LIFE[name])
    decoded = decoder(name, pa.schema([])).decode(records(values * 20 * times))
    assert decoded.batch.num_rows == (2 if name == "json" else 6) * 20 * times


def test_positions_and_keys_reach_the_dead_letters() -> None:
    given = replace(
        records([b"{"], 7),
        keys=pa.array([b"k"], pa.binary()),
        timestamps=np.array([5]),
        source=pa.array(["orders"]),
        partitions=np.array([3], np.int32),
    )
    (letter,) = decoder("json", ONE).decode(given).dead
    where = letter.source, letter.partition, letter.offset, letter.key, letter.timestamp, letter.value
    assert where == ("orders", 3, 7, b"k", 5, b"{")


def test_numbers_in_text_columns_are_read_in_columns_too() -> None:
    values = [f'{{"s":{i}}}'.encode() for i in (-5, 0, 2**63 - 1, 10**18)] * 20
    assert [v for _, (v,) in rows(decoder("json", ONE).decode(records(values)))][:4] == [
        "-5",
        "0",
        "9223372036854775807",
        "1000000000000000000",
    ]


def test_half_surrogates_outside_of_columns_do_no_harm() -> None:
    events = [
        b'{"data":[{"id":1}],"type":"INSERT","database":"\\ud800","table":"t","\\udc00":1}',
        b'{"isDdl":true,"type":"ALTER","sql":"\\ud800","database":"\\ud800","table":"t"}',
        b'{"data":[{"id":1,"\\udc00":2}],"type":"INSERT","database":"d","table":"t"}',
    ]
    schema = pa.schema([("op", pa.string()), ("database_name", pa.string())])
    envelope = decoder("canal-json", schema, envelope="true").decode(records(events))
    assert envelope.batch.rows.column(1).to_pylist() == [None, "d"]
    typed = decoder("canal-json", pa.schema([("id", pa.int64())])).decode(records(events))
    assert typed.batch.num_rows == 2
    for text in (*typed.unknown_fields, typed.schema_changes[0].statement, str(typed.schema_changes[0].database)):
        assert text.encode()
