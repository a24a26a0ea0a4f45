"""A time to live of what groupings, rankings and upsert sources keep, from SQL."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.state.groups import GroupTable
from tests.facade.test_ttl import TABLES, say, settle, shown

SUMS = "CREATE MATERIALIZED VIEW {0} AS SELECT {1} id, COUNT(*) AS c, SUM(n) AS s, MAX(n) AS m FROM o GROUP BY id"
DAY_1 = "/*+ STATE_TTL('o' = '1 d') */"


def groups(con: Connection) -> int:
    """Groups that the jobs keep, in memory or not."""
    with con.warehouse.driver.boundary() as flow:
        return sum(s.rows() for n in flow.order for s in n.states().values() if isinstance(s, GroupTable))


def evict_all(con: Connection) -> None:
    with con.warehouse.driver.boundary() as flow:
        for state in [s for n in flow.order for s in n.states().values() if isinstance(s, GroupTable)]:
            state.seal(1.0)
            while state.maintain():
                pass


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.state.groups.LEAST", 0)


def test_an_expired_group_says_nothing_and_begins_anew() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(SUMS.format("v", DAY_1))
        con.execute(f"CREATE MATERIALIZED VIEW d AS SELECT {DAY_1} DISTINCT id FROM o")
        con.execute("CREATE MATERIALIZED VIEW over_v AS SELECT SUM(c) AS c FROM v")
        con.execute(
            f"CREATE MATERIALIZED VIEW at_once AS SELECT SUM(c) AS c FROM (SELECT {DAY_1} id, COUNT(*) AS c FROM o GROUP BY id)"
        )
        say(con, "o", [(1, 10, 0), (2, 20, 0)])
        say(con, "o", [(1, 5, 0.5)])
        say(con, "o", [(3, 1, 1.4)])
        say(con, "o", [(3, 2, 1.4)])  # group 2 has expired by now, group 1 has not
        assert shown(con, "v") == Counter([(1, 2, 15, 10), (2, 1, 20, 20), (3, 2, 3, 2)])
        say(con, "o", [(1, 7, 1.4), (2, 7, 1.4)])
        assert shown(con, "v") == Counter([(1, 3, 22, 10), (2, 1, 7, 7), (3, 2, 3, 2)])
        assert shown(con, "d") == Counter([(1,), (2,), (3,)])
        assert shown(con, "over_v") == Counter([(6,)])  # the view has taken back what it has replaced
        assert shown(con, "at_once") == Counter([(7,)])  # nobody has
        say(con, "o", [(9, 9, 0.1), (1, 1, 0.1)])  # both late: nobody knows a group 9, and group 1 is there
        assert shown(con, "v") == Counter([(1, 4, 23, 10), (2, 1, 7, 7), (3, 2, 3, 2)])


def test_state_goes() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(SUMS.format("v", DAY_1))
        con.execute(f"CREATE MATERIALIZED VIEW u AS SELECT {DAY_1} id, COUNT(DISTINCT n) AS u FROM o GROUP BY id")
        say(con, "o", [(i, i, 0) for i in range(50)])
        evict_all(con)
        say(con, "o", [(i, i, 0) for i in range(50, 100)])
        assert groups(con) == 200
        say(con, "o", [(7, 7, 5)])
        say(con, "o", [(7, 7, 5)])
        evict_all(con)
        assert groups(con) == 2
        told = con.execute("SHOW STATE").arrow().to_pylist()
        kept = {s["name"].split("_")[2]: s for s in told if s["node"] == "Aggregate"}
        assert kept["groups"]["rows"] == 1
        assert kept["distinct0"]["rows"] == 1
        assert kept["groups"]["ttl"] == kept["distinct0"]["ttl"] == "1 d"
        assert kept["groups"]["oldest"].day == 6


def test_year_9999_expires_nothing() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(SUMS.format("v", DAY_1))
        say(con, "o", [(1, 10, 0)])
        say(con, "o", [(2, 20, 2_900_000)])
        say(con, "o", [(3, 30, 0.1)])
        say(con, "o", [(1, 5, 0.5)])
        assert shown(con, "v") == Counter([(1, 2, 15, 10), (2, 1, 20, 20), (3, 1, 30, 30)])


VIEWS = {
    "v": SUMS.format("v", DAY_1),
    "d": f"CREATE MATERIALIZED VIEW d AS SELECT {DAY_1} id, COUNT(DISTINCT n % 3) AS c FROM o GROUP BY id",
    "t": "CREATE MATERIALIZED VIEW t AS SELECT id, n FROM (SELECT /*+ STATE_TTL('o' = '36 h') */ id, n, "
    "ROW_NUMBER() OVER (PARTITION BY id ORDER BY n DESC) AS r FROM o) WHERE r <= 2",
    "f": "CREATE MATERIALIZED VIEW f AS SELECT id, n FROM (SELECT /*+ STATE_TTL('o' = '12 h') */ id, n, "
    "ROW_NUMBER() OVER (PARTITION BY id ORDER BY ts) AS r FROM o) WHERE r = 1",
    "o2": "CREATE MATERIALIZED VIEW o2 AS SELECT s, COUNT(*) AS c FROM v GROUP BY s",
}


def run(path: Path | None, seed: int) -> dict[str, Counter[Any]]:
    """Ten random days in small steps; with a path everything is evicted after each, and the directory opened anew once."""
    rng = random.Random(seed)
    con = forebay.connect(path, attach=False) if path else forebay.connect()
    con.execute(TABLES + ";".join(VIEWS.values()))
    for day in range(10):
        say(con, "o", [(rng.randrange(20), day * 10 + i, day + rng.random() - 1) for i in range(6)])
        if path is not None:
            evict_all(con)
        if path is not None and day == 6:
            con.close()
            con = forebay.connect(path, attach=False)
    result = {name: shown(con, name) for name in VIEWS}
    con.close()
    return result


def test_evicted_and_restarted_equals_neither(tmp_path: Path) -> None:
    assert run(tmp_path / "w", 1) == run(None, 1)


def test_where_a_ttl_comes_from() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)

        def state(text: str) -> str:
            plan = con.execute(f"EXPLAIN {text}").fetchall()[0][0]
            return next(line.split("state: ")[1] for line in plan.splitlines() if "state: " in line)

        query = "SELECT {0} id, COUNT(*) FROM {1} GROUP BY id"
        assert state(query.format("", "o")) == "one row per (id)"
        con.execute("SET 'table.exec.state.ttl' = '9 d'")
        con.execute("ALTER TABLE o SET ('state.ttl' = '7 d')")
        assert state(query.format("", "o")) == "one row per (id) for 7 d after its last update by ts"
        assert state(query.format("", "r")).endswith("for 9 d after its last update by ts")
        assert state("SELECT name, COUNT(*) FROM s GROUP BY name").endswith("for 9 d after its last update")
        assert state(query.format("/*+ STATE_TTL('o' = '1 h') */", "o")).endswith("for 1 h after its last update by ts")
        assert state(query.format("/*+ STATE_TTL('o' = '0') */", "o")) == "one row per (id)"
        top = "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY n) AS k FROM o) WHERE k = 1"
        assert state(top) == "the first row per (id) for 7 d after its last update by ts"


def test_a_running_job_follows_its_table(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w", attach=False) as con:
        con.execute(TABLES)
        con.execute(SUMS.format("forever", ""))
        con.execute("ALTER TABLE o SET ('state.ttl' = '9 d')")
        told = con.execute("ALTER TABLE o SET ('state.ttl' = '8 d')").message
        assert told.endswith("jobs that keep no time of its rows follow when they are made again: forever")
        con.execute(SUMS.format("v", ""))
        say(con, "o", [(1, 10, 0), (2, 20, 3)])
        con.execute("ALTER TABLE o SET ('state.ttl' = '1 d')")
        say(con, "o", [(1, 10, 3)])  # the watermark of day 3 is there: group 1 is new
        want = Counter([(1, 1, 10, 10), (2, 1, 20, 20)])
        assert shown(con, "v") == want
        con.execute("ALTER TABLE o RESET ('state.ttl')")
        con.execute("SET 'table.exec.state.ttl' = '3 d'")  # for jobs made from now on
    with forebay.connect(tmp_path / "w", attach=False) as con:
        assert shown(con, "v") == want
        say(con, "o", [(3, 30, 20)])
        say(con, "o", [(1, 1, 20), (2, 2, 2)])
        assert shown(con, "v") == Counter([(1, 2, 11, 10), (2, 2, 22, 20), (3, 1, 30, 30)])
        assert shown(con, "forever") == Counter([(1, 3, 21, 10), (2, 2, 22, 20), (3, 1, 30, 30)])
        con.execute("ALTER TABLE o SET ('state.ttl' = '1 d')")
        say(con, "o", [(3, 3, 40)])
        say(con, "o", [(1, 5, 40)])
        assert shown(con, "v") == Counter([(1, 1, 5, 5), (2, 2, 22, 20), (3, 2, 33, 30)])


def test_a_table_of_the_session_and_its_sinks(tmp_path: Path) -> None:
    """A job keeps the option that it was made under; a table takes the next row of a key in the place of the old one."""
    with forebay.connect(tmp_path / "w", attach=False) as con:
        con.execute("SET 'table.exec.state.ttl' = '1 d'")
        con.execute(TABLES)
        con.execute("CREATE TABLE totals (id INT, c BIGINT, PRIMARY KEY (id) NOT ENFORCED)")
        con.execute("INSERT INTO totals SELECT id, COUNT(*) FROM o GROUP BY id")
        say(con, "o", [(1, 10, 0), (2, 20, 0), (2, 21, 0)])
        say(con, "o", [(1, 5, 5)])
        con.execute("SET 'table.exec.state.ttl' = '0'")
    with forebay.connect(tmp_path / "w", attach=False) as con:
        say(con, "o", [(1, 5, 5), (2, 20, 5)])
        settle(con)
        assert con.warehouse.driver.wait(lambda: shown(con, "totals") == Counter([(1, 3), (2, 1)]), 30)


def test_an_upsert_source_forgets_its_keys() -> None:
    with forebay.connect() as con:
        con.execute("SET 'table.exec.state.ttl' = '1 d'")
        con.execute(
            "CREATE TABLE p (id INT, n INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts, PRIMARY KEY (id) NOT ENFORCED) WITH ("
            "'connector' = 'upsert-log', 'topic' = 'p', 'key.format' = 'json', 'value.format' = 'json')"
        )
        con.execute("CREATE MATERIALIZED VIEW last AS SELECT id, n FROM p")
        con.execute("CREATE MATERIALIZED VIEW number AS SELECT COUNT(*) AS c FROM p")
        say(con, "p", [(1, 10, 0), (2, 20, 5), (3, 30, 5)])
        say(con, "p", [(1, 11, 5), (2, 21, 5)])
        assert shown(con, "last") == Counter([(1, 11), (2, 21), (3, 30)])
        assert shown(con, "number") == Counter([(4,)])  # the first row of key 1 stands: nobody knows it any more
        assert groups(con) == 4


def test_a_late_job_sees_groups_that_are_there() -> None:
    with forebay.connect() as con:
        con.execute(TABLES)
        con.execute(SUMS.format("v", DAY_1))
        say(con, "o", [(1, 10, 0), (2, 20, 5)])
        say(con, "o", [(2, 20, 5)])
        with con.warehouse.driver.boundary() as flow:
            (node,) = (n for n in flow.order if n.label == "Aggregate")
            assert [b.rows.to_pylist() for b in node.contents() or ()] == [
                [{"id": 2, "count": 2, "sum": 40, "max": 20}]
            ]
        states = [s["name"] for s in con.execute("SHOW STATE").arrow().to_pylist() if s["node"] == "Aggregate"]
        assert len(con.sql(f"SELECT * FROM state.{states[0]} WHERE id = 1").fetchall()) == 0
        assert len(con.sql(f"SELECT * FROM state.{states[0]} WHERE id = 2").fetchall()) == 1
