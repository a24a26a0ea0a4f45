"""EXPLAIN STATE: what a statement will remember, by rates and TTL, beside what it remembers when it runs."""

from __future__ import annotations

import math
import random
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import forebay
from forebay.connectors.rates import recent_rate
from forebay.volume import distinct
from tests.facade.test_trace import SETUP, VIEW

DAY = 86_400
GEN = """
CREATE TABLE gen (id BIGINT, shop INT, name STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen',
  'rows-per-second' = '100', 'fields.shop.min' = '1', 'fields.shop.max' = '500', 'fields.name.length' = '40');
CREATE TABLE ref (id BIGINT, n INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen',
  'rows-per-second' = '10');
CREATE TABLE src (id BIGINT, v STRING) WITH ('connector' = 'log', 'topic' = 'src', 'format' = 'json');
"""
JOIN = """SELECT /*+ STATE_TTL('g' = '30 d') */ g.shop, COUNT(*) FROM gen g LEFT JOIN ref r ON g.id = r.id
  WHERE g.shop <= 250 GROUP BY g.shop"""


def explained(con: forebay.Session, what: str) -> dict[str, dict[str, Any]]:
    """Rows by state and tables, and the sum."""
    rows = con.sql(f"EXPLAIN STATE {what}").arrow().to_pylist()
    return {f"{r['state'].split('(')[0]} {r['of'] or ''}".strip(): r for r in rows}


def test_rows_that_are_there_are_counted_before_and_after() -> None:
    with forebay.connect() as con:
        con.execute(SETUP)
        before = explained(con, VIEW)
        assert {n: (r["rows"], r["actual_rows"], r["basis"]) for n, r in before.items() if n != "in all"} == {
            "Arrange orders": (2, None, "counted"),
            "Arrange refunds": (3, None, "counted"),
            "Join orders, refunds": (0, None, "counted"),
            "Aggregate orders, refunds": (2, None, "guess"),
            "View orders, refunds": (2, None, "guess"),
        }
        assert before["in all"]["new_bytes"] == sum(r["bytes"] for n, r in before.items() if n != "in all") > 0
        con.execute(VIEW)
        after = explained(con, "JOB v")
        assert after == explained(con, VIEW)
        assert {n: (r["rows"], r["actual_rows"], r["jobs"]) for n, r in after.items() if n != "in all"} == {
            "Arrange orders": (2, 2, "v"),
            "Arrange refunds": (3, 3, "v"),
            "Join orders, refunds": (0, 0, "v"),
            "Aggregate orders, refunds": (2, 2, "v"),
            "View orders, refunds": (2, 2, "v"),
        }
        assert (after["in all"]["new_bytes"], after["Arrange orders"]["shared"]) == (0, None)
        assert after["in all"]["actual_bytes"] > 0
        with pytest.raises(forebay.ForebayError, match="there is no job 'w'"):
            con.execute("EXPLAIN STATE JOB w")


def test_rate_times_ttl_against_the_budget() -> None:
    with forebay.connect(config={"memory.budget": "1GB"}) as con:
        con.execute(GEN)
        told = explained(con, JOIN)
        gen, ref, groups, everything = (told[n] for n in ("Arrange gen", "Arrange ref", "Aggregate gen, ref", "in all"))
        assert (gen["rows"], gen["rows_per_day"], gen["ttl"], gen["hint"]) == (30 * 100 * DAY, 100 * DAY, "30 d", None)
        assert (gen["basis"], gen["known_from"]) == ("measured", "gen: 100 rows per second by its options")
        width = gen["bytes"] / gen["rows"]
        assert 8 + 4 + 40 + 8 < width < 120, "a sample tells that names are long"
        assert (ref["rows"], ref["rows_per_day"], ref["ttl"]) == (0, 10 * DAY, "for ever")
        assert ref["hint"].startswith(
            "grows without bound, by 864,000 rows a day: give the query /*+ STATE_TTL('ref' = '30 d') */"
        )
        assert ref["bytes_per_day"] > 864_000 * 20
        assert 245 <= groups["rows_per_day"] <= 250, "as many groups as shops that pass the filter"
        assert groups["basis"] == "guess" and "a join with one match each" in groups["known_from"]
        assert 0.02 < gen["memory_bytes"] / gen["bytes"] < 0.1 and gen["disk_bytes"] > 0.5 * gen["bytes"]
        assert everything["known_from"].startswith("of a memory budget of 1,024 MB states may take 768 MB; ")
        assert "96 % of the rows will be on disk" in everything["known_from"]
        con.execute("SET 'table.exec.state.ttl' = '1 d'")
        assert explained(con, JOIN)["Arrange ref"]["rows"] == 10 * DAY


