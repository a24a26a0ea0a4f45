"""GROUP BY under retraction: per epoch, one net change of each group whose row changed.

A group lives while its rows do. Its words are: the number of rows, whether it has a row in the output, then those of each
accumulator. In every epoch: intern the keys, open the groups, look at the old results, feed the delta, and emit
-old +new where they differ. DISTINCT turns a delta of rows into the delta of values that appear or vanish, so the accumulators
behind it are the ordinary ones. With no keys there is one group, which once born never dies: a global aggregate has no row
before the first input (as in Flink) and one row ever after, COUNT 0 if all rows are retracted.

Groups may expire (`engine.operators.expiry`). One that has knows nothing of its rows any more, so of a new group only rows count
that the epoch does not take back again, and retractions of others are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.consolidate import net_weights, same_values
from forebay.engine.operators.accumulators import CallSpec
from forebay.engine.operators.base import Carried, Turn
from forebay.engine.operators.calls import Calls, Delta
from forebay.engine.operators.expiry import UNDATED, Expiry, GroupingOperator, GroupLife
from forebay.engine.state import State
from forebay.engine.state.aging import Aging
from forebay.engine.state.arrays import Mask
from forebay.engine.state.groups import UNMATCHED, GroupTable, Ids, Opened, Words
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.order import Order
from forebay.engine.state.spill import Returning
from forebay.engine.state.times import Micros
from forebay.kernels.aggregate import add_count
from forebay.kernels.group import changed, gather

_COUNT, _SHOWN, EXTRA = 0, 1, 2


@dataclass(frozen=True, slots=True)
class AggregateSpec:
    """Keys are columns of `input`; `schema` has the keys first, then one column per call. No calls: DISTINCT.

    `append_only` promises that the input never retracts.
    """

    input: pa.Schema
    keys: tuple[int, ...]
    calls: tuple[CallSpec, ...]
    schema: pa.Schema
    append_only: bool = False
    life: GroupLife = UNDATED


class Aggregation:
    """The groups of a GROUP BY and what their calls keep: state and arithmetic, without a policy of when to emit.

    `extra` words from word EXTRA on are the owner's; they are zeroed when the group dies. The first is the watched one, or dates
    groups that expire.
    """

    def __init__(self, spec: AggregateSpec, extra: int = 0, aging: Aging | None = None) -> None:
        self._spec, self._used = _narrow(spec)
        self._extra = extra
        keys = pa.schema([self._spec.input.field(i) for i in self._spec.keys])
        ordered = aging is not None
        self._calls = Calls(self._spec.input, self._spec.calls, EXTRA + extra, self._spec.append_only, ordered)
        width = EXTRA + extra + self._calls.width
        watched = EXTRA if extra and aging is None else None
        self.table = GroupTable(KeyTable(keys), width, self._calls.held(), watched, aging)

    def locate(self, batches: Sequence[Batch]) -> tuple[Delta, Opened]:
        """The rows of an epoch with their groups, and these groups opened; at least one batch is given."""
        delta = self._grouped(batches)
        return delta, self.table.open(delta.groups)

    def locate_living(self, batches: Sequence[Batch], expiry: Expiry, now: int) -> tuple[Delta, Opened]:
        """`locate` where groups expire: without the rows that are late, and retractions of what nobody knows."""
        delta, times = self._grouped(batches), expiry.times(batches, now)
        keep = expiry.in_time(self.table, delta.groups, times, delta.weights)
        if keep is not None:
            at = np.flatnonzero(keep)
            delta, times = delta.take(at, delta.weights[at]), times[at]
        opened = self.table.open(delta.groups)
        if not self._spec.append_only:
            delta, times = self._known(delta, times, opened)
        expiry.aging.renew(self.table.words, delta.groups, times)
        return delta, opened

    def _grouped(self, batches: Sequence[Batch]) -> Delta:
        batch = concat([b.with_rows(b.rows.select(self._used)) for b in batches]) if self._used else _counted(batches)
        groups = self.table.intern(batch.rows.select(self._spec.keys) if self._spec.keys else batch.rows)
        return Delta(batch.rows, groups, batch.weight_array())

    def _known(self, delta: Delta, times: Micros, opened: Opened) -> tuple[Delta, Micros]:
        """The delta without net retractions from groups that are new, and so never had these rows.

        A row is what the calls read of it, and its time.
        """
        new = np.zeros(self.table.keys.capacity, bool)
        new[opened.ids[opened.words[:, _SHOWN] == 0]] = True
        mine = np.flatnonzero(new[delta.groups])
        if not (delta.weights[mine] < 0).any():
            return delta, times
        columns = [*delta.rows.take(pa.array(mine)).columns, pa.array(times[mine])]
        rows = pa.RecordBatch.from_arrays(columns, names=[str(i) for i in range(len(columns))])
        first, net = net_weights(Batch(rows, delta.weights[mine]))
        self.table.counters[UNMATCHED] -= int(net[net < 0].sum())
        weights = delta.weights.copy()
        weights[mine] = 0
        weights[mine[first]] = np.maximum(net, 0)
        at = np.flatnonzero(weights)
        return delta.take(at, weights[at]), times[at]

    def view(self, words: Words, groups: Ids) -> Words:
        """Gathered words with what the results follow from as things stand; see `Calls.view`."""
        return self._calls.view(words, groups)

    def collections(self, groups: Ids) -> list[pa.Array]:
        """The results that no words tell, as things stand."""
        return self._calls.collections(groups)

    @property
    def collects(self) -> bool:
        """Are there such results?"""
        return self._calls.collects

    def feed(self, delta: Delta, opened: Opened) -> Words:
        """Add the delta to its groups, let empty ones die; returns the words of the opened groups."""
        add_count(self.table.words, _COUNT, delta.groups, delta.weights)
        self._calls.feed(self.table.words, delta)
        after = self.table.read(opened.ids)
        self._calls.settle(after)
        count = np.array(after[:, _COUNT])
        broken = count < 0
        if broken.any():
            self.table.counters[UNMATCHED] -= int(count[broken].sum())
            after[broken] = 0
            self._calls.drop(opened.ids[broken])
        shown = (count > 0) | ((opened.words[:, _SHOWN] == 1) & (not self._spec.keys))
        after[~shown] = 0
        after[:, _SHOWN] = shown
        self.table.write(opened.ids, after)
        dead = opened.ids[~shown]
        if self.unmatched:  # what was not matched may have left values behind, and ids are used again
            self._calls.drop(dead)
        self.table.free(dead)
        return after

    @staticmethod
    def shown(words: Words) -> Mask:
        """Which gathered words are of groups that have rows."""
        return np.asarray(words[:, _SHOWN] == 1)

    def results(self, view: Words, collections: Sequence[pa.Array]) -> list[pa.Array]:
        """One column per call."""
        return self._calls.results(view, collections)

    def rows(self, groups: Ids, results: Sequence[pa.Array]) -> pa.RecordBatch:
        """Output rows: the keys of the groups, then the results."""
        keys = self.table.keys.gather(groups).columns if self._spec.keys else []
        return pa.RecordBatch.from_arrays([*keys, *results], schema=self._spec.schema)

    def current(self, groups: Ids) -> pa.RecordBatch:
        """The output rows of those of these groups that have one, between epochs."""
        words = self.table.read(groups)
        live = np.flatnonzero(self.shown(words))
        words, groups = words[live], groups[live]
        return self.rows(groups, self.results(self.view(words, groups), self.collections(groups)))

    def carried(self, rows: pa.RecordBatch) -> list[Carried]:
        """The keys of rows of the input, and where the output has them."""
        keys = [self._used[k] for k in self._spec.keys]
        return [(rows.select(keys), tuple(range(len(keys))))]

    def empty(self) -> Aggregation:
        """Another one of the same make, without groups."""
        return Aggregation(self._spec, self._extra)

    def apart(self, found: Returning) -> pa.RecordBatch:
        """The output rows of groups that are on disk and stay there, with what is kept for them."""
        empty = self.empty()
        twins = {id(d): twin for d, twin in zip(self.table.dependents, empty.table.dependents)}
        ids = np.zeros(int(max(p.groups.max() for p in found.groups)) + 1, np.int64)
        for piece in found.groups:
            ids[piece.groups] = empty.table.admit(piece.rows, piece.words)
        for dependent, piece in found.rows:
            twins[id(dependent)].admit(ids[piece.groups], piece.rows, piece.words)
        return empty.current(np.concatenate([ids[p.groups] for p in found.groups]))

    def drop(self, groups: Ids) -> None:
        """Forget open groups and all that their calls hold."""
        self._calls.drop(groups)
        self.table.write(groups, np.zeros((groups.shape[0], self.table.width), np.int64))
        self.table.free(groups)

    @property
    def unmatched(self) -> int:
        """Retractions that found nothing to retract."""
        return int(self.table.counters[UNMATCHED]) + self._calls.unmatched

    def states(self) -> Mapping[str, State]:
        return {"groups": self.table, **self._calls.states()}


class AggregateOperator(GroupingOperator):
    """GROUP BY, DISTINCT, and the global aggregate."""

    def __init__(self, spec: AggregateSpec) -> None:
        super().__init__(spec.life, EXTRA)
        self.schema = spec.schema
        self.groups = Aggregation(spec, 0 if self.aging is None else 1, self.aging)

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        if self.expiry is not None:
            self.expiry.begin(turn)
        batches = [b for b in inputs[0] if b.num_rows]
        if not batches:
            return []
        groups = self.groups
        delta, opened = (
            groups.locate(batches) if self.expiry is None else groups.locate_living(batches, self.expiry, turn.now)
        )
        ids = opened.ids
        before, collected = groups.view(opened.words, ids), groups.collections(ids)
        after = groups.view(groups.feed(delta, opened), ids)
        return self._emit(ids, before, after, collected, groups.collections(ids))

    def _emit(
        self, ids: Ids, before: Words, after: Words, collected: list[pa.Array], collected_after: list[pa.Array]
    ) -> list[Batch]:
        """-old +new of the groups whose rows differ."""
        touched = np.arange(ids.shape[0]) if self.groups.collects else _changed(before, after)
        n = touched.shape[0]
        view = np.empty((2 * n, before.shape[1]), np.int64)
        gather(before, touched, view[:n])
        gather(after, touched, view[n:])
        at = pa.array(touched)
        made = [pa.concat_arrays([a.take(at), b.take(at)]) for a, b in zip(collected, collected_after)]
        results = self.groups.results(view, made)
        was, lives = self.groups.shown(view[:n]), self.groups.shown(view[n:])
        same = was & lives
        for column in results:
            same &= same_values(column.slice(0, n), column.slice(n))
        kept = np.flatnonzero(np.concatenate([was & ~same, lives & ~same]))
        if not kept.shape[0]:
            return []
        old = kept < n
        weights = np.where(old, -1, 1)
        if kept.shape[0] < 2 * n:
            results = [c.take(pa.array(kept)) for c in results]
        kept[~old] -= n
        return [Batch(self.groups.rows(ids[touched[kept]], results), weights)]

    def contents(self) -> Iterator[Batch]:
        """The rows of all groups, between epochs. Cold groups are asked for as an epoch does it, which is then rolled back."""
        for keys in self.groups.table.contents():
            try:
                rows = self.groups.current(self.groups.table.intern(keys))
            finally:
                for state in self.states().values():
                    state.rollback()
            yield Batch(rows)

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        return self.groups.carried(rows)

    @property
    def metrics(self) -> dict[str, int]:
        """Counters since the operator was made."""
        return {UNMATCHED: self.groups.unmatched, **self.late}

    def states(self) -> Mapping[str, State]:
        return {**self.groups.states(), **self.horizon}


def _changed(before: Words, after: Words) -> Ids:
    out = np.empty(before.shape[0], np.int64)
    return out[: changed(before, after, out)]


def _counted(batches: Sequence[Batch]) -> Batch:
    """The weights of batches none of whose columns is needed."""
    number = pa.array(np.zeros(sum(b.num_rows for b in batches), np.int8))
    return Batch(
        pa.RecordBatch.from_arrays([number], names=["none"]), np.concatenate([b.weight_array() for b in batches])
    )


def _narrow(spec: AggregateSpec) -> tuple[AggregateSpec, list[int]]:
    """The spec over the columns that it uses, and which these are."""
    used = set(spec.keys)
    for call in spec.calls:
        used.update(call.args, [o[0] for o in call.order], [] if call.filter is None else [call.filter])
    columns = sorted(used)
    to = {column: i for i, column in enumerate(columns)}
    calls = tuple(
        replace(
            call,
            args=tuple(to[a] for a in call.args),
            filter=None if call.filter is None else to[call.filter],
            order=tuple(Order(*o)._replace(column=to[o[0]]) for o in call.order),
        )
        for call in spec.calls
    )
    narrow = pa.schema([spec.input.field(i) for i in columns])
    return replace(spec, input=narrow, keys=tuple(to[k] for k in spec.keys), calls=calls), columns
