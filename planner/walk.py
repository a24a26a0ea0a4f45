"""DataFusion's optimized logical plan as our typed one: names become positions, keys become plain columns.

Every node's type and structure come from `LogicalPlan.to_variant()`, its expressions from `planner.decode`, its schema from
the plan itself. SubqueryAlias and Repartition vanish, Distinct is an Aggregate without calls, right semi, anti and mark
joins are mirrored. Where a join, group, sort or window key is an expression, a Project computes it underneath.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from forebay.engine.errors import InternalError, UnsupportedError
from forebay.planner.build import (
    JoinSpec,
    aggregate,
    grouping_sets,
    is_list,
    join,
    mirrored,
    narrow,
    over,
    project,
    sort_keys,
    unique_schema,
    with_columns,
)
from forebay.planner.decode import AggregateExpr, Decoder, GroupingSets, WindowExpr
from forebay.planner.expr import Expr, Literal
from forebay.planner.nodes import Aggregate, Filter, JoinKind, Node, Project, Union, Unnest, Values
from forebay.planner.pending import Sort

_KINDS = {
    "Inner": JoinKind.INNER,
    "Left": JoinKind.LEFT,
    "Right": JoinKind.RIGHT,
    "Full": JoinKind.FULL,
    "LeftSemi": JoinKind.LEFT_SEMI,
    "LeftAnti": JoinKind.LEFT_ANTI,
    "LeftMark": JoinKind.LEFT_MARK,
}
_MIRRORED = {"RightSemi": JoinKind.LEFT_SEMI, "RightAnti": JoinKind.LEFT_ANTI, "RightMark": JoinKind.LEFT_MARK}


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a table name in DataFusion's plan stands for; `build` makes the node for the columns that are read."""

    relation: str
    build: Callable[[tuple[str, ...], pa.Schema], Node]


