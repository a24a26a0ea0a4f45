"""A plan rebuilt as SQL answers what the query answered: nothing is lost between DataFusion's plan and ours."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from forebay.engine.errors import InternalError
from forebay.planner.binder import Binder, Relation
from forebay.planner.functions import new_session_context
from forebay.planner.plansql import plan_to_sql
from forebay.planner.render import identifier, string, type_name
from forebay.planner.rewrite import Rewriter
from forebay.planner.sqltext import to_text
from tests.planner import tpch
from tests.planner.relations import CATALOG, TinyCatalog, parse, table_rows

TPCH = TinyCatalog(*(Relation(n, s, tpch.KEYS[n], updating=True) for n, s in tpch.SCHEMAS.items()))


def rows(table: pa.Table) -> list[str]:
    return sorted(repr(tuple(row.values())) for row in table.to_pylist())


def answer(context: Any, catalog: TinyCatalog, sql: str) -> pa.Table:
    """What DataFusion makes of the rewritten query, without our walk over its plan."""
    rewritten = Rewriter(catalog, sql).rewrite(parse(sql))
    for leaf, source in rewritten.leaves.items():
        context.deregister_table(leaf)
        context.register_view(leaf, context.table(source.relation))
    return context.sql(to_text(rewritten.query)).to_arrow_table()


@pytest.fixture(scope="module")
def warehouse() -> Any:
    context = new_session_context()
    for name, table in tpch.tables(seed=7, scale=120).items():
        context.register_record_batches(name, [table.to_batches()])
    return context


@pytest.mark.parametrize("name", tpch.QUERIES)
def test_tpch_rebuilt_from_the_plan(warehouse: Any, name: str) -> None:
    sql = tpch.QUERIES[name]
    plan = Binder(TPCH).bind(parse(sql), sql)
    expected = answer(warehouse, TPCH, sql)
    got = warehouse.sql(plan_to_sql(plan)).to_arrow_table()
    assert expected.num_rows, "the data must let the query answer something"
    assert got.schema.names == plan.schema.names
    assert got.schema.types == plan.schema.types
    assert rows(got) == rows(expected)


@pytest.fixture(scope="module")
def duck() -> Any:
    connection = duckdb.connect()
    for name, table in tpch.tables(seed=7, scale=120).items():
        connection.register(name, table)
    yield connection
    connection.close()


def approximate(value: Any) -> Any:
    """Numbers to nine digits: DuckDB's AVG is DOUBLE, its quotient of decimals too."""
    return float(f"{value:.9g}") if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else value


@pytest.mark.parametrize("name", [n for n in tpch.QUERIES if n not in ("q1", "q8", "q14", "q17")])
def test_tpch_agrees_with_another_engine(warehouse: Any, duck: Any, name: str) -> None:
    sql = tpch.QUERIES[name]
    got = warehouse.sql(plan_to_sql(Binder(TPCH).bind(parse(sql), sql))).to_arrow_table().to_pylist()
    expected = duck.execute(sql).fetchall()
    ours = sorted((tuple(map(approximate, r.values())) for r in got), key=repr)
    assert ours == sorted((tuple(map(approximate, r)) for r in expected), key=repr)


@pytest.mark.parametrize("name", ["q1", "q8", "q14", "q17"])
def test_tpch_quotients_agree_with_another_engine(warehouse: Any, duck: Any, name: str) -> None:
    sql = tpch.QUERIES[name]
    got = warehouse.sql(plan_to_sql(Binder(TPCH).bind(parse(sql), sql))).to_arrow_table().to_pylist()
    expected = sorted(duck.execute(sql).fetchall(), key=repr)
    assert len(got) == len(expected)
    for ours, theirs in zip(sorted((tuple(r.values()) for r in got), key=repr), expected):
        for a, b in zip(ours, theirs):
            assert a == b or float(a) == pytest.approx(float(b), abs=2e-6), "six decimals is what Flink keeps"


