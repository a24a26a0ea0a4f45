"""Hash kernels: equal values hash equal whatever their Arrow layout, and the word hash is the published one."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.consolidate import same_values
from forebay.engine.state.arrays import hash_rows
from forebay.kernels.hash import NULL_HASH, canonical_f64, hash_words

WORD = 2**64 - 1


def naive_mix(x: int) -> int:
    """splitmix64's finaliser in Python integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def hashes(*columns: pa.Array) -> list[int]:
    batch = pa.RecordBatch.from_arrays(list(columns), names=[str(i) for i in range(len(columns))])
    out: list[int] = hash_rows(batch, range(len(columns))).tolist()
    return out


@given(st.lists(st.integers(0, WORD), max_size=20))
def test_words(values: list[int]) -> None:
    out = np.zeros(len(values), np.uint64)
    hash_words(np.array(values, np.uint64), out)
    assert out.tolist() == [naive_mix(v) for v in values]


@given(st.lists(st.floats(width=64), max_size=20))
def test_canonical_doubles(values: list[float]) -> None:
    out = np.zeros(len(values), np.uint64)
    canonical_f64(np.array(values, np.float64), out)
    for value, bits in zip(values, out):
        back = float(np.array([bits], np.uint64).view(np.float64)[0])
        assert math.isnan(back) if math.isnan(value) else back == value
        assert bits == (0 if value == 0 else bits)


VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1).filter(lambda x: x != NULL_HASH)),
    (pa.string(), st.text(max_size=40)),
    (pa.binary(), st.binary(max_size=40)),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.decimal128(20, 2), st.integers(-(10**18), 10**18).map(lambda n: Decimal(n) / 100)),
    (pa.list_(pa.int64()), st.lists(st.integers(0, 3), max_size=3)),
]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=lambda x: str(x) if isinstance(x, pa.DataType) else "")
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equal_rows_and_only_they_hash_equal(
    kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """Slices, offsets and validity bitmaps do not show in a hash; two columns in another order do not collide."""
    rows = data.draw(st.lists(st.tuples(st.none() | values, st.none() | st.integers(0, 2)), min_size=1, max_size=12))
    first = pa.array([r[0] for r in rows], kind)
    second = pa.array([r[1] for r in rows], pa.int32())
    got = hashes(first, second)
    padded = pa.concat_arrays([pa.nulls(3, kind), first, pa.nulls(1, kind)])[3 : 3 + len(rows)]
    assert hashes(padded, second) == got
    for a, row in zip(got, rows):
        for b, other in zip(got, rows):
            assert (a == b) == (row == other)


def test_one_zero_one_nan_and_null_is_no_value() -> None:
    zero, minus, nan, other_nan, null = hashes(pa.array([0.0, -0.0, math.nan, -math.nan, None], pa.float64()))
    assert zero == minus
    assert nan == other_nan
    assert len({zero, nan, null}) == 3


@pytest.mark.parametrize("narrow", [pa.int8(), pa.int16(), pa.int32()])
def test_integers_hash_by_value_not_by_width(narrow: pa.DataType) -> None:
    values = [-128, -1, 0, 1, 127, None]
    assert hashes(pa.array(values, narrow)) == hashes(pa.array(values, pa.int64()))
    assert hashes(pa.array([1.5, -0.0], pa.float32())) == hashes(pa.array([1.5, 0.0], pa.float64()))


def nested_values(depth: int = 2) -> st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    """Nested types with values of them; floats are such that Python's equality is SQL's."""
    leaf = st.sampled_from(
        [(pa.int32(), st.integers(0, 2)), (pa.string(), st.sampled_from(["", "a", "bb"])), (pa.float64(), st.just(0.5))]
    )
    if not depth:
        return leaf

    def grown(inner: tuple[pa.DataType, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
        kind, values = inner
        some = st.none() | values
        return st.sampled_from(
            [
                (pa.list_(kind), st.lists(some, max_size=3)),
                (pa.list_(kind, 2), st.lists(some, min_size=2, max_size=2)),
                (pa.map_(pa.string(), kind), st.lists(st.tuples(st.sampled_from("xy"), some), max_size=2)),
                (pa.struct([("x", kind), ("y", pa.bool_())]), st.fixed_dictionaries({"x": some, "y": st.booleans()})),
            ]
        )

    return nested_values(depth - 1).flatmap(grown)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_nested_values_hash_and_compare_by_value(data: st.DataObject) -> None:
    kind, values = data.draw(nested_values())
    left = data.draw(st.lists(st.none() | values, max_size=8))
    right = data.draw(st.lists(st.none() | values, min_size=len(left), max_size=len(left)))
    fill = data.draw(values)
    ours = pa.array([fill, None, *left, fill], kind)[2 : 2 + len(left)]
    theirs = pa.array([None, *right], kind)[1:]
    want = [a == b for a, b in zip(left, right)]
    assert same_values(ours, theirs).tolist() == want
    assert [a == b for a, b in zip(hashes(ours), hashes(theirs))] == want
