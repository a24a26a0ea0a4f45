"""A warehouse all of whose rows are sealed at once, for tests to kill: `-m tests.durable.cold_victim DIRECTORY PLACE TURN`.

It inserts, updates and deletes orders and refunds under views that join and group them, and prints each statement once it is
acknowledged. It kills itself at the given turn of a kill point; with PLACE `end` it prints the orders and the views instead.
"""

from __future__ import annotations

import os
import signal
import sys

import forebay
from forebay.engine.files import set_kill_hook
from forebay.engine.runtime.budget import Budget
from forebay.engine.state import cold, groups
from tests.oracle.test_sealed import seal_all

TABLES = """
SET 'execution.checkpointing.interval' = '100 ms';
CREATE TABLE orders (id BIGINT, v BIGINT, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, w BIGINT);
CREATE MATERIALIZED VIEW wide AS SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
CREATE MATERIALIZED VIEW sums AS SELECT v, COUNT(*) AS n, MIN(id) AS least, COUNT(DISTINCT id % 3) AS d FROM orders GROUP BY v;
"""


def main(directory: str, place: str, turn: str) -> None:
    left = int(turn)

    def die(name: str) -> None:
        nonlocal left
        if name == place:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    Budget.keep = seal_all  # type: ignore[method-assign]
    cold.FAN = 3
    groups.LEAST = 0
    set_kill_hook(die)
    with forebay.connect(directory) as con:
        if not con.sql("SHOW TABLES").fetchall():
            con.execute(TABLES)
        if place == "end":
            print(sorted(con.sql("SELECT * FROM orders").fetchall()))
            print(sorted(con.sql("SELECT * FROM wide").fetchall(), key=repr))
            print(sorted(con.sql(WIDE).fetchall(), key=repr))
            print(sorted(con.sql("SELECT * FROM sums").fetchall()))
            print(sorted(con.sql(SUMS).fetchall()))
            return
        n = (
            con.sql("SELECT COALESCE(MAX(id), 1) FROM orders").fetchall()[0][0] - 1
        )  # a round that was cut off is done again
        while True:
            n += 1
            for statement in (
                f"INSERT INTO orders VALUES ({n}, 0)",
                f"INSERT INTO refunds VALUES ({n // 2}, {n})",
                f"UPDATE orders SET v = {n} WHERE id = {n // 3}",
                f"DELETE FROM orders WHERE id = {n // 5 * 2 - 1}",
            ):
                con.execute(statement)
            print(f"ack {n}", flush=True)


SUMS = "SELECT v, COUNT(*), MIN(id), COUNT(DISTINCT id % 3) FROM orders GROUP BY v"
WIDE = "SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id"

if __name__ == "__main__":
    main(*sys.argv[1:])
