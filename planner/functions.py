"""The one DataFusion session of planning, streaming evaluation and snapshot queries, with every function registered.

One session means one meaning: an expression has the same types and values wherever it runs.
"""

from __future__ import annotations

import itertools
import threading
from functools import cache
from typing import Any

import pyarrow as pa
from datafusion import SessionConfig, SessionContext

_SETTINGS = {
    "datafusion.sql_parser.enable_ident_normalization": "false",
    "datafusion.sql_parser.parse_float_as_decimal": "true",
    "datafusion.sql_parser.default_null_ordering": "nulls_min",
    "datafusion.sql_parser.map_string_types_to_utf8view": "false",
    "datafusion.sql_parser.recursion_limit": "500",
    "datafusion.execution.target_partitions": "1",
    "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery": "false",
}
_REMOVED_RULES = (  # of planning; evaluation and snapshot queries keep all of DataFusion's
    "common_sub_expression_eliminate",  # the evaluator does it again, and a plan with whole expressions reads better
    "extract_leaf_expressions",  # they rename columns to serve scans that can read parts of a row; ours cannot
    "push_down_leaf_projections",
)
_lock = threading.Lock()
_numbers = itertools.count()


def new_session_context() -> Any:
    """A session with Forebay's settings and functions, for evaluation and snapshot queries."""
    context = SessionContext(SessionConfig(_SETTINGS))
    # It turns one DISTINCT call into two groupings and widens decimal sums; our DISTINCT states are shared instead.
    context.remove_optimizer_rule("single_distinct_aggregation_to_group_by")
    return context


@cache
def session_context() -> Any:
    """The process's session for planning: it holds empty relations only."""
    context = new_session_context()
    for rule in _REMOVED_RULES:
        context.remove_optimizer_rule(rule)
    return context


def empty_relation(schema: pa.Schema, key: str = "") -> str:
    """The name of an empty relation of this schema in the shared session, the same for an equal schema and key."""
    with _lock:
        return _registered(schema, key)


@cache
def _registered(schema: pa.Schema, key: str) -> str:
    name = f"__empty_{next(_numbers)}"
    session_context().register_record_batches(name, [[pa.RecordBatch.from_pylist([], schema=schema)]])
    return name


def is_volatile_function(name: str) -> bool:
    """Whether equal arguments may give other results."""
    return name in _VOLATILE


_VOLATILE = frozenset(("random", "rand", "uuid", "now", "current_date", "current_time"))
