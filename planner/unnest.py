"""UNNEST in FROM, of the columns of a table before it, as an unnest in that table's select list.

`t CROSS JOIN UNNEST(t.items) AS u (sku, n)` becomes `(SELECT t.*, e.sku, e.n FROM (SELECT t.*, unnest(t.items) AS e FROM t)) AS
t`; what the query calls `u.sku` gets a name inside `t` that no table's column has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import exp

from forebay.engine.errors import SqlError, UnsupportedError
from forebay.planner.build import is_list
from forebay.planner.scopes import ctes_in_sight, from_items
from forebay.planner.sqltext import custom_type

SchemaOf = Callable[[exp.Expression], pa.Schema]
_ELEMENT = "\x1felement"


@dataclass(frozen=True, slots=True)
class _Unnested:
    """An UNNEST of `source`'s columns: its alias and, by the query's name, the columns that it gives."""

    source: exp.Expression
    source_schema: pa.Schema
    alias: str
    columns: dict[str, exp.Expression]

    @property
    def name(self) -> str:
        return str(self.source.alias_or_name)

    def hidden(self, column: str) -> str:
        return f"{self.alias}\x1f{column}"


def without_unnests(select: exp.Select, schema_of: SchemaOf) -> None:
    """Rewrites every UNNEST in the FROM of `select`, in place; `schema_of` plans a query over its rewritten tables.

    Raises:
        SqlError: what is unnested is no array or map, or the columns of its alias do not fit.
        UnsupportedError: UNNEST of several arrays, or WITH ORDINALITY.
    """
    joins = [j for j in select.args.get("joins") or () if isinstance(j.this, exp.Unnest)]
    for join in joins:
        join.pop()
        unnested = _replace(select, join, schema_of)
        if any(isinstance(item, exp.Star) for item in select.expressions):
            _expand_star(select, unnested, schema_of)
        _rename(select, unnested)


def _planned(query: exp.Select, place: exp.Expression, schema_of: SchemaOf) -> pa.Schema:
    ctes = ctes_in_sight(place)
    if ctes:
        query.set("with_", exp.With(expressions=[cte.copy() for cte in ctes]))
    return schema_of(query)


def _bare(item: exp.Expression) -> exp.Expression:
    copy = item.copy()
    copy.set("joins", None)
    return copy


def _columns(item: exp.Expression, schema_of: SchemaOf) -> pa.Schema:
    return _planned(exp.select("*").from_(_bare(item), copy=False), item, schema_of)


def _replace(select: exp.Select, join: exp.Join, schema_of: SchemaOf) -> _Unnested:
    unnest = join.this
    if len(unnest.expressions) != 1:
        raise UnsupportedError("UNNEST of several arrays at once is not supported", hint="unnest one at a time")
    if unnest.args.get("offset"):
        raise UnsupportedError("UNNEST WITH ORDINALITY is not supported")
    value = unnest.expressions[0]
    source, schema = _source(select, value, schema_of)
    probe = exp.select(exp.alias_(value.copy(), "v")).from_(_bare(source), copy=False)
    kind = _planned(probe, source, schema_of).field(0).type
    alias = unnest.args.get("alias")
    fields = _fields(kind, [c.name for c in alias.columns] if alias is not None else [], unnest.alias)
    unnested = _Unnested(source.copy(), schema, unnest.alias, fields)
    source.replace(_derived(unnested, _elements(value, kind, join.side == "LEFT")))
    return unnested


def _source(select: exp.Select, value: exp.Expression, schema_of: SchemaOf) -> tuple[exp.Expression, pa.Schema]:
    """The FROM item whose columns the unnested expression reads."""
    items = [i for i in from_items(select) if not isinstance(i, exp.Unnest)]
    first = next((c.parts[0].name for c in value.find_all(exp.Column)), None)
    if first is None:
        raise UnsupportedError("UNNEST of a constant is not supported", hint="write the rows as VALUES")
    for item in items:
        schema = _columns(item, schema_of)
        if first in (item.alias_or_name, *schema.names):
            return item, schema
    raise SqlError(f"UNNEST reads {first}, which no table before it has")


def _fields(kind: pa.DataType, names: list[str], alias: str) -> dict[str, exp.Expression]:
    """The columns of an element by the name that the query gives them."""
    element = exp.column(_ELEMENT, quoted=True)
    parts: list[tuple[str, exp.Expression]]
    if pa.types.is_map(kind):
        parts = [("KEY", _field(element, "key")), ("VALUE", _field(element, "value"))]
    elif not is_list(kind):
        raise SqlError(f"UNNEST takes an ARRAY or a MAP, not {kind}")
    elif pa.types.is_struct(kind.value_type):
        parts = [(f.name, _field(element, f.name)) for f in kind.value_type]
    else:
        parts = [(alias or "EXPR$0", element)]
    if names and len(names) != len(parts):
        raise SqlError(f"the alias of UNNEST names {len(names)} columns, its elements have {len(parts)}")
    return {name: part for name, (_, part) in zip(names or [n for n, _ in parts], parts)}


def _field(element: exp.Expression, name: str) -> exp.Expression:
    return exp.Anonymous(this="get_field", expressions=[element.copy(), exp.Literal.string(name)])


def _elements(value: exp.Expression, kind: pa.DataType, outer: bool) -> exp.Expression:
    """The list to unnest; with LEFT JOIN an absent or empty one has one element, NULL."""
    items = value.copy()
    element = kind.value_type if is_list(kind) else None
    if pa.types.is_map(kind):
        items = exp.Anonymous(this="map_entries", expressions=[items])
        element = pa.struct([pa.field("key", kind.key_type, False), pa.field("value", kind.item_type)])
    if not outer:
        return items
    nothing = exp.Anonymous(this="make_array", expressions=[custom_type(exp.Null(), element)])
    count = exp.Anonymous(this="cardinality", expressions=[items.copy()])
    empty = exp.EQ(this=exp.Coalesce(this=count, expressions=[exp.Literal.number(0)]), expression=exp.Literal.number(0))
    return exp.Case(ifs=[exp.If(this=empty, true=nothing)], default=items)


def _derived(unnested: _Unnested, items: exp.Expression) -> exp.Expression:
    """The source with the element's columns behind its own, under the source's name."""
    own = [exp.column(n, table=unnested.name, quoted=True) for n in unnested.source_schema.names]
    call = exp.alias_(exp.Anonymous(this="unnest", expressions=[items]), _ELEMENT, quoted=True)
    inner = exp.select(*own, call, copy=False).from_(_bare(unnested.source), copy=False)
    kept = [exp.column(n, quoted=True) for n in unnested.source_schema.names]
    parts = [exp.alias_(e.copy(), unnested.hidden(n), quoted=True) for n, e in unnested.columns.items()]
    outer = exp.select(*kept, *parts, copy=False).from_(exp.Subquery(this=inner), copy=False)
    alias = exp.TableAlias(this=exp.to_identifier(unnested.name, quoted=True))
    return exp.Subquery(this=outer, alias=alias, joins=unnested.source.args.get("joins"))


def _rename(select: exp.Select, unnested: _Unnested) -> None:
    """Points the query's names for the element's columns at the derived table's."""
    for column in list(select.find_all(exp.Column)):
        qualified = column.table == unnested.alias and column.name in unnested.columns
        free = not column.table and column.name in unnested.columns and column.name not in unnested.source_schema.names
        if qualified or (free and not _inside(column, unnested)):
            column.set("this", exp.to_identifier(unnested.hidden(column.name), quoted=True))
            column.set("table", exp.to_identifier(unnested.name, quoted=True))


def _inside(column: exp.Expression, unnested: _Unnested) -> bool:
    """Whether the column stands within a subquery of FROM, which cannot see the element."""
    node = column.parent
    while node is not None:
        if isinstance(node, exp.Subquery) and isinstance(node.parent, exp.From | exp.Join):
            return True
        node = node.parent
    return False


def _expand_star(select: exp.Select, unnested: _Unnested, schema_of: SchemaOf) -> None:
    """SELECT *: every table's columns, the element's under the query's names."""
    items: list[exp.Expression] = []
    for item in from_items(select):
        if isinstance(item, exp.Unnest):
            continue
        name = item.alias_or_name
        if name == unnested.name:
            items += [exp.column(n, table=name, quoted=True) for n in unnested.source_schema.names]
            items += [exp.column(n, table=unnested.alias, quoted=True) for n in unnested.columns]
        else:
            items += [exp.column(n, table=name, quoted=True) for n in _columns(item, schema_of).names]
    rest = [i for i in select.expressions if not isinstance(i, exp.Star)]
    select.set("expressions", [*items, *rest])
