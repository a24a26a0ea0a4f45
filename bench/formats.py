"""Formats: `python -m bench.formats [--cases json,canal-json] [--records N] --json FILE`: records a second, both ways.

Every case runs in a process of its own, pinned to one core, over batches of 8192 records; the best of several rounds
counts, in CPU seconds of all threads. Messages are as large as in production: canal's carry the types of their columns,
debezium's their source. A case 'X by NAME' reads the bytes of case X with another library, into the columns of that message
and no further: no weights, no old images, no dead letters; orjson makes Python objects.
'json encode by NAME' writes the rows of 'json encode': orjson dumps each of the rows as dicts, Polars writes lines, DuckDB makes
JSON of structs.
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


def order(i: int) -> Any:
    """A flat order of 170 bytes."""
    ids = {"order_id": 7_000_000_000 + i, "customer_id": i * 7919 % 1_000_000, "sku": f"SKU-{i * 31 % 100_000:06d}"}
    price = {
        "qty": i % 9 + 1,
        "price": f"{i % 500}.{i % 100:02d}",
        "currency": "EUR",
        "status": ("PAID", "SENT")[i % 2],
    }
    return {**ids, **price, "created": f"2024-01-31 12:{i % 60:02d}:00.{i % 1000:03d}", "paid": i % 3 == 0}


MESSAGES: dict[str, Message] = {
    "json": row,
    "json orders": order,
    "csv": csv,
    "debezium-json": debezium,
    "canal-json": canal,
    "maxwell-json": maxwell,
    "ogg-json": ogg,
    "ods-json": ods,
}
NEXMARK = "json nexmark, q0's columns"
COMPARED = ("json orders", NEXMARK, "debezium-json", "canal-json")
PEERS = ("pyarrow", "polars", "duckdb", "orjson")
CASES = (
    *MESSAGES,
    NEXMARK,
    "json, 1 % bad",
    "canal-json envelope",
    *(f"{name} encode" for name in MESSAGES if " " not in name),
    *(f"{name} by {peer}" for name in COMPARED for peer in PEERS),
    *(f"json encode by {peer}" for peer in PEERS if peer != "pyarrow"),  # which writes no JSON
)

ORDER = pa.schema(
    [
        ("order_id", pa.int64()),
        ("customer_id", pa.int64()),
        ("sku", pa.string()),
        ("qty", pa.int32()),
        ("price", pa.decimal128(10, 2)),
        ("currency", pa.string()),
        ("status", pa.string()),
        ("created", pa.timestamp("ms")),
        ("paid", pa.bool_()),
    ]
)
BID = pa.struct([("auction", pa.int64()), ("bidder", pa.int64()), ("price", pa.int64()), ("extra", pa.string())])
Q0 = pa.schema([("event_type", pa.int32()), ("bid", BID), ("dateTime", pa.timestamp("ms"))])


def nexmark_events() -> list[bytes]:
    """Nexmark's events as their topic holds them."""
    from forebay.connectors.nexmark_events import SCHEMA as EVENTS
    from forebay.connectors.nexmark_events import Generator, NexmarkConfig

    encoder = default_registry().format("json").encoder
    assert encoder is not None
    events = Batch(Generator(NexmarkConfig(seed=0), EVENTS)(0, BATCH))
    values: list[bytes] = encoder(EVENTS, {}).encode(events).to_pylist()
    return values


def values_of(name: str) -> list[bytes]:
    """The records of a case."""
    if name == NEXMARK:
        return nexmark_events()
    made = [MESSAGES[name](i) for i in range(BATCH)]
    return [(m if isinstance(m, str) else json.dumps(m, separators=(",", ":"))).encode() for m in made]


def peer_work(name: str, peer: str) -> Callable[[], Any]:
    """One round of another library on the bytes of a case."""
    values = values_of(name)
    if peer == "orjson":
        import orjson

        return lambda: [orjson.loads(v) for v in values]
    text, image = b"\n".join(values), pa.struct(list(SCHEMA))
    change = {"debezium-json": ("before", "after", "op"), "canal-json": ("data", "old", "type")}.get(name)
    schema = {"json orders": ORDER, NEXMARK: Q0}.get(name)
    if change is not None:
        if name == "canal-json":  # all its values are text
            image = pa.list_(pa.struct([(f.name, pa.string()) for f in SCHEMA]))
        schema = pa.schema([(change[0], image), (change[1], image), (change[2], pa.string())])
    assert schema is not None
    if peer == "pyarrow":
        import pyarrow.json as pj

        parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        read = pj.ReadOptions(use_threads=False, block_size=len(text) + 1)
        return lambda: pj.read_json(pa.BufferReader(text), read, parse)
    if peer == "polars":
        import polars as pl

        fields = [
            f.with_type(pa.string()) if pa.types.is_decimal(f.type) else f for f in schema
        ]  # it reads none from text
        empty = pl.from_arrow(pa.Table.from_batches([], pa.schema(fields)))
        assert isinstance(empty, pl.DataFrame)
        columns = empty.schema
        return lambda: pl.read_ndjson(text, schema=columns)
    return duckdb_work(text, schema)


