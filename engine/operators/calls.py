"""From the calls of a GROUP BY to accumulators and the state that feeds them, shared where calls agree.

Rows reach a call directly or through a DISTINCT map, which turns row changes into appearances (+1) and disappearances (-1) of
values; one map serves every FILTER over the same arguments. Held functions with the same value, condition and order share one
ordered set of rows: MIN and MAX of a column are its two ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.accumulators import (
    Accumulator,
    Best,
    CallSpec,
    Collection,
    Extreme,
    accumulator,
    as_list,
    as_multiset,
    as_text,
    function_name,
)
from forebay.engine.state import State
from forebay.engine.state.arrays import Mask, is_fixed, is_null, is_pair
from forebay.engine.state.groups import Ids, Words
from forebay.engine.state.multiset import UNLIMITED, BestRows, Multiset, OrderedRows
from forebay.engine.state.order import Order

_GROUP = pa.field("group", pa.int64(), False)


@dataclass(frozen=True, slots=True)
class Delta:
    """Rows with their groups and weights."""

    rows: pa.RecordBatch
    groups: Ids
    weights: Ids

    def counted(self, columns: Sequence[int], condition: int | None) -> Ids:
        """The weights, 0 where one of `columns` is NULL or the condition is not true."""
        keep: Mask | None = None
        for column in columns:
            if self.rows.column(column).null_count:
                valid = ~is_null(self.rows.column(column))
                keep = valid if keep is None else keep & valid
        if condition is not None:
            true = self.rows.column(condition).fill_null(False).to_numpy(zero_copy_only=False)
            keep = true if keep is None else keep & true
        return self.weights if keep is None else self.weights * keep

    def take(self, at: Ids, weights: Ids) -> Delta:
        """The rows at `at`, with these weights."""
        if at.shape[0] == self.groups.shape[0]:
            return Delta(self.rows, self.groups, weights)
        return Delta(self.rows.take(pa.array(at)), self.groups[at], weights)


class _DistinctMap:
    """The distinct values of `columns` per group, with a count for each condition."""

    def __init__(self, schema: pa.Schema, columns: tuple[int, ...]) -> None:
        self.columns = columns
        self.conditions: list[int | None] = []
        self._schema = pa.schema([_GROUP, *(pa.field(f"v{c}", schema.field(c).type) for c in columns)])
        self.values: Multiset

    def variant(self, condition: int | None) -> int:
        """The number of a condition."""
        if condition not in self.conditions:
            self.conditions.append(condition)
        return self.conditions.index(condition)

    def build(self, ordered: bool) -> None:
        """Make the map, once all conditions are known."""
        self.values = Multiset(self._schema, len(self.conditions), arrival=ordered, grouped=True)

    def feed(self, delta: Delta) -> list[Delta]:
        """Per condition, the values that appeared or vanished."""
        weights = np.column_stack([delta.counted(self.columns, c) for c in self.conditions])
        used = np.flatnonzero(weights.any(axis=1))
        part = delta.take(used, delta.weights[used])
        columns = [pa.array(part.groups), *(part.rows.column(c) for c in self.columns)]
        step = self.values.apply(part.groups, pa.RecordBatch.from_arrays(columns, schema=self._schema), weights[used])
        moves = (step.after > 0).astype(np.int64) - (step.before > 0)
        deltas = []
        for variant in range(len(self.conditions)):
            hit = np.flatnonzero(moves[:, variant])
            first = step.first[hit]
            deltas.append(Delta(part.rows.take(pa.array(first)), part.groups[first], moves[hit, variant]))
        return deltas


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a call's rows come from: the input, or a variant of a DISTINCT map (by number)."""

    map: int | None = None
    variant: int = 0


@dataclass(frozen=True, slots=True)
class _Need:
    """What rows a held function wants: equal needs share one ordered set."""

    source: _Source
    value: int
    condition: int | None
    order: tuple[Order, ...]
    """Over the input's columns; empty for the order of arrival."""
    keep_null: bool = False
    best: bool = False
    """Of an append-only input, only the first row is ever asked for."""
    newest: bool = False
    counted: bool = False
    """Equal rows are wanted once, with their number."""


