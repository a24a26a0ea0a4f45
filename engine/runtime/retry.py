"""Work that fails for a reason from outside, such as a full disk, and is tried again: after 1 s, 2 s, 4 s and so on.

Nothing is lost by waiting: whoever uses it keeps what the work was for. `told` says it to the user.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger("forebay")
MOST = 30.0
"""Seconds between two attempts at most."""


@dataclass(slots=True)
class Retry:
    """One kind of work. Times are those of a monotonic clock, in seconds."""

    what: str
    """As in 'checkpoint 7', for the log and the user."""
    hint: str
    """What helps."""
    error: Exception | None = None
    failures: int = 0
    """In a row."""
    at: float = 0.0
    """When it is tried again."""

    def failed(self, error: Exception, now: float) -> None:
        """Note a failure."""
        self.error = error
        self.at = now + min(2.0**self.failures, MOST)
        self.failures += 1
        log.warning(
            "%s failed (%d in a row), is tried again in %.0f s: %s", self.what, self.failures, self.at - now, error
        )

    def succeeded(self) -> None:
        """It works again."""
        if self.error is not None:
            log.info("%s works again after %d failures", self.what, self.failures)
        self.error, self.failures, self.at = None, 0, 0.0

    def waits(self, now: float) -> bool:
        """Whether it is too early to try again."""
        return now < self.at

    def told(self) -> str | None:
        """What is wrong and what helps, in one line; None when nothing is."""
        if self.error is None:
            return None
        times = "" if self.failures == 1 else f", {self.failures} times in a row"
        return f"{self.what} failed{times}: {str(self.error).splitlines()[0]}; {self.hint}, it goes on by itself"
