"""Arrangements against a plain multiset: any changelog, any interleaving of commits, rollbacks, held readers and restarts."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.batch import Batch
from forebay.engine.state.arrangement import NOTHING, Arrangement, View
from forebay.kernels.hash import NULL_HASH

Row = tuple[Any, ...]
PAIR = pa.schema([("k", pa.int64()), ("v", pa.string())])


def batch_of(changes: list[tuple[Row, int]], schema: pa.Schema = PAIR) -> Batch:
    columns = [pa.array([row[i] for row, _ in changes], f.type) for i, f in enumerate(schema)]
    weights = np.array([w for _, w in changes], np.int64)
    return Batch(pa.RecordBatch.from_arrays(columns, schema=schema), weights)


def contents(arrangement: Arrangement, view: View | None = None) -> Counter[Row]:
    out: Counter[Row] = Counter()
    for batch in arrangement.contents(view):
        for row, weight in zip(zip(*(c.to_pylist() for c in batch.rows.columns)), batch.weight_array().tolist()):
            out[row] += weight
    return out


def probed(arrangement: Arrangement, keys: list[Any], view: View, *, nulls_match: bool = False) -> Counter[Row]:
    """(key, stored row) pairs that a probe by the first column finds."""
    batch = pa.RecordBatch.from_arrays([pa.array(keys, arrangement.schema.field(0).type)], names=["k"])
    out: Counter[Row] = Counter()
    for places, ids in arrangement.probe(batch, (0,), view, nulls_match=nulls_match):
        weights = arrangement.weights_at(ids)
        rows = zip(*(c.to_pylist() for c in arrangement.rows_at(ids).columns))
        for n, (place, row) in enumerate(zip(places.tolist(), rows)):
            out[(keys[place], *row)] += 1 if weights is None else int(weights[n])
    return out


def applied(rows: Counter[Row], changes: list[tuple[Row, int]]) -> Counter[Row]:
    """The multiset after one epoch: all births, then all deaths, never below zero."""
    out = Counter(rows)
    for row, weight in changes:
        if weight > 0:
            out[row] += weight
    for row, weight in changes:
        if weight < 0:
            out[row] = max(out[row] + weight, 0)
    return +out


rows_of_pair = st.tuples(st.sampled_from([None, 1, 2, 3]), st.sampled_from([None, "", "a", "long text " * 3]))
deltas = st.lists(st.tuples(rows_of_pair, st.sampled_from([1, 1, 1, 2, 3, -1, -1, -2])), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(deltas, st.sampled_from(["commit", "commit", "rollback", "save", "restart"])), max_size=12
    ),
    identity=st.sampled_from([None, (0,), (1,)]),
    key=st.sampled_from([(0,), (1,), (0, 1), ()]),
    short_chain=st.sampled_from([0, 8]),
)
def test_follows_a_multiset(
    steps: list[tuple[list[tuple[Row, int]], str]],
    identity: tuple[int, ...] | None,
    key: tuple[int, ...],
    short_chain: int,
) -> None:
    """`identity` is a hint for finding rows: a wrong one may cost time, never a row. Nor does the choice of index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forebay.engine.state.hot._SHORT_CHAIN", short_chain)
        follow(steps, identity, key)