QUERIES = [
    "SELECT a, COUNT(*) AS n FROM t GROUP BY a HAVING COUNT(*) > 3",
    "SELECT t.a, u.b FROM t RIGHT JOIN u ON t.a = u.a AND t.b > u.b",
    "SELECT t.a, u.b, t.d FROM t FULL JOIN u ON t.a + 1 = u.a",
    "SELECT a, b FROM t WHERE b NOT IN (SELECT b FROM u WHERE b IS NOT NULL AND b > 2)",
    "SELECT a, b FROM t WHERE b NOT IN (SELECT b FROM u)",
    "SELECT a FROM t WHERE flag OR b IN (SELECT b FROM u WHERE a > 6)",
    "SELECT a FROM t INTERSECT SELECT b FROM u",
    "SELECT a FROM t EXCEPT SELECT b FROM u",
    "SELECT a, b FROM t UNION SELECT b, a FROM u",
    "SELECT a, b, SUM(d) AS x, COUNT(DISTINCT s) AS y FROM t GROUP BY CUBE (a, b)",
    "SELECT a, b, SUM(d) AS x FROM t GROUP BY GROUPING SETS ((a, b), (b), ())",
    "SELECT a, d FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY a ORDER BY d DESC, ts, f) AS n FROM t) AS q WHERE n <= 2",
    "SELECT a, d, n FROM (SELECT *, RANK() OVER (PARTITION BY a ORDER BY b) AS n FROM t) AS q WHERE n BETWEEN 2 AND 3",
    "SELECT a, d, n + 1 AS m FROM (SELECT *, DENSE_RANK() OVER (ORDER BY b DESC) AS n FROM t) AS q WHERE n = 2 AND a < 5",
    "SELECT a, ts FROM t ORDER BY ts DESC, a LIMIT 4 OFFSET 2",
    "SELECT a, MAX(m) AS m FROM (SELECT a, b, MIN(ts) AS m FROM t GROUP BY a, b) AS q GROUP BY a",
    "SELECT * FROM v WHERE c = (SELECT MAX(c) FROM v)",
    "SELECT a, UNNEST(arr) AS e FROM t WHERE arr IS NOT NULL",
    "SELECT * FROM (VALUES (1, 'x', NULL), (2, NULL, 1.5)) AS q (n, s, d)",
    "SELECT a FROM t WHERE FALSE",
    "SELECT CASE WHEN COUNT(*) > 10 THEN 'many' ELSE 'few' END AS how FROM t CROSS JOIN u",
    "SELECT DISTINCT b, flag FROM t",
]


@pytest.mark.parametrize("sql", QUERIES)
def test_shapes_rebuilt_from_the_plan(sql: str) -> None:
    context = new_session_context()
    context.register_record_batches("t", [table_rows(60, 1).to_batches()])
    context.register_record_batches("u", [table_rows(40, 2).to_batches()])
    plan = Binder(CATALOG).bind(parse(sql), sql)
    expected = answer(context, CATALOG, sql)
    got = context.sql(plan_to_sql(plan)).to_arrow_table()
    assert got.schema.types == plan.schema.types
    assert rows(got.cast(pa.schema([f.with_name(n) for f, n in zip(expected.schema, plan.schema.names)]))) == rows(
        expected
    )
    assert expected.num_rows or "FALSE" in sql or "NOT IN" in sql


WINDOW_QUERY = """
SELECT window_start, window_end, COUNT(*) AS n
FROM TABLE({name}(TABLE t, DESCRIPTOR(ts), {sizes})) GROUP BY window_start, window_end"""


