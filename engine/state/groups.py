"""Keyed state: a key table whose every id owns a row of int64 words, transactional by epoch and saved by what changed.

A *group* is a live id. Before its words change in an epoch it is *opened*, which keeps the old words: they are the undo log,
the old side of the output, and what the next checkpoint has to write. Words of an id that is not live are zero.

With an `Aging` groups expire: one that has is found new when it is opened, whether it was still in memory or not.

With a cold store, groups that nobody touched for long may leave memory (`engine.state.spill`); `intern` brings them back, so
that whoever has the id of a key has its group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.errors import StateError
from forebay.engine.state import Tiered
from forebay.engine.state.aging import Aging
from forebay.engine.state.arrays import Mask
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.coldtable import ColdTable
from forebay.engine.state.eviction import Dependent
from forebay.engine.state.keys import KeyTable, RowTable
from forebay.engine.state.slots import grown
from forebay.engine.state.spill import Returning, Spill
from forebay.engine.state.times import NEVER
from forebay.kernels import group as kernels

Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.int64]

UNMATCHED = "retractions_unmatched"
LEAST = 1 << 20
"""Bytes of hot groups below which evicting them is not worth a segment."""
_CHUNK = 8192
_ROWS = {b"part": b"rows"}
_DEAD = {b"part": b"dead"}
_ID = pa.field("__id", pa.int64(), False)


class Opened(NamedTuple):
    """Groups opened by one call: their ids, where in the call each appeared first, and their words before."""

    ids: Ids
    first: Ids
    words: Words


class GroupTable(Tiered):
    """Words by id: `words[id]` is int64[width]; `keys` says which ids live and what is stored with them.

    `counters` are the owner's (late rows, unmatched retractions): rolled back with the rest, not saved.
    """

    def __init__(
        self,
        keys: RowTable,
        width: int,
        dependents: Sequence[Dependent] = (),
        watched: int | None = None,
        aging: Aging | None = None,
    ) -> None:
        """`dependents` keep rows by group, which leave memory with it. `watched`: the word that `take_due` goes by.

        With `aging` the dependents have an order.
        """
        self.keys = keys
        self.width = width
        self.aging = aging
        self.words: Words = np.zeros((0, width), np.int64)
        self._stamp: Ids = np.zeros(0, np.int64)
        self._now = 1
        self._opened: list[Opened] = []
        self._dying: list[Ids] = []
        self._dirty = np.zeros(0, bool)  # opened since the last `changes`
        self.counters: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self.key = keys.key if isinstance(keys, KeyTable) else ()
        self.watched = watched
        self._dependents = list(dependents)
        self._spill: Spill | None = None
        self._touched = 0
        self._recalled = 0

    @property
    def unmatched(self) -> int:  # type: ignore[override]
        return int(self.counters[UNMATCHED])

    def intern(self, rows: pa.RecordBatch) -> Ids:
        """The id of each row's key; keys not seen before become groups with zero words."""
        assert isinstance(self.keys, KeyTable)
        mark = self.keys.births()
        ids = self.keys.intern(rows)
        self.reserve(self.keys.capacity)
        if self._spill is not None:
            found = self._spill.look_up(self.keys.born_since(mark))
            if found is not None:
                self.keys.take_births(mark)
                self.keys.give_birth(found.new)
                self._spill.recall(found)
                self._recalled += found.cold_ids.shape[0]
        return ids

    def take_due(self, most: int) -> Iterator[Returning]:
        """The groups on disk whose watched word is at most `most`, in pieces: they are dead once the epoch is committed."""
        if self._spill is not None:
            yield from self._spill.take_due(most)

    def least_cold(self) -> int:
        """No group that is not in memory has less in its watched word."""
        return self._spill.least() if self._spill is not None else 2**63 - 1

    def reserve(self, capacity: int) -> None:
        """Make room for words of ids below `capacity`."""
        self.words = grown(self.words, capacity, 0)
        self._stamp = grown(self._stamp, capacity, 0)
        self._dirty = grown(self._dirty, capacity, 0)

    def open(self, ids: Ids) -> Opened:
        """Open the distinct ids that this epoch has not opened yet, in order of appearance."""
        fresh = np.empty(ids.shape[0], np.int64)
        first = np.empty(ids.shape[0], np.int64)
        n = kernels.touch(ids, self._stamp, self._now, fresh, first)
        opened = Opened(fresh[:n], first[:n], self.read(fresh[:n]))
        if n:
            self._touched += n
            self._opened.append(opened)
            self._dirty[opened.ids] = True
            if self.aging is not None:
                self._begin_anew(opened, self.aging)
        return opened

    def _begin_anew(self, opened: Opened, aging: Aging) -> None:
        """Groups that have expired are new. What they kept is gone for good: if the epoch is rolled back, so are they."""
        gone = aging.expired(opened.words[:, aging.word])
        if gone.any():
            ids = opened.ids[gone]
            opened.words[gone] = 0
            self.words[ids] = 0
            self._forget_rows(ids)
            self.keys.give_birth(ids)

    def _forget_rows(self, groups: Ids) -> None:
        for dependent in self._dependents:
            dependent.forget(groups)

    def expired(self, ids: Ids) -> Mask:
        """Which groups are gone, although they are still in memory."""
        if self.aging is None:
            return np.zeros(ids.shape[0], bool)
        return self.aging.expired(self.words[ids, self.aging.word])

    def read(self, ids: Ids) -> Words:
        """A copy of the words of each id: int64[n, width]."""
        out = np.empty((ids.shape[0], self.width), np.int64)
        kernels.gather(self.words, ids, out)
        return out

    def write(self, ids: Ids, words: Words) -> None:
        """Set the words of opened ids."""
        kernels.scatter(words, ids, self.words)

    def free(self, ids: Ids) -> None:
        """Let opened groups die at commit; until then they can be read, and are still found by their key."""
        if ids.shape[0]:
            self._dying.append(ids)

    def all_ids(self) -> Ids:
        """Every live id in memory, ascending."""
        return self.keys.all_ids()

    def oldest(self) -> int:
        """When the group was last updated for which that is longest ago, expired ones included; NEVER if there is none."""
        assert self.aging is not None
        times = self.words[self.all_ids(), self.aging.word]
        cold = [s.times[0] for s in self.cold_segments() if s.times is not None]
        return min([int(times.min(initial=NEVER)), *cold])

    def contents(self) -> Iterator[pa.RecordBatch]:
        """What all groups store, hot and cold, in pieces."""
        ids = self.all_ids()
        ids = ids if self.aging is None else ids[~self.expired(ids)]
        for start in range(0, ids.shape[0], _CHUNK):
            yield self.keys.gather(ids[start : start + _CHUNK])
        if self._spill is not None:
            yield from self._spill.contents()

    @property
    def dependents(self) -> Sequence[Dependent]:
        """What keeps rows by group."""
        return self._dependents

    def cold(self, keys: pa.RecordBatch | None = None) -> Iterator[Returning]:
        """The groups that are not in memory (or those under some distinct keys) as they are there; they stay where they are."""
        if self._spill is None:
            return
        if keys is None:
            yield from self._spill.all()
            return
        found = self._spill.find(keys, np.arange(keys.num_rows))
        if found is not None:
            yield found

    def rows(self) -> int:
        return self.keys.count + (self._spill.groups.live if self._spill is not None else 0)

    def nbytes(self) -> int:
        return self._hot() + (self._spill.nbytes() if self._spill is not None else 0)

    def _hot(self) -> int:
        return self.keys.nbytes() + self.words.nbytes + self._stamp.nbytes + self._dirty.nbytes

    def commit(self) -> None:
        if self._dying:
            dead = np.concatenate(self._dying)
            self.words[dead] = 0
            self.keys.release(dead)
        self.keys.commit()
        if self._spill is not None:
            self._spill.commit()
        self._counted = Counter(self.counters)
        self._next()

    def rollback(self) -> None:
        for opened in reversed(self._opened):
            self.write(opened.ids, opened.words)
        self.keys.rollback()
        if self._spill is not None:
            self._spill.rollback()
        self.counters = Counter(self._counted)
        self._next()

    def _next(self) -> None:
        self._opened.clear()
        self._dying.clear()
        self._now += 1

    # -- tiers --------------------------------------------------------------------------------------------------

    def use(self, store: ColdStore) -> None:
        if self.key:
            self._spill = Spill(self, self._dependents, store)

    def hot_bytes(self) -> int:
        if self._spill is None:
            return 0
        return self.busy_bytes() + sum(d.nbytes() - d.idle_bytes() for d in self._dependents)

    def busy_bytes(self) -> int:
        """Of the bytes of hot groups, those of live ones."""
        by_id = self.words.nbytes + self._stamp.nbytes + self._dirty.nbytes
        return self.keys.busy_bytes() + int(by_id * self.keys.used_share())

    def idle_bytes(self) -> int:
        return self._hot() - self.busy_bytes() + sum(d.idle_bytes() for d in self._dependents)

    def seal(self, share: float) -> bool:
        if self._spill is None or self.hot_bytes() < LEAST:
            return False
        return self._spill.begin(share, self._stamp, self._now)

    @property
    def sealing(self) -> bool:
        return self._spill is not None and self._spill.evicting

    def maintain(self) -> bool:
        swept = self.aging is not None and not self.sealing and self._sweep(self.aging)
        return (self._spill is not None and self._spill.step(self._stamp)) or swept

    def _sweep(self, aging: Aging) -> bool:
        """Clear expired groups away, a slice of the table at a time; False if it is too early for another look."""
        piece = aging.slice(self.keys.capacity)
        if piece is None:
            return False
        ids = np.arange(piece.start, piece.stop)
        gone = ids[self.keys.live(ids) & self.expired(ids)]
        if gone.shape[0]:
            self._forget_rows(gone)
            self.evict(gone)
        return True

    def finish_sealing(self) -> None:
        if self._spill is not None:
            self._spill.finish(self._stamp)

    def stay(self) -> None:
        if self._spill is not None:
            self._spill.stay()

    def evict(self, ids: Ids) -> None:
        """Forget groups, between epochs: they are cold, or have expired."""
        self.words[ids] = 0
        self._dirty[ids] = True
        self.keys.release(ids)
        self.keys.commit()

    def revive(self, ids: Ids, rows: pa.RecordBatch, words: Words) -> None:
        """Groups that were just born are not new: this is what they store and their words."""
        assert isinstance(self.keys, KeyTable)
        if len(self.key) < len(self.keys.schema):
            self.keys.replace(ids, rows)
        self._come_back(ids, words)

    def admit(self, rows: pa.RecordBatch, words: Words) -> Ids:
        """Take back rows that were evicted, under new ids."""
        ids = self.keys.admit(rows)
        self.reserve(self.keys.capacity)
        self._come_back(ids, words)
        return ids

    def _come_back(self, ids: Ids, words: Words) -> None:
        self.write(ids, words)
        self._stamp[ids] = self._now - 1  # of late, but not opened
        self._dirty[ids] = True

    @property
    def on_disk(self) -> ColdTable | None:
        return self._spill.groups if self._spill is not None else None

    def memory_hits(self) -> float | None:
        """Of the groups that epochs have touched."""
        return 1 - self._recalled / self._touched if self._touched else None

    def close(self) -> None:
        if self._spill is not None:
            self._spill.close()

    # -- checkpoints --------------------------------------------------------------------------------------------

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        ids = self.keys.all_ids() if full else np.flatnonzero(self._dirty)
        self._dirty[:] = False
        live = self.keys.live(ids)
        batches = []
        if not live.all():
            schema = pa.schema([_ID], _DEAD)
            batches.append(pa.RecordBatch.from_arrays([pa.array(ids[~live])], schema=schema))
        if live.any():
            batches.append(self._saved(ids[live]))
        if self._spill is not None:
            batches += self._spill.changes(full)
        return batches

    def _saved(self, ids: Ids) -> pa.RecordBatch:
        words = self.read(ids)
        stored = self.keys.gather(ids)
        columns = [
            pa.array(ids),
            *(pa.array(np.ascontiguousarray(words[:, j])) for j in range(self.width)),
            *stored.columns,
        ]
        fields = [_ID, *(pa.field(f"__w{j}", pa.int64(), False) for j in range(self.width))]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*fields, *stored.schema], _ROWS))

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """The last batch that names an id says what it is."""
        batches = list(batches)
        hot = (_ROWS[b"part"], _DEAD[b"part"])
        saved = [b for b in batches if b.schema.metadata[b"part"] in hot and b.num_rows]
        cold = [b for b in batches if b.schema.metadata[b"part"] not in hot]
        if cold:
            if self._spill is None:
                raise StateError("a checkpoint has cold state, and there is no store for it")
            self._spill.load(cold)
        if not saved:
            return
        ids = np.concatenate([b.column(0).to_numpy() for b in saved])
        _, last = np.unique(ids[::-1], return_index=True)
        newest = np.zeros(ids.shape[0], bool)
        newest[ids.shape[0] - 1 - last] = True
        start = 0
        for batch in saved:
            keep = newest[start : start + batch.num_rows]
            start += batch.num_rows
            if batch.schema.metadata[b"part"] == b"rows" and keep.any():
                self._restore(batch.filter(pa.array(keep)))
        self.keys.loaded()

    def _restore(self, batch: pa.RecordBatch) -> None:
        ids = batch.column(0).to_numpy()
        columns = batch.columns[1 + self.width :]
        self.keys.restore(ids, pa.RecordBatch.from_arrays(columns, schema=self.keys.schema))
        self.reserve(self.keys.capacity)
        words = [batch.column(1 + j).to_numpy() for j in range(self.width)]
        self.write(ids, np.column_stack(words) if words else np.zeros((ids.shape[0], 0), np.int64))
