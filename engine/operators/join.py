"""Joins of updating inputs: exact deltas over two arrangements, with no state of their own.

The arrangements have taken in the epoch's ΔL and ΔR when the join runs; it reads them as they were (old) and as they are (new):

    inner       ΔL ⋈ R_old  +  L_new ⋈ ΔR
    presence    a left row l is present as such with e(l) = "a match exists" (semi), or 1 - e(l) (anti; the NULL-padded
                row of an outer join):   Δw(l)·p(e_new(l))  for l in ΔL
                                       + w(l)·(p(e_new(l)) - p(e_old(l)))  for l in L_old whose key is in ΔR

Existence is one probe per key, however many rows match, so a hot key costs nothing until its first match comes or its last one
goes. With a residual condition existence is a matter of rows and pairs are tested. No match counts are kept: nothing to
checkpoint, nothing that a filter, a TTL or a restart could make wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, concat
from forebay.engine.consolidate import group_rows
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.state import State
from forebay.engine.state.arrangement import NOTHING, Arrangement, View

Mask = npt.NDArray[np.bool_]
Residual = Callable[[pa.RecordBatch], pa.BooleanArray]


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
    """The anti join of NOT IN: one NULL key on the right empties it."""
    residual: Residual | None = None
    """Condition over left columns followed by right columns."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One input in one epoch, as seen from the other."""

    rows: Arrangement
    keys: tuple[int, ...]
    delta: Batch | None
    old: View
    new: View
    is_left: bool


