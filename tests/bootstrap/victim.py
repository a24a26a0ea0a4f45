"""A warehouse that bootstraps in small steps, for tests to kill: `-m tests.bootstrap.victim ROOT PLACE TURN`.

ROOT has the histories, and the warehouse in `w`. It kills itself at the given turn of a kill point; where it does not come to
that, or with PLACE `end`, it prints its views and sinks once all that there is has been read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import forebay
from forebay.engine.files import set_kill_hook
from forebay.engine.runtime import bootstrap
from forebay.engine.state import bulk
from tests.bootstrap.orders import quiet, settled, wait_for
from tests.bootstrap.test_bootstrap import start
from tests.dying import dies_at

Rows = list[tuple[Any, ...]]
NAMES = ["filtered", "joined", "joined_grouped"]


def small_steps() -> None:
    """Histories of some hundred rows are read in many pieces, and written in all parts."""
    bootstrap.READ_ROWS = 24
    bulk.RUN_BATCHES = 2
    bulk.RANGE_ROWS = 16


def main(root: Path, place: str, turn: int) -> None:
    set_kill_hook(dies_at(place, turn))
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
        wait_for(lambda: quiet(con, [f"{name}_shown" for name in NAMES]))
        shown = [view for name in NAMES for view in (name, f"{name}_shown")]
        return [sorted(con.sql(f"SELECT * FROM {view}").fetchall(), key=repr) for view in shown]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
