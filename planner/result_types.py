"""Flink's result types where DataFusion's differ: SUM and AVG, decimal products and quotients, floats that meet decimals, text of
times and booleans.

A rewrite needs the types of the operands, which only a planner knows; so the operands of all such places of one SELECT are
planned together over empty relations ("probed"), innermost places first, because a rewrite changes the types above it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from sqlglot import exp

from forebay.engine.types import from_arrow
from forebay.planner.approximate import group_of, make_doubles, makes_float
from forebay.planner.builtins import filled
from forebay.planner.functions import empty_relation
from forebay.planner.planning import schema_if_valid, schema_of
from forebay.planner.scopes import from_items
from forebay.planner.sqltext import arrow_type, custom_type, to_text

_TYPE = "flink_type"
"""Meta key of a node whose Flink type is narrower than DataFusion's."""
_MAX_PRECISION = 38
_MIN_DIVISION_SCALE = 6
_PRECISION_OF = {pa.int8(): 3, pa.int16(): 5, pa.int32(): 10, pa.int64(): 19}
_Rewrite = Callable[[exp.Expression, list[pa.DataType]], exp.Expression | None]


@dataclass(frozen=True, slots=True)
class _Place:
    """A node whose rewrite depends on the types of `operands`."""

    node: exp.Expression
    operands: tuple[exp.Expression, ...]
    rewrite: _Rewrite
    """Gives the replacement, which may take the node's parts over; None if the node stays or was replaced already."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What names mean: WITH queries by name, and FROM items of enclosing queries."""

    ctes: Mapping[str, exp.Expression] = field(default_factory=dict)
    outer: tuple[exp.Expression, ...] = ()
    floats: bool = False
    """Floats may meet decimals."""


def with_flink_types(query: exp.Expression, floats: bool) -> exp.Expression:
    """The query, changed in place, whose result types are Flink's. `floats`: its tables have some."""
    holder = exp.Subquery(this=query)
    _visit(query, _Scope(floats=floats or makes_float(query)))
    return holder.this


def _visit(query: exp.Expression, scope: _Scope) -> None:
    with_ = query.args.get("with_")
    if with_ is not None:
        for cte in with_.expressions:
            _visit(cte.this, scope)
            scope = replace(scope, ctes={**scope.ctes, cte.alias: cte})
    if isinstance(query, exp.SetOperation):
        _visit(query.left, scope)
        _visit(query.right, scope)
    elif isinstance(query, exp.Subquery | exp.Paren):
        _visit(query.this, scope)
    elif isinstance(query, exp.Select):
        _visit_select(query, scope)


def _visit_select(select: exp.Select, scope: _Scope) -> None:
    items = list(from_items(select))
    for item in items:
        if isinstance(item, exp.Subquery):
            _visit(item, scope)
    inner = replace(scope, outer=(*items, *scope.outer))
    for node in _own_nodes(select):
        if isinstance(node, exp.Query) and node not in items:
            _visit(node, inner)
    places = _levels(select, scope.floats)
    if places:
        probe = _Probe(select, items, scope)
        for level in places:
            probe.rewrite(level)


def _own_nodes(select: exp.Select) -> Iterator[exp.Expression]:
    """Nodes of the select's own expressions; a nested query is given, but not entered."""
    stack = [
        part
        for key, value in select.args.items()
        if key not in ("with_", "from_")
        for part in (value if isinstance(value, list) else [value])
        if isinstance(part, exp.Expression)
    ]
    while stack:
        node = stack.pop()
        if isinstance(node, exp.Join):
            stack += [part for part in (node.args.get("on"),) if part is not None]
            continue
        yield node
        if not isinstance(node, exp.Query):
            stack += node.iter_expressions()


def _levels(select: exp.Select, floats: bool) -> list[list[_Place]]:
    """The places by depth: none of a level lies within another of the same or an earlier level."""
    places = {id(n): p for n in _own_nodes(select) if (p := _place(n, floats)) is not None}
    depth: dict[int, int] = {}

    def measure(node: exp.Expression) -> int:
        """1 + the deepest place within the node."""
        below = 0
        for child in node.iter_expressions():
            if not isinstance(child, exp.Query):
                below = max(below, measure(child))
        if id(node) in places:
            depth[id(node)] = below = below + 1
        return below

    for place in places.values():
        if id(place.node) not in depth:
            measure(place.node)
    levels: list[list[_Place]] = [[] for _ in range(max(depth.values(), default=0))]
    for key, place in places.items():
        levels[depth[key] - 1].append(place)
    return levels


