"""datagen: every type, kinds, nulls, bounds; blackhole and print."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors import default_registry
from forebay.connectors.datagen import source
from forebay.connectors.print import sink
from forebay.engine.batch import Batch
from forebay.engine.errors import OptionError

from .conftest import drain, table

EVERY_TYPE = {
    "b": pa.bool_(),
    "i8": pa.int8(),
    "i16": pa.int16(),
    "i32": pa.int32(),
    "i64": pa.int64(),
    "f": pa.float32(),
    "d": pa.float64(),
    "dec": pa.decimal128(12, 3),
    "s": pa.string(),
    "bin": pa.binary(),
    "day": pa.date32(),
    "time": pa.time32("ms"),
    "ts": pa.timestamp("ms"),
    "ltz": pa.timestamp("us", tz="UTC"),
    "list": pa.list_(pa.int32()),
    "map": pa.map_(pa.string(), pa.float64()),
    "row": pa.struct([("x", pa.int64()), ("y", pa.string())]),
}


def test_every_type_is_made_and_any_batching_is_equal() -> None:
    made = source(table(EVERY_TYPE, {"number-of-rows": "500", "rows-per-second": "0", "fields.s.var-len": "true"}))
    assert made.bounded
    whole = drain(made.reader(None), 500)
    whole.validate(full=True)
    assert whole.schema.types == list(EVERY_TYPE.values())
    assert drain(made.reader(None), 7).combine_chunks().equals(whole.combine_chunks())
    for name in ("i64", "d", "dec", "s", "bin", "row"):
        assert len({str(v) for v in whole[name].to_pylist()}) > 480


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 5))
def test_integers_stay_in_range(a: int, b: int, seed: int) -> None:
    least, most = min(a, b), max(a, b)
    options = {"number-of-rows": "50", "seed": str(seed), "fields.x.min": str(least), "fields.x.max": str(most)}
    values = drain(source(table({"x": pa.int64()}, options | {"rows-per-second": "0"})).reader(None))["x"]
    assert all(least <= v <= most for v in values.to_pylist())


def test_sequences_nulls_and_bounds() -> None:
    columns = {"id": pa.int32(), "name": pa.string(), "x": pa.float64(), "dec": pa.decimal128(8, 2)}
    options = {
        "rows-per-second": "0",
        "fields.id.kind": "sequence",
        "fields.id.start": "5",
        "fields.id.end": "1004",
        "fields.name.length": "4",
        "fields.name.null-rate": "0.25",
        "fields.x.min": "-1.5",
        "fields.x.max": "2.5",
        "fields.dec.min": "-3.25",
        "fields.dec.max": "-1",
    }
    rows = drain(source(table(columns, options)).reader(None))
    assert rows["id"].to_pylist() == list(range(5, 1005))
    assert 200 < rows["name"].null_count < 300
    assert set(pc.binary_length(rows["name"].drop_null()).to_pylist()) == {4}
    assert -1.5 <= pc.min(rows["x"]).as_py() < -1.4
    assert 2.4 < pc.max(rows["x"]).as_py() < 2.5
    assert -3.25 <= float(pc.min(rows["dec"]).as_py()) <= float(pc.max(rows["dec"]).as_py()) <= -1


def test_event_time_moves_with_the_rate() -> None:
    options = {"rows-per-second": "1000", "number-of-rows": "10", "fields.ts.max-past": "5 ms"}
    made = source(table({"ts": pa.timestamp("ms")}, options))
    rows = made._generate(0, 10)["ts"].cast(pa.int64()).to_numpy()
    late = 1_767_225_600_000 + np.arange(10) - rows
    assert late.min() >= 0
    assert late.max() <= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields.nme.length": "3"}, "did you mean 'name'"),
        ({"fields.name.lenght": "3"}, "did you mean 'length'"),
        ({"fields.name.kind": "serial"}, "'random' or 'sequence'"),
        ({"fields.id.min": "9", "fields.id.max": "1"}, "not a range"),
        ({"fields.id.max": "3000000000"}, "not a range"),
        ({"rows-per-second": "-1"}, "at least 0"),
    ],
)
def test_mistakes_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        source(table({"id": pa.int32(), "name": pa.string()}, options))


def test_print_shows_row_kinds_as_flink() -> None:
    columns = {"id": pa.int32(), "v": pa.string(), "row": pa.struct([("a", pa.bool_())])}
    rows = pa.RecordBatch.from_pylist(
        [
            {"id": 1, "v": "old", "row": {"a": True}},
            {"id": 1, "v": "new", "row": None},
            {"id": 2, "v": None, "row": {"a": False}},
            {"id": 3, "v": "x", "row": {"a": None}},
        ],
        schema=pa.schema(list(columns.items())),
    )
    weights = np.array([-1, 1, 2, -1], np.int64)
    keyed, plain = io.StringIO(), io.StringIO()
    sink(table(columns, {"print-identifier": "out"}, primary_key=("id",)), keyed).write(Batch(rows, weights))
    sink(table(columns, {}), plain).write(Batch(rows, weights))
    assert keyed.getvalue().splitlines() == [
        "out> -U[1, old, +I[true]]",
        "out> +U[1, new, null]",
        "out> +I[2, null, +I[false]]",
        "out> +I[2, null, +I[false]]",
        "out> -D[3, x, +I[null]]",
    ]
    assert [line[:2] for line in plain.getvalue().splitlines()] == ["-D", "+I", "+I", "+I", "-D"]


def test_print_goes_to_the_stream_that_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    batch = Batch(pa.RecordBatch.from_pydict({"id": pa.array([1], pa.int32())}))
    for options in ({}, {"standard-error": "true"}):
        made = sink(table({"id": pa.int32()}, options))
        assert made.recover() is None
        made.write(batch)
        made.commit(1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == "+I[1]\n"


def test_blackhole_takes_everything() -> None:
    connector = default_registry().connector("blackhole")
    assert connector.sink is not None
    made = connector.sink(table({"id": pa.int32()}, {}))
    made.write(Batch(pa.RecordBatch.from_pydict({"id": [1, 2]}), np.array([-1, 3], np.int64)))
    made.commit(1)
    assert made.recover() is None
