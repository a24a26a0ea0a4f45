"""A month of join state: `python -m bench.month_join --orders N --budget 1GB [--variant plain,cold-refunds,...] --json FILE`.

Orders ⟕ refunds over 30 event days (`bench.month`), pinned to one core with all sealing and merging, into a sink that counts rows
and adds up a checksum per day; both are compared with a recomputation without the engine. A row is an order, an update of
one, or a refund. The generator's CPU seconds are counted apart. Where control groups can be had, the process has the budget,
400 MB for itself and 256 MB for the system's cache of its files.

    plain          as `bench.month` says
    kafka          the same from JSON in Kafka, one topic for both tables; the broker has a core of its own
    late-updates   orders are updated when they are cold
    cold-refunds   refunds come after all orders and find cold ones: `cold_hits_per_s`
    ttl            both sides are kept for 10 event days: refunds that come later find no order, and state stops growing
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from typing import Any

import numpy as np

from bench import broker, measure, month_topic
from bench.month import DAYS, START, Month, connector
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Sink
from forebay.planner.options import size

TABLES = """
CREATE TABLE orders (order_id BIGINT, user_id BIGINT, shop_id BIGINT, city STRING, amount DECIMAL(10, 2), status STRING,
  ts TIMESTAMP(3), note STRING, WATERMARK FOR ts AS ts) WITH ('connector' = 'month', 'table' = 'orders');
CREATE TABLE refunds (refund_id BIGINT, order_id BIGINT, refunded DECIMAL(10, 2), `at` TIMESTAMP(3),
  WATERMARK FOR `at` AS `at`) WITH ('connector' = 'month', 'table' = 'refunds');
"""
SINK = """
CREATE TABLE wide (order_id BIGINT, user_id BIGINT, shop_id BIGINT, city STRING, amount DECIMAL(10, 2), status STRING,
  ts TIMESTAMP(3), note STRING, refund_id BIGINT, refunded DECIMAL(10, 2)) WITH ('connector' = 'days');
"""
INSERT = """
INSERT INTO wide SELECT o.*, r.refund_id, r.refunded FROM orders o LEFT JOIN refunds r ON r.order_id = o.order_id
"""
HINT = "SELECT /*+ STATE_TTL('o' = '10 d', 'r' = '10 d') */"
_DAY = 86_400_000
TTL = 10
"""Days."""
PEERS = {"plain": 120_000, "kafka": 43_000}
"""Rows a second of the best peer with its state on disk, on a machine of the same kind: a hand-written circuit of Feldera on two
cores; from Kafka, Flink 2.2 with RocksDB. Both at 10 M orders."""
VARIANTS = ("plain", "kafka", "late-updates", "cold-refunds", "ttl")
PROMISE, FILES = 400 << 20, 256 << 20
"""Bytes beyond the budget: of the process, and of the system's cache for it."""


class Days(Sink):
    """Counts rows and adds up a checksum per day of the order; notes when each day is first seen."""

    def __init__(self) -> None:
        self.rows = np.zeros(DAYS, np.int64)
        self.sums = np.zeros(DAYS, np.int64)
        self.seen = np.zeros(DAYS)

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        day = (batch.rows.column("ts").cast("int64").to_numpy() - START) // _DAY
        weights = batch.weight_array()
        refund = batch.rows.column("refund_id").fill_null(0).to_numpy()
        done = np.frombuffer(batch.rows.column("status").buffers()[1], np.int32)  # touch the text, as a sink would
        assert done.shape[0] > 0
        check = weights * (batch.rows.column("order_id").to_numpy() * 3 + refund)
        self.rows += np.bincount(day, weights, DAYS).astype(np.int64)  # float64 holds these sums exactly
        self.sums += np.bincount(day, check, DAYS).astype(np.int64)
        new = np.unique(day)
        self.seen[new[self.seen[new] == 0]] = time.perf_counter()

    def commit(self, checkpoint: int) -> None:
        pass


