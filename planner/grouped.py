"""What makes operators over keyed groups, from nodes of a plan.

Each is imported where a plan has one: their kernels are two fifths of what a first start compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from forebay.engine.operators.base import Operator
from forebay.engine.operators.expiry import UNDATED, GroupLife
from forebay.planner import nodes as plan

if TYPE_CHECKING:
    from forebay.engine.operators.accumulators import CallSpec
    from forebay.engine.operators.aggregate import AggregateSpec
    from forebay.engine.state.order import Order

Make = Callable[[Sequence[Operator | None]], Operator]
"""Makes an operator over the running operators of its inputs."""


def aggregate(node: plan.Aggregate, below: pa.Schema, life: GroupLife, append_only: bool) -> Make:
    """GROUP BY over rows of the schema `below`, whose groups live so long."""
    from forebay.engine.operators.aggregate import AggregateOperator

    spec = _aggregate_spec(node, below, life, append_only)
    return lambda _: AggregateOperator(spec)


def window_aggregate(node: plan.WindowAggregate, append_only: bool) -> Make:
    """GROUP BY a window: its groups end with it."""
    from forebay.engine.operators.window import WindowAggregateOperator

    spec = _aggregate_spec(node, node.input.schema, UNDATED, append_only)
    return lambda _: WindowAggregateOperator(spec, node.window_end)


def window_table(node: plan.WindowTable) -> Make:
    """Rows with the windows that they are in."""
    from forebay.engine.operators.window import WindowTableOperator, WindowTableSpec

    window = node.window
    kind, time = window.kind.value, window.time_column
    spec = WindowTableSpec(kind, time, window.size, node.schema, window.slide, window.offset)
    return lambda _: WindowTableOperator(spec)


def rank(node: plan.Rank, life: GroupLife, append_only: bool) -> Make:
    """The first rows of each partition, which lives so long."""
    from forebay.engine.operators.rank import RankOperator, RankSpec

    spec = RankSpec(
        kind=node.kind.value,
        partition=node.partition,
        order=_orders(node.order),
        start=node.start,
        end=node.end,
        with_rank=node.with_rank,
        schema=node.schema,
        append_only=append_only,
        life=life,
    )
    return lambda _: RankOperator(spec)


def upsert_key(schema: pa.Schema, key: tuple[int, ...], life: GroupLife) -> Make:
    """Changes by a key of the sink's, where rows of the query have none that it covers."""
    from forebay.engine.operators.normalize import UpsertKeyOperator

    return lambda _: UpsertKeyOperator(schema, key, life)


def normalize(schema: pa.Schema, key: tuple[int, ...], life: GroupLife) -> Make:
    """Upserts by key as a changelog."""
    from forebay.engine.operators.normalize import NormalizeOperator

    return lambda _: NormalizeOperator(schema, key, life)


def _aggregate_spec(
    node: plan.Aggregate | plan.WindowAggregate, below: pa.Schema, life: GroupLife, append_only: bool
) -> AggregateSpec:
    from forebay.engine.operators.aggregate import AggregateSpec

    return AggregateSpec(below, node.keys, _calls(node.calls), node.schema, append_only, life)


def _calls(calls: tuple[plan.AggregateCall, ...]) -> tuple[CallSpec, ...]:
    from forebay.engine.operators.accumulators import CallSpec

    return tuple(
        CallSpec(
            name=c.name,
            args=c.args,
            type=c.type,
            distinct=c.distinct,
            filter=c.filter,
            order=_orders(c.order),
            constants=c.constants,
        )
        for c in calls
    )


def _orders(keys: tuple[plan.SortKey, ...]) -> tuple[Order, ...]:
    from forebay.engine.state.order import Order

    return tuple(Order(k.column, k.ascending, k.nulls_first) for k in keys)
