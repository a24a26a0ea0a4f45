"""Cases that engines of this kind are known to get wrong, each by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.batch import Batch
from tests.oracle.harness import Oracle, bag, create

SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.int64())])


def batch(*rows: tuple[int, int | None, int | None]) -> Batch:
    """(weight, k, v) as a batch of SCHEMA."""
    weights, keys, values = zip(*rows)
    columns = [pa.array(keys, pa.int64()), pa.array(values, pa.int64())]
    return Batch(pa.record_batch(columns, schema=SCHEMA), np.array(weights, np.int64))


@pytest.fixture
def con() -> Iterator[Connection]:
    with forebay.connect(resume=False) as connection:
        yield connection


def tables(con: Connection, *names: str) -> Oracle:
    for name in names:
        create(con, name, SCHEMA)
    return Oracle(con)


KINDS = ("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN")


def both_sides_at_once(con: Connection, *rows: tuple[int, int, int, int]) -> None:
    """Changes (side, weight, k, v) to both sides of `l JOIN r` in one epoch: both are views of the same table."""
    sides, weights, keys, values = zip(*rows)
    columns = [pa.array(c, pa.int64()) for c in (sides, keys, values)]
    rows_batch = pa.record_batch(columns, names=["side", "k", "v"])
    failed = con.warehouse.driver.feed("both", Batch(rows_batch, np.array(weights, np.int64)))
    assert not failed


def test_delete_left_and_insert_right_of_one_key_in_one_epoch(con: Connection) -> None:
    con.execute(
        """
        CREATE TABLE both (side BIGINT, k BIGINT, v BIGINT);
        CREATE VIEW l AS SELECT k, v FROM both WHERE side = 0;
        CREATE VIEW r AS SELECT k, v FROM both WHERE side = 1;
        """
    )
    oracle = Oracle(con)
    for number, kind in enumerate(KINDS):
        oracle.view(f"j{number}", f"SELECT l.k, l.v, r.k AS rk, r.v AS rv FROM l {kind} r ON l.k = r.k")
    oracle.view("semi", "SELECT k, v FROM l WHERE k IN (SELECT k FROM r)")
    oracle.view("anti", "SELECT k, v FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.k = l.k)")
    steps: list[tuple[tuple[int, int, int, int], ...]] = [
        ((0, 1, 1, 10),),
        ((0, -1, 1, 10), (1, 1, 1, 100)),  # L goes, R comes
        ((0, 1, 1, 11), (1, -1, 1, 100)),  # L comes, R goes
        ((0, -1, 1, 11), (0, 1, 1, 12), (1, 1, 1, 101)),  # L is replaced while R comes
        ((0, 1, 1, 12), (1, 1, 1, 101)),  # a second copy on both sides
        ((0, -1, 1, 12), (1, -1, 1, 101)),
        ((0, -1, 1, 12), (1, -1, 1, 101)),
    ]
    for step, rows in enumerate(steps):
        both_sides_at_once(con, *rows)
        oracle.check(step)
    assert not oracle.shown("j3")


@pytest.mark.parametrize("kind", KINDS)
def test_self_join(con: Connection, kind: str) -> None:
    oracle = tables(con, "t")
    oracle.view("chain", f"SELECT a.k, a.v, b.v AS next FROM t a {kind} t b ON a.v = b.k")
    oracle.view("pairs", f"SELECT a.v, b.v AS w FROM t a {kind} t b ON a.k = b.k AND a.v < b.v")
    oracle.feed({"t": batch((1, 1, 2), (1, 2, 3), (1, 3, 3), (1, None, 1), (1, 4, None))})
    oracle.check("filled")
    oracle.feed({"t": batch((-1, 2, 3), (1, 2, 1), (1, 1, 2), (1, 1, 5))})
    oracle.check("changed")
    oracle.feed({"t": batch((-1, 1, 2), (-1, 1, 2), (-1, 3, 3), (-1, None, 1))})
    oracle.check("emptied")
    assert oracle.answers["chain"] == 3


def test_a_row_born_and_dead_in_one_epoch(con: Connection) -> None:
    oracle = tables(con, "t", "u")
    queries = {
        "kept": "SELECT k, v FROM t WHERE v > 0",
        "grouped": "SELECT k, COUNT(*) AS n, SUM(v) AS s, MAX(v) AS m FROM t GROUP BY k",
        "joined": "SELECT t.k, t.v, u.v AS w FROM t LEFT JOIN u ON t.k = u.k",
        "ranked": "SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v) AS n FROM t) WHERE n = 1",
        "only": "SELECT DISTINCT k FROM t",
    }
    for name, query in queries.items():
        oracle.view(name, query)
    with con.stream("SELECT k, COUNT(*) AS n FROM t GROUP BY k") as changes:
        oracle.feed({"u": batch((1, 1, 7))})
        oracle.feed({"t": batch((1, 1, 1), (-1, 1, 1))})
        oracle.check("nothing yet")
        assert not any(oracle.shown(name) for name in queries)
        oracle.feed({"t": batch((-1, 1, 5), (1, 1, 5), (1, 2, 2), (1, 1, 4), (-1, 1, 4), (1, 1, 4))})
        oracle.check("death before birth")
        assert oracle.shown("kept") == bag([(2, 2), (1, 4)])
        assert sorted(changes.fetch(0.2)) == [("+I", (1, 1)), ("+I", (2, 1))]
        oracle.feed({"t": batch((-1, 1, 4), (1, 1, 4), (-1, 2, 2), (1, 2, 2))})
        oracle.check("touched, not changed")
        assert changes.fetch(0.2) == []


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_a_sink_keyed_by_another_column_than_the_changelog() -> None:
    """An order is re-assigned to another shop; sinks keyed by shop must neither lose nor keep the wrong shop's row."""
    with forebay.connect() as con:
        con.execute(
            """
            SET 'execution.checkpointing.interval' = '50 ms';
            CREATE TABLE orders (id INT, shop STRING, amount INT, PRIMARY KEY (id) NOT ENFORCED);
            CREATE TABLE kept (shop STRING, id INT, amount INT, PRIMARY KEY (shop) NOT ENFORCED);
            CREATE TABLE topic (shop STRING, id INT, amount INT, PRIMARY KEY (shop) NOT ENFORCED) WITH (
              'connector' = 'upsert-log', 'topic' = 'shops', 'key.format' = 'json', 'value.format' = 'json');
            CREATE MATERIALIZED VIEW back AS SELECT shop, id, amount FROM topic;
            EXECUTE STATEMENT SET BEGIN
              INSERT INTO kept SELECT shop, id, amount FROM orders;
              INSERT INTO topic SELECT shop, id, amount FROM orders;
            END;
            """
        )

        def shows(*expected: tuple[str, int, int]) -> None:
            for name in ("kept", "back"):
                query = f"SELECT shop, id, amount FROM {name}"
                until(lambda q=query: bag(con.sql(q).fetchall()) == bag(list(expected)))  # type: ignore[misc]

        con.execute("INSERT INTO orders VALUES (1, 'a', 10), (2, 'b', 20)")
        shows(("a", 1, 10), ("b", 2, 20))
        con.execute("UPDATE orders SET shop = 'c' WHERE id = 1")
        shows(("c", 1, 10), ("b", 2, 20))
        con.execute("UPDATE orders SET shop = CASE id WHEN 1 THEN 'b' ELSE 'c' END")  # both at once, crossing
        shows(("b", 1, 10), ("c", 2, 20))
        con.execute("UPDATE orders SET shop = 'b' WHERE id = 2")
        until(lambda: len(con.sql("SELECT * FROM back").fetchall()) == 1)
        con.execute("DELETE FROM orders WHERE id = 1")  # of two orders of one shop one goes: the other one shows
        shows(("b", 2, 20))
        con.execute("DELETE FROM orders")
        shows()


