"""A sink that cannot go on fails its job; RESUME JOB opens it again, and every row is written once."""

from __future__ import annotations

import time
from collections.abc import Callable

import forebay
from forebay.connectors import default_registry
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Sink
from forebay.engine.errors import ConnectorError

TABLES = """
SET 'execution.checkpointing.interval' = '50 ms';
CREATE TABLE t (n BIGINT);
CREATE TABLE out (n BIGINT) WITH ('connector' = 'breaks');
INSERT INTO out SELECT n FROM t;
"""


class Breaks(Sink):
    """Writes while `whole[0]`; else raises an error that no retry mends."""

    def __init__(self, whole: list[bool], committed: list[int]) -> None:
        self._whole, self._committed = whole, committed
        self._open: list[int] = []

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        if not self._whole[0]:
            raise ConnectorError("the disk is full", retryable=False)
        self._open += batch.rows.column(0).to_pylist()

    def commit(self, checkpoint: int) -> None:
        self._committed += self._open
        self._open = []


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_job_whose_sink_gave_up_goes_on_when_it_is_resumed() -> None:
    whole, committed = [True], list[int]()
    registry = default_registry()
    registry.connectors["breaks"] = Connector(
        "breaks", (), sink=lambda spec: Breaks(whole, committed), sink_changelog=lambda spec: Changelog.RETRACT
    )
    with forebay.Connection(registry=registry) as con:
        con.execute(TABLES)
        job = con.jobs["insert_into_out"]
        expected = []
        for n in (10, 20):
            con.execute(f"INSERT INTO t VALUES ({n})")
            expected.append(n)
            until(lambda: committed == expected)
            whole[0] = False
            con.execute(f"INSERT INTO t VALUES ({n + 1})")
            until(lambda: job.status == "FAILED")
            assert "disk is full" in str(job.error)
            con.execute(f"INSERT INTO t VALUES ({n + 2})")
            whole[0] = True
            con.execute("RESUME JOB insert_into_out")
            assert job.status == "RUNNING"
            expected += [n + 1, n + 2]
            until(lambda: committed == expected)
