"""The next rows are read while an epoch runs, where there is a processor for it or the epoch waits for the disk."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest

from forebay.connection import Connection
from forebay.connectors import default_registry
from forebay.engine import limits
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Fetched, Position, Reader, Source, TableSpec
from forebay.engine.runtime.node import Node

SCHEMA = pa.schema([("n", pa.int64()), ("twice", pa.int64())])
STEP, POLLS = 2000, 30


class Numbers(Reader):
    """So many polls of `STEP` rows each."""

    def __init__(self, source: NumbersSource, at: int) -> None:
        self.source, self.at, self.end = source, at, STEP * POLLS

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self.end = STEP * POLLS if positions is None else int(positions["0"])

    def splits(self) -> list[str]:
        return ["0"]

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        if self.at >= self.end:
            return None
        numbers = np.arange(self.at, self.at + STEP)
        self.at += STEP
        self.source.polls.release()
        return Fetched(Batch(pa.record_batch([numbers, 2 * numbers], schema=SCHEMA)), None, records=STEP)

    def positions(self) -> dict[str, Position]:
        return {"0": self.at}

    def finished(self) -> bool:
        return self.at >= STEP * POLLS


class NumbersSource(Source):
    schema = SCHEMA
    changelog = Changelog.APPEND
    bounded = True
    polls = threading.Semaphore(0)

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return Numbers(self, int(positions["0"]) if positions else 0)


class Looks:
    """In its first epoch it waits until the source is polled again, after it has done something."""

    def __init__(self, polls: threading.Semaphore, seconds: float) -> None:
        self.polls, self.seconds = polls, seconds
        self.meanwhile = lambda: None
        self.came: bool | None = None

    def see(self, node: Node, inputs: Sequence[list[Batch]], epoch: int, error: Exception | None) -> None:
        if node.scan is None and any(inputs) and self.came is None:
            self.polls.acquire()  # what this epoch is about
            self.meanwhile()
            self.came = self.polls.acquire(timeout=self.seconds)


def opened(monkeypatch: pytest.MonkeyPatch, cores: int, seconds: float) -> tuple[Connection, Looks]:
    monkeypatch.setattr(limits, "cores", lambda: cores)
    monkeypatch.setattr(NumbersSource, "polls", threading.Semaphore(0))
    registry = default_registry()

    def source(spec: TableSpec) -> Source:
        return NumbersSource()

    registry.connectors["numbers"] = Connector("numbers", (), source=source)
    con = Connection(":memory:", registry=registry)
    con.execute("CREATE TABLE numbers (n BIGINT, twice BIGINT) WITH ('connector' = 'numbers')")
    looks = Looks(NumbersSource.polls, seconds)
    con.warehouse.driver.flow.taps.append(looks)
    return con, looks


def all_is_there(con: Connection) -> None:
    count = STEP * POLLS
    assert con.wait(timeout=60)
    assert con.sql("SELECT * FROM sums").fetchall() == [(count, count * (count - 1) // 2)]


VIEW = "CREATE MATERIALIZED VIEW sums AS SELECT COUNT(*) AS c, SUM(n) AS s FROM numbers"


@pytest.mark.parametrize(
    ("cores", "disk", "ahead"),
    [(2, False, True), (1, True, True), (1, False, False)],
    ids=["a processor to spare", "one, and the disk is waited for", "one, and nothing is waited for"],
)
def test_the_next_is_read_in_an_epoch(monkeypatch: pytest.MonkeyPatch, cores: int, disk: bool, ahead: bool) -> None:
    con, looks = opened(monkeypatch, cores, 30 if ahead else 0.5)
    with con:
        if disk:
            looks.meanwhile = con.warehouse.driver.cold.meanwhile
        con.execute(VIEW)
        all_is_there(con)
        assert looks.came is ahead


def test_a_job_that_comes_while_the_next_is_being_read_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    con, _ = opened(monkeypatch, 2, 30)
    with con:
        con.execute(VIEW)
        for number in range(5):
            con.execute(f"CREATE MATERIALIZED VIEW v{number} AS SELECT SUM(twice) + {number} AS s FROM numbers")
        all_is_there(con)
        count = STEP * POLLS
        for number in range(5):
            assert con.sql(f"SELECT s FROM v{number}").fetchall() == [(count * (count - 1) + number,)]