def follow(
    steps: list[tuple[list[tuple[Row, int]], str]], identity: tuple[int, ...] | None, key: tuple[int, ...]
) -> None:
    arrangement, model = Arrangement(PAIR, key, identity), Counter[Row]()
    chain: list[pa.RecordBatch] = []
    for number, (changes, end) in enumerate(steps, 1):
        after = applied(model, changes)
        unmatched = arrangement.unmatched
        arrangement.update([batch_of(changes[:5]), batch_of(changes[5:])], number)
        assert contents(arrangement, arrangement.old(number)) == model
        assert contents(arrangement, arrangement.new(number)) == after
        assert contents(arrangement, NOTHING) == Counter()
        if end == "rollback":
            arrangement.rollback()
            assert arrangement.unmatched == unmatched
        else:
            arrangement.commit()
            model = after
        assert contents(arrangement) == model
        if end in ("save", "restart"):
            chain += arrangement.changes(full=not chain)
        if end == "restart":
            arrangement = Arrangement(PAIR, key, identity)
            arrangement.load(chain)
            assert contents(arrangement) == model


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(deltas, min_size=1, max_size=8), nulls_match=st.booleans(), held=st.integers(0, 6))
def test_probes_see_their_epoch(steps: list[list[tuple[Row, int]]], nulls_match: bool, held: int) -> None:
    arrangement, models = Arrangement(PAIR, (0,)), [Counter[Row]()]
    keys = [None, 1, 2, 3, 3, 4]
    held = min(held, len(steps) - 1)
    for number, changes in enumerate(steps, 1):
        if number == held + 1:
            arrangement.hold(held)
        models.append(applied(models[-1], changes))
        arrangement.update([batch_of(changes)], number)
        arrangement.commit()

    def expected(model: Counter[Row]) -> Counter[Row]:
        out: Counter[Row] = Counter()
        for key in keys:
            for row, weight in model.items():
                if row[0] == key and (key is not None or nulls_match):
                    out[(key, *row)] += weight
        return out

    for epoch in range(held, len(steps) + 1):
        view = arrangement.new(epoch)
        assert probed(arrangement, keys, view, nulls_match=nulls_match) == expected(models[epoch])
        batch = pa.RecordBatch.from_arrays([pa.array(keys, pa.int64())], names=["k"])
        exists = arrangement.exists(batch, (0,), view, nulls_match=nulls_match)
        assert exists.tolist() == [
            any(r[0] == k and (k is not None or nulls_match) for r in models[epoch]) for k in keys
        ]
    arrangement.release(held)
    arrangement.update([], len(steps) + 1)
    arrangement.commit()
    assert contents(arrangement) == models[-1]


def test_each_retraction_of_a_busy_key_takes_its_own_row() -> None:
    """Two updates of one primary key within one epoch, as a binlog sends them."""
    arrangement = Arrangement(PAIR, (0,), (0,))
    arrangement.update([batch_of([((1, "a"), 1)])], 1)
    arrangement.commit()
    changes = [((1, "a"), -1), ((1, "b"), 1), ((1, "b"), -1), ((1, "c"), 1)]
    arrangement.update([batch_of(changes)], 2)
    assert contents(arrangement, arrangement.old(2)) == Counter({(1, "a"): 1})
    arrangement.commit()
    assert contents(arrangement) == Counter({(1, "c"): 1})
    arrangement.update([batch_of([((1, "d"), 1), ((1, "d"), -1)])], 3)
    arrangement.commit()
    assert contents(arrangement) == Counter({(1, "c"): 1})
    assert arrangement.unmatched == 0


def test_null_is_not_the_number_that_it_hashes_like() -> None:
    number = int(NULL_HASH)
    arrangement = Arrangement(PAIR, (0,))
    arrangement.update([batch_of([((None, "null"), 1), ((number, "number"), 1)])], 1)
    assert probed(arrangement, [number, None], arrangement.new(1)) == Counter({(number, number, "number"): 1})
    both = probed(arrangement, [number, None], arrangement.new(1), nulls_match=True)
    assert both == Counter({(number, number, "number"): 1, (None, None, "null"): 1})
    without_null = Arrangement(PAIR, (0,))
    without_null.update([batch_of([((number, "number"), 1)])], 1)
    assert probed(without_null, [None], without_null.new(1), nulls_match=True) == Counter()
    arrangement.update([batch_of([((number, "number"), -1)])], 1)
    keys = pa.RecordBatch.from_arrays([pa.array([number])], names=["k"])
    assert arrangement.exists(keys, (0,), arrangement.new(1)).tolist() == [False]


