"""Joins of updating inputs: exact deltas over two arrangements, with no state of their own.

The arrangements have taken in the epoch's ΔL and ΔR when the join runs; it reads them as they were (old) and as they are (new):

    inner       ΔL ⋈ R_old  +  L_new ⋈ ΔR
    presence    a left row l is present as such with e(l) = "a match exists" (semi), or 1 - e(l) (anti; the NULL-padded
                row of an outer join):   Δw(l)·p(e_new(l))  for l in ΔL
                                       + w(l)·(p(e_new(l)) - p(e_old(l)))  for l in L_old whose key is in ΔR

Existence is one probe per key, however many rows match, so a hot key costs nothing until its first match comes or its last one
goes. With a residual condition or a lens that filters, existence is a matter of rows, and pairs are tested: for ΔL, and for
those old rows of L that pair with a row of ΔR. No match counts are kept: nothing to checkpoint, nothing that a filter, a TTL
or a restart could make wrong.

A *lens* (`engine.operators.lens`) is how one job sees an arrangement that it shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, concat, take
from forebay.engine.consolidate import group_rows
from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.operators.lens import Lens
from forebay.engine.state import State
from forebay.engine.state.arrangement import NOTHING, PAIRS, Arrangement, View
from forebay.engine.state.rows import Ids

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]
Residual = Callable[[pa.RecordBatch], pa.BooleanArray]
_PAIRING = ("inner", "left", "right", "full")


class ArrangeOperator(Operator):
    """Keeps its input arranged and passes the changes on. What jobs share when they join the same relation by the same key."""

    def __init__(self, arrangement: Arrangement) -> None:
        self.schema = arrangement.schema
        self.arrangement = arrangement

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        self.arrangement.update(inputs[0], turn.epoch)
        return inputs[0]

    def contents(self) -> Iterator[Batch]:
        """All live rows at the last epoch boundary."""
        return self.arrangement.contents()

    def states(self) -> Mapping[str, State]:
        return {"rows": self.arrangement}


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """What to join. Kinds: inner, left, right, full, left semi, left anti, right semi, right anti, left mark."""

    kind: str
    left_keys: tuple[int, ...]
    right_keys: tuple[int, ...]
    schema: pa.Schema
    """Left columns then right columns; of semi and anti joins one side; of a mark join the left ones and a BOOLEAN."""
    null_equals_null: bool = False
    null_aware: bool = False
    """The anti join of NOT IN, with one key: a NULL on the right empties it."""
    residual: Residual | None = None
    """Condition over left columns followed by right columns, as the lenses show them."""
    left_lens: Lens | None = None
    right_lens: Lens | None = None
    """Keys are columns of the stored rows, `schema` and the residual are over the shown ones."""


@dataclass(frozen=True, slots=True)
class _Side:
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


class JoinOperator(Operator):
    """One join of two arrangements, which may be the same."""

    def __init__(self, spec: JoinSpec, left: Arrangement, right: Arrangement) -> None:
        self.schema = spec.schema
        self._spec = spec
        self._left = left
        self._right = right
        self._nulls: dict[bool, tuple[int, list[pa.Array]]] = {}
        self.piecewise = not spec.null_aware  # a NULL on the right is about all rows of the left
        if spec.null_aware and (spec.residual is not None or len(spec.left_keys) != 1):
            raise UnsupportedError(
                "NOT IN with a correlated subquery cannot run continuously",
                hint="write it as NOT EXISTS (SELECT ... WHERE a = b), or with OR a IS NULL OR b IS NULL if they can be",
            )
        self._left_schema = _shown_schema(left.schema, spec.left_lens)
        self._right_schema = _shown_schema(right.schema, spec.right_lens)
        self._both = pa.schema([*self._left_schema, *self._right_schema])
        if spec.residual is None and spec.kind in _PAIRING:
            self._both = spec.schema

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        left = self._side(self._left, self._spec.left_keys, inputs[0], turn, True)
        right = self._side(self._right, self._spec.right_keys, inputs[1], turn, False)
        if left.delta is None and right.delta is None:
            return []
        kind = self._spec.kind
        out: list[Batch] = []
        if kind in _PAIRING:
            out += self._pairs(left, right)
        if kind in ("left", "full"):
            out += [self._padded(b, True) for b in self._presence(left, right, _absent)]
        if kind in ("right", "full"):
            out += [self._padded(b, False) for b in self._presence(right, left, _absent)]
        if kind == "left semi":
            out += self._presence(left, right, _present)
        if kind == "right semi":
            out += self._presence(right, left, _present)
        if kind == "left anti":
            out += self._not_in(left, right) if self._spec.null_aware else self._presence(left, right, _absent)
        if kind == "right anti":
            out += self._presence(right, left, _absent)
        if kind == "left mark":
            for mark, presence in ((True, _present), (False, _absent)):
                out += [self._marked(b, mark) for b in self._presence(left, right, presence)]
        return [_with_schema(b, self.schema) for b in out if b.num_rows]

    def _side(self, rows: Arrangement, keys: tuple[int, ...], delta: list[Batch], turn: Turn, is_left: bool) -> _Side:
        old = NOTHING if turn.initial else rows.old(turn.epoch)
        lens = self._spec.left_lens if is_left else self._spec.right_lens
        delta = [b for b in delta if b.num_rows]
        changed = concat(delta) if delta else None
        side = _Side(rows, keys, lens, changed, changed, old, rows.new(turn.epoch), is_left)
        if lens is None or changed is None:
            return side
        stored, shown = side.seen(changed)
        return replace(side, delta=stored, shown=shown) if stored.num_rows else replace(side, delta=None, shown=None)

    # -- pairs --------------------------------------------------------------------------------------------------

    def _pairs(self, left: _Side, right: _Side) -> Iterator[Batch]:
        yield from self._matches(left, right, right.old)
        yield from self._matches(right, left, left.new)

    def _matches(self, side: _Side, other: _Side, view: View) -> Iterator[Batch]:
        """The changed rows of `side` with each visible match in the other arrangement."""
        if side.delta is None or side.shown is None:
            return
        weights = side.shown.weights
        for places, ids, rows in self._paired(side.delta.rows, side.shown.rows, side, other, view):
            held = other.rows.weights_at(ids)
            yield Batch(rows, _times(None if weights is None else weights[places], held))

    def _paired(
        self, stored: pa.RecordBatch, shown: pa.RecordBatch, side: _Side, other: _Side, view: View
    ) -> Iterator[tuple[Places, Ids, pa.RecordBatch]]:
        """(row number, id of the match, joined row) where keys are equal, the lens sees the match, and the residual holds."""
        for places, ids in other.rows.probe(stored, side.keys, view, nulls_match=self._spec.null_equals_null):
            theirs, keep = other.shown_at(ids)
            if keep is not None and not keep.all():
                kept = np.flatnonzero(keep)
                places, ids, theirs = places[kept], ids[kept], take(theirs, kept)
            rows = self._combine(_at(shown, places), theirs, side.is_left)
            if self._spec.residual is not None:
                holds = self._spec.residual(rows).fill_null(False)
                kept = np.flatnonzero(holds.to_numpy(zero_copy_only=False))
                if kept.size < places.size:
                    places, ids, rows = places[kept], ids[kept], take(rows, kept)
            if ids.size:
                yield places, ids, rows

    def _combine(self, mine: pa.RecordBatch, theirs: pa.RecordBatch, mine_is_left: bool) -> pa.RecordBatch:
        columns = [*mine.columns, *theirs.columns] if mine_is_left else [*theirs.columns, *mine.columns]
        return pa.RecordBatch.from_arrays(columns, schema=self._both)

    # -- presence -----------------------------------------------------------------------------------------------

    def _presence(self, side: _Side, other: _Side, present: Callable[[Mask], Mask]) -> Iterator[Batch]:
        """Changes of the rows of `side`, as shown, that are present for the existence of a match in `other`."""
        if side.delta is not None and side.shown is not None:
            exists = self._exists(side.delta.rows, side, other, other.new)
            keep = np.flatnonzero(present(exists))
            yield side.shown.take(keep) if keep.size < side.shown.num_rows else side.shown
        if other.delta is not None and other.shown is not None:
            if self._tests_pairs(other):
                yield from self._turned_by_pairs(side, other, other.delta.rows, other.shown.rows, present)
            else:
                yield from self._turned_by_keys(side, other, other.delta.rows, present)

    def _turned_by_keys(
        self, side: _Side, other: _Side, changed: pa.RecordBatch, present: Callable[[Mask], Mask]
    ) -> Iterator[Batch]:
        """Old rows of `side` whose key has got its first match in `other`, or lost its last one."""
        nulls = self._spec.null_equals_null
        keys, columns = _distinct_keys(changed, other.keys), range(len(other.keys))
        hashes = other.rows.hash_keys(keys, columns)
        before, after = (
            other.rows.exists(keys, columns, v, nulls_match=nulls, hashes=hashes) for v in (other.old, other.new)
        )
        turned = np.flatnonzero(before != after)
        if not turned.size:
            return
        change = present(after[turned]).astype(np.int64) - present(before[turned])
        for places, ids in side.rows.probe(_at(keys, turned), columns, side.old, nulls_match=nulls):
            weights = _times(change[places], side.rows.weights_at(ids))
            shown, keep = side.shown_at(ids)
            batch = Batch(shown, weights)
            yield batch if keep is None else batch.take(np.flatnonzero(keep))

    def _turned_by_pairs(
        self,
        side: _Side,
        other: _Side,
        stored: pa.RecordBatch,
        shown: pa.RecordBatch,
        present: Callable[[Mask], Mask],
    ) -> Iterator[Batch]:
        """Old rows of `side` that pair with a changed row of `other` and whose existence turns."""
        found = [ids for _, ids, _ in self._paired(stored, shown, other, side, side.old)]
        for ids in _pieces(np.unique(np.concatenate(found))) if found else ():
            rows, seen = side.seen(Batch(side.rows.rows_at(ids), side.rows.weights_at(ids)))
            was = present(self._exists(rows.rows, side, other, other.old))
            now = present(self._exists(rows.rows, side, other, other.new))
            turned = np.flatnonzero(was != now)
            if turned.size:
                weights = now[turned].astype(np.int64) - was[turned]
                yield Batch(
                    _at(seen.rows, turned), _times(weights, None if seen.weights is None else seen.weights[turned])
                )

    def _tests_pairs(self, other: _Side) -> bool:
        """Does a match take more than equal keys?"""
        return self._spec.residual is not None or (other.lens is not None and other.lens.filters)

    def _exists(self, rows: pa.RecordBatch, side: _Side, other: _Side, view: View) -> Mask:
        """Whether each stored row of `side` has a visible match in the other arrangement."""
        found = other.rows.exists(rows, side.keys, view, nulls_match=self._spec.null_equals_null)
        if not self._tests_pairs(other) or not found.any():
            return found
        candidates = np.flatnonzero(found)
        found[:] = False
        maybe = _at(rows, candidates)
        for places, _, _ in self._paired(maybe, side.show(maybe)[0], side, other, view):
            found[candidates[places]] = True
        return found

    # -- NOT IN -------------------------------------------------------------------------------------------------

    def _not_in(self, left: _Side, right: _Side) -> list[Batch]:
        """l NOT IN R: with R empty every row; with a NULL in R none; else rows with a non-NULL key and no match."""
        before, after = _not_in_mode(right, right.old), _not_in_mode(right, right.new)
        if before == after == "match":
            return list(self._presence(_without_null_keys(left), right, _absent))
        if before == after:
            return [left.shown] if left.shown is not None and after == "all" else []
        gone = [b.negate() for b in self._not_in_contents(left, right, left.old, right.old, before)]
        return gone + list(self._not_in_contents(left, right, left.new, right.new, after))

    def _not_in_contents(self, left: _Side, right: _Side, mine: View, theirs: View, mode: str) -> Iterator[Batch]:
        if mode == "none":
            return
        for batch in left.rows.contents(mine):
            stored, shown = left.seen(batch)
            if mode == "match":
                absent = ~self._exists(stored.rows, left, right, theirs) & _valid_keys(stored.rows, left.keys)
                shown = shown.take(np.flatnonzero(absent))
            yield shown

    # -- shapes -------------------------------------------------------------------------------------------------

    def _padded(self, batch: Batch, is_left: bool) -> Batch:
        n = batch.num_rows
        mine, nulls = batch.rows.columns, [a.slice(0, n) for a in self._nulls_for(n, is_left)]
        columns = [*mine, *nulls] if is_left else [*nulls, *mine]
        return batch.with_rows(pa.RecordBatch.from_arrays(columns, schema=self.schema))

    def _nulls_for(self, rows: int, is_left: bool) -> list[pa.Array]:
        """NULL columns of the other side, at least `rows` long, kept from batch to batch."""
        held = self._nulls.get(is_left)
        if held is None or held[0] < rows:
            size = 1 << max(rows - 1, 63).bit_length()
            other = self._right_schema if is_left else self._left_schema
            held = self._nulls[is_left] = (size, [pa.nulls(size, f.type) for f in other])
        return held[1]

    @staticmethod
    def _marked(batch: Batch, mark: bool) -> Batch:
        column = pa.array(np.full(batch.num_rows, mark))
        return batch.with_rows(
            pa.RecordBatch.from_arrays([*batch.rows.columns, column], names=[*batch.schema.names, "mark"])
        )


def _with_schema(batch: Batch, schema: pa.Schema) -> Batch:
    if batch.rows.schema.equals(schema):
        return batch
    return batch.with_rows(pa.RecordBatch.from_arrays(batch.rows.columns, schema=schema))


def _present(exists: Mask) -> Mask:
    return exists


def _absent(exists: Mask) -> Mask:
    return ~exists


def _times(first: Weights | None, second: Weights | None) -> Weights | None:
    if first is None or second is None:
        return second if first is None else first
    return first * second


def _distinct_keys(rows: pa.RecordBatch, keys: Sequence[int]) -> pa.RecordBatch:
    if not keys:
        return rows.slice(0, 1)
    picked = rows.select(list(keys))
    _, first = group_rows(picked)
    return picked if first.shape[0] == picked.num_rows else take(picked, first)


def _valid_keys(rows: pa.RecordBatch, keys: Sequence[int]) -> Mask:
    valid = np.ones(rows.num_rows, bool)
    for key in keys:
        valid &= np.asarray(rows.column(key).is_valid())
    return valid


def _without_null_keys(side: _Side) -> _Side:
    """The side without changed rows that have a NULL in their key. (Old ones match nothing, so nothing turns them.)"""
    if side.delta is None or side.shown is None:
        return side
    valid = _valid_keys(side.delta.rows, side.keys)
    if valid.all():
        return side
    places = np.flatnonzero(valid)
    return replace(side, delta=side.delta.take(places), shown=side.shown.take(places))


def _not_in_mode(right: _Side, view: View) -> str:
    """'all' when nothing is there, 'none' when a NULL key is, else 'match'."""
    if _sees_one(right, right.rows.null_keyed(view)):
        return "none"
    return "match" if _sees_one(right, right.rows.visible(view)) else "all"


def _sees_one(side: _Side, pieces: Iterator[Ids]) -> bool:
    """Does the lens see any of the rows?"""
    for ids in pieces:
        keep = None if side.lens is None else side.shown_at(ids)[1]
        if keep is None or keep.any():
            return True
    return False


def _shown_schema(stored: pa.Schema, lens: Lens | None) -> pa.Schema:
    return stored if lens is None else lens.schema


def _at(rows: pa.RecordBatch, places: Places | Ids) -> pa.RecordBatch:
    """The rows at `places`; themselves when that is all of them in order, as in a join of unique keys."""
    n = rows.num_rows
    if places.size == n and (n == 0 or (places[0] == 0 and places[-1] == n - 1 and bool((np.diff(places) == 1).all()))):
        return rows
    return take(rows, places)


def _pieces(ids: Ids) -> Iterator[Ids]:
    for start in range(0, ids.size, PAIRS):
        yield ids[start : start + PAIRS]
