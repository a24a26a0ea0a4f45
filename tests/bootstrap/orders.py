"""Orders and refunds with a history in Parquet and a stream in topics, and what jobs over them must give.

The writer makes random orders; the history is what there was at T. The stream has records from before T on, so that it overlaps
with the history: those before T must not be read, and those after it that the history has too must change nothing.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forebay.connection import Connection
from forebay.connectors.topiclog import open_store
from forebay.connectors.topiclog.frames import PLAIN

T = datetime(2026, 11, 1, tzinfo=UTC)
ORDERS = pa.schema(
    [
        ("order_id", pa.int64()),
        ("user_id", pa.int64()),
        ("amount", pa.int64()),
        ("note", pa.string()),
        ("updated", pa.timestamp("ms")),
    ]
)
REFUNDS = pa.schema([("refund_id", pa.int64()), ("order_id", pa.int64()), ("refunded", pa.timestamp("ms"))])
Order = tuple[int, int | None, int, str | None, datetime]
Refund = tuple[int, int, datetime]

QUERIES = {
    "filtered": ("SELECT order_id, amount FROM orders WHERE MOD(order_id, 3) = 1", 1),
    "joined": (
        "SELECT o.order_id, COALESCE(r.refund_id, -1) AS refund, o.user_id, o.note FROM orders o "
        "LEFT JOIN refunds r ON o.order_id = r.order_id",
        2,
    ),
    "by_user": (
        "SELECT a.order_id, b.order_id AS other, a.amount FROM orders a JOIN orders b ON a.user_id = b.user_id "
        "WHERE a.order_id < b.order_id",
        2,
    ),
    "grouped": (
        "SELECT COALESCE(user_id, -1) AS u, COUNT(*) AS n, SUM(amount) AS total FROM orders GROUP BY COALESCE(user_id, -1)",
        1,
    ),
    "joined_grouped": (
        "SELECT COALESCE(o.user_id, -1) AS u, COUNT(r.refund_id) AS n, MAX(o.amount) AS top FROM orders o "
        "LEFT JOIN refunds r ON o.order_id = r.order_id GROUP BY COALESCE(o.user_id, -1)",
        1,
    ),
    "anti": (
        "SELECT order_id FROM orders o WHERE NOT EXISTS (SELECT 1 FROM refunds r WHERE r.order_id = o.order_id)",
        1,
    ),
}
"""Queries, and how many of their first columns are a key of the result."""


def wait_for(done: Callable[[], Any], seconds: float = 300) -> None:
    """Until `done()` is true."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


class World:
    """Random orders and refunds; `orders` and `refunds` are what is there now."""

    def __init__(self, seed: int, root: Path) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.now = T - timedelta(days=4)
        self.orders: dict[int, Order] = {}
        self.refunds: list[Refund] = []
        self.history: list[Order] = []
        """Every version of each order before T."""
        self.old_refunds: list[Refund] = []
        self.writes: list[tuple[str, Any]] = []
        """Records of the stream, in order: order, delete (with the row that goes), refund."""
        self.round = 0

    def live(self, changes: int) -> None:
        """Random changes; from T on all go to the stream, the last ones before T too."""
        for _ in range(changes):
            self.now += timedelta(minutes=self.rng.randrange(1, 40))
            pick = self.rng.random()
            if pick < 0.1 and self.orders and self.now >= T:
                gone = self.orders.pop(self.rng.choice(list(self.orders)))
                self._record("delete", (*gone[:-1], self.now))
            elif pick < 0.3 and self.orders:
                refund = (len(self.refunds), self.rng.choice(list(self.orders)), self.now)
                self.refunds.append(refund)
                self._record("refund", refund)
            else:
                known = self.orders and pick < 0.55
                number = self.rng.choice(list(self.orders)) if known else self.rng.randrange(10**9)
                user = None if self.rng.random() < 0.05 else self.rng.randrange(7)
                note = None if self.rng.random() < 0.2 else f"note {self.rng.randrange(5)}"
                self.orders[number] = (number, user, self.rng.randrange(100), note, self.now)
                self._record("order", self.orders[number])

    def _record(self, kind: str, row: Any) -> None:
        if self.now < T:
            (self.old_refunds if kind == "refund" else self.history).append(row)
        if self.now >= T - timedelta(hours=6):
            self.writes.append((kind, row))

    def overlap(self, orders: int) -> None:
        """Write the history after T has passed: it has some of the stream's first orders, too."""
        late = [row for kind, row in self.writes if kind == "order" and row[4] >= T]
        self.history += late[:orders]

    def save(self) -> None:
        """The history as Parquet files, a directory a day; T's own day and later ones are there for the pruning to see."""
        for name, schema, rows in (("orders", ORDERS, self.history), ("refunds", REFUNDS, self.old_refunds)):
            days: dict[str, list[Any]] = {}
            for row in rows:
                days.setdefault(f"{min(row[-1], T - timedelta(seconds=1)):%Y-%m-%d}", []).append(row)
            for day, part in days.items():
                write(self.root / name / f"dt={day}" / "part-0.parquet", schema, part)
            write(self.root / name / f"dt={T:%Y-%m-%d}" / "part-0.parquet", schema, [])

    def past(self, kind: str) -> tuple[pa.Schema, list[Any]]:
        """What the history alone amounts to."""
        newest = {row[0]: row for row in sorted(self.history, key=lambda row: row[-1])}
        return (ORDERS, list(newest.values())) if kind == "orders" else (REFUNDS, self.old_refunds)

    def table(self, kind: str) -> tuple[pa.Schema, list[Any]]:
        """What is there now."""
        return (ORDERS, list(self.orders.values())) if kind == "orders" else (REFUNDS, self.refunds)


