"""Materialized views that are refreshed on a schedule."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

import forebay
from forebay.engine.errors import CatalogError, OptionError
from forebay.interrupt import StatementCancelledError, interruptible
from forebay.refresh import Refresher

SETUP = """
CREATE TABLE orders (id INT, shop STRING, amount DOUBLE, PRIMARY KEY (id) NOT ENFORCED);
INSERT INTO orders VALUES (1, 'a', 10), (2, 'b', 20), (3, 'a', 5);
"""
VIEW = """
CREATE MATERIALIZED VIEW best (shop, total, place) WITH ('refresh.interval' = '100 ms') AS
SELECT shop, SUM(amount), ROW_NUMBER() OVER (ORDER BY SUM(amount) DESC) FROM orders GROUP BY shop
"""


def test_it_is_filled_at_once_and_refreshed_at_intervals(tmp_path: Path) -> None:
    with forebay.connect(tmp_path) as con:
        con.execute(SETUP)
        con.execute(VIEW)
        assert con.sql("SELECT * FROM best ORDER BY place").fetchall() == [("b", 20.0, 1), ("a", 15.0, 2)]
        con.execute("CREATE MATERIALIZED VIEW first AS SELECT shop FROM best WHERE place = 1")
        con.execute("UPDATE orders SET amount = 50 WHERE id = 1")
        deadline = time.monotonic() + 30
        while con.sql("SELECT shop FROM first").fetchall() != [("a",)]:
            assert time.monotonic() < deadline
        with pytest.raises(CatalogError, match="used by best"):
            con.execute("DROP TABLE orders")
    with forebay.connect(tmp_path, resume=False) as con:
        assert con.sql("SELECT shop FROM best WHERE place = 1").fetchall() == [("a",)]
        assert con.sql("SELECT shop FROM first").fetchall() == [("a",)]
        con.execute("DROP MATERIALIZED VIEW first; DROP MATERIALIZED VIEW best; DROP TABLE orders")
        assert con.sql("SHOW TABLES").fetchall() == []


def test_options_are_checked() -> None:
    with forebay.connect() as con:
        con.execute(SETUP)
        with pytest.raises(OptionError, match=r"refresh\.interval"):
            con.execute("CREATE MATERIALIZED VIEW v WITH ('refresh.intervall' = '1 s') AS SELECT * FROM orders")
        with pytest.raises(OptionError, match="more than 0"):
            con.execute("CREATE MATERIALIZED VIEW v WITH ('refresh.interval' = '0 s') AS SELECT * FROM orders")


def test_each_view_has_its_own_interval() -> None:
    now, calls = [0.0], list[str]()
    refresher = Refresher(lambda: now[0])
    refresher.add("often", 1, lambda: calls.append("often"))
    refresher.add("rarely", 3, lambda: calls.append("rarely"))
    for _ in range(6):
        now[0] += 1
        refresher.step()
    refresher.remove("often")
    now[0] += 3
    refresher.step()
    assert calls == ["often", "often", "often", "rarely", "often", "often", "often", "rarely", "rarely"]


def test_a_refresh_that_fails_is_told_and_tried_again() -> None:
    now, broken = [0.0], [True]
    refresher = Refresher(lambda: now[0])

    def refresh() -> None:
        if broken[0]:
            raise CatalogError("table orders does not exist")

    refresher.add("v", 1, refresh)
    now[0] = 1
    refresher.step()
    assert "orders" in str(refresher.errors["v"])
    broken[0], now[0] = False, 2
    refresher.step()
    assert refresher.errors == {}


def test_a_view_whose_first_answer_fails_is_not_made() -> None:
    @forebay.udf(["DOUBLE"], "DOUBLE", name="never")
    def never(amounts: pa.Array) -> pa.Array:
        raise ValueError("no luck")

    with forebay.connect() as con:
        con.execute(SETUP)
        con.create_function(never)
        create = "CREATE MATERIALIZED VIEW v WITH ('refresh.interval' = '1 h') AS SELECT {} AS a FROM orders"
        with pytest.raises(Exception, match="no luck"):
            con.execute(create.format("never(amount)"))
        con.execute(create.format("amount"))
        assert con.sql("SELECT SUM(a) FROM v").fetchall() == [(35.0,)]


def test_other_statements_go_on_while_a_refresh_reads() -> None:
    slow = "WITH ('connector' = 'datagen', 'rows-per-second' = '5', 'number-of-rows' = '100000')"
    view = "CREATE MATERIALIZED VIEW v WITH ('refresh.interval' = '1 h') AS SELECT COUNT(*) AS n FROM slow"
    con = forebay.connect()
    con.execute(f"CREATE TABLE slow (n BIGINT) {slow}; CREATE TABLE fast (n BIGINT); INSERT INTO fast VALUES (1)")
    called_off = threading.Event()

    def create() -> None:
        with interruptible(called_off.is_set), contextlib.suppress(StatementCancelledError):
            con.execute(view)

    creating = threading.Thread(target=create)
    creating.start()
    while not con.warehouse.driver.jobs:
        time.sleep(0.01)
    assert con.sql("SELECT COUNT(*) FROM fast").fetchall() == [(1,)]
    called_off.set()
    creating.join(10)
    assert not creating.is_alive()
    assert con.sql("SHOW MATERIALIZED VIEWS").fetchall() == []
    con.close()


def test_a_query_over_a_view_that_fell_behind_says_so() -> None:
    broken = [False]

    @forebay.udf(["DOUBLE"], "DOUBLE", name="sometimes", deterministic=False)
    def sometimes(amounts: pa.Array) -> pa.Array:
        if broken[0]:
            raise ValueError("no luck")
        return amounts

    with forebay.connect(functions=[sometimes]) as con:
        con.execute(SETUP)
        con.execute("CREATE MATERIALIZED VIEW live AS SELECT id, sometimes(amount) AS a FROM orders")
        every = "CREATE MATERIALIZED VIEW timed WITH ('refresh.interval' = '20 ms') AS "
        con.execute(every + "SELECT id, sometimes(amount) AS a FROM orders")
        query = "SELECT COUNT(*) FROM live JOIN timed ON live.id = timed.id"
        result = con.sql(query)
        assert (result.fetchall(), result.warnings) == ([(3,)], [])
        broken[0] = True
        con.execute("INSERT INTO orders VALUES (4, 'c', 1)")
        deadline = time.monotonic() + 10
        while len(con.sql(query).warnings) < 2:
            assert time.monotonic() < deadline
        assert all("is out of date" in w and "no luck" in w for w in con.sql(query).warnings)
        assert con.sql(query).fetchall() == [(3,)]
