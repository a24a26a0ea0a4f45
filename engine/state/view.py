"""What a reader sees of an arrangement: the rows of some epochs, none older than some time.

visible   id < most, and alive or dead since epoch `least` or later, and of a time not before `since` (µs)
"""

from __future__ import annotations

from forebay.engine.state.times import NEVER

FOREVER = 2**62
"""Later than every epoch, and above every row id."""
ALWAYS = -NEVER
"""The time before all times: whoever looks back to it sees every row."""


class View:
    """What a reader sees of an arrangement: its rows before or after an epoch, or none at all; none older than `since`."""

    __slots__ = ("least", "most", "since")

    def __init__(self, most: int, least: int, since: int = ALWAYS) -> None:
        self.most = most
        self.least = least
        self.since = since


NOTHING = View(0, FOREVER)
ALIVE = View(FOREVER, FOREVER)
"""All rows that have not died."""
