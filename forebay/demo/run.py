"""The demo's play: start the jobs, feed the topics while they run, wait until everything is shown, check, and report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa

from forebay.connection import Connection
from forebay.demo.events import Company
from forebay.engine.errors import ForebayError
from forebay.result import Result

TOPICS = ("binlog", "clicks", "ods_food_shops", "ods_food_orders", "ods_food_refunds", "ods_log_clicks", "wide")
_CHUNKS = 12
_PATIENCE = 180.0
"""Seconds without any progress before the demo gives up."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many of it, and of how many."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo found."""

    events: int
    seconds: float
    tables: tuple[tuple[str, Result], ...]
    """Titles and rows to show."""
    differences: tuple[str, ...]
    """Where the result differs from the batch recomputation: nothing, or the demo has failed."""


def run(directory: Path, orders: int, progress: Progress, bootstrap: str | None = None) -> Report:
    """Play it in a warehouse at `directory`.

    Raises:
        ForebayError: a job failed, or nothing moves any more.
    """
    company = Company(orders)
    if bootstrap:
        _create_topics(bootstrap)
    with Connection(directory / "warehouse", config={"execution.checkpointing.interval": "1 s"}) as con:
        con.execute(_script(bootstrap, directory / "files"))
        started = time.monotonic()
        _feed(con, company, progress)
        expected = company.metrics()
        _wait(con, expected, progress)
        seconds = time.monotonic() - started
        _batch(con, "INSERT INTO wide_files SELECT id, shop, amount, ordered, refunded, city FROM wide")
        differences = tuple(_differences(con, company, expected))
        return Report(company.events + orders, seconds, tuple(_shown(con, expected)), differences)


def _script(bootstrap: str | None, out: Path) -> str:
    text = Template((files("forebay.demo") / "warehouse.sql").read_text())
    once = "'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'demo'"
    if bootstrap is None:
        return text.substitute(log="'connector' = 'log'", upsert="'connector' = 'upsert-log'", once=once, files=out)
    servers = f"'properties.bootstrap.servers' = '{bootstrap}'"
    kafka, upsert = f"'connector' = 'kafka', {servers}", f"'connector' = 'upsert-kafka', {servers}"
    return text.substitute(log=kafka, upsert=upsert, once=once, files=out)


def _create_topics(bootstrap: str) -> None:
    """Topics anew: what an earlier run left there would be part of the result."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap})
    present = [t for t in TOPICS if t in admin.list_topics(timeout=10).topics]
    for gone in admin.delete_topics(present).values() if present else ():
        gone.result()
    deadline = time.monotonic() + 30
    while set(TOPICS) & set(admin.list_topics(timeout=10).topics) and time.monotonic() < deadline:
        time.sleep(0.2)
    for made in admin.create_topics([NewTopic(t, 2 if t in ("clicks",) else 1, 1) for t in TOPICS]).values():
        made.result()


def _feed(con: Connection, company: Company, progress: Progress) -> None:
    """Write the messages in chunks, while the jobs run."""
    messages = list(company.messages())
    size = -(-len(messages) // _CHUNKS)
    for at in range(0, len(messages), size):
        chunk = messages[at : at + size]
        for topic in ("binlog", "clicks"):
            con.register(f"{topic}_chunk", pa.table({"message": [m for t, m in chunk if t == topic]}))
            _batch(con, f"INSERT INTO {topic}_in SELECT message FROM {topic}_chunk")
        progress("events written", min(at + size, len(messages)), len(messages))


def _batch(con: Connection, insert: str) -> None:
    con.execute(f"SET 'execution.runtime-mode' = 'batch'; {insert}; RESET 'execution.runtime-mode'")


def _wait(con: Connection, expected: dict[Any, Any], progress: Progress) -> None:
    """Until the metrics hold every order and every refund."""
    wanted = [sum(m[i] for m in expected.values()) for i in range(3)]
    last, moved = None, time.monotonic()
    while True:
        query = "SELECT COALESCE(SUM(orders), 0), COALESCE(SUM(amount), 0), COALESCE(SUM(refunded), 0) FROM city_minute"
        shown = list(con.sql(query).fetchall()[0])
        progress("orders in the metrics", min(int(shown[0]), wanted[0]), wanted[0])
        for job in con.jobs.values():
            if job.status == "FAILED":
                raise ForebayError(f"job {job.name} failed", detail=str(job.error))
        if shown == wanted:
            return
        if shown != last:
            last, moved = shown, time.monotonic()
        if time.monotonic() - moved > _PATIENCE:
            raise ForebayError("nothing moves any more", detail=f"the metrics show {shown}, {wanted} are expected")
        time.sleep(0.1)


def _differences(
    con: Connection, company: Company, expected: dict[tuple[str, str], tuple[int, Decimal, Decimal]]
) -> Iterator[str]:
    """Where the views and files differ from what the generator's own tables give."""
    shown = {
        (city, minute): (n, amount, back) for city, minute, n, amount, back in _rows(con, "SELECT * FROM city_minute")
    }
    if shown != expected:
        wrong = sum(shown.get(k) != v for k, v in expected.items()) + len(shown.keys() - expected.keys())
        yield f"city_minute: {wrong} of {len(expected)} rows are wrong"
    orders = company.tables["orders"]
    wide = {row[0]: row[1:] for row in _rows(con, "SELECT id, CAST(amount AS STRING), status FROM wide")}
    if wide != {i: (o["amount"], o["status"]) for i, o in orders.items()}:
        yield f"wide: {len(wide)} rows are not the {len(orders)} orders"
    counts = _rows(con, "SELECT COUNT(*), SUM(amount) FROM wide_files")
    if counts != [(len(orders), sum(Decimal(o["amount"]) for o in orders.values()))]:
        yield f"wide_files: {counts} instead of {len(orders)} orders"
    key, values = next(iter(expected.items()))
    found = con.lookup("city_minute", key)
    if found is None or (found["orders"], found["amount"], found["refunded"]) != values:
        yield f"lookup of {key}: {found}"


def _shown(con: Connection, expected: dict[tuple[str, str], Any]) -> Iterator[tuple[str, Result]]:
    cities = """
    SELECT city, SUM(orders) AS orders, SUM(amount) AS amount, SUM(refunded) AS refunded FROM city_minute
    GROUP BY city ORDER BY city
    """
    yield "Metrics by city, from the per-minute view", con.sql(cities)
    yield "Best shops, refreshed every 2 s", con.sql("SELECT * FROM best_shops ORDER BY city, place LIMIT 6")
    city, minute = next(iter(expected))
    row = con.lookup("city_minute", (city, minute)) or {}
    yield f"lookup('city_minute', ('{city}', '{minute}'))", Result(pa.Table.from_pylist([row]))
    files_query = (
        "SELECT city, COUNT(*) AS orders, SUM(refunded) AS refunded FROM wide_files GROUP BY city ORDER BY city LIMIT 3"
    )
    yield "Parquet files, queried in place", con.sql(files_query)
    yield "Jobs", con.execute("SHOW JOBS")


def _rows(con: Connection, sql: str) -> list[tuple[Any, ...]]:
    return con.sql(sql).fetchall()


def bootstrap_servers() -> str | None:
    """Kafka, if the environment names one."""
    return os.environ.get("KAFKA_BOOTSTRAP") or None
