"""Jobs into Kafka that are altered, for tests to kill: `-m tests.kafka.alter_victim WAREHOUSE BROKERS PREFIX PLACE TURN`.

It kills itself at the given turn of a kill point within one of its two ALTERs; the next process alters what was not, writes more
and ends.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import forebay
from forebay.connection import Connection
from forebay.engine.files import set_kill_hook

TABLES = """
SET 'execution.checkpointing.interval' = '200 ms';
CREATE TABLE orders (id BIGINT, shop STRING, amount BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'upsert-log',
  'topic' = 'orders', 'key.format' = 'json', 'value.format' = 'json');
CREATE TABLE refunds (order_id BIGINT, part BIGINT) WITH ('connector' = 'log', 'topic' = 'refunds', 'format' = 'json',
  'scan.startup.mode' = 'earliest-offset');
CREATE TABLE by_shop (shop STRING, a BIGINT, b BIGINT, PRIMARY KEY (shop) NOT ENFORCED) WITH ('connector' = 'upsert-kafka',
  'topic' = '{1}by-shop', 'properties.bootstrap.servers' = '{0}', 'key.format' = 'json', 'value.format' = 'json',
  'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '{1}by-shop');
CREATE TABLE lines (id BIGINT, part BIGINT) WITH ('connector' = 'kafka', 'topic' = '{1}lines', 'format' = 'json',
  'properties.bootstrap.servers' = '{0}', 'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = '{1}lines');
CREATE TABLE done (step STRING, PRIMARY KEY (step) NOT ENFORCED);
INSERT INTO orders VALUES (1, 'x', 10), (2, 'x', 20), (3, 'y', 5), (4, 'z', 1);
INSERT INTO refunds VALUES (1, 3), (1, 4), (3, 5);
INSERT INTO by_shop SELECT o.shop, SUM(r.part), 0 FROM orders o JOIN refunds r ON r.order_id = o.id GROUP BY o.shop;
INSERT INTO lines SELECT order_id, part FROM refunds;
INSERT INTO done VALUES ('made');
"""
ALTERS = {
    "insert_into_by_shop": "INSERT INTO by_shop SELECT o.shop, SUM(r.part), MAX(o.amount) "
    "FROM orders o JOIN refunds r ON r.order_id = o.id GROUP BY o.shop",
    "insert_into_lines": "INSERT INTO lines SELECT order_id, part * 100 FROM refunds",
}


def committed(con: Connection) -> None:
    """Everything read, and seen in the topics."""
    driver = con.warehouse.driver
    assert driver.wait(lambda: all(job.metrics()["lag"] == 0 for job in con.jobs.values()), 60)
    assert con.checkpoint(60)
    assert con.checkpoint(60)


def main(root: Path, brokers: str, prefix: str, place: str, turn: int) -> None:
    left = turn

    def die(name: str) -> None:
        nonlocal left
        left -= name == place
        if name == place and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with forebay.connect(root, attach=False) as con:
        if not con.sql("SHOW TABLES").fetchall():
            con.execute(TABLES.format(brokers, prefix))
            committed(con)
        set_kill_hook(die)
        for job, statement in ALTERS.items():
            if con.jobs[job].sql != statement:
                con.execute(f"ALTER JOB {job} AS {statement}")
        set_kill_hook(None)
        if ("more",) not in con.sql("SELECT * FROM done").fetchall():
            con.execute("INSERT INTO done VALUES ('more'); INSERT INTO refunds VALUES (4, 1), (2, 2)")
        committed(con)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
