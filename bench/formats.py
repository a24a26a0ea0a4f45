"""Formats: `python -m bench.formats [--cases json,canal-json] [--records N] --json FILE`: records a second, both ways.

Every case runs in a process of its own, pinned to one core, over batches of 8192 equal-shaped records; the best of several
rounds counts. Messages are as large as in production: canal's carry the types of their columns, debezium's their source. The
peers write the same rows: orjson dumps each of the rows as dicts, Polars writes lines, DuckDB makes JSON of structs.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from bench import measure
from forebay.connectors import default_registry
from forebay.connectors.formats.envelope import COLUMNS as ENVELOPE
from forebay.engine.batch import Batch
from forebay.engine.connector import Records

BATCH = 8192
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("user_name", pa.string()),
        ("price", pa.float64()),
        ("city", pa.string()),
        ("paid", pa.bool_()),
        ("ts", pa.timestamp("ms")),
    ]
)
COLUMNS = ("case", "rows", "seconds", "rows_per_s", "cpu_seconds", "peak_rss_mb")
Message = Callable[[int], Any]


def row(i: int) -> dict[str, Any]:
    """A flat row as JSON."""
    names = ("Berlin", "Rome", "Oslo")
    moment = f"2024-01-31 12:00:00.{i % 1000:03d}"
    return {"id": i, "user_name": f"user-{i}", "price": i * 1.5, "city": names[i % 3], "paid": i % 2 == 0, "ts": moment}


def debezium(i: int) -> Any:
    """An update."""
    source = {"db": "shop", "table": "orders", "ts_ms": i, "file": "mysql-bin.000001", "pos": i}
    return {"before": row(i), "after": row(i + 1), "source": source, "op": "u", "ts_ms": i}


def canal(i: int) -> Any:
    """An update of one column; all values are text."""
    text = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in row(i).items()}
    types = {"id": "bigint", "user_name": "varchar(20)", "price": "double", "city": "varchar(20)", "ts": "datetime(3)"}
    names = {"database": "shop", "table": "orders", "type": "UPDATE", "isDdl": False, "pkNames": ["id"], "sql": ""}
    return {"data": [text], "old": [{"price": "1.0"}], "mysqlType": types, "es": i, "ts": i, "id": i, **names}


def maxwell(i: int) -> Any:
    """An update of one column."""
    return {"database": "shop", "table": "orders", "type": "update", "ts": i, "data": row(i), "old": {"price": 1.0}}


def ogg(i: int) -> Any:
    """An update."""
    return {
        "table": "SHOP.ORDERS",
        "op_type": "U",
        "op_ts": "2024-01-31 12:00:00",
        "before": row(i),
        "after": row(i + 1),
    }


def ods(i: int) -> Any:
    """An update."""
    names = {"database_name": "shop", "table_name": "orders", "event_time": "2024-01-31 12:00:00Z"}
    return {"op": "UPDATE", **names, "before": row(i), "after": row(i + 1)}


def csv(i: int) -> str:
    """A line."""
    return ",".join(str(v) for v in row(i).values())


MESSAGES: dict[str, Message] = {
    "json": row,
    "csv": csv,
    "debezium-json": debezium,
    "canal-json": canal,
    "maxwell-json": maxwell,
    "ogg-json": ogg,
    "ods-json": ods,
}


def rows() -> pa.RecordBatch:
    """The rows that are written."""
    columns = [pa.array([row(i)[f.name] for i in range(BATCH)]).cast(f.type) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def orjson_dumps() -> Callable[[], Any]:
    """Rows as dicts with times as text, without the cost of making them."""
    listed = [row(i) for i in range(BATCH)]
    return lambda: [orjson.dumps(r) for r in listed]


def polars_ndjson() -> Callable[[], Any]:
    """A frame to lines in memory."""
    import polars

    frame = polars.from_arrow(rows())
    assert isinstance(frame, polars.DataFrame)
    return lambda: frame.write_ndjson(io.BytesIO())


def duckdb_to_json() -> Callable[[], Any]:
    """A table of Arrow to a column of JSON in Arrow."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("batch", pa.Table.from_batches([rows()]))
    return lambda: connection.execute("SELECT to_json(batch) FROM batch").to_arrow_table()


PEERS = {"encode, orjson": orjson_dumps, "encode, Polars": polars_ndjson, "encode, DuckDB": duckdb_to_json}
CASES = (
    *MESSAGES,
    "json, 1 % bad",
    "canal-json envelope",
    *(f"{name} encode" for name in MESSAGES),
    *(f"json {peer}" for peer in PEERS),
)


def work_of(case: str) -> Callable[[], Any]:
    """One round of a case: a batch decoded or encoded."""
    name, _, variant = case.partition(" ")
    if variant in PEERS:
        return PEERS[variant]()
    name = name.rstrip(",")
    format_ = default_registry().format(name)
    options = {o.name: o.default for o in format_.options if o.default is not None}
    if variant == "encode":
        assert format_.encoder is not None
        batch = Batch(rows())
        encoder = format_.encoder(SCHEMA, options)
        return lambda: encoder.encode(batch)
    made = [MESSAGES[name](i) for i in range(BATCH)]
    values = [(m if isinstance(m, str) else json.dumps(m, separators=(",", ":"))).encode() for m in made]
    if variant.endswith("bad"):
        values[::100] = [v[:-5] for v in values[::100]]
    assert format_.decoder is not None
    schema = pa.schema(list(ENVELOPE.items())) if variant == "envelope" else SCHEMA
    decoder = format_.decoder(schema, options | ({"envelope": "true"} if variant == "envelope" else {}))
    records = Records(pa.array(values, pa.binary()), "bench", np.zeros(BATCH, np.int32), np.arange(BATCH))
    return lambda: decoder.decode(records)


def run_case(case: str, records: int, core: int) -> dict[str, Any]:
    """Measure one case in this process."""
    measure.pin([core])
    work = work_of(case)
    best = float("inf")

    def rounds() -> None:
        nonlocal best
        for _ in range(max(3, records // BATCH)):
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)

    result = measure.measure(case, max(3, records // BATCH) * BATCH, rounds).entry()
    return result | {"rows_per_s": round(BATCH / best)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="bench.formats", description=__doc__)
    made.add_argument("--cases", default=";".join(CASES), help="separated by ';'")
    made.add_argument("--records", type=int, default=400_000)
    made.add_argument("--core", type=int, default=0)
    made.add_argument("--json", help="write the report here")
    made.add_argument("--case", help=argparse.SUPPRESS)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the cases; returns 1 if one failed."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    if args.case:
        print(json.dumps(run_case(args.case, args.records, args.core)))
        return 0
    entries: list[dict[str, Any]] = []
    failed = False
    for case in args.cases.split(";"):
        try:
            entries.append(measure.in_process("bench.formats", [*argv, "--case", case], 600))
        except subprocess.SubprocessError as error:
            entries.append({"case": case, "error": str(error)})
            failed = True
        print(entries[-1], file=sys.stderr)
    measure.report("formats", entries, args.json, records=args.records, core=args.core)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
