"""A process that owns a warehouse: `python -m tests.attach.owner PATH`.

It says "ready", answers the command "aside" with the jobs that are in no catalog (streams and queries), and closes the
warehouse at the end of its input.
"""

from __future__ import annotations

import sys

import pyarrow as pa
import pyarrow.compute as pc

import forebay

SETUP = """
CREATE TABLE orders (id INT, shop STRING, amount DECIMAL(10, 2), tags MAP<STRING, INT>, at_ TIMESTAMP(3),
  PRIMARY KEY (id) NOT ENFORCED);
CREATE MATERIALIZED VIEW shops AS SELECT shop, COUNT(*) AS n, SUM(amount) AS total FROM orders GROUP BY shop;
CREATE TABLE ticks (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '200');
CREATE TABLE slow (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '10', 'number-of-rows' = '100000');
CREATE TABLE nowhere (n BIGINT) WITH ('connector' = 'blackhole');
"""


@forebay.udf(["STRING"], "STRING")
def shout(words: pa.Array) -> pa.Array:
    return pc.utf8_upper(words)


@forebay.udf(["INT"], "INT")
def fails(numbers: pa.Array) -> pa.Array:
    raise ValueError("no luck")


def main(path: str) -> None:
    with forebay.connect(path, attach=False, config={"execution.checkpointing.interval": "1 s"}) as con:
        if not con.sql("SHOW TABLES").fetchall():
            con.execute(SETUP)
        con.create_function(shout)
        con.create_function(fails)
        print("ready", flush=True)
        for _ in sys.stdin:
            aside = set(con.warehouse.driver.jobs) - set(con.jobs)
            print(*sorted(aside), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
