"""History to state: `python -m bench.bootstrap --orders N --budget 1GB --json FILE`.

N orders of thirty days in Parquet, a directory a day; one in five has a second version, in the next day's directory. Two cases,
each a process pinned to one core:

    bootstrap   the INSERT of order ⟕ refund, orders by primary key and version, until the job runs
    restart     a new process opens that warehouse, and a refund finds its order: seconds from before the engine is loaded
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bench import measure

DAYS = 30
FIRST = date(2026, 10, 2)
UNTIL = FIRST + timedelta(days=DAYS)
_MILLIS = 86_400_000
_PIECE = 1 << 19
TABLES = """
CREATE TABLE orders (order_id BIGINT, user_id BIGINT, shop_id BIGINT, city STRING, amount DECIMAL(10, 2), status STRING,
  ts TIMESTAMP(3), note STRING, PRIMARY KEY (order_id) NOT ENFORCED) WITH (
  'connector' = 'upsert-log', 'topic' = 'orders', 'key.format' = 'json', 'value.format' = 'json',
  'bootstrap.path' = '{root}/orders', 'bootstrap.partition-keys' = 'dt', 'bootstrap.until' = '{until}',
  'bootstrap.version' = 'ts');
CREATE TABLE refunds (refund_id BIGINT, order_id BIGINT, refunded DECIMAL(10, 2)) WITH (
  'connector' = 'log', 'topic' = 'refunds', 'format' = 'json');
CREATE TABLE wide (order_id BIGINT, city STRING, amount DECIMAL(10, 2), note STRING, refund_id BIGINT, refunded DECIMAL(10, 2))
  WITH ('connector' = 'log', 'topic' = 'wide', 'format' = 'debezium-json');
