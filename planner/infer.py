"""Types of scalar expressions, as DataFusion gives them.

What an expression says itself (columns, constants, casts, comparisons) is read off; the rest is planned over an empty
relation of the input's schema, so there is one set of typing rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from forebay.planner.expr import Binary, Case, Cast, Column, Expr, InList, Like, Literal, Unary
from forebay.planner.functions import empty_relation, planning_context
from forebay.planner.render import identifier, to_sql

_BOOLEAN_OPS = frozenset(
    ("=", "<>", "<", "<=", ">", ">=", "AND", "OR", "IS DISTINCT FROM", "IS NOT DISTINCT FROM", "~", "~*", "!~", "!~*")
)


def types_of(exprs: Sequence[Expr], schema: pa.Schema) -> list[pa.DataType]:
    """The Arrow type of each expression over columns of `schema`."""
    types = [_known(e, schema) for e in exprs]
    unknown = [e for e, t in zip(exprs, types) if t is None]
    planned = iter(_planned(unknown, schema)) if unknown else iter(())
    return [next(planned) if t is None else t for t in types]


def _known(expr: Expr, schema: pa.Schema) -> pa.DataType | None:
    match expr:
        case Column(index):
            return schema.field(index).type
        case Literal(_, arrow) | Cast(_, arrow, _):
            return arrow
        case Unary(op, arg):
            return _known(arg, schema) if op == "-" else pa.bool_()
        case Binary(op, _, _) if op in _BOOLEAN_OPS:
            return pa.bool_()
        case InList() | Like():
            return pa.bool_()
        case Case(_, branches, _):
            return _known(branches[0][1], schema)
    return None


def _planned(exprs: Sequence[Expr], schema: pa.Schema) -> list[pa.DataType]:
    context = planning_context()
    names = [f"c{i}" for i in range(len(schema))]
    relation = empty_relation(pa.schema([f.with_name(n) for f, n in zip(schema, names)]))
    items = ", ".join(f"{to_sql(e, names)} AS e{i}" for i, e in enumerate(exprs))
    planned = context.sql(f"SELECT {items} FROM {identifier(relation)}").schema()
    return [field.type for field in planned]
