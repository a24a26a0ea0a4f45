"""kill -9 while CALL bootstrap loads, follows and hands over: the next process goes on, and nothing is lost or doubled."""

from __future__ import annotations

import ast
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import forebay
from tests.bootstrap.call_victim import NAMES
from tests.bootstrap.orders import QUERIES, World, expected
from tests.bootstrap.test_kills import ROOT, world_at

DEATHS = [("bootstrap.handover.after", 1)]
PLACES = [
    "bootstrap.run.before",
    "bootstrap.run.after",
    "bootstrap.manifest.before",
    "bootstrap.manifest.after",
    "bootstrap.segment.before",
    "bootstrap.segment.after",
    "cold.ingest.before",
    "cold.ingest.after",
    "bootstrap.ready",
    "bootstrap.drop.before",
    "checkpoint.rename.before",
    "checkpoint.rename.after",
    "bootstrap.handover.before",
    "bootstrap.handover.after",
    "bootstrap.defined.before",
    "catalog.rename.before",
]


def run(root: Path, place: str, turn: int) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "tests.bootstrap.call_victim", str(root), place, str(turn)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, done.stdout.splitlines()


def check(world: World, printed: list[str]) -> None:
    """Views and sinks have the batch answer, and no pair came twice."""
    rows = [ast.literal_eval(line) for line in printed]
    with forebay.connect() as con:
        wanted = [sorted(expected(con, world, QUERIES[name][0]), key=repr) for name in NAMES]
    assert rows[: len(NAMES)] == wanted
    assert rows[len(NAMES) : 2 * len(NAMES)] == wanted
    assert rows[-1] == sorted(((refund, order) for refund, order, _ in world.refunds), key=repr)


def test_kills(tmp_path: Path) -> None:
    world = world_at(tmp_path, 31)
    for place, turn in DEATHS:
        assert run(tmp_path, place, turn)[0] == -signal.SIGKILL, place
    check(world, run(tmp_path, "end", 1)[1])


def test_kills_before_the_first_checkpoint(tmp_path: Path) -> None:
    """Jobs that no checkpoint has are made again before it is asked whether they have gone over."""
    world = world_at(tmp_path, 307)
    for place in ("checkpoint.rename.before", "bootstrap.segment.before"):
        assert run(tmp_path, place, 1)[0] == -signal.SIGKILL, place
    check(world, run(tmp_path, "end", 1)[1])


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(12))
def test_kills_at_random_places(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = world_at(tmp_path, 300 + seed)
    for turn in (1, 1, 2, 2, 3):
        run(tmp_path, rng.choice(PLACES), turn)
    check(world, run(tmp_path, "end", 1)[1])
