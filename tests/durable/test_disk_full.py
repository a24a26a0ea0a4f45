"""A full disk: jobs go on or wait and say why, what cannot be kept is refused, and all is exact when there is room."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import forebay
from forebay.engine.runtime import retry
from forebay.engine.runtime.driver import Driver
from forebay.engine.runtime.job import Job
from tests.durable.pressure import press

MB = 1 << 20
TABLES = """
SET 'execution.checkpointing.interval' = '100 ms';
CREATE TABLE orders (id BIGINT, v BIGINT, pad STRING, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, w BIGINT);
CREATE TABLE out (id BIGINT, v BIGINT, w BIGINT) WITH ('connector' = 'log', 'topic' = 'out', 'format' = 'debezium-json',
  'sink.delivery-guarantee' = 'exactly-once');
CREATE TABLE shown (id BIGINT, v BIGINT, w BIGINT) WITH ('connector' = 'log', 'topic' = 'out', 'format' = 'debezium-json',
  'scan.startup.mode' = 'earliest-offset');
CREATE MATERIALIZED VIEW sums AS SELECT v, COUNT(*) AS n, MIN(id) AS least FROM orders GROUP BY v;
INSERT INTO out SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
"""
JOINED = "SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id"
GROUPED = "SELECT v, COUNT(*), MIN(id) FROM orders GROUP BY v"


class Disk:
    """A small file system in memory, and a file that takes all the room that is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        with open(self._ballast, "ab", buffering=0) as f:
            for piece in (64 << 10, 4096, 1):
                try:
                    while f.write(bytes(piece)) == piece:
                        pass
                except OSError:
                    continue

    def leave(self, nbytes: int) -> None:
        """Fill it but for so much."""
        self.fill()
        os.truncate(self._ballast, self._ballast.stat().st_size - nbytes)

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """16 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MOST", 0.2)


def until(done: Callable[[], bool], what: object = None) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)


def insert(con: forebay.Connection, first: int, count: int = 200) -> None:
    rows = ", ".join(f"({i}, {i % 7}, '{i:040d}')" for i in range(first, first + count))
    con.execute(f"INSERT INTO orders VALUES {rows}")
    con.execute(f"INSERT INTO refunds VALUES {', '.join(f'({i}, {i})' for i in range(first, first + count, 3))}")


def insert_until_refused(con: forebay.Connection, disk: Disk, first: int) -> tuple[int, forebay.StateError]:
    """How many single inserts the full disk has taken (checkpoints may give room back), and what was told then."""
    for count in range(1000):
        disk.fill()
        try:
            con.execute(f"INSERT INTO orders VALUES ({first + count}, 0, 'x')")
        except forebay.StateError as error:
            return count, error
    raise AssertionError("the disk is not full")


def errors(con: forebay.Connection) -> list[str | None]:
    return [job.metrics()["error"] for job in con.jobs.values()]


def check(con: forebay.Connection, orders: int) -> None:
    """Tables, views and the sink's topic show so many orders."""
    assert sorted(con.sql("SELECT id FROM orders").fetchall()) == [(i,) for i in range(orders)]
    joined = sorted(con.sql(JOINED).fetchall(), key=repr)
    assert sorted(con.sql("SELECT * FROM sums").fetchall()) == sorted(con.sql(GROUPED).fetchall())
    con.execute("CREATE MATERIALIZED VIEW seen AS SELECT * FROM shown")
    shown: list[object] = []

    def there() -> bool:
        shown[:] = sorted(con.sql("SELECT * FROM seen").fetchall(), key=repr)
        return shown == joined

    until(there, lambda: (len(shown), len(joined)))
    con.execute("DROP MATERIALIZED VIEW seen")


def test_a_checkpoint_waits_for_room_and_the_log_of_changes_refuses(disk: Disk) -> None:
    with forebay.connect(disk.path / "w") as con:
        con.execute(TABLES)
        insert(con, 0)
        assert con.checkpoint(30)
        taken, refusal = insert_until_refused(con, disk, 200)
        assert "cannot be made durable, and was not made" in refusal.message
        assert "free space in" in str(refusal.hint)
        orders = 200 + taken
        until(lambda: all("No space left" in str(e) for e in errors(con)), lambda: errors(con))
        assert [job.status for job in con.jobs.values()] == ["RUNNING"] * len(con.jobs)
        assert con.sql("SELECT COUNT(*) FROM orders").fetchall() == [(orders,)]
        with pytest.raises(forebay.StateError, match="no checkpoint could be made"):
            con.execute("CREATE SAVEPOINT s")
        disk.free()
        until(lambda: errors(con) == [None] * len(con.jobs), lambda: errors(con))
        insert(con, orders)
        check(con, orders + 200)
    with forebay.connect(disk.path / "w") as con:
        insert(con, orders + 200)
        check(con, orders + 400)


STREAM = """
CREATE TABLE src (id BIGINT, v BIGINT) WITH ('connector' = 'filesystem', 'path' = '{source}', 'format' = 'json',
  'source.monitor-interval' = '50 ms');
CREATE MATERIALIZED VIEW counts AS SELECT v, COUNT(*) AS n FROM src GROUP BY v;
CREATE MATERIALIZED VIEW pairs AS SELECT s.id, s.v, r.w FROM src s JOIN refunds r ON r.order_id = s.id;
"""


