"""From Flink's query tree to one that DataFusion plans: tables become leaves, views are expanded, names made explicit.

A leaf is an empty relation under a generated name, aliased to the name that the query uses, so error messages speak the
user's words. Views are spliced in as subqueries, each at most once on a path (a view over itself is an error).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
from sqlglot import exp

from forebay.engine.errors import CatalogError, SqlError, UnsupportedError, nearest
from forebay.planner.approximate import has_float
from forebay.planner.builtins import translated
from forebay.planner.dialect.nodes import WindowTVF
from forebay.planner.functions import empty_relation
from forebay.planner.hints import hint_options, state_ttls
from forebay.planner.nodes import Node, Scan
from forebay.planner.pending import Hinted
from forebay.planner.planning import schema_of
from forebay.planner.relation import CatalogView, Relation
from forebay.planner.result_types import with_flink_types
from forebay.planner.scopes import cte_of, ctes_in_sight, from_items, may_give_many_rows, position
from forebay.planner.unnest import without_unnests
from forebay.planner.walk import Leaf
from forebay.planner.window_functions import window_leaf

__all__ = ["CatalogView", "Relation", "Rewriter", "Rewritten"]

_REFUSED = {exp.MatchRecognize: "MATCH_RECOGNIZE", exp.TableSample: "TABLESAMPLE", exp.Pivot: "PIVOT"}
_TTL = "state_ttl"
"""Meta key of a table's time to live in ms."""
BESIDE_STAR = "\x1e"
"""Ends the name of a column that is selected beside `*`."""
_RANKINGS = frozenset(("ROW_NUMBER", "RANK", "DENSE_RANK", "NTILE"))
"""DataFusion numbers rows in UInt64; in Flink the numbers are BIGINT."""


@dataclass(slots=True)
class Rewritten:
    """A query for DataFusion and what its tables stand for."""

    query: exp.Expression
    leaves: dict[str, Leaf] = field(default_factory=dict)


