"""Rows under dense ids: allocated, found by key, released, allocated again.

`RowTable` stores rows; `KeyTable` also finds them by the value of their key columns. Ids are born in an open epoch and stay
readable until `release`, which follows the commit of the epoch in which they died; `rollback` takes back those born in it.
Equal hashes are verified by comparing columns, except where the hash is a bijection of the key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.state.arrays import hash_rows, is_fixed
from forebay.engine.state.slots import Ids, Mask, column_of, grown
from forebay.kernels import group as kernels
from forebay.kernels.hash import combine_words

Hashes = npt.NDArray[np.uint64]


class RowTable:
    """Rows of `schema` by dense id."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.count = 0
        self.capacity = 0
        self._columns = [column_of(field.type) for field in schema]
        self._live = np.zeros(0, bool)
        self._free: Ids = np.zeros(64, np.int64)  # a stack
        self._free_count = 0
        self._born: list[Ids] = []

    def take_ids(self, count: int) -> Ids:
        """Ids that are not in use, for `put` or `give_back`."""
        used = min(count, self._free_count)
        self._free_count -= used
        reused = self._free[self._free_count : self._free_count + used][::-1]
        fresh = np.arange(self.capacity, self.capacity + count - used)
        self.capacity += fresh.shape[0]
        self._live = grown(self._live, self.capacity, 0)
        return np.concatenate([reused, fresh])

    def give_back(self, ids: Ids) -> None:
        """Ids of `take_ids` that are not needed."""
        count = self._free_count + ids.shape[0]
        self._free = grown(self._free, count, 0)
        self._free[self._free_count : count] = ids[::-1]
        self._free_count = count

    def put(self, ids: Ids, rows: pa.RecordBatch) -> None:
        """Give birth to rows under ids of `take_ids`."""
        if not ids.shape[0]:
            return
        for column, array in zip(self._columns, rows.columns):
            column.put(ids, array)
        self._live[ids] = True
        self.count += ids.shape[0]
        self._born.append(ids)

    def gather(self, ids: Ids) -> pa.RecordBatch:
        """The rows of ids that live or died in the open epoch, in that order."""
        if not self._columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * ids.shape[0], pa.struct([])))
        return pa.RecordBatch.from_arrays([column.gather(ids) for column in self._columns], schema=self.schema)

    def gather_column(self, ids: Ids, column: int) -> pa.Array:
        """One column of `gather`."""
        return self._columns[column].gather(ids)

    def live(self, ids: Ids) -> Mask:
        """Which ids are in use."""
        return self._live[ids]

    def all_ids(self) -> Ids:
        """Every id in use, ascending."""
        return np.flatnonzero(self._live)

    def births(self) -> int:
        """A mark for `born_since` and `take_births`."""
        return len(self._born)

    def born_since(self, mark: int) -> Ids:
        """The ids born in the open epoch since a mark."""
        return np.concatenate([np.zeros(0, np.int64), *self._born[mark:]])

    def take_births(self, since: int) -> None:
        """What was born in the open epoch since a mark counts as older: `rollback` will not take it back."""
        del self._born[since:]

    def give_birth(self, ids: Ids) -> None:
        """Ids of `take_births` that are to be taken back by `rollback` after all."""
        if ids.shape[0]:
            self._born.append(ids)

    def admit(self, rows: pa.RecordBatch) -> Ids:
        """Store rows that are not here, as if they had been here before the epoch; returns their ids."""
        ids = self.take_ids(rows.num_rows)
        self.put(ids, rows)
        self._born.pop()
        return ids

    def release(self, ids: Ids) -> None:
        """Let rows go for good; ids may repeat, and may be free already."""
        self._release(self._take_live(ids))

    def _take_live(self, ids: Ids) -> Ids:
        """Which ids were live, once each; they no longer are."""
        out = np.empty(ids.shape[0], np.int64)
        return out[: kernels.take_live(ids, self._live.view(np.uint8), out)]

    def _release(self, ids: Ids) -> None:
        for column in self._columns:
            column.forget(ids)
        self.count -= ids.shape[0]
        self.give_back(ids)

    def commit(self) -> None:
        """Close the epoch, after `release`."""
        self._born.clear()
        for column in self._columns:
            if column.wasteful():
                column.squeeze(self.all_ids())

    def rollback(self) -> None:
        """Release what was born in the open epoch."""
        born, self._born = self._born, []
        for ids in reversed(born):
            self.release(ids)

    def restore(self, ids: Ids, rows: pa.RecordBatch) -> None:
        """Put saved rows under their ids into a table that does not have them; `loaded` must follow."""
        self.capacity = max(self.capacity, int(ids.max()) + 1)
        self._live = grown(self._live, self.capacity, 0)
        self.put(ids, rows)

    def loaded(self) -> None:
        """All has been restored: the other ids are free."""
        self._born.clear()
        self._free = np.flatnonzero(~self._live[: self.capacity])[::-1].copy()
        self._free_count = self._free.shape[0]

    def nbytes(self) -> int:
        return sum(column.nbytes() for column in self._columns) + self._live.nbytes + self._free.nbytes

    def used_share(self) -> float:
        """Of the memory by id, what live rows use."""
        return self.count / max(self._live.shape[0], 1)

    def busy_bytes(self) -> int:
        """Of `nbytes`, those of live rows."""
        share = self.used_share()
        return sum(c.busy_bytes(share) for c in self._columns) + int((self._live.nbytes + self._free.nbytes) * share)


