"""DataFusion as planner: a query's text in, our plan or our error out.

The one place where DataFusion's errors and panics become ours, with the line and column of the token that they name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyarrow as pa
from sqlglot import exp
from sqlglot.tokens import Tokenizer

from forebay.engine.errors import InternalError, SqlError
from forebay.planner.functions import is_volatile_function, planning_context
from forebay.planner.nodes import Node
from forebay.planner.sqltext import to_text
from forebay.planner.walk import Leaf, Walker


def planned(query: exp.Expression, leaves: Mapping[str, Leaf], sql: str | None) -> tuple[Node, pa.Schema]:
    """The plan of a rewritten query and its schema as written.

    Raises:
        SqlError: a name or type is wrong; `sql` is the text that the error shows.
        UnsupportedError: a construct without a plan.
    """
    context = planning_context()
    plan, schema = optimized(context, to_text(query), sql)
    return Walker(context, leaves, is_volatile_function).node(plan), schema


def schema_of(query: exp.Expression, sql: str | None) -> pa.Schema:
    """The columns of a rewritten query."""
    return _guarded(lambda: planning_context().sql(to_text(query)).schema(), sql)


def schema_if_valid(text: str) -> pa.Schema | None:
    """The columns of a query's text; None if it cannot be planned."""
    try:
        return _guarded(lambda: planning_context().sql(text).schema(), None)
    except (SqlError, InternalError):
        return None


def optimized(context: Any, text: str, sql: str | None) -> tuple[Any, pa.Schema]:
    """DataFusion's optimized plan of the text, and its schema as written."""

    def plan() -> tuple[Any, pa.Schema]:
        frame = context.sql(text)
        return frame.optimized_logical_plan(), frame.schema()

    return _guarded(plan, sql)


T = TypeVar("T")


def _guarded(work: Callable[[], T], sql: str | None) -> T:
    """Runs DataFusion; what it raises, a Rust panic included, becomes ours."""
    try:
        return work()
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
