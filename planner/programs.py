"""Expressions of a plan as what operators run over batches.

The leaves that expressions read are picked from a batch first, as columns c0, c1, ...; DataFusion computes the rest over those.
Text is made when a plan is lowered, so what cannot be said fails there; programs are compiled when an operator is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
from datafusion import SessionContext

from forebay.engine.expression import Leaf, Output, Pick, Program, predicate
from forebay.engine.operators.lens import Lens, Showing
from forebay.planner.access import gathered
from forebay.planner.expr import Column, Expr
from forebay.planner.render import to_sql
from forebay.planner.stored import StoredSide

Mask = Callable[[pa.RecordBatch], pa.Array]


def condition(context: SessionContext, schema: pa.Schema, expr: Expr) -> Callable[[], Mask]:
    """What makes the mask of a condition over rows of the schema."""
    leaves, (over,) = gathered([expr], schema)
    sql = to_sql(over, _names(len(leaves)))
    return lambda: predicate(context, Pick(schema, leaves), sql)


def projection(
    context: SessionContext, schema: pa.Schema, exprs: Sequence[Expr], wanted: pa.Schema
) -> Callable[[], tuple[Pick, Program]]:
    """What makes the columns `wanted` of rows of the schema."""
    leaves, over = gathered(exprs, schema)
    if not leaves and len(schema):
        leaves = [Leaf(0)]  # a batch without columns cannot say how many rows it has
    columns = [_output(e, f, len(leaves)) for e, f in zip(over, wanted)]

    def make() -> tuple[Pick, Program]:
        pick = Pick(schema, leaves)
        return pick, Program(context, pick.schema, columns)

    return make


def lens(context: SessionContext, side: StoredSide, schema: pa.Schema, stamped: bool) -> Lens | None:
    """Through which a join sees rows of `schema` in a stored table; None if they are what is stored."""
    stored = side.table.schema
    if not stamped and side.predicate is None and side.exprs == tuple(map(Column, range(len(stored)))):
        return None
    leaves, exprs = gathered([*side.exprs, *([] if side.predicate is None else [side.predicate])], stored)
    leaves = leaves or [Leaf(0)]  # a batch without columns cannot say how many rows it has
    columns = sorted({leaf.column for leaf in leaves})
    read = pa.schema([stored.field(c) for c in columns])
    pick = Pick(read, [Leaf(columns.index(leaf.column), leaf.path) for leaf in leaves])
    mask = None if side.predicate is None else predicate(context, pick, to_sql(exprs[-1], _names(len(leaves))))
    outputs = [_output(e, f, len(leaves)) for e, f in zip(exprs, schema)]
    show = Showing(schema, mask, pick, Program(context, pick.schema, outputs))
    return Lens(tuple(columns), schema, show, filters=mask is not None)


def _output(expr: Expr, wanted: pa.Field, leaves: int) -> Output:
    if isinstance(expr, Column):
        return Output(wanted, column=expr.index)
    return Output(wanted, sql=to_sql(expr, _names(leaves)))


def _names(count: int) -> list[str]:
    return [f'"c{i}"' for i in range(count)]