class KeyTable(RowTable):
    """Rows found by the columns `key` (all by default). NULL is a key like any other; with no key columns all rows are one."""

    def __init__(self, schema: pa.Schema, key: Sequence[int] | None = None) -> None:
        super().__init__(schema)
        self.key = tuple(range(len(schema)) if key is None else key)
        self._slots = np.zeros((64, 2), np.uint64)
        self._hashes: Hashes = np.zeros(0, np.uint64)
        self._moved: Ids = np.zeros(0, np.int64)  # ids whose own hash was taken by another key

    def intern(self, rows: pa.RecordBatch) -> Ids:
        """The id of each row's key. A new key is stored with its first row."""
        return self._intern(hash_rows(rows, self.key), rows, False)

    def _intern(self, hashes: Hashes, rows: pa.RecordBatch, moved: bool) -> Ids:
        n = rows.num_rows
        self._make_room(n)
        free = self.take_ids(n)
        ids, born = np.empty(n, np.int64), np.empty(n, np.int64)
        count = kernels.intern(hashes, self._slots, free, ids, born)
        new, born = free[:count], born[:count]
        self.give_back(free[count:])
        if count:
            self.put(new, rows if count == n else rows.take(pa.array(born)))
            self._hashes = grown(self._hashes, self.capacity, 0)
            self._hashes[new] = hashes[born]
            if moved:
                self._moved = np.concatenate([self._moved, new])
        if count < n:
            self._settle(ids, hashes, rows)
        return ids

    def _settle(self, ids: Ids, hashes: Hashes, rows: pa.RecordBatch) -> None:
        """Rows that met another key of equal hash go on under another hash."""
        wrong = np.flatnonzero(self._differ(ids, rows))
        if wrong.shape[0]:
            ids[wrong] = self._intern(_next_hash(hashes[wrong]), rows.take(pa.array(wrong)), True)

    def find(self, rows: pa.RecordBatch) -> Ids:
        """The id of each row's key, -1 where it is unknown. Only the key columns of `rows` are read."""
        return self._find(hash_rows(rows, self.key), rows)

    def _find(self, hashes: Hashes, rows: pa.RecordBatch) -> Ids:
        ids = np.empty(rows.num_rows, np.int64)
        kernels.find(hashes, self._slots, ids)
        known = np.flatnonzero(ids >= 0)
        if known.shape[0]:
            wrong = known[self._differ(ids[known], rows.take(pa.array(known)))]
            if wrong.shape[0]:
                ids[wrong] = self._find(_next_hash(hashes[wrong]), rows.take(pa.array(wrong)))
        return ids

    def _differ(self, ids: Ids, rows: pa.RecordBatch) -> Mask:
        """Which rows have another key than that of the id found by their hash."""
        if not self.key or (len(self.key) == 1 and self._bijective(rows.column(self.key[0]))):
            return np.zeros(ids.shape[0], bool)
        equal = np.ones(ids.shape[0], np.uint8)
        for column in self.key:
            self._columns[column].keep_equal(ids, rows.column(column), equal)
        wrong: Mask = equal == 0
        return wrong

    def _bijective(self, array: pa.Array) -> bool:
        return is_fixed(array.type) and not array.null_count and not self._columns[self.key[0]].has_null

    def replace(self, ids: Ids, rows: pa.RecordBatch) -> None:
        """Store other rows of the same keys; not undone by `rollback`."""
        for number, column in enumerate(self._columns):
            column.forget(ids)
            column.put(ids, rows.column(number))

    def admit(self, rows: pa.RecordBatch) -> Ids:
        mark = self.births()
        ids = self.intern(rows)
        self.take_births(mark)
        return ids

    def moved(self) -> Ids:
        """Ids that are not found under their own hash."""
        return self._moved

    def hashes(self, ids: Ids) -> Hashes:
        """The hashes under which ids are found."""
        return self._hashes[ids]

    def _make_room(self, more: int) -> None:
        need = 2 * (self.count + more)
        if need > self._slots.shape[0]:
            self._place_all(need)

    def _place_all(self, need: int) -> None:
        """A new table with room for `need` slots and more."""
        self._slots = np.zeros((1 << int(need * 3 // 2).bit_length(), 2), np.uint64)
        ids = self.all_ids()
        kernels.place(self._hashes[ids], ids, self._slots)

    def _release(self, ids: Ids) -> None:
        if 4 * ids.shape[0] > self.count + 64:  # many: what is left goes into a table of its size
            super()._release(ids)
            self._place_all(2 * self.count + 64)
        else:
            kernels.displace(self._hashes[ids], ids, self._slots)
            super()._release(ids)
        if self._moved.shape[0]:
            self._resettle()

    def _resettle(self) -> None:
        """Enter moved keys anew: the one that was in their way may be gone."""
        moved = self._moved[self._live[self._moved]]
        kernels.displace(self._hashes[moved], moved, self._slots)
        self._moved = moved[:0]
        for one in np.sort(moved):
            self._enter(np.array([one]))

    def _enter(self, ids: Ids) -> None:
        rows = self.gather(ids)
        hashes = hash_rows(rows, self.key)
        found = np.empty(1, np.int64)
        kernels.find(hashes, self._slots, found)
        while found[0] >= 0:
            self._moved = np.union1d(self._moved, ids)
            hashes = _next_hash(hashes)
            kernels.find(hashes, self._slots, found)
        self._hashes[ids] = hashes
        kernels.place(hashes, ids, self._slots)

    def restore(self, ids: Ids, rows: pa.RecordBatch) -> None:
        super().restore(ids, rows)
        self._hashes = grown(self._hashes, self.capacity, 0)
        self._hashes[ids] = hash_rows(rows, self.key) if self.key else 0

    def loaded(self) -> None:
        super().loaded()
        ids = self.all_ids()
        _, first = np.unique(self._hashes[ids], return_index=True)
        own = np.zeros(ids.shape[0], bool)
        own[first] = True
        self._slots = np.zeros((1 << int(3 * max(ids.shape[0], 32)).bit_length(), 2), np.uint64)
        kernels.place(self._hashes[ids[own]], ids[own], self._slots)
        for one in ids[~own]:
            self._enter(np.array([one]))

    def nbytes(self) -> int:
        return super().nbytes() + self._slots.nbytes + self._hashes.nbytes

    def busy_bytes(self) -> int:
        return super().busy_bytes() + self._slots.nbytes + int(self._hashes.nbytes * self.used_share())


def _next_hash(hashes: Hashes) -> Hashes:
    """Where a key goes whose place is taken by another of equal hash."""
    out = hashes.copy()
    combine_words(np.full(hashes.shape[0], 0x5EED, np.uint64), out)
    return out