def test_what_is_shared_costs_nothing() -> None:
    with forebay.connect() as con:
        con.execute(SETUP + GEN)
        con.execute("CREATE MATERIALIZED VIEW one AS SELECT s.v, o.shop FROM src s JOIN orders o ON o.id = s.id")
        other = "SELECT s.id, o.amount FROM src s LEFT JOIN orders o ON o.id = s.id WHERE s.v > 'b'"
        told = explained(con, other)
        assert told["Arrange src"]["shared"].startswith("src_by_id_")
        assert (told["Arrange src"]["jobs"], told["Arrange src"]["new_bytes"]) == ("one", 0)
        assert told["Arrange orders"]["shared"] is None, "it has other columns"
        con.execute("INSERT INTO src VALUES (1, 'a'), (2, 'c')")
        driver = con.warehouse.driver
        assert driver.wait(lambda: len(con.sql("SELECT * FROM one").fetchall()) == 2, None)
        assert explained(con, other)["Arrange src"]["actual_rows"] == 2


def test_a_stream_that_nobody_has_read_is_asked(tmp_path: Path) -> None:
    with forebay.connect() as con:
        con.execute(GEN)
        nothing = explained(con, "SELECT id, COUNT(*) FROM src GROUP BY id")["Aggregate src"]
        assert (nothing["rows"], nothing["rows_per_day"], nothing["basis"]) == (0, None, "guess")
        assert nothing["hint"] == "grows without bound, by its input, as new keys come"
        rows = {"id": [i % 50 for i in range(3000)], "v": [f"v{i}" for i in range(3000)]}
        con.register("many", pa.table(rows))
        con.execute("INSERT INTO src SELECT id, v FROM many")
        con.wait(timeout=None)
        told = explained(con, "SELECT id, COUNT(DISTINCT v) FROM src GROUP BY id")["Aggregate src"]
        assert (told["rows"], told["basis"], told["rows_per_day"]) == (50, "sampled", None)
        assert told["known_from"] == "src: 3000 records to read; 50 keys in 3000 rows of a sample"
        assert told["bytes"] > 3000 * 24, "the values behind COUNT(DISTINCT) count too"
        top = "SELECT id, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY v) AS n FROM src) WHERE n <= 3"
        assert explained(con, top)["Rank src"]["rows"] == 150
        failing = explained(con, "SELECT 1 / (id - 7) AS x, COUNT(*) FROM src GROUP BY 1 / (id - 7)")["Aggregate src"]
        assert "fails on a row of the sample" in failing["known_from"] and failing["basis"] == "guess"


