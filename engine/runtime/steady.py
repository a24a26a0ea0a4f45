"""Processing time that does not jump when somebody sets the clock.

Rows without a time of their own are dated by it, and splits are idle by it. Were it the wall clock, a clock that is ahead by a
month for a minute would end a month of state and of idleness at once. So it goes on with the monotonic clock; what the wall clock
says is taken at once where it differs by seconds (it is being adjusted), and else when it has been saying so for a while.
"""

from __future__ import annotations

import logging

from forebay.engine.files import Clock

log = logging.getLogger("forebay")
SMALL = 5_000_000
"""µs by which the clock may be adjusted at once."""
PATIENCE = 600_000_000
"""µs after which a clock that was set is believed."""


class SteadyTime:
    """µs since 1970, near the wall clock as it was most of the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.now() - self._ticks()
        self._apart = 0
        """By how much the wall clock is ahead since `_since`."""
        self._since: int | None = None

    def _ticks(self) -> int:
        return int(self._clock.monotonic() * 1e6)

    def now(self) -> int:
        """Never ahead of the monotonic clock's pace but by what the wall clock has earned."""
        ticks = self._ticks()
        apart = self._clock.now() - ticks - self._offset
        if abs(apart) <= SMALL:
            self._offset += apart
            self._since = None
        elif self._since is None or abs(apart - self._apart) > SMALL:
            log.warning("the clock was set %+.0f s; processing time goes on as before for now", apart / 1e6)
            self._since, self._apart = ticks, apart
        elif ticks - self._since > PATIENCE:
            log.warning("processing time follows the clock, %+.0f s", apart / 1e6)
            self._offset += apart
            self._since = None
        return ticks + self._offset
