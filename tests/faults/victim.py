"""The process that the fault tests kill: `-m tests.faults.victim DIRECTORY BOOTSTRAP PLACE TURN`.

Orders (change data with a key) ⟕ refunds, from four partitions each, into Kafka exactly once as a changelog; refunds into files
exactly once; and inserts into an embedded table, each acknowledged on standard output. It kills itself at the given turn of a
kill point. With PLACE `-` it lives until it is killed; with `end` it ends when all input is read and committed.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import forebay
from forebay.engine.files import set_kill_hook
from tests.dying import dies_at

TABLES = """
SET 'execution.checkpointing.interval' = '200 ms';
CREATE TABLE IF NOT EXISTS orders (id BIGINT, amount BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'kafka',
  'topic' = 'orders', {servers}, 'format' = 'debezium-json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE IF NOT EXISTS refunds (id BIGINT, order_id BIGINT, amount BIGINT) WITH ('connector' = 'kafka', 'topic' = 'refunds',
  {servers}, 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE IF NOT EXISTS wide (id BIGINT, amount BIGINT, refund BIGINT, refunded BIGINT) WITH ('connector' = 'kafka',
  'topic' = 'wide', {servers}, 'format' = 'debezium-json', 'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = 'wide');
CREATE TABLE IF NOT EXISTS files (id BIGINT, amount BIGINT) WITH ('connector' = 'filesystem', 'path' = '{files}',
  'format' = 'json');
CREATE TABLE IF NOT EXISTS notes (n BIGINT);
"""
INSERTS = (
    "INSERT INTO wide SELECT o.id, o.amount, r.id, r.amount FROM orders o LEFT JOIN refunds r ON r.order_id = o.id",
    "INSERT INTO files SELECT id, amount FROM refunds",
)


def main(directory: str, bootstrap: str, place: str, turn: str) -> None:
    set_kill_hook(dies_at(place, int(turn)))
    with forebay.connect(f"{directory}/warehouse") as con:
        servers = f"'properties.bootstrap.servers' = '{bootstrap}'"
        con.execute(TABLES.replace("{servers}", servers).replace("{files}", f"{directory}/files"))
        for insert in INSERTS[len(con.jobs) :]:  # an earlier life may have died among these statements
            con.execute(insert)
        print("ready", flush=True)
        if place == "end":
            finish(con)
            return
        note(con)


def note(con: forebay.Connection) -> None:
    """Insert and acknowledge, until the end."""
    n = con.sql("SELECT COALESCE(MAX(n), 0) FROM notes").fetchall()[0][0]
    while True:
        n += 1
        con.execute(f"INSERT INTO notes VALUES ({n})")
        print(f"ack {n}", flush=True)  # in one write: it may die at any instant
        time.sleep(0.02)


def finish(con: forebay.Connection) -> None:
    """Read everything, commit it everywhere, and show the notes."""
    quiet = 0
    while quiet < 5:
        metrics = [con.jobs[name].metrics() for name in con.jobs]
        quiet = quiet + 1 if all(m["lag"] == 0 for m in metrics) else 0
        time.sleep(0.1)
    for name in con.jobs:
        if con.jobs[name].status != "RUNNING":
            raise SystemExit(f"{name} is {con.jobs[name].status}: {con.jobs[name].metrics()['error']}")
    if not con.warehouse.driver.checkpoint_now(60):
        raise SystemExit("the sinks did not commit within a minute")
    print("notes", *sorted(n for (n,) in con.sql("SELECT n FROM notes").fetchall()), flush=True)


if __name__ == "__main__":
    threading.excepthook = lambda args: os._exit(3)
    main(*sys.argv[1:])
