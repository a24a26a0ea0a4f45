"""A sink that does not keep up makes its job's sources wait; nothing is lost, and others go on."""

from __future__ import annotations

import threading
import time

import pytest

import forebay
from forebay.connection import Connection
from forebay.connectors import default_registry
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Sink

TABLES = """
SET 'sink.outbox.max' = '1 mb';
SET 'execution.checkpointing.interval' = '100 ms';
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '1000000', 'rows-per-second' = '100000000',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '1', 'fields.n.end' = '1000000');
CREATE TABLE slow (n BIGINT) WITH ('connector' = 'gate');
"""


class Gate(Sink):
    """Takes rows only while its event is set."""

    def __init__(self, opened: threading.Event, rows: list[int]) -> None:
        self._opened = opened
        self._rows = rows

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        self._opened.wait(20)
        self._rows.append(batch.num_rows)

    def commit(self, checkpoint: int) -> None:
        pass


def test_a_slow_sink_holds_its_source_back_and_loses_nothing() -> None:
    opened, rows = threading.Event(), list[int]()
    registry = default_registry()
    registry.connectors["gate"] = Connector(
        "gate", (), sink=lambda spec: Gate(opened, rows), sink_changelog=lambda spec: Changelog.APPEND
    )
    with Connection(registry=registry) as con:
        con.execute(TABLES)
        con.execute("INSERT INTO slow SELECT n FROM numbers")
        job = con.warehouse.driver.jobs["insert_into_slow"]
        time.sleep(1.0)
        held = job.outboxes[0].nbytes()
        assert 1 << 20 < held < 4 << 20
        time.sleep(0.5)
        assert job.outboxes[0].nbytes() == held
        con.execute("CREATE MATERIALIZED VIEW other AS SELECT COUNT(*) AS n FROM numbers")
        assert con.wait("other", timeout=60)
        assert con.sql("SELECT n FROM other").fetchall() == [(1_000_000,)]
        opened.set()
        assert con.wait(timeout=60)
        assert sum(rows) == 1_000_000


class SlowCommit(Sink):
    """Every commit takes its time."""

    def __init__(self, commits: list[int]) -> None:
        self._commits = commits

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        pass

    def commit(self, checkpoint: int) -> None:
        time.sleep(0.3)
        self._commits.append(checkpoint)


def committing_slowly(commits: list[int]) -> Connection:
    """A connection with a connector `late`, that notes its commits."""
    registry = default_registry()
    registry.connectors["late"] = Connector(
        "late", (), sink=lambda spec: SlowCommit(commits), sink_changelog=lambda spec: Changelog.APPEND
    )
    return Connection(registry=registry)


def test_a_job_that_ends_asks_its_sink_for_one_commit() -> None:
    commits = list[int]()
    with committing_slowly(commits) as con:
        con.execute(
            "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '10', 'rows-per-second' = '1000');"
            "CREATE TABLE late (n BIGINT) WITH ('connector' = 'late')"
        )
        con.execute("INSERT INTO late SELECT n FROM numbers")
        assert con.wait(timeout=20)
        assert 1 <= len(commits) <= 2


def test_a_job_ends_though_checkpoints_come_faster_than_its_sink_commits() -> None:
    commits = list[int]()
    with committing_slowly(commits) as con:
        con.execute(
            "SET 'execution.checkpointing.interval' = '20 ms';"
            "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '10', 'rows-per-second' = '1000');"
            "CREATE TABLE late (n BIGINT) WITH ('connector' = 'late'); INSERT INTO late SELECT n FROM numbers"
        )
        assert con.wait(timeout=5)
        assert commits


def test_a_checkpoint_is_there_when_its_own_rows_are_committed_though_others_follow() -> None:
    commits = list[int]()
    with committing_slowly(commits) as con:
        con.execute(
            "SET 'execution.checkpointing.interval' = '20 ms';"
            "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '1000');"
            "CREATE TABLE late (n BIGINT) WITH ('connector' = 'late')"
        )
        con.execute("INSERT INTO late SELECT n FROM numbers")
        assert con.checkpoint(10)
        (outbox,) = con.warehouse.driver.jobs["insert_into_late"].outboxes
        assert commits
        assert outbox.unconfirmed()[0] > commits[-1]
        con.execute("DROP JOB insert_into_late")


def test_in_memory_a_sink_that_keeps_up_is_cut_before_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.runtime.budget.QUEUE", 1 << 20)
    with forebay.connect(config={"execution.checkpointing.interval": "1 h"}) as con:
        con.execute("CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '100000000')")
        con.execute("CREATE TABLE gone (n BIGINT) WITH ('connector' = 'blackhole')")
        con.execute("INSERT INTO gone SELECT n FROM numbers")
        job = con.jobs["insert_into_gone"]
        while job.metrics()["rows_in"] < 3_000_000:
            assert job.metrics()["unconfirmed_bytes"] < 12 << 20
            time.sleep(0.01)