class _Probe:
    """Finds operand types in the scope of one SELECT."""

    def __init__(self, select: exp.Select, items: list[exp.Expression], scope: _Scope) -> None:
        self._select = select
        self._items = items
        self._scope = scope
        self._own: list[str] | None = None

    def rewrite(self, places: list[_Place]) -> None:
        """Rewrites places of one level. Where types cannot be found the node stays; planning will say what is wrong."""
        operands = [o for p in places for o in p.operands]
        types = self._types(operands) or [None if (t := self._types([o])) is None else t[0] for o in operands]
        found = iter(types)
        for place in places:
            known = [o.unnest().meta.get(_TYPE, t) for o, t in zip(place.operands, found)]
            if all(t is not None for t in known):
                changed = place.rewrite(place.node, [t for t in known if t is not None])
                if changed is not None:
                    place.node.replace(changed)

    def _types(self, operands: list[exp.Expression]) -> list[pa.DataType | None] | None:
        items = ", ".join(f"{to_text(o)} AS __p{i}" for i, o in enumerate(operands))
        for with_outer in (False, True):  # an inner name hides an outer one
            schema = schema_if_valid(f"SELECT {items}{self._from_clause(with_outer)}")
            if schema is not None:
                return [f.type for f in schema]
        return None  # a name of the select list, or a mistake that planning the whole query will name

    def _from_clause(self, with_outer: bool) -> str:
        """FROM with each derived table reduced to an empty relation, enclosing queries' tables behind it if wanted."""
        if self._own is None:
            self._own = [self._bare(item) for item in self._items]
        usings = [self._using(item) for item in self._items]
        parts = [
            (f" JOIN {text} USING ({using})" if using else f" CROSS JOIN {text}")
            for text, using in zip(self._own, usings)
        ]
        if with_outer:
            names = {item.alias_or_name for item in self._items}
            parts += [f" CROSS JOIN {self._bare(i)}" for i in self._scope.outer if i.alias_or_name not in names]
        return " FROM " + parts[0].removeprefix(" CROSS JOIN ") + "".join(parts[1:]) if parts else ""

    def _using(self, item: exp.Expression) -> str:
        join = item.parent
        columns = join.args.get("using") if isinstance(join, exp.Join) else None
        return ", ".join(to_text(c) for c in columns or ())

    def _bare(self, item: exp.Expression) -> str:
        cte = self._scope.ctes.get(item.name) if isinstance(item, exp.Table) and not item.args.get("db") else None
        derived = isinstance(item, exp.Subquery) and isinstance(item.this, exp.Query)
        if cte is None and not derived:
            plain = item.copy()
            plain.set("joins", None)
            return to_text(plain)
        query = cte if cte is not None else item
        schema = self._schema(query)
        aliases = query.args.get("alias")
        if aliases is not None and aliases.columns:
            schema = pa.schema([f.with_name(c.name) for f, c in zip(schema, aliases.columns)])
        alias = exp.to_identifier(item.alias or item.name, quoted=True)
        relation = exp.to_identifier(empty_relation(schema), quoted=True)
        return f"{to_text(relation)} AS {to_text(alias)}" if alias is not None and alias.name else to_text(relation)

    def _schema(self, query: exp.Expression) -> pa.Schema:
        bare = query.this.copy()
        names = [
            exp.CTE(this=c.this.copy(), alias=c.args["alias"].copy())
            for c in self._scope.ctes.values()
            if c is not query
        ]
        if names and isinstance(bare, exp.Query):
            own = bare.args.get("with_")
            bare.set("with_", exp.With(expressions=names + (own.expressions if own is not None else [])))
        return schema_of(bare, None)


def _place(node: exp.Expression, floats: bool) -> _Place | None:
    name = _call_name(node)
    if name in _AGGREGATES:
        args = node.expressions if isinstance(node, exp.Anonymous) else [node.this]
        operand = args[0].expressions[0] if args and isinstance(args[0], exp.Distinct) else args[0] if args else None
        return _Place(node, (operand,), _AGGREGATES[name]) if isinstance(operand, exp.Expression) else None
    if name in _CALLS and node.expressions:
        return _Place(node, tuple(node.expressions), _CALLS[name])
    if isinstance(node, exp.Mul | exp.Div):
        return _Place(node, (node.this, node.expression), _product if isinstance(node, exp.Mul) else _quotient)
    if isinstance(node, exp.Cast) and pa.types.is_string(_target(node)):
        return _Place(node, (node.this,), _text)
    if (
        isinstance(node, exp.Bracket)
        and len(node.expressions) == 1
        and not isinstance(node.expressions[0], exp.Literal)
    ):
        return _Place(node, (node.this,), _element)
    group = group_of(node) if floats else ()
    return _Place(node, group, make_doubles) if group else None


