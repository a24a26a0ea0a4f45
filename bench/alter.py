"""A job's statement changed over its state, against the same job made anew: `python -m bench.alter --orders N --json FILE`.

Orders and refunds lie in topics of the embedded log, as JSON. A job joins them and groups the result; then it is altered four
times: a metric, a filter, a dimension, a joined table. Each is timed from the statement until its result stands in the sink and
is durable, and so is a job of the last statement that has to read the topics. Both must give the same rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bench import measure

if TYPE_CHECKING:
    from forebay.connection import Connection

GENERATED = """
CREATE TABLE some_orders (order_id BIGINT, shop_id BIGINT, user_id BIGINT, amount BIGINT, note STRING) WITH (
  'connector' = 'datagen', 'rows-per-second' = '0', 'number-of-rows' = '{orders}', 'fields.order_id.kind' = 'sequence',
  'fields.order_id.start' = '0', 'fields.order_id.end' = '{last}', 'fields.shop_id.min' = '0', 'fields.shop_id.max' = '4999',
  'fields.user_id.min' = '0', 'fields.user_id.max' = '99', 'fields.amount.min' = '1', 'fields.amount.max' = '999',
  'fields.note.length' = '40');
CREATE TABLE some_refunds (refund_id BIGINT, order_id BIGINT, part BIGINT) WITH ('connector' = 'datagen',
  'rows-per-second' = '0', 'number-of-rows' = '{refunds}', 'fields.order_id.min' = '0', 'fields.order_id.max' = '{last}',
  'fields.part.min' = '1', 'fields.part.max' = '99', 'fields.refund_id.min' = '0', 'fields.refund_id.max' = '9999999');
CREATE TABLE orders (order_id BIGINT, shop_id BIGINT, user_id BIGINT, amount BIGINT, note STRING) WITH ('connector' = 'log',
  'topic' = 'orders', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE refunds (refund_id BIGINT, order_id BIGINT, part BIGINT) WITH ('connector' = 'log', 'topic' = 'refunds',
  'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE shops (shop_id BIGINT, city STRING, PRIMARY KEY (shop_id) NOT ENFORCED);
CREATE TABLE result (k STRING, orders BIGINT, total BIGINT, top BIGINT, PRIMARY KEY (k) NOT ENFORCED);
"""
FILL = "INSERT INTO orders SELECT * FROM some_orders; INSERT INTO refunds SELECT * FROM some_refunds;"
_INTO = "INSERT INTO result SELECT CAST({0} AS STRING), COUNT(*), SUM(o.amount), {1}"
_FROM = " FROM orders o LEFT JOIN refunds r ON r.order_id = o.order_id"
FIRST = _INTO.format("o.shop_id", 0) + _FROM + " GROUP BY o.shop_id"
CHANGES = {
    "a new metric": _INTO.format("o.shop_id", "SUM(r.part)") + _FROM + " GROUP BY o.shop_id",
    "a new filter": _INTO.format("o.shop_id", "MAX(r.part)") + _FROM + " WHERE o.amount > 500 GROUP BY o.shop_id",
    "a new dimension": _INTO.format("o.user_id", "MAX(r.part)") + _FROM + " WHERE o.amount > 500 GROUP BY o.user_id",
    "a joined table": _INTO.format("s.city", "MAX(r.part)")
    + _FROM
    + " JOIN shops s ON s.shop_id = o.shop_id WHERE o.amount > 500 GROUP BY s.city",
}
JOB = "job"


def start(con: Connection, statement: str) -> None:
    """Make the job, and wait until it has read all there is, durably."""
    con.execute(f"SET 'pipeline.name' = '{JOB}'")
    con.execute(statement)
    driver = con.warehouse.driver
    scans = lambda: [n.scan for n in driver.flow.scans() if n.scan is not None]  # noqa: E731
    driver.wait(lambda: all(s.reader.lag() == 0 and s.positions == s.reader.positions() for s in scans()), None)
    con.checkpoint()


def rows(con: Connection) -> list[tuple[Any, ...]]:
    """What the sink shows."""
    return sorted(con.sql("SELECT * FROM result").fetchall())


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases, in this process."""
    from forebay.connection import Connection

    count = args.orders + args.orders // 20
    with tempfile.TemporaryDirectory() as root, Connection(root) as con:
        sizes = {"orders": args.orders, "last": args.orders - 1, "refunds": args.orders // 20}
        con.execute(GENERATED.format(**sizes))
        for statement in (FIRST, *CHANGES.values()):  # kernels are loaded at their first use
            start(con, statement)
            con.execute(f"DROP JOB {JOB}")
        con.execute(FILL)
        con.wait()  # what they write is there when they end
        con.register("cities", pa.table({"shop_id": range(5000), "city": [f"city {i % 40}" for i in range(5000)]}))
        con.execute("INSERT INTO shops SELECT * FROM cities")
        entries = [timed("the job is made", count, lambda: start(con, FIRST))]
        for name, statement in CHANGES.items():
            entries.append(timed(f"ALTER: {name}", count, lambda s=statement: con.execute(f"ALTER JOB {JOB} AS {s}")))  # type: ignore[misc]
        altered = rows(con)
        con.execute(f"DROP JOB {JOB}; DELETE FROM result")
        entries.append(timed("the last one made anew", count, lambda: start(con, statement)))
        if rows(con) != altered:
            raise AssertionError("the altered job and the new one differ")
    return entries


def timed(name: str, count: int, work: Callable[[], object]) -> dict[str, Any]:
    """One case."""
    entry = measure.measure(name, count, lambda: work() and None).entry()
    del entry["rows_per_s"]
    return entry | {"first_result_seconds": entry["seconds"]}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.alter", description="A job's statement changed, against the job made anew.")
    made.add_argument("--orders", type=int, default=1_000_000)
    return measure.cases(made)


def whole(args: argparse.Namespace, argv: list[str]) -> int:
    """Run in a process of its own, and report."""
    entries: Any = measure.in_process("bench.alter", [*argv, "--case", "all"], args.timeout)
    print(measure.table(entries, ("case", "rows", "seconds", "cpu_seconds", "peak_rss_mb")), file=sys.stderr)
    measure.report("alter", entries, args.json, orders=args.orders)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return measure.main(parser(), argv, run, whole)


if __name__ == "__main__":
    sys.exit(main())
