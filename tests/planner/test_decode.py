"""The serialized form of DataFusion's expressions is read right: decoded and rendered again, each gives the same column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from forebay.engine.errors import InternalError
from forebay.planner.decode import Decoder
from forebay.planner.expr import Expr
from forebay.planner.functions import is_volatile_function, new_session_context
from forebay.planner.render import to_sql
from forebay.planner.wire import Message
from tests.planner.relations import SCHEMA, table_rows

EXPRESSIONS = [
    "a + b * 2 - b / 3 % 2",
    "d * d + d / 3 - 1.5",
    "f / 3 + a",
    "-a",
    "NOT flag",
    "flag IS TRUE OR flag IS NOT FALSE AND flag IS UNKNOWN",
    "s IS NULL OR d IS NOT NULL",
    "s || 'x' || b",
    "b BETWEEN 1 AND 3",
    "b NOT BETWEEN 1 AND 3",
    "CASE WHEN b > 1 THEN 'big' WHEN b < 0 THEN s ELSE NULL END",
    "CASE b WHEN 1 THEN d END",
    "CAST(b AS VARCHAR)",
    "CAST(d AS DECIMAL(20, 5))",
    "TRY_CAST(s AS INT)",
    "CAST(ts AS DATE)",
    "b IN (1, 2, NULL)",
    "s NOT IN ('a', 'b', 'c', 'd', 'e')",
    "s LIKE 'a%'",
    r"s NOT LIKE 'a\_%' ESCAPE '\'",
    "s ILIKE 'A%'",
    "s SIMILAR TO 'a.*'",
    "s ~ '^a'",
    "s !~* '^A'",
    "a IS DISTINCT FROM b",
    "b & 3 | 4",
    "date_part('year', ts)",
    "date_trunc('month', ts)",
    "ts + INTERVAL '1 month 2 days 3.5 seconds'",
    "ts - INTERVAL '90 minutes'",
    "day - DATE '2020-01-01'",
    "day > DATE '2020-05-05'",
    "ts < TIMESTAMP '2021-01-01 10:00:00.123'",
    "substr(s, 1, 2)",
    "coalesce(b, 0)",
    "arr[1]",
    "array_length(arr)",
    "m['k']",
    "CASE WHEN r IS NOT NULL THEN r['x'] + 1 END",
    "[1, 2, NULL]",
    "[[1], []]",
    "make_array(a, b)",
    "named_struct('p', a, 'q', s)",
    "named_struct('p', 1, 'q', 'it''s')",
    "MAP {'k': 1, 'l': NULL}",
    "arrow_cast(1.25, 'Float32')",
    "arrow_cast('-inf', 'Float64')",
    "arrow_cast('NaN', 'Float64')",
    "X'00ff'",
    "arrow_cast(NULL, 'Decimal128(10, 2)')",
    "TIME '10:20:30'",
    "arrow_cast(5, 'Duration(ms)')",
    "arrow_cast(1000, 'Timestamp(ms, \"UTC\")')",
    "0.000001",
    "-99999999999999999999999999999999.5",
    "arrow_cast(18446744073709551615, 'UInt64')",
    "-9223372036854775807 - 1",
]


def decoded(context: object, sql: str) -> Expr:
    plan = context.sql(f"SELECT {sql} AS v FROM t").optimized_logical_plan()  # type: ignore[attr-defined]
    names = plan.inputs()[0].to_variant().schema().field_names() if plan.inputs() else []
    variant = plan.to_variant()
    resolve = {name: SCHEMA.names.index(name.removeprefix("t.")) for name in names}
    decoder = Decoder(lambda relation, name: resolve[f"{relation}.{name}"], is_volatile_function)
    return decoder.scalar(variant.projections()[0].to_bytes())


@pytest.fixture(scope="module")
def context() -> object:
    context = new_session_context()
    context.remove_optimizer_rule("common_sub_expression_eliminate")  # keeps each expression in one piece
    context.register_record_batches("t", [table_rows(60, 1).to_batches()])
    return context


@pytest.mark.parametrize("sql", EXPRESSIONS)
def test_round_trip_keeps_type_and_value(context: object, sql: str) -> None:
    text = to_sql(decoded(context, sql), SCHEMA.names)
    original, rebuilt = (
        context.sql(f"SELECT {s} AS v FROM t").to_arrow_table()  # type: ignore[attr-defined]
        for s in (sql, text)
    )
    assert rebuilt.schema.field(0).type == original.schema.field(0).type, text
    assert repr(rebuilt["v"].to_pylist()) == repr(original["v"].to_pylist()), text


def test_truncated_message_is_told() -> None:
    with pytest.raises(InternalError, match="cut short"):
        Message(b"\x0a\x05ab")


def test_unknown_wire_type_is_told() -> None:
    with pytest.raises(InternalError, match="wire type 3"):
        Message(b"\x0b")


def test_signed_varint() -> None:
    assert Message(b"\x08" + b"\xff" * 9 + b"\x01").sint(1) == -1


def test_types_of_nested_literals(context: object) -> None:
    literal = decoded(context, "named_struct('p', 1, 'q', [1.5])")
    assert literal.type == pa.struct([("p", pa.int64()), ("q", pa.list_(pa.decimal128(2, 1)))])  # type: ignore[attr-defined]
    assert literal.value["p"] == 1  # type: ignore[attr-defined]