class _HeldRows:
    """The ordered rows of one need: columns (group, value, order columns)."""

    def __init__(self, schema: pa.Schema, need: _Need, append_only: bool) -> None:
        self._need = need
        by_value = not need.keep_null and [o.column for o in need.order] == [need.value]
        self._columns = [need.value, *(o.column for o in need.order if not by_value)]
        fields = [pa.field(f"v{i}", schema.field(c).type, i > 0 or need.keep_null) for i, c in enumerate(self._columns)]
        self._schema = pa.schema([_GROUP, *fields])
        orders = [o._replace(column=1 if by_value else 2 + i) for i, o in enumerate(need.order)]
        ties = range(1, len(self._columns) + 1) if orders and not by_value else ()
        arrival = not orders
        if append_only and not need.counted:
            limit = 1 if need.best else UNLIMITED
            self.rows: BestRows | Multiset = BestRows(
                self._schema, limit, orders, ties, arrival, need.newest, grouped=True
            )
        else:
            self.rows = Multiset(self._schema, 1, orders, ties, arrival, need.newest, grouped=True)

    def feed(self, delta: Delta) -> None:
        weights = delta.counted(() if self._need.keep_null else (self._need.value,), self._need.condition)
        used = np.flatnonzero(weights)
        part = delta.take(used, weights[used])
        columns = [pa.array(part.groups), *(part.rows.column(c) for c in self._columns)]
        self.rows.apply(part.groups, pa.RecordBatch.from_arrays(columns, schema=self._schema), part.weights)


@dataclass(frozen=True, slots=True)
class _Folded:
    """A call whose accumulator's words start at `at`."""

    call: CallSpec
    source: _Source
    function: Accumulator
    at: int


