"""kill -9 while rows and groups are sealed, merged, collected: every acknowledged change is there, once, and the views agree."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEATHS = [
    ("cold.ingest.after", 50),
    ("cold.ingest.before", 25),
    ("cold.collect.before", 7),
    ("checkpoint.rename.before", 3),
    ("cold.ingest.before", 80),
    ("checkpoint.rename.after", 2),
    ("restore.state", 2),
    ("cold.collect.before", 18),
    ("cold.ingest.after", 110),
]


def run(directory: Path, place: str, turn: int) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "tests.durable.cold_victim", str(directory), place, str(turn)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, done.stdout.splitlines()


def rounds(last: int) -> list[dict[int, int]]:
    """The orders after every statement of the last round, and before it."""
    orders: dict[int, int] = {}
    seen = []
    for n in range(1, last + 1):
        seen = [dict(orders)]
        orders[n] = 0
        seen.append(dict(orders))
        if n // 3 in orders:
            orders[n // 3] = n
        seen.append(dict(orders))
        orders.pop(n // 5 * 2 - 1, None)
        seen.append(dict(orders))
    return seen


def test_cold_state_survives_kills(tmp_path: Path) -> None:
    acknowledged = 0
    for place, turn in DEATHS:
        code, lines = run(tmp_path / "w", place, turn)
        assert code == -signal.SIGKILL, place
        acknowledged = max([acknowledged, *(int(line.split()[1]) for line in lines if line.startswith("ack"))])
        code, lines = run(tmp_path / "w", "end", 1)
        orders, wide, joined, sums, grouped = (ast.literal_eval(line) for line in lines)
        assert wide == joined and sums == grouped, place
        assert len({row[0] for row in orders}) == len(orders), place
        after = acknowledged + 1
        assert dict(orders) in rounds(after), (place, acknowledged, orders)
    assert acknowledged > 8
