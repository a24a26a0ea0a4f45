"""One side of a join in one epoch: its arrangement as the job sees it, before and after, and what has changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, take
from forebay.engine.operators.lens import Lens
from forebay.engine.operators.matched import Matched
from forebay.engine.state.arrangement import Arrangement, View
from forebay.engine.state.index import Hashes
from forebay.engine.state.rows import Ids

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Side:
    """One input in one epoch, as seen from the other."""

    rows: Arrangement
    keys: tuple[int, ...]
    lens: Lens | None
    delta: Batch | None
    """Stored columns of the changed rows that the lens sees."""
    shown: Batch | None
    """The same rows as the lens shows them."""
    old: View
    new: View
    is_left: bool
    epoch: int
    hashes: Hashes | None = None
    """Of the keys of the changed rows, if they are known."""

    def show(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Mask | None]:
        """Rows through the lens, and which of them it sees (None: all)."""
        return (rows, None) if self.lens is None else self.lens(rows)

    def shown_at(self, ids: Ids) -> tuple[pa.RecordBatch, Mask | None]:
        """`show` of the rows with these ids; nothing that the lens does not read is fetched."""
        if self.lens is None:
            return self.rows.rows_at(ids), None
        return self.lens.show(self.rows.rows_at(ids, list(self.lens.columns)))

    def seen(self, batch: Batch) -> tuple[Batch, Batch]:
        """(stored, shown): the rows of a batch that the lens sees, in both forms."""
        shown, keep = self.show(batch.rows)
        whole = Batch(shown, batch.weights)
        if keep is None or keep.all():
            return batch, whole
        places = np.flatnonzero(keep)
        return batch.take(places), whole.take(places)

    def sees_one(self, pieces: Iterator[Ids]) -> bool:
        """Does the lens see any of the rows?"""
        for ids in pieces:
            keep = None if self.lens is None else self.shown_at(ids)[1]
            if keep is None or keep.any():
                return True
        return False

    def without_null_keys(self) -> Side:
        """The side without changed rows that have a NULL in their key. (Old ones match nothing, so nothing turns them.)"""
        if self.delta is None or self.shown is None:
            return self
        valid = valid_keys(self.delta.rows, self.keys)
        if valid.all():
            return self
        places = np.flatnonzero(valid)
        return replace(self, delta=self.delta.take(places), shown=self.shown.take(places), hashes=None)

    def were_marked(self, rows: pa.RecordBatch, marks: Matched, since: int) -> Mask:
        """Which rows that may have been there before had a mark. Looking for their keys costs less than hashing whole rows."""
        was = self.rows.exists(rows, self.rows.key, self.old, nulls_match=True)
        maybe = np.flatnonzero(was)
        was[maybe] = marks.on(at(rows, maybe), self.epoch, since)
        return was

    def remain(self, rows: pa.RecordBatch, weights: Weights) -> Mask:
        """Which of the changed rows are there after the epoch."""
        alive: Mask = weights > 0
        fewer = np.flatnonzero(~alive)
        if fewer.size:
            alive[fewer] = self.rows.count(at(rows, fewer), self.new) > 0
        return alive


def at(rows: pa.RecordBatch, places: Places | Ids) -> pa.RecordBatch:
    """The rows at `places`; themselves when that is all of them in order, as in a join of unique keys."""
    n = rows.num_rows
    if places.size == n and (n == 0 or (places[0] == 0 and places[-1] == n - 1 and bool((np.diff(places) == 1).all()))):
        return rows
    return take(rows, places)


def valid_keys(rows: pa.RecordBatch, keys: Sequence[int]) -> Mask:
    """Which rows have no NULL in their key."""
    valid = np.ones(rows.num_rows, bool)
    for key in keys:
        valid &= np.asarray(rows.column(key).is_valid())
    return valid
