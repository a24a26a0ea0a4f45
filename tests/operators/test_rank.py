"""Top-N against sorting everything after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.rank import RankOperator, RankSpec
from forebay.engine.state.arrays import hash_rows
from forebay.engine.state.order import Order
from tests.operators.changelogs import (
    VALUES,
    Row,
    assert_follows,
    batch_of,
    canonical,
    histories,
    integrate,
    net,
    turn,
)

INPUT = pa.schema([(f"c{i}", kind) for i, kind in enumerate(VALUES)])
B, I, N, F, D, S, T, DAY = range(8)


def spec_of(
    kind: str,
    partition: tuple[int, ...],
    order: tuple[Order, ...],
    start: int,
    end: int | None,
    ranked: bool,
    append: bool,
) -> RankSpec:
    schema = INPUT.append(pa.field("rank", pa.int64(), False)) if ranked else INPUT
    return RankSpec(kind, partition, order, start, end, ranked, schema, append)


def sort_key(row: Row, order: Iterable[Order]) -> list[Any]:
    """Ascending keys; DESC and text go through a wrapper that turns comparison around."""
    key: list[Any] = []
    for item in order:
        value = row[item.column]
        key.append((value is None) != item.nulls_first)
        if value is not None:
            value = value.encode() if isinstance(value, str) else value
            value = (value != value, value if value == value else 0.0) if isinstance(value, float) else value
            key.append(value if item.ascending else Backwards(value))
    return key


class Backwards:
    """A value that sorts the other way round."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Backwards) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backwards) and bool(self.value == other.value)


def model_of(spec: RankSpec) -> Callable[[list[Row]], Iterable[Row]]:
    end = spec.end or 10**9

    def run(rows: list[Row]) -> Iterable[Row]:
        ties = hash_rows(batch_of(INPUT, [(r, 1) for r in rows]).rows, range(len(INPUT))).astype("int64").tolist()
        groups: dict[Any, list[tuple[list[Any], int, Row]]] = {}
        for row, tie in zip(rows, ties):
            groups.setdefault(canonical(tuple(row[p] for p in spec.partition)), []).append(
                (sort_key(row, spec.order), tie, row)
            )
        for members in groups.values():
            members.sort(key=lambda m: (m[0], m[1]))
            rank = dense = 0
            for number, (key, _, row) in enumerate(members, 1):
                if number == 1 or key != members[number - 2][0]:
                    rank, dense = number, dense + 1
                shown = {"row_number": number, "rank": rank, "dense_rank": dense}[spec.kind]
                if spec.start <= shown <= end:
                    yield (*row, shown) if spec.with_rank else row

    return run


ORDERS = st.lists(
    st.builds(Order, st.integers(0, len(INPUT) - 1), st.booleans(), st.booleans()), min_size=1, max_size=3
).map(tuple)


@pytest.mark.parametrize("append", [False, True], ids=["retract", "append"])
@pytest.mark.parametrize("kind", ["row_number", "rank", "dense_rank"])
@given(
    data=st.data(),
    partition=st.sampled_from([(), (B,), (S,), (F, T)]),
    order=ORDERS,
    start=st.sampled_from([1, 1, 1, 2]),
    size=st.sampled_from([1, 1, 2, 10, None]),
    ranked=st.booleans(),
    restart=st.none() | st.integers(1, 4),
    rollback=st.none() | st.integers(0, 4),
)
def test_follows_the_model(
    data: st.DataObject,
    kind: str,
    append: bool,
    partition: tuple[int, ...],
    order: tuple[Order, ...],
    start: int,
    size: int | None,
    ranked: bool,
    restart: int | None,
    rollback: int | None,
) -> None:
    history = data.draw(histories(INPUT, append, most=20))
    spec = spec_of(kind, partition, order, start, None if size is None else start + size - 1, ranked, append)
    assert_follows(lambda: RankOperator(spec), INPUT, history, model_of(spec), restart=restart, rollback=rollback)


def row(number: int, price: int) -> Row:
    return (None, number, price, None, None, None, None, None)


def test_append_only_keeps_what_can_enter() -> None:
    operator = RankOperator(spec_of("row_number", (I,), (Order(N, False, False),), 1, 3, False, True))
    for epoch in range(20):
        operator.process([[batch_of(INPUT, [(row(i % 4, 7 * i * epoch % 101), 1) for i in range(40)])]], turn())
        for state in operator.states().values():
            state.commit()
    assert operator.states()["rows"].rows() == 12


def test_memory_follows_the_live_rows() -> None:
    operator = RankOperator(spec_of("row_number", (I,), (Order(S),), 1, 1, False, False))
    sizes = []
    for epoch in range(30):
        rows = [((None, i, epoch, None, None, "text of some length" * 40, None, None), 1) for i in range(100)]
        for weight in (1, -1):
            operator.process([[batch_of(INPUT, [(r, weight) for r, _ in rows])]], turn())
            for state in operator.states().values():
                state.commit()
        sizes.append(sum(s.nbytes() for s in operator.states().values()))
        assert all(s.rows() == 0 for s in operator.states().values())
    assert max(sizes) < 5 << 20


def test_born_and_dead_in_one_epoch() -> None:
    operator = RankOperator(spec_of("row_number", (), (Order(N),), 1, 1, True, False))
    assert operator.process([[batch_of(INPUT, [(row(1, 1), 1), (row(1, 1), -1)])]], turn()) == []


def test_unmatched_retraction_is_counted() -> None:
    operator = RankOperator(spec_of("row_number", (), (Order(N),), 1, 2, False, False))
    first = operator.process([[batch_of(INPUT, [(row(1, 1), 1)])]], turn())
    for state in operator.states().values():
        state.commit()
    second = operator.process([[batch_of(INPUT, [(row(1, 1), -3), (row(2, 2), 1)])]], turn())
    assert operator.metrics == {"retractions_unmatched": 2}
    assert integrate(net(first), second) == {row(2, 2): 1}


def test_nested_types_have_no_order() -> None:
    schema = pa.schema([("l", pa.list_(pa.int32()))])
    with pytest.raises(UnsupportedError, match="cannot order by"):
        RankOperator(RankSpec("rank", (), (Order(0),), 1, 1, False, schema))