class Rewriter:
    """Rewrites one statement's query. `sql` is the statement's text, for positions in errors."""

    def __init__(self, catalog: CatalogView, sql: str | None = None) -> None:
        self._catalog = catalog
        self._sql = sql
        self._views: list[str] = []
        self._floats = False
        self.leaves: dict[str, Leaf] = {}

    def rewrite(self, query: exp.Expression) -> Rewritten:
        """The query over leaves.

        Raises:
            CatalogError: a relation is unknown.
            UnsupportedError: a construct that has no plan, by name.
        """
        query = query.copy()
        if isinstance(query, exp.Select):
            _set_apart(query)
        return Rewritten(with_flink_types(self._query(query), self._floats), self.leaves)

    def _query(self, query: exp.Expression) -> exp.Expression:
        holder = exp.Subquery(this=query)
        self._refuse(holder)
        for select in list(holder.find_all(exp.Select)):
            self._mark_ttls(select)
            fetch = select.args.get("limit")
            if isinstance(fetch, exp.Fetch):
                select.set("limit", exp.Limit(expression=fetch.args["count"]))
        for window in reversed(list(holder.find_all(WindowTVF))):
            window.replace(self._window(window))
        for table in list(holder.find_all(exp.Table)):
            if isinstance(table.this, exp.Identifier) and table.name not in self.leaves and cte_of(table) is None:
                table.replace(self._relation(table))
        for select in list(holder.find_all(exp.Select)):
            name_items(select)
        for node in list(holder.walk(bfs=False))[:0:-1]:
            changed = self._translated(node)
            if changed is not None:
                node.replace(changed)
        for select in reversed(list(holder.find_all(exp.Select))):
            if any(isinstance(join.this, exp.Unnest) for join in select.args.get("joins") or ()):
                self._unnest(select)
        return holder.this

    def _unnest(self, select: exp.Select) -> None:
        place = next(j.this for j in select.args["joins"] if isinstance(j.this, exp.Unnest))
        try:
            without_unnests(select, lambda query: schema_of(query, None))
        except SqlError as error:
            raise self._placed(error, place) from error
        name_items(select)

    def _relation(self, table: exp.Table) -> exp.Expression:
        name = ".".join(part.name for part in table.parts)
        relation = self._catalog.relation(name, hint_options(table))
        if relation is None:
            known = nearest(name, self._catalog.relation_names())
            line, column = position(table.this, self._sql)
            hint = f"did you mean {known}?" if known else "SHOW TABLES lists what exists"
            raise CatalogError(f"table {name} does not exist", sql=self._sql, line=line, column=column, hint=hint)
        alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name, quoted=True))
        if relation.view is not None:
            return self._view(relation, alias)
        leaf = self._leaf(relation, hint_options(table), table.meta.get(_TTL))
        return exp.Table(this=exp.to_identifier(leaf, quoted=True), alias=alias, joins=table.args.get("joins"))

    def _leaf(self, relation: Relation, options: tuple[tuple[str, str], ...], ttl: int | None) -> str:
        """Registers the relation once per set of hints; equal scans share their leaf."""
        self._floats = self._floats or has_float(relation.schema)
        name = empty_relation(relation.schema, f"{relation.name} {options} {ttl}")

        def scan(columns: tuple[str, ...], schema: pa.Schema) -> Node:
            node = Scan(schema, relation.name, columns, options)
            return node if ttl is None else Hinted(schema, node, ttl)

        self.leaves[name] = Leaf(relation.name, scan)
        return name

    def _view(self, relation: Relation, alias: exp.TableAlias) -> exp.Expression:
        if relation.name in self._views:
            path = " -> ".join([*self._views, relation.name])
            raise SqlError(f"view {relation.name} reads itself", detail=path, sql=self._sql)
        self._views.append(relation.name)
        outer, self._sql = self._sql, None
        query = self._query(relation.view.copy()) if relation.view is not None else exp.Select()
        self._sql = outer
        self._views.pop()
        if not alias.columns and len(relation.schema):
            alias = alias.copy()
            alias.set("columns", [exp.to_identifier(n, quoted=True) for n in relation.schema.names])
        return exp.Subquery(this=query, alias=alias)

    def _refuse(self, query: exp.Expression) -> None:
        """Raises for constructs that have no plan, by name."""
        for node in query.walk():
            if isinstance(node, exp.Select) and not node.expressions:
                raise self._placed(SqlError("SELECT selects nothing", hint="name columns, or write *"), node)
            if isinstance(node, exp.With) and node.args.get("recursive"):
                raise self._unsupported(node, "WITH RECURSIVE is not supported")
            if isinstance(node, exp.Table) and node.args.get("version") is not None:
                raise self._unsupported(
                    node,
                    "FOR SYSTEM_TIME AS OF (a temporal or lookup join) is not supported",
                    "join the table itself: the result is then kept up to date when the table changes",
                )
            for kind, name in _REFUSED.items():
                if isinstance(node, kind):
                    raise self._unsupported(node, f"{name} is not supported")
            if isinstance(node, exp.Subquery) and _is_value(node) and may_give_many_rows(node):
                raise self._unsupported(
                    node,
                    "a subquery that stands for one value may give many rows",
                    "aggregate it (MAX), or add LIMIT 1",
                )
            if isinstance(node, exp.Distinct) and node.args.get("on") is not None:
                raise self._unsupported(node, "DISTINCT ON is not supported", "use ROW_NUMBER() OVER (...) = 1")
            if isinstance(node, exp.Lateral) and not isinstance(node.this, exp.Unnest):
                raise self._unsupported(
                    node, "LATERAL and table functions are not supported", "use CROSS JOIN UNNEST(...)"
                )

    def _mark_ttls(self, select: exp.Select) -> None:
        """Notes the time to live of a STATE_TTL hint at the tables that it names."""
        ttls = state_ttls(select)
        items = [item for item in from_items(select) if isinstance(item, exp.Table)]
        for name, ttl in ttls.items():
            named = [item for item in items if name in (item.alias, item.name)]
            if not named:
                message = f"STATE_TTL names {name}, which is no table of this SELECT"
                raise self._placed(SqlError(message, hint="use the table's alias in FROM"), select)
            named[0].meta[_TTL] = ttl
        select.set("hint", None)

    def _window(self, window: WindowTVF) -> exp.Expression:
        """A window function as a leaf; its input is rewritten on its own, with the WITH queries that it may name."""
        source = window.args["input"]
        if isinstance(source, exp.Select):
            source = exp.Subquery(this=source)
        ctes = ctes_in_sight(window)
        query = exp.select("*").from_(source.copy(), copy=False)
        if ctes:
            query.set("with_", exp.With(expressions=[cte.copy() for cte in ctes]))
        query = with_flink_types(self._query(query), self._floats)
        try:
            name, leaf = window_leaf(window, query, self.leaves)
        except SqlError as error:
            raise self._placed(error, window.args["timecol"]) from error
        self.leaves[name] = leaf
        return exp.Table(
            this=exp.to_identifier(name, quoted=True), alias=window.args.get("alias"), joins=window.args.get("joins")
        )

    def _placed(self, error: SqlError, at: exp.Expression) -> SqlError:
        """The error with the place of a node, if it has none."""
        if error.line is None:
            error.line, error.column = position(at, self._sql)
            error.sql = self._sql
        return error

    def _translated(self, node: exp.Expression) -> exp.Expression | None:
        """The node in DataFusion's words, if they differ; an error gets the node's place."""
        try:
            if isinstance(node, exp.Window) and _function_name(node) in _RANKINGS:
                return exp.Cast(this=node.copy(), to=exp.DataType.build("BIGINT"))
            return translated(node)
        except SqlError as error:
            raise self._placed(error, node) from error

    def _unsupported(self, at: exp.Expression, message: str, hint: str | None = None) -> UnsupportedError:
        line, column = position(at, self._sql)
        return UnsupportedError(message, sql=self._sql, line=line, column=column, hint=hint)


