"""Ten jobs over one table; the sink of one hangs, the function of another raises: the other eight do not notice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

import forebay
from forebay.connection import Connection
from forebay.connectors import default_registry
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Option, Sink
from tests.oracle.harness import bag, create

SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.int64())])
JOBS = 10
HANGS, RAISES = 3, 7
EPOCHS, ROWS = 40, 3000
Seen = Counter[tuple[object, ...]]


class Kept(Sink):
    """Adds its rows to a counter; first waits for an event."""

    def __init__(self, opened: threading.Event, rows: Seen) -> None:
        self._opened = opened
        self._rows = rows

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        self._opened.wait(60)
        for row, weight in zip(zip(*(c.to_pylist() for c in batch.rows.columns)), batch.weight_array().tolist()):
            self._rows[row] += weight

    def commit(self, checkpoint: int) -> None:
        pass


def changes() -> list[Batch]:
    """Random insertions, and deletions of rows inserted before."""
    rng = np.random.default_rng(4)
    made, before = [], None
    for _ in range(EPOCHS):
        rows = pa.record_batch([pa.array(rng.integers(0, 50, ROWS)), pa.array(rng.integers(0, 9, ROWS))], schema=SCHEMA)
        made.append(Batch(rows))
        if before is not None:
            made.append(Batch(before.slice(0, ROWS // 3), np.full(ROWS // 3, -1, np.int64)))
        before = rows
    return made


@contextmanager
def ten_jobs(opened: threading.Event, broken: list[bool]) -> Iterator[tuple[Connection, list[Seen]]]:
    """A warehouse with the jobs running; what their sinks hold."""

    @forebay.udf(["BIGINT"], "BIGINT")
    def touchy(values: pa.Array) -> pa.Array:
        if broken[0]:
            raise ValueError("no")
        return values

    always = threading.Event()
    always.set()
    held = [Seen() for _ in range(JOBS)]
    registry = default_registry()
    registry.connectors["kept"] = Connector(
        "kept",
        (Option("number", "which"),),
        sink=lambda spec: Kept(
            opened if int(spec.options["number"]) == HANGS else always, held[int(spec.options["number"])]
        ),
        sink_changelog=lambda spec: Changelog.RETRACT,
    )
    with Connection(registry=registry, config={"execution.checkpointing.interval": "100 ms"}) as con:
        con.create_function(touchy)
        create(con, "t", SCHEMA)
        for number in range(JOBS):
            value = "touchy(v)" if number == RAISES else f"v + {number}"
            con.execute(
                f"""
                CREATE TABLE s{number} (k BIGINT, n BIGINT, s BIGINT) WITH ('connector' = 'kept', 'number' = '{number}');
                SET 'pipeline.name' = 'job{number}';
                INSERT INTO s{number} SELECT k, COUNT(*) AS n, SUM({value}) AS s FROM t GROUP BY k;
                """
            )
        yield con, held


def feed(con: Connection, data: list[Batch]) -> tuple[float, set[str]]:
    """Seconds of CPU that the epochs cost (they run on this thread), and the jobs that failed."""
    failed: set[str] = set()
    started = time.thread_time()
    for change in data:
        failed |= set(con.warehouse.driver.feed("t", change))
    return time.thread_time() - started, failed


def expected(data: list[Batch]) -> list[Seen]:
    """What each sink shall hold, by one batch query."""
    with forebay.connect(resume=False) as con:
        create(con, "t", SCHEMA)
        feed(con, data)
        rows = con.sql("SELECT k, COUNT(*), SUM(v) FROM t GROUP BY k").fetchall()
    return [bag([(k, n, s + n * (0 if i == RAISES else i)) for k, n, s in rows]) for i in range(JOBS)]


def live(seen: Seen) -> Seen:
    assert min(seen.values()) >= 0
    return Seen({row: n for row, n in seen.items() if n})


def test_the_others_stay_exact_and_keep_their_rate() -> None:
    data = changes()
    opened, broken = threading.Event(), [False]
    opened.set()
    with ten_jobs(opened, broken) as (con, _):
        feed(con, data[:10])
        healthy, failed = feed(con, data[10:])
        assert not failed
    opened.clear()
    with ten_jobs(opened, broken) as (con, held):
        feed(con, data[:10])
        broken[0] = True
        troubled, failed = feed(con, data[10:])
        assert failed == {f"job{RAISES}"}
        assert healthy / troubled >= 0.9
        others = [i for i in range(JOBS) if i not in (HANGS, RAISES)]
        wanted = expected(data)
        deadline = time.monotonic() + 20
        while any(live(held[i]) != wanted[i] for i in others) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert {i for i in others if live(held[i]) != wanted[i]} == set()
        assert con.jobs[f"job{RAISES}"].status in ("RESTARTING", "FAILED")
        assert {con.jobs[f"job{i}"].status for i in (*others, HANGS)} == {"RUNNING"}
        assert not held[HANGS]
        opened.set()
        broken[0] = False
        con.jobs[f"job{RAISES}"].resume()
        deadline = time.monotonic() + 20
        while any(live(held[i]) != wanted[i] for i in (HANGS, RAISES)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert {i for i in range(JOBS) if live(held[i]) != wanted[i]} == set()
