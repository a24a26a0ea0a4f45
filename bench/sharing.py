"""Ten jobs on one table: `python -m bench.sharing --orders N [--jobs 10] [--budget 1GB] --json FILE`.

The orders and refunds of `bench.month`, joined by ten jobs that differ in filters, columns, join kinds and TTLs. Each case runs
in a process of its own, pinned to one core: all jobs together, and each of them alone, whose output (a count and a checksum
per day) must be the same as in company. `state_mb` is the memory and disk of all states at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import Any

import numpy as np
import pyarrow.compute as pc

from bench import measure
from bench.month import DAY, DAYS, START, Month, connector
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Option, Sink

TABLES = """
CREATE TABLE orders (order_id BIGINT, user_id BIGINT, shop_id BIGINT, city STRING, amount DECIMAL(10, 2), status STRING,
  ts TIMESTAMP(3), note STRING, WATERMARK FOR ts AS ts) WITH ('connector' = 'month', 'table' = 'orders');
CREATE TABLE refunds (refund_id BIGINT, order_id BIGINT, refunded DECIMAL(10, 2), `at` TIMESTAMP(3), WATERMARK FOR `at` AS `at`)
  WITH ('connector' = 'month', 'table' = 'refunds');
"""
_SINK = "CREATE TABLE out{0} (ts TIMESTAMP(3), a BIGINT, b BIGINT) WITH ('connector' = 'days', 'name' = '{0}')"
_ON = "ON r.order_id = o.order_id"
QUERIES = (
    f"SELECT o.ts, o.order_id, r.refund_id FROM orders o LEFT JOIN refunds r {_ON}",
    f"SELECT o.ts, o.shop_id, r.refund_id FROM orders o JOIN refunds r {_ON}",
    f"SELECT o.ts, o.order_id, r.refund_id FROM orders o LEFT JOIN refunds r {_ON} WHERE o.city = 'Beijing'",
    f"SELECT o.ts, o.user_id, r.refund_id FROM orders o JOIN refunds r {_ON} WHERE o.amount > 500",
    "SELECT o.ts, o.order_id, o.shop_id FROM orders o WHERE EXISTS (SELECT 1 FROM refunds r WHERE r.order_id = o.order_id)",
    "SELECT o.ts, o.order_id, o.user_id FROM orders o WHERE NOT EXISTS (SELECT 1 FROM refunds r WHERE r.order_id = o.order_id)",
    f"SELECT o.ts, o.order_id, r.refund_id FROM orders o JOIN refunds r {_ON} WHERE r.refunded > o.amount / 3",
    f"SELECT o.ts, o.order_id, r.refund_id FROM orders o LEFT JOIN refunds r {_ON} AND o.status = 'done'",
    f"SELECT /*+ STATE_TTL('o'='10d', 'r'='10d') */ o.ts, o.order_id, r.refund_id FROM orders o JOIN refunds r {_ON}",
    f"SELECT /*+ STATE_TTL('o'='35d', 'r'='1d') */ o.ts, o.user_id, r.refund_id FROM orders o LEFT JOIN refunds r {_ON}",
)


class Days(Sink):
    """Rows and a checksum per day of the order."""

    def __init__(self) -> None:
        self.rows = np.zeros(DAYS, np.int64)
        self.sums = np.zeros(DAYS, np.int64)

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        day = (batch.rows.column("ts").cast("int64").to_numpy() - START) // DAY
        weights = batch.weight_array()
        a, b = (pc.fill_null(batch.rows.column(c), 0).to_numpy() for c in ("a", "b"))
        np.add.at(self.rows, day, weights)
        np.add.at(self.sums, day, weights * (a * 3 + b))

    def commit(self, checkpoint: int) -> None:
        pass

    def digest(self) -> str:
        """What the rows add up to."""
        return hashlib.sha256(self.rows.tobytes() + self.sums.tobytes()).hexdigest()


def run(args: argparse.Namespace, numbers: list[int]) -> dict[str, Any]:
    """These jobs together."""
    from forebay.connection import Connection
    from forebay.connectors import default_registry

    month, registry = Month(args.orders, args.seed), default_registry()
    sinks = {str(n): Days() for n in numbers}
    registry.connectors["month"] = connector(month)
    registry.connectors["days"] = Connector(
        "days",
        (Option("name", "which output"),),
        sink=lambda spec: sinks[spec.options["name"]],
        sink_changelog=lambda spec: Changelog.RETRACT,
    )
    with Connection(registry=registry, resume=False) as con:
        if args.budget:
            con.execute(f"SET 'memory.budget' = '{args.budget}'")
        con.execute(TABLES)
        for n in numbers:
            con.execute(_SINK.format(n))
            con.execute(f"INSERT INTO out{n} {QUERIES[n]}")

        def work() -> None:
            con.resume()
            con.wait(timeout=args.timeout)

        updates = sum(month.updated(w).shape[0] for w in range(month.windows))
        result = measure.measure("", month.orders + updates + month.refunds[0].shape[0], work)
        driver = con.warehouse.driver
        states = sum(s.nbytes() for n in driver.flow.order for s in n.states().values())
        result.more["state_mb"] = (states + driver.cold.disk_bytes()) / 2**20
    return result.entry() | {"digests": {n: sink.digest() for n, sink in sinks.items()}}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.sharing", description="Ten jobs on one table.")
    made.add_argument("--orders", type=int, default=2_000_000)
    made.add_argument("--jobs", type=int, default=len(QUERIES), help=f"at most {len(QUERIES)}")
    made.add_argument("--budget", help="memory budget, such as 1GB")
    return measure.cases(made)


def whole(args: argparse.Namespace, argv: list[str]) -> int:
    """Run every case in a process of its own, and report; 1 if a job's output differs in company."""
    every = list(range(args.jobs))

    def case(numbers: list[int]) -> dict[str, Any]:
        listed = ",".join(map(str, numbers))
        return measure.in_process("bench.sharing", [*argv, "--case", listed], args.timeout + 600)

    together = case(every)
    alone = [case([n]) for n in every]
    found = together.pop("digests")
    same = [entry.pop("digests") == {str(n): found[str(n)]} for n, entry in enumerate(alone)]
    apart = {
        "case": f"each of {args.jobs} jobs alone, added up",
        "rows": alone[0]["rows"],
        "rows_per_s": round(alone[0]["rows"] / sum(e["seconds"] for e in alone)),
        "cpu_seconds": sum(e["cpu_seconds"] for e in alone),
        "state_mb": sum(e["state_mb"] for e in alone),
    }
    entries = [alone[0] | {"case": "one job"}, together | {"case": f"{args.jobs} jobs together"}, apart]
    print(measure.table(entries, ("case", "rows_per_s", "cpu_seconds", "peak_rss_mb", "state_mb")), file=sys.stderr)
    for n, equal in enumerate(same):
        if not equal:
            print(f"job {n} differs from its run alone: {QUERIES[n]}", file=sys.stderr)
    measure.report("sharing", entries, args.json, budget=args.budget, equal=all(same))
    return 0 if all(same) else 1


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return measure.main(parser(), argv, lambda args: run(args, [int(n) for n in args.case.split(",")]), whole)


if __name__ == "__main__":
    sys.exit(main())
