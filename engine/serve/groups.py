"""The rows of keyed state as they lie, in memory and on disk, read between epochs without moving any of them.

Groups in memory are read where they are. A cold one is taken apart: what it stored and its words come from its segment, the rows
kept for it (the values behind a MIN, the rows of a Top-N) from those of its dependents, found by its hash. So a question about
one key reads the blocks of that key. The results of a cold aggregate are computed by an empty aggregation of the same make,
which gets the group and is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from forebay.engine.operators.aggregate import Aggregation
from forebay.engine.operators.normalize import LastRows
from forebay.engine.state.groups import GroupTable, Ids, Words
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.multiset import BestRows, OrderedRows
from forebay.engine.state.spill import Returning

_CHUNK = 8192


class Groups:
    """The groups of a table and the rows that are kept for them. A `key` is one row of the key's columns."""

    def __init__(self, table: GroupTable, results: Aggregation | None = None) -> None:
        """`results`: the aggregation whose groups they are."""
        self.table = table
        self._results = results

    def rows(self, key: pa.RecordBatch | None = None) -> Iterator[pa.RecordBatch]:
        """A row per group: the result of an aggregation, the row that is the last of its key, else key and number of rows."""
        for ids in self._hot(key):
            if self._results is not None:
                yield self._results.current(ids)
            else:
                yield self._told(self.table.keys.gather(ids), self._counts(ids))
        for found in self._cold(key):
            yield self._results.apart(found) if self._results is not None else self._cold_rows(found)

    def kept(self, rows: OrderedRows, key: pa.RecordBatch | None = None) -> Iterator[pa.RecordBatch]:
        """The rows that `rows`, a dependent, keeps for the groups: keys of an aggregation, the row, a count per variant."""
        for groups in self._hot(key):
            place = np.full(self.table.keys.capacity, -1, np.int64)
            place[groups] = groups
            ids, owners = rows.rows_of(place)
            for start in range(0, ids.shape[0], _CHUNK):
                part = slice(start, start + _CHUNK)
                keys = self.table.keys.gather(owners[part])
                yield self._kept(rows, keys, rows.gather(ids[part]), rows.table.read(ids[part]))
        for found in self._cold(key):
            keys = pa.concat_batches([p.rows for p in found.groups])
            place = np.zeros(int(max(p.groups.max() for p in found.groups)) + 1, np.int64)
            place[np.concatenate([p.groups for p in found.groups])] = np.arange(keys.num_rows)
            for dependent, piece in found.rows:
                if dependent is rows:
                    yield self._kept(rows, keys.take(pa.array(place[piece.groups])), piece.rows, piece.words)

    # -- memory -------------------------------------------------------------------------------------------------

    def _hot(self, key: pa.RecordBatch | None) -> Iterator[Ids]:
        if key is None:
            ids = self.table.all_ids()
            ids = ids[~self.table.expired(ids)]
            for start in range(0, ids.shape[0], _CHUNK):
                yield ids[start : start + _CHUNK]
            return
        assert isinstance(self.table.keys, KeyTable)
        found = self.table.keys.find(self._spread(key))
        if found[0] >= 0 and not self.table.expired(found)[0]:
            yield found

    def _counts(self, ids: Ids) -> Ids:
        kept = self._best_rows()
        return self.table.read(ids)[:, 0] if kept is None else kept.sizes(ids)

    def _best_rows(self) -> BestRows | None:
        """The rows of a ranking that never retracts: its groups do not count them."""
        return next((d for d in self.table.dependents if isinstance(d, BestRows)), None)

    # -- disk ---------------------------------------------------------------------------------------------------

    def _cold(self, key: pa.RecordBatch | None) -> Iterator[Returning]:
        return self.table.cold(None if key is None else self._spread(key))

    def _cold_rows(self, found: Returning) -> pa.RecordBatch:
        rows = pa.concat_batches([p.rows for p in found.groups])
        if self._best_rows() is None:
            return self._told(rows, np.concatenate([p.words[:, 0] for p in found.groups]))
        owners = np.concatenate([np.zeros(0, np.int64), *(p.groups for _, p in found.rows)])
        groups = np.concatenate([p.groups for p in found.groups])
        return self._told(rows, np.bincount(owners, minlength=int(groups.max()) + 1)[groups])

    # -- shapes -------------------------------------------------------------------------------------------------

    def _spread(self, key: pa.RecordBatch) -> pa.RecordBatch:
        """The key as a row of what the groups store; other columns are NULL."""
        values = dict(zip(self.table.key, key.columns))
        schema = pa.schema([f.with_nullable(True) for f in self.table.keys.schema])
        columns = [values.get(i, pa.nulls(key.num_rows, f.type)) for i, f in enumerate(schema)]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _told(self, rows: pa.RecordBatch, counts: Ids) -> pa.RecordBatch:
        live = np.flatnonzero(counts)
        columns = rows.take(pa.array(live)).columns
        return _batch(columns if isinstance(self.table, LastRows) else [*columns, pa.array(counts[live])])

    def _kept(self, rows: OrderedRows, keys: pa.RecordBatch, stored: pa.RecordBatch, words: Words) -> pa.RecordBatch:
        counts = [pa.array(np.ascontiguousarray(words[:, i])) for i in range(rows.variants)]
        if self._results is None:
            return _batch([*stored.columns, *counts])
        return _batch([*keys.columns, *stored.columns[1:], *counts])


def _batch(columns: list[pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(columns, names=[str(i) for i in range(len(columns))])
