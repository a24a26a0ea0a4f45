"""Consolidation against a counter of canonical rows, over every kind of column and with colliding hashes."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine import consolidate as module
from forebay.engine.batch import Batch
from forebay.engine.consolidate import consolidate, same_values
from tests.operators.changelogs import VALUES, batch_of, histories, net

SCHEMA = pa.schema([pa.field(f"c{i}", kind) for i, kind in enumerate(VALUES)])
SMALL = pa.schema([("a", pa.float64()), ("b", pa.string())])
NESTED = [
    (pa.list_(pa.float64()), [[1.0, math.nan], [1.0, None], [], None, [-0.0], [0.0]]),
    (pa.struct([("x", pa.int32()), ("y", pa.string())]), [{"x": 1, "y": "a"}, {"x": None, "y": "a"}, None]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [("a", 2)], [], None]),
    (pa.large_string(), ["a", "b", None]),
    (pa.dictionary(pa.int32(), pa.string()), ["a", "b", None]),
    (pa.null(), [None]),
    (pa.month_day_nano_interval(), [(1, 2, 3), (1, 2, 4), None]),
    (pa.decimal128(38, 6), [Decimal("-1.5"), Decimal("1.5"), None]),
]


@given(st.data(), st.integers(1, 9))
@pytest.mark.parametrize("schema", [SCHEMA, SMALL], ids=["wide", "narrow"])
def test_equal_rows_are_summed(schema: pa.Schema, data: st.DataObject, size: int) -> None:
    changes = [c for epoch in data.draw(histories(schema)) for c in epoch]
    batches = [batch_of(schema, changes[i : i + size]) for i in range(0, len(changes), size)]
    result = consolidate(batches)
    assert net([result] if result else []) == net(batches)
    if result is not None:
        assert result.num_rows == len(net(batches))
        assert result.weight_array().all()


@pytest.mark.parametrize(("kind", "values"), NESTED, ids=lambda p: str(p) if isinstance(p, pa.DataType) else "")
def test_rare_types(kind: pa.DataType, values: list[Any]) -> None:
    column = pa.array(values * 2, kind)
    batch = Batch(pa.record_batch({"c": column}), np.arange(1, 2 * len(values) + 1))
    result = consolidate([batch])
    assert result is not None
    distinct = len(values) - (1 if kind == pa.list_(pa.float64()) else 0)  # -0.0 is 0.0
    assert result.num_rows == distinct
    assert result.weight_array().sum() == batch.weight_array().sum()
    assert same_values(column, column).all()


def test_nothing_is_none() -> None:
    batch = batch_of(SMALL, [((1.0, "a"), 1), ((None, None), 2)])
    assert consolidate([]) is None
    assert consolidate([batch, batch.negate()]) is None
    assert consolidate([batch.filter(pa.array([False, False]))]) is None


def test_sliced_batches() -> None:
    batch = batch_of(SMALL, [((float(i % 3), None if i % 2 else "x"), 1) for i in range(20)])
    parts = [Batch(batch.rows.slice(i, 7)) for i in range(0, 20, 7)]
    result = consolidate(parts)
    assert result is not None
    assert net([result]) == net([batch])


def test_equal_hashes_are_not_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash_rows", lambda rows, columns: np.zeros(rows.num_rows, np.uint64))
    batch = batch_of(SMALL, [((float(i % 4), "x"), 1) for i in range(10)])
    result = consolidate([batch])
    assert result is not None
    assert result.num_rows == 4
    assert net([result]) == net([batch])
