"""GROUP BY against a naive recomputation after every epoch, under retraction, restart and rollback."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.accumulators import CallSpec
from forebay.engine.operators.aggregate import AggregateOperator, AggregateSpec
from forebay.engine.state.order import Order
from tests.operators.changelogs import Row, assert_follows, batches_of, canonical, histories, net, turn

INPUT = pa.schema(
    [
        ("k", pa.string()),
        ("n", pa.int64()),
        ("i", pa.int32()),
        ("f", pa.float64()),
        ("d", pa.decimal128(10, 2)),
        ("s", pa.string()),
        ("b", pa.bool_()),
        ("t", pa.timestamp("ms")),
    ]
)
K, N, I, F, D, S, B, T = range(8)
Model = Callable[[list[Any]], Any]


def call(name: str, arg: int | None, kind: pa.DataType, **rest: Any) -> CallSpec:
    return CallSpec(name, () if arg is None else (arg,), kind, **rest)


def spec_of(calls: Sequence[CallSpec], keys: tuple[int, ...] = (K,), append_only: bool = False) -> AggregateSpec:
    fields = [INPUT.field(k) for k in keys] + [pa.field(f"a{i}", c.type) for i, c in enumerate(calls)]
    return AggregateSpec(INPUT, keys, tuple(calls), pa.schema(fields), append_only)


def float_sum(values: list[float]) -> float:
    infinite = {v for v in values if math.isinf(v)}
    if any(math.isnan(v) for v in values) or len(infinite) == 2:
        return math.nan
    return infinite.pop() if infinite else math.fsum(values)


def wrapped(value: int, bits: int) -> int:
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def truncated(value: int, by: int) -> int:
    return abs(value) // by * (1 if value >= 0 else -1)


def half_up(value: Decimal, count: int, scale: int) -> Decimal:
    with localcontext() as context:
        context.prec = 80
        return (value / count).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP)


def by_value(value: Any) -> Any:
    """Sort key: NaN above every number."""
    return (math.isnan(value), 0.0 if math.isnan(value) else value) if isinstance(value, float) else value


def or_none(function: Model) -> Model:
    return lambda values: function(values) if values else None


def distinct(values: list[Any]) -> list[Any]:
    return list({canonical(v): v for v in values}.values())


def variance(less: int) -> Model:
    def compute(values: list[int]) -> float | None:
        n = len(values)
        if n <= less:
            return None
        return (n * sum(v * v for v in values) - sum(values) ** 2) / (n * (n - less))

    return compute


FOLDED: list[tuple[CallSpec, Model]] = [
    (call("count", None, pa.int64()), len),
    (call("count", S, pa.int64()), len),
    (call("sum", N, pa.int64()), or_none(lambda v: wrapped(sum(v), 64))),
    (call("sum", I, pa.int32()), or_none(lambda v: wrapped(sum(v), 32))),
    (call("avg", I, pa.int32()), or_none(lambda v: truncated(sum(v), len(v)))),
    (call("avg", I, pa.float64()), or_none(lambda v: sum(v) / len(v))),
    (call("sum", F, pa.float64()), or_none(float_sum)),
    (call("avg", F, pa.float64()), or_none(lambda v: float_sum(v) / len(v))),
    (call("sum", D, pa.decimal128(38, 2)), or_none(sum)),
    (call("avg", D, pa.decimal128(38, 6)), or_none(lambda v: half_up(sum(v), len(v), 6))),
    (call("sum", D, pa.decimal128(10, 2)), or_none(lambda v: sum(v) if abs(sum(v)) < 10**8 else None)),
    (call("bool_and", B, pa.bool_()), or_none(all)),
    (call("bool_or", B, pa.bool_()), or_none(any)),
    (call("count", S, pa.int64(), filter=B), len),
]
EXTREMES: list[tuple[CallSpec, Model]] = [
    (call(name, column, INPUT.field(column).type), or_none(lambda v, f=function: f(v, key=by_value)))
    for name, function in (("min", min), ("max", max))
    for column in (N, I, F, D, S, B, T)
]
DISTINCT: list[tuple[CallSpec, Model]] = [
    (call("count", S, pa.int64(), distinct=True), lambda v: len(distinct(v))),
    (call("count", S, pa.int64(), distinct=True, filter=B), lambda v: len(distinct(v))),
    (call("sum", I, pa.int32(), distinct=True), or_none(lambda v: wrapped(sum(distinct(v)), 32))),
    (call("sum", F, pa.float64(), distinct=True), or_none(lambda v: float_sum(distinct(v)))),
    (call("min", N, pa.int64(), distinct=True), or_none(min)),
]
ORDERED = (Order(I, True, False), Order(S, False, True))


def ordered(rows: list[Row]) -> list[Row]:
    """By i ascending with NULLs last, then s descending with NULLs first."""
    rows = sorted(rows, key=lambda r: (r[S] is not None, r[S] or ""), reverse=True)
    rows = [r for r in rows if r[S] is None] + [r for r in rows if r[S] is not None]
    return sorted(rows, key=lambda r: (r[I] is None, r[I] or 0))


COLLECTED: list[tuple[CallSpec, Model]] = [
    (call("first_value", S, pa.string(), order=ORDERED), or_none(lambda v: v[0])),
    (call("last_value", S, pa.string(), order=ORDERED), or_none(lambda v: v[-1])),
    (call("listagg", S, pa.string(), order=ORDERED, constants=("; ",)), or_none("; ".join)),
    (call("array_agg", S, pa.list_(pa.string()), order=ORDERED), or_none(list)),
    (call("array_agg", S, pa.list_(pa.string()), order=(Order(S),), distinct=True), None),  # type: ignore[list-item]
    (call("collect", S, pa.map_(pa.string(), pa.int32()), order=(Order(S),)), None),  # type: ignore[list-item]
]
COLLECTED[4] = (COLLECTED[4][0], or_none(lambda v: sorted(set(v))))
COLLECTED[5] = (COLLECTED[5][0], or_none(lambda v: sorted(Counter(v).items())))


def model_of(calls: Sequence[tuple[CallSpec, Model]], keys: tuple[int, ...]) -> Callable[[list[Row]], Iterable[Row]]:
    def run(rows: list[Row]) -> Iterable[Row]:
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(row[k] for k in keys), []).append(row)
        for key, members in groups.items():
            yield (*key, *(evaluate(spec, function, members) for spec, function in calls))

    return run


def evaluate(spec: CallSpec, function: Model, rows: list[Row]) -> Any:
    if spec.filter is not None:
        rows = [r for r in rows if r[spec.filter]]
    if not spec.args:
        return function(rows)
    if spec.order:
        rows = ordered(rows)
    keep_null = spec.name == "array_agg" and not spec.distinct
    return function([r[spec.args[0]] for r in rows if keep_null or r[spec.args[0]] is not None])


@st.composite
def cases(draw: st.DrawFn, calls: list[tuple[CallSpec, Model]], append_only: bool) -> tuple[Any, ...]:
    chosen = draw(st.lists(st.sampled_from(calls), min_size=1, max_size=6))
    keys = draw(st.sampled_from([(K,), (K, T), (F,), (B, K)]))
    history = draw(histories(INPUT, append_only))
    return chosen, keys, history, draw(st.none() | st.integers(1, 4)), draw(st.none() | st.integers(0, 4))


@pytest.mark.parametrize("append_only", [False, True], ids=["retract", "append"])
@pytest.mark.parametrize(
    "calls", [FOLDED, EXTREMES, DISTINCT, COLLECTED], ids=["folded", "extreme", "distinct", "collected"]
)
@given(data=st.data())
def test_follows_the_model(data: st.DataObject, calls: list[tuple[CallSpec, Model]], append_only: bool) -> None:
    chosen, keys, history, restart, rollback = data.draw(cases(calls, append_only))
    spec = spec_of([c for c, _ in chosen], keys, append_only)
    model = model_of(chosen, keys)
    assert_follows(lambda: AggregateOperator(spec), INPUT, history, model, restart=restart, rollback=rollback)


def row(**values: Any) -> Row:
    return tuple(values.get(field.name) for field in INPUT)


def step(operator: AggregateOperator, *changes: tuple[Row, int]) -> dict[Row, int]:
    """One committed epoch's net output."""
    output = net(operator.process([batches_of(INPUT, list(changes))], turn()))
    for state in operator.states().values():
        state.commit()
    return dict(output)