def _call_name(node: exp.Expression) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.this).upper()
    return node.sql_name().upper() if isinstance(node, exp.AggFunc) else ""


def _target(node: exp.Cast) -> Any:
    return arrow_type(node.to)


def _outermost(node: exp.Expression) -> exp.Expression:
    """The call with its FILTER, WITHIN GROUP and OVER."""
    while isinstance(node.parent, exp.Filter | exp.Window | exp.WithinGroup) and node.parent.this is node:
        node = node.parent
    return node


def _replaced(node: exp.Expression, build: Callable[[exp.Expression], exp.Expression]) -> None:
    """Replaces a call together with its FILTER and OVER, which `build` gets."""
    whole, place = _outermost(node), exp.Null()
    whole.replace(place)
    place.replace(build(whole))


def _renamed(whole: exp.Expression, name: str) -> exp.Expression:
    """A copy of a call with its FILTER and OVER under another function."""
    copy = whole.copy()
    call = copy
    while isinstance(call, exp.Filter | exp.Window | exp.WithinGroup):
        call = call.this
    args = call.expressions if isinstance(call, exp.Anonymous) else [call.this]
    renamed = exp.Anonymous(this=name, expressions=[a.copy() for a in args])
    if call is copy:
        return renamed
    call.replace(renamed)
    return copy


def _sum(node: exp.Expression, types: list[pa.DataType]) -> None:
    """SUM of a short integer is that integer, modulo its size; of a decimal DECIMAL(38, s); of FLOAT FLOAT."""
    (kind,) = types
    if kind in _PRECISION_OF and kind.bit_width < 64:
        _replaced(node, lambda w: exp.Anonymous(this=f"wrap_int{kind.bit_width}", expressions=[w]))
    elif pa.types.is_decimal(kind) and kind.precision + 10 < _MAX_PRECISION:
        _replaced(node, lambda w: custom_type(w, pa.decimal128(_MAX_PRECISION, kind.scale)))
    elif kind == pa.float32():
        _replaced(node, lambda w: custom_type(w, kind))


def _avg(node: exp.Expression, types: list[pa.DataType]) -> None:
    """AVG of integers is the integer quotient; of DECIMAL(p, s) DECIMAL(38, max(s, 6)), rounded half up."""
    (kind,) = types
    if isinstance(_outermost(node), exp.Window):
        _avg_over(node, kind)
    elif kind in _PRECISION_OF:
        _replaced(node, lambda w: custom_type(exp.Div(this=_renamed(w, "sum"), expression=_renamed(w, "count")), kind))
    elif pa.types.is_decimal(kind):
        scale = max(kind.scale, _MIN_DIVISION_SCALE)

        def mean(whole: exp.Expression) -> exp.Expression:
            total = custom_type(_renamed(whole, "sum"), pa.decimal128(_MAX_PRECISION, max(kind.scale, scale - 3)))
            return custom_type(exp.Div(this=total, expression=_renamed(whole, "count")), pa.decimal128(38, scale))

        _replaced(node, mean)
    elif kind == pa.float32():
        _replaced(node, lambda w: custom_type(w, kind))


def _avg_over(node: exp.Expression, kind: pa.DataType) -> None:
    """AVG OVER stays one function, so that what is said of it names it; only its type changes."""
    if kind in _PRECISION_OF or kind == pa.float32():
        _replaced(node, lambda w: custom_type(w, kind))
    elif pa.types.is_decimal(kind):
        _replaced(node, lambda w: custom_type(w, pa.decimal128(38, max(kind.scale, _MIN_DIVISION_SCALE))))


def _string_agg(node: exp.Expression, types: list[pa.DataType]) -> None:
    """LISTAGG is a STRING; DataFusion's is a large one."""
    _replaced(node, lambda w: custom_type(w, pa.string()))


def _decimal(kind: pa.DataType) -> tuple[int, int] | None:
    """Precision and scale of a number in decimal arithmetic."""
    if pa.types.is_decimal(kind):
        return kind.precision, kind.scale
    return (_PRECISION_OF[kind], 0) if kind in _PRECISION_OF else None


