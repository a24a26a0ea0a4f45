"""The memory budget of a warehouse: what is counted, and what gives way when it is too much.

Counted are the states of all operators, the rows that sinks and failed jobs have still to get, and the cold store's cache; not
what a keyed state holds free for rows to come. Above `SEAL` of the budget a state begins to be sealed, a slice per epoch; above
`HOLD` the driver goes on with that until there is room, and so holds the sources back. Segments are merged in between. Where
sealing or merging fails (a full disk, a damaged block) nothing has happened, and it is tried again later; the sources wait for
that only if there is no room meanwhile.

The state that is sealed next is the one with the largest product of hot bytes and time since it was sealed last: by bytes alone
a small input would keep as much in memory as a large one, and its rows much longer.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.outbox import QUEUE, Outbox
from forebay.engine.runtime.retry import Retry
from forebay.engine.state import Tiered
from forebay.engine.state.coldstore import CACHE, LOADED, ColdStore

log = logging.getLogger(__name__)
_LIBC = ctypes.CDLL(None)
SEAL = 0.6
HOLD = 0.9
RESERVE = 64 << 20
"""Bytes for what an epoch and a step of sealing or merging make and forget; a quarter of a small budget."""
PART = 0.5
"""Of a state's hot rows, sealed into one segment."""
_EVERY = 32768
"""Rows between two looks."""
_AT_LEAST = 0.5
"""Seconds between two looks when fewer rows come."""


def machine_share() -> int:
    """Half of the bytes of memory that this process may use: of its control group, or of the machine."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        if path.exists() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total // 2


class Budget:
    """Keeps a dataflow within a number of bytes. The driver calls it between epochs."""

    def __init__(self, cold: ColdStore) -> None:
        self.cold = cold
        self.limit = machine_share()
        self.used = 0
        """Bytes counted at the last look."""
        self.held = 0.0
        """Seconds for which sources were held back."""
        self._looks = 0
        self._sealed: WeakKeyDictionary[Tiered, int] = WeakKeyDictionary()
        """The look at which a state was last sealed."""
        self.moving = Retry("moving state to disk", f"free space in {cold.where}")
        self._rows = 0
        self._looked = 0.0
        self._warned = False

    @property
    def stuck(self) -> bool:
        """There is too much in memory, and nothing can leave it at the moment."""
        return self.moving.error is not None and self.used > HOLD * self.limit

    def try_again(self, flow: Dataflow) -> None:
        """Make room, if it is time for that; no epochs come while sources wait."""
        if not self._fails():
            self._looked = 0.0
            self.keep(flow, 0)

    def keep(self, flow: Dataflow, rows: int) -> None:
        """After an epoch of so many rows: look whether it is too much, and make room."""
        self._rows += rows
        now = time.monotonic()
        if self._rows < _EVERY and now - self._looked < _AT_LEAST:
            return
        self._rows, self._looked, self._looks = 0, now, self._looks + 1
        states = list(_tiered(flow))
        self.cold.cache = min(CACHE, max(LOADED, self.limit // 16))
        self.used = self._count(flow)
        if not self._fails():
            self._move(flow, states)
        self.held += time.monotonic() - now if self.used > HOLD * self.limit else 0.0

    def _move(self, flow: Dataflow, states: list[Tiered]) -> None:
        if self.used > SEAL * self.limit:
            self._seal(states)
            _trim()
        for state in states:
            self._try(state, state.maintain)
        while self.used > HOLD * self.limit and not self._fails() and self._make_room(states):
            self.used = self._count(flow)
        if not self._fails():
            self.moving.succeeded()

    def _try(self, state: Tiered, work: Callable[[], object]) -> bool:
        """What the work returns; False if it failed: the state is then as it was before the sealing or merging began."""
        try:
            return bool(work())
        except Exception as error:  # noqa: BLE001 - whatever it is, jobs go on with what is in memory
            state.stay()
            if not self._fails():
                self.moving.failed(error, time.monotonic())
            return False

    def _fails(self) -> bool:
        return self.moving.waits(time.monotonic())

    @property
    def queue(self) -> int:
        """Bytes that may wait for one sink before its sources are held back."""
        return min(QUEUE, self.limit // 8)

    @property
    def epoch(self) -> int:
        """Bytes of input rows that one epoch may bring, about: what it makes of them is several times as much."""
        return self.limit // 32

    def _seal(self, states: list[Tiered]) -> None:
        if any(a.sealing for a in states):
            return
        for state in sorted(states, key=self._worth, reverse=True):
            if self._try(state, functools.partial(state.seal, PART)):
                self._sealed[state] = self._looks
                return
            if self._fails():
                return

    def _worth(self, state: Tiered) -> int:
        return state.hot_bytes() * (1 + self._looks - self._sealed.get(state, 0))

    def _make_room(self, states: list[Tiered]) -> bool:
        """Finish one sealing; False if nothing can be sealed."""
        self._seal(states)
        for state in states:
            if state.sealing:
                self._try(state, state.finish_sealing)
                _trim()
                return True
        if not self._warned:
            self._warned = True
            log.warning(
                "memory budget: %d MB of %d MB are used, and nothing more can leave memory; set 'memory.budget' higher",
                self.used >> 20,
                self.limit >> 20,
            )
        return False

    def _count(self, flow: Dataflow) -> int:
        total = (
            self.limit // RESERVE
            + self.cold.nbytes()
            + sum({id(p): p.backlog.nbytes() for p in flow.parked.values()}.values())
        )
        for node in flow.order:
            for state in node.states().values():
                total += state.nbytes() - (state.idle_bytes() if isinstance(state, Tiered) else 0)
            if isinstance(node.outlet, Outbox):
                total += node.outlet.nbytes() if node.outlet.spec.directory is None else node.outlet.queued
        return total


def _trim() -> None:
    """Give memory that was freed back to the system, where malloc can: its arenas keep much of it otherwise."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tiered(flow: Dataflow) -> Iterable[Tiered]:
    for node in flow.order:
        yield from (s for s in node.states().values() if isinstance(s, Tiered))
