"""The rows of one side of a join that stand as matched, remembered because their matches may expire.

Without a TTL existence can be asked for at any time. With one, a match that has expired is gone, but what the join has said of
its partner stands: nobody retracts the pair, and the NULL-padded row is not there to be retracted again. So the join must know
what it said. A *mark* is one entry per row that stands as matched: its identity (a unique key, or the whole row) and its time,
kept in an arrangement of its own, which spills, is saved, and drops what has expired like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, take
from forebay.engine.consolidate import group_rows
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.rows import Ids
from forebay.engine.state.times import Micros, time_of

Mask = npt.NDArray[np.bool_]


class Matched:
    """Marks on the rows of an arrangement."""

    def __init__(self, rows: Arrangement) -> None:
        columns = list(rows.identity)
        if rows.time is not None and rows.time not in columns:
            columns.append(rows.time)
        self._columns = columns
        self._key = range(len(rows.identity))
        schema = pa.schema([rows.schema.field(c) for c in columns])
        time = None if rows.time is None else columns.index(rows.time)
        self.marks = Arrangement(schema, self._key, time=time)
        self.reader = self.marks.reader()

    def on(self, rows: pa.RecordBatch, epoch: int, since: int) -> Mask:
        """Which stored rows had a mark before the epoch."""
        keys = rows.select(self._columns)
        return self.marks.exists(keys, self._key, self.marks.old(epoch, since), nulls_match=True)

    def update(self, rows: Sequence[pa.RecordBatch], matched: Sequence[Mask], epoch: int, since: int) -> None:
        """Mark the rows that stand as matched after the epoch, and no others of these."""
        self.reader.since = since
        if not rows:
            return
        entries = pa.concat_batches([r.select(self._columns) for r in rows])
        wanted = np.concatenate(matched)
        group, first = group_rows(entries.select(list(self._key)))
        want = np.zeros(first.shape[0], bool)
        np.logical_or.at(want, group, wanted)
        new = take(entries, self._youngest(entries, group, wanted, first))
        number, held = self._held(take(entries, first), epoch, since)
        kept = np.zeros(first.shape[0], bool)
        kept[number] = want[number] & (self._times(held) >= self._times(new)[number])
        gone, come = np.flatnonzero(~kept[number]), np.flatnonzero(want & ~kept)
        changes = [Batch(take(held, gone), np.full(gone.shape[0], -1, np.int64)), Batch(take(new, come))]
        self.marks.update([b for b in changes if b.num_rows], epoch)

    def _held(self, keys: pa.RecordBatch, epoch: int, since: int) -> tuple[Ids, pa.RecordBatch]:
        """(number of the key, its entry) for the keys that have one."""
        view = self.marks.old(epoch, since)
        found = list(self.marks.probe(keys, self._key, view, nulls_match=True))
        ids = np.concatenate([np.zeros(0, np.int64), *(i for _, i in found)])
        return np.concatenate([np.zeros(0, np.int64), *(p for p, _ in found)]), self.marks.rows_at(ids)

    def _youngest(self, entries: pa.RecordBatch, group: Ids, wanted: Mask, first: Ids) -> Ids:
        """Per group its matched row that lives longest; its first if none is matched."""
        chosen = first.copy()
        places = np.flatnonzero(wanted)
        places = places[np.argsort(self._times(entries)[places], kind="stable")]
        chosen[group[places]] = places
        return chosen

    def _times(self, entries: pa.RecordBatch) -> Micros:
        if self.marks.time is None:
            return np.zeros(entries.num_rows, np.int64)
        return time_of(entries.column(self.marks.time))