class Walker:
    """Translates one plan. `context` planned it, `leaves` holds its tables, `volatile` knows the functions' volatility."""

    def __init__(self, context: Any, leaves: Mapping[str, Leaf], volatile: Callable[[str], bool]) -> None:
        self._context = context
        self._leaves = leaves
        self._volatile = volatile

    def node(self, plan: Any) -> Node:
        """The plan as a tree of nodes.

        Raises:
            UnsupportedError: a node or expression that no streaming operator runs.
        """
        variant = plan.to_variant()
        kind = type(variant).__name__
        translate = getattr(self, f"_{kind.lower()}", None)
        if translate is None:
            raise UnsupportedError(f"{_PLAIN_NAMES.get(kind, kind)} is not supported")
        node: Node = translate(plan, variant)
        return node

    def _schema(self, plan: Any) -> pa.Schema:
        fields: Sequence[pa.Field] = self._context.create_dataframe_from_logical_plan(plan).schema()
        return unique_schema(pa.field(plain_name(f.name), plain_type(f.type), f.nullable) for f in fields)

    def _decoder(self, *plans: Any) -> Decoder:
        names = [name for plan in plans for name in plan.to_variant().schema().field_names()]
        positions: dict[str, int] = {}
        for position, name in enumerate(names):
            if positions.setdefault(name, position) != position:
                positions[name] = -1

        def resolve(relation: str, name: str) -> int:
            position = positions.get(f"{relation}.{name}" if relation else name, -1)
            if position < 0 and not relation:
                # A union reduced to one branch leaves a column with that branch's relation behind.
                ends = [i for i, n in enumerate(names) if n.endswith(f".{name}")]
                position = ends[0] if len(ends) == 1 else -1
            if position < 0:
                raise InternalError(f"column {relation}.{name} is not one of the input's", detail=", ".join(names))
            return position

        return Decoder(resolve, self._volatile)

    def _input(self, plan: Any) -> Node:
        return self.node(plan.inputs()[0])

    # ---- leaves

    def _tablescan(self, plan: Any, variant: Any) -> Node:
        columns = tuple(name for _, name in variant.projection())
        node = self._leaves[variant.table_name()].build(columns, self._schema(plan))
        if variant.filters():
            decoder = self._decoder(plan)
            for predicate in variant.filters():
                node = Filter(node.schema, node, decoder.scalar(to_bytes(predicate)))
        return node

    def _values(self, plan: Any, variant: Any) -> Node:
        decoder = Decoder(_no_column, self._volatile)
        rows = tuple(tuple(decoder.scalar(to_bytes(e)) for e in row) for row in variant.values())
        return Values(self._schema(plan), rows)

    def _emptyrelation(self, plan: Any, variant: Any) -> Node:
        return Values(self._schema(plan), ((),) if variant.produce_one_row() else ())

    # ---- one input

    def _projection(self, plan: Any, variant: Any) -> Node:
        decoder = self._decoder(plan.inputs()[0])
        exprs = tuple(decoder.scalar(to_bytes(e)) for e in variant.projections())
        return project(self._input(plan), exprs, self._schema(plan))

    def _filter(self, plan: Any, variant: Any) -> Node:
        source = self._input(plan)
        return Filter(source.schema, source, self._decoder(plan.inputs()[0]).scalar(to_bytes(variant.predicate())))

    def _subqueryalias(self, plan: Any, variant: Any) -> Node:
        return self._input(plan)

    def _repartition(self, plan: Any, variant: Any) -> Node:
        return self._input(plan)

    def _subquery(self, plan: Any, variant: Any) -> Node:
        return self._input(plan)

    def _distinct(self, plan: Any, variant: Any) -> Node:
        source = self._input(plan)
        if len(source.schema) != len(self._schema(plan)):
            raise UnsupportedError("DISTINCT ON is not supported", hint="use ROW_NUMBER() OVER (...) = 1")
        return Aggregate(source.schema, source, tuple(range(len(source.schema))), ())

    def _aggregate(self, plan: Any, variant: Any) -> Node:
        source, decoder = self._input(plan), self._decoder(plan.inputs()[0])
        keys = [decoder.any(to_bytes(e)) for e in variant.group_by_exprs()]
        calls = [decoder.any(to_bytes(e)) for e in variant.aggregate_exprs()]
        schema = self._schema(plan)
        aggregates = [c for c in calls if isinstance(c, AggregateExpr)]
        if len(aggregates) != len(calls):
            raise InternalError("an aggregate node holds an expression that is no aggregate")
        sets = [k for k in keys if isinstance(k, GroupingSets)]
        if sets:
            return grouping_sets(source, keys, aggregates, schema)
        return aggregate(source, [k for k in keys if isinstance(k, Expr)], aggregates, schema)

    def _windowexpr(self, plan: Any, variant: Any) -> Node:
        source, decoder = self._input(plan), self._decoder(plan.inputs()[0])
        calls = [decoder.any(to_bytes(e)) for e in variant.get_window_expr()]
        return over(source, [c for c in calls if isinstance(c, WindowExpr)], self._schema(plan))

    def _sort(self, plan: Any, variant: Any) -> Node:
        source, decoder = self._input(plan), self._decoder(plan.inputs()[0])
        orders = [decoder.order(to_bytes(s.expr()), s.ascending(), s.nulls_first()) for s in variant.sort_exprs()]
        width = len(source.schema)
        keyed, columns = with_columns(source, [o.expr for o in orders])
        sorted_ = Sort(keyed.schema, keyed, sort_keys(orders, columns), 0, variant.get_fetch_val())
        return narrow(sorted_, width)

    def _limit(self, plan: Any, variant: Any) -> Node:
        source = self._input(plan)
        skip = _row_count(variant.skip(), 0)
        fetch = _row_count(variant.fetch(), None)
        if isinstance(source, Project) and isinstance(source.input, Sort):
            return replace(source, input=limited(source.input, skip or 0, fetch))
        if isinstance(source, Sort):
            return limited(source, skip or 0, fetch)
        return Sort(source.schema, source, (), skip or 0, fetch)

    def _unnest(self, plan: Any, variant: Any) -> Node:
        source = self._input(plan)
        schema = self._schema(plan)
        names = plan.inputs()[0].to_variant().schema().field_names()
        columns = tuple(i for i, name in enumerate(names) if name.startswith("__unnest_placeholder("))
        if len(schema) != len(source.schema) or any(not is_list(source.schema.field(i).type) for i in columns):
            raise UnsupportedError("UNNEST of a ROW is not supported", hint="name its fields: r.a, r.b")
        return Unnest(schema, source, columns)

    # ---- many inputs

    def _union(self, plan: Any, variant: Any) -> Node:
        schema = self._schema(plan)
        parts: list[Node] = []
        for part in map(self.node, plan.inputs()):
            parts.extend(part.parts if isinstance(part, Union) else (part,))
        return Union(schema, tuple(parts))

    def _join(self, plan: Any, variant: Any) -> Node:
        left_plan, right_plan = plan.inputs()
        left, right = self.node(left_plan), self.node(right_plan)
        left_decoder, right_decoder = self._decoder(left_plan), self._decoder(right_plan)
        pairs = variant.on()
        left_exprs = [left_decoder.scalar(to_bytes(a)) for a, _ in pairs]
        right_exprs = [right_decoder.scalar(to_bytes(b)) for _, b in pairs]
        residual = None
        if variant.filter() is not None:
            residual = self._decoder(left_plan, right_plan).scalar(to_bytes(variant.filter()))
        name = repr(variant.join_type())
        mirror = name in _MIRRORED
        if mirror and residual is not None:
            residual = mirrored(residual, len(left.schema), len(right.schema))
        spec = JoinSpec(
            kind=_MIRRORED[name] if mirror else _KINDS[name],
            residual=residual,
            null_equals_null=variant.null_equals_null(),
            null_aware=plan.display().endswith(" null_aware"),
        )
        if mirror:
            return join(right, left, right_exprs, left_exprs, self._schema(plan), spec)
        return join(left, right, left_exprs, right_exprs, self._schema(plan), spec)


