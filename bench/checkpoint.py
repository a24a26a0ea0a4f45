"""Checkpoints of a large state: `python -m bench.checkpoint --orders N --budget 1GB [--changed 0.01] --json FILE`.

The join of `bench.month`, durable. When all N orders are in, a checkpoint is taken; then, `--intervals` times, a share of the
orders, at random and so mostly cold, is updated, and another is taken. What an interval wrote is told by the kernel
(`write_bytes` of the process): rows, sealing and merges since the last one, to the end of `--settle` seconds after it. State is
sealed, and chains of changes begin anew, by the hundred MB, so intervals differ, and the mean counts. The rows that the sink has
to get exactly once are spooled, too: they are no state, are told apart as `sink_mb`, and not in `written_percent`. One process,
pinned to one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench import measure
from bench.month import UPDATED, Month, MonthReader, MonthSource
from bench.month_join import FILES, INSERT, PROMISE, SINK, TABLES, Days
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Fetched, Option, Position, Reader, Source, TableSpec
from forebay.engine.runtime import outbox
from forebay.planner.options import size

COLUMNS = ("case", "rows", "state_mb", "changed_mb", "written_mb", "sink_mb", "written_percent", "checkpoint_seconds")
_PIECE = 20_000
_PRIME = 2**31 - 1
"""Its multiples are all over the orders."""


@dataclass(frozen=True)
class LaterMonth(Month):
    """A month some of whose orders are updated once more in each of some intervals; it does not end."""

    changed: int = 0
    """Orders that an interval updates; others than those before it."""
    begun: list[int] = field(default_factory=list)
    """The intervals that have begun."""

    @property
    def pieces(self) -> int:
        """Epochs that an interval's updates come in."""
        return -(-self.changed // _PIECE)

    def last_update(self, interval: int, piece: int) -> Batch:
        """Some orders of all but the last days get a new status, none twice."""
        begin = interval * self.changed
        numbers = np.arange(begin + piece * _PIECE, begin + min((piece + 1) * _PIECE, self.changed))
        ids = numbers * _PRIME % (self.orders * 9 // 10)
        done = self._chosen("updated", ids, UPDATED)
        old = pa.concat_batches([self.order_rows(ids[done], True), self.order_rows(ids[~done], False)])
        new = old.set_column(5, "status", pa.array(["late"] * old.num_rows))
        weights = np.r_[np.full(old.num_rows, -1), np.full(old.num_rows, 1)]
        return Batch(pa.concat_batches([old, new.cast(old.schema)]), weights)


class LaterReader(MonthReader):
    """A window per poll, then, of intervals that have begun, the updates of orders in pieces."""

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        month = self._source.month
        assert isinstance(month, LaterMonth)
        if self._at < month.windows:
            return super().poll(max_rows, timeout)
        interval, piece = divmod(self._at - month.windows, month.pieces)
        if self._source.table == "refunds" or interval == len(month.begun):
            return None
        self._at += 1
        batch = month.last_update(interval, piece)
        return Fetched(batch, None, records=batch.num_rows // 2)

    def finished(self) -> bool:
        return False


class LaterSource(MonthSource):
    """Unbounded."""

    bounded = False

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return LaterReader(self, int(positions["0"]) if positions else 0)


def written() -> int:
    """Bytes that this process has sent to disks."""
    text = Path("/proc/self/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["write_bytes"])


class Spooled:
    """Bytes that went to the spool files of sinks."""

    def __init__(self, frame: Callable[[Batch], bytes]) -> None:
        self._frame = frame
        self.count = 0

    def __call__(self, batch: Batch) -> bytes:
        framed = self._frame(batch)
        self.count += len(framed)
        return framed


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All of it, once."""
    from forebay.connection import Connection
    from forebay.connectors import default_registry

    month = LaterMonth(args.orders, args.seed, changed=int(args.orders * args.changed))
    registry = default_registry()

    def source(spec: TableSpec) -> Source:
        return LaterSource(month, spec.options["table"])

    registry.connectors["month"] = Connector("month", (Option("table", "orders or refunds"),), source=source)
    spooled = Spooled(outbox._frame)
    outbox._frame = spooled
    registry.connectors["days"] = Connector(
        "days", (), sink=lambda spec: Days(), sink_changelog=lambda spec: Changelog.RETRACT
    )
    with (
        tempfile.TemporaryDirectory(dir=args.directory) as directory,
        Connection(f"{directory}/w", registry=registry) as con,
    ):
        con.execute(f"SET 'memory.budget' = '{args.budget}'")
        con.execute(TABLES + SINK)
        con.execute(INSERT)
        driver = con.warehouse.driver

        def read(windows: int) -> None:
            scans = [n.scan for n in driver.flow.order if n.scan is not None and n.scan.spec.table == "orders"]
            driver.wait(lambda: all(int(s.positions.get("0", 0)) >= windows for s in scans), args.timeout)

        def load() -> dict[str, Any]:
            read(month.windows)
            con.checkpoint(args.timeout)
            return {}

        result = measure.measure("", args.orders, load)
        states = [s for n in driver.flow.order for s in n.states().values()]
        state = sum(s.nbytes() for s in states) + driver.cold.disk_bytes()
        con.execute("SET 'execution.checkpointing.interval' = '1 h'")  # none but those that are measured
        con.checkpoint(args.timeout)
        changing, taken, sent = [], [], []
        spooled.count = 0
        for interval in range(args.intervals):
            before, started = written(), time.perf_counter()
            month.begun.append(interval)
            read(month.windows + (interval + 1) * month.pieces)
            changing.append(time.perf_counter() - started)
            started = time.perf_counter()
            con.checkpoint(args.timeout)
            taken.append(time.perf_counter() - started)
            time.sleep(args.settle)
            sent.append((written() - before) / 2**20)
        sink = spooled.count / args.intervals
        result.more.update(
            state_mb=state / 2**20,
            changed_rows=month.changed,
            changed_mb=state * args.changed / 2**20,
            changing_seconds=float(np.mean(changing)),
            checkpoint_seconds=float(np.mean(taken)),
            longest_checkpoint_seconds=max(taken),
            written_mb=float(np.mean(sent)),
            written_mb_each=[round(mb) for mb in sent],
            sink_mb=sink / 2**20,
            written_percent=100 * (float(np.mean(sent)) * 2**20 - sink) / state,
        )
    return result.entry() | {"case": f"{args.orders / 1e6:g} M orders, {args.budget}, {args.changed:.0%} updated"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.checkpoint", description="What a checkpoint of a large state writes.")
    made.add_argument("--orders", type=int, default=10_000_000)
    made.add_argument("--budget", default="1GB", help="memory budget")
    made.add_argument("--changed", type=float, default=0.01, help="share of the orders that is updated in between")
    made.add_argument("--intervals", type=int, default=5, help="checkpoints that are measured")
    made.add_argument("--settle", type=float, default=5.0, help="seconds for merges after the checkpoint")
    made.add_argument("--directory", help="where the warehouse's files go")
    return measure.cases(made)


def whole(args: argparse.Namespace, argv: list[str]) -> int:
    """Run in a process of its own, and report."""
    memory = size(args.budget) + PROMISE + FILES
    entry = measure.in_process("bench.checkpoint", [*argv, "--case", "join"], args.timeout + 600, memory)
    print(measure.table([entry], COLUMNS), file=sys.stderr)
    measure.report("checkpoint", [entry], args.json, orders=args.orders, budget=args.budget)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return measure.main(parser(), argv, run, whole)


if __name__ == "__main__":
    sys.exit(main())