def _operands(types: list[pa.DataType]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    left, right = map(_decimal, types)
    is_decimal = any(map(pa.types.is_decimal, types))
    return (left, right) if left is not None and right is not None and is_decimal else None


def bounded_decimal(precision: int, scale: int) -> pa.DataType:
    """The type of this size, or with 38 digits of which the whole part keeps as many as it needs (six decimals at least)."""
    if precision > _MAX_PRECISION:
        whole = precision - scale
        scale = max(_MAX_PRECISION - whole, min(scale, _MIN_DIVISION_SCALE))
        precision = _MAX_PRECISION
    return pa.decimal128(precision, scale)


def _product(node: exp.Expression, types: list[pa.DataType]) -> exp.Expression | None:
    """DECIMAL(p1, s1) * DECIMAL(p2, s2) is DECIMAL(p1 + p2, s1 + s2)."""
    operands = _operands(types)
    if operands is None:
        return None
    (p1, s1), (p2, s2) = operands
    result = bounded_decimal(p1 + p2, s1 + s2)
    if result.scale == s1 + s2 and not _is_output(node):
        node.meta[_TYPE] = result  # the same value: only a column that is shown pays for a cast
        return None
    return custom_type(exp.Mul(this=node.this, expression=node.expression), result)


def _is_output(node: exp.Expression) -> bool:
    """Whether the node is an item of the select list."""
    while isinstance(node.parent, exp.Paren | exp.Alias):
        node = node.parent
    return isinstance(node.parent, exp.Select)


def _quotient(node: exp.Expression, types: list[pa.DataType]) -> exp.Expression | None:
    """DECIMAL(p1, s1) / DECIMAL(p2, s2) has scale max(6, s1 + p2 + 1), rounded half up.

    DataFusion's quotient has four digits more than the dividend and is cut: the dividend gets enough to round on.
    """
    operands = _operands(types)
    if operands is None:
        return None
    (p1, s1), (p2, s2) = operands
    scale = max(_MIN_DIVISION_SCALE, s1 + p2 + 1)
    result = bounded_decimal(p1 - s1 + s2 + scale, scale)
    wanted = min(max(s1, result.scale - 3), _MAX_PRECISION - (p1 - s1))
    dividend = custom_type(node.this, pa.decimal128(_MAX_PRECISION, max(s1, wanted)))
    return custom_type(exp.Div(this=dividend, expression=node.expression), result)


_TIME_TEXT = {"s": "%Y-%m-%d %H:%M:%S", "ms": "%Y-%m-%d %H:%M:%S%.3f"}


def _text(node: exp.Expression, types: list[pa.DataType]) -> exp.Expression | None:
    """CAST AS STRING of a boolean (TRUE) and a time (2020-01-01 10:00:00.123)."""
    (kind,) = types
    if pa.types.is_boolean(kind):
        return filled("CASE WHEN _0 THEN 'TRUE' WHEN NOT _0 THEN 'FALSE' END", node.this)
    if pa.types.is_timestamp(kind):
        form = _TIME_TEXT.get(kind.unit, "%Y-%m-%d %H:%M:%S%.6f")
        return filled("to_char(_0, _1)", node.this, exp.Literal.string(form))
    return None


def _element(node: exp.Expression, types: list[pa.DataType]) -> exp.Expression | None:
    """m[key] where the key is no constant."""
    if not pa.types.is_map(types[0]):
        return None
    return filled("array_element(map_extract(_0, _1), 1)", node.this, node.expressions[0])


def _typeof(node: exp.Expression, types: list[pa.DataType]) -> exp.Expression:
    return exp.Literal.string(str(from_arrow(types[0])))


def _json_of(node: exp.Expression, types: list[pa.DataType]) -> exp.Expression:
    """A value as JSON text: numbers and booleans as they are, the rest as strings."""
    (kind,) = types
    plain = (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )
    template = "CAST(_0 AS VARCHAR)" if plain else "json_quote(CAST(_0 AS VARCHAR))"
    return filled(f"coalesce({template}, 'null')", node.expressions[0])


def _truncated(node: exp.Expression, types: list[pa.DataType]) -> exp.Expression | None:
    """FLOOR(date TO unit) is a DATE."""
    return custom_type(node.copy(), types[1]) if pa.types.is_date(types[1]) else None


_AGGREGATES: dict[str, Any] = {"SUM": _sum, "AVG": _avg, "STRING_AGG": _string_agg}
_CALLS: dict[str, _Rewrite] = {"TYPEOF": _typeof, "JSON_OF": _json_of, "DATE_TRUNC": _truncated}