def write(path: Path, schema: pa.Schema, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_of(schema, rows), path, row_group_size=40)


def rows_of(schema: pa.Schema, rows: Sequence[Any]) -> pa.Table:
    plain = [[v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in row] for row in rows]
    columns = list(zip(*plain)) if plain else [[] for _ in schema]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema)


def tables(root: Path, mode: str, connector: str = "log", options: str = "", prefix: str = "") -> str:
    """DDL of the two tables. `options`: of the connector, each with a comma before it; `prefix`: of the topics' names."""
    history = (
        f"'bootstrap.until' = '{T:%Y-%m-%d %H:%M:%S}', 'bootstrap.partition-keys' = 'dt', 'bootstrap.mode' = '{mode}'"
    )
    return f"""
    CREATE TABLE orders (order_id BIGINT, user_id BIGINT, amount BIGINT, note STRING, updated TIMESTAMP(3),
      PRIMARY KEY (order_id) NOT ENFORCED) WITH (
      'connector' = 'upsert-{connector}', 'topic' = '{prefix}orders', 'key.format' = 'json', 'value.format' = 'json',
      'bootstrap.path' = '{root}/orders', 'bootstrap.version' = 'updated', {history} {options});
    CREATE TABLE refunds (refund_id BIGINT, order_id BIGINT, refunded TIMESTAMP(3)) WITH (
      'connector' = '{connector}', 'topic' = '{prefix}refunds', 'format' = 'json',
      'bootstrap.path' = '{root}/refunds', 'bootstrap.time-column' = 'refunded', {history} {options});
    """


def records(writes: Sequence[tuple[str, Any]]) -> list[tuple[str, bytes | None, bytes | None, int]]:
    """(topic, key, value, timestamp in ms) of each write."""
    found = []
    for kind, row in writes:
        when = f"{row[-1]:%Y-%m-%d %H:%M:%S}"
        at = int(row[-1].timestamp() * 1000)
        if kind == "refund":
            value: dict[str, Any] = dict(zip(REFUNDS.names, (*row[:-1], when)))
            found.append(("refunds", None, json.dumps(value).encode(), at))
            continue
        key = json.dumps({"order_id": row[0]}).encode()
        value = dict(zip(ORDERS.names, (*row[:-1], when)))
        found.append(("orders", key, None if kind == "delete" else json.dumps(value).encode(), at))
    return found


def append(warehouse: Path, writes: Sequence[tuple[str, Any]]) -> None:
    """Write to the topics of the embedded log."""
    store = open_store(str(warehouse))
    for topic in ("orders", "refunds"):
        store.create(topic, 1)
        mine = [r for r in records(writes) if r[0] == topic]
        if mine:
            columns = [[r[3] for r in mine], [r[1] for r in mine], [r[2] for r in mine]]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, PLAIN)]
            store.append({(topic, 0): pa.RecordBatch.from_arrays(arrays, schema=PLAIN)})


def quiet(con: Connection, relations: Sequence[str]) -> bool:
    """Nothing has come for a while."""
    before = [con.sql(f"SELECT * FROM {name}").arrow().num_rows for name in relations]
    con.checkpoint(30)
    time.sleep(0.3)
    return before == [con.sql(f"SELECT * FROM {name}").arrow().num_rows for name in relations]


def settled(con: Connection) -> bool:
    """All jobs run, and have read all that there is."""
    jobs = con.sql("SHOW JOBS").arrow().to_pylist()
    failed = [job for job in jobs if job["status"] == "FAILED"]
    assert not failed, failed
    return all(job["status"] == "RUNNING" and not job["lag"] for job in jobs)


def expected(con: Connection, world: World, query: str, *, past: bool = False) -> list[tuple[Any, ...]]:
    """The batch answer over what is there now, or over the history alone."""
    for kind in ("orders", "refunds"):
        schema, rows = world.past(kind) if past else world.table(kind)
        name = f"{kind}_{'past' if past else 'all'}"
        con.register(f"{name}_{world.round}", rows_of(schema, rows))
        query = re.sub(rf"\b(FROM|JOIN) {kind}\b", rf"\1 {name}_{world.round}", query)
    world.round += 1
    return con.sql(query).fetchall()
