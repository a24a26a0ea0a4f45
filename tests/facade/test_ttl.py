"""A time to live from SQL: where it comes from, that sharing, sealing and restarts change nothing, and how it is changed."""

from __future__ import annotations

import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.errors import OptionError
from forebay.engine.state.arrangement import Arrangement
from tests.state.test_tiers import close_chunk

LOG = "'connector' = 'log', 'topic' = '{0}', 'format' = 'json'"
TABLES = f"""
CREATE TABLE o (id INT, n INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ({LOG.format("o")});
CREATE TABLE r (rid INT, id INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ({LOG.format("r")});
CREATE TABLE s (id INT, name STRING) WITH ({LOG.format("s")});
"""
VIEW = "CREATE MATERIALIZED VIEW {0} AS SELECT {1} o.id, o.n, r.rid FROM o {2} JOIN r ON o.id = r.id"
START = datetime(2026, 1, 1)
Rows = list[tuple[Any, ...]]


def at(days: float) -> str:
    return f"TIMESTAMP '{START + timedelta(days=days)}'"


def feed(con: Connection, table: str, rows: Rows) -> None:
    """Insert rows whose last value is an event time in days."""
    values = ", ".join(f"({', '.join(map(str, row[:-1]))}, {at(row[-1])})" for row in rows)
    con.execute(f"INSERT INTO {table} VALUES {values}")


def settle(con: Connection) -> None:
    """Wait until the jobs have read all, one statement's rows in an epoch of their own."""
    flow = con.warehouse.driver.flow

    def done() -> bool:
        scans = [n.scan for n in flow.order if n.scan is not None]
        return all(s.reader.lag() == 0 and s.positions == s.reader.positions() for s in scans)

    assert con.warehouse.driver.wait(done, 30)


def say(con: Connection, table: str, rows: Rows) -> None:
    feed(con, table, rows)
    settle(con)


def shown(con: Connection, view: str) -> Counter[Any]:
    return Counter(con.sql(f"SELECT * FROM {view}").fetchall())


def hint(o: str, r: str) -> str:
    return f"/*+ STATE_TTL('o'='{o}', 'r'='{r}') */"


def test_an_expired_row_stops_matching_and_says_nothing() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(VIEW.format("v", hint("3 d", "1 d"), "LEFT"))
        say(con, "o", [(1, 10, 0), (2, 20, 0)])
        say(con, "r", [(100, 1, 0.5)])
        assert shown(con, "v") == Counter([(1, 10, 100), (2, 20, None)])
        say(con, "o", [(3, 30, 2)])
        say(con, "r", [(101, 3, 2)])  # the first refund is older than a day now
        say(con, "r", [(102, 1, 2)])  # and another one of its order comes
        assert shown(con, "v") == Counter([(1, 10, 100), (1, 10, 102), (2, 20, None), (3, 30, 101)])
        say(con, "o", [(4, 40, 9)])
        say(con, "r", [(103, 4, 9)])
        say(con, "r", [(104, 2, 9)])  # order 2 is gone
        assert shown(con, "v") == Counter([(1, 10, 100), (1, 10, 102), (2, 20, None), (3, 30, 101), (4, 40, 103)])


def run(path: Path | None, views: dict[str, str], seed: int, care: bool) -> dict[str, Counter[Any]]:
    """A random month in small steps; with `care` everything is sealed after each, and a directory opened anew now and then."""
    rng = random.Random(seed)
    con = forebay.connect(path or ":memory:", attach=False) if path else forebay.connect()
    con.execute(TABLES)
    for name, text in views.items():
        con.execute(VIEW.format(name, text, "LEFT"))
    for day in range(18):
        say(con, "o", [(rng.randrange(12), day * 10 + i, day + rng.random() - 1) for i in range(3)])
        say(con, "r", [(day * 10 + i, rng.randrange(12), day + rng.random() - 1) for i in range(3)])
        if care:
            seal_all(con)
        if path is not None and day % 7 == 6:
            con.close()
            con = forebay.connect(path, attach=False)
    result = {name: shown(con, name) for name in views}
    con.close()
    return result


def seal_all(con: Connection) -> None:
    with con.warehouse.driver.boundary() as flow:
        for state in [s for n in flow.order for s in n.states().values() if isinstance(s, Arrangement)]:
            close_chunk(state)
            state.seal(1.0)
            while state.maintain():
                pass


TWO = {"short": hint("1 d", "1 d"), "long": hint("12 d", "8 d")}


def test_two_jobs_on_one_arrangement_equal_each_alone(tmp_path: Path) -> None:
    together = run(tmp_path / "w", TWO, 3, care=True)
    assert together["short"] != together["long"]
    for name, text in TWO.items():
        assert run(None, {name: text}, 3, care=False)[name] == together[name]


def test_year_9999_expires_nothing() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(VIEW.format("v", hint("5 d", "5 d"), ""))
        say(con, "o", [(1, 10, 0)])
        say(con, "o", [(2, 20, 2_900_000)])
        say(con, "r", [(100, 3, 2_900_000)])
        say(con, "r", [(101, 1, 1)])
        assert shown(con, "v") == Counter([(1, 10, 101)])