def test_global_aggregate_has_no_row_before_the_first_input_and_one_ever_after() -> None:
    calls = (call("count", None, pa.int64()), call("sum", N, pa.int64()), call("max", S, pa.string()))
    operator = AggregateOperator(spec_of(calls, ()))
    assert step(operator) == {}
    assert step(operator, (row(n=1), 1), (row(n=1), -1)) == {}
    assert step(operator, (row(n=4, s="x"), 1)) == {(1, 4, "x"): 1}
    assert step(operator, (row(n=4, s="x"), -1)) == {(1, 4, "x"): -1, (0, None, None): 1}
    assert step(operator, (row(n=2), 2)) == {(0, None, None): -1, (2, 4, None): 1}


@pytest.mark.parametrize("append_only", [False, True])
@given(history=st.data())
def test_global_aggregate_follows_the_model(history: st.DataObject, append_only: bool) -> None:
    epochs = history.draw(histories(INPUT, append_only))
    epochs[0] = [*epochs[0], (row(n=7), 1)]
    chosen = [FOLDED[0], FOLDED[2], EXTREMES[4], DISTINCT[0]]
    spec = spec_of([c for c, _ in chosen], (), append_only)

    def model(rows: list[Row]) -> Iterable[Row]:
        yield tuple(evaluate(c, function, rows) for c, function in chosen)

    assert_follows(lambda: AggregateOperator(spec), INPUT, epochs, model, restart=1, rollback=1)


