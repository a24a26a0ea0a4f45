"""Row gathers against Arrow's own take: every width, NULLs, slices, and rows over chunk borders."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.errors import DataError
from forebay.engine.state import rows as module
from forebay.engine.state.rows import CHUNK, RowStore, SparseColumn

KINDS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False, None]),
    (pa.int8(), [-128, 0, None, 127]),
    (pa.uint16(), [0, None, 65535]),
    (pa.float32(), [1.5, None, float("inf")]),
    (pa.int64(), [-(2**63), None, 2**63 - 1]),
    (pa.decimal128(38, 3), [Decimal("-1.000"), None, Decimal("12345678901234567890123456789012345.678")]),
    (pa.string(), ["", None, "é", "sixteen bytes ok", "seventeen bytes !", "x" * 300]),
    (pa.binary(), [b"\x00", None, b""]),
    (pa.date32(), [datetime.date(1969, 12, 31), None]),
    (pa.timestamp("ns"), [-1, None, 2**60]),
    (pa.list_(pa.string()), [["a", None], None, []]),
    (pa.struct([("x", pa.int8())]), [{"x": 1}, None, {"x": None}]),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda x: str(x) if isinstance(x, pa.DataType) else "")
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_gather_is_take(kind: pa.DataType, values: list[Any], data: st.DataObject) -> None:
    schema = pa.schema([("v", kind)])
    parts = data.draw(st.lists(st.lists(st.sampled_from(values), max_size=8), min_size=1, max_size=5))
    store, given_rows = RowStore(schema), []
    for part in parts:
        array = pa.concat_arrays([pa.array(values, kind), pa.array(part, kind)])[len(values) :]
        assert store.append(pa.RecordBatch.from_arrays([array], schema=schema)) == len(given_rows) + 1
        given_rows += part
    if not given_rows:
        return
    ids = data.draw(st.lists(st.integers(1, len(given_rows)), max_size=20))
    got = store.gather(np.array(ids, np.int64))
    got.validate(full=True)
    assert got.equals(pa.RecordBatch.from_arrays([pa.array([given_rows[i - 1] for i in ids], kind)], schema=schema))


def test_rows_over_chunk_borders() -> None:
    n = 2 * CHUNK + 1000
    schema = pa.schema([("i", pa.int64()), ("s", pa.string()), ("b", pa.bool_()), ("l", pa.list_(pa.int64()))])
    numbers = pa.array(range(n))
    texts = pa.array([None if i % 5 == 0 else str(i) for i in range(n)])
    lists = pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32)), numbers)
    batch = pa.RecordBatch.from_arrays([numbers, texts, pa.array(np.arange(n) % 3 == 0), lists], schema=schema)
    store = RowStore(schema)
    for start in range(0, n, 50_000):
        store.append(batch.slice(start, 50_000))
    ids = np.random.default_rng(0).integers(1, n + 1, 5000)
    assert store.gather(ids).equals(batch.take(pa.array(ids - 1)))
    assert store.gather(ids, [1]).column(0).equals(texts.take(pa.array(ids - 1)))


def test_text_beyond_the_limits_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = pa.schema([("s", pa.string())])
    rows = pa.RecordBatch.from_arrays([pa.array(["x" * 100] * 10)], schema=schema)
    store = RowStore(schema)
    store.append(rows)
    monkeypatch.setattr(module, "_MOST_GATHERED", 500)
    with pytest.raises(DataError, match="joined rows"):
        store.gather(np.arange(1, 11))
    assert store.gather(np.arange(1, 4)).num_rows == 3
    monkeypatch.setattr(module, "_MOST_TEXT", 1500)
    with pytest.raises(DataError, match="too large for memory"):
        store.append(rows)
    assert store.gather(np.arange(1, 3)).column(0).to_pylist() == ["x" * 100] * 2


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda x: str(x) if isinstance(x, pa.DataType) else "")
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_same_is_equality_with_null(kind: pa.DataType, values: list[Any], data: st.DataObject) -> None:
    schema = pa.schema([("i", pa.int8()), ("v", kind)])
    stored = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=10))
    probed = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=10))
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, len(stored) - 1), st.integers(0, len(probed) - 1)), max_size=20)
    )
    store = RowStore(schema)
    numbers = pa.array([0] * len(stored), pa.int8())
    store.append(pa.RecordBatch.from_arrays([numbers, pa.array(stored, kind)], schema=schema))
    rows = pa.RecordBatch.from_arrays([pa.array([values[0], *probed], kind)[1:]], names=["v"])
    ids = np.array([s + 1 for s, _ in pairs], np.int64)
    places = np.array([p for _, p in pairs], np.int32)
    assert store.same(ids, [1], rows, [0], places).tolist() == [stored[s] == probed[p] for s, p in pairs]


def test_same_minds_zeros_and_nans_and_widths() -> None:
    store = RowStore(pa.schema([("v", pa.float32())]))
    store.append(pa.RecordBatch.from_arrays([pa.array([0.0, float("nan"), 1.5, None], pa.float32())], names=["v"]))
    for kind in (pa.float32(), pa.float64()):
        probed = pa.RecordBatch.from_arrays([pa.array([-0.0, float("nan"), 1.25, None], kind)], names=["v"])
        same = store.same(np.arange(1, 5), [0], probed, [0], np.arange(4, dtype=np.int32))
        assert same.tolist() == [True, True, False, True]


@given(
    st.lists(st.dictionaries(st.sampled_from([1, 5, CHUNK - 1, CHUNK, 3 * CHUNK + 7]), st.integers(-3, 3)), max_size=5)
)
def test_sparse_column_is_a_dict_of_numbers(writes: list[dict[int, int]]) -> None:
    column, naive = SparseColumn(), dict[int, int]()
    for write in writes:
        column.set(np.array(list(write), np.int64), np.array(list(write.values()), np.int64))
        naive |= write
    rows = [1, 2, CHUNK - 1, CHUNK, 3 * CHUNK + 7, 900 * CHUNK]
    out = np.full(len(rows), 10, np.int64)
    column.add_to(np.array(rows), out)
    assert out.tolist() == [10 + naive.get(r, 0) for r in rows]
