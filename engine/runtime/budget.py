"""The memory budget of a warehouse: what is counted, and what gives way when it is too much.

Counted is what `accounts` has; not what a keyed state holds free for rows to come, for sealing does not make that less. It is
checked by the system's account: what the process has beyond `FIXED` is charged to the budget where the accounts do not have
it, for malloc keeps memory that was freed, and libraries have their own. Not more than `MOST` of the budget: a program may have
something else in its memory, that sealing does not make less.

Above `SEAL` of the budget a state begins to be sealed, a slice per epoch; above `HOLD` the driver goes on with that until there
is room, and so holds the sources back. Segments are merged in between. Where sealing or merging fails (a full disk, a damaged
block) nothing has happened, and it is tried again later; the sources wait for that only if there is no room meanwhile.

The state that is sealed next is the one with the largest product of hot bytes and time since it was sealed last: by bytes alone
a small input would keep as much in memory as a large one, and its rows much longer.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from forebay.engine import limits
from forebay.engine.runtime.accounts import FREE, Holder, accounts, busy_bytes
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.fitting import Overrun, overrun
from forebay.engine.runtime.outbox import QUEUE
from forebay.engine.runtime.resident import Libraries, resident, return_blocks_above, trim
from forebay.engine.runtime.retry import Retry
from forebay.engine.state import Tiered
from forebay.engine.state.coldstore import CACHE, LOADED, ColdStore

log = logging.getLogger(__name__)
SEAL = 0.75
HOLD = 0.9
MOST = 0.4
"""Of the budget, charged at most for memory that is in no account."""
FREED = 1 / 16
"""Of the budget: more than that in no account, and what nobody uses is given back before state has to go."""
FIXED = 400 << 20
"""Bytes that the process may have beside the budget: interpreter, libraries and kernels."""
ALONE = 256 << 20
"""Bytes that a process has, at most, which opens a warehouse and has done nothing else."""
RESERVE = 64 << 20
"""Bytes that an epoch and a step of sealing or merging may make and forget after a look; a third of a small budget, about."""
PART = 0.5
"""Of a state's hot rows, sealed into one segment."""
LARGE = 8 << 20, 32 << 20
"""Bytes of a block of memory from which it goes back to the system when it is freed, under small and under large budgets. What is
kept instead (with 32 MB as much as is used) is written again without page faults: 1 MB cost a quarter of the rate of keyed
state, and 8 MB a quarter of that of joins that keep all in memory."""
_SLOW = 1 / 32
"""Of the rows of an epoch: if so few need groups that do not fit, fewer would not help."""
_FAR = 3
"""Budgets that one epoch may need at most, however many rows it has."""
_EVERY = 32768
"""Rows between two looks."""
_AT_LEAST = 0.5
"""Seconds between two looks when fewer rows come."""
_LIBRARIES = 96 << 20
"""Bytes of mapped files above which it is worth a look whether all are used, every `_FORGET` seconds at most."""
_FORGET = 10.0
_RELIEF = 1.0
"""Seconds between two measurements of what no account has, while there is room: giving memory back costs 10 ms and more, and
memory that an epoch makes and forgets is of use to the next one."""


def machine_share() -> int:
    """Half of the bytes of memory that this process may use."""
    return limits.memory() // 2


