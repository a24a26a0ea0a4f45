"""Flink's functions and result types, by value: each expression over a one-row table, through plan and evaluation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from forebay.engine.errors import DataError, SqlError, UnsupportedError
from forebay.planner.binder import Binder
from forebay.planner.builtins import function_names
from forebay.planner.functions import CLOCK, ArrowFunction, new_session_context, register_function
from forebay.planner.plansql import plan_to_sql
from forebay.planner.result_types import bounded_decimal
from forebay.planner.udfs.json import steps
from forebay.planner.udfs.time import java_pattern
from tests.planner.relations import CATALOG, SCHEMA, bind, parse

UTC = dt.UTC
NOW = dt.datetime(2023, 11, 14, 22, 13, 20, 123000)
ROW: dict[str, Any] = {
    "a": 7,
    "b": -3,
    "s": "it's",
    "d": Decimal("12.34"),
    "f": 2.5,
    "flag": True,
    "day": dt.date(2021, 3, 4),
    "ts": dt.datetime(2021, 3, 4, 5, 6, 7, 890000),
    "arr": [4, 5],
    "m": [("k", 1), ("it's", 2)],
    "r": {"x": 9, "y": "z"},
}
NULL_ROW = dict.fromkeys(SCHEMA.names) | {"a": 1}


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    CLOCK.set(int(NOW.replace(tzinfo=UTC).timestamp() * 1_000_000))
    yield
    CLOCK.set(None)


@pytest.fixture(scope="module")
def context() -> Any:
    context = new_session_context()
    rows = pa.Table.from_pylist([ROW, NULL_ROW], schema=SCHEMA)
    context.register_record_batches("t", [rows.to_batches()])
    return context


def value(context: Any, text: str, row: int = 0) -> tuple[str, Any]:
    """The Arrow type and the value of an expression."""
    sql = f"SELECT {text} AS v, a FROM t"
    plan = Binder(CATALOG).bind(parse(sql), sql)
    result = context.sql(plan_to_sql(plan)).to_arrow_table().sort_by([("a", "descending")])
    assert result.schema.types == plan.schema.types
    return str(result.schema.field(0).type), result["v"].to_pylist()[row]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("IF(a > 1, 2, 3)", "int32", 2),
        ("IFNULL(b, 0)", "int32", -3),
        ("NULLIF(a, 7)", "int64", None),
        ("GREATEST(a, 3)", "int64", 7),
        ("MOD(a, 4)", "int64", 3),
        ("a IS NOT DISTINCT FROM 7 AND b IS DISTINCT FROM a AND TRUE", "bool", True),
        ("a / 2", "int64", 3),
        ("b / 2", "int32", -1),
        ("b * 2 + 1", "int32", -5),
        ("d * d", "decimal128(20, 4)", Decimal("152.2756")),
        ("d / 3", "decimal128(21, 13)", Decimal("4.1133333333333")),
        ("d / d", "decimal128(23, 13)", Decimal("1.0000000000000")),
        ("2.00 / 3", "decimal128(14, 13)", Decimal("0.6666666666667")),
        ("d * 2", "decimal128(20, 2)", Decimal("24.68")),
        ("1e0 / 4", "double", 0.25),
        ("POWER(2, 3)", "double", 8.0),
        ("TRUNCATE(2.75, 1)", "decimal128(3, 2)", Decimal("2.70")),
        ("HEX(255)", "string", "FF"),
        ("CONCAT(s, '-', a)", "string", "it's-7"),
        ("CONCAT_WS('-', s, 'x')", "string", "it's-x"),
        ("SUBSTRING(s FROM 2 FOR 2)", "string", "t'"),
        ("POSITION('t' IN s)", "int32", 2),
        ("LOCATE('t', s, 3)", "int32", 0),
        ("CHAR_LENGTH(s)", "int32", 4),
        ("TRIM(BOTH 'i' FROM s)", "string", "t's"),
        ("SPLIT_INDEX('a,b', ',', 1)", "string", "b"),
        ("SPLIT_INDEX('a,b', ',', 2)", "string", None),
        ("REGEXP_EXTRACT('foothebar', 'foo(.*?)(bar)', 2)", "string", "bar"),
        ("REGEXP_REPLACE('foobar', 'oo|ar', '')", "string", "fb"),
        ("MD5('a')", "string", "0cc175b9c0f1b6a831c399e269772661"),
        ("TO_BASE64('a')", "string", "YQ=="),
        ("FROM_BASE64('YQ==')", "string", "a"),
        ("IS_DIGIT('12')", "bool", True),
        ("STR_TO_MAP('a=1,b')", "map<string, string>", [("a", "1"), ("b", None)]),
        ("PARSE_URL('http://x.org/p?q=1', 'HOST')", "string", "x.org"),
        ("s LIKE 'it!%' ESCAPE '!'", "bool", False),
        ("CAST(flag AS STRING)", "string", "TRUE"),
        ("CAST(ts AS STRING)", "string", "2021-03-04 05:06:07.890"),
        ("CAST(f AS INT)", "int32", 2),
        ("TRY_CAST(s AS INT)", "int32", None),
        ("NOW()", "timestamp[ms, tz=UTC]", NOW.replace(tzinfo=UTC)),
        ("LOCALTIMESTAMP", "timestamp[ms]", NOW),
        ("CURRENT_DATE", "date32[day]", NOW.date()),
        ("UNIX_TIMESTAMP()", "int64", 1_700_000_000),
        ("UNIX_TIMESTAMP('1970-01-01 00:01:00')", "int64", 60),
        ("FROM_UNIXTIME(60)", "string", "1970-01-01 00:01:00"),
        ("TO_TIMESTAMP('2021-01-01 10:00:00')", "timestamp[ms]", dt.datetime(2021, 1, 1, 10)),
        ("TO_TIMESTAMP('nonsense')", "timestamp[ms]", None),
        ("TO_TIMESTAMP('01/02/2021', 'dd/MM/yyyy')", "timestamp[ms]", dt.datetime(2021, 2, 1)),
        ("TO_TIMESTAMP_LTZ(1000, 3)", "timestamp[ms, tz=UTC]", dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ("TO_TIMESTAMP_LTZ(1, 0)", "timestamp[ms, tz=UTC]", dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ("TO_DATE('2021-01-02')", "date32[day]", dt.date(2021, 1, 2)),
        ("DATE_FORMAT(ts, 'yyyyMMdd HH:mm:ss.SSS')", "string", "20210304 05:06:07.890"),
        ("DATE_FORMAT(ts, CONCAT('yyyy', '/MM'))", "string", "2021/03"),
        ("EXTRACT(YEAR FROM ts)", "int64", 2021),
        ("EXTRACT(MILLISECOND FROM ts)", "int64", 890),
        ("DAYOFWEEK(day)", "int64", 5),
        ("FLOOR(ts TO HOUR)", "timestamp[ms]", dt.datetime(2021, 3, 4, 5)),
        ("CEIL(ts TO DAY)", "timestamp[ms]", dt.datetime(2021, 3, 5)),
        ("TIMESTAMPDIFF(HOUR, ts, TIMESTAMP '2021-03-04 00:00:00')", "int32", -5),
        ("TIMESTAMPDIFF(MONTH, ts, TIMESTAMP '2021-06-04 05:06:07')", "int32", 2),
        ("TIMESTAMPADD(DAY, b, ts)", "timestamp[ms]", dt.datetime(2021, 3, 1, 5, 6, 7, 890000)),
        ("TIMESTAMPADD(WEEK, -1, day)", "date32[day]", dt.date(2021, 2, 25)),
        ("TIMESTAMPADD(MINUTE, 90, ts)", "timestamp[ms]", dt.datetime(2021, 3, 4, 6, 36, 7, 890000)),
        ("TIMESTAMPADD(MONTH, 1, ts)", "timestamp[ms]", dt.datetime(2021, 4, 4, 5, 6, 7, 890000)),
        ("ts + INTERVAL '1 02:00:00' DAY TO SECOND", "timestamp[ms]", dt.datetime(2021, 3, 5, 7, 6, 7, 890000)),
        ("ts - INTERVAL '10' MINUTE", "timestamp[ms]", dt.datetime(2021, 3, 4, 4, 56, 7, 890000)),
        ("CONVERT_TZ('1970-01-01 00:00:00', 'UTC', 'Asia/Shanghai')", "string", "1970-01-01 08:00:00"),
        ("arr[1]", "int64", 4),
        ("m['k']", "int64", 1),
        ("m[s]", "int64", 2),
        ("r.x + 1", "int64", 10),
        ("CARDINALITY(arr)", "int32", 2),
        ("ARRAY_CONTAINS(arr, 5)", "bool", True),
        ("ELEMENT(ARRAY[b])", "int32", -3),
        ("MAP['x', b]", "map<string, int32>", [("x", -3)]),
        ("CAST(ROW(1, 'q') AS ROW<p BIGINT, q STRING>)", "struct<p: int64, q: string>", {"p": 1, "q": "q"}),
        ("TYPEOF(d)", "string", "DECIMAL(10, 2)"),
        ("""JSON_VALUE('{"a": [{"b": 1}]}', '$.a[0].b')""", "string", "1"),
        ("""JSON_QUERY('{"a": [1]}', 'lax $.a')""", "string", "[1]"),
        ("JSON_EXISTS('nonsense', '$.a')", "bool", False),
        ("JSON_OBJECT(KEY 'n' VALUE a, KEY 's' VALUE s)", "string", '{"n":7,"s":"it\'s"}'),
    ],
)
def test_value_and_type(context: Any, text: str, kind: str, expected: Any) -> None:
    assert value(context, text) == (kind, expected)


@pytest.mark.parametrize(
    "text", ["CONCAT(s, 'x')", "GREATEST(a, b)", "LEAST(b, 1)", "d * 2", "d / 3", "CAST(flag AS STRING)", "MD5(s)",
             "SPLIT_INDEX(s, ',', 0)", "TIMESTAMPDIFF(DAY, ts, ts)", "DATE_FORMAT(ts, 'yyyy')", "r.x", "CEIL(ts TO DAY)"]
)  # fmt: skip
def test_null_gives_null(context: Any, text: str) -> None:
    assert value(context, text, row=1)[1] is None


AGGREGATES = [
    ("SUM(b)", "int32", 2**31 - 1 + 2 - 2**32),
    ("SUM(a)", "int64", 12),
    ("AVG(a)", "int64", 4),
    ("AVG(b)", "int32", (2**31 + 1) // 2),
    ("SUM(d)", "decimal128(38, 2)", Decimal("5.00")),
    ("AVG(d)", "decimal128(38, 6)", Decimal("1.666667")),
    ("AVG(f)", "double", 1.5),
    ("SUM(d * d)", "decimal128(38, 4)", Decimal("9.0000")),
    ("SUM(DISTINCT d) FILTER (WHERE a > 1)", "decimal128(38, 2)", Decimal("3.00")),
    ("COUNT(DISTINCT a, b)", "int64", 2),
    ("SUM(CASE WHEN a > 1 THEN 1 ELSE 0 END)", "int32", 3),
]


@pytest.mark.parametrize(("call", "kind", "expected"), AGGREGATES)
def test_aggregate_types(call: str, kind: str, expected: Any) -> None:
    rows = [
        {"a": 2, "b": 2**31 - 1, "d": Decimal("1.00"), "f": 1.5},
        {"a": 5, "b": 2, "d": Decimal("2.00"), "f": None},
        {"a": 5, "b": None, "d": Decimal("2.00"), "f": None},
    ]
    context = new_session_context()
    context.register_record_batches("t", [pa.Table.from_pylist(rows, schema=SCHEMA).to_batches()])
    plan = Binder(CATALOG).bind(parse(f"SELECT {call} AS v FROM t"))
    result = context.sql(plan_to_sql(plan)).to_arrow_table()
    assert str(plan.schema.field(0).type) == kind
    assert result["v"].to_pylist() == [expected]


def test_types_follow_through_subqueries_and_with() -> None:
    sql = (
        "WITH c AS (SELECT s, SUM(b) AS n FROM t GROUP BY s) "
        "SELECT q.n / 2 AS half, AVG(q.n) AS mean FROM (SELECT * FROM c) AS q GROUP BY q.n"
    )
    assert Binder(CATALOG).bind(parse(sql)).schema.types == [pa.int32(), pa.int32()]
    inner_first = "SELECT AVG(b) + (SELECT AVG(b) FROM u) AS x, SUM(q.n) AS y FROM t, (VALUES (1)) AS q (n)"
    assert Binder(CATALOG).bind(parse(inner_first)).schema.types == [pa.int32(), pa.int32()]
    correlated = "SELECT a, (SELECT AVG(u.b) FROM u WHERE u.a = t.a) AS m FROM t"
    assert Binder(CATALOG).bind(parse(correlated)).schema.field(1).type == pa.int32()


def test_a_subquery_that_is_no_join_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="correlated subquery"):
        Binder(CATALOG).bind(parse("SELECT a, (SELECT AVG(u.b) + t.b FROM u WHERE u.a = t.a) AS m FROM t"))


def test_precision_beyond_38_digits_costs_decimals_first() -> None:
    assert bounded_decimal(40, 10) == pa.decimal128(38, 8)
    assert bounded_decimal(80, 40) == pa.decimal128(38, 6)
    assert bounded_decimal(20, 4) == pa.decimal128(20, 4)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("SPLIT_INDEX(s, ',')", SqlError, "SPLIT_INDEX takes 3 arguments, not 2"),
        ("CURRENT_WATERMARK(ts)", UnsupportedError, "CURRENT_WATERMARK is not supported"),
        ("TIMESTAMPDIFF(EON, ts, ts)", SqlError, "EON is no unit"),
    ],
)
def test_wrong_calls_are_told(text: str, error: type[SqlError], message: str) -> None:
    sql = f"SELECT a,\n  {text} AS v FROM t"
    with pytest.raises(error, match=message.replace("(", r"\(")) as caught:
        Binder(CATALOG).bind(parse(sql), sql)
    assert caught.value.line == 2


SYNTAX_OF_THEIR_OWN = """
JSON_OBJECT OVERLAY TRIM EXTRACT CEIL FLOOR POSITION SUBSTRING COALESCE COUNT SUM MIN MAX AVG IF JSON_VALUE JSON_QUERY CHR
ROW_NUMBER RANK DENSE_RANK TYPEOF
"""


@pytest.mark.parametrize("name", [n for n in function_names() if n not in SYNTAX_OF_THEIR_OWN.split()])
def test_every_listed_function_is_known(name: str) -> None:
    message = ""
    try:
        bind(f"SELECT {name}() AS v FROM t")
    except SqlError as error:
        message = error.message.lower()
    assert "invalid function" not in message


def test_patterns_and_paths_are_checked() -> None:
    assert java_pattern("yyyy-MM-dd'T'HH:mm''") == "%Y-%m-%dT%H:%M'"
    with pytest.raises(DataError, match="'ww'"):
        java_pattern("yyyy-ww")
    assert steps("strict $.a['b c'][2]") == ("a", "b c", 2)
    with pytest.raises(DataError, match="no JSON path"):
        steps("a.b")


def test_user_functions_get_their_argument_types() -> None:
    def halve(values: pa.Array) -> pa.Array:
        return pa.array([None if v is None else v / 2 for v in values.to_pylist()], pa.float64())

    register_function(ArrowFunction("Halve", (pa.float64(),), pa.float64(), halve))
    context = new_session_context()
    context.register_record_batches("t", [pa.Table.from_pylist([ROW], schema=SCHEMA).to_batches()])
    assert value(context, "HALVE(b)") == ("double", -1.5)
    with pytest.raises(SqlError, match="takes 1 argument"):
        value(context, "halve(b, b)")
    with pytest.raises(ValueError, match="built-in"):
        register_function(ArrowFunction("split_index", (), pa.int64(), halve))
