"""Queries become typed plans: names are positions, keys are columns, wrong names are told with their place."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from forebay.engine.errors import CatalogError, SqlError, UnsupportedError
from forebay.planner.binder import Binder, Relation, notices
from forebay.planner.changelog import infer
from forebay.planner.expr import Binary, Column, Literal
from forebay.planner.functions import new_session_context
from forebay.planner.nodes import Aggregate, Filter, Join, JoinKind, Project, Scan, Union, Values
from forebay.planner.plansql import plan_to_sql
from tests.planner import nexmark
from tests.planner.relations import CATALOG, SCHEMA, TinyCatalog, bind, parse


def test_scan_reads_only_the_columns_in_use() -> None:
    plan = bind("SELECT d, b FROM t WHERE a = 1")
    assert isinstance(plan, Project)
    assert isinstance(plan.input, Filter)
    assert plan.input.predicate == Binary("=", Column(0), Literal(1, pa.int64()))
    assert isinstance(plan.input.input, Scan)
    assert plan.input.input.columns == ("a", "b", "d")
    assert plan.schema == pa.schema([SCHEMA.field("d"), SCHEMA.field("b")])


def test_integer_constants_are_int() -> None:
    assert bind("SELECT b + 1 AS x, 1 AS y, 3000000000 AS z, 1e0 AS w FROM t").schema.types == [
        pa.int32(),
        pa.int32(),
        pa.int64(),
        pa.float64(),
    ]


def test_unnamed_and_equal_names_are_made_unique() -> None:
    assert bind("SELECT a + 1, a, a, b AS a FROM t").schema.names == ["EXPR$0", "a", "a0", "a1"]


def test_aggregate_arguments_become_columns() -> None:
    plan = bind(
        "SELECT b % 2 AS k, MAX(d * 2) AS x, COUNT(*) AS n, COUNT(DISTINCT s) FILTER (WHERE b > 0) AS c FROM t GROUP BY 1"
    )
    assert isinstance(plan, Aggregate)
    assert plan.keys == (0,)
    total, rows, distinct = plan.calls
    assert (total.name, total.args) == ("max", (1,))
    assert (rows.name, rows.args) == ("count", ())
    assert (distinct.args, distinct.distinct, distinct.filter) == ((2,), True, 3)
    assert isinstance(plan.input, Project)
    assert len(plan.input.exprs) == 4
    assert plan.schema.names == ["k", "x", "n", "c"]


def test_computed_join_keys_are_added_and_dropped() -> None:
    plan = bind("SELECT t.a, u.s FROM t LEFT JOIN u ON t.a = u.a + 1 AND t.b < u.b")
    assert isinstance(plan, Project)
    join = plan.input
    assert isinstance(join, Join)
    assert join.kind is JoinKind.LEFT
    assert join.schema.field(join.left_keys[0]).name == "a"
    assert join.right.schema.field(join.right_keys[0]).name.startswith("$key")
    assert join.residual is not None
    assert plan.schema.names == ["a", "s"]


@pytest.mark.parametrize(
    ("sql", "kind", "null_aware"),
    [
        ("SELECT a FROM t WHERE b IN (SELECT b FROM u)", JoinKind.LEFT_SEMI, False),
        ("SELECT a FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.a = t.a)", JoinKind.LEFT_ANTI, False),
        ("SELECT a FROM t WHERE b NOT IN (SELECT b FROM u)", JoinKind.LEFT_ANTI, True),
        ("SELECT a FROM t WHERE flag OR b IN (SELECT b FROM u)", JoinKind.LEFT_MARK, False),
        ("SELECT a FROM t JOIN u USING (a)", JoinKind.INNER, False),
        ("SELECT t.a FROM t FULL JOIN u ON t.a = u.a", JoinKind.FULL, False),
        ("SELECT a, (SELECT MAX(b) FROM u WHERE u.a = t.a) AS m FROM t", JoinKind.LEFT, False),
    ],
)
def test_subqueries_become_joins(sql: str, kind: JoinKind, null_aware: bool) -> None:
    node = bind(sql)
    while not isinstance(node, Join):
        node = node.inputs[0]
    assert (node.kind, node.null_aware) == (kind, null_aware)


def test_set_operations() -> None:
    plan = bind("SELECT a FROM t UNION ALL SELECT b FROM u UNION ALL SELECT a FROM u")
    assert isinstance(plan, Union)
    assert len(plan.parts) == 3
    distinct = bind("SELECT a FROM t UNION SELECT a FROM u")
    assert isinstance(distinct, Aggregate)
    assert distinct.calls == ()


def test_grouping_sets_become_a_union() -> None:
    plan = bind("SELECT a, b, SUM(d) AS x FROM t GROUP BY ROLLUP (a, b)")
    assert isinstance(plan, Project)
    assert isinstance(plan.input, Union)
    assert len(plan.input.parts) == 3


def test_constant_rows() -> None:
    plan = bind("SELECT * FROM (VALUES (1, 'x'), (2, NULL)) AS q (n, s)")
    assert isinstance(plan, Values)
    assert len(plan.rows) == 2
    assert plan.schema.names == ["n", "s"]
    assert bind("SELECT 1 AS one") == Values(
        pa.schema([pa.field("one", pa.int32(), False)]), ((Literal(1, pa.int32()),),)
    )


def test_views_are_expanded_under_their_names() -> None:
    plan = bind("SELECT v.c, w.c AS d FROM v JOIN v AS w ON v.a = w.a")
    tables = {node.table for node in nodes(plan) if isinstance(node, Scan)}
    assert tables == {"t"}
    assert plan.schema.names == ["c", "d"]


def test_common_table_expressions_hide_tables() -> None:
    plan = bind("WITH t AS (SELECT a FROM u), w AS (SELECT a FROM t) SELECT * FROM w")
    assert {node.table for node in nodes(plan) if isinstance(node, Scan)} == {"u"}


def test_a_view_over_itself_is_refused() -> None:
    catalog = TinyCatalog(
        Relation("p", pa.schema([]), view=parse("SELECT * FROM q")),
        Relation("q", pa.schema([]), view=parse("SELECT * FROM p")),
    )
    with pytest.raises(SqlError, match="view p reads itself"):
        Binder(catalog).bind(parse("SELECT * FROM p"))


def test_equal_scans_share_nothing_but_their_table() -> None:
    plan = bind("SELECT t.a FROM t, t AS t2 WHERE t.a = t2.b")
    assert [node.table for node in nodes(plan) if isinstance(node, Scan)] == ["t", "t"]


@pytest.mark.parametrize(
    ("sql", "message", "line", "column"),
    [
        ("SELECT a,\n  nosuch FROM t", "no field named nosuch", 2, 3),
        ("SELECT q.a FROM t", "no field named q.a", 1, 10),
        ("SELECT a FROM t\nWHERE foo(a) = 1", "invalid function 'foo'", 2, 7),
        ("SELECT t.a FROM t, u WHERE b = 1", "ambiguous reference to unqualified field b", 1, 28),
        ("SELECT a, b, SUM(d) AS x FROM t GROUP BY a", "column t.b is neither in GROUP BY", 1, 11),
        ("SELECT SUM(s) AS x FROM t", "SUM does not take (STRING)", 1, 8),
        ("SELECT LOWER(flag) AS x FROM t", "LOWER does not take (BOOLEAN)", 1, 8),
        ("SELECT a FROM t WHERE b", "non-boolean predicate 't.b' returning INT", 1, 23),
        ("SELECT a FROM t, t", "t is in FROM twice under one name", 1, 15),
        ("SELECT r.z FROM t", "field z not found", 1, 10),
        ("SELECT CAST(s AS NOSUCH) AS x FROM t", "the type NOSUCH is not known", 1, 13),
    ],
)
def test_errors_point_at_the_name(sql: str, message: str, line: int, column: int) -> None:
    with pytest.raises(SqlError) as caught:
        bind(sql)
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)
    assert "^" in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT a + s FROM t", "BIGINT + STRING"),
        ("SELECT a FROM t UNION SELECT a, b FROM t", "UNION queries have different number of columns"),
        ("SELECT CAST('abc' AS INT) AS x FROM t", "cannot cast string 'abc' to value of INT type"),
        ("SELECT SUM(SUM(b)) AS x FROM t", "'sum(t.b)' is nested inside 'sum(sum(t.b))'"),
        ("SELECT splt_index(s, ',', 1) AS x FROM t", "did you mean split_index?"),
    ],
)
def test_errors_speak_sql(sql: str, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        bind(sql)
    assert message in str(caught.value)
    assert not re.search(r"arrow_cast|Utf8|Int\d\d|__|DataFusion", str(caught.value))


def test_an_unknown_table_is_told_with_the_nearest() -> None:
    catalog = TinyCatalog(Relation("orders", SCHEMA))
    sql = "SELECT *\nFROM order"
    with pytest.raises(CatalogError) as caught:
        Binder(catalog).bind(parse("SELECT *\nFROM ordres"), "SELECT *\nFROM ordres")
    assert caught.value.hint == "did you mean orders?"
    assert (caught.value.line, caught.value.column) == (2, 6), sql


NESTED = pa.schema(
    [
        ("id", pa.int64()),
        ("items", pa.list_(pa.struct([("sku", pa.string()), ("n", pa.int32())]))),
        ("tags", pa.list_(pa.string())),
        ("m", pa.map_(pa.string(), pa.int64())),
    ]
)
NESTED_ROWS = [
    {"id": 1, "items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}], "tags": ["x", "y"], "m": [("k", 1)]},
    {"id": 2, "items": [], "tags": None, "m": None},
]


@pytest.mark.parametrize(
    ("sql", "names", "rows"),
    [
        (
            "SELECT id, sku, n FROM o CROSS JOIN UNNEST(items) AS u (sku, n)",
            ["id", "sku", "n"],
            [(1, "a", 1), (1, "b", 2)],
        ),
        ("SELECT u.sku AS s FROM o, UNNEST(o.items) AS u WHERE u.n > 1", ["s"], [("b",)]),
        ("SELECT id, x FROM o LEFT JOIN UNNEST(tags) AS u (x) ON TRUE", ["id", "x"], [(1, "x"), (1, "y"), (2, None)]),
        ("SELECT o.id, u.v FROM o CROSS JOIN UNNEST(m) AS u (id, v)", ["id", "v"], [(1, 1)]),
        ("SELECT q.z FROM (SELECT * FROM o CROSS JOIN UNNEST(tags) AS u (z)) AS q", ["z"], [("x",), ("y",)]),
        ("WITH w AS (SELECT * FROM o) SELECT x FROM w CROSS JOIN UNNEST(w.tags) AS u (x)", ["x"], [("x",), ("y",)]),
        (
            "SELECT p.id, x FROM o JOIN o AS p ON o.id = p.id, UNNEST(p.tags) AS u (x)",
            ["id", "x"],
            [(1, "x"), (1, "y")],
        ),
    ],
)
def test_unnest(sql: str, names: list[str], rows: list[tuple[object, ...]]) -> None:
    plan = Binder(TinyCatalog(Relation("o", NESTED))).bind(parse(sql), sql)
    assert plan.schema.names == names
    context = new_session_context()
    context.register_record_batches("o", [pa.Table.from_pylist(NESTED_ROWS, schema=NESTED).to_batches()])
    result = context.sql(plan_to_sql(plan)).to_arrow_table().to_pylist()
    assert sorted((tuple(r.values()) for r in result), key=repr) == rows


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT id FROM o CROSS JOIN UNNEST(id) AS u (x)", "takes an ARRAY or a MAP"),
        ("SELECT id FROM o CROSS JOIN UNNEST(tags) AS u (x, y)", "names 2 columns, its elements have 1"),
        ("SELECT id FROM o CROSS JOIN UNNEST(nosuch) AS u (x)", "no table before it has"),
    ],
)
def test_wrong_unnests_are_told(sql: str, message: str) -> None:
    with pytest.raises(SqlError, match=message) as caught:
        Binder(TinyCatalog(Relation("o", NESTED))).bind(parse(sql), sql)
    assert (caught.value.line, caught.value.column) == (1, sql.index("UNNEST(") + 8)


def test_state_ttl_hint_reaches_the_join() -> None:
    join = bind("SELECT /*+ STATE_TTL('x'='35d', 'u'='1 h') */ x.a, u.b FROM t AS x JOIN u ON x.b = u.a")
    while not isinstance(join, Join):
        join = join.inputs[0]
    assert join.ttl == (35 * 86_400_000, 3_600_000)
    assert {type(n) for n in nodes(join)} <= {Join, Project, Filter, Scan}
    with pytest.raises(SqlError, match="STATE_TTL names t,") as caught:
        bind("SELECT /*+ STATE_TTL('t'='1d') */ a FROM u")
    assert "alias" in (caught.value.hint or "")
    with pytest.raises(SqlError, match="'soon' is no duration"):
        bind("SELECT /*+ STATE_TTL('t'='soon') */ a FROM t")


def test_options_hint_makes_its_own_scan() -> None:
    plan = bind("SELECT t.a FROM t /*+ OPTIONS('b'='2', 'a'='1') */ JOIN t AS x ON t.a = x.a")
    scans = sorted(node.options for node in nodes(plan) if isinstance(node, Scan))
    assert scans == [(), (("a", "1"), ("b", "2"))]


@pytest.mark.parametrize("name", nexmark.QUERIES)
def test_nexmark_binds(name: str) -> None:
    sql = nexmark.QUERIES[name]
    plan = Binder(nexmark.CATALOG).bind(parse(sql), sql)
    assert infer(plan, nexmark.CATALOG)
    assert {n.table for n in nodes(plan) if isinstance(n, Scan)} == {"events"}


@pytest.mark.parametrize("name", nexmark.REFUSED)
def test_nexmark_refused_by_name(name: str) -> None:
    sql, message = nexmark.REFUSED[name]
    with pytest.raises(UnsupportedError) as caught:
        infer(Binder(nexmark.CATALOG).bind(parse(sql), sql), nexmark.CATALOG)
    assert message in caught.value.message
    assert caught.value.hint


def test_names_of_a_view_replace_those_of_its_query() -> None:
    plan = Binder(CATALOG).bind(parse("SELECT a, COUNT(*) AS n FROM t GROUP BY a"), names=("k", "rows"))
    assert isinstance(plan, Aggregate)
    assert plan.schema.names == ["k", "rows"]
    with pytest.raises(SqlError, match="1 column names are given, the query has 2"):
        Binder(CATALOG).bind(parse("SELECT a, b FROM t"), names=("k",))


def test_notices() -> None:
    assert "ORDER BY" in notices(parse("SELECT a FROM t ORDER BY a"))[0]
    assert notices(parse("SELECT a FROM t ORDER BY a LIMIT 3")) == []


def test_recursion_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="RECURSIVE"):
        bind("WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT * FROM x")


def nodes(plan: object) -> list[object]:
    """The plan's nodes, outermost first."""
    return [plan, *(n for part in plan.inputs for n in nodes(part))]  # type: ignore[attr-defined]


def test_catalog_is_reusable() -> None:
    assert Binder(CATALOG).bind(parse("SELECT a FROM t")) == bind("SELECT a FROM t")
