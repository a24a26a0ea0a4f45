"""Eviction: groups and the rows kept for them go into new cold segments, in the order of their hashes, a slice at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from forebay.engine.files import declare, kill_point
from forebay.engine.state.coldtable import ColdTable, Ids, Words
from forebay.engine.state.segment import Builder, Hashes, Segment

if TYPE_CHECKING:
    from forebay.engine.state.groups import GroupTable

_STEP = 4 << 20
"""Bytes written at a time, about."""

declare("cold.evict.before", "cold.evict.after")


class Dependent(Protocol):
    """Rows by group that go and come with their groups."""

    @property
    def table(self) -> GroupTable:
        """The rows, with their words."""

    cold: ColdTable | None

    def rows_of(self, place: Ids) -> tuple[Ids, Ids]:
        """(row, place[its group]) of the rows whose groups have a place that is not negative."""

    def evict(self, ids: Ids, groups: Ids) -> None:
        """Forget these rows, which are all that these groups have; they are cold."""

    def forget(self, groups: Ids) -> None:
        """The rows of these groups, which have expired, are gone, whatever becomes of the epoch. It has changed none yet."""

    def admit(self, groups: Ids, rows: pa.RecordBatch, words: Words) -> None:
        """Take rows back, into these groups."""

    def idle_bytes(self) -> int:
        """Bytes held for rows to come."""

    def nbytes(self) -> int: ...


class Part:
    """What an eviction writes of one table: rows in the order of their groups."""

    def __init__(self, table: GroupTable, cold: ColdTable, ids: Ids, place: Ids, dependent: Dependent | None) -> None:
        """`place`: that of the group of each row, ascending."""
        self.table = table
        self.cold = cold
        self.ids = ids
        self.place = place
        self.dependent = dependent
        self.written = np.zeros(ids.shape[0], bool)
        """Which rows are in the segment: those whose groups nobody had touched before."""
        self.builder: Builder | None = None
        self.step = max(1, _STEP * ids.shape[0] // max(table.busy_bytes(), 1)) if ids.shape[0] else 1
        """Rows to write at a time."""


class Eviction:
    """Groups on their way out, slice by slice. They stay where they are until all is written, and may be touched meanwhile."""

    def __init__(
        self,
        table: GroupTable,
        cold: ColdTable,
        dependents: Sequence[Dependent],
        ids: Ids,
        hashes: Hashes,
        first: int,
        since: int,
    ) -> None:
        """`first`: the cold id of the first group; `since`: stamps from here on say that a group was touched."""
        order = np.argsort(hashes, kind="stable")
        self.ids, self.hashes = ids[order], hashes[order]
        self.cold_ids = np.arange(first, first + ids.shape[0])
        self.since = since
        self._table = table
        self.parts = [Part(table, cold, self.ids, np.arange(ids.shape[0]), None)]
        place = np.full(table.keys.capacity, -1, np.int64)
        place[self.ids] = self.parts[0].place
        for dependent in dependents:
            rows, places = dependent.rows_of(place)
            order = np.argsort(places, kind="stable")
            assert dependent.cold is not None
            self.parts.append(Part(dependent.table, dependent.cold, rows[order], places[order], dependent))
        self._part = 0
        self._at = 0
        self.segments: list[tuple[ColdTable, Segment]] = []

    def step(self, stamps: Ids) -> bool:
        """Write one slice; True when that was the last."""
        part = self.parts[self._part]
        if part.builder is None and part.ids.shape[0]:
            part.builder = part.cold.builder(part.ids.shape[0])
        piece = slice(self._at, self._at + part.step)
        place = part.place[piece]
        untouched = stamps[self.ids[place]] < self.since  # a row of a touched group may be gone, and its id another's
        part.written[piece] = untouched
        place = place[untouched]
        if place.shape[0] and part.builder is not None:
            rows = part.cold.pack(part.ids[piece][untouched], self._times(part, place))
            part.builder.add(rows, self.hashes[place], self.cold_ids[place])
        self._at += part.step
        if self._at >= part.ids.shape[0]:
            self._end_part(part)
        return self._part == len(self.parts)

    def _times(self, part: Part, place: Ids) -> Ids | None:
        """When the groups of a dependent's rows were last updated, if that is kept."""
        aging = self._table.aging
        if aging is None or part.dependent is None:
            return None
        return np.array(self._table.words[self.ids[place], aging.word])

    def _end_part(self, part: Part) -> None:
        if part.builder is not None:
            kill_point("cold.evict.before")
            segment = part.builder.finish()
            part.builder = None
            kill_point("cold.evict.after")
            self.segments.append((part.cold, segment))
        self._part, self._at = self._part + 1, 0
        if self._part == len(self.parts):
            for cold, written in self.segments:
                if written.rows:
                    cold.add(written)
                else:
                    cold.store.forget(written.places)

    def abandon(self) -> None:
        """Stop for good."""
        for part in self.parts:
            if part.builder is not None:
                part.builder.abandon()
        for cold, segment in self.segments:
            cold.store.forget(segment.places)
