"""'state.keep': a table's rows in state outlive the last job that joins it, follow their source, and serve the next job."""

from __future__ import annotations

from pathlib import Path

import forebay

TABLES = """
CREATE TABLE orders (id BIGINT, v BIGINT) WITH ('connector' = 'log', 'topic' = 'orders', 'format' = 'json',
  'scan.startup.mode' = 'earliest-offset', 'state.keep' = '{keep}');
CREATE TABLE refunds (order_id BIGINT, w BIGINT);
INSERT INTO orders VALUES (1, 10), (2, 20);
INSERT INTO refunds VALUES (1, 1), (2, 2), (3, 3);
"""
VIEW = "CREATE MATERIALIZED VIEW {} AS SELECT o.id, o.v, r.w FROM orders o JOIN refunds r ON r.order_id = o.id"


def shows(con: forebay.Session, view: str, count: int) -> None:
    assert isinstance(con, forebay.Connection)
    assert con.warehouse.driver.wait(lambda: len(con.sql(f"SELECT * FROM {view}").fetchall()) == count, 20)


def kept(con: forebay.Session) -> list[tuple[str, int]]:
    states = con.sql("SHOW STATE").arrow().to_pylist()
    return [(s["jobs"], s["rows"]) for s in states if s["name"].startswith("orders_by_id")]


def records(con: forebay.Session) -> int:
    assert isinstance(con, forebay.Connection)
    return sum(n.scan.metrics.records for n in con.warehouse.driver.flow.scans() if n.scan is not None)


def test_state_is_kept_until_it_is_let_go(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute(TABLES.format(keep="true") + VIEW.format("v"))
        shows(con, "v", 2)
        con.execute("DROP MATERIALIZED VIEW v")
        assert kept(con) == [("state.keep orders by (id)", 2)]
        con.execute("INSERT INTO orders VALUES (3, 30)")
        assert con.warehouse.driver.wait(lambda: kept(con)[0][1] == 3, 20)
        assert list(con.jobs) == []
    with forebay.connect(tmp_path / "w") as con:
        assert kept(con) == [("state.keep orders by (id)", 3)]
        con.execute(VIEW.format("w"))
        assert len(con.sql("SELECT * FROM w").fetchall()) == 3  # at once
        con.execute("INSERT INTO orders VALUES (3, 31)")
        shows(con, "w", 4)
        assert records(con) == 1  # what is in state was not read again
        con.execute("DROP MATERIALIZED VIEW w")
        assert kept(con) == [("state.keep orders by (id)", 4)]
        con.execute("ALTER TABLE orders SET ('state.keep' = 'false')")
        assert kept(con) == []
    with forebay.connect(tmp_path / "w") as con:
        assert kept(con) == []
        con.execute("DROP TABLE orders")


def test_without_it_the_last_job_takes_the_state_along() -> None:
    with forebay.connect() as con:
        con.execute(TABLES.format(keep="false") + VIEW.format("v"))
        shows(con, "v", 2)
        con.execute("DROP MATERIALIZED VIEW v")
        assert kept(con) == []
