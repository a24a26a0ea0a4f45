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

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from forebay.engine.consolidate import same_values
from forebay.engine.state.aging import ALWAYS
from forebay.engine.state.arrays import Mask, hash_rows
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.coldtable import COLD_PART, ID, PART, ColdTable, Ids, Words, open_cold, read_note
from forebay.engine.state.eviction import Dependent, Eviction
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.segment import Hashes
from forebay.kernels.rows import SHIFT

if TYPE_CHECKING:
    from forebay.engine.state.groups import GroupTable

_STEPS = 6
"""Slices written between two epochs: what comes in meanwhile needs room, too."""
_MANY = 12
"""Segments of one table above which as many steps of merging are made between two epochs."""
_MOST = 1 << 21
"""Groups of one eviction: what is sorted at once."""
_SAMPLE = 1 << 14


class _Piece(NamedTuple):
    """Cold rows that were read, and the hot groups that they go to."""

    groups: Ids
    handles: Ids
    rows: pa.RecordBatch
    words: Words


class Returning(NamedTuple):
    """Cold groups on their way back."""

    new: Ids
    """The hot ids that no cold group goes to."""
    groups: list[_Piece]
    cold_ids: Ids
    rows: list[tuple[Dependent, _Piece]]
    """What dependents keep for them."""


