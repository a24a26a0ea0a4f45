"""Query to typed logical plan: rewrite for DataFusion, let it resolve and optimize, walk its plan, apply the rules.

The one place where DataFusion's errors and panics become ours, with the line and column of the token that they name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from sqlglot import exp
from sqlglot.tokens import Tokenizer

from forebay.engine.errors import InternalError, SqlError, UnsupportedError
from forebay.planner import rules
from forebay.planner.assign import assigned
from forebay.planner.build import project
from forebay.planner.expr import Column
from forebay.planner.functions import is_volatile_function, session_context
from forebay.planner.nodes import Node, Sink
from forebay.planner.rewrite import CatalogView, Relation, Rewriter
from forebay.planner.rules.refuse_pending import refuse_pending
from forebay.planner.sqltext import to_text
from forebay.planner.walk import Walker

__all__ = ["Binder", "CatalogView", "Relation"]


class Binder:
    """Binds queries against a catalog. `sql`, where given, is the text that the query was parsed from."""

    def __init__(self, catalog: CatalogView) -> None:
        self._catalog = catalog

    def bind(self, query: exp.Expression, sql: str | None = None) -> Node:
        """The logical plan of a continuous query; the output's names are those of the select list.

        Raises:
            SqlError: a name, type or shape is wrong, with its place in `sql`.
            UnsupportedError: a construct that streaming cannot run, by name.
        """
        rewritten = Rewriter(self._catalog, sql).rewrite(query)
        context = session_context()
        plan, schema = optimized(context, to_text(rewritten.query), sql)
        try:
            node = rules.apply(named(Walker(context, rewritten.leaves, is_volatile_function).node(plan), schema))
            refuse_pending(node)
        except UnsupportedError as error:
            raise placed(error, sql) from error
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


def named(node: Node, schema: pa.Schema) -> Node:
    """The node under the names that the query gives its columns."""
    fields = [f.with_name(name) for f, name in zip(node.schema, schema.names)]
    return project(node, tuple(map(Column, range(len(fields)))), pa.schema(fields))


def optimized(context: Any, text: str, sql: str | None) -> tuple[Any, pa.Schema]:
    """DataFusion's optimized plan of the text, and its schema as written."""
    try:
        frame = context.sql(text)
        return frame.optimized_logical_plan(), frame.schema()
    except Exception as error:
        raise explained(str(error), sql) from error
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":
            raise
        raise InternalError("the planner failed on this statement", detail=str(panic), hint="simplify it") from panic


_PREFIXES = re.compile(
    r"^(DataFusion error: |Error during planning: |Schema error: |SQL error: |ParserError\(|type_coercion\s+caused by\s+"
    r"|Optimizer rule '\w+' failed\s+caused by\s+|caused by\s+|Execution error: |Arrow error: |Invalid argument error: "
    r"|This feature is not implemented: |Diagnostic: )+",
)
_NAMED = re.compile(
    r"(?:No field named|Invalid function|Column|column|Ambiguous reference to unqualified field) "
    r"[`'\"]?([\w.\"$]+?)[`'\"]?(?:[.,;\s]|$)"
)


def explained(message: str, sql: str | None) -> SqlError:
    """DataFusion's message as ours, with the place of the name that it speaks of."""
    text = _PREFIXES.sub("", message.strip()).strip()
    found = _NAMED.search(text)
    line = column = None
    if found and sql is not None:
        name = found.group(1).strip('."').split(".")[-1].strip('"')
        line, column = find_token(sql, name)
    head, _, rest = text.partition(". ")
    head = head[:1].lower() + head[1:]
    return SqlError(head.rstrip("."), sql=sql, line=line, column=column, detail=rest or None)


def find_token(sql: str, name: str) -> tuple[int | None, int | None]:
    """Line and column of the first token that spells the name."""
    for token in Tokenizer().tokenize(sql):
        if token.text.lower() == name.lower():
            before = sql[: token.start]
            return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return None, None