class JoinOperator(Operator):
    """One join of two arrangements, which may be the same."""

    def __init__(self, spec: JoinSpec, left: Arrangement, right: Arrangement) -> None:
        self.schema = spec.schema
        self._spec = spec
        self._left = left
        self._right = right
        self._both = pa.schema([*left.schema, *right.schema])

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        left = self._side(self._left, self._spec.left_keys, inputs[0], turn, True)
        right = self._side(self._right, self._spec.right_keys, inputs[1], turn, False)
        kind = self._spec.kind
        out: list[Batch] = []
        if kind in ("inner", "left", "right", "full"):
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
        return [Batch(_with_schema(b.rows, self.schema), b.weights) for b in out if b.num_rows]

    def _side(self, rows: Arrangement, keys: tuple[int, ...], delta: list[Batch], turn: Turn, is_left: bool) -> _Side:
        old = NOTHING if turn.initial else rows.old(turn.epoch)
        return _Side(rows, keys, concat(delta) if delta else None, old, rows.new(turn.epoch), is_left)

    # -- pairs --------------------------------------------------------------------------------------------------

    def _pairs(self, left: _Side, right: _Side) -> Iterator[Batch]:
        if left.delta is not None:
            yield from self._matches(left.delta, left, right, right.old)
        if right.delta is not None:
            yield from self._matches(right.delta, right, left, left.new)

    def _matches(self, delta: Batch, side: _Side, other: _Side, view: View) -> Iterator[Batch]:
        """The rows of `delta` with each visible match in the other arrangement."""
        probed = other.rows.probe(delta.rows, side.keys, view, nulls_match=self._spec.null_equals_null)
        for places, ids in probed:
            rows = self._combine(delta.rows.take(pa.array(places)), other.rows.rows_at(ids), side.is_left)
            weights = _times(None if delta.weights is None else delta.weights[places], other.rows.weights_at(ids))
            batch = Batch(rows, weights)
            yield batch if self._spec.residual is None else batch.filter(self._spec.residual(rows))

    def _combine(self, mine: pa.RecordBatch, theirs: pa.RecordBatch, mine_is_left: bool) -> pa.RecordBatch:
        columns = [*mine.columns, *theirs.columns] if mine_is_left else [*theirs.columns, *mine.columns]
        return pa.RecordBatch.from_arrays(columns, schema=self._both)

    # -- presence -----------------------------------------------------------------------------------------------

    def _presence(self, side: _Side, other: _Side, present: Callable[[Mask], Mask]) -> list[Batch]:
        """Changes of the rows of `side` that are present for the existence of a match in `other`."""
        out = []
        if side.delta is not None:
            delta = side.delta
            exists = self._exists(delta.rows, side, other, other.new)
            keep = np.flatnonzero(present(exists))
            out.append(delta.take(keep) if keep.size < delta.num_rows else delta)
        if other.delta is not None:
            out += self._turned(side, other, present)
        return out

    def _turned(self, side: _Side, other: _Side, present: Callable[[Mask], Mask]) -> Iterator[Batch]:
        """Old rows of `side` whose existence changes because of the other side's delta."""
        assert other.delta is not None
        keys = _distinct_keys(other.delta.rows, other.keys)
        columns = range(len(other.keys))
        if self._spec.residual is None:
            nulls = self._spec.null_equals_null
            before = other.rows.exists(keys, columns, other.old, nulls_match=nulls)
            after = other.rows.exists(keys, columns, other.new, nulls_match=nulls)
            keys = keys.filter(pa.array(before != after))
        if not keys.num_rows:
            return
        probed = side.rows.probe(keys, columns, side.old, nulls_match=self._spec.null_equals_null)
        for _, ids in probed:
            rows = side.rows.rows_at(ids)
            was = present(self._exists(rows, side, other, other.old))
            now = present(self._exists(rows, side, other, other.new))
            turned = np.flatnonzero(was != now)
            weights = now[turned].astype(np.int64) - was[turned]
            held = side.rows.weights_at(ids)
            yield Batch(rows.take(pa.array(turned)), weights if held is None else weights * held[turned])

    def _exists(self, rows: pa.RecordBatch, side: _Side, other: _Side, view: View) -> Mask:
        """Whether each row has a visible match in the other arrangement, residual included."""
        nulls = self._spec.null_equals_null
        found = other.rows.exists(rows, side.keys, view, nulls_match=nulls)
        if self._spec.residual is None or not found.any():
            return found
        candidates = np.flatnonzero(found)
        found[:] = False
        maybe = rows.take(pa.array(candidates))
        for places, ids in other.rows.probe(maybe, side.keys, view, nulls_match=nulls):
            pairs = self._combine(maybe.take(pa.array(places)), other.rows.rows_at(ids), side.is_left)
            holds = self._spec.residual(pairs).fill_null(False).to_numpy(zero_copy_only=False)
            found[candidates[places[holds]]] = True
        return found

    # -- NOT IN -------------------------------------------------------------------------------------------------

    def _not_in(self, left: _Side, right: _Side) -> list[Batch]:
        """l NOT IN R: with R empty every row; with a NULL in R none; else rows with a non-NULL key and no match."""
        before, after = _not_in_mode(right.rows, right.old), _not_in_mode(right.rows, right.new)
        if before == after == "match":
            return [_keep_valid(b, left.keys) for b in self._presence(left, right, _absent)]
        if before == after:
            return [left.delta] if left.delta is not None and after == "all" else []
        gone = [b.negate() for b in self._not_in_contents(left, right, left.old, right.old, before)]
        return gone + self._not_in_contents(left, right, left.new, right.new, after)

    def _not_in_contents(self, left: _Side, right: _Side, mine: View, theirs: View, mode: str) -> list[Batch]:
        out = []
        for batch in left.rows.contents(mine):
            if mode == "all":
                out.append(batch)
            elif mode == "match":
                absent = ~self._exists(batch.rows, left, right, theirs) & _valid_keys(batch.rows, left.keys)
                out.append(batch.take(np.flatnonzero(absent)))
        return out

    # -- shapes -------------------------------------------------------------------------------------------------

    def _padded(self, batch: Batch, is_left: bool) -> Batch:
        other = self._right.schema if is_left else self._left.schema
        nulls = pa.RecordBatch.from_arrays([pa.nulls(batch.num_rows, f.type) for f in other], names=other.names)
        return batch.with_rows(_joined(batch.rows, nulls, is_left))

    @staticmethod
    def _marked(batch: Batch, mark: bool) -> Batch:
        column = pa.array(np.full(batch.num_rows, mark))
        return batch.with_rows(
            pa.RecordBatch.from_arrays([*batch.rows.columns, column], names=[*batch.schema.names, "mark"])
        )


def _joined(mine: pa.RecordBatch, theirs: pa.RecordBatch, mine_is_left: bool) -> pa.RecordBatch:
    columns = [*mine.columns, *theirs.columns] if mine_is_left else [*theirs.columns, *mine.columns]
    return pa.RecordBatch.from_arrays(columns, names=[f"c{i}" for i in range(len(columns))])


def _with_schema(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return rows if rows.schema is schema else pa.RecordBatch.from_arrays(rows.columns, schema=schema)


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
    return picked if first.shape[0] == picked.num_rows else picked.take(pa.array(first))


def _valid_keys(rows: pa.RecordBatch, keys: Sequence[int]) -> Mask:
    valid = np.ones(rows.num_rows, bool)
    for key in keys:
        valid &= np.asarray(rows.column(key).is_valid())
    return valid


def _keep_valid(batch: Batch, keys: Sequence[int]) -> Batch:
    valid = _valid_keys(batch.rows, keys)
    return batch if valid.all() else batch.take(np.flatnonzero(valid))


def _not_in_mode(right: Arrangement, view: View) -> str:
    """'all' when nothing is there, 'none' when a NULL key is, else 'match'."""
    if right.sees_null_key(view):
        return "none"
    return "match" if right.sees_any(view) else "all"