def test_keys_of_other_integer_widths_match() -> None:
    arrangement = Arrangement(PAIR, (0,))
    arrangement.update([batch_of([((-7, "a"), 1), ((2**40, "b"), 1)])], 1)
    arrangement.commit()
    keys = pa.RecordBatch.from_arrays([pa.array([-7, 5], pa.int16())], names=["k"])
    assert [places.tolist() for places, _ in arrangement.probe(keys, (0,), arrangement.new(1))] == [[0]]
    assert arrangement.exists(keys, (0,), arrangement.new(1)).tolist() == [True, False]


ALL_TYPES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False, None]),
    (pa.int8(), [-1, 5, None]),
    (pa.float32(), [0.5, -2.0, None]),
    (pa.decimal128(30, 4), [Decimal("12345678901234567890.1234"), Decimal("-1.0000"), None]),
    (pa.binary(), [b"\x00\xff", b"", None]),
    (pa.date32(), [0, -5, None]),
    (pa.timestamp("us", "UTC"), [0, -5, None]),
    (pa.list_(pa.int64()), [[1, None], [], None]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [], None]),
    (
        pa.struct([("x", pa.int64()), ("y", pa.list_(pa.string()))]),
        [{"x": 1, "y": ["a"]}, {"x": None, "y": None}, None],
    ),
    (pa.month_day_nano_interval(), [(1, 2, 3), (0, 0, 0), None]),
    (pa.null(), [None, None, None]),
]


@pytest.mark.parametrize(("kind", "values"), ALL_TYPES, ids=lambda x: str(x) if isinstance(x, pa.DataType) else "")
def test_every_type_is_stored_found_and_retracted(kind: pa.DataType, values: list[Any]) -> None:
    schema = pa.schema([("k", pa.int64()), ("v", kind)])
    column = pa.concat_arrays([pa.nulls(3, kind), pa.array(values, kind)])[2:]
    rows = pa.RecordBatch.from_arrays([pa.array([9, 1, 2, 3]), column], schema=schema)
    arrangement = Arrangement(schema, (0,))
    arrangement.update([Batch(rows)], 1)
    arrangement.commit()
    chain = arrangement.changes(full=True)
    arrangement.update([Batch(rows.slice(1, 2), np.array([-1, -1]))], 2)
    arrangement.commit()
    assert arrangement.unmatched == 0
    restored = Arrangement(schema, (0,))
    restored.load(chain + arrangement.changes(full=False))
    for each in (arrangement, restored):
        left = pa.Table.from_batches([b.rows for b in each.contents()])
        assert left.column("k").to_pylist() == [9, 3]
        assert left.column("v").to_pylist() == [None, rows.column(1)[3].as_py()]


def test_retraction_does_not_walk_the_chain_of_a_busy_key() -> None:
    """Half a million rows without a key, as outer joins see them: to walk to each row would take hours."""
    n = 500_000
    schema = pa.schema([("k", pa.int64()), ("v", pa.int64())])
    rows = pa.RecordBatch.from_arrays([pa.nulls(n, pa.int64()), pa.array(np.arange(n))], schema=schema)
    arrangement = Arrangement(schema, (0,), (1,))
    arrangement.update([Batch(rows)], 1)
    arrangement.commit()
    for epoch in range(2, 12):
        arrangement.update([Batch(rows.slice(epoch * 8192, 8192)).negate()], epoch)
        arrangement.commit()
    assert arrangement.rows() == n - 10 * 8192
    assert arrangement.unmatched == 0