def test_what_cannot_leave_memory_holds_the_sources_back(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    press(monkeypatch)
    source = tmp_path / "in"
    source.mkdir()

    def more(first: int) -> None:
        lines = [json.dumps({"id": i, "v": i % 7}) for i in range(first, first + 1000)]
        (source / ".new").write_text("\n".join(lines) + "\n")
        (source / ".new").rename(source / f"{first:06d}.json")

    with forebay.connect(disk.path / "w") as con:
        con.execute(TABLES + STREAM.format(source=source))

        def counted() -> int:
            return sum(n for _, n in con.sql("SELECT * FROM counts").fetchall())

        insert(con, 0)
        more(0)
        until(lambda: counted() == 1000, counted)
        disk.fill()
        for first in range(1000, 6000, 1000):
            more(first)
            time.sleep(0.1)
        until(lambda: any("moving state to disk failed" in str(e) for e in errors(con)), lambda: errors(con))
        assert con.warehouse.driver.budget.stuck
        assert counted() < 6000  # it reads on only as long as there is memory; views are read all the time
        disk.free()
        until(lambda: counted() == 6000 and errors(con) == [None] * len(con.jobs), lambda: (errors(con), counted()))
        insert(con, 200)
        check(con, 400)
    with forebay.connect(disk.path / "w") as con:
        assert counted() == 6000
        pairs = con.sql("SELECT * FROM pairs ORDER BY id").fetchall()
        assert pairs == [(i, i % 7, i) for first in (0, 200) for i in range(first, first + 200, 3)]


def test_a_savepoint_is_copied_when_there_is_room(disk: Disk, tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute(TABLES)
        insert(con, 0)
        disk.fill()
        with pytest.raises(forebay.ConnectorError, match="No space left"):
            con.execute(f"CREATE SAVEPOINT s TO 'file://{disk.path}/copies'")
        insert(con, 200)
        assert con.sql("SHOW SAVEPOINTS").fetchall() == []
        disk.free()
        con.execute(f"CREATE SAVEPOINT s TO 'file://{disk.path}/copies'")
        insert(con, 400)
        check(con, 600)


HISTORY = """
CREATE TABLE old (id BIGINT, v BIGINT, pad STRING, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'upsert-log',
  'topic' = 'old', 'key.format' = 'json', 'value.format' = 'json', 'bootstrap.path' = '{path}',
  'bootstrap.until' = '2026-01-01 00:00:00');
CREATE MATERIALIZED VIEW olds AS SELECT id, v, pad FROM old;
"""


@pytest.mark.parametrize(
    "room", [pytest.param(64 << 10, id="runs"), pytest.param(6 * MB, id="segments", marks=pytest.mark.faults)]
)
def test_a_bootstrap_waits_for_room(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """At its first spilled rows, or when it writes the segments."""
    monkeypatch.setattr("forebay.engine.runtime.bootstrap.READ_ROWS", 2000)
    monkeypatch.setattr("forebay.engine.state.bulk.RUN_BATCHES", 4)
    ids = range(30_000)
    rows = pa.table({"id": ids, "v": [i % 7 for i in ids], "pad": [f"{i:0100d}" for i in ids]})
    pq.write_table(rows, tmp_path / "old.parquet")
    with forebay.connect(disk.path / "w", resume=False) as con:
        con.execute("SET 'execution.checkpointing.interval' = '1 h'")
        con.execute(HISTORY.format(path=tmp_path / "old.parquet"))
        disk.leave(room)
        con.resume()
        until(lambda: "No space left" in str(errors(con)[0]), lambda: errors(con))
        assert con.jobs["olds"].status == "BOOTSTRAPPING"
        told = con.sql("SHOW JOBS").arrow().to_pylist()[0]
        assert told["status"] == "BOOTSTRAPPING"
        assert re.fullmatch(
            r"the bootstrap failed.*: .*No space left.*; free space in .*, it goes on by itself", told["error"]
        )
        time.sleep(0.5)  # several tries
        assert con.jobs["olds"].status == "BOOTSTRAPPING"
        disk.free()
        until(lambda: con.jobs["olds"].status == "RUNNING" and errors(con) == [None], lambda: errors(con))
        assert con.sql("SELECT COUNT(*), SUM(v), COUNT(DISTINCT pad) FROM olds").fetchall() == [
            (30_000, sum(i % 7 for i in ids), 30_000)
        ]
    assert not list((disk.path / "w" / "cold").glob("*.segment"))


def test_a_job_whose_attachment_finds_no_room_is_attached_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach, tries = Driver._attach, []

    def full(driver: Driver, job: Job, *plan: Any, **how: Any) -> None:
        tries.append(job.name)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        attach(driver, job, *plan, **how)

    pq.write_table(pa.table({"id": [1, 2], "v": [3, 4], "pad": ["a", "b"]}), tmp_path / "old.parquet")
    monkeypatch.setattr(Driver, "_attach", full)
    with forebay.connect(tmp_path / "w") as con:
        con.execute(HISTORY.format(path=tmp_path / "old.parquet"))
        until(lambda: con.jobs["olds"].status == "RUNNING", lambda: errors(con))
        assert tries == ["olds", "olds"]
        assert sorted(con.sql("SELECT id, v FROM olds").fetchall()) == [(1, 3), (2, 4)]
