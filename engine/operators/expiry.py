"""How long the groups of an operator live: TTL for what is kept by key, as `engine.operators.horizon` has it for rows of joins.

A group lives by the time of its last update, which is the newest of the rows that changed it: an event time where they have one,
else the processing time at which they came. It is there while that is at least H − TTL, H as in a join, with this operator's one
input. All rows of a group live and die together, however old each is.

    expiry      says nothing: what the operator has said of a group stands
    afterwards  the group is new: its next row is its first, and what comes out is an insertion without a retraction
    late        a row that has expired when it comes is dropped and counted, unless its group is there, or another row of the
                epoch makes it be
    retraction  of a row that an expired group knew finds nothing, and is dropped
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.operators.horizon import Horizon, Lifetime
from forebay.engine.state import State
from forebay.engine.state.aging import Aging
from forebay.engine.state.arrays import Mask
from forebay.engine.state.times import Micros, time_of

if TYPE_CHECKING:
    from forebay.engine.state.groups import GroupTable, Ids

LATE = "late_rows"
_FOR_EVER = Lifetime()


@dataclass(frozen=True, slots=True)
class GroupLife:
    """How long groups live, and what dates their rows."""

    life: Lifetime = _FOR_EVER
    dated: bool = False
    """Groups know when they were last updated. If not they live for ever, whatever is said later."""
    time: int | None = None
    """The input column with the time of a row; None: the time at which it came."""


UNDATED = GroupLife()


class Expiry(Horizon):
    """The bound of one operator's groups. What has expired stays so, also if the epoch is rolled back: it may be gone."""

    def __init__(self, life: GroupLife, word: int) -> None:
        """`word`: that of a group which dates it."""
        super().__init__([life.life])
        self.aging = Aging(word)
        self._time = life.time

    def begin(self, turn: Turn) -> None:
        """An epoch begins."""
        self.advance(turn)
        self._move()

    def times(self, batches: Sequence[Batch], now: int) -> Micros:
        """The time of each row of an epoch, in µs."""
        if self._time is None:
            return np.full(sum(b.num_rows for b in batches), now, np.int64)
        return np.concatenate([time_of(b.rows.column(self._time)) for b in batches])

    def in_time(self, table: GroupTable, groups: Ids, times: Micros, weights: Ids) -> Mask | None:
        """Which rows count for their groups, which are not opened yet; None for all. Groups of late rows alone are not born."""
        old = times < self.aging.bound
        if not old.any():
            return None
        held = table.words[groups, self.aging.word]
        there = (held != 0) & ~self.aging.expired(held)
        keep = ~old | there | np.isin(groups, groups[~old])
        if keep.all():
            return None
        self.late += int(np.maximum(weights[~keep], 0).sum())
        unborn = table.open(groups[~keep & (held == 0)]).ids
        table.free(unborn)
        return np.asarray(keep)

    def _move(self) -> None:
        self.aging.move(self.bounds[0], self.lives[0].ttl)

    def rollback(self) -> None:
        bounds = self.bounds
        super().rollback()
        self.bounds = bounds

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        super().load(batches)
        self._move()


class GroupingOperator(Operator):
    """An operator with one input that keeps groups, which may expire."""

    def __init__(self, life: GroupLife, word: int) -> None:
        """`word`: the one that dates a group, if they are dated."""
        self.life = life
        self.expiry = Expiry(life, word) if life.dated else None

    @property
    def aging(self) -> Aging | None:
        """For the table of the groups."""
        return None if self.expiry is None else self.expiry.aging

    def in_time(self, table: GroupTable, batch: Batch, groups: Ids, now: int) -> tuple[Batch, Ids, Micros]:
        """The rows, their groups, and where these expire their times, without the rows that are late."""
        if self.expiry is None:
            return batch, groups, groups
        times = self.expiry.times([batch], now)
        keep = self.expiry.in_time(table, groups, times, batch.weight_array())
        return (batch, groups, times) if keep is None else (batch.take(np.flatnonzero(keep)), groups[keep], times[keep])

    def renew(self, table: GroupTable, groups: Ids, times: Micros) -> None:
        """Opened groups have been updated by rows of these times, if they expire."""
        if self.expiry is not None:
            self.expiry.aging.renew(table.words, groups, times)

    def can_expire(self, table: str) -> bool:
        return self.expiry is not None or self.life.life.table != table

    def set_ttl(self, table: str, ttl: int | None, epoch: int) -> None:
        if self.expiry is not None and self.life.life.table == table:
            self.expiry.set_ttl(0, ttl)

    @property
    def horizon(self) -> dict[str, State]:
        """For `states`."""
        return {} if self.expiry is None else {"horizon": self.expiry}

    @property
    def late(self) -> dict[str, int]:
        """A metric."""
        return {} if self.expiry is None else {LATE: self.expiry.late}
