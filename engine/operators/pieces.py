"""The changes of one epoch in pieces by key, so that a join reads a cold block once.

A join looks at the rows of the other side twice, for pairs and for existence. If an epoch's changes find more cold rows than
stay in memory, their blocks would be read twice. What a join makes of one key depends on no other key, so it may take some keys
after the others; the blocks of the next ones are on their way meanwhile. How many cold rows there will be is guessed from the
last epoch. Where they fit, there is one piece: dividing costs as much as a tenth of the join, and the engine has something else
to do while blocks come. A piece waits for its blocks when it first looks at a cold row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, take
from forebay.engine.operators.side import Side
from forebay.engine.state.index import Hashes
from forebay.engine.state.rows import Ids

FEW = 64
"""Cold rows for which nothing has to be read ahead."""
_LOOKS = 2
"""Times that a row is found, about."""
_HALF = np.uint64(32)


class Pieces:
    """Divides the changes of two sides."""

    def __init__(self) -> None:
        self._share = 0.0
        """Cold rows that were found in the last epoch, per changed row."""
        self.whole = False
        """Whether the last changes looked for cold rows in one piece."""

    def __call__(self, left: Side, right: Side) -> Iterator[tuple[Side, Side]]:
        """Both sides with the changes of some keys, until all were there."""
        changed = sum(side.delta.num_rows for side in (left, right) if side.delta is not None)
        before = left.rows.found_cold + right.rows.found_cold
        cold = int(self._share * changed)
        count = cold // max(left.rows.at_once, right.rows.at_once, 1) + 1
        self.whole = cold >= FEW and count == 1
        if cold < FEW:
            yield left, right
        else:
            yield from self._divided(left, right, count)
        found = left.rows.found_cold + right.rows.found_cold - before
        self._share = found / _LOOKS / max(changed, 1)

    def _divided(self, left: Side, right: Side, count: int) -> Iterator[tuple[Side, Side]]:
        lefts, rights = _Divided(left, right, count), _Divided(right, left, count)
        lefts.prepare(0)
        rights.prepare(0)
        for number in range(count):
            if number + 1 < count:
                lefts.prepare(number + 1)
                rights.prepare(number + 1)
            piece = lefts.take(number), rights.take(number)
            if any(side.delta is not None for side in piece):
                yield piece


class _Divided:
    """The changes of one side, in the order of the hashes of their keys."""

    def __init__(self, side: Side, other: Side, count: int) -> None:
        self._side = side
        self._other = other.rows, other.new
        self._coming: dict[int, Hashes] = {}
        """By piece that is prepared the hashes of its keys."""
        if side.delta is None or side.shown is None:
            self._bounds = np.zeros(count + 1, np.int64)
            return
        hashes = side.rows.hash_keys(side.delta.rows, side.keys) if side.hashes is None else side.hashes
        if count == 1:
            self._hashes, self._bounds = hashes, np.array([0, hashes.shape[0]])
            self._delta, self._shown = side.delta, side.shown
            return
        piece = ((hashes >> _HALF) * np.uint64(count) >> _HALF).astype(np.int64)
        order = np.argsort(piece, kind="stable")
        self._hashes = hashes[order]
        self._bounds = np.searchsorted(piece[order], np.arange(count + 1))
        self._delta = side.delta.take(order)
        self._shown = _in_order(side.shown, side.delta, self._delta, order)

    def prepare(self, number: int) -> None:
        """Begin to read what a piece will look at on the other side."""
        begin, end = self._bounds[number : number + 2].tolist()
        if begin < end:
            rows, view = self._other
            whole = end - begin == self._hashes.shape[0]
            self._coming[number] = self._hashes if whole else self._hashes[begin:end]
            keys = self._delta.rows.slice(begin, end - begin)
            rows.prepare(keys, self._side.keys, view, self._coming[number])

    def take(self, number: int) -> Side:
        """The side with the changes of a piece that is prepared."""
        begin, end = self._bounds[number : number + 2].tolist()
        if begin == end:
            return replace(self._side, delta=None, shown=None, hashes=None)
        delta, shown = (_part(b, begin, end) for b in (self._delta, self._shown))
        return replace(self._side, delta=delta, shown=shown, hashes=self._coming.pop(number))


def _in_order(batch: Batch, other: Batch, ordered: Batch, order: Ids) -> Batch:
    """Rows in an order. What are columns of the `other`, too, are there `ordered` already."""
    done: dict[object, int] = {place: n for n, c in enumerate(other.rows.columns) if (place := _place(c)) is not None}
    at = [done.get(_place(c)) for c in batch.rows.columns]
    rest = [n for n, place in enumerate(at) if place is None]
    taken = iter(take(batch.rows.select(rest), order).columns if rest else ())
    columns = [next(taken) if place is None else ordered.rows.column(place) for place in at]
    weights = None if batch.weights is None else batch.weights[order]
    return Batch(pa.RecordBatch.from_arrays(columns, schema=batch.schema), weights)


def _place(column: pa.Array) -> tuple[object, ...] | None:
    """Where its values lie: equal for two arrays that are one. None: not in its own buffers alone."""
    if pa.types.is_nested(column.type) or pa.types.is_dictionary(column.type):
        return None
    return column.type, column.offset, *(b.address if b is not None else 0 for b in column.buffers())


def _part(batch: Batch, begin: int, end: int) -> Batch:
    weights = None if batch.weights is None else batch.weights[begin:end]
    return Batch(batch.rows.slice(begin, end - begin), weights)
