"""A clock that is set forward or back by days while the warehouse runs changes nothing that lasts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

import forebay
from forebay.connectors.topiclog import open_store
from forebay.connectors.topiclog.frames import PLAIN
from forebay.engine.files import Clock
from forebay.engine.runtime.steady import PATIENCE, SteadyTime

SECOND, DAY = 10**6, 86_400 * 10**6


class TwoClocks(Clock):
    """A wall clock that can be set, and a monotonic one; both move by hand."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * SECOND
        self.ticks = 5_000.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.ticks

    def sleep(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND)
        self.ticks += seconds


def test_processing_time_goes_on_when_the_clock_is_set() -> None:
    clock = TwoClocks()
    steady, start = SteadyTime(clock), clock.wall
    for jump in (40 * DAY, -40 * DAY, -3 * DAY, 3 * DAY):
        clock.wall += jump
        clock.sleep(1)
        assert abs(steady.now() - start) < 30 * SECOND
    clock.wall += 2 * SECOND  # adjusted
    assert steady.now() == clock.wall


def test_a_clock_that_stays_set_is_believed_in_the_end() -> None:
    clock = TwoClocks()
    steady = SteadyTime(clock)
    for jump in (DAY, -2 * DAY):
        clock.wall += jump
        assert abs(steady.now() - clock.wall) > DAY / 2
        for _ in range(3):
            clock.sleep(PATIENCE / SECOND / 2)
            steady.now()
        assert steady.now() == clock.wall


TABLES = """
SET 'table.exec.state.ttl' = '10 d';
SET 'execution.checkpointing.interval' = '10 s';
CREATE TABLE o (id INT);
CREATE TABLE r (id INT);
CREATE MATERIALIZED VIEW both AS SELECT o.id FROM o JOIN r ON r.id = o.id;
"""


def test_state_lives_as_long_as_it_should_and_checkpoints_come(tmp_path: Path) -> None:
    clock = TwoClocks()
    con = forebay.Connection(tmp_path / "w", resume=False, clock=clock)
    driver = con.warehouse.driver

    def both() -> list[int]:
        return [i for (i,) in con.sql("SELECT id FROM both ORDER BY id").fetchall()]

    con.execute(TABLES)
    con.execute("INSERT INTO o VALUES (1), (2), (3), (4)")
    con.execute("INSERT INTO r VALUES (1)")
    for id, jump in ((2, 400 * DAY), (3, -800 * DAY), (4, 400 * DAY)):
        clock.wall += jump
        clock.sleep(1)
        con.execute(f"INSERT INTO r VALUES ({id})")
        assert both() == list(range(1, id + 1))
        before = driver.checkpoint_id
        clock.sleep(11)
        driver.step()
        assert driver.checkpoint_id == before + 1
    con.execute("INSERT INTO o VALUES (5)")
    clock.sleep(11 * 86_400)
    con.execute("INSERT INTO r VALUES (5)")  # ten days are over, whatever the clock said
    assert 5 not in both()
    con.close()


def test_a_silent_split_is_idle_by_the_monotonic_clock(tmp_path: Path) -> None:
    clock = TwoClocks()
    con = forebay.Connection(tmp_path / "w", resume=False, clock=clock)
    store, start = open_store(str(tmp_path / "w")), datetime.fromtimestamp(clock.wall / 1e6, UTC)
    store.create("t", 2)
    con.execute(
        "SET 'table.exec.source.idle-timeout' = '60 s';"
        "CREATE TABLE t (k INT, at TIMESTAMP(3), WATERMARK FOR at AS at) WITH ('connector' = 'log', 'topic' = 't',"
        "  'format' = 'json', 'scan.startup.mode' = 'earliest-offset');"
        "CREATE MATERIALIZED VIEW v AS SELECT COUNT(*) AS n FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1' MINUTE))"
        "  GROUP BY window_start, window_end"
    )

    def comes(partition: int, seconds: int) -> list[int]:
        value = json.dumps({"k": 1, "at": f"{start + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"}).encode()
        columns = [pa.array([0]), pa.array([None], pa.binary()), pa.array([value], pa.binary())]
        store.append({("t", partition): pa.RecordBatch.from_arrays(columns, schema=PLAIN)})
        return shown()

    def shown() -> list[int]:
        while con.warehouse.driver.step():
            pass
        return [n for (n,) in con.sql("SELECT n FROM v").fetchall()]

    assert comes(0, 1) == comes(1, 2) == []
    for jump in (DAY, -2 * DAY, DAY):
        clock.wall += jump
        assert comes(0, 200) == []  # the other split is not idle, whatever the clock says
        assert comes(1, 3) == []
    clock.sleep(61)
    assert comes(0, 201) == [5]
    con.close()