def test_now_over_updating_input(con: Connection) -> None:
    """NOW() of a row is remembered until the row goes: what it gave is what is taken back."""
    oracle = tables(con, "t")
    con.execute(
        """
        CREATE MATERIALIZED VIEW stamped AS SELECT k, v, NOW() AS seen FROM t;
        CREATE MATERIALIZED VIEW recent AS SELECT k, v FROM t
          WHERE TIMESTAMPADD(SECOND, CAST(v AS INT), TIMESTAMP '2020-01-01 00:00:00') < NOW();
        CREATE MATERIALIZED VIEW per_time AS SELECT seen, COUNT(*) AS n FROM stamped GROUP BY seen;
        """
    )
    oracle.feed({"t": batch((1, 1, 1), (1, 2, 2), (1, 2, 2))})
    first = con.sql("SELECT k, v, seen FROM stamped").fetchall()
    assert len(first) == 3 and len({seen for *_, seen in first}) == 1
    time.sleep(0.02)
    oracle.feed({"t": batch((-1, 2, 2), (1, 3, 3))})
    second = con.sql("SELECT k, v, seen FROM stamped").fetchall()
    assert bag(second) - bag(first) == bag([r for r in second if r[0] == 3])
    assert {r[2] for r in second if r[0] == 3} != {first[0][2]}
    assert sorted(r[0] for r in second) == [1, 2, 3]
    assert sorted(con.sql("SELECT n FROM per_time").fetchall()) == [(1,), (2,)]
    assert sorted(con.sql("SELECT k FROM recent").fetchall()) == [(1,), (2,), (3,)]
    oracle.feed({"t": batch((-1, 1, 1), (-1, 2, 2), (-1, 3, 3))})
    for view in ("stamped", "per_time", "recent"):
        assert con.sql(f"SELECT * FROM {view}").fetchall() == [], view