@pytest.mark.parametrize(
    ("name", "sizes", "length", "step"),
    [
        ("TUMBLE", "INTERVAL '90' DAY", 90, 90),
        ("HOP", "INTERVAL '30' DAY, INTERVAL '90' DAY", 90, 30),
        ("CUMULATE", "INTERVAL '30' DAY, INTERVAL '90' DAY", 90, 30),
    ],
)
def test_windows_as_sql(name: str, sizes: str, length: int, step: int) -> None:
    times = [t for t in table_rows(60, 1)["ts"].to_pylist() if t is not None]
    context = new_session_context()
    context.register_record_batches("t", [table_rows(60, 1).to_batches()])
    plan = Binder(CATALOG).bind(parse(WINDOW_QUERY.format(name=name, sizes=sizes)))
    got = {tuple(r.values()) for r in context.sql(plan_to_sql(plan)).to_arrow_table().to_pylist()}
    expected: Counter[tuple[dt.datetime, dt.datetime]] = Counter()
    for at in times:
        day = (at - dt.datetime(1970, 1, 1)).days
        if name == "HOP":
            bounds = [(s, s + length) for s in range(day // step * step, day - length, -step)]
        else:
            start = day // length * length
            bounds = [(start, end) for end in range(start + step, start + length + 1, step) if end > day]
        expected.update(
            (dt.datetime(1970, 1, 1) + dt.timedelta(s), dt.datetime(1970, 1, 1) + dt.timedelta(e)) for s, e in bounds
        )
    assert got == {(*bounds, n) for bounds, n in expected.items()}


def test_sessions_as_sql() -> None:
    table = table_rows(60, 1)
    context = new_session_context()
    context.register_record_batches("t", [table.to_batches()])
    sql = """
SELECT a, window_start, window_end, COUNT(*) AS n
FROM TABLE(SESSION(TABLE t PARTITION BY a, DESCRIPTOR(ts), INTERVAL '120' DAY)) GROUP BY a, window_start, window_end"""
    got = [
        tuple(r.values())
        for r in context.sql(plan_to_sql(Binder(CATALOG).bind(parse(sql)))).to_arrow_table().to_pylist()
    ]
    gap, expected = dt.timedelta(days=120), []
    for key in set(table["a"].to_pylist()):
        times = sorted(t for a, t in zip(table["a"].to_pylist(), table["ts"].to_pylist()) if a == key and t is not None)
        sessions: list[list[dt.datetime]] = []
        for at in times:
            if sessions and at - sessions[-1][-1] <= gap:
                sessions[-1].append(at)
            else:
                sessions.append([at])
        expected += [(key, s[0], s[-1] + gap, len(s)) for s in sessions]
    assert sorted(got) == sorted(expected)
    assert any(n > 1 for *_, n in got)


def test_batch_queries_keep_order_and_over() -> None:
    context = new_session_context()
    context.register_record_batches("t", [table_rows(30, 1).to_batches()])
    frame = "PARTITION BY a ORDER BY ts ROWS BETWEEN 1 PRECEDING AND CURRENT ROW"
    sql = f"SELECT a, SUM(b) OVER ({frame}) AS x FROM t ORDER BY ts DESC, a"
    got = context.sql(plan_to_sql(Binder(CATALOG).bind_batch(parse(sql)))).to_arrow_table()
    times = [
        (t is None, t and -t.timestamp(), a) for t, a in zip(*(table_rows(30, 1)[c].to_pylist() for c in ("ts", "a")))
    ]
    assert got["a"].to_pylist() == [a for _, _, a in sorted(times, key=lambda k: (k[0], k[1] or 0, k[2]))]
    limited = "SELECT a FROM t ORDER BY d DESC LIMIT 3 OFFSET 1"
    best = table_rows(30, 1).sort_by([("d", "descending")]).slice(1, 3)["a"].to_pylist()
    assert (
        context.sql(plan_to_sql(Binder(CATALOG).bind_batch(parse(limited)))).to_arrow_table()["a"].to_pylist() == best
    )


def test_names_and_strings_are_quoted() -> None:
    assert identifier('a"b') == '"a""b"'
    assert string("it's") == "'it''s'"


def test_a_type_without_a_word_is_told() -> None:
    with pytest.raises(InternalError, match="dense_union"):
        type_name(pa.dense_union([pa.field("x", pa.int8())]))
