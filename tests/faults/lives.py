"""Lives that end with SIGKILL, cheaply: processes forked from one that has everything imported, and no threads.

A life is told where to die: at the turn of a kill point, there or up to some milliseconds later, or at a random instant. What it
writes to its record, a line in one `write`, survives it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.engine.files import set_kill_hook

_SERVER = multiprocessing.get_context("forkserver")
_PRELOADED = ["tests.faults.tiered", "tests.bootstrap.victim"]
END = "end"
"""No death: the life ends by itself."""
PATIENCE = 120.0
"""Seconds after which a kill point counts as never reached."""


@dataclass(frozen=True, slots=True)
class Death:
    """Where a life ends."""

    phase: str
    place: str = END
    turn: int = 1
    after: float = 0.0
    """Seconds: after that turn of the kill point, or, without a place, after the start."""


def deaths(rng: random.Random, phases: dict[str, Sequence[str]], per_phase: int, anywhere: int) -> list[Death]:
    """So many deaths in each phase, every second one some milliseconds past its kill point, and so many at random instants."""
    planned = [Death("at a random instant", "", after=rng.uniform(0.05, 1.2)) for _ in range(anywhere)]
    for phase, places in phases.items():
        for number in range(per_phase):
            place = places[number % len(places)]
            late = rng.uniform(0, 0.008) if number // len(places) % 2 else 0.0
            planned.append(Death(phase, place, rng.randint(1, 3), late))
    rng.shuffle(planned)
    return planned


def live(target: Callable[..., None], death: Death, record: Path, *arguments: Any) -> bool:
    """Run `target(say, *arguments)` in a process of its own until it dies or ends; whether it died where it should.

    `say` takes a JSON value for the record.
    """
    _SERVER.set_forkserver_preload(_PRELOADED)
    process = _SERVER.Process(target=_life, args=(target, death, str(record), arguments))
    process.start()
    process.join(death.after if death.place == "" else PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        assert death.place == "", f"{death.place} was not reached: {_tail(record)}"
    assert process.exitcode in (0, -signal.SIGKILL), _tail(record)
    return process.exitcode != 0


def said(record: Path) -> list[Any]:
    """What lives have said; the last line may be cut off, for the machine could have died in it."""
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def _tail(record: Path) -> str:
    log = record.with_suffix(".log")
    return log.read_text()[-3000:] if log.exists() else "it said nothing"


def _life(target: Callable[..., None], death: Death, record: str, arguments: tuple[Any, ...]) -> None:
    os.dup2(os.open(Path(record).with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    line = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    left = death.turn

    def hook(name: str) -> None:
        nonlocal left
        if name == death.place:
            left -= 1
            if left == 0 and death.after:
                threading.Thread(target=_die, args=(death.after,), daemon=True).start()
            elif left == 0:
                _die(0.0)

    set_kill_hook(hook)
    target(lambda value: os.write(line, json.dumps(value).encode() + b"\n"), *arguments)
    set_kill_hook(None)


def _die(after: float) -> None:
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)
