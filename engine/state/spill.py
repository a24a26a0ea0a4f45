"""Keyed state that does not fit: groups that nobody has touched for long go to cold segments and come back with their key.

Memory is a write-back cache of the groups. Between epochs those touched longest ago are *evicted*: what they stored, their words
and the rows that *dependents* keep for them (the values behind a MIN, the rows of a Top-N) are written in the order of the
hashes of their keys, under a *cold id* that is never used again, and leave memory when all is written. A key that is interned and
not there is looked for in the cold rows; its group is *recalled*: hot again as it was, and its cold id is dead.

So a group is hot or cold, never both, and a key has one live version; kernels and operators only ever see hot groups. Rows of
dependents carry the cold id of their group in place of a dense one: they are found with it, and die and are merged away with
it, without deaths of their own. A recall stands even if its epoch is rolled back: the group is then hot as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.consolidate import same_values
from forebay.engine.errors import StateError
from forebay.engine.state.arrays import Mask, hash_rows
from forebay.engine.state.cold import NONE, ColdRows, Deaths
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.segment import Builder, Hashes, Segment
from forebay.kernels.rows import SHIFT

if TYPE_CHECKING:
    from forebay.engine.state.groups import GroupTable

Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.int64]
_STEP, _STEPS = 4 << 20, 6
"""Bytes written at a time, about, and how many times between two epochs: what comes in meanwhile needs room, too."""
MOST_SEGMENTS = 12
MOST = 1 << 21
"""Groups of one eviction: what is sorted at once."""
_SAMPLE = 1 << 14
_DEAD = 1 << 14
"""Dead rows that may stay however few are alive."""
_PART = b"part"
COLD_PART = b"cold"
_NOTE = b"note"
_ID = pa.field("__id", pa.int64(), False)


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

    def admit(self, groups: Ids, rows: pa.RecordBatch, words: Words) -> None:
        """Take rows back, into these groups."""

    def idle_bytes(self) -> int:
        """Bytes held for rows to come."""

    def nbytes(self) -> int: ...


class ColdTable(ColdRows):
    """Cold rows of a group table: what it stores, then its words."""

    def __init__(self, table: GroupTable, store: ColdStore, dead: Deaths | None = None) -> None:
        """`dead`: the deaths of other rows, whose ids these rows share."""
        stored = [pa.field(f"c{i}", f.type) for i, f in enumerate(table.keys.schema)]
        words = [pa.field(f"w{i}", pa.int64()) for i in range(table.width)]
        super().__init__(pa.schema([*stored, *words]), store)
        self.dead = dead if dead is not None else self.dead
        self.live = 0
        """Rows whose id is not dead."""
        self.least: dict[int, int] = {}
        """By segment, for a table that watches a word: no live row of it has less."""
        self._table = table
        self._noted = b""

    def maintain(self, held: Ids = NONE) -> bool:
        before = list(self.segments)
        merging = super().maintain(held)
        merged = [n for n in before if n not in self.segments and n in self.least]
        if merged:
            least = min(self.least.pop(n) for n in merged)
            self.least.update({n: least for n in self.segments if n not in before})
        return merging

    def _to_merge(self) -> list[Segment]:
        """As by size; all of them when dead rows are the greater part."""
        mostly_dead = self.rows() > 2 * self.live + _DEAD
        return super()._to_merge() or (list(self.segments.values()) if mostly_dead else [])

    def note(self, full: bool, **more: int) -> list[pa.RecordBatch]:
        """What a checkpoint has to say of these rows, if it was not said before."""
        least = [self.least.get(n) for n in self.segments]
        note = json.dumps({"segments": list(self.segments), "live": self.live, "least": least, **more}).encode()
        if note == self._noted and not full:
            return []
        self._noted = note
        schema = pa.schema([_ID], {_PART: COLD_PART, _NOTE: note})
        return [pa.RecordBatch.from_arrays([pa.array([], pa.int64())], schema=schema)]

    def pack(self, ids: Ids) -> pa.RecordBatch:
        """Hot rows as they are written."""
        words = self._table.read(ids)
        columns = [pa.array(np.ascontiguousarray(words[:, j])) for j in range(self._table.width)]
        return pa.RecordBatch.from_arrays([*self._table.keys.gather(ids).columns, *columns], schema=self.schema)

    def unpack(self, handles: Ids) -> tuple[pa.RecordBatch, Words]:
        """Cold rows as they were stored, and their words."""
        rows, stored = self.gather(handles), self._table.keys.schema
        words = [rows.column(len(stored) + j).to_numpy() for j in range(self._table.width)]
        matrix = np.column_stack(words) if words else np.zeros((handles.shape[0], 0), np.int64)
        return pa.RecordBatch.from_arrays(rows.columns[: len(stored)], schema=stored), matrix


class Spill:
    """The cold side of a group table and of its dependents."""

    def __init__(self, table: GroupTable, dependents: Sequence[Dependent], store: ColdStore) -> None:
        self.groups = ColdTable(table, store)
        self._table = table
        self._keys = _keys_of(table)
        self._dependents = list(dependents)
        for dependent in dependents:
            dependent.cold = ColdTable(dependent.table, store, self.groups.dead)
        self._next = 1
        """The next cold id."""
        self._opened = 0
        """Segments of an earlier process have ids below."""
        self._killed: list[Ids] = []
        self._eviction: _Eviction | None = None

    def tables(self) -> list[ColdTable]:
        """The cold rows of the groups and of the dependents."""
        return [self.groups, *(d.cold for d in self._dependents if d.cold is not None)]

    # -- out of memory ------------------------------------------------------------------------------------------

    @property
    def evicting(self) -> bool:
        """Whether groups are on their way out."""
        return self._eviction is not None

    def begin(self, share: float, stamps: Ids, now: int) -> bool:
        """Begin to evict about that share of the hot groups, those whose stamps are least. `now` is that of the next epoch."""
        ids = self._oldest(share, stamps)
        if self._eviction is not None or not ids.shape[0]:
            return False
        self._eviction = _Eviction(self._table, self.groups, self._dependents, ids, self._next, now)
        self._next += ids.shape[0]
        return True

    def _oldest(self, share: float, stamps: Ids) -> Ids:
        ids, moved = self._keys.all_ids(), self._keys.moved()
        if moved.shape[0]:
            ids = np.setdiff1d(ids, moved)  # not found under the hash that they would be written under
        if share < 1 and ids.shape[0]:
            sample = stamps[ids[:: max(1, ids.shape[0] // _SAMPLE)]]
            old = ids[stamps[ids] <= np.quantile(sample, share, method="lower")]
            ids = old if old.shape[0] <= 1.5 * share * ids.shape[0] else old[: max(1, int(share * ids.shape[0]))]
        return ids[:MOST]

    def step(self, stamps: Ids) -> bool:
        """One step of eviction and of merging; False if there was nothing to do."""
        merging = self._merge()
        if self._eviction is None:
            return merging
        for _ in range(_STEPS):
            self._write(stamps)
        return True

    def _merge(self) -> bool:
        """A step of merging each table; several where segments have become many, for what is evicted has to be kept up with."""
        tables, worked = self.tables(), False
        merges = sum(t.merges for t in tables)
        for table in tables:
            steps = _STEPS if len(table.segments) > MOST_SEGMENTS else 1
            while steps and table.maintain():
                steps, worked = steps - 1, True
        if sum(t.merges for t in tables) > merges:
            self._forget_deaths()
        return worked

    def _forget_deaths(self) -> None:
        """Merging has left out dead rows: nobody asks for the deaths of ids that no segment has."""
        before = np.arange((self._opened >> SHIFT) + 1)
        segments = [s for table in self.tables() for s in table.segments.values()]
        chunks = [before if s.chunks is None else s.chunks for s in segments]
        self.groups.dead.keep(np.unique(np.concatenate([np.zeros(0, np.int64), *chunks])))

    def finish(self, stamps: Ids) -> None:
        """All that is left of the eviction under way."""
        while self._eviction is not None:
            self._write(stamps)

    def _write(self, stamps: Ids) -> None:
        if self._eviction is not None and self._eviction.step(stamps):
            self._finish(self._eviction, stamps)
            self._eviction = None

    def _finish(self, done: _Eviction, stamps: Ids) -> None:
        """What was written leaves memory; groups touched meanwhile stay, and what was written of them is dead."""
        stays = stamps[done.ids] >= done.since
        gone = done.ids[~stays]
        self._die(done.cold_ids[stays])
        if self._table.watched is not None:
            least = int(self._table.words[gone, self._table.watched].min(initial=2**63 - 1))
            self.groups.least.update({s.number: least for cold, s in done.segments if cold is self.groups and s.rows})
        self.groups.live += gone.shape[0]
        for part in done.parts[1:]:
            keep = ~stays[part.place]
            assert part.dependent is not None
            part.cold.live += int(keep.sum())
            part.dependent.evict(part.ids[keep], gone)
        self._table.evict(gone)

    def _die(self, cold_ids: Ids) -> None:
        if cold_ids.shape[0]:
            self.groups.dead.set(cold_ids)
            self._killed.append(cold_ids)

    # -- back into memory ---------------------------------------------------------------------------------------

    def recall(self, ids: Ids) -> Ids:
        """Give hot ids whose keys are new here their cold groups, if they have one; returns those that have none."""
        if not self.groups:
            return ids
        keys, key = self._keys.gather(ids), self._keys.key
        hashes = hash_rows(keys, key)
        wanted = np.ones(ids.shape[0], bool)
        came, dead = [], []
        for places, handles in self.groups.find(hashes, wanted=wanted):
            cold_ids = self.groups.ids(handles)
            alive = np.flatnonzero(~self.groups.dead.test(cold_ids))
            if not alive.shape[0]:
                continue
            places, cold_ids = places[alive], cold_ids[alive]
            rows, words = self.groups.unpack(handles[alive])
            same = _same(rows, keys.take(pa.array(places)), key)
            if not same.all():
                places, cold_ids = places[same], cold_ids[same]
                rows, words = rows.filter(pa.array(same)), words[same]
            wanted[places] = False
            self._table.revive(ids[places], rows, words)
            came.append(places)
            dead.append(cold_ids)
        if came:
            places, cold_ids = np.concatenate(came), np.concatenate(dead)
            self._came(hashes[places], cold_ids, ids[places])
        return ids[wanted]

    def recall_until(self, most: int) -> None:
        """Make the groups hot whose watched word is at most that."""
        for number, segment in list(self.groups.segments.items()):
            if self.groups.least[number] > most:
                continue
            left = 2**63 - 1
            for handles in self.groups.scan([segment]):
                left = min(left, self._recall_piece(handles, most))
            self.groups.least[number] = left

    def _recall_piece(self, handles: Ids, most: int) -> int:
        """Recall those of some groups that are due; the least watched word of the others."""
        assert self._table.watched is not None
        handles = handles[~self.groups.dead.test(self.groups.ids(handles))]
        column = len(self._keys.schema) + self._table.watched
        watched = self.groups.gather(handles, [column]).column(0).to_numpy()
        due = handles[watched <= most]
        if due.shape[0]:
            rows, words = self.groups.unpack(due)
            self._came(hash_rows(rows, self._keys.key), self.groups.ids(due), self._table.admit(rows, words))
        return int(watched[watched > most].min(initial=2**63 - 1))

    def _came(self, hashes: Hashes, cold_ids: Ids, groups: Ids) -> None:
        """Cold groups are hot: their rows follow, and they die as cold ones."""
        for dependent in self._dependents:
            self._recall_rows(dependent, hashes, cold_ids, groups)
        self.groups.live -= cold_ids.shape[0]
        self._die(cold_ids)

    def _recall_rows(self, dependent: Dependent, hashes: Hashes, cold_ids: Ids, groups: Ids) -> None:
        """The rows of groups that were cold as `cold_ids`."""
        cold = dependent.cold
        if not cold:
            return
        for index, handles in cold.find(hashes):
            mine = np.flatnonzero(cold.ids(handles) == cold_ids[index])
            if mine.shape[0]:
                cold.live -= mine.shape[0]
                dependent.admit(groups[index[mine]], *cold.unpack(handles[mine]))

    def contents(self) -> Iterator[pa.RecordBatch]:
        """What the live cold groups store, in pieces."""
        for handles in self.groups.scan():
            alive = handles[~self.groups.dead.test(self.groups.ids(handles))]
            if alive.shape[0]:
                yield self.groups.unpack(alive)[0]

    def nbytes(self) -> int:
        """Bytes of memory, without what dependents count."""
        return self.groups.nbytes()

    def close(self) -> None:
        """Nobody will read the groups again."""
        if self._eviction is not None:
            self._eviction.abandon()
            self._eviction = None
        for table in self.tables():
            table.close()

    # -- checkpoints --------------------------------------------------------------------------------------------

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        """Which segments there are, and which of their groups have died."""
        batches = self.groups.note(full, next=self._next)
        if full and self._next > 1:
            batches.append(self.groups.dead.save().replace_schema_metadata({_PART: b"gone"}))
        elif self._killed:
            dead = pa.array(np.concatenate(self._killed))
            batches.append(pa.RecordBatch.from_arrays([dead], schema=pa.schema([_ID], {_PART: b"killed"})))
        self._killed = []
        return batches

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """What `changes` gave, oldest first."""
        note: dict[str, Any] | None = None
        for batch in batches:
            part = batch.schema.metadata[_PART]
            if part == COLD_PART:
                note = read_note(batch)
            elif part == b"gone":
                self.groups.dead.load(batch)
            else:
                self.groups.dead.set(batch.column(0).to_numpy())
        if note is not None:
            self._next = self._opened = note["next"]
            open_cold(self.groups, note)


def _keys_of(table: GroupTable) -> KeyTable:
    assert isinstance(table.keys, KeyTable)
    return table.keys


def read_note(batch: pa.RecordBatch) -> dict[str, Any]:
    """What `ColdTable.note` said."""
    note: dict[str, Any] = json.loads(batch.schema.metadata[_NOTE])
    return note


def open_cold(cold: ColdTable | None, note: dict[str, Any]) -> None:
    """Cold rows as a checkpoint describes them.

    Raises:
        StateError: there is no store, or a segment is not in it.
    """
    if cold is None:
        raise StateError("a checkpoint has cold state, and there is no store for it")
    cold.open(note["segments"])
    cold.live = note["live"]
    cold.least = {n: least for n, least in zip(note["segments"], note["least"]) if least is not None}


def _same(mine: pa.RecordBatch, other: pa.RecordBatch, key: Sequence[int]) -> Mask:
    same = np.ones(mine.num_rows, bool)
    for column in key:
        same &= same_values(mine.column(column), other.column(column))
    return same


class _Part:
    """What an eviction writes of one table: rows in the order of their groups."""

    def __init__(self, table: GroupTable, cold: ColdTable, ids: Ids, place: Ids, dependent: Dependent | None) -> None:
        """`place`: that of the group of each row, ascending."""
        self.table = table
        self.cold = cold
        self.ids = ids
        self.place = place
        self.dependent = dependent
        self.builder: Builder | None = None
        self.step = max(1, _STEP * ids.shape[0] // max(table.busy_bytes(), 1)) if ids.shape[0] else 1
        """Rows to write at a time."""


class _Eviction:
    """Groups on their way out, slice by slice. They stay where they are until all is written, and may be touched meanwhile."""

    def __init__(
        self, table: GroupTable, cold: ColdTable, dependents: Sequence[Dependent], ids: Ids, first: int, since: int
    ) -> None:
        hashes = _keys_of(table).hashes(ids)
        order = np.argsort(hashes, kind="stable")
        self.ids, self.hashes = ids[order], hashes[order]
        self.cold_ids = np.arange(first, first + ids.shape[0])
        self.since = since
        self.parts = [_Part(table, cold, self.ids, np.arange(ids.shape[0]), None)]
        place = np.full(table.keys.capacity, -1, np.int64)
        place[self.ids] = self.parts[0].place
        for dependent in dependents:
            rows, places = dependent.rows_of(place)
            order = np.argsort(places, kind="stable")
            assert dependent.cold is not None
            self.parts.append(_Part(dependent.table, dependent.cold, rows[order], places[order], dependent))
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
        place = place[untouched]
        if place.shape[0] and part.builder is not None:
            part.builder.add(part.cold.pack(part.ids[piece][untouched]), self.hashes[place], self.cold_ids[place])
        self._at += part.step
        if self._at >= part.ids.shape[0]:
            self._end_part(part)
        return self._part == len(self.parts)

    def _end_part(self, part: _Part) -> None:
        if part.builder is not None:
            segment = part.builder.finish()
            part.builder = None
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