"""
INSERT = """
INSERT INTO wide SELECT o.order_id, o.city, o.amount, o.note, r.refund_id, r.refunded
FROM orders o LEFT JOIN refunds r ON r.order_id = o.order_id
"""
_CITIES = pa.array(["Beijing", "Chengdu", "Guangzhou", "Hangzhou", "Shanghai", "Shenzhen", "Wuhan", "Xian"])
_STATES = pa.array(["new", "paid", "done"])
_NOTES = pa.array([f"leave it at the door and ring {i:4d} times  " for i in range(1000)])


def rows(ids: npt.NDArray[np.int64], millis: npt.NDArray[np.int64], version: int) -> pa.Table:
    """Orders as they are in one version."""
    mixed = (ids * 2_654_435_761) & 0xFFFF_FFFF
    return pa.table(
        {
            "order_id": ids * 7_919 + 17,
            "user_id": mixed % 1_000_003,
            "shop_id": mixed % 5_003,
            "city": _CITIES.take(pa.array(mixed % 8)),
            "amount": decimals(mixed % 99_991),
            "status": _STATES.take(pa.array((ids + version) % 3)),
            "ts": pa.array(millis).cast(pa.timestamp("ms")),
            "note": _NOTES.take(pa.array(mixed % 1000)),
        }
    )


def decimals(cents: npt.NDArray[np.int64]) -> pa.Array:
    """DECIMAL(10, 2) of so many hundredths."""
    words = np.zeros((cents.shape[0], 2), np.int64)
    words[:, 0] = cents
    return pa.Array.from_buffers(pa.decimal128(10, 2), cents.shape[0], [None, pa.py_buffer(words)])


def generate(root: Path, orders: int) -> int:
    """Write the history; the number of rows."""
    start = (FIRST - date(1970, 1, 1)).days * _MILLIS
    written = 0
    for day in range(DAYS):
        directory = root / "orders" / f"dt={FIRST + timedelta(days=day)}"
        directory.mkdir(parents=True)
        parts = [(day, 0)] + ([(day - 1, 1)] if day else [])
        with pq.ParquetWriter(
            directory / "part-0.parquet", rows(np.zeros(0, np.int64), np.zeros(0, np.int64), 0).schema
        ) as out:
            for of, version in parts:
                first, end = orders * of // DAYS, orders * (of + 1) // DAYS
                for at in range(first, end, _PIECE):
                    ids = np.arange(at, min(at + _PIECE, end))
                    ids = ids[ids % 5 == 0] if version else ids
                    millis = start + of * _MILLIS + (ids - first) * _MILLIS // max(end - first, 1) + version * 3_600_000
                    out.write_table(rows(ids, millis, version), row_group_size=_PIECE)
                    written += ids.shape[0]
    return written


def bootstrap(args: argparse.Namespace) -> dict[str, Any]:
    """From the INSERT until the job runs."""
    import forebay

    with forebay.connect(f"{args.directory}/w", attach=False) as con:
        con.execute(f"SET 'memory.budget' = '{args.budget}'")
        con.execute(TABLES.format(root=args.directory, until=UNTIL))
        base = measure.peak_rss_mb()

        def work() -> dict[str, Any]:
            con.execute(INSERT)
            (job,) = con.jobs.values()
            while job.status == "BOOTSTRAPPING":
                time.sleep(0.05)
            assert job.status == "RUNNING", job.error
            return {}

        result = measure.measure("", args.rows, work)
        con.checkpoint(600)
        driver = con.warehouse.driver
        result.more.update(state(driver), base_rss_mb=base, disk_mb=driver.cold.disk_bytes() / 2**20)
    return result.entry()


def state(driver: Any) -> dict[str, Any]:
    """Rows and memory of all states."""
    states = [s for n in driver.flow.order for s in n.states().values()]
    return {
        "state_rows": sum(s.rows() for s in states),
        "memory_state_mb": sum(s.nbytes() for s in states) / 2**20,
        "segments": len(driver.flow.graph.segments()),
    }


def restart(args: argparse.Namespace) -> dict[str, Any]:
    """From before the engine is loaded until a refund has found its order."""

    def work() -> dict[str, Any]:
        import forebay

        with forebay.connect(f"{args.directory}/w", attach=False) as con:
            opened = time.perf_counter()
            order = (args.orders // 2) * 7_919 + 17
            con.execute(f"INSERT INTO refunds VALUES (1, {order}, 1.50)")
            with con.stream("SELECT order_id, refund_id FROM wide") as stream:
                while (order, 1) not in [row for _, row in stream.fetch(0.02)]:
                    pass
            seen = time.perf_counter()
            return state(con.warehouse.driver) | {"first_result_seconds": seen - begun, "open_seconds": opened - begun}

    begun = time.perf_counter()
    entry = measure.measure("", args.rows, work).entry()
    del entry["rows_per_s"]  # nothing is read but what the refund needs
    return entry


CASES = {"bootstrap": bootstrap, "restart": restart}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "bench.bootstrap", description="From a history in Parquet to state, and back after a restart."
    )
    made.add_argument("--orders", type=int, default=10_000_000)
    made.add_argument("--budget", default="1GB", help="memory budget")
    made.add_argument("--directory", help="where the history and the warehouse go; a temporary one without it")
    made.add_argument("--core", type=int, default=0)
    made.add_argument("--json", metavar="FILE", help="where the results go; without it, standard output")
    made.add_argument("--case", help=argparse.SUPPRESS)
    made.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    return made


def whole(args: argparse.Namespace, argv: list[str]) -> int:
    """Generate, then each case in a process of its own."""
    entries = []
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        count = generate(Path(directory), args.orders)
        for case in CASES:
            command = ["--case", case, "--rows", str(count), "--orders", str(args.orders), "--budget", args.budget]
            command += ["--directory", directory, "--core", str(args.core)]
            entry = measure.in_process("bench.bootstrap", command, 7200)
            entries.append(entry | {"case": f"{args.orders / 1e6:g} M orders, {args.budget}, {case}"})
    columns = ("case", "rows", "seconds", "rows_per_s", "cpu_seconds", "peak_rss_mb", "state_rows", "memory_state_mb")
    print(measure.table(entries, (*columns, "first_result_seconds")), file=sys.stderr)
    measure.report("bootstrap", entries, args.json, orders=args.orders, budget=args.budget)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return measure.main(parser(), argv, lambda args: CASES[args.case](args), whole)


if __name__ == "__main__":
    sys.exit(main())
