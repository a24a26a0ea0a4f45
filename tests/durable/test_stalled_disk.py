"""A disk whose syncs take seconds: views go on and are read, sinks and checkpoints wait, memory is bounded, all is exact."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import forebay
from forebay.engine.files import Files
from forebay.engine.runtime.outbox import Outbox
from forebay.engine.state import coldstore
from tests.durable.pressure import press


class StallingFiles(Files):
    """Writes go to the page cache as ever; while `stalled`, whatever waits for the disk waits."""

    def __init__(self) -> None:
        self._runs = threading.Event()
        self._runs.set()
        self.waiting = 0

    def stall(self) -> None:
        self._runs.clear()

    def go_on(self) -> None:
        self._runs.set()

    def _disk(self) -> None:
        self.waiting += 1
        self._runs.wait()
        self.waiting -= 1

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self._disk()
        super().write(path, data)

    def append(self, path: Path, data: bytes | memoryview, sync: bool) -> int:
        if sync:
            self._disk()
        return super().append(path, data, sync)

    def sync(self, path: Path) -> None:
        self._disk()
        super().sync(path)


TABLES = """
SET 'execution.checkpointing.interval' = '100 ms';
SET 'sink.outbox.max' = '{most}';
CREATE TABLE src (id BIGINT, v BIGINT) WITH ('connector' = 'filesystem', 'path' = '{source}', 'format' = 'json',
  'source.monitor-interval' = '20 ms');
CREATE TABLE out (id BIGINT, v BIGINT) WITH ('connector' = 'log', 'topic' = 'out', 'format' = 'json',
  'sink.delivery-guarantee' = 'exactly-once');
CREATE MATERIALIZED VIEW counts AS SELECT v, COUNT(*) AS n FROM src GROUP BY v;
INSERT INTO out SELECT id, v FROM src;
CREATE TABLE shown (id BIGINT, v BIGINT) WITH ('connector' = 'log', 'topic' = 'out', 'format' = 'json',
  'scan.startup.mode' = 'earliest-offset');
"""


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def more(source: Path, first: int, count: int = 500) -> None:
    lines = [json.dumps({"id": i, "v": i % 7}) for i in range(first, first + count)]
    (source / ".new").write_text("\n".join(lines) + "\n")
    (source / ".new").rename(source / f"{first:06d}.json")


def counted(con: forebay.Connection) -> int:
    return sum(n for _, n in con.sql("SELECT * FROM counts").fetchall())


def all_once(con: forebay.Connection, rows: int) -> None:
    """The sink's topic has every row once."""
    con.execute("CREATE MATERIALIZED VIEW seen AS SELECT id FROM shown")
    ids = lambda: sorted(i for (i,) in con.sql("SELECT id FROM seen").fetchall())
    until(lambda: ids() == list(range(rows)))


def test_a_checkpoint_that_waits_for_the_disk_holds_nothing_else(tmp_path: Path) -> None:
    source, files = tmp_path / "in", StallingFiles()
    source.mkdir()
    with forebay.Connection(tmp_path / "w", files=files) as con:
        con.execute(TABLES.format(source=source, most="1 gb"))
        more(source, 0)
        until(lambda: counted(con) == 500)
        files.stall()
        until(lambda: files.waiting > 0)
        durable = con.warehouse.driver.checkpointed_at
        for first in range(500, 2000, 500):
            more(source, first)
            until(lambda: counted(con) == first + 500)
        assert con.warehouse.driver.checkpointed_at == durable
        files.go_on()
        all_once(con, 2000)
        assert [job.status for job in con.jobs.values()] == ["RUNNING"] * len(con.jobs)


def test_a_sink_that_waits_for_the_disk_holds_its_sources_back(tmp_path: Path) -> None:
    source, files = tmp_path / "in", StallingFiles()
    source.mkdir()
    with forebay.Connection(tmp_path / "w", files=files) as con:
        con.execute(TABLES.format(source=source, most="40 kb"))
        more(source, 0)
        until(lambda: counted(con) == 500)
        con.execute("DROP MATERIALIZED VIEW counts")  # or it would keep the shared scan going
        files.stall()
        until(lambda: files.waiting > 0)
        for first in range(500, 10_000, 500):
            more(source, first)
        (outbox,) = [n.outlet for n in con.warehouse.driver.flow.order if isinstance(n.outlet, Outbox)]
        until(outbox.full)
        time.sleep(0.3)
        assert outbox.nbytes() < 200_000  # what one epoch brought more, not all that there is
        files.go_on()
        all_once(con, 10_000)


def test_sealing_onto_a_slow_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press(monkeypatch)
    ingest = coldstore._ingest

    def slow(*what: object) -> None:
        time.sleep(0.1)
        ingest(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(coldstore, "_ingest", slow)
    source = tmp_path / "in"
    source.mkdir()
    with forebay.Connection(tmp_path / "w") as con:
        con.execute(TABLES.format(source=source, most="1 gb"))
        for first in range(0, 2000, 500):
            more(source, first)
        until(lambda: counted(con) == 2000)
        all_once(con, 2000)
