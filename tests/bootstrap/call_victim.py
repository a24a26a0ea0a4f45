"""A warehouse that gets histories for running jobs, for tests to kill: `-m tests.bootstrap.call_victim ROOT PLACE TURN`.

As `victim`, but the jobs run first, the histories come by CALL, while records keep coming. With PLACE `end` it prints its views
and sinks once all that there is has been read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import forebay
from forebay.engine.files import set_kill_hook
from tests.bootstrap.orders import quiet, settled, wait_for
from tests.bootstrap.test_bootstrap import start
from tests.bootstrap.test_call import calls, plain
from tests.bootstrap.victim import small_steps
from tests.dying import dies_at

NAMES = ["joined", "joined_grouped", "anti"]
PAIRS = """
CREATE TABLE pairs (refund_id BIGINT, order_id BIGINT) WITH ('connector' = 'log', 'topic' = 'pairs', 'format' = 'json',
  'sink.delivery-guarantee' = 'exactly-once');
INSERT INTO pairs SELECT a.refund_id, b.order_id FROM refunds a JOIN refunds b ON a.refund_id = b.refund_id;
"""
"""Appends: what is written twice shows."""
SHOWN = [*NAMES, *(f"{name}_shown" for name in NAMES), "pairs /*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */"]


def main(root: Path, place: str, turn: int) -> None:
    small_steps()
    with forebay.connect(root / "w", attach=False) as con:
        if "pairs" not in {row[0] for row in con.sql("SHOW TABLES").fetchall()}:
            con.execute("SET 'execution.checkpointing.interval' = '100 ms'")
            con.execute(plain(root))
            start(con, root, "state-only", NAMES, made=True)
            con.execute(PAIRS)
            wait_for(lambda: settled(con))
        set_kill_hook(dies_at(place, turn))
        for call in calls(root, "replay"):
            table = "orders" if "orders" in call else "refunds"
            wait_for(lambda: not con.catalog.loading)
            if "bootstrap.path" not in con.sql(f"SHOW CREATE TABLE {table}").fetchall()[0][0]:
                con.execute(call)
        wait_for(lambda: settled(con))
        wait_for(lambda: quiet(con, SHOWN))
        set_kill_hook(None)
        for name in SHOWN:
            print(sorted(con.sql(f"SELECT * FROM {name}").fetchall(), key=repr))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
