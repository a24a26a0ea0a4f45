"""TRACE JOB and EXPLAIN STATE: what a job holds for a key, and what a statement remembers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay import trace

SETUP = """
CREATE TABLE orders (id BIGINT, shop STRING, amount BIGINT, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, part BIGINT);
CREATE TABLE out (shop STRING, parts BIGINT, PRIMARY KEY (shop) NOT ENFORCED) WITH ('connector' = 'upsert-log', 'topic' = 'out',
  'key.format' = 'json', 'value.format' = 'json');
INSERT INTO orders VALUES (1, 'a', 10), (2, 'b', 20);
INSERT INTO refunds VALUES (1, 5), (1, 6), (2, 7);
"""
VIEW = """CREATE MATERIALIZED VIEW v AS
  SELECT o.shop, SUM(r.part) AS parts FROM orders o JOIN refunds r ON r.order_id = o.id GROUP BY o.shop"""


def traced(con: forebay.Session, job: str, where: str) -> list[tuple[str, str]]:
    rows = con.sql(f"TRACE JOB {job} WHERE {where}").fetchall()
    return [(re.sub("_[0-9a-f]{6}$", "", state), row) for _, _, state, row in rows]


def estimated(con: forebay.Session, statement: str) -> list[tuple[Any, ...]]:
    rows = con.sql(f"EXPLAIN STATE {statement}").fetchall()
    return [(state, of, rows, "live" in known) for state, of, _, rows, _, known in rows]


def test_a_key_is_followed_through_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute(SETUP + VIEW)
        assert sorted(traced(con, "v", "id = 1 AND order_id = 1 AND shop = 'a'")) == [
            ("orders", "id = 1, shop = a, amount = 10"),
            ("orders_by_id", "id = 1, shop = a"),
            ("orders_refunds_aggregate_groups", "shop = a, parts = 11"),
            ("refunds", "order_id = 1, part = 5"),
            ("refunds", "order_id = 1, part = 6"),
            ("refunds_by_order_id", "order_id = 1, part = 5"),
            ("refunds_by_order_id", "order_id = 1, part = 6"),
            ("v", "shop = a, parts = 11"),
        ]
        assert traced(con, "v", "part = -7") == traced(con, "v", "id = 'one'") == []
        assert traced(con, "v", "id = '2'")[0] == ("orders", "id = 2, shop = b, amount = 20")
        held = [("refunds", "order_id = 2, part = 7"), ("refunds_by_order_id", "order_id = 2, part = 7")]
        assert traced(con, "v", "part = '7'") == held
        monkeypatch.setattr(trace, "MOST_LOOKED_THROUGH", 0)
        assert traced(con, "v", "part = 7")[1] == (
            "refunds_by_order_id",
            "3 rows, not looked through: its key is (order_id)",
        )


def test_rows_that_a_sink_owes_are_shown() -> None:
    with forebay.connect(config={"execution.checkpointing.interval": "1 h"}) as con:
        con.execute(SETUP)
        con.execute("INSERT INTO out SELECT shop, SUM(amount) FROM orders GROUP BY shop")
        assert ("not confirmed", "shop = b, parts = 20, weight = 1") in traced(con, "insert_into_out", "shop = 'b'")


def test_state_is_estimated_before_and_counted_after() -> None:
    with forebay.connect() as con:
        con.execute(SETUP)
        before = estimated(con, VIEW)
        assert [(s, n, live) for s, _, n, live in before] == [
            ("Arrange(by [0])", 2, False),
            ("Arrange(by [0])", 3, False),
            ("Join(inner)", 0, False),
            ("Aggregate", 3, False),
            ("View(v)", 3, False),
        ]
        con.execute(VIEW)
        assert estimated(con, VIEW) == [
            (s, of, 2 if s in ("Aggregate", "View(v)") else n, True) for s, of, n, _ in before
        ]
        shared = estimated(
            con, "SELECT o.shop, r.part FROM orders o JOIN refunds r ON r.order_id = o.id WHERE part > 5"
        )
        assert ("Join(inner)", "orders, refunds", 0, False) in shared
        con.execute("CREATE TABLE src (id BIGINT) WITH ('connector' = 'log', 'topic' = 'src', 'format' = 'json')")
        unknown = con.sql("EXPLAIN STATE SELECT id, COUNT(*) FROM src GROUP BY id").fetchall()
        assert unknown == [("Aggregate", "src", None, None, None, "unknown: nothing has read src")]
