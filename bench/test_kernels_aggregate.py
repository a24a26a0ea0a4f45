"""Micro-benchmarks of keyed state: each kernel on a batch of 8192 rows, each operator on a stream of such batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from forebay.engine.consolidate import consolidate
from forebay.engine.operators.accumulators import CallSpec
from forebay.engine.operators.aggregate import AggregateOperator, AggregateSpec
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.operators.normalize import NormalizeOperator
from forebay.engine.operators.rank import RankOperator, RankSpec
from forebay.engine.state.order import Order
from forebay.kernels import aggregate, group, topn

ROWS = 8192
GROUPS = 100_000
BATCHES = 16

random = np.random.default_rng(7)
groups = random.integers(0, GROUPS, ROWS)
weights = np.ones(ROWS, np.int64)
values = random.integers(0, 10**6, ROWS)
doubles = random.random(ROWS)
plan, heap = np.zeros(1, np.int64), np.zeros(0, np.uint8)


def accumulate(width: int, kernel: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    acc = np.zeros((GROUPS, width), np.int64)
    return lambda: kernel(acc, 0, groups, weights, *arguments)


def intern() -> Callable[[], int]:
    slots = np.zeros((1 << 18, 2), np.uint64)
    hashes = groups.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    ids, born, free = np.empty(ROWS, np.int64), np.empty(ROWS, np.int64), np.arange(ROWS)
    return lambda: group.intern(hashes, slots, free, ids, born)


def treap() -> Callable[[], None]:
    words = np.column_stack([values, values, values])
    roots, nodes = np.full(GROUPS, -1, np.int64), np.arange(ROWS)

    def run() -> None:
        topn.insert_nodes(words, roots, groups, nodes, plan, heap)
        topn.remove_nodes(words, roots, groups, nodes, plan, heap)

    return run


KERNELS: dict[str, Callable[[], Callable[[], Any]]] = {
    "count": lambda: accumulate(1, aggregate.add_count),
    "sum of integers": lambda: accumulate(2, aggregate.add_int, values),
    "sum of doubles, exact": lambda: accumulate(aggregate.FLOAT_WIDTH, aggregate.add_float, doubles.view(np.int64)),
    "sum of decimals": lambda: accumulate(
        aggregate.DECIMAL_WIDTH, aggregate.add_decimal, values.view(np.uint64), np.zeros(ROWS, np.uint64)
    ),
    "variance": lambda: accumulate(
        aggregate.VARIANCE_WIDTH, aggregate.add_variance, doubles, doubles.view(np.int64), np.empty(2)
    ),
    "max, append-only": lambda: accumulate(2, aggregate.keep_best, values.reshape(-1, 1), True),
    "intern known keys": intern,
    "treap: insert and remove": treap,
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(benchmark: Any, name: str) -> None:
    benchmark.extra_info["rows"] = ROWS
    benchmark(KERNELS[name]())


SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.int64()), ("f", pa.float64())])


def stream(groups_wanted: int, retract: bool = False) -> list[Batch]:
    """BATCHES batches; with `retract`, the second half takes the first back."""
    batches = []
    for _ in range(BATCHES):
        columns = [random.integers(0, groups_wanted, ROWS), random.integers(0, 10**6, ROWS), random.random(ROWS)]
        batches.append(Batch(pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=SCHEMA)))
    return batches[: BATCHES // 2] + [b.negate() for b in batches[: BATCHES // 2]] if retract else batches


def aggregation(append_only: bool, *calls: CallSpec) -> Operator:
    fields = [SCHEMA.field(0), *(pa.field(f"a{i}", c.type) for i, c in enumerate(calls))]
    return AggregateOperator(AggregateSpec(SCHEMA, (0,), calls, pa.schema(fields), append_only))


COUNT, SUM = CallSpec("count", (), pa.int64()), CallSpec("sum", (1,), pa.int64())
AVERAGE = CallSpec("avg", (2,), pa.float64())
EXTREMES = (CallSpec("min", (1,), pa.int64()), CallSpec("max", (1,), pa.int64()))
DISTINCT = CallSpec("count", (1,), pa.int64(), distinct=True)
TOP = RankSpec("row_number", (0,), (Order(1, False),), 1, 10, False, SCHEMA, True)
OPERATORS: dict[str, tuple[Callable[[], Operator], Callable[[], list[Batch]]]] = {
    "count, sum: 1e3 groups": (lambda: aggregation(True, COUNT, SUM), lambda: stream(1_000)),
    "count, sum: 1e5 groups": (lambda: aggregation(True, COUNT, SUM), lambda: stream(100_000)),
    "avg of doubles: 1e5 groups": (lambda: aggregation(False, AVERAGE), lambda: stream(100_000)),
    "min, max taken back: 1e4 groups": (lambda: aggregation(False, *EXTREMES), lambda: stream(10_000, True)),
    "count distinct: 1e3 groups": (lambda: aggregation(False, DISTINCT), lambda: stream(1_000)),
    "top 10, append-only: 1e3 groups": (lambda: RankOperator(TOP), lambda: stream(1_000)),
    "last row by key: 1e5 keys": (lambda: NormalizeOperator(SCHEMA, (0,)), lambda: stream(100_000)),
}


def drive(operator: Operator, batches: list[Batch]) -> None:
    for epoch, batch in enumerate(batches):
        operator.process([[batch]], Turn(epoch + 1, 0, (None,)))
        for state in operator.states().values():
            state.commit()


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(benchmark: Any, name: str) -> None:
    make, batches = OPERATORS[name]
    benchmark.extra_info["rows"] = ROWS * BATCHES
    benchmark.pedantic(drive, setup=lambda: ((make(), batches()), {}), rounds=3)


def test_consolidate(benchmark: Any) -> None:
    batch = stream(1_000)[0]
    benchmark.extra_info["rows"] = 2 * ROWS
    assert benchmark(consolidate, [batch, batch.negate()]) is None
