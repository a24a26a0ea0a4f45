"""kill -9 while histories are read, written and taken over: the next process goes on, and nothing is lost or doubled."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

import forebay
from tests.bootstrap.orders import QUERIES, T, World, append, expected
from tests.bootstrap.victim import NAMES

ROOT = Path(__file__).parents[2]
DEATHS = [
    ("bootstrap.manifest.before", 3),
    ("cold.ingest.after", 3),
    ("bootstrap.ready", 2),
]


def run(root: Path, place: str, turn: int) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "tests.bootstrap.victim", str(root), place, str(turn)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, done.stdout.splitlines()


def world_at(root: Path, seed: int) -> World:
    world = World(seed, root)
    while world.now < T:
        world.live(1)
    world.live(50)
    world.overlap(8)
    world.save()
    append(root / "w", world.writes)
    return world


def check(world: World, printed: list[str]) -> None:
    rows = [ast.literal_eval(line) for line in printed]
    touched = {row[0] if kind != "refund" else row[1] for kind, row in world.writes if row[-1] >= T}
    with forebay.connect() as con:
        for name, view, shown in zip(NAMES, rows[::2], rows[1::2]):
            whole = expected(con, world, QUERIES[name][0])
            assert view == sorted(whole, key=repr), name
            before = set(expected(con, world, QUERIES[name][0], past=True))
            least = set(whole) - before
            most = least | {row for row in whole if "grouped" in name or touched & set(row)}
            assert least <= set(shown) <= most, name


def test_kills(tmp_path: Path) -> None:
    world = world_at(tmp_path, 3)
    for place, turn in DEATHS:
        assert run(tmp_path, place, turn)[0] == -signal.SIGKILL, place
    check(world, run(tmp_path, "end", 1)[1])
