"""The memory budget: rows leave memory when it is tight, and nothing that anyone sees changes."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

import forebay
from forebay.engine.runtime import budget as module
from forebay.engine.state import cold, coldstore

TABLES = """
CREATE TABLE orders (id BIGINT, city STRING, amount BIGINT, note STRING, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, amount BIGINT);
CREATE MATERIALIZED VIEW wide AS
  SELECT o.id, o.city, o.amount, o.note, r.amount AS refunded FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
CREATE MATERIALIZED VIEW cities AS
  SELECT city, COUNT(*) AS n, SUM(amount) AS sold, SUM(refunded) AS refunded FROM wide GROUP BY city;
"""
QUERY = "SELECT o.id, o.city, o.amount, o.note, r.amount FROM orders o LEFT JOIN refunds r ON r.order_id = o.id"


def check(con: forebay.Connection) -> int:
    shown = sorted(con.sql("SELECT * FROM wide").fetchall(), key=repr)
    assert shown == sorted(con.sql(QUERY).fetchall(), key=repr)
    totals = con.sql(
        "SELECT city, COUNT(*), SUM(amount), SUM(refunded) FROM wide GROUP BY city ORDER BY city"
    ).fetchall()
    assert con.sql("SELECT * FROM cities ORDER BY city").fetchall() == totals
    return len(shown)


def segments(con: forebay.Connection) -> list[int]:
    with con.warehouse.driver.boundary() as flow:
        return flow.graph.segments()


@pytest.mark.parametrize("durable", [False, True])
def test_cold_rows_are_joined_updated_deleted_and_restored(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY", 1)
    monkeypatch.setattr(cold, "FAN", 3)
    monkeypatch.setattr(cold, "DEAR", 0)
    monkeypatch.setattr(coldstore, "_FEW", 0)
    rng = random.Random(5)
    path = tmp_path / "warehouse" if durable else ":memory:"
    con = forebay.connect(path, config={"memory.budget": "24MB"})
    con.execute(TABLES)
    note, first = "x" * 120, 0
    for step in range(12):
        ids = range(first, first + 15_000)
        data = {
            "id": ids,
            "city": [f"c{i % 7}" for i in ids],
            "amount": [i % 100 for i in ids],
            "note": [f"{note}{i}" for i in ids],
        }
        con.register("fresh", pa.table(data))
        con.execute("INSERT INTO orders SELECT * FROM fresh")
        first += 15_000
        some = rng.sample(range(first), 300)
        con.execute("INSERT INTO refunds VALUES " + ", ".join(f"({i}, {i % 10})" for i in some))
        old = rng.sample(range(first), 50)
        con.execute(f"UPDATE orders SET amount = amount + 1000 WHERE id IN ({', '.join(map(str, old[:40]))})")
        con.execute(f"DELETE FROM orders WHERE id IN ({', '.join(map(str, old[40:]))})")
        if step in (5, 9, 11):
            assert check(con) > first * 0.9
        if durable and step in (7, 10):
            con.close()
            con = forebay.connect(path)
            assert con.warehouse.driver.budget.limit == 24 << 20, "an option of the warehouse"
    assert segments(con)
    states = con.execute("SHOW STATE").arrow().to_pylist()
    orders = next(s for s in states if s["node"] == "Table(orders)")
    assert orders["segments"] > 0 and orders["disk_bytes"] > orders["cold_rows"] * 100 > 10_000
    con.close()


def test_auto_is_half_of_the_machine() -> None:
    with forebay.connect() as con:
        assert con.warehouse.driver.budget.limit == module.machine_share() > 1 << 28
        con.execute("SET 'memory.budget' = '1GB'")
        assert con.warehouse.driver.budget.limit == 1 << 30
        with pytest.raises(forebay.ForebayError, match="'much' is not a size"):
            con.execute("SET 'memory.budget' = 'much'")
        con.execute("RESET 'memory.budget'")
        assert con.warehouse.driver.budget.limit == module.machine_share()
