"""SHOW STATE and SELECT FROM state.<name>: names that last, rows that agree with what the state stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.engine.runtime.budget import Budget
from tests.oracle.test_sealed import seal_all

SETUP = """
CREATE TABLE src (k INT, v INT, ts TIMESTAMP(3), PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'upsert-log',
  'topic' = 'src', 'key.format' = 'json', 'value.format' = 'json');
CREATE TABLE rates (v INT, rate INT);
CREATE MATERIALIZED VIEW joined AS SELECT s.k, s.v, s.ts, r.rate FROM src s LEFT JOIN rates r ON r.v = s.v;
CREATE MATERIALIZED VIEW sums AS SELECT v, COUNT(*) AS n, MAX(k) AS top, COUNT(DISTINCT k) AS kinds FROM src GROUP BY v;
CREATE MATERIALIZED VIEW best AS
  SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY v ORDER BY k DESC) AS n FROM src) WHERE n <= 2;
INSERT INTO src VALUES (1, 1, TIMESTAMP '2026-01-02 00:00:00'), (2, 1, TIMESTAMP '2026-01-01 00:00:00'), (3, 2, NULL);
INSERT INTO src VALUES (1, 2, TIMESTAMP '2026-01-03 00:00:00');
INSERT INTO rates VALUES (1, 10), (1, 10), (2, 20);
"""


def shown(con: forebay.Session) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in con.sql("SHOW STATE").arrow().to_pylist()}


def named(con: forebay.Session, start: str) -> str:
    (name,) = [name for name in shown(con) if name.startswith(start)]
    return name


def rows(con: forebay.Session, name: str, where: str = "") -> list[tuple[Any, ...]]:
    return sorted(con.sql(f"SELECT * FROM state.{name} {where}").fetchall(), key=repr)


@pytest.mark.parametrize("cold", [False, True])
def test_state_is_named_and_read(tmp_path: Path, cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if cold:
        monkeypatch.setattr(Budget, "keep", seal_all)
    with forebay.connect(tmp_path / "w") as con:
        con.execute(SETUP)
        assert con.warehouse.driver.wait(lambda: len(con.sql("SELECT * FROM joined").fetchall()) == 4, 20)
        joined = con.sql("SELECT * FROM joined").fetchall()
        src = con.sql("SELECT k, v, ts FROM joined WHERE k IS NOT NULL").fetchall()
        by_v = named(con, "src_by_v")
        assert rows(con, by_v) == sorted(set(src), key=repr)
        assert rows(con, by_v, "WHERE v = 2") == [r for r in rows(con, by_v) if r[1] == 2]
        assert rows(con, named(con, "rates_by_v"), "WHERE v = 1") == [(1, 10), (1, 10)]
        assert rows(con, named(con, "src_normalize_rows")) == rows(con, by_v)
        sums = named(con, "src_aggregate_groups")
        assert rows(con, sums) == rows(con, "sums") == sorted(con.sql("SELECT * FROM sums").fetchall())
        assert rows(con, sums, "WHERE v = 1") == [(1, 1, 2, 1)]
        assert rows(con, sums, "WHERE v = 9") == []
        assert rows(con, named(con, "src_aggregate_distinct0")) == [(1, 2, 1), (2, 1, 1), (2, 3, 1)]
        assert rows(con, named(con, "src_rank_partitions")) == [(1, 1), (2, 2)]
        assert len(rows(con, named(con, "src_rank_rows"))) == 3
        state = shown(con)[by_v]
        assert (state["jobs"], state["key"], state["columns"], state["rows"]) == ("joined", "v", "k, v, ts", 3)
        assert (state["cold_rows"] or 0) >= (3 if cold else 0)
        if cold:
            assert state["write_amplification"] >= 1
            assert 0 < state["filter_passed"] <= 1
            assert 0 <= state["cache_hits"] <= 1
        else:
            assert state["oldest"].isoformat() == "2026-01-01T00:00:00+00:00"
        assert shown(con)["src_by_v" + by_v[8:]]["retractions_unmatched"] == 0
        assert shown(con)["rates"]["jobs"] == "joined"
        before = {name: rows(con, name) for name in shown(con)}
        con.checkpoint(30)
    with forebay.connect(tmp_path / "w") as con:
        assert {name: rows(con, name) for name in shown(con)} == before
        assert sorted(con.sql("SELECT * FROM joined").fetchall(), key=repr) == sorted(joined, key=repr)


def test_a_second_job_on_an_upsert_source_begins_with_its_rows(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute(SETUP)
        assert con.warehouse.driver.wait(lambda: len(con.sql("SELECT * FROM joined").fetchall()) == 4, 20)
        con.execute("CREATE MATERIALIZED VIEW late AS SELECT v, COUNT(*) AS n FROM src WHERE k > 1 GROUP BY v")
        assert sorted(con.sql("SELECT * FROM late").fetchall()) == [(1, 1), (2, 1)]