class Budget:
    """Keeps a dataflow within a number of bytes. The driver calls it between epochs."""

    def __init__(self, cold: ColdStore) -> None:
        self.cold = cold
        self.holders: dict[str, Holder] = {}
        """What has memory beside the dataflow, by the name of its account."""
        self.used = 0
        """Bytes that count, as of the last look."""
        self.held = 0.0
        """Seconds for which sources were held back."""
        self._accounts: dict[str, int] = {}
        self._pace = 1.0
        """Of the rows that an epoch may bring: less while one brings more into memory than there is room for."""
        self._looks = 0
        self._sealed: WeakKeyDictionary[Tiered, int] = WeakKeyDictionary()
        """The look at which a state was last sealed."""
        self.moving = Retry("moving state to disk", f"free space in {cold.where}")
        self._rows = 0
        self._looked = 0.0
        self._warned = False
        self._libraries = Libraries()
        self._forgot = 0.0
        self._relieved = 0.0
        self._beyond = 0
        """Bytes that the process has and no account, as of the last relief."""
        self._states: list[Tiered] = []
        self._limit = 0
        self.limit = machine_share()
        self._beside = FIXED + max(0, resident().anonymous - ALONE)

    @property
    def limit(self) -> int:
        """The budget in bytes."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        least, most = LARGE
        return_blocks_above(max(least, min(most, limit // 128)))

    @property
    def stuck(self) -> bool:
        """There is too much in memory, and nothing can leave it at the moment."""
        return self.moving.error is not None and self.used > HOLD * self.limit

    def try_again(self, flow: Dataflow) -> None:
        """Make room, if it is time for that; no epochs come while sources wait."""
        if not self._fails():
            self._looked = 0.0
            self.keep(flow, 0)

    def keep(self, flow: Dataflow, rows: int) -> Overrun | None:
        """After an epoch of so many rows: look whether it is too much, and make room; what does not fit, if there is no way."""
        self._rows += rows
        now = time.monotonic()
        if self._rows < _EVERY * self._pace and now - self._looked < _AT_LEAST:
            return None
        self._rows, self._looked, self._looks = 0, now, self._looks + 1
        states = self._states = list(_tiered(flow))
        self.cold.cache = min(CACHE, max(LOADED, self.limit // 16))
        self._look(flow, now)
        came = self._counted()
        self._pace = max(1 / 64, self._pace / 2) if came > self.limit else min(1.0, self._pace * 1.25)
        found = self._overrun(flow, came)
        if not self._fails():
            self._move(flow, states)
            found = found or self._overrun(flow, self._counted(), last=True)
        self.held += time.monotonic() - now if self.used > HOLD * self.limit else 0.0
        return None if self.moving.error is not None else found

    def _move(self, flow: Dataflow, states: list[Tiered]) -> None:
        if self.used > SEAL * self.limit:
            self._seal(states)
        for state in states:
            self._try(state, state.maintain)
        while self.used > HOLD * self.limit and not self._fails() and self._make_room(states):
            self._look(flow, time.monotonic())
        if not self._fails():
            self.moving.succeeded()

    def ahead(self) -> None:
        """Sealing and merging go on while an epoch waits for the disk."""
        for state in self._states:
            if not self._fails():
                self._try(state, state.ahead)

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
        return int(self._pace * self.limit / 32)

    def accounts(self, flow: Dataflow) -> dict[str, int]:
        """Bytes by account, now."""
        return accounts(flow, self.cold, self.holders)

    def _counted(self) -> int:
        """Bytes of the accounts at the last look, without what is free for rows to come."""
        return sum(self._accounts.values()) - self._accounts[FREE]

    def _look(self, flow: Dataflow, now: float) -> None:
        """Count what is used. What no account has is measured now and then, after what nobody uses was given back."""
        self._accounts = self.accounts(flow)
        counted = self._counted()
        really = self._really()
        if really > HOLD * self.limit or now - self._relieved > _RELIEF:
            self._relieved = now
            if really > SEAL * self.limit or really - counted > FREED * self.limit:
                self._relieve(now)
                really = self._really()
            self._beyond = min(really - counted, int(MOST * self.limit))
        self.used = counted + max(0, self._beyond)

    def _really(self) -> int:
        """What the process has beside the bytes that it may have without a budget, and what comes before the next look."""
        return resident().total - self._beside + min(RESERVE, self.limit * 5 // 16)

    def _relieve(self, now: float) -> None:
        """Give back what nobody uses."""
        for holder in self.holders.values():
            holder.give_back()
        trim()
        if now - self._forgot > _FORGET and resident().file > _LIBRARIES:
            self._forgot = now
            self._libraries.forget_pages()

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
                trim()
                return True
        if not self._warned:
            self._warned = True
            log.warning(
                "memory budget: %d MB of %d MB are used, and nothing more can leave memory; set 'memory.budget' higher",
                self.used >> 20,
                self.limit >> 20,
            )
        return False

    def _over(self, counted: int) -> bool:
        """Whether the promise is broken: by the accounts it is too much, and the process has more than it may."""
        really = resident().total
        return counted > self.limit and (really > self.limit + self._beside if really else counted > 2 * self.limit)

    def _overrun(self, flow: Dataflow, counted: int, last: bool = False) -> Overrun | None:
        """What does not fit: what a small epoch needs is too much, or at `last` nothing more can leave memory."""
        stopped = sum(
            busy_bytes(n) for unit in flow.parking.units() for n in unit.nodes
        )  # others do not have to stop for them
        if not self._over(counted - stopped) or not (last or self._pace < _SLOW or counted > _FAR * self.limit):
            return None
        return overrun(flow, self.limit, counted, self._accounts)


def _tiered(flow: Dataflow) -> Iterable[Tiered]:
    for node in flow.order:
        yield from (s for s in node.states().values() if isinstance(s, Tiered))
