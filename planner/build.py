"""Constructors of plan nodes over any expressions: they keep the promise that keys, arguments and filters are columns.

A Project underneath computes what is an expression, one above drops what was added; neighbouring Projects are merged
where nothing would be computed twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from forebay.planner.decode import AggregateExpr, GroupingSets, Order, WindowExpr
from forebay.planner.expr import Call, Case, Cast, Column, Expr, Literal, Unary
from forebay.planner.exprs import columns_of, is_volatile, moved, rewritten, substitute
from forebay.planner.infer import types_of
from forebay.planner.nodes import (
    Aggregate,
    AggregateCall,
    Join,
    JoinKind,
    Node,
    Project,
    SortKey,
    Union,
    Unnest,
    Values,
)
from forebay.planner.pending import Over, OverCall


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """How a join matches; `residual` is over the left columns, then the right ones."""

    kind: JoinKind
    residual: Expr | None
    null_equals_null: bool
    null_aware: bool


def is_list(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow))


def unique_schema(fields: Iterable[pa.Field]) -> pa.Schema:
    """The fields under unique names: the second `a` is `a0`."""
    taken: set[str] = set()
    renamed = []
    for field in fields:
        name, n = field.name, 0
        while name in taken:
            name, n = f"{field.name}{n}", n + 1
        taken.add(name)
        renamed.append(pa.field(name, field.type, field.nullable))
    return pa.schema(renamed)


def project(source: Node, exprs: tuple[Expr, ...], schema: pa.Schema) -> Node:
    """A Project that is left out where it changes nothing, and merged with one underneath where that is safe."""
    exprs = tuple(without_idle_casts(e, source.schema) for e in exprs)
    plain = [e.index for e in exprs if isinstance(e, Column)]
    identity = len(plain) == len(exprs) and plain == list(range(len(source.schema)))
    if identity and schema.equals(source.schema):
        return source
    if identity and isinstance(source, Project | Aggregate | Values | Unnest | Over):
        return replace(source, schema=schema)  # only names change, and these nodes make their own
    if isinstance(source, Project) and _may_merge(exprs, source):
        return project(source.input, tuple(substitute(e, source.exprs) for e in exprs), schema)
    if isinstance(source, Values) and source.rows == ((),) and not any(map(is_volatile, exprs)):
        return Values(schema, (exprs,))
    return Project(schema, source, exprs)


def without_idle_casts(expr: Expr, schema: pa.Schema) -> Expr:
    """The expression without casts of a column to the type that it has."""

    def idle(e: Expr) -> Expr | None:
        is_idle = isinstance(e, Cast) and isinstance(e.arg, Column) and schema.field(e.arg.index).type.equals(e.type)
        return e.arg if is_idle and isinstance(e, Cast) else None

    return rewritten(expr, idle)


def _may_merge(exprs: tuple[Expr, ...], inner: Project) -> bool:
    """Whether no costly column of `inner` would be computed twice."""
    used = [c for e in exprs for c in columns_of(e)]
    return all(is_cheap(inner.exprs[c]) or used.count(c) == 1 for c in set(used))


def is_cheap(expr: Expr) -> bool:
    """A column, a constant or a field of a ROW column: not worth a projection of its own."""
    match expr:
        case Column() | Literal():
            return True
        case Case(None, ((Unary("IS NOT NULL", whole), Call("get_field", (value, Literal()))),), None):
            return whole == value and is_cheap(value)
    return False


def with_columns(source: Node, exprs: Sequence[Expr]) -> tuple[Node, list[int]]:
    """The source with the expressions as columns, appended where they are not columns yet; and their positions."""
    width = len(source.schema)
    added: list[Expr] = []
    positions = []
    for e in exprs:
        if isinstance(e, Column):
            positions.append(e.index)
            continue
        if e not in added or is_volatile(e):
            added.append(e)
        positions.append(width + added.index(e))
    if not added:
        return source, positions
    fields = [pa.field(f"$key{i}", t) for i, t in enumerate(types_of(added, source.schema))]
    exprs = (*map(Column, range(width)), *added)
    return project(source, exprs, unique_schema([*source.schema, *fields])), positions


def only_columns(source: Node, exprs: Sequence[Expr]) -> tuple[Node, list[int]]:
    """The expressions as columns of a relation that holds nothing else unless they all are columns already."""
    if all(isinstance(e, Column) for e in exprs):
        return source, [e.index for e in exprs if isinstance(e, Column)]
    needed = list(dict.fromkeys(exprs))
    types = types_of(needed, source.schema)
    fields = [
        source.schema.field(e.index) if isinstance(e, Column) else pa.field(f"$expr{i}", t)
        for i, (e, t) in enumerate(zip(needed, types))
    ]
    return project(source, tuple(needed), unique_schema(fields)), [needed.index(e) for e in exprs]


def narrow(node: Node, width: int) -> Node:
    """The first `width` columns."""
    if len(node.schema) == width:
        return node
    return Project(pa.schema(list(node.schema)[:width]), node, tuple(map(Column, range(width))))


def sort_keys(orders: Sequence[Order], columns: Sequence[int]) -> tuple[SortKey, ...]:
    return tuple(SortKey(c, o.ascending, o.nulls_first) for o, c in zip(orders, columns))


def aggregate(source: Node, keys: Sequence[Expr], calls: Sequence[AggregateExpr], schema: pa.Schema) -> Node:
    """An Aggregate over plain columns, with a Project underneath where something is an expression."""
    split = [_split_args(c) for c in calls]
    exprs = list(keys)
    for call, (args, _) in zip(calls, split):
        exprs += [*args, *(o.expr for o in call.order), *([call.filter] if call.filter is not None else [])]
    keyed, positions = only_columns(source, exprs)
    at = iter(positions)
    key_columns = tuple(next(at) for _ in keys)
    lowered = []
    for i, (call, (args, constants)) in enumerate(zip(calls, split)):
        arg_columns = tuple(next(at) for _ in args)
        order = sort_keys(call.order, [next(at) for _ in call.order])
        condition = next(at) if call.filter is not None else None
        arrow = schema.field(len(keys) + i).type
        lowered.append(AggregateCall(call.name, arg_columns, arrow, call.distinct, condition, order, constants))
    return Aggregate(schema, keyed, key_columns, tuple(lowered))


def _split_args(call: AggregateExpr) -> tuple[tuple[Expr, ...], tuple[object, ...]]:
    """Column arguments and the constants after them; COUNT(1) counts rows and has neither."""
    if call.name == "count" and all(isinstance(a, Literal) and a.value is not None for a in call.args):
        return (), ()
    constants: list[object] = []
    args = list(call.args)
    while len(args) > 1 and isinstance(args[-1], Literal):
        literal = args.pop()
        constants.insert(0, literal.value if isinstance(literal, Literal) else None)
    return tuple(args), tuple(constants)


def grouping_sets(source: Node, keys: Sequence[Any], calls: Sequence[AggregateExpr], schema: pa.Schema) -> Node:
    """GROUPING SETS as the union of one Aggregate per set; absent keys are NULL, then comes the grouping id."""
    sets: list[tuple[Expr, ...]] = [()]
    for key in keys:
        choices = key.sets if isinstance(key, GroupingSets) else ((key,),)
        sets = [(*before, *choice) for before in sets for choice in choices]
    order = list(dict.fromkeys(e for s in sets for e in s))
    plain = [k for k in keys if isinstance(k, Expr)]
    distinct = [*plain, *(e for e in order if e not in plain)]
    id_type = schema.field(len(distinct)).type
    parts = []
    for chosen in sets:
        present = [e for e in distinct if e in chosen]
        inner_fields = [schema.field(distinct.index(e)) for e in present] + list(schema)[len(distinct) + 1 :]
        inner = aggregate(source, present, calls, unique_schema(inner_fields))
        exprs: list[Expr] = [
            Column(present.index(e)) if e in present else Literal(None, schema.field(i).type)
            for i, e in enumerate(distinct)
        ]
        bits = sum(1 << (len(distinct) - 1 - i) for i, e in enumerate(distinct) if e not in present)
        exprs.append(Literal(bits, id_type))
        exprs += [Column(len(present) + i) for i in range(len(calls))]
        parts.append(project(inner, tuple(exprs), schema))
    return Union(schema, tuple(parts)) if len(parts) > 1 else parts[0]


def over(source: Node, calls: Sequence[WindowExpr], schema: pa.Schema) -> Node:
    """An Over node; expressions among partition and order keys become columns underneath."""
    width = len(source.schema)
    exprs = [e for c in calls for e in (*c.args, *c.partition, *(o.expr for o in c.order))]
    keyed, positions = with_columns(source, [e for e in exprs if not isinstance(e, Literal)])
    at = iter(positions)
    lowered = []
    for call in calls:
        args = tuple(a if isinstance(a, Literal) else Column(next(at)) for a in call.args)
        partition = tuple(next(at) for e in call.partition if not isinstance(e, Literal))
        ordered = [o for o in call.order if not isinstance(o.expr, Literal)]
        order = sort_keys(ordered, [next(at) for _ in ordered])
        lowered.append(OverCall(call.name, args, partition, order, call.frame))
    added = len(keyed.schema) - width
    results = list(schema)[width:]
    node: Node = Over(unique_schema([*keyed.schema, *results]), keyed, tuple(lowered))
    if not added:
        return node
    kept = [*range(width), *range(width + added, width + added + len(results))]
    return project(node, tuple(map(Column, kept)), schema)


def join(
    left: Node,
    right: Node,
    left_exprs: Sequence[Expr],
    right_exprs: Sequence[Expr],
    schema: pa.Schema,
    spec: JoinSpec,
) -> Node:
    """A Join over plain key columns; computed keys are added underneath and dropped above."""
    left_width, right_width = len(left.schema), len(right.schema)
    keyed_left, left_keys = with_columns(left, left_exprs)
    keyed_right, right_keys = with_columns(right, right_exprs)
    shift = len(keyed_left.schema) - left_width
    residual = spec.residual
    if residual is not None:
        residual = moved(residual, lambda c: c if c < left_width else c + shift)
    widths = (len(keyed_left.schema), len(keyed_right.schema))
    fields, kept = _join_output(keyed_left, keyed_right, spec.kind, schema, (left_width, right_width))
    node = Join(
        schema=unique_schema(fields),
        left=keyed_left,
        right=keyed_right,
        kind=spec.kind,
        left_keys=tuple(left_keys),
        right_keys=tuple(right_keys),
        residual=residual,
        null_equals_null=spec.null_equals_null,
        null_aware=spec.null_aware,
    )
    if widths == (left_width, right_width):
        return replace(node, schema=schema)
    return project(node, tuple(map(Column, kept)), schema)


def _join_output(
    left: Node, right: Node, kind: JoinKind, schema: pa.Schema, widths: tuple[int, int]
) -> tuple[list[pa.Field], list[int]]:
    """The join's own fields, added keys included, and which of them the plan asked for."""
    asked_left, asked_right = widths
    fields = list(schema)[:asked_left] + list(left.schema)[asked_left:]
    kept = list(range(asked_left))
    if kind in (JoinKind.LEFT_SEMI, JoinKind.LEFT_ANTI):
        return fields, kept
    if kind is JoinKind.LEFT_MARK:
        return [*fields, schema.field(asked_left)], [*kept, len(fields)]
    kept += range(len(fields), len(fields) + asked_right)
    return [*fields, *list(schema)[asked_left:], *list(right.schema)[asked_right:]], kept


def mirrored(residual: Expr, left_width: int, right_width: int) -> Expr:
    """A residual over (left, right) as one over (right, left)."""
    return moved(residual, lambda c: c + right_width if c < left_width else c - left_width)