def test_a_restart_keeps_the_horizon(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w", attach=False) as con:
        con.execute(TABLES)
        con.execute(VIEW.format("v", hint("2 d", "2 d"), ""))
        say(con, "o", [(1, 10, 0), (2, 20, 8)])
        say(con, "r", [(100, 5, 8)])
    with forebay.connect(tmp_path / "w", attach=False) as con:
        say(con, "r", [(101, 1, 8), (102, 2, 8)])
        assert shown(con, "v") == Counter([(2, 20, 102)])


def test_bounded_inputs_are_joined_to_their_last_row() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        feed(con, "o", [(i, i, i / 10) for i in range(50)])
        feed(con, "r", [(i, i, i / 10) for i in range(50)])
        con.execute("CREATE TABLE wide (id INT, rid INT)")
        bounded = "/*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */"
        con.execute(
            f"INSERT INTO wide SELECT {hint('1 d', '1 d')} o.id, r.rid FROM o {bounded} JOIN r {bounded} ON o.id = r.id"
        )
        con.wait(timeout=None)
        assert shown(con, "wide") == Counter((i, i) for i in range(50))


def test_a_table_without_watermark_counts_from_arrival() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(
            "CREATE MATERIALIZED VIEW v AS SELECT /*+ STATE_TTL('s'='1 ms') */ o.id, s.name FROM o JOIN s ON o.id = s.id"
        )
        con.execute("INSERT INTO s VALUES (1, 'a')")
        settle(con)
        time.sleep(0.01)
        say(con, "o", [(1, 10, 0)])
        say(con, "o", [(1, 11, 0)])  # old orders are being read: what came just now is young enough for them
        assert shown(con, "v") == Counter({(1, "a"): 2})
        today = (datetime.now(UTC).replace(tzinfo=None) - START) / timedelta(days=1)
        say(con, "o", [(2, 12, today + 0.01)])
        say(con, "o", [(1, 13, today + 0.01)])
        assert shown(con, "v") == Counter({(1, "a"): 2})


def test_where_a_ttl_comes_from() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute("SET 'table.exec.state.ttl' = '9 d'")
        con.execute("ALTER TABLE o SET ('state.ttl' = '7 d')")

        def state(text: str) -> str:
            plan = con.execute(f"EXPLAIN {text}").fetchall()[0][0]
            return next(line.split("state: ")[1] for line in plan.splitlines() if "state: " in line)

        query = "SELECT {0} o.id, r.rid FROM o JOIN r ON o.id = r.id"
        assert state(query.format("")) == (
            "table o by (id) for 7 d of ts, shared by jobs, table r by (id) for 9 d of ts, shared by jobs"
        )
        assert state(query.format(hint("0", "1 h"))) == (
            "table o by (id), shared by jobs, table r by (id) for 1 h of ts, shared by jobs"
        )
        assert "right rows by ($key0) for 9 d of ts" in state("SELECT o.id FROM o JOIN r ON o.id = r.id + 1")
        assert "table s by (id) for 9 d after they came" in state("SELECT o.id FROM o JOIN s ON o.id = s.id")
        assert "for" not in state("SELECT o.id FROM o WHERE o.n NOT IN (SELECT rid FROM r)").replace("for 7 d", "for")
        with pytest.raises(OptionError, match=r"option 'state.ttl': '7 moons' is not a duration"):
            con.execute("ALTER TABLE o SET ('state.ttl' = '7 moons')")


def test_a_running_job_follows_its_table(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w", attach=False) as con:
        con.execute(TABLES)
        con.execute(VIEW.format("v", "", "LEFT"))
        say(con, "o", [(1, 10, 0), (2, 20, 0)])
        say(con, "r", [(100, 1, 0)])
        con.execute("ALTER TABLE r SET ('state.ttl' = '1 d')")
        con.execute("ALTER TABLE o SET ('state.ttl' = '30 d')")
        say(con, "o", [(3, 30, 5)])
        say(con, "r", [(101, 9, 5)])
        say(con, "r", [(102, 1, 5)])  # its first refund has expired, and its order stands as matched
        assert shown(con, "v") == Counter([(1, 10, 100), (1, 10, 102), (2, 20, None), (3, 30, None)])
        states = con.execute("SHOW STATE").arrow().to_pylist()
        assert [s["ttl"] for s in states if s["node"].startswith("Arrange")] == ["30 d", "1 d"]
    with forebay.connect(tmp_path / "w", attach=False) as con:
        say(con, "o", [(1, 11, 5)])
        say(con, "o", [(4, 40, 50)])
        say(con, "r", [(103, 4, 50)])
        say(con, "r", [(104, 2, 50)])
        want = [(1, 10, 100), (1, 10, 102), (1, 11, 102), (2, 20, None), (3, 30, None), (4, 40, 103)]
        assert shown(con, "v") == Counter(want)
        con.execute("ALTER TABLE o RESET ('state.ttl')")
        say(con, "r", [(105, 2, 50)])  # what has expired stays so
        assert shown(con, "v") == Counter(want)


def test_a_late_job_does_not_read_what_is_incomplete() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(VIEW.format("v", hint("1 d", "1 d"), ""))
        say(con, "o", [(1, 10, 0), (2, 20, 8)])
        say(con, "r", [(100, 1, 0), (101, 2, 8)])
        say(con, "r", [(102, 2, 8)])
        seal_all(con)
        con.execute(VIEW.format("all_of_it", "", ""))
        settle(con)
        assert con.warehouse.driver.wait(lambda: len(shown(con, "all_of_it")) == 3, 30)


def test_null_times_never_expire() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(VIEW.format("v", hint("1 d", "1 d"), ""))
        con.execute("INSERT INTO o VALUES (1, 10, NULL)")
        say(con, "o", [(2, 20, 8)])
        say(con, "r", [(100, 2, 8)])
        say(con, "r", [(101, 1, 8)])
        assert shown(con, "v") == Counter([(2, 20, 100), (1, 10, 101)])
        assert con.execute("SHOW STATE").arrow().column("oldest").drop_null().type == pa.timestamp("ms", "UTC")
