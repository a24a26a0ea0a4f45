"""A new job on a table that has got columns begins with what was kept of it before: older rows have NULL there."""

from __future__ import annotations

from pathlib import Path

import pytest

import forebay
from tests.facade.test_alter_job import TABLES, held, rows, scanned, shows

JOIN = "FROM refunds r JOIN orders o ON r.order_id = o.id"


@pytest.fixture
def con(tmp_path: Path) -> forebay.Connection:
    con = forebay.Connection(tmp_path / "w")
    con.execute(TABLES)
    con.execute(f"CREATE MATERIALIZED VIEW before AS SELECT r.order_id, r.part, o.shop {JOIN}")
    shows(con, "before", [(1, 3, "x"), (1, 4, "x"), (3, 5, "y")])
    con.execute("ALTER TABLE refunds ADD reason STRING; ALTER TABLE orders ADD (city STRING, tip BIGINT)")
    return con


def test_a_new_job_does_not_read_the_source_again(con: forebay.Connection) -> None:
    read = scanned(con)
    con.execute(f"CREATE MATERIALIZED VIEW late AS SELECT r.order_id, r.part, r.reason, o.city, o.tip {JOIN}")
    shows(con, "late", [(1, 3, None, None, None), (1, 4, None, None, None), (3, 5, None, None, None)])
    assert scanned(con).keys() == read.keys()
    assert sum(n.scan.metrics.records for n in con.warehouse.driver.flow.scans() if n.scan is not None) == 7
    con.execute("INSERT INTO refunds VALUES (2, 9, 'torn'); INSERT INTO orders VALUES (1, 'q', 1, 'Rome', 2)")
    told = [(1, 3, None, "Rome", 2), (1, 4, None, "Rome", 2), (2, 9, "torn", None, None), (3, 5, None, None, None)]
    shows(con, "late", told)
    shows(con, "before", [(1, 3, "q"), (1, 4, "q"), (2, 9, "x"), (3, 5, "y")])


def test_sinks_and_aggregates_of_a_new_job_have_the_whole_table(con: forebay.Connection) -> None:
    con.execute(f"INSERT INTO by_shop SELECT o.shop, SUM(r.part), COUNT(o.tip) {JOIN} GROUP BY o.shop")
    shows(con, "by_shop", [("x", 7, 0), ("y", 5, 0)])
    con.execute("INSERT INTO refunds VALUES (2, 9, 'torn'); INSERT INTO orders VALUES (2, 'y', 1, 'Rome', 2)")
    shows(con, "by_shop", [("x", 7, 0), ("y", 14, 1)])
    con.execute(
        "CREATE MATERIALIZED VIEW third AS SELECT order_id, reason FROM refunds r JOIN orders o ON order_id = id"
    )
    shows(con, "third", [(1, None), (1, None), (2, "torn"), (3, None)])


def test_it_is_so_after_a_restart(con: forebay.Connection, tmp_path: Path) -> None:
    con.execute(f"CREATE MATERIALIZED VIEW late AS SELECT r.order_id, r.reason, o.tip {JOIN}")
    shows(con, "late", [(1, None, None), (1, None, None), (3, None, None)])
    before = held(con)
    con.close()
    con = forebay.Connection(tmp_path / "w")
    assert held(con) == before
    con.execute("INSERT INTO refunds VALUES (4, 9, 'torn')")
    shows(con, "late", [(1, None, None), (1, None, None), (3, None, None), (4, "torn", None)])
    assert (4, 9, "z") in rows(con, "before")
    con.close()


def test_what_is_not_known_is_read(con: forebay.Connection) -> None:
    """Nothing keeps the rows of `refunds` for a job that counts them; a column of another type is another table."""
    con.execute("DROP MATERIALIZED VIEW before")
    con.execute("CREATE MATERIALIZED VIEW counted AS SELECT COUNT(*) AS n FROM refunds")
    shows(con, "counted", [(3,)])
    con.execute("ALTER TABLE refunds ADD why STRING")
    con.execute("CREATE MATERIALIZED VIEW again AS SELECT order_id, why FROM refunds")
    shows(con, "again", [(1, None), (1, None), (3, None)])