def expected(month: Month, ttl: bool) -> tuple[Any, Any]:
    """Rows and checksum per day, without the engine. A window of each input is one epoch."""
    rows, sums = np.zeros(DAYS, np.int64), np.zeros(DAYS, np.int64)
    for window in range(month.windows):
        ids = month.inserted(window)
        day = ids * DAYS // month.orders
        np.add.at(rows, day, 1)
        np.add.at(sums, day, ids * 3)
    orders, ticks = month.refunds
    if ttl:
        orders = orders[_in_time(month, orders, ticks)]
    np.add.at(sums, orders * DAYS // month.orders, orders * 2 + 1)
    return rows, sums


def _in_time(month: Month, orders: Any, ticks: Any) -> Any:
    """Which refunds find their order: it is not older than the TTL before the least watermark at the start of the epoch."""
    window = ticks // month.window
    seen = np.searchsorted(ticks, np.arange(month.windows) * month.window)  # refunds before each window
    last = np.where(seen > 0, ticks[np.maximum(seen - 1, 0)], -1)
    horizon = np.minimum(np.arange(month.windows) * month.window - 1, last)[window]
    millis = month.time(np.maximum(horizon, 0)).cast("int64").to_numpy() - TTL * _DAY
    return (horizon < 0) | (month.time(orders).cast("int64").to_numpy() >= millis)


class Samples:
    """What the state is when the first row of a day comes."""

    def __init__(self, driver: Any, sink: Days) -> None:
        self._driver = driver
        self._sink = sink
        self.days: dict[int, tuple[int, float, float]] = {}

    def take(self) -> None:
        """After an epoch."""
        day = int(np.count_nonzero(self._sink.seen)) - 1
        if day not in self.days:
            states = [s for n in self._driver.flow.order for s in n.states().values()]
            memory = sum(s.nbytes() for s in states) / 2**20
            self.days[day] = (sum(s.rows() for s in states), memory, self._driver.cold.disk_bytes() / 2**20)

    def report(self) -> dict[str, Any]:
        """Rows, MB of memory and MB of disk after so many days."""
        at = [day for day in (5, 10, 12, 15, 20, 25, 29) if day in self.days]
        return {f"day_{day}_state": [round(value) for value in self.days[day]] for day in at}


class Timed:
    """Seconds spent in a callable, of CPU or of wall time, by call."""

    def __init__(self, function: Any, clock: Any) -> None:
        self._function = function
        self._clock = clock
        self.calls: list[float] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started = self._clock()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.calls.append(self._clock() - started)


class Hits:
    """When refunds begin to come, of a month that keeps them for the end."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.began: tuple[float, float] | None = None

    def __call__(self, month: Month, orders: Any, ticks: Any) -> Any:
        if self.began is None and orders.shape[0]:
            self.began = (time.perf_counter(), time.process_time())
        return self._function(month, orders, ticks)

    def report(self, month: Month) -> dict[str, Any]:
        """Refunds a second since then, by the clock and by the CPU."""
        assert self.began is not None
        count, (clock, cpu) = month.refunds[0].shape[0], self.began
        return {
            "cold_hits": count,
            "cold_hits_per_s": round(count / (time.perf_counter() - clock)),
            "cold_hits_per_cpu_s": round(count / (time.process_time() - cpu)),
        }


def month_of(args: argparse.Namespace) -> Month:
    """The workload of a variant."""
    return Month(args.orders, args.seed, args.case == "late-updates", args.case == "cold-refunds")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The join, once."""
    from forebay.connection import Connection
    from forebay.connectors import default_registry

    month = month_of(args)
    days, registry = Days(), default_registry()
    registry.connectors["month"] = connector(month)
    registry.connectors["days"] = Connector(
        "days", (), sink=lambda spec: days, sink_changelog=lambda spec: Changelog.RETRACT
    )
    generator = Timed(Month.order_changes, time.thread_time)
    hits = Hits(Month.refund_rows)
    Month.order_changes = lambda self, window: generator(self, window)  # type: ignore[method-assign]
    Month.refund_rows = lambda self, orders, ticks: hits(self, orders, ticks)  # type: ignore[method-assign]
    with (
        tempfile.TemporaryDirectory(dir=args.directory) as directory,
        Connection(f"{directory}/w" if args.durable else ":memory:", registry=registry) as con,
    ):
        if args.budget:
            con.execute(f"SET 'memory.budget' = '{args.budget}'")
        con.execute((month_topic.tables(args.bootstrap) + ";" if args.case == "kafka" else TABLES) + SINK)
        driver = con.warehouse.driver
        epochs = Timed(driver._run, time.perf_counter)
        samples = Samples(driver, days)

        def run_epoch(*given: Any) -> Any:
            result = epochs(*given)
            samples.take()
            return result

        driver._run = run_epoch  # type: ignore[method-assign]
        base = measure.peak_rss_mb()

        def work() -> dict[str, Any]:
            con.execute(INSERT.replace("SELECT", HINT) if args.case == "ttl" else INSERT)
            con.wait(timeout=args.timeout)
            return hits.report(month) if month.cold_refunds else {}

        updates = sum(month.updated(w).shape[0] for w in range(month.windows))
        rows = args.messages or month.orders + updates + month.refunds[0].shape[0]
        result = measure.measure("", rows, work)
        states = [s for n in driver.flow.order for s in n.states().values()]
        more = {
            "generator_seconds": sum(generator.calls),
            "engine_rows_per_s": round(result.rows / (result.cpu_seconds - sum(generator.calls))),
            "p99_epoch_ms": float(np.percentile(epochs.calls, 99)) * 1e3,
            "max_epoch_ms": max(epochs.calls) * 1e3,
            "base_rss_mb": base,
            "state_rows": sum(s.rows() for s in states),
            "memory_state_mb": sum(s.nbytes() for s in states) / 2**20,
            "disk_mb": driver.cold.disk_bytes() / 2**20,
            "written_mb": driver.cold.written / 2**20,
            "read_blocks": driver.cold.read_blocks,
            "segments": len(driver.flow.graph.segments()),
            "seconds_held": driver.budget.held,
        }
    more.update(samples.report())
    more["correct"] = all(
        bool((a == b).all()) for a, b in zip((days.rows, days.sums), expected(month, args.case == "ttl"))
    )
    per_day = np.diff(days.seen)
    if (days.seen > 0).all():  # rows are sealed every day or two: one day alone says little
        for day in (5, 28):
            more[f"days_{day - 1}_to_{day + 1}_rows_per_s"] = round(
                result.rows / DAYS / per_day[day - 2 : day + 1].mean()
            )
    result.more.update(more)
    peer = {"peer": PEERS[args.case]} if args.case in PEERS else {}
    return (
        result.entry() | peer | {"case": f"{args.orders // 1_000_000} M orders, {args.case}, {args.budget or 'auto'}"}
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.month_join", description="A month of join state.")
    made.add_argument("--orders", type=int, default=10_000_000)
    made.add_argument("--budget", help="memory budget, such as 1GB")
    made.add_argument("--variant", default="plain", help=f"one or several with commas: {', '.join(VARIANTS)}")
    made.add_argument("--durable", action="store_true", help="a warehouse on disk, with checkpoints")
    made.add_argument("--directory", help="where the warehouse's files go")
    made.add_argument("--bootstrap", help="HOST:PORT of Kafka for `kafka`; without it a broker is started")
    made.add_argument("--unlimited", action="store_true", help="no control group around the process")
    made.add_argument("--messages", type=int, default=0, help=argparse.SUPPRESS)
    return measure.cases(made)


def main(argv: list[str] | None = None) -> int:
    """Run every variant in a process of its own, and report; 1 if a result is wrong."""
    return measure.main(parser(), argv, run, whole)


def whole(args: argparse.Namespace, given: list[str]) -> int:
    """All variants, one after the other."""
    if unknown := set(args.variant.split(",")) - {*VARIANTS}:
        raise SystemExit(f"bench.month_join: no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    entries = []
    for variant in args.variant.split(","):
        with (
            broker.reached(args.bootstrap, 1 if args.core == 0 else None) if variant == "kafka" else nullcontext() as at
        ):
            entry = run_apart(args, given, variant, at)
        entries.append(entry)
        print(measure.listing(entry), file=sys.stderr)
    measure.report("month_join", entries, args.json, budget=args.budget)
    return 0 if all(entry["correct"] for entry in entries) else 1


def run_apart(args: argparse.Namespace, argv: list[str], variant: str, bootstrap: str | None) -> dict[str, Any]:
    """A variant in a process of its own, within its memory."""
    more = ["--case", variant]
    if bootstrap:
        messages = month_topic.publish(bootstrap, Month(args.orders, args.seed), args.timeout)
        more += ["--bootstrap", bootstrap, "--messages", str(messages)]
    limited = args.budget and not args.unlimited
    memory = size(args.budget) + PROMISE + FILES if limited else None
    return measure.in_process("bench.month_join", [*argv, *more], args.timeout + 600, memory)


if __name__ == "__main__":
    sys.exit(main())