def duckdb_work(text: bytes, schema: pa.Schema) -> Callable[[], Any]:
    """DuckDB reads files only: one in memory."""
    import tempfile

    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    empty = pa.Table.from_batches([], schema)  # noqa: F841 - DuckDB finds it by name
    types = connection.execute("DESCRIBE SELECT * FROM empty").fetchall()
    columns = ", ".join(f"'{name}': '{type_}'" for name, type_, *_ in types)
    with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".json", delete=False) as file:
        file.write(text)
    query = f"SELECT * FROM read_json('{file.name}', format = 'newline_delimited', columns = {{{columns}}})"
    return lambda: connection.execute(query).to_arrow_table()


def rows() -> pa.RecordBatch:
    """The rows that are written."""
    columns = [pa.array([row(i)[f.name] for i in range(BATCH)]).cast(f.type) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def orjson_dumps() -> Callable[[], Any]:
    """Rows as dicts with times as text, without the cost of making them."""
    import orjson

    listed = [row(i) for i in range(BATCH)]
    return lambda: [orjson.dumps(r) for r in listed]


def polars_ndjson() -> Callable[[], Any]:
    """A frame to lines in memory."""
    import polars as pl

    frame = pl.from_arrow(rows())
    assert isinstance(frame, pl.DataFrame)
    return lambda: frame.write_ndjson(io.BytesIO())


def duckdb_to_json() -> Callable[[], Any]:
    """A table of Arrow to a column of JSON in Arrow."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("batch", pa.Table.from_batches([rows()]))
    return lambda: connection.execute("SELECT to_json(batch) FROM batch").to_arrow_table()


WRITERS = {"orjson": orjson_dumps, "polars": polars_ndjson, "duckdb": duckdb_to_json}


def work_of(case: str) -> Callable[[], Any]:
    """One round of a case: a batch decoded or encoded."""
    of, _, peer = case.partition(" by ")
    if peer:
        return WRITERS[peer]() if of == "json encode" else peer_work(of, peer)
    name, _, variant = case.partition(" ")
    name = name.rstrip(",")
    format_ = default_registry().format(name)
    options = {o.name: o.default for o in format_.options if o.default is not None}
    if variant == "encode":
        assert format_.encoder is not None
        batch = Batch(rows())
        encoder = format_.encoder(SCHEMA, options)
        return lambda: encoder.encode(batch)
    values = values_of(case if case in (*MESSAGES, NEXMARK) else name)
    if variant.endswith("bad"):
        values[::100] = [v[:-5] for v in values[::100]]
    assert format_.decoder is not None
    schemas = {"envelope": pa.schema(list(ENVELOPE.items())), "orders": ORDER, NEXMARK.partition(" ")[2]: Q0}
    schema = schemas.get(variant, SCHEMA)
    decoder = format_.decoder(schema, options | ({"envelope": "true"} if variant == "envelope" else {}))
    records = Records(pa.array(values, pa.binary()), "bench", np.zeros(BATCH, np.int32), np.arange(BATCH))
    return lambda: decoder.decode(records)


def run_case(case: str, records: int) -> dict[str, Any]:
    """Measure one case in this process."""
    work = work_of(case)
    best = float("inf")

    def rounds() -> None:
        nonlocal best
        ends = time.process_time() + 10
        for done in range(max(3, records // BATCH)):
            started = time.process_time()
            if started > ends and done >= 3:
                break
            work()
            best = min(best, time.process_time() - started)

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


def whole(args: argparse.Namespace, argv: list[str]) -> int:
    """Run the cases; returns 1 if one failed."""
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


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return measure.main(parser(), argv, lambda args: run_case(args.case, args.records), whole)


if __name__ == "__main__":
    sys.exit(main())