_PLAIN_NAMES = {"RecursiveQuery": "a recursive query (WITH RECURSIVE)", "DmlStatement": "a DML statement here"}


_PLAIN_TYPES = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
_EXPRESSION_NAME = re.compile(r"(\w*)[^\w$@#-]")


def limited(node: Sort, skip: int, fetch: int | None) -> Sort:
    """The rows of a Sort from the one after `skip` on, `fetch` of them."""
    left = None if node.limit is None else max(node.limit - skip, 0)
    limits = [n for n in (left, fetch) if n is not None]
    return replace(node, offset=node.offset + skip, limit=min(limits) if limits else None)


def plain_type(arrow: pa.DataType) -> pa.DataType:
    """The type without views: batches between operators hold plain strings and binaries."""
    return _PLAIN_TYPES.get(arrow, arrow)


def plain_name(name: str) -> str:
    """A column name for DataFusion's name of an expression: `sum(t.a)` is `sum`. The query's own names come back on top."""
    name = name.rsplit("\x1f", 1)[-1]
    found = _EXPRESSION_NAME.search(name)
    if found is None:
        return name
    return (
        found.group(1).lower() or "expr"
        if name[found.end() - 1] == "("
        else name.rsplit(".", 1)[-1]
        if "." in name
        else name
    )


def to_bytes(expression: Any) -> bytes:
    """A DataFusion expression in its serialized form.

    Raises:
        UnsupportedError: the expression holds a subquery that the optimizer could not turn into a join.
    """
    try:
        data: bytes = expression.to_bytes()
    except RuntimeError as error:
        raise UnsupportedError(
            "a correlated subquery of this shape is not supported",
            detail=f"it cannot be turned into a join: {expression.canonical_name().splitlines()[0]}",
            hint="write it as a JOIN with a grouped subquery",
        ) from error
    return data


def _no_column(relation: str, name: str) -> int:
    raise InternalError(f"column {name} in a constant row")


def _row_count(expression: Any, default: int | None) -> int | None:
    if expression is None:
        return default
    literal = Decoder(_no_column, lambda name: False).scalar(to_bytes(expression))
    if not isinstance(literal, Literal) or (literal.value is not None and not isinstance(literal.value, int)):
        raise UnsupportedError("LIMIT and OFFSET take constant numbers only")
    return default if literal.value is None else literal.value