class Spill:
    """The cold side of a group table and of its dependents."""

    def __init__(self, table: GroupTable, dependents: Sequence[Dependent], store: ColdStore) -> None:
        self.groups = ColdTable(table, store)
        self._table = table
        self._keys = _keys_of(table)
        self._dependents = list(dependents)
        for dependent in dependents:
            dependent.cold = ColdTable(dependent.table, store, self.groups.dead, dated=table.aging is not None)
        self._next = 1
        """The next cold id."""
        self._opened = 0
        """Segments of an earlier process have ids below."""
        self._killed: list[Ids] = []
        self._eviction: Eviction | None = None
        self._taken: list[tuple[Ids, Ids, list[tuple[ColdTable, Ids]]]] = []
        """Of the groups that the open epoch took: their cold ids, their handles, those of the rows kept for them."""
        self._least: dict[int, int] = {}
        """By segment, what its least watched word is without these."""

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
        hashes = self._keys.hashes(ids)
        self._eviction = Eviction(self._table, self.groups, self._dependents, ids, hashes, self._next, now)
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
        return ids[:_MOST]

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
        known = {number for table in tables for number in table.segments}
        for table in tables:
            table.expired = table.expired if self._table.aging is None else self._table.aging.bound
            steps = _STEPS if len(table.segments) > _MANY else 1
            while steps and table.maintain():
                steps, worked = steps - 1, True
        if known - {number for table in tables for number in table.segments}:
            self._forget_deaths()
        return worked

    def _forget_deaths(self) -> None:
        """Segments are gone, and their dead rows with them: nobody asks for the deaths of ids that no segment has."""
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

    def _finish(self, done: Eviction, stamps: Ids) -> None:
        """What was written leaves memory; groups touched meanwhile stay, and what was written of them is dead."""
        stays = stamps[done.ids] >= done.since
        gone = done.ids[~stays]
        self._die(done.cold_ids[stays])
        if self._table.watched is not None:
            least = int(self._table.words[gone, self._table.watched].min(initial=2**63 - 1))
            self.groups.least.update({s.number: least for cold, s in done.segments if cold is self.groups and s.rows})
        for part in done.parts:
            keep = ~stays[part.place]
            part.cold.live += int(keep.sum())
            for cold, segment in done.segments:
                if cold is part.cold and cold.time is not None:
                    segment.dead += int((part.written & ~keep).sum())
            if part.dependent is not None:
                part.dependent.evict(part.ids[keep], gone)
        self._table.evict(gone)

    def _die(self, cold_ids: Ids) -> None:
        if cold_ids.shape[0]:
            self.groups.dead.set(cold_ids)
            self._killed.append(cold_ids)

    # -- back into memory ---------------------------------------------------------------------------------------

    def look_up(self, ids: Ids) -> Returning | None:
        """The cold groups of the keys of these hot ids, which are new here; None if there are none. Nothing changes yet."""
        if not self.groups or not ids.shape[0]:
            return None
        return self.find(self._keys.gather(ids), ids)

    def find(self, keys: pa.RecordBatch, ids: Ids) -> Returning | None:
        """The cold groups under these keys, for the ids that go with them; None if there are none. Nothing changes."""
        key = self._keys.key
        hashes = hash_rows(keys, key)
        wanted = np.ones(ids.shape[0], bool)
        found, known = [], []
        since = ALWAYS if self._table.aging is None else self._table.aging.bound
        for places, handles, cold_ids in self.groups.find(hashes, since, wanted):
            alive = np.flatnonzero(~self.groups.dead.test(cold_ids))
            if not alive.shape[0]:
                continue
            places, cold_ids, handles = places[alive], cold_ids[alive], handles[alive]
            rows, words = self.groups.unpack(handles)
            same = _same(rows, keys.take(pa.array(places)), key) & self._there(words)
            if not same.all():
                places, cold_ids, handles = places[same], cold_ids[same], handles[same]
                rows, words = rows.filter(pa.array(same)), words[same]
            wanted[places] = False
            found.append(_Piece(ids[places], handles, rows, words))
            known.append(cold_ids)
        if not found:
            return None
        cold_ids = np.concatenate(known)
        groups = np.concatenate([p.groups for p in found])
        where = np.argsort(ids, kind="stable")
        there = where[np.searchsorted(ids, groups, sorter=where)]
        return Returning(ids[wanted], found, cold_ids, self._rows_of(hashes[there], cold_ids, groups))

    def _there(self, words: Words) -> Mask:
        """Which of the groups with these words have not expired."""
        aging = self._table.aging
        return np.ones(words.shape[0], bool) if aging is None else ~aging.expired(words[:, aging.word])

    def recall(self, found: Returning) -> None:
        """Make groups hot that were looked up. Does not fail: what is read has been read."""
        for piece in found.groups:
            self._table.revive(piece.groups, piece.rows, piece.words)
            self.groups.die(piece.handles)
        self._came(found.cold_ids, found.rows)

    def take_due(self, most: int) -> Iterator[Returning]:
        """The groups whose watched word is at most that, with what is kept for them, in pieces, numbered within each.

        They stay on disk, and die when the epoch is committed.
        """
        for number, segment in list(self.groups.segments.items()):
            if self.groups.least[number] > most:
                continue
            left = 2**63 - 1
            for handles in self.groups.scan([segment]):
                handles = handles[~self.groups.dead.test(self.groups.ids(handles))]
                watched = self._watched(handles)
                left = min(left, int(watched[watched > most].min(initial=2**63 - 1)))
                due = handles[watched <= most]
                if due.shape[0]:
                    found = self._piece(due)
                    theirs = [(d.cold, p.handles) for d, p in found.rows if d.cold is not None]
                    self._taken.append((found.cold_ids, due, theirs))
                    yield found
            self._least[number] = left

    def _watched(self, handles: Ids) -> Ids:
        """The watched word of each of these groups."""
        assert self._table.watched is not None
        column = len(self._keys.schema) + self._table.watched
        return np.asarray(self.groups.gather(handles, [column]).column(0).to_numpy())

    def _piece(self, handles: Ids) -> Returning:
        """These groups with what is kept for them, numbered."""
        cold_ids, numbers = self.groups.ids(handles), np.arange(handles.shape[0])
        rows, words = self.groups.unpack(handles)
        kept = self._rows_of(hash_rows(rows, self._keys.key), cold_ids, numbers)
        return Returning(numbers[:0], [_Piece(numbers, handles, rows, words)], cold_ids, kept)

    def least(self) -> int:
        """No live group has less in its watched word, but for those that were taken."""
        return min((self.groups.least | self._least).values(), default=2**63 - 1)

    def commit(self) -> None:
        """What was taken is dead."""
        for cold_ids, handles, theirs in self._taken:
            self._die(cold_ids)
            self.groups.die(handles)
            for cold, rows in theirs:
                cold.die(rows)
        self.groups.least.update(self._least)
        self.rollback()

    def rollback(self) -> None:
        """Nothing was taken."""
        self._taken.clear()
        self._least.clear()

    def _rows_of(self, hashes: Hashes, cold_ids: Ids, groups: Ids) -> list[tuple[Dependent, _Piece]]:
        """What dependents keep for cold groups, to go to the given hot ones."""
        found = []
        for dependent in self._dependents:
            cold = dependent.cold
            if not cold:
                continue
            for index, handles, ids in cold.find(hashes):
                mine = np.flatnonzero(ids == cold_ids[index])
                if mine.shape[0]:
                    owners = index[mine]
                    found.append((dependent, _Piece(groups[owners], handles[mine], *cold.unpack(handles[mine]))))
        return found

    def _came(self, cold_ids: Ids, rows: Sequence[tuple[Dependent, _Piece]]) -> None:
        """Groups are hot: their rows follow, and what was cold is dead."""
        for dependent, piece in rows:
            assert dependent.cold is not None
            dependent.cold.die(piece.handles)
            dependent.admit(piece.groups, piece.rows, piece.words)
        self._die(cold_ids)

    def contents(self) -> Iterator[pa.RecordBatch]:
        """What the live cold groups store, in pieces."""
        for alive in self._alive():
            yield self.groups.unpack(alive)[0]

    def _alive(self) -> Iterator[Ids]:
        """The handles of all live cold groups, in pieces."""
        for handles in self.groups.scan():
            alive = handles[~self.groups.dead.test(self.groups.ids(handles))]
            if self._table.aging is not None:
                alive = alive[~self._table.aging.expired(self.groups.times_of(alive))]
            if alive.shape[0]:
                yield alive

    def all(self) -> Iterator[Returning]:
        """All live cold groups with what is kept for them, in pieces, numbered within each. Nothing changes."""
        for alive in self._alive():
            yield self._piece(alive)

    def nbytes(self) -> int:
        """Bytes of memory, without what dependents count."""
        return self.groups.nbytes()

    def stay(self) -> None:
        """Give up the eviction and the merges under way: groups stay where they are."""
        if self._eviction is not None:
            self._eviction.abandon()
            self._eviction = None
        for table in self.tables():
            table.abandon_merge()

    def close(self) -> None:
        """Nobody will read the groups again."""
        self.stay()
        for table in self.tables():
            table.close()

    # -- checkpoints --------------------------------------------------------------------------------------------

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        """Which segments there are, and which of their groups have died."""
        batches = self.groups.note(full, next=self._next)
        if full and self._next > 1:
            batches.append(self.groups.dead.save().replace_schema_metadata({PART: b"gone"}))
        elif self._killed:
            dead = pa.array(np.concatenate(self._killed))
            batches.append(pa.RecordBatch.from_arrays([dead], schema=pa.schema([ID], {PART: b"killed"})))
        self._killed = []
        return batches

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """What `changes` gave, oldest first."""
        note: dict[str, Any] | None = None
        for batch in batches:
            part = batch.schema.metadata[PART]
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


def _same(mine: pa.RecordBatch, other: pa.RecordBatch, key: Sequence[int]) -> Mask:
    same = np.ones(mine.num_rows, bool)
    for column in key:
        same &= same_values(mine.column(column), other.column(column))
    return same