def test_a_history_tells_its_rows_and_its_days(tmp_path: Path) -> None:
    begin = datetime(2026, 10, 1)
    schema = pa.schema([("id", pa.int64()), ("at", pa.timestamp("ms"))])
    rows = {"id": range(3000), "at": [begin + timedelta(minutes=14.4 * i) for i in range(3000)]}
    (tmp_path / "h").mkdir()
    pq.write_table(pa.table(rows, schema=schema), tmp_path / "h" / "a.parquet")
    with forebay.connect() as con:
        con.execute(f"""CREATE TABLE o (id BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at) WITH ('connector' = 'log',
          'topic' = 'o', 'format' = 'json', 'bootstrap.path' = '{tmp_path}/h', 'bootstrap.until' = '2026-10-31 00:00:00')""")
        con.execute("CREATE TABLE p (id BIGINT)")
        told = explained(con, "SELECT /*+ STATE_TTL('o' = '10 d') */ o.id FROM o JOIN p ON p.id = o.id")["Arrange o"]
        assert (told["rows"], told["rows_per_day"]) == (1000, 100)
        assert told["known_from"] == "o: 3000 rows of history in 30.0 days; o: 3000 records to read"
        (tmp_path / "h" / "b.parquet").write_text("this is no Parquet")
        told = explained(con, "SELECT o.id FROM o JOIN p ON p.id = o.id")["Arrange o"]
        assert told["rows_per_day"] is None


def test_a_running_scan_tells_its_rate() -> None:
    with forebay.connect() as con:
        con.execute("""CREATE TABLE clicks (u INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'log',
          'topic' = 'clicks', 'format' = 'json')""")
        con.execute("CREATE MATERIALIZED VIEW n AS SELECT u, COUNT(*) AS n FROM clicks GROUP BY u")
        begin = datetime(2026, 1, 1)
        for part in range(2):
            times = [begin + timedelta(minutes=part * 720 + i) for i in range(720)]
            con.register("some", pa.table({"u": range(720), "ts": pa.array(times, pa.timestamp("ms"))}))
            con.execute("INSERT INTO clicks SELECT CAST(u AS INT), ts FROM some")
            wanted = 720 * (part + 1)
            assert con.warehouse.driver.wait(lambda n=wanted: con.jobs["n"].metrics()["records"] >= n, None)
        told = explained(con, "SELECT /*+ STATE_TTL('c' = '2 d') */ c.u FROM clicks c JOIN n ON n.u = c.u")[
            "Arrange clicks"
        ]
        assert told["basis"] == "measured" and "hours of event time" in told["known_from"]
        assert 0.9 * 1440 <= told["rows_per_day"] <= 1.1 * 1440
        assert told["rows"] == pytest.approx(2 * told["rows_per_day"], abs=2)


# -- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "seen"), [(50, 3000), (5000, 8192), (100_000, 8192)])
def test_keys_of_a_sample_tell_how_many_there_are(keys: int, seen: int) -> None:
    rng = random.Random(keys)
    found = len({rng.randrange(keys) for _ in range(seen)})
    for count in (10_000, 1_000_000):
        expected = keys * (1 - math.exp(-count / keys))
        assert distinct(found, seen, count) == pytest.approx(expected, rel=0.15)
    assert distinct(seen, seen, 7e6) == 7e6


def test_the_rate_of_a_log_is_that_of_the_last_hour_that_had_any() -> None:
    now = int(time.time() * 1000)
    hour = 3_600_000

    def told(*logs: list[int]) -> tuple[float, str] | None:
        """For partitions with records at these ms before now, oldest first; the first offset is 10."""

        def offset_at(p: int, millis: int) -> int:
            return 10 + sum(now - ago < millis for ago in logs[p])

        found = recent_rate(
            range(len(logs)),
            now,
            lambda p: (10, 10 + len(logs[p])),
            offset_at,
            lambda p: now - logs[p][0] if logs[p] else None,
        )
        return None if found is None else (round(found.per_second * 3600), found.known_from)

    assert told([9 * hour, hour // 2], [hour // 3]) == (2, "2 records in the last hour")
    assert told([30 * hour, 9 * hour, 8 * hour]) == (0, "2 records in the last day")
    assert told([hour // 2, hour // 3, 0], []) == (6, "3 records in the last 30 minutes")
    assert told([]) is told([59_000, 1000]) is None