def test_chunks_whose_rows_have_all_died_are_given_back() -> None:
    """First in, first out, as under a TTL: memory follows the live rows without compaction, also through a restart."""
    schema = pa.schema([("k", pa.int64()), ("s", pa.string()), ("l", pa.list_(pa.int64()))])
    step = 40_000

    def rows(number: int) -> pa.RecordBatch:
        keys = pa.array(np.arange(number * step, (number + 1) * step))
        lists = pa.ListArray.from_arrays(pa.array(np.arange(step + 1, dtype=np.int32)), keys)
        return pa.RecordBatch.from_arrays([keys, keys.cast(pa.string()), lists], schema=schema)

    arrangement, sizes, chain = Arrangement(schema, (0,)), list[int](), list[pa.RecordBatch]()
    for number in range(14):
        arrangement.update([Batch(rows(number))], number + 1)
        if number >= 3:
            arrangement.update([Batch(rows(number - 3)).negate()], number + 1)
        arrangement.commit()
        sizes.append(arrangement.nbytes())
        chain += arrangement.changes(full=not chain)
    assert max(sizes[4:]) < 1.5 * sizes[4]
    restored = Arrangement(schema, (0,))
    restored.load(arrangement.changes(full=True))
    chained = Arrangement(schema, (0,))
    chained.load(chain)
    for each in (arrangement, restored, chained):
        assert each.rows() == 3 * step
        assert each.nbytes() < 1.5 * sizes[4]
        found = pa.Table.from_batches([b.rows for b in each.contents()])
        assert found.column("k").to_numpy().tolist() == list(range(11 * step, 14 * step))
        assert found.column("l")[-1].as_py() == [14 * step - 1]
        each.update([Batch(rows(11)).negate(), Batch(rows(14))], 15)
        each.commit()
        assert each.unmatched == 0
        assert each.exists(rows(14), (0,), each.new(15)).all()
        assert not each.exists(rows(11), (0,), each.new(15)).any()


def test_more_chunks_than_the_first_tables_hold() -> None:
    n = 18 << 16
    schema = pa.schema([("k", pa.int64())])
    rows = pa.RecordBatch.from_arrays([pa.array(np.arange(n))], schema=schema)
    arrangement = Arrangement(schema, (0,))
    arrangement.update([Batch(rows)], 1)
    arrangement.commit()
    restored = Arrangement(schema, (0,))
    restored.load(arrangement.changes(full=True))
    for each in (arrangement, restored):
        last = rows.slice(n - 100_000)
        assert each.exists(last, (0,), each.new(1)).all()
        assert sum(ids.size for _, ids in each.probe(last, (0,), each.new(1))) == 100_000
        each.update([Batch(rows.slice(n - 5), np.full(5, -1))], 2)
        assert each.exists(last, (0,), each.new(2)).sum() == 100_000 - 5


def test_many_chunks_and_long_chains() -> None:
    n = 150_000
    schema = pa.schema([("k", pa.int32()), ("v", pa.int64()), ("s", pa.string())])
    ids = np.arange(n)
    text = pa.array([f"row {i}" * (i % 3) for i in range(n)])
    rows = pa.RecordBatch.from_arrays([pa.array((ids % 7).astype(np.int32)), pa.array(ids), text], schema=schema)
    arrangement = Arrangement(schema, (0,))
    for epoch, start in enumerate(range(0, n, 30_000), 1):
        arrangement.update([Batch(rows.slice(start, 30_000))], epoch)
        arrangement.commit()
    keys = pa.RecordBatch.from_arrays([pa.array([3, 100, 6], pa.int32())], names=["k"])
    found = list(arrangement.probe(keys, (0,), arrangement.new(9)))
    assert max(p.size for p, _ in found) <= 1 << 16
    got = pa.Table.from_batches([arrangement.rows_at(i) for _, i in found]).sort_by("v")
    assert got.column("v").to_numpy().tolist() == ids[(ids % 7 == 3) | (ids % 7 == 6)].tolist()
    assert got.column("s").to_pylist() == [text[i].as_py() for i in got.column("v").to_pylist()]
    arrangement.update([Batch(rows.slice(0, n - 2), np.full(n - 2, -1))], 9)
    arrangement.commit()
    assert sorted(r[1] for r in contents(arrangement)) == [n - 2, n - 1]
    assert list(contents(arrangement, arrangement.new(9))) == list(contents(arrangement))
