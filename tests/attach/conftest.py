"""A warehouse owned by a child process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import forebay
from forebay.session import Session

ROOT = Path(__file__).parents[2]


class Owner:
    """The child; `aside()` asks it for the streams and queries that it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.attach.owner", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def aside(self) -> list[str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("aside\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def left_alone(self) -> bool:
        """Whether nothing runs aside any more, within five seconds."""
        deadline = time.monotonic() + 5
        while self.aside():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def kill(self) -> None:
        self.process.kill()
        self._gone()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._gone()

    def _gone(self) -> None:
        self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="package")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    running = Owner(tmp_path_factory.mktemp("attach") / "warehouse")
    yield running
    running.close()


@pytest.fixture
def con(owner: Owner) -> Iterator[Session]:
    with forebay.connect(owner.path) as attached:
        attached.execute("DELETE FROM orders")
        yield attached
