"""Watermark alignment: tables of one group are read at one pace, and one that has nothing to read holds nobody back."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pytest

from forebay.connection import Connection
from forebay.connectors import default_registry
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Fetched, Option, Position, Reader, Source, TableSpec
from forebay.engine.errors import OptionError

SCHEMA = pa.schema([("k", pa.int64()), ("ts", pa.timestamp("ms"))])
HOUR = 3_600_000
POLLS: list[tuple[str, int]] = []


class Hours(Reader):
    """One row an hour; each poll brings some hours. An unbounded one is silent after its last."""

    def __init__(self, source: HoursSource, at: int) -> None:
        self.source, self.at = source, at

    def splits(self) -> list[str]:
        return ["0"]

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        hours = range(self.at, min(self.at + self.source.step, self.source.hours))
        if not hours:
            return None
        self.at = hours.stop
        POLLS.append((self.source.name, hours.stop - 1))
        times = pa.array([h * HOUR for h in hours]).cast(pa.timestamp("ms"))
        return Fetched(
            Batch(pa.RecordBatch.from_arrays([pa.array(hours, pa.int64()), times], schema=SCHEMA)),
            None,
            records=len(hours),
        )

    def positions(self) -> dict[str, Position]:
        return {"0": self.at}

    def finished(self) -> bool:
        return self.source.bounded and self.at >= self.source.hours


class HoursSource(Source):
    schema = SCHEMA
    changelog = Changelog.APPEND

    def __init__(self, spec: TableSpec) -> None:
        self.name = spec.options["name"]
        self.step, self.hours = int(spec.options["step"]), int(spec.options["hours"])
        self.bounded = spec.options.get("bounded", "true") == "true"

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return Hours(self, int(positions["0"]) if positions else 0)


OPTIONS = tuple(Option(name, name) for name in ("name", "step", "hours", "bounded"))


def hours(name: str, step: int, count: int, more: str = "") -> str:
    return (
        f"CREATE TABLE {name} (k BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'hours', 'name' = '{name}',"
        f" 'step' = '{step}', 'hours' = '{count}'{more})"
    )


GROUP = ", 'scan.watermark.alignment.group' = 'g', 'scan.watermark.alignment.max-drift' = '5 h'"


@pytest.fixture
def con():  # type: ignore[no-untyped-def]
    registry = default_registry()
    registry.connectors["hours"] = Connector("hours", OPTIONS, source=HoursSource)
    POLLS.clear()
    with Connection(":memory:", registry=registry) as made:
        yield made


def joined(con: Connection, slow: str, fast: str) -> list[tuple[str, int]]:
    con.execute(slow)
    con.execute(fast)
    con.execute("CREATE TABLE out (k BIGINT) WITH ('connector' = 'blackhole')")
    con.execute("INSERT INTO out SELECT slow.k FROM slow JOIN fast ON slow.k = fast.k")
    con.warehouse.driver.wait(lambda: ("fast", 99) in POLLS and ("slow", 99) in POLLS, 60)
    return list(POLLS)


def lead(polls: list[tuple[str, int]]) -> int:
    """How far the fast table was ahead of the slow one, at most, when it was polled."""
    at, most = {"slow": -1, "fast": -1}, 0
    for name, hour in polls:
        most = max(most, at["fast"] - at["slow"] if name == "fast" else 0)
        at[name] = hour
    return most


@pytest.mark.parametrize("bounded", ["true", "false"])
def test_no_table_runs_ahead(con: Connection, bounded: str) -> None:
    more = f"{GROUP}, 'bounded' = '{bounded}'"
    assert lead(joined(con, hours("slow", 1, 100, more), hours("fast", 10, 100, more))) <= 5 + 1  # before a poll of 10


def test_without_a_group_it_does(con: Connection) -> None:
    assert lead(joined(con, hours("slow", 1, 100), hours("fast", 10, 100))) > 50


def test_a_silent_table_holds_nobody_back(con: Connection) -> None:
    con.execute(hours("slow", 1, 3, GROUP + ", 'bounded' = 'false'"))
    con.execute(hours("fast", 10, 100, GROUP))
    con.execute("CREATE TABLE out (k BIGINT) WITH ('connector' = 'blackhole')")
    con.execute("INSERT INTO out SELECT slow.k FROM slow JOIN fast ON slow.k = fast.k")
    con.warehouse.driver.wait(lambda: ("fast", 99) in POLLS, 60)


def test_a_group_goes_by_watermarks(con: Connection) -> None:
    with pytest.raises(OptionError, match="slow has no WATERMARK"):
        con.execute(hours("slow", 1, 3, GROUP).replace(", WATERMARK FOR ts AS ts", ""))
    with pytest.raises(OptionError, match="max-drift"):
        con.execute(hours("slow", 1, 3, GROUP.replace("5 h", "far")))
