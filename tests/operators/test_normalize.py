"""Upsert normalisation and materialisation by sink key, against dictionaries."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.operators.base import Operator
from forebay.engine.operators.normalize import NormalizeOperator, UpsertKeyOperator
from tests.operators.changelogs import (
    Row,
    batch_of,
    batches_of,
    canonical,
    histories,
    integrate,
    net,
    restored,
    save,
    turn,
)

SCHEMA = pa.schema([("k", pa.string()), ("f", pa.float64()), ("v", pa.int64()), ("l", pa.list_(pa.int32()))])
VALUES: list[list[Any]] = [["a", "b", None], [0.0, -0.0, 1.5, float("nan")], [1, 2, None], [[1], [2, None], None]]


def records(seed: int, count: int, deletes: float) -> list[tuple[Row, int]]:
    random = Random(seed)
    return [
        (tuple(random.choice(v) for v in VALUES), -1 if random.random() < deletes else 1)
        for _ in range(random.randint(0, count))
    ]


def commit(operator: Operator) -> None:
    for state in operator.states().values():
        state.commit()


def rollback(operator: Operator) -> None:
    for state in operator.states().values():
        state.rollback()


@pytest.mark.parametrize("key", [(0,), (0, 1), (1,), (3, 0)])
@given(
    seed=st.integers(0, 2**32),
    epochs=st.integers(1, 8),
    count=st.integers(1, 15),
    deletes=st.sampled_from([0.0, 0.3, 0.8]),
    restart=st.integers(0, 8),
)
def test_last_record_of_a_key_wins(
    key: tuple[int, ...], seed: int, epochs: int, count: int, deletes: float, restart: int
) -> None:
    operator = NormalizeOperator(SCHEMA, key)
    table: dict[Any, Row] = {}
    total: Counter[Any] = Counter()
    unknown = 0
    saved = [save(operator, True)]
    for epoch in range(epochs):
        if epoch == restart:
            unknown = 0
            operator = restored(lambda: NormalizeOperator(SCHEMA, key), saved)  # type: ignore[assignment]
        changes = records(seed + epoch, count, deletes)
        operator.process([batches_of(SCHEMA, records(seed - epoch, count, 0.5))], turn())
        rollback(operator)
        output = operator.process([batches_of(SCHEMA, changes)], turn())
        commit(operator)
        saved.append(save(operator, False))
        for row, weight in changes:
            place = canonical(tuple(row[k] for k in key))
            if weight > 0:
                table[place] = row
            elif table.pop(place, None) is None:
                unknown += 1
        total = integrate(total, output)
        assert total == Counter(canonical(row) for row in table.values())
        changed = Counter((place_of(row, key), weight) for row, weight in net(output).items())
        assert all(n == 1 for n in changed.values())
        assert net(operator.contents()) == total
        assert operator.metrics == {"retractions_unmatched": unknown}


def place_of(row: Row, key: tuple[int, ...]) -> Row:
    return tuple(row[k] for k in key)


def test_equal_upsert_emits_nothing() -> None:
    operator = NormalizeOperator(SCHEMA, (0,))
    row = ("a", float("nan"), None, [1])
    assert net(operator.process([[batch_of(SCHEMA, [(row, 1)])]], turn())) == {canonical(row): 1}
    commit(operator)
    assert operator.process([[batch_of(SCHEMA, [(("a", 1.0, 2, None), 1), (row, 1)])]], turn()) == []
    commit(operator)
    assert operator.process([[batch_of(SCHEMA, [(("z", 1.0, 2, None), 1), (("z", 0.0, 0, None), -1)])]], turn()) == []
    assert operator.metrics == {"retractions_unmatched": 0}


def test_state_shrinks_with_the_keys() -> None:
    schema = pa.schema([("k", pa.int64()), ("s", pa.string())])
    operator = NormalizeOperator(schema, (0,))
    for epoch in range(30):
        rows: list[Row] = [(epoch * 1000 + i, "x" * 200) for i in range(1000)]
        for weight in (1, -1):
            operator.process([[batch_of(schema, [(r, weight) for r in rows])]], turn())
            commit(operator)
    assert operator.rows.rows() == 0
    assert operator.rows.nbytes() < 4 << 20


ORDERS = pa.schema([("order", pa.string()), ("shop", pa.string()), ("amount", pa.int64())])


@given(history=histories(ORDERS), restart=st.integers(0, 6))
def test_one_live_row_per_sink_key(history: list[list[tuple[Row, int]]], restart: int) -> None:
    """Whatever row is shown, it lives; a key with live rows shows one; one net change per key, deletes first."""
    operator: Operator = UpsertKeyOperator(ORDERS, (1,))
    total: Counter[Any] = Counter()
    contents: Counter[Any] = Counter()
    saved = [save(operator, True)]
    for number, epoch in enumerate(history):
        if number == restart:
            operator = restored(lambda: UpsertKeyOperator(ORDERS, (1,)), saved)
        operator.process([batches_of(ORDERS, history[0])], turn())
        rollback(operator)
        output = operator.process([batches_of(ORDERS, epoch)], turn())
        commit(operator)
        saved.append(save(operator, False))
        total = integrate(total, output)
        contents = integrate(contents, batches_of(ORDERS, epoch))
        assert set(total) <= set(contents)
        assert Counter(row[1] for row in total.elements()) == dict.fromkeys({row[1] for row in contents}, 1)
        for batch in output:
            weights = batch.weight_array()
            assert (weights[:-1] <= weights[1:]).all()
            shops = Counter(zip(batch.rows.column(1).to_pylist(), weights.tolist()))
            assert all(n == 1 for n in shops.values())


def test_an_order_passed_to_another_shop() -> None:
    """Keyed by shop: the order leaves shop a to b, whose older order shows again when this one is gone."""
    operator = UpsertKeyOperator(ORDERS, (1,))
    steps: list[tuple[list[tuple[Row, int]], dict[Row, int]]] = [
        ([(("1", "a", 5), 1), (("2", "b", 6), 1)], {("1", "a", 5): 1, ("2", "b", 6): 1}),
        ([(("1", "a", 5), -1), (("1", "b", 5), 1)], {("1", "a", 5): -1, ("2", "b", 6): -1, ("1", "b", 5): 1}),
        ([(("1", "b", 5), -1)], {("1", "b", 5): -1, ("2", "b", 6): 1}),
        ([(("2", "b", 6), -1)], {("2", "b", 6): -1}),
    ]
    for changes, expected in steps:
        assert net(operator.process([[batch_of(ORDERS, changes)]], turn())) == expected
        commit(operator)
    assert all(state.rows() == 0 for state in operator.states().values())
