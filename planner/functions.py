"""The DataFusion sessions of planning, streaming evaluation and snapshot queries, all with the same functions.

One registry means one meaning: an expression has the same types and values wherever it runs. Flink's own functions are
registered at import, users' with `register_function`.
"""

from __future__ import annotations

import itertools
import threading
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from datafusion import RuntimeEnvBuilder, SessionConfig, SessionContext, udf

from forebay.planner.udfs import ArrowFunction
from forebay.planner.udfs.json import JSON_FUNCTIONS
from forebay.planner.udfs.text import TEXT_FUNCTIONS
from forebay.planner.udfs.time import CLOCK, TIME_FUNCTIONS

__all__ = [
    "CLOCK",
    "ArrowFunction",
    "empty_relation",
    "is_volatile_function",
    "new_session_context",
    "planning_context",
    "query_context",
    "register_function",
    "session_context",
    "user_function",
    "user_functions",
]

_SETTINGS = {
    "datafusion.sql_parser.enable_ident_normalization": "false",
    "datafusion.sql_parser.parse_float_as_decimal": "true",
    "datafusion.sql_parser.default_null_ordering": "nulls_min",
    "datafusion.sql_parser.map_string_types_to_utf8view": "false",
    "datafusion.sql_parser.recursion_limit": "500",
    "datafusion.execution.target_partitions": "1",
    "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery": "false",
}
_REMOVED_RULES = (  # of planning; evaluation and snapshot queries keep them
    "common_sub_expression_eliminate",  # the evaluator does it again, and a plan with whole expressions reads better
    "extract_leaf_expressions",  # they rename columns to serve scans that can read parts of a row; ours cannot
    "push_down_leaf_projections",
)
_lock = threading.RLock()
_numbers = itertools.count()


def _wrap_int(bits: int) -> ArrowFunction:
    """BIGINT to a shorter integer modulo 2^bits: what Flink's SUM(INT) does on overflow."""
    numpy_type: Any = {8: np.int8, 16: np.int16, 32: np.int32}[bits]
    result = pa.from_numpy_dtype(numpy_type)

    def apply(values: pa.Array) -> pa.Array:
        wrapped = values.fill_null(0).to_numpy().astype(numpy_type)
        return pa.array(wrapped, result, mask=values.is_null().to_numpy(zero_copy_only=False))

    return ArrowFunction(f"wrap_int{bits}", (pa.int64(),), result, apply)


_builtin = {f.name: f for f in (*TEXT_FUNCTIONS, *TIME_FUNCTIONS, *JSON_FUNCTIONS, *map(_wrap_int, (8, 16, 32)))}
_user: dict[str, ArrowFunction] = {}
_queries: dict[int, Any] = {}
"""The last session for snapshot queries, by its memory."""
_VOLATILE_OF_DATAFUSION = frozenset(("random", "uuid", "now", "current_time"))


def new_session_context(memory: int | None = None) -> Any:
    """A session with Forebay's settings and every function, for evaluation and snapshot queries.

    `memory`: bytes for sorts, groups and the build sides of joins; more goes to temporary files where DataFusion can do that.
    """
    runtime = None
    if memory is not None:
        runtime = RuntimeEnvBuilder().with_disk_manager_os().with_fair_spill_pool(memory)
    context = SessionContext(SessionConfig(_SETTINGS), runtime)
    # It turns one DISTINCT call into two groupings and widens decimal sums; our DISTINCT states are shared instead.
    context.remove_optimizer_rule("single_distinct_aggregation_to_group_by")
    with _lock:
        for function in (*_builtin.values(), *_user.values()):
            context.register_udf(_as_udf(function))
    return context


@cache
def session_context() -> Any:
    """The process's session for evaluation."""
    return new_session_context()


@cache
def planning_context() -> Any:
    """The process's session for planning: it holds empty relations only."""
    context = new_session_context()
    for rule in _REMOVED_RULES:
        context.remove_optimizer_rule(rule)
    return context


def query_context(memory: int) -> Any:
    """The process's session for snapshot queries, which together may use so many bytes."""
    with _lock:
        if memory not in _queries:
            _queries.clear()
            _queries[memory] = new_session_context(memory)
        return _queries[memory]


def register_function(function: ArrowFunction) -> None:
    """Makes a user's function known, under its name in lower case, to the shared sessions and to those made from now on.

    Raises:
        ValueError: the name is a built-in function's.
    """
    name = function.name.lower()
    if name in _builtin:
        raise ValueError(f"{function.name} is a built-in function")
    with _lock:
        _user[name] = ArrowFunction(name, function.arguments, function.result, function.apply, function.volatile)
        for context in (session_context(), planning_context(), *_queries.values()):
            context.register_udf(_as_udf(_user[name]))


def user_functions() -> list[ArrowFunction]:
    """Every user's function, by name."""
    return [_user[name] for name in sorted(_user)]


def user_function(name: str) -> ArrowFunction | None:
    """The user's function of that name, in any case, or None."""
    return _user.get(name.lower())


def is_volatile_function(name: str) -> bool:
    """Whether equal arguments may give other results."""
    function = _builtin.get(name) or _user.get(name)
    return function.volatile if function is not None else name in _VOLATILE_OF_DATAFUSION


def _as_udf(function: ArrowFunction) -> Any:
    volatility = "volatile" if function.volatile else "immutable"
    return udf(function.apply, list(function.arguments), function.result, volatility, function.name)


def empty_relation(schema: pa.Schema, key: str = "") -> str:
    """The name of an empty relation of this schema in the planning session, the same for an equal schema and key.

    Only the latest are kept registered: far more than one statement needs.
    """
    with _lock:
        name = _empty.pop((schema, key), None)
        if name is None:
            name = f"__empty_{next(_numbers)}"
            planning_context().register_record_batches(name, [[pa.RecordBatch.from_pylist([], schema=schema)]])
        _empty[schema, key] = name
        if len(_empty) > _EMPTY_KEPT:
            planning_context().deregister_table(_empty.pop(next(iter(_empty))))
        return name


_EMPTY_KEPT = 4096
_empty: dict[tuple[pa.Schema, str], str] = {}
"""Least recently used first."""
