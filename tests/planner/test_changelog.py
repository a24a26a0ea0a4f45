"""Changelog mode, keys and time columns follow from the leaves, and nothing is claimed that the data could break."""

from __future__ import annotations

import pyarrow as pa
import pytest

from forebay.engine.errors import SqlError, UnsupportedError
from forebay.planner.binder import Binder, Relation
from forebay.planner.canonical import canonical, fingerprint
from forebay.planner.changelog import covers, infer, remembers_output
from forebay.planner.expr import Call, Column
from forebay.planner.nodes import Filter, Node, Project, Sink, Traits, Values, WindowKind, WindowSpec, WindowTable
from tests.planner.relations import SCHEMA, TinyCatalog, parse

OVER = "OVER (PARTITION BY b ORDER BY d) AS n FROM clicks"
CATALOG = TinyCatalog(
    Relation("orders", SCHEMA, primary_key=("a",), updating=True),
    Relation("shops", SCHEMA, primary_key=("a",), updating=True),
    Relation("clicks", SCHEMA, primary_key=("a",), time_columns=("ts",)),
    Relation("file", SCHEMA, bounded=True),
)


def plan(sql: str) -> Node:
    return Binder(CATALOG).bind(parse(sql), sql)


def traits(sql: str) -> tuple[Traits, list[list[str]]]:
    """The root's traits, and its keys by name."""
    root = plan(sql)
    found = infer(root, CATALOG)[id(root)]
    return found, [[root.schema.names[c] for c in key] for key in found.keys]


@pytest.mark.parametrize(
    ("sql", "updating", "keys"),
    [
        ("SELECT a, b FROM orders WHERE b > 1", True, [["a"]]),
        ("SELECT b FROM orders", True, []),
        ("SELECT a AS x, a + 1 AS y FROM orders", True, [["x"]]),
        ("SELECT a, b FROM clicks", False, []),
        ("SELECT b, COUNT(*) AS n FROM clicks GROUP BY b", True, [["b"]]),
        ("SELECT COUNT(*) AS n FROM clicks", True, [[]]),
        ("SELECT DISTINCT b, s FROM clicks", False, [["b", "s"]]),
        ("SELECT DISTINCT b FROM orders", True, [["b"]]),
        ("SELECT c.a, o.b FROM clicks AS c JOIN clicks AS o ON c.b = o.b", False, []),
        ("SELECT o.a, s.a AS shop FROM orders AS o JOIN shops AS s ON o.b = s.a", True, [["a"]]),
        ("SELECT o.a, s.a AS shop FROM orders AS o JOIN shops AS s ON o.b = s.b", True, [["a", "shop"]]),
        ("SELECT o.a, s.d FROM orders AS o LEFT JOIN shops AS s ON o.b = s.a", True, [["a"]]),
        ("SELECT c.b, s.d FROM clicks AS c LEFT JOIN file AS s ON c.b = s.b", True, []),
        ("SELECT a FROM clicks WHERE b IN (SELECT b FROM clicks)", False, []),
        ("SELECT a FROM orders WHERE b NOT IN (SELECT b FROM clicks)", True, [["a"]]),
        ("SELECT a FROM clicks UNION ALL SELECT a FROM clicks", False, []),
        ("SELECT a FROM clicks UNION ALL SELECT a FROM orders", True, []),
        (f"SELECT b, d FROM (SELECT *, ROW_NUMBER() {OVER}) AS q WHERE n = 1", True, [["b"]]),
        (f"SELECT b, n FROM (SELECT *, ROW_NUMBER() {OVER}) AS q WHERE n < 4", True, [["b", "n"]]),
        (f"SELECT b, n FROM (SELECT *, RANK() {OVER}) AS q WHERE n < 4", True, []),
    ],
)
def test_mode_and_keys(sql: str, updating: bool, keys: list[list[str]]) -> None:
    found, names = traits(sql)
    assert found.updating is updating
    assert names == keys


def test_time_survives_plain_columns_only() -> None:
    assert traits("SELECT ts, b FROM clicks WHERE b > 1")[0].time == (0,)
    assert traits("SELECT ts + INTERVAL '1' HOUR AS ts FROM clicks")[0].time == ()
    assert traits("SELECT c.ts FROM clicks AS c JOIN clicks AS o ON c.b = o.b")[0].time == ()


