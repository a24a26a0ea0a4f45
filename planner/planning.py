"""DataFusion as planner: a query's text in, our plan or our error out.

The one place that calls DataFusion's planner, so that its errors and Rust's panics come out as ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyarrow as pa
from sqlglot import exp

from forebay.engine.errors import InternalError, SqlError
from forebay.planner.functions import is_volatile_function, planning_context
from forebay.planner.messages import explained
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
