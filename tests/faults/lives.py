"""Lives that end with SIGKILL, cheaply: processes forked from one that has everything imported, and no threads.

A life is told where to die: at the turn of a kill point, there or up to some milliseconds later, or at a random instant. Random
instants are those of the clock: another process kills, wherever the life is just then. What that was survives in memory that both
share (`during`). What a life writes to its record, a line in one `write`, survives it too.
"""

from __future__ import annotations

import functools
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
ANY = "at a random instant"
END = "end"
"""No death: the life ends by itself."""
PATIENCE = 120.0
"""Seconds after which a kill point counts as never reached."""
PHASES = {
    "while sealing": (0.01, 4),
    "while merging": (0.01, 4),
    "during a checkpoint": (0.1, 4),
    "while making a savepoint": (0.2, 1),
    "while restoring a savepoint": (0.2, 1),
    "while restoring a copy": (0.05, 1),
    "during a bootstrap": (0.005, 20),
    "during the restart": (0.2, 1),
}
"""What a life may be about, several at a time: about how many seconds it takes, and how often each life comes to it."""


@dataclass(frozen=True, slots=True)
class Death:
    """Where a life ends."""

    phase: str
    place: str = END
    turn: int = 1
    after: float = 0.0
    """Seconds: after that turn of the kill point, or, without a place, after the start of the life."""
    within: str = ""
    """One of PHASES: `after` that has begun for the `turn`th time."""


@dataclass(slots=True)
class _Doing:
    """What a life is about, in memory that it shares with whoever kills it."""

    under_way: Any
    """By phase, how many times it is in it."""
    begun: Any
    """By phase, how many times it has come to it."""
    bell: Any
    """The end of a pipe, rung when the phase of the death begins."""
    death: Death

    def enter(self, phase: int) -> None:
        self.under_way[phase] += 1
        self.begun[phase] += 1
        if [*PHASES][phase] == self.death.within and self.begun[phase] == self.death.turn:
            self.bell.send_bytes(b"now")


_doing: _Doing | None = None


def during(owner: Any, name: str, phase: str) -> None:
    """Let lives of this process tell when they are in `owner.name`."""
    inner, number = getattr(owner, name), [*PHASES].index(phase)

    @functools.wraps(inner)
    def told(*arguments: Any, **named: Any) -> Any:
        assert _doing is not None
        _doing.enter(number)
        try:
            return inner(*arguments, **named)
        finally:
            _doing.under_way[number] -= 1

    setattr(owner, name, told)


def deaths(rng: random.Random, phases: dict[str, Sequence[str]], per_phase: int) -> list[Death]:
    """So many deaths in each phase, every second one some milliseconds past its kill point, shuffled."""
    planned = []
    for phase, places in phases.items():
        for number in range(per_phase):
            place = places[number % len(places)]
            late = rng.uniform(0, 0.008) if number // len(places) % 2 else 0.0
            planned.append(Death(phase, place, rng.randint(1, 3), late))
    rng.shuffle(planned)
    return planned


def anywhere(rng: random.Random, number: int, seconds: float) -> list[Death]:
    """So many deaths at random instants of the first `seconds` of a life."""
    return [Death(ANY, "", after=rng.uniform(0.0, seconds)) for _ in range(number)]


def somewhere(rng: random.Random, phase: str, number: int) -> list[Death]:
    """So many deaths at random instants after a phase has begun, most of them before its end.

    Early ones are likelier, so that this holds where the machine is faster.
    """
    seconds, turns = PHASES[phase]
    return [Death(ANY, "", rng.randint(1, turns), seconds * rng.random() ** 2, phase) for _ in range(number)]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a life ended."""

    killed: bool
    doing: frozenset[str] = frozenset()
    """The phases in which it was killed, if it was at a random instant."""


def live(target: Callable[..., None], death: Death, record: Path, *arguments: Any) -> Ended:
    """Run `target(say, *arguments)` in a process of its own until it dies or ends.

    `say` takes a JSON value for the record.
    """
    _SERVER.set_forkserver_preload(_PRELOADED)
    under_way, begun = (_SERVER.RawArray("i", len(PHASES)) for _ in range(2))
    heard, bell = _SERVER.Pipe(duplex=False)
    doing = _Doing(under_way, begun, bell, death)
    process = _SERVER.Process(target=_life, args=(target, doing, str(record), arguments))
    process.start()
    bell.close()
    if death.within:
        heard.poll(PATIENCE)  # also when the life has ended
    process.join(death.after if death.place == "" else PATIENCE)
    at_random = process.exitcode is None
    if at_random:
        process.kill()
        process.join()
        assert death.place == "", f"{death.place} was not reached: {_tail(record)}"
    heard.close()
    assert process.exitcode in (0, -signal.SIGKILL), _tail(record)
    found = frozenset(p for p, n in zip(PHASES, under_way, strict=True) if n and at_random)
    return Ended(process.exitcode != 0, found)


def said(record: Path) -> list[Any]:
    """What lives have said; the last line may be cut off, for the machine could have died in it."""
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def _tail(record: Path) -> str:
    log = record.with_suffix(".log")
    return log.read_text()[-3000:] if log.exists() else "it said nothing"


def _life(target: Callable[..., None], doing: _Doing, record: str, arguments: tuple[Any, ...]) -> None:
    global _doing
    _doing, death = doing, doing.death
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