def _is_value(subquery: exp.Subquery) -> bool:
    """Whether the subquery stands for a value within an expression."""
    parent = subquery.parent
    while isinstance(parent, exp.Subquery | exp.Paren):
        parent = parent.parent
    tables = (
        exp.From
        | exp.Join
        | exp.In
        | exp.Exists
        | exp.Any
        | exp.All
        | exp.CTE
        | exp.SetOperation
        | exp.Lateral
        | WindowTVF
    )
    return parent is not None and not isinstance(parent, tables)


def _function_name(window: exp.Window) -> str:
    call = window.this
    if not isinstance(call, exp.Func):
        return ""  # a window that is only named here
    return str(call.this).upper() if isinstance(call, exp.Anonymous) else str(call.sql_name())


def _set_apart(select: exp.Select) -> None:
    """Columns beside a `*` that gives them too: DataFusion wants other names, which `binder.distinct` takes back."""
    items = select.expressions
    if any(item.is_star for item in items):
        for item in [i for i in items if isinstance(i, exp.Column) and not i.is_star]:
            item.replace(exp.alias_(item.copy(), item.name + BESIDE_STAR, quoted=True))


def name_items(select: exp.Select) -> None:
    """Gives every item of the select list an alias of its own: `a`, then `a0`; EXPR$n for what has no name."""
    taken: set[str] = set()
    items: list[exp.Expression] = []
    for i, item in enumerate(select.expressions):
        if item.is_star:
            items.append(item)
            continue
        base = item.alias or (item.name if isinstance(item, exp.Column | exp.Dot) else "") or f"EXPR${i}"
        base = base.rsplit("\x1f", 1)[-1]  # a column of an UNNEST
        name, n = base, 0
        while name in taken:
            name, n = f"{base}{n}", n + 1
        taken.add(name)
        plain = item.this if isinstance(item, exp.Alias) else item
        items.append(exp.alias_(plain, name, quoted=True, copy=False))
    select.set("expressions", items)