class Calls:
    """The calls of one GROUP BY. `width` is how many words they need, from word `start` on.

    `ordered`: the values of each group can be told, also where no call needs them in order.
    """

    def __init__(
        self, schema: pa.Schema, calls: Sequence[CallSpec], start: int, append_only: bool, ordered: bool = False
    ) -> None:
        self._schema = schema
        self._append_only = append_only
        self._maps: list[_DistinctMap] = []
        self._held_rows: dict[_Need, _HeldRows] = {}
        self._order: list[_Folded | Extreme | Collection] = []
        self.width = 0
        for call in calls:
            self._order.append(self._bind(call, start))
        for distinct in self._maps:
            distinct.build(ordered)
        self._folded = [c for c in self._order if isinstance(c, _Folded)]
        self._collections = [c for c in self._order if isinstance(c, Collection)]
        self._extremes = [c for c in self._order if isinstance(c, Extreme)]
        self._chosen = start + self.width

    @property
    def collects(self) -> bool:
        """Are there results that are made by walking the group?"""
        return bool(self._collections)

    def _bind(self, call: CallSpec, start: int) -> _Folded | Extreme | Collection:
        name = function_name(call.name)
        arg = self._schema.field(call.args[0]).type if call.args else None
        function = accumulator(call, arg)
        if function is None and arg is None:
            raise UnsupportedError(f"{name.upper()} needs an argument")
        extreme = name in ("min", "max")
        if extreme and self._append_only and (is_fixed(arg) or is_pair(arg)):
            function = Best(call.type, name == "max")
        source = self._source(call) if call.distinct and not extreme and call.args else _Source()
        if function is None:
            return self._bind_held(call, name, source)
        self.width += function.width
        return _Folded(call, source, function, start + self.width - function.width)

    def _source(self, call: CallSpec) -> _Source:
        for number, distinct in enumerate(self._maps):
            if distinct.columns == call.args:
                return _Source(number, distinct.variant(call.filter))
        self._maps.append(_DistinctMap(self._schema, call.args))
        return _Source(len(self._maps) - 1, self._maps[-1].variant(call.filter))

    def _bind_held(self, call: CallSpec, name: str, source: _Source) -> Extreme | Collection:
        value = call.args[0]
        condition = None if source.map is not None else call.filter
        order = (Order(value),) if name in ("min", "max") else tuple(Order(*o) for o in call.order)
        last = name in ("max", "last_value", "last")
        if last or name in ("min", "first_value", "first"):
            need = _Need(source, value, condition, order)
            if self._append_only:
                back = tuple(Order(o.column, not o.ascending, not o.nulls_first) for o in order) if last else order
                need = _Need(source, value, condition, back, best=True, newest=last and not order)
            return Extreme(self._rows(need).rows, 1, call.type, last and not self._append_only)
        if name == "array_agg":
            return Collection(
                self._rows(_Need(source, value, condition, order, True)).rows, 1, call.type, as_list, False
            )
        if name == "listagg":
            join = as_text(str((*call.constants, ",")[0]))
            return Collection(self._rows(_Need(source, value, condition, order)).rows, 1, call.type, join, False)
        if name == "collect":
            need = _Need(source, value, condition, order, counted=True)
            return Collection(self._rows(need).rows, 1, call.type, as_multiset, True)
        raise UnsupportedError(f"no aggregate function '{call.name}'")

    def _rows(self, need: _Need) -> _HeldRows:
        if need not in self._held_rows:
            self._held_rows[need] = _HeldRows(self._schema, need, self._append_only)
        return self._held_rows[need]

    def feed(self, words: Words, delta: Delta) -> None:
        """Add a delta of input rows to everything that the calls keep."""
        deltas = {_Source(): delta}
        for number, distinct in enumerate(self._maps):
            for variant, part in enumerate(distinct.feed(delta)):
                deltas[_Source(number, variant)] = part
        for need, held in self._held_rows.items():
            held.feed(deltas[need.source])
        for folded in self._folded:
            call, part = folded.call, deltas[folded.source]
            condition = call.filter if folded.source.map is None else None
            values = part.rows.column(call.args[0]) if call.args else None
            weights = part.counted(call.args, condition)
            folded.function.update(words, folded.at, part.groups, weights, values)

    def settle(self, rows: Words) -> None:
        """Tidy the gathered words of the groups that an epoch fed."""
        for folded in self._folded:
            folded.function.settle(rows, folded.at)

    def view(self, words: Words, groups: Ids) -> Words:
        """The gathered words of groups, and after them the row that each extreme chooses as things stand."""
        if not self._extremes:
            return words
        return np.column_stack([words, *(e.choose(groups) for e in self._extremes)])

    def collections(self, groups: Ids) -> list[pa.Array]:
        """The results that are made by walking the group, as things stand."""
        return [c.result(groups) for c in self._collections]

    def results(self, view: Words, collections: Sequence[pa.Array]) -> list[pa.Array]:
        """One column per call, from a view and the `collections` of the same groups."""
        made, chosen = iter(collections), iter(range(self._chosen, view.shape[1]))
        columns = []
        for call in self._order:
            if isinstance(call, _Folded):
                columns.append(call.function.result(view, call.at))
            elif isinstance(call, Extreme):
                columns.append(call.result(np.array(view[:, next(chosen)])))
            else:
                columns.append(next(made))
        return columns

    def drop(self, groups: Ids) -> None:
        """Forget what is kept for these groups, after the epoch's `feed`."""
        for distinct in self._maps:
            distinct.values.drop(groups)
        for held in self._held_rows.values():
            held.rows.drop(groups)

    @property
    def unmatched(self) -> int:
        """Retractions of values that were not there."""
        return sum(rows.unmatched for rows in self.held())

    def held(self) -> list[OrderedRows]:
        """The rows that are kept beside the words."""
        return [*(d.values for d in self._maps), *(h.rows for h in self._held_rows.values())]

    def states(self) -> dict[str, State]:
        states: dict[str, State] = {f"distinct{i}": d.values for i, d in enumerate(self._maps)}
        return states | {f"rows{i}": h.rows for i, h in enumerate(self._held_rows.values())}
