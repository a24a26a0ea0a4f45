"""What a simulated warehouse lives in: a disk that forgets, a clock that is told the time, and a death at a chosen instant."""

from __future__ import annotations

import shutil
from pathlib import Path

from forebay.engine.files import Clock
from tests.connectors.lossy import LossyFiles


class Crash(BaseException):
    """The process is gone: nothing in it may catch this."""


class Mount(LossyFiles):
    """A disk as one process sees it; when the process has died, what is left of it can touch the disk no more."""

    def __init__(self, disk: LossyFiles) -> None:
        self.__dict__.update(disk.__dict__)
        self.dead = False

    def remove_tree(self, path: Path) -> None:
        """What does not go through this disk, such as the runs of a bootstrap, goes too."""
        super().remove_tree(path)
        shutil.rmtree(path, ignore_errors=True)

    @property
    def _content(self) -> dict[Path, bytearray]:  # type: ignore[override]
        if self.dead:
            raise Crash
        content: dict[Path, bytearray] = self.__dict__["_content"]
        return content


class SimClock(Clock):
    """Time passes when the simulation says so, and a little at each look, so that no loop waits for ever."""

    def __init__(self) -> None:
        self.micros = 1_700_000_000_000_000

    def now(self) -> int:
        self.micros += 10
        return self.micros

    def monotonic(self) -> float:
        return self.now() / 1e6

    def sleep(self, seconds: float) -> None:
        self.micros += int(seconds * 1e6)


class Fate:
    """The kill hook: notes the kill points that one life passes, and ends it at the given turn of one of them."""

    def __init__(self, place: str, turn: int, mount: Mount) -> None:
        self.place = place
        self.left = turn
        self.passed: set[str] = set()
        self._mount = mount

    def __call__(self, name: str) -> None:
        self.passed.add(name)
        self.left -= name == self.place
        if self.left == 0:
            self._mount.dead = True
            raise Crash
