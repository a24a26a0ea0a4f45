"""Floats and decimals meet as doubles, nothing is cut to fifteen decimals."""

from __future__ import annotations

import pyarrow as pa
import pytest

from forebay.planner.nodes import Node
from tests.planner.relations import bind

DOUBLE = pa.float64()


def text(node: Node) -> str:
    return "".join([repr(node), *map(text, node.inputs)])


@pytest.mark.parametrize(
    "expression",
    [
        "CASE WHEN a > 1 THEN f ELSE 0.0 END",
        "CASE WHEN a > 1 THEN d ELSE f END",
        "COALESCE(f, 0.0)",
        "COALESCE(d, f, 1)",
        "GREATEST(f, 1.5)",
        "NULLIF(f, 0.5)",
        "IF(a > 1, f, 1.5)",
        "COALESCE(CAST(b AS DOUBLE), d)",
    ],
)
def test_result_is_double(expression: str) -> None:
    assert bind(f"SELECT {expression} AS x FROM t").schema.field(0).type == DOUBLE


@pytest.mark.parametrize(
    "condition", ["f = d", "f > 0.1", "0.1 < f", "f BETWEEN 0.1 AND d", "f IN (0.5, 1.5)", "f IS DISTINCT FROM 0.5"]
)
def test_comparison_cuts_nothing(condition: str) -> None:
    assert "(30, 15)" not in text(bind(f"SELECT a FROM t WHERE {condition}"))


def test_a_join_condition_too() -> None:
    assert "(30, 15)" not in text(bind("SELECT t.a FROM t JOIN u ON t.f = u.d"))


def test_decimals_among_themselves_stay_exact() -> None:
    assert bind("SELECT COALESCE(d, 0.005) AS x, f FROM t").schema.field(0).type == pa.decimal128(11, 3)
