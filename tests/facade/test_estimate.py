"""EXPLAIN STATE: what a statement will remember, and what it remembers when it runs."""

from __future__ import annotations

from typing import Any

import forebay

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


def estimated(con: forebay.Session, statement: str) -> list[tuple[Any, ...]]:
    rows = con.sql(f"EXPLAIN STATE {statement}").fetchall()
    return [(state, of, rows, "live" in known) for state, of, _, rows, _, known in rows]


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
