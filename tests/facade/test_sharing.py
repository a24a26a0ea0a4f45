"""Jobs that join one table by one key keep one copy of it, whatever their filters, columns and kinds of join."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.errors import OptionError

LOG = "'connector' = 'log', 'topic' = '{0}', 'format' = 'json'"
TABLES = f"""
CREATE TABLE orders (id INT, shop INT, city STRING, amount INT, loud AS UPPER(city), seen AS PROCTIME())
  WITH ({LOG.format("orders")});
CREATE TABLE refunds (order_id INT, refunded INT) WITH ({LOG.format("refunds")});
"""
QUERIES = {
    "plain": "SELECT o.id, o.amount, r.refunded FROM orders o LEFT JOIN refunds r ON r.order_id = o.id",
    "filtered": "SELECT o.shop, r.refunded FROM orders o JOIN refunds r ON r.order_id = o.id WHERE o.city = 'Rome'",
    "both": """SELECT o.id, r.refunded FROM orders o LEFT JOIN refunds r ON r.order_id = o.id AND r.refunded > 5
      WHERE o.amount > 20""",
    "computed": "SELECT o.loud, o.amount * 2 AS twice, r.refunded FROM orders o JOIN refunds r ON r.order_id = o.id",
    "guarded": """SELECT o.id, 100 / o.amount AS share, r.refunded FROM orders o FULL JOIN refunds r
      ON r.order_id = o.id WHERE o.amount <> 0""",
    "semi": "SELECT o.id FROM orders o WHERE EXISTS (SELECT 1 FROM refunds r WHERE r.order_id = o.id AND r.refunded > 3)",
    "anti": "SELECT o.id FROM orders o WHERE NOT EXISTS (SELECT 1 FROM refunds r WHERE r.order_id = o.id)",
    "counted": "SELECT COUNT(*) AS n FROM orders o JOIN refunds r ON r.order_id = o.id",
}


@pytest.fixture
def con() -> Iterator[Connection]:
    with forebay.connect() as opened:
        opened.execute(TABLES)
        yield opened


def feed(con: Connection, rng: random.Random, rows: int) -> None:
    cities = ("'Rome'", "'Oslo'", "NULL")
    orders = [
        f"({rng.randrange(30)}, {rng.randrange(3)}, {rng.choice(cities)}, {rng.randrange(50)})" for _ in range(rows)
    ]
    refunds = [f"({rng.randrange(30)}, {rng.randrange(9)})" for _ in range(rows)]
    con.execute(f"INSERT INTO orders (id, shop, city, amount) VALUES {', '.join(orders)}")
    con.execute(f"INSERT INTO refunds VALUES {', '.join(refunds)}")


def arrangements(con: Connection) -> list[str]:
    """The jobs of each state of a join."""
    states = con.execute("SHOW STATE").arrow().to_pylist()
    return [state["jobs"] for state in states if state["node"].startswith("Arrange")]


def agree(con: Connection, rows: int) -> None:
    """All views show what a query over the topics gives, once they have read `rows` records of each."""
    bounded = "/*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */"
    for name, query in QUERIES.items():
        asked = query.replace("orders o", f"orders {bounded} o").replace("refunds r", f"refunds {bounded} r")
        want = sorted(map(repr, con.sql(asked).fetchall()))
        shown = lambda n=name: sorted(map(repr, con.sql(f"SELECT * FROM {n}").fetchall()))
        assert con.warehouse.driver.wait(lambda w=want, s=shown: s() == w, 30), (name, rows)


def test_different_jobs_share_and_are_right(con: Connection) -> None:
    rng = random.Random(5)
    early = list(QUERIES)[::2]
    for name in early:
        con.execute(f"CREATE MATERIALIZED VIEW {name} AS {QUERIES[name]}")
    feed(con, rng, 40)
    for name in QUERIES.keys() - set(early):  # these come late, and see what is held without reading the topic again
        con.execute(f"CREATE MATERIALIZED VIEW {name} AS {QUERIES[name]}")
    for step in range(2, 5):
        feed(con, rng, 40)
        agree(con, 40 * step)
    assert [len(jobs.split(", ")) for jobs in arrangements(con)] == [len(QUERIES)] * 2


def test_a_late_job_reads_state_and_not_the_topic(con: Connection) -> None:
    con.execute(f"CREATE MATERIALIZED VIEW plain AS {QUERIES['plain']}")
    feed(con, random.Random(1), 50)
    assert con.warehouse.driver.wait(lambda: con.jobs["plain"].metrics()["records"] == 100, 30)
    con.execute(f"CREATE MATERIALIZED VIEW filtered AS {QUERIES['filtered']}")
    assert sum(node.scan is not None for node in con.warehouse.driver.flow.order) == 2
    assert con.sql("SELECT COUNT(*) FROM filtered").fetchall()[0][0] > 0  # at once: nothing had to be awaited


def test_each_for_itself_with_used(con: Connection) -> None:
    con.execute("ALTER TABLE orders SET ('state.columns' = 'used')")
    con.execute("ALTER TABLE refunds SET ('state.columns' = 'order_id;refunded')")
    for name in ("plain", "filtered"):
        con.execute(f"CREATE MATERIALIZED VIEW {name} AS {QUERIES[name]}")
    assert sorted(arrangements(con)) == ["filtered", "filtered, plain", "plain"]


def test_what_is_evaluated_once_is_not_shared(con: Connection) -> None:
    con.execute(
        "CREATE MATERIALIZED VIEW v AS SELECT o.seen, r.refunded FROM orders o JOIN refunds r ON r.order_id = o.id"
    )
    con.execute(f"CREATE MATERIALIZED VIEW plain AS {QUERIES['plain']}")
    assert len(arrangements(con)) == 3


def test_a_misspelt_column_is_told(con: Connection) -> None:
    with pytest.raises(OptionError, match=r"orders has no column 'amuont'") as told:
        con.execute("ALTER TABLE orders SET ('state.columns' = 'id;amuont')")
    assert told.value.hint == "did you mean 'amount'?"


def test_explain_says_what_is_shared(con: Connection) -> None:
    text = con.execute(f"EXPLAIN {QUERIES['filtered']}").fetchall()[0][0]
    assert "state: table orders by (id), shared by jobs, table refunds by (order_id), shared by jobs" in text


def test_a_table_that_reads_elsewhere_now_shares_nothing(con: Connection) -> None:
    table = "CREATE TABLE {0} (id BIGINT) WITH (" + LOG + ", 'scan.startup.mode' = 'earliest-offset');"
    pairs = "SELECT x.id FROM a x JOIN a y ON x.id = y.id"
    con.execute(table.format("a") + table.format("b") + "INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (2), (3)")
    con.execute(f"CREATE MATERIALIZED VIEW before AS {pairs}")
    driver = con.warehouse.driver
    assert driver.wait(lambda: len(con.sql("SELECT * FROM before").fetchall()) == 2, 30)
    con.execute(f"ALTER TABLE a SET ('topic' = 'b'); CREATE MATERIALIZED VIEW after AS {pairs}")
    assert driver.wait(lambda: len(con.sql("SELECT * FROM after").fetchall()) == 2, 30)
    assert sorted(con.sql("SELECT id FROM after").fetchall()) == [(2,), (3,)]
