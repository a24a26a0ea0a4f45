"""Joins of updating inputs: exact deltas over two arrangements, with no state of their own.

The arrangements have taken in the epoch's ΔL and ΔR when the join runs; it reads them as they were (old) and as they are (new):

    inner       ΔL ⋈ R_old  +  L_new ⋈ ΔR
    presence    a left row l is present as such with e(l) = "a match exists" (semi), or 1 - e(l) (anti; the NULL-padded
                row of an outer join):   Δw(l)·p(e_new(l))  for l in ΔL
                                       + w(l)·(p(e_new(l)) - p(e_old(l)))  for l in L_old whose key is in ΔR

Existence is one probe per key, however many rows match, so a hot key costs nothing until its first match comes or its last one
goes. With a residual condition or a lens that filters, existence is a matter of rows, and pairs are tested: for ΔL, and for
those old rows of L that pair with a row of ΔR. No match counts are kept: nothing to checkpoint, nothing that a filter or a
restart could make wrong.

With a time to live (TTL) a side has a *bound* in each epoch (`engine.operators.horizon`), and every view is without the rows that
are older: for pairs and for existence an expired row is as if it had never been. Expiry itself says nothing. So:

    pairs       (l, r) comes when the later of the two comes, if the earlier is visible then; it is retracted when either is
                retracted while both are visible; else it stands for ever
    presence    is decided anew when the row itself changes, or when its existence of a visible match turns. What was said
                before is known by a mark on the rows that stand as matched (`engine.operators.matched`), kept where matches
                can expire. A row whose matches have all expired still stands as matched: its padded form does not come back
                for it, nor is it retracted once more for its next match
    retraction  of an expired row says nothing, whether or not the row is still in memory
    late        a row that has expired when it comes is not joined at all, but counted

NOT IN has no TTL: one expired NULL would have to bring back everything.

A *lens* (`engine.operators.lens`) is how one job sees an arrangement that it shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, concat, take
from forebay.engine.consolidate import group_rows, net_weights
from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.base import Carried, Operator, Turn
from forebay.engine.operators.horizon import ALWAYS, Horizon, Lifetime
from forebay.engine.operators.lens import Lens
from forebay.engine.operators.matched import Matched
from forebay.engine.operators.pieces import Pieces
from forebay.engine.operators.side import Side, at, valid_keys
from forebay.engine.state import State
from forebay.engine.state.arrangement import NOTHING, PAIRS, Arrangement, View
from forebay.engine.state.index import Hashes
from forebay.engine.state.rows import Ids
from forebay.engine.state.times import time_of

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]
Residual = Callable[[pa.RecordBatch], pa.BooleanArray]
_PAIRING = ("inner", "left", "right", "full")
_LEFT_PRESENCE = ("left", "full", "left semi", "left anti", "left mark")
_RIGHT_PRESENCE = ("right", "full", "right semi", "right anti")
LATE = "late_rows"
STAMP = pa.field("$came", pa.timestamp("us"))
"""The column of a stamped arrangement that tells when a row came."""


class ArrangeOperator(Operator):
    """Keeps its input arranged and passes the changes on. What jobs share when they join the same relation by the same key.

    A stamped arrangement's rows, and the changes passed on, have the time of the epoch in which they came as last column.
    """

    def __init__(self, arrangement: Arrangement) -> None:
        self.schema = arrangement.schema
        self.arrangement = arrangement
        self.passes_on = not arrangement.stamped

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        batches = [self._stamped(b, turn.now) for b in inputs[0]] if self.arrangement.stamped else inputs[0]
        return self.arrangement.update(batches, turn.epoch)

    def _stamped(self, batch: Batch, now: int) -> Batch:
        stamp = pa.array(np.full(batch.num_rows, now)).cast(self.schema[-1].type)
        return batch.with_rows(pa.RecordBatch.from_arrays([*batch.rows.columns, stamp], schema=self.schema))

    def contents(self) -> Iterator[Batch]:
        """All live rows at the last epoch boundary."""
        return self.arrangement.contents()

    def reaches(self, ttl: int | None, watermark: int | None) -> bool:
        """Whether nothing has been dropped that a newcomer would see who looks back `ttl` µs (None: to the beginning)."""
        dropped = self.arrangement.dropped
        return dropped == ALWAYS or (ttl is not None and watermark is not None and watermark - ttl >= dropped)

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
    lives: tuple[Lifetime, Lifetime] = (Lifetime(), Lifetime())
    """How long the rows of each side are visible; a side with a TTL has an arrangement with a time."""


class JoinOperator(Operator):
    """One join of two arrangements, which may be the same."""

    def __init__(self, spec: JoinSpec, left: Arrangement, right: Arrangement) -> None:
        self.schema = spec.schema
        self._spec = self.spec = spec
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
        self.horizon = Horizon(spec.lives)
        self._readers = [(rows, rows.reader()) for rows in (left, right)]
        self._marks: dict[bool, Matched] = {}
        self._pieces = Pieces()
        self._foreseen: dict[bool, tuple[list[Batch], Side]] = {}
        """Of the left side (True) and the right: what it will be given, and what the side will be but for its views."""
        self._both = pa.schema([*self._left_schema, *self._right_schema])
        if spec.residual is None and spec.kind in _PAIRING:
            self._both = spec.schema
        self._keep_marks()

    def foresee(self, number: int, batches: Sequence[Batch], epoch: int) -> None:
        """Ask for the cold rows that these changes will look at, where they will be looked at in one piece."""
        is_left = number == 0
        other = self._right if is_left else self._left
        if self.horizon or self._marks or not self._pieces.whole or other.is_prepared:
            return
        side = self._side(batches, Turn(epoch, 0, ()), is_left)
        if side.delta is not None:
            hashes = side.rows.hash_keys(side.delta.rows, side.keys)
            self._foreseen[is_left] = [b for b in batches if b.num_rows], replace(side, hashes=hashes)
            other.prepare(side.delta.rows, side.keys, other.old(epoch), hashes)

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        if self.horizon:
            self._advance(turn)
        left = self._side(inputs[0], turn, True)
        right = self._side(inputs[1], turn, False)
        if left.delta is None and right.delta is None:
            return []
        if self._spec.null_aware or self._marks:
            return self._joined(left, right)
        return [b for pieces in self._pieces(left, right) for b in self._joined(*pieces)]

    def _joined(self, left: Side, right: Side) -> list[Batch]:
        """What the changes of both sides, or of some keys on both sides, make."""
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
            out += [self._marked(b, exists) for b, exists in self._existence(left, right)]
        return [_with_schema(b, self.schema) for b in out if b.num_rows]

    def _side(self, delta: Sequence[Batch], turn: Turn, is_left: bool) -> Side:
        rows, keys = (self._left, self._spec.left_keys) if is_left else (self._right, self._spec.right_keys)
        since = self.horizon.bounds[0 if is_left else 1]
        old = NOTHING if turn.initial else rows.old(turn.epoch, since)
        lens = self._spec.left_lens if is_left else self._spec.right_lens
        delta = [b for b in delta if b.num_rows]
        foreseen, side = self._foreseen.pop(is_left, ((), None))
        if side is not None and len(foreseen) == len(delta) and all(a is b for a, b in zip(foreseen, delta)):
            return replace(side, old=old, new=rows.new(turn.epoch, since), epoch=turn.epoch)
        changed = concat(delta) if delta else None
        if changed is not None and since > ALWAYS:
            changed = self._visible(changed, rows, since)
        side = Side(rows, keys, lens, changed, changed, old, rows.new(turn.epoch, since), is_left, turn.epoch)
        if lens is None or changed is None:
            return side
        stored, shown = side.seen(changed)
        return replace(side, delta=stored, shown=shown) if stored.num_rows else replace(side, delta=None, shown=None)

    # -- pairs --------------------------------------------------------------------------------------------------

    def _pairs(self, left: Side, right: Side) -> Iterator[Batch]:
        yield from self._matches(left, right, right.old)
        yield from self._matches(right, left, left.new)

    def _matches(self, side: Side, other: Side, view: View) -> Iterator[Batch]:
        """The changed rows of `side` with each visible match in the other arrangement."""
        if side.delta is None or side.shown is None:
            return
        weights = side.shown.weights
        for places, ids, rows in self._paired(side.delta.rows, side.shown.rows, side, other, view, side.hashes):
            held = other.rows.weights_at(ids)
            yield Batch(rows, _times(None if weights is None else weights[places], held))

    def _paired(
        self,
        stored: pa.RecordBatch,
        shown: pa.RecordBatch,
        side: Side,
        other: Side,
        view: View,
        hashes: Hashes | None = None,
    ) -> Iterator[tuple[Places, Ids, pa.RecordBatch]]:
        """(row number, id of the match, joined row) where keys are equal, the lens sees the match, and the residual holds."""
        nulls = self._spec.null_equals_null
        for places, ids in other.rows.probe(stored, side.keys, view, nulls_match=nulls, hashes=hashes):
            theirs, keep = other.shown_at(ids)
            if keep is not None and not keep.all():
                kept = np.flatnonzero(keep)
                places, ids, theirs = places[kept], ids[kept], take(theirs, kept)
            rows = self._combine(at(shown, places), theirs, side.is_left)
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

    def _presence(self, side: Side, other: Side, present: Callable[[Mask], Mask]) -> Iterator[Batch]:
        """Changes of the rows of `side`, as shown, that are present for the existence of a match in `other`."""
        for batch, exists in self._existence(side, other):
            keep = np.flatnonzero(present(exists))
            if keep.size:
                yield batch.take(keep) if keep.size < batch.num_rows else batch

    def _existence(self, side: Side, other: Side) -> Iterator[tuple[Batch, Mask]]:
        """Changes of the rows of `side`, as shown, each with whether it has a match."""
        if side.is_left in self._marks:
            yield from self._marked_existence(side, other, self._marks[side.is_left])
            return
        if side.delta is not None and side.shown is not None:
            yield side.shown, self._exists(side.delta.rows, side, other, other.new, side.hashes)
        for ids, now in self._turned(side, other):
            shown, keep = side.shown_at(ids)
            batch = Batch(shown, side.rows.weights_at(ids))
            if keep is not None and not keep.all():
                batch, now = batch.take(np.flatnonzero(keep)), now[keep]
            yield batch.negate(), ~now
            yield batch, now

    def _turned(self, side: Side, other: Side) -> Iterator[tuple[Ids, Mask]]:
        """Old rows of `side` that have got their first match or lost their last one, and which of the two.

        There may be some that the lens does not see.
        """
        if other.delta is None or other.shown is None:
            return
        if self._tests_pairs(other):
            yield from self._turned_by_pairs(side, other, other.delta.rows, other.shown.rows)
        else:
            yield from self._turned_by_keys(side, other, other.delta.rows)

    def _turned_by_keys(self, side: Side, other: Side, changed: pa.RecordBatch) -> Iterator[tuple[Ids, Mask]]:
        """Those whose key has got its first match in `other`, or lost its last one."""
        nulls = self._spec.null_equals_null
        keys, columns = _distinct_keys(changed, other.keys), range(len(other.keys))
        hashes = other.hashes if keys.num_rows == changed.num_rows else None
        if hashes is None:
            hashes = other.rows.hash_keys(keys, columns)
        before, after = (
            other.rows.exists(keys, columns, v, nulls_match=nulls, hashes=hashes) for v in (other.old, other.new)
        )
        turned = np.flatnonzero(before != after)
        if not turned.size:
            return
        if turned.size < keys.num_rows:
            hashes = hashes[turned]
        for places, ids in side.rows.probe(at(keys, turned), columns, side.old, nulls_match=nulls, hashes=hashes):
            yield ids, after[turned][places]

    def _turned_by_pairs(
        self, side: Side, other: Side, stored: pa.RecordBatch, shown: pa.RecordBatch
    ) -> Iterator[tuple[Ids, Mask]]:
        """Those that pair with a changed row of `other` and whose existence turns."""
        found = [ids for _, ids, _ in self._paired(stored, shown, other, side, side.old)]
        for ids in _pieces(np.unique(np.concatenate(found))) if found else ():
            rows = side.rows.rows_at(ids)
            was, now = (self._exists(rows, side, other, view) for view in (other.old, other.new))
            if (was != now).any():
                yield ids[was != now], now[was != now]

    def _tests_pairs(self, other: Side) -> bool:
        """Does a match take more than equal keys?"""
        return self._spec.residual is not None or (other.lens is not None and other.lens.filters)

    def _exists(self, rows: pa.RecordBatch, side: Side, other: Side, view: View, hashes: Hashes | None = None) -> Mask:
        """Whether each stored row of `side` has a visible match in the other arrangement."""
        nulls = self._spec.null_equals_null
        found = other.rows.exists(rows, side.keys, view, nulls_match=nulls, hashes=hashes)
        if not self._tests_pairs(other) or not found.any():
            return found
        candidates = np.flatnonzero(found)
        found[:] = False
        maybe = at(rows, candidates)
        for places, _, _ in self._paired(maybe, side.show(maybe)[0], side, other, view):
            found[candidates[places]] = True
        return found

    # -- existence that outlives its matches --------------------------------------------------------------------

    def _marked_existence(self, side: Side, other: Side, marks: Matched) -> Iterator[tuple[Batch, Mask]]:
        """As `_existence`: what was said of a row before is told by its mark, not by the matches that are left."""
        since = self.horizon.bounds[0 if side.is_left else 1]
        decided: list[tuple[pa.RecordBatch, Mask]] = []
        if side.delta is not None and side.shown is not None:
            rows = side.delta.rows
            now = self._exists(rows, side, other, other.new)
            yield side.shown, now
            was = side.were_marked(rows, marks, since)
            told = np.flatnonzero(now | was)
            places, weights = net_weights(side.delta.take(told))
            rows, now, was = at(rows, told[places]), now[told[places]], was[told[places]]
            yield from self._unsaid(side, other, rows, was & ~now)
            decided.append((rows, now & side.remain(rows, weights)))
        for ids, now in self._turned(side, other):
            rows = side.rows.rows_at(ids)
            shown, keep = side.show(rows)
            turned = marks.on(rows, side.epoch, since) != now
            turned = np.flatnonzero(turned if keep is None else turned & keep)
            batch = Batch(shown, side.rows.weights_at(ids)).take(turned)
            yield batch.negate(), ~now[turned]
            yield batch, now[turned]
            decided.append((rows, now & (side.rows.count(rows, side.new) > 0)))
        marks.update([rows for rows, _ in decided], [now for _, now in decided], side.epoch, since)

    def _unsaid(self, side: Side, other: Side, rows: pa.RecordBatch, stale: Mask) -> Iterator[tuple[Batch, Mask]]:
        """Changed rows that stood as matched only by matches that have expired: their old copies are decided anew too."""
        places = np.flatnonzero(stale)
        if not places.size:
            return
        _, first = group_rows(at(rows, places).select(list(side.rows.whole)))
        places = places[first]
        places = places[~self._exists(at(rows, places), side, other, other.old)]
        held = side.rows.count(at(rows, places), side.old)
        places, held = places[held > 0], held[held > 0]
        if places.size:
            shown = side.show(at(rows, places))[0]
            yield Batch(shown, -held), np.ones(places.size, bool)
            yield Batch(shown, held), np.zeros(places.size, bool)

    def _keep_marks(self) -> list[bool]:
        """Begin to keep marks where presence depends on matches that can expire: on the left (True), or the right."""
        begun = []
        for is_left, rows, other in ((True, self._left, 1), (False, self._right, 0)):
            kinds = _LEFT_PRESENCE if is_left else _RIGHT_PRESENCE
            if self._spec.kind in kinds and self.horizon.lives[other].ttl is not None and is_left not in self._marks:
                self._marks[is_left] = Matched(rows)
                begun.append(is_left)
        return begun

    # -- time to live -------------------------------------------------------------------------------------------

    def lifetimes(self) -> Iterator[tuple[Arrangement, int | None]]:
        """What is read, and how long its rows live for this join, in µs."""
        yield from zip((self._left, self._right), (life.ttl for life in self.horizon.lives))

    def can_expire(self, table: str) -> bool:
        return all((self._left, self._right)[i].time is not None for i in self._sides_of(table))

    def _sides_of(self, table: str) -> list[int]:
        """The sides whose rows live by the option of a table."""
        if self._spec.null_aware:
            return []
        return [i for i, life in enumerate(self.horizon.lives) if life.table == table and table]

    def set_ttl(self, table: str, ttl: int | None, epoch: int) -> None:
        for i in self._sides_of(table):
            self.horizon.set_ttl(i, ttl)
        for is_left in self._keep_marks():
            self._mark_matched(is_left, epoch)

    def _mark_matched(self, is_left: bool, epoch: int) -> None:
        """Mark all rows of a side that have a match at the end of the epoch: from now on matches can expire."""
        turn = Turn(epoch, 0, (None, None))
        left = self._side([], turn, True)
        right = self._side([], turn, False)
        side, other = (left, right) if is_left else (right, left)
        for ids in side.rows.visible(side.new):
            rows = side.rows.rows_at(ids)
            keep, matched = side.show(rows)[1], self._exists(rows, side, other, other.new)
            self._marks[is_left].update([rows], [matched if keep is None else matched & keep], epoch, ALWAYS)
        self._marks[is_left].marks.commit()

    def _advance(self, turn: Turn) -> None:
        """Fix what is visible in this epoch, and let the arrangements drop what is not."""
        self.horizon.advance(turn)
        for (_, reader), bound in zip(self._readers, self.horizon.bounds):
            reader.since = bound

    def _visible(self, changed: Batch, rows: Arrangement, since: int) -> Batch | None:
        """The changed rows that have not expired; of the others, new ones are counted."""
        assert rows.time is not None
        young = time_of(changed.rows.column(rows.time)) >= since
        if young.all():
            return changed
        self.horizon.late += int(np.maximum(changed.weight_array()[~young], 0).sum())
        return changed.take(np.flatnonzero(young)) if young.any() else None

    @property
    def sides(self) -> tuple[Arrangement, Arrangement]:
        """The arrangements of left and right."""
        return self._left, self._right

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        """By the row as its lens shows it, and by its key on either side: a match that comes turns rows of the other side."""
        mine = (self._spec.left_lens, self._spec.right_lens)[number]
        keys = (self._spec.left_keys, self._spec.right_keys)[number]
        found = []
        for side, (first, names) in self._shown_columns().items():
            if side == number:
                shown, keep = (rows, None) if mine is None else mine(rows)
                shown = shown if keep is None else take(shown, np.flatnonzero(keep))
                found.append((shown, tuple(range(first, first + len(names)))))
            stored = self.sides[side].schema
            wanted = [stored.field(k).name for k in (self._spec.left_keys, self._spec.right_keys)[side]]
            if all(names.count(n) == 1 for n in wanted):
                found.append((rows.select(list(keys)), tuple(first + names.index(n) for n in wanted)))
        return found

    def _shown_columns(self) -> dict[int, tuple[int, list[str]]]:
        """Where the output has the columns of the left side (0) and of the right (1), and their names."""
        left, right = self._left_schema.names, self._right_schema.names
        if self._spec.kind in _PAIRING:
            return {0: (0, left), 1: (len(left), right)}
        return {1: (0, right)} if self._spec.kind.startswith("right") else {0: (0, left)}

    @property
    def metrics(self) -> dict[str, int]:
        """Counters since the operator was made."""
        return {LATE: self.horizon.late}

    def states(self) -> Mapping[str, State]:
        if not self.horizon and not self._marks:
            return {}
        marks = {f"matched {'left' if is_left else 'right'}": m.marks for is_left, m in self._marks.items()}
        return {"horizon": self.horizon, **marks}

    def close(self) -> None:
        for rows, reader in self._readers:
            rows.leave(reader)

    # -- NOT IN -------------------------------------------------------------------------------------------------

    def _not_in(self, left: Side, right: Side) -> list[Batch]:
        """l NOT IN R: with R empty every row; with a NULL in R none; else rows with a non-NULL key and no match."""
        before, after = _not_in_mode(right, right.old), _not_in_mode(right, right.new)
        if before == after == "match":
            return list(self._presence(left.without_null_keys(), right, _absent))
        if before == after:
            return [left.shown] if left.shown is not None and after == "all" else []
        gone = [b.negate() for b in self._not_in_contents(left, right, left.old, right.old, before)]
        return gone + list(self._not_in_contents(left, right, left.new, right.new, after))

    def _not_in_contents(self, left: Side, right: Side, mine: View, theirs: View, mode: str) -> Iterator[Batch]:
        if mode == "none":
            return
        for batch in left.rows.contents(mine):
            stored, shown = left.seen(batch)
            if mode == "match":
                absent = ~self._exists(stored.rows, left, right, theirs) & valid_keys(stored.rows, left.keys)
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
    def _marked(batch: Batch, marks: Mask) -> Batch:
        column = pa.array(marks)
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


def _not_in_mode(right: Side, view: View) -> str:
    """'all' when nothing is there, 'none' when a NULL key is, else 'match'."""
    if right.sees_one(right.rows.null_keyed(view)):
        return "none"
    return "match" if right.sees_one(right.rows.visible(view)) else "all"


def _shown_schema(stored: pa.Schema, lens: Lens | None) -> pa.Schema:
    return stored if lens is None else lens.schema


def _pieces(ids: Ids) -> Iterator[Ids]:
    for start in range(0, ids.size, PAIRS):
        yield ids[start : start + PAIRS]
