"""Query to typed logical plan: rewrite for DataFusion, let it resolve and optimize, walk its plan, apply the rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa
from sqlglot import exp

from forebay.engine.errors import SqlError, UnsupportedError
from forebay.planner import rules
from forebay.planner.assign import assigned
from forebay.planner.build import project
from forebay.planner.expr import Column
from forebay.planner.lifetimes import with_lifetimes
from forebay.planner.messages import find_token
from forebay.planner.nodes import Node, Sink
from forebay.planner.planning import planned
from forebay.planner.relation import CatalogView, Relation
from forebay.planner.rewrite import BESIDE_STAR, Rewriter
from forebay.planner.rules.join_ttl import drop_hint
from forebay.planner.rules.refuse_pending import refuse_pending

__all__ = ["Binder", "CatalogView", "Relation", "notices"]


class Binder:
    """Binds queries against a catalog. `sql`, where given, is the text that the query was parsed from."""

    def __init__(self, catalog: CatalogView, ttl: int = 0) -> None:
        """`ttl`: how long the rows of joins live in ms, where neither a hint nor a table says; 0: for ever."""
        self._catalog = catalog
        self._ttl = ttl

    def bind(self, query: exp.Expression, sql: str | None = None, names: Sequence[str] = ()) -> Node:
        """The logical plan of a continuous query; the output's names are `names`, else those of the select list.

        Raises:
            SqlError: a name, type or shape is wrong, with its place in `sql`.
            UnsupportedError: a construct that streaming cannot run, by name.
        """
        return self._planned(query, sql, rules.apply, names)

    def bind_batch(self, query: exp.Expression, sql: str | None = None) -> Node:
        """The plan of a query that is answered once: any OVER window, ORDER BY and OFFSET are in their place.

        `planner.plansql.plan_to_sql` turns it into text for DataFusion.
        """
        return self._planned(query, sql, lambda node: node, ())

    def _planned(
        self, query: exp.Expression, sql: str | None, rewrite: Callable[[Node], Node], names: Sequence[str]
    ) -> Node:
        try:
            rewritten = Rewriter(self._catalog, sql).rewrite(query)
            node, schema = planned(rewritten.query, rewritten.leaves, sql)
            if names and len(names) != len(schema):
                raise SqlError(f"{len(names)} column names are given, the query has {len(schema)} columns", sql=sql)
            node = drop_hint(rewrite(named(node, list(names) or distinct(schema.names))))
            if rewrite is rules.apply:
                refuse_pending(node)
                node = with_lifetimes(node, self._catalog, self._ttl)
        except UnsupportedError as error:
            raise placed(error, sql) from error
        except RecursionError as error:
            raise SqlError("the statement is nested too deeply", sql=sql, hint="split it into views") from error
        return node

    def bind_insert(
        self,
        query: exp.Expression,
        table: str,
        target: pa.Schema,
        columns: Sequence[str] | None = None,
        sql: str | None = None,
        options: tuple[tuple[str, str], ...] = (),
    ) -> Sink:
        """The plan of INSERT INTO `table` [(`columns`)] `query`; `target` holds the table's writable columns.

        Raises:
            SqlError: as `bind`; or a column's type does not fit, and the message names the column.
        """
        rows = assigned(self.bind(query, sql), table, target, columns, sql)
        return Sink(rows.schema, rows, table, options)


def placed(error: UnsupportedError, sql: str | None) -> UnsupportedError:
    """The error with the place of the construct that it names, where it has none yet."""
    if error.line is None and sql is not None:
        words = (word for word in re.findall(r"[A-Z_]{4,}", error.message))
        error.line, error.column = next((at for at in (find_token(sql, w) for w in words) if at[0]), (None, None))
        error.sql = sql
    return error


def notices(query: exp.Expression) -> list[str]:
    """What a continuous query silently leaves out, for its user to know."""
    if query.args.get("order") is not None and query.args.get("limit") is None and query.args.get("fetch") is None:
        return ["ORDER BY without LIMIT is dropped: the rows of a continuous result have no order"]
    return []


def distinct(names: Sequence[str]) -> list[str]:
    """Names of their own for columns that `*` gives more than once: `a`, then `a0`, `a1`, as in Flink."""
    found: dict[str, None] = {}
    for base in (name.removesuffix(BESIDE_STAR) for name in names):
        tries = (base, *(f"{base}{n}" for n in range(len(names))))
        found[next(name for name in tries if name not in found)] = None
    return list(found)


def named(node: Node, names: Sequence[str]) -> Node:
    """The node under the names that the query gives its columns."""
    fields = [f.with_name(name) for f, name in zip(node.schema, names)]
    return project(node, tuple(map(Column, range(len(fields)))), pa.schema(fields))