def test_bounded_needs_every_input_bounded() -> None:
    assert traits("SELECT f.a FROM file AS f JOIN file AS g ON f.a = g.a")[0].bounded
    assert not traits("SELECT f.a FROM file AS f JOIN clicks AS g ON f.a = g.a")[0].bounded


def test_covers() -> None:
    assert covers([(1, 2)], [2, 3, 1])
    assert not covers([(1, 2)], [1])
    assert covers([()], [])


def volatile(source: Node) -> Project:
    schema = pa.schema([pa.field("at", pa.float64())])
    return Project(schema, source, (Call("random", (), volatile=True),))


def test_volatile_output_is_remembered_over_retracting_input_only() -> None:
    updating, append = plan("SELECT a, b FROM orders"), plan("SELECT a, b FROM clicks")
    for source, expected in ((updating, True), (append, False)):
        node = volatile(source)
        assert remembers_output(node, infer(node, CATALOG)) is expected
        stable = Project(source.schema, source, (Column(0), Column(1)))
        assert not remembers_output(stable, infer(stable, CATALOG))
        condition = Filter(source.schema, source, Call("random_bool", (), volatile=True))
        assert remembers_output(condition, infer(condition, CATALOG)) is expected


def test_a_window_needs_a_watermark() -> None:
    window = WindowSpec(WindowKind.TUMBLE, SCHEMA.names.index("ts"), 60_000_000)
    bounds = [pa.field(n, pa.timestamp("ms")) for n in ("window_start", "window_end", "window_time")]
    schema = pa.schema([*SCHEMA, *bounds])
    with pytest.raises(UnsupportedError, match="ts has none") as caught:
        infer(WindowTable(schema, plan("SELECT * FROM orders"), window), CATALOG)
    assert "WATERMARK FOR ts" in (caught.value.hint or "")
    node = WindowTable(schema, plan("SELECT * FROM clicks"), window)
    assert infer(node, CATALOG)[id(node)].time == (7, 12, 13)


def test_fingerprints_ignore_names_and_nothing_else() -> None:
    base = "SELECT a, d * 2 AS x FROM orders WHERE b = 1"
    assert fingerprint(plan(base)) == fingerprint(plan("SELECT o.a AS k, o.d * 2 AS y FROM orders AS o WHERE o.b = 1"))
    others = ["d * 3", "d + 2", "d * 2, b"]
    texts = (
        [base]
        + [base.replace("d * 2", o) for o in others]
        + [base.replace("b = 1", "b = 2"), base.replace("orders", "shops")]
    )
    assert len({fingerprint(plan(t)) for t in texts}) == len(texts)
    assert canonical(plan(base)).startswith("v1 (Project (Filter (Scan 'orders' ['a' 'b' 'd']")


TARGET = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("amount", pa.decimal128(12, 3)),
        ("note", pa.string()),
        ("at", pa.timestamp("us")),
    ]
)


def insert(sql: str, columns: list[str] | None = None) -> Sink:
    return Binder(CATALOG).bind_insert(parse(sql), "sink", TARGET, columns, sql)


def test_insert_casts_what_widens() -> None:
    node = insert("SELECT b, d, s, ts FROM orders WHERE b IS NOT NULL")
    assert node.schema.types == TARGET.types
    assert node.schema.names == TARGET.names


def test_insert_fills_missing_columns_with_null() -> None:
    node = insert("SELECT s, a FROM orders", ["note", "id"])
    assert isinstance(node.input, Project)
    assert [type(e).__name__ for e in node.input.exprs] == ["Column", "Literal", "Column", "Literal"]
    assert isinstance(insert("SELECT * FROM (VALUES (1, 2, 'x', NULL)) AS q").input, Project | Values)


@pytest.mark.parametrize(
    ("sql", "columns", "message"),
    [
        ("SELECT s, d, s, ts FROM orders", None, "column id of sink is BIGINT, the query's column s is STRING"),
        ("SELECT a, d, b, ts FROM orders", None, "column note of sink is STRING, the query's column b is INT"),
        ("SELECT a, d FROM orders", None, "takes 4 columns, the query gives 2"),
        ("SELECT d, s FROM orders", ["amount", "note"], "column id of sink is NOT NULL and gets no value"),
        ("SELECT a, s FROM orders", ["id", "nte"], "no writable column nte"),
        ("SELECT a, a FROM orders", ["id", "id"], "column id is given twice"),
    ],
)
def test_insert_refuses_what_does_not_fit(sql: str, columns: list[str] | None, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        insert(sql, columns)
    assert message in caught.value.message
