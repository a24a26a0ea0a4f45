"""A warehouse that bootstraps in small steps, for tests to kill: `-m tests.bootstrap.victim ROOT PLACE TURN`.

ROOT has the histories, and the warehouse in `w`. It kills itself at the given turn of a kill point; where it does not come to
that, or with PLACE `end`, it prints its views and sinks once all that there is has been read.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import forebay
from forebay.connection import Connection
from forebay.engine.files import set_kill_hook
from forebay.engine.runtime import bootstrap
from forebay.engine.state import bulk
from tests.bootstrap.orders import settled, wait_for
from tests.bootstrap.test_bootstrap import start

Rows = list[tuple[Any, ...]]
NAMES = ["filtered", "joined", "joined_grouped"]


def small_steps() -> None:
    """Histories of some hundred rows are read in many pieces, and written in all parts."""
    bootstrap.READ_ROWS = 24
    bulk.RUN_BATCHES = 2
    bulk.RANGE_ROWS = 16


def main(root: Path, place: str, turn: int) -> None:
    left = turn

    def die(name: str) -> None:
        nonlocal left
        if name == place:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    set_kill_hook(die)
    for rows in views(root):
        print(rows)


def views(root: Path) -> list[Rows]:
    """Bootstrap, and tell what views and sinks show once all that there is has been read."""
    small_steps()
    with forebay.connect(root / "w", resume=False, attach=False) as con:
        con.execute("SET 'execution.checkpointing.interval' = '100 ms'")
        if not con.sql("SHOW TABLES").fetchall():
            start(con, root, "state-only", NAMES)
        con.resume()
        wait_for(lambda: settled(con))
        wait_for(lambda: quiet(con))
        shown = [view for name in NAMES for view in (name, f"{name}_shown")]
        return [sorted(con.sql(f"SELECT * FROM {view}").fetchall(), key=repr) for view in shown]


def quiet(con: Connection) -> bool:
    """Nothing has come for a while."""
    before = [con.sql(f"SELECT * FROM {name}_shown").arrow().num_rows for name in NAMES]
    con.checkpoint(30)
    time.sleep(0.3)
    return before == [con.sql(f"SELECT * FROM {name}_shown").arrow().num_rows for name in NAMES]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