def test_distinct_is_an_aggregate_without_calls() -> None:
    operator = AggregateOperator(spec_of((), (K, F)))
    nan = row(k="a", f=math.nan)
    assert step(operator, (nan, 1), (nan, 1), (row(k="a", f=-0.0), 1), (row(k="a", f=0.0), 1)) == {
        ("a", "NaN"): 1,
        ("a", 0.0): 1,
    }
    assert step(operator, (nan, -1), (row(k="a", f=0.0), -2)) == {("a", 0.0): -1}


def test_a_group_born_and_dead_in_one_epoch_emits_nothing() -> None:
    operator = AggregateOperator(spec_of([c for c, _ in FOLDED + DISTINCT + COLLECTED]))
    assert step(operator, (row(k="a", n=1, s="x"), 1), (row(k="a", n=1, s="x"), -1)) == {}
    assert all(state.rows() == 0 for state in operator.states().values())


def test_an_unchanged_result_emits_nothing() -> None:
    operator = AggregateOperator(spec_of([call("avg", I, pa.int32()), call("max", S, pa.string())]))
    assert step(operator, (row(k="a", i=3, s="x"), 1)) == {("a", 3, "x"): 1}
    assert step(operator, (row(k="a", i=4, s="w"), 1)) == {}


def test_state_shrinks_with_its_groups() -> None:
    operator = AggregateOperator(spec_of([c for c, _ in FOLDED + EXTREMES + DISTINCT + COLLECTED]))
    sizes = []
    for epoch in range(12):
        rows = [row(k=f"{epoch}-{i}" * 20, n=i, i=i, s="text" * 50, f=0.1) for i in range(300)]
        step(operator, *((r, 1) for r in rows))
        step(operator, *((r, -1) for r in rows))
        sizes.append(sum(state.nbytes() for state in operator.states().values()))
    assert all(state.rows() == 0 for state in operator.states().values())
    assert max(sizes[6:]) <= sizes[5] * 2


def test_unmatched_retractions_are_dropped_and_counted() -> None:
    calls = [call("count", None, pa.int64()), call("max", S, pa.string()), call("count", S, pa.int64(), distinct=True)]
    operator = AggregateOperator(spec_of(calls))
    step(operator, (row(k="a", s="x"), 1))
    assert step(operator, (row(k="a", s="x"), -2), (row(k="b", s="y"), 1)) == {
        ("a", 1, "x", 1): -1,
        ("b", 1, "y", 1): 1,
    }
    assert operator.metrics["retractions_unmatched"] > 0
    assert step(operator, (row(k="c", s="z"), 1)) == {("c", 1, "z", 1): 1}
    assert step(operator, (row(k="a", s="w"), 1)) == {("a", 1, "w", 1): 1}


def test_arrival_order_where_none_is_asked_for() -> None:
    calls = [
        call("first_value", S, pa.string()),
        call("last_value", S, pa.string()),
        call("string_agg", S, pa.string(), constants=("-",)),
        call("array_agg", S, pa.list_(pa.string())),
    ]
    for append_only in (True, False):
        operator = AggregateOperator(spec_of(calls, append_only=append_only))
        step(operator, (row(k="a", s="c"), 1), (row(k="a", s="a"), 1), (row(k="a"), 1))
        output = step(operator, (row(k="a", s="b"), 1))
        assert output[("a", "c", "b", "c-a-b", ("c", "a", None, "b"))] == 1


@pytest.mark.parametrize(
    ("name", "kind"), [("stddev_samp", pa.float64()), ("var_pop", pa.float64()), ("stddev_pop", pa.int32())]
)
def test_variance_of_integers(name: str, kind: pa.DataType) -> None:
    operator = AggregateOperator(spec_of([call(name, I, kind)]))
    ((_, first),) = step(operator, (row(k="a", i=2), 1), (row(k="a", i=4), 1), (row(k="a", i=9), 1))
    assert first == pytest.approx({"stddev_samp": math.sqrt(13), "var_pop": 26 / 3, "stddev_pop": 2}[name])
    output = step(operator, (row(k="a", i=4), -1), (row(k="a", i=9), -1))
    assert output[("a", None if name == "stddev_samp" else 0)] == 1


def test_what_cannot_be_aggregated_is_refused_by_name() -> None:
    for bad in (call("sum", S, pa.int64()), call("median", N, pa.int64()), call("max", None, pa.int64())):
        with pytest.raises(UnsupportedError):
            AggregateOperator(spec_of([bad]))
