"""A job attached after many rows gives what it would have given attached first; so does one that failed and was resumed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.batch import Batch
from tests.oracle.harness import bag, create

QUERIES = {
    "filtered": "SELECT id, shop FROM orders WHERE MOD(id, 7) = 3",
    "grouped": "SELECT shop, COUNT(*) AS n, SUM(amount) AS total FROM orders GROUP BY shop",
    "joined": "SELECT o.id, o.shop, r.amount FROM orders o LEFT JOIN refunds r ON o.id = r.id WHERE MOD(o.id, 5) = 0",
    "stacked": "SELECT n, COUNT(*) AS shops FROM base GROUP BY n",
}
PART = 1500


def until(done: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def topics(con: Connection, mode: str) -> None:
    for table in ("orders", "refunds"):
        con.execute(
            f"""
            CREATE TABLE {table} (id BIGINT, shop BIGINT, amount BIGINT) WITH (
              'connector' = 'log', 'topic' = '{table}', 'format' = 'json', 'scan.startup.mode' = '{mode}')
            """
        )
    con.execute("CREATE MATERIALIZED VIEW base AS SELECT shop, COUNT(*) AS n FROM orders GROUP BY shop")


def write(con: Connection, first: int) -> None:
    """PART orders, and a refund of every third, from id `first` on."""
    ids = pa.array(range(first, first + PART))
    shop = pa.array([i * i % 11 for i in range(first, first + PART)])
    rows = pa.table({"id": ids, "shop": shop, "amount": ids})
    refunds = rows.filter(pc.equal(pa.array([i % 3 for i in range(PART)]), 0))
    for table, part in (("orders", rows), ("refunds", refunds)):
        con.register(f"part_{table}_{first}", part)
        con.execute(f"INSERT INTO {table} SELECT id, shop, amount FROM part_{table}_{first}")


def contents(con: Connection, views: list[str]) -> list[object]:
    return [bag(con.sql(f"SELECT * FROM {v}").fetchall()) for v in views]


def seen(con: Connection, view: str) -> int:
    return int(con.sql(f"SELECT COALESCE(SUM(n), 0) FROM {view}").fetchall()[0][0])


def test_attached_late_equals_attached_first_from_the_earliest_offset() -> None:
    with forebay.connect() as con:
        topics(con, "earliest-offset")
        early, late = ([f"{name}_{when}" for name in QUERIES] for when in ("early", "late"))
        for name, query in QUERIES.items():
            con.execute(f"CREATE MATERIALIZED VIEW {name}_early AS {query}")
        write(con, 0)
        until(lambda: seen(con, "base") == PART)
        for name, query in QUERIES.items():
            con.execute(f"CREATE MATERIALIZED VIEW {name}_late AS {query}")
        write(con, PART)
        until(lambda: seen(con, "grouped_late") == 2 * PART == seen(con, "grouped_early"))
        until(lambda: contents(con, late) == contents(con, early))
        assert all(contents(con, late))


def test_attached_late_at_the_latest_offset_sees_what_came_after() -> None:
    """The same jobs in a warehouse where only the later part was ever written."""
    with forebay.connect() as con:
        topics(con, "latest-offset")
        con.execute("CREATE MATERIALIZED VIEW everything AS SELECT COUNT(*) AS n FROM orders")
        time.sleep(0.2)
        write(con, 0)
        until(lambda: seen(con, "everything") == PART)
        for name, query in QUERIES.items():
            con.execute(f"CREATE MATERIALIZED VIEW {name} AS {query}")
        time.sleep(0.3)
        write(con, PART)
        until(lambda: seen(con, "grouped") == PART)
        until(lambda: seen(con, "base") == 2 * PART)
        assert seen(con, "everything") == 2 * PART
        names = [n for n in QUERIES if n != "stacked"]
        joined = (PART // 5, PART // 15)
        until(lambda: con.sql("SELECT COUNT(*), COUNT(amount) FROM joined").fetchall() == [joined])
        got = dict(zip(names, contents(con, names)))
    with forebay.connect() as con:
        topics(con, "earliest-offset")
        for name, query in QUERIES.items():
            con.execute(f"CREATE MATERIALIZED VIEW {name} AS {query}")
        write(con, PART)
        until(lambda: dict(zip(names, contents(con, names))) == got)


@pytest.mark.parametrize("epochs", [1, 25])
def test_failed_and_resumed_equals_never_failed(epochs: int) -> None:
    """A job whose function raises misses `epochs` epochs of its tables; resumed, it shows what its twin shows."""
    schema = pa.schema([("k", pa.int64()), ("v", pa.int64())])
    broken = [False]

    @forebay.udf(["BIGINT"], "BIGINT")
    def fragile(values: pa.Array) -> pa.Array:
        if broken[0]:
            raise ValueError("not now")
        return values

    @forebay.udf(["BIGINT"], "BIGINT")
    def sound(values: pa.Array) -> pa.Array:
        return values

    query = """
      SELECT x.k, x.n, x.s, u.v FROM (
        SELECT k, COUNT(*) AS n, SUM({}(v)) AS s FROM t GROUP BY k) x LEFT JOIN u ON x.k = u.k AND x.n <> u.v
    """
    with forebay.connect(resume=False) as con:
        for function in (fragile, sound):
            con.create_function(function)
        for table in "tu":
            create(con, table, schema)
        for name in ("fragile", "sound"):
            con.execute(f"CREATE MATERIALIZED VIEW v_{name} AS {query.format(name)}")

        def feed(step: int) -> dict[str, Exception]:
            failed: dict[str, Exception] = {}
            for shift, table in enumerate("tu"):
                rows = [((step * 7 + i) % 5 + shift, (step + i) % 4) for i in range(6)]
                weights = [1, 1, 1, 1, -1, 1] if step % 2 else [1, 1, 1, 1, 1, 1]
                columns = [pa.array(c, pa.int64()) for c in zip(*rows)]
                change = Batch(pa.record_batch(columns, schema=schema), pa.array(weights, pa.int64()).to_numpy())
                failed |= con.warehouse.driver.feed(table, change)
            return failed

        for step in range(4):
            assert not feed(step)
        before = contents(con, ["v_fragile"])
        broken[0] = True
        assert set(feed(4)) == {"v_fragile"}
        for step in range(5, 4 + epochs):
            assert not feed(step)
        assert contents(con, ["v_fragile"]) == before != contents(con, ["v_sound"])
        assert con.jobs["v_fragile"].status in ("RESTARTING", "FAILED")
        con.jobs["v_fragile"].resume()
        assert con.jobs["v_fragile"].status in ("RESTARTING", "FAILED"), "it fails again where it stood"
        broken[0] = False
        con.jobs["v_fragile"].resume()
        assert con.jobs["v_fragile"].status == "RUNNING"
        assert contents(con, ["v_fragile"]) == contents(con, ["v_sound"])
        for step in range(30, 34):
            assert not feed(step)
            assert contents(con, ["v_fragile"]) == contents(con, ["v_sound"])
