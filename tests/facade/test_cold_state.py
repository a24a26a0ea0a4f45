"""SELECT FROM state.<name> when the groups are on disk: all of them are shown, and none of them moves."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import forebay
from forebay.engine.runtime.budget import Budget
from forebay.engine.state.groups import GroupTable
from tests.oracle.test_sealed import seal_all

KEYS = 2000
ROWS = f"""
CREATE TABLE t (id BIGINT, k BIGINT, v BIGINT, s STRING, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE src (k BIGINT, v BIGINT, s STRING) WITH ('connector' = 'log', 'topic' = 'src', 'format' = 'json');
INSERT INTO t SELECT n, n / 2, n * 7, 's' || CAST(n AS STRING) FROM numbers WHERE n < {2 * KEYS};
INSERT INTO src SELECT n / 2, n * 7, 's' || CAST(n AS STRING) FROM numbers;
DELETE FROM t WHERE id = 20;
"""
VIEWS = {
    "t_aggregate_groups": "SELECT k, MIN(v) AS low, COUNT(DISTINCT v) AS kinds, LISTAGG(s) AS all_s FROM t GROUP BY k",
    "t_aggregate_distinct0": "SELECT k, v, 1 AS `count` FROM t",
    "t_aggregate_rows0": "SELECT k, v, 1 AS `count` FROM t",
    "t_rank_partitions": "SELECT k, COUNT(*) AS `rows` FROM t GROUP BY k",
    "t_rank_rows": "SELECT id, k, v, s, 1 AS `count` FROM t",
    "src_rank_partitions": "SELECT k, 1 AS `rows` FROM src GROUP BY k",
    "src_rank_rows": "SELECT k, MIN(v) AS v, 1 AS `count` FROM src GROUP BY k",
}
"""What each state shows, by the start of its name."""
JOBS = """
CREATE MATERIALIZED VIEW a AS SELECT k, MIN(v) AS low, COUNT(DISTINCT v) AS kinds, LISTAGG(s) AS all_s FROM t GROUP BY k;
CREATE MATERIALIZED VIEW b AS
  SELECT id, k, v, s FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v DESC) AS n FROM t) WHERE n <= 1;
CREATE MATERIALIZED VIEW c AS
  SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v) AS n FROM src) WHERE n = 1;
"""


@pytest.fixture
def con(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Budget, "keep", seal_all)
    monkeypatch.setattr("forebay.engine.state.groups.LEAST", 0)
    with forebay.connect() as con:
        con.register("numbers", pa.table({"n": range(2 * KEYS)}))
        con.execute(ROWS + JOBS)
        con.warehouse.driver.wait(lambda: len(con.sql("SELECT * FROM c").fetchall()) == KEYS, None)
        yield con


def hot(con: forebay.Session) -> dict[str, int]:
    """Groups in memory by node."""
    with con.warehouse.driver.boundary() as flow:
        states = [(n.id, name, s) for n in flow.order for name, s in n.states().items()]
        return {f"{node}#{name}": s.keys.count for node, name, s in states if isinstance(s, GroupTable)}


def name_of(con: forebay.Session, start: str) -> str:
    (name,) = [r[0] for r in con.sql("SHOW STATE").fetchall() if r[0].startswith(start)]
    return name


def rows(con: forebay.Session, sql: str) -> list[tuple[Any, ...]]:
    return sorted(con.sql(sql).fetchall(), key=repr)


def test_cold_groups_are_shown_and_stay_cold(con: forebay.Session) -> None:
    before = hot(con)
    assert max(before.values()) == 0
    for start, expected in VIEWS.items():
        table = con.sql(f"SELECT * FROM state.{name_of(con, start)}")
        if "src" in expected:
            expected = expected.replace("FROM src", "FROM (SELECT n / 2 AS k, n * 7 AS v FROM numbers)")
        assert sorted(table.fetchall(), key=repr) == rows(con, expected), start
    assert hot(con) == before


def test_a_key_costs_the_blocks_of_that_key(con: forebay.Session) -> None:
    cold = con.warehouse.driver.cold
    for start in VIEWS:
        name = name_of(con, start)
        whole = [r for r in rows(con, f"SELECT * FROM state.{name}") if r[1 if start == "t_rank_rows" else 0] == 1234]
        while cold._cached:  # nothing is in memory
            cold._evict()
        before = cold.read_blocks
        assert rows(con, f"SELECT * FROM state.{name} WHERE k = 1234") == whole != []
        assert cold.read_blocks - before <= 8, start
    assert rows(con, f"SELECT * FROM state.{name} WHERE k = -5") == []
    assert max(hot(con).values()) == 0


def test_tiers_are_told_for_every_kind_of_state(con: forebay.Session) -> None:
    states = {r["name"]: r for r in con.sql("SHOW STATE").arrow().to_pylist()}
    for start in VIEWS:
        told = states[name_of(con, start)]
        assert told["cold_rows"] == told["rows"] >= KEYS
        assert told["key"] == "k"
        assert told["segments"] > 0 and told["disk_bytes"] > told["rows"] * 8
        assert told["write_amplification"] >= 1
        assert told["retractions_unmatched"] == 0
        assert told["dead_rows"] == 0
    groups = name_of(con, "t_aggregate_groups")
    con.execute("UPDATE t SET v = -1 WHERE k < 100")
    told = {r["name"]: r for r in con.sql("SHOW STATE").arrow().to_pylist()}[groups]
    assert told["dead_rows"] == 100, "groups that came back, were changed, and left again"
    assert 0 < told["memory_hits"] < 1
    assert 0 < told["filter_passed"] <= 1 and 0 <= told["cache_hits"] <= 1
    assert con.sql(f"SELECT low FROM (SELECT k, `min` AS low FROM state.{groups}) WHERE k = 99").fetchall() == [(-1,)]
