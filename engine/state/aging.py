"""Groups that expire: one of their words says when they were last updated, in µs since 1970; 0 while nothing has done so.

A group is there while that time is at least the *bound*, which only goes forward, also when an epoch is rolled back. One that
is not is as if it had never been, hot or cold, in memory or not: whoever opens it finds it new, and no reader is shown it. So
results do not depend on when it is cleared away. That happens when its key comes again, in a *sweep* over the hot groups, a
slice at a time between epochs, and by the segment in the cold tier.
"""

from __future__ import annotations

import numpy as np

from forebay.engine.state.arrays import Mask
from forebay.engine.state.times import NEVER, Micros

ALWAYS = -NEVER
"""The bound of groups that live for ever."""
_SLICE = 1 << 17
"""Ids looked at in one step of a sweep."""
_SWEEPS = 16
"""Sweeps while the bound goes forward by one time to live: what has expired stays that much longer, at most."""


class Aging:
    """The word that dates groups, and the time before which they are gone."""

    def __init__(self, word: int) -> None:
        self.word = word
        self.bound = ALWAYS
        self._pause = 0
        self._next = ALWAYS
        """Where the bound has to be for the next sweep."""
        self._at: int | None = None
        """How far the sweep under way has come."""

    def move(self, bound: int, ttl: int | None) -> None:
        """The bound of an epoch, and how long groups live, in µs."""
        self.bound = max(self.bound, bound)
        self._pause = 0 if ttl is None else ttl // _SWEEPS

    def expired(self, times: Micros) -> Mask:
        """Which of the groups with these times are gone."""
        gone: Mask = (times < self.bound) & (times != 0)
        return gone

    def renew(self, words: Micros, groups: Micros, times: Micros) -> None:
        """Opened groups have been updated by rows of these times."""
        column = words[:, self.word]
        fresh = groups[column[groups] == 0]
        column[fresh] = -NEVER
        np.maximum.at(column, groups, times)
        column[fresh[column[fresh] == 0]] = 1  # 0 is for none

    def slice(self, capacity: int) -> range | None:
        """The ids that are to be looked at next; None: the last sweep was short ago."""
        if self._at is None:
            if self.bound <= self._next:
                return None
            self._at, self._next = 0, self.bound + self._pause
        found = range(self._at, min(self._at + _SLICE, capacity))
        self._at = found.stop if found.stop < capacity else None
        return found
