"""Processes that kill themselves, for tests of what they leave behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def dies_at(place: str, turn: int) -> Callable[[str], None]:
    """A kill hook: the process ends, as by kill -9, when it comes to the kill point for the given time, from 1 on."""
    left = turn

    def die(name: str) -> None:
        nonlocal left
        if name == place:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die
