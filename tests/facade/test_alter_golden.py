"""EXPLAIN of ALTER against golden files, one per class of change: `tests/plans/alter/<name>.txt`; UPDATE_PLANS=1 writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

import forebay
from tests.facade.test_alter_job import JOINED, TABLES, shows
from tests.planner.test_explain import compare

PLANS = Path(__file__).parent.parent / "plans" / "alter"
GROUPED = f"INSERT INTO by_shop SELECT o.shop, SUM(r.part) AS a, 0 AS b {JOINED} GROUP BY o.shop"
COUNTED = "INSERT INTO by_shop SELECT CAST(order_id AS STRING), SUM(part), 0 FROM refunds GROUP BY order_id"
MOST = COUNTED.replace(", 0 FROM", ", MAX(part) FROM")
CITIES = (
    f"INSERT INTO by_shop SELECT s.city, SUM(r.part), COUNT(*) {JOINED} JOIN shops s ON s.name = o.shop "
    "WHERE r.part > 3 GROUP BY s.city"
)
VIEW = "SELECT shop, SUM(amount) AS total FROM orders GROUP BY shop"
CASES = {
    "as_is": (GROUPED, f"ALTER JOB j AS {GROUPED.replace('SUM(r.part)', 'SUM(r.part) * 2')}"),
    "after_rename": (GROUPED, f"ALTER JOB j AS {GROUPED.replace('AS a', 'AS sum_of_parts')}"),
    "rebuild_part": (GROUPED, f"ALTER JOB j AS {CITIES}"),
    "rebuild_part_changes": (GROUPED, f"ALTER JOB j WITH ('sink.output' = 'changes') AS {CITIES}"),
    "incompatible": (COUNTED, f"ALTER JOB j AS {MOST}"),
    "incompatible_accepted": (COUNTED, f"ALTER JOB j WITH ('allow-state-loss' = 'true') AS {MOST}"),
    "view_as_is": (VIEW, f"ALTER MATERIALIZED VIEW v AS {VIEW.replace('SUM(amount)', 'SUM(amount) + 1')}"),
    "view_after_rename": (VIEW, f"ALTER MATERIALIZED VIEW v AS {VIEW.replace('total', 'amount')}"),
    "view_rebuild_part": (VIEW, f"ALTER MATERIALIZED VIEW v AS {VIEW.replace('total', 'total, MAX(id) AS last')}"),
}


@pytest.fixture(scope="module")
def con() -> forebay.Connection:
    con = forebay.connect()
    con.execute(TABLES)
    assert isinstance(con, forebay.Connection)
    return con


@pytest.mark.parametrize("name", CASES)
def test_golden_alter(con: forebay.Connection, name: str) -> None:
    running, statement = CASES[name]
    if running is VIEW:
        con.execute(f"CREATE MATERIALIZED VIEW v AS {running}")
        shows(con, "v", [("x", 30), ("y", 5), ("z", 1)])
    else:
        con.execute("SET 'pipeline.name' = 'j'")
        con.execute(running)
        shows(con, "by_shop", [("x", 7, 0), ("y", 5, 0)] if running is GROUPED else [("1", 7, 0), ("3", 5, 0)])
    try:
        compare(con.explain(statement) + "\n", PLANS / f"{name}.txt")
    finally:
        con.execute("DROP MATERIALIZED VIEW v" if running is VIEW else "DROP JOB j")
        con.execute("DELETE FROM by_shop")
