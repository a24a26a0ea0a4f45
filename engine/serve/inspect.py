"""State as a user sees it: every piece of state has a name, and its rows can be read.

A relation's state has the relation's name. Any other is named after the tables it stands on, what it is, and six digits of a
hash of its place in the dataflow, which a restart does not change: `orders_by_id_3f9a2c`. Reading happens between epochs and
changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.engine.errors import CatalogError, nearest
from forebay.engine.operators.aggregate import AggregateOperator, Aggregation
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.operators.normalize import LastRows
from forebay.engine.operators.window import ClosedUntil, WindowAggregateOperator
from forebay.engine.runtime.dataflow import Dataflow, Node
from forebay.engine.serve.snapshot import expand
from forebay.engine.state import State
from forebay.engine.state.arrangement import Arrangement, View
from forebay.engine.state.groups import GroupTable, Ids
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.multiset import OrderedRows
from forebay.engine.state.times import NEVER

_CHUNK = 8192
_ALL = View(2**62, 2**62)
_LONGEST = 48


@dataclass(frozen=True, slots=True)
class NamedState:
    """One piece of state: `part` is the name that its operator gives it."""

    name: str
    node: Node
    part: str
    state: State

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the columns by which rows are found at once; empty if there are none."""
        if isinstance(self.state, Arrangement):
            names = self.schema.names
            return tuple(names[k] for k in self.state.key)
        if isinstance(self.state, GroupTable) and isinstance(self.state.keys, KeyTable):
            return tuple(self.schema.names[k] for k in self.state.keys.key)
        return ()

    @property
    def schema(self) -> pa.Schema:
        """Of the rows that can be read."""
        return pa.schema(_distinct([f.with_nullable(True) for f in self._fields()]))

    def _fields(self) -> list[pa.Field]:
        state, operator = self.state, self.node.operator
        if isinstance(state, Arrangement):
            return list(state.schema)
        if self._groups is not None and self.part == "groups":
            return list(operator.schema) if operator is not None else []
        if isinstance(state, GroupTable):
            return [*state.keys.schema, *([] if isinstance(state, LastRows) else [pa.field("rows", pa.int64())])]
        if isinstance(state, OrderedRows):
            counts = [
                pa.field("count" if state.variants == 1 else f"count{i}", pa.int64()) for i in range(state.variants)
            ]
            keys = [] if self._groups is None else list(self._groups.table.keys.schema)
            return [*keys, *list(state.table.keys.schema)[self._groups is not None :], *counts]
        if isinstance(state, ClosedUntil):
            return [pa.field("closed_until", pa.timestamp("us", "UTC"))]
        return []

    # -- rows ---------------------------------------------------------------------------------------------------

    def rows(self, key: Mapping[str, pa.Scalar] | None = None) -> pa.Table:
        """All rows, equal ones as often as they are there; with values for all of `key`, those under it, through the index."""
        schema = self.schema
        batches = [pa.RecordBatch.from_arrays(b.columns, schema=schema) for b in self._batches(self._probe(key))]
        return pa.Table.from_batches(batches, schema)

    def _probe(self, values: Mapping[str, pa.Scalar] | None) -> pa.RecordBatch | None:
        """One row with the values of the key, named as stored; None if they are not all there."""
        if not self.key or values is None or not set(self.key) <= values.keys():
            return None
        stored = self.state.schema if isinstance(self.state, Arrangement) else self.state.keys.schema  # type: ignore[attr-defined]
        numbers = self.state.key if isinstance(self.state, Arrangement) else self.state.keys.key  # type: ignore[attr-defined]
        fields = [stored.field(k) for k in numbers]
        columns = [pa.array([values[n].as_py()], f.type) for n, f in zip(self.key, fields)]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))

    def _batches(self, probe: pa.RecordBatch | None) -> Iterator[pa.RecordBatch]:
        state = self.state
        if isinstance(state, Arrangement):
            yield from self._arranged(state, probe)
        elif isinstance(state, GroupTable):
            yield from self._grouped(state, probe)
        elif isinstance(state, OrderedRows):
            for ids in _pieces(state.table.all_ids()):
                yield self._ordered(state, ids)
        elif isinstance(state, ClosedUntil):
            yield pa.record_batch([pa.array([max(state.value, 0)], pa.timestamp("us", "UTC"))], names=["closed_until"])

    def _arranged(self, state: Arrangement, probe: pa.RecordBatch | None) -> Iterator[pa.RecordBatch]:
        if probe is None:
            yield from map(expand, state.contents())
            return
        for _, ids in state.probe(probe, range(probe.num_columns), _ALL, nulls_match=True):
            rows, weights = state.rows_at(ids), state.weights_at(ids)
            yield rows if weights is None else rows.take(pa.array(np.repeat(np.arange(ids.shape[0]), weights)))

    def _grouped(self, state: GroupTable, probe: pa.RecordBatch | None) -> Iterator[pa.RecordBatch]:
        """The groups, or the one under a key. Cold ones are asked for as an epoch does it, which is then rolled back."""
        if isinstance(state, LastRows) and probe is None:
            yield from state.contents()
            return
        for keys in state.contents() if probe is None else [_spread(probe, state)]:
            try:
                yield self._of_groups(state, state.intern(keys))
            finally:
                for part in self.node.states().values():
                    part.rollback()

    def _of_groups(self, state: GroupTable, ids: Ids) -> pa.RecordBatch:
        if self._groups is not None and self.part == "groups":
            return self._groups.current(ids[~state.expired(ids)])
        ids = ids[~state.expired(ids)]
        words = state.read(ids)[:, 0]
        live = np.flatnonzero(words)
        columns = state.keys.gather(ids[live]).columns
        return _batch(columns if isinstance(state, LastRows) else [*columns, pa.array(words[live])])

    def _ordered(self, state: OrderedRows, ids: Ids) -> pa.RecordBatch:
        words = state.table.read(ids)
        counts = [pa.array(np.ascontiguousarray(words[:, i])) for i in range(state.variants)]
        rows = state.gather(ids).columns
        if self._groups is None:
            return _batch([*rows, *counts])
        groups = np.ascontiguousarray(words[:, state.variants])
        return _batch([*self._groups.table.keys.gather(groups).columns, *rows[1:], *counts])

    @property
    def _groups(self) -> Aggregation | None:
        """The groups of an aggregation: their ids are the first column of its ordered rows."""
        operator = self.node.operator
        return operator.groups if isinstance(operator, AggregateOperator | WindowAggregateOperator) else None

    # -- what SHOW STATE tells ----------------------------------------------------------------------------------

    def oldest(self) -> datetime | None:
        """The least time of a row, by what rows and groups expire by, else by the first TIMESTAMP column.

        None if there is none, or if rows are in segments that do not tell.
        """
        state = self.state
        if isinstance(state, GroupTable) and state.aging is not None:
            return _moment(state.oldest())
        if not isinstance(state, Arrangement):
            return None
        timestamps = [i for i, f in enumerate(state.schema) if pa.types.is_timestamp(f.type)]
        segments = [s.times for s in state.cold_segments()]
        if not timestamps or None in segments:
            return None
        column = timestamps[0] if state.time is None else state.time
        hot = [pc.min(state.rows_at(ids, [column]).column(0)) for ids in state.hot_ids()]
        known = [v.cast(pa.timestamp("us")).cast(pa.int64()).as_py() for v in hot if v.is_valid]
        least = min([*known, *(times[0] for times in segments if times is not None)], default=NEVER)
        return _moment(least)


def _moment(time: int) -> datetime | None:
    return None if time == NEVER else datetime.fromtimestamp(time / 1e6, UTC)


def named_states(flow: Dataflow) -> dict[str, NamedState]:
    """Every piece of state by name, in the order of the dataflow."""
    found = {}
    for node in flow.order:
        for part, state in node.states().items():
            named = NamedState(_name(node, part), node, part, state)
            found[named.name] = named
    return found


def find_state(flow: Dataflow, name: str) -> NamedState:
    """The piece of state of that name.

    Raises:
        CatalogError: there is none.
    """
    states = named_states(flow)
    if name not in states:
        close = nearest(name, states)
        raise CatalogError(
            f"there is no state '{name}'", hint=f"did you mean {close}?" if close else "SHOW STATE lists what there is"
        )
    return states[name]


def _name(node: Node, part: str) -> str:
    if node.relation is not None:
        return node.relation if part == "rows" else f"{node.relation}_{part}"
    tables = "_".join(dict.fromkeys(_tables(node)))
    if isinstance(node.operator, ArrangeOperator):
        arrangement = node.operator.arrangement
        what = (
            "_".join(["by", *(arrangement.schema.field(k).name for k in arrangement.key)]) if arrangement.key else "all"
        )
    else:
        what = f"{re.split('[^A-Za-z]', node.label)[0].lower()}_{part}"
    base = re.sub(r"\W+", "_", f"{tables}_{what}")[:_LONGEST]
    return f"{base}_{hashlib.sha256(f'{node.id}#{part}'.encode()).hexdigest()[:6]}"


def _tables(node: Node) -> Iterator[str]:
    """Names of the tables under a node, left to right."""
    if node.relation is not None:
        yield node.relation
    elif node.scan is not None:
        yield node.scan.spec.table
    else:
        for source in node.inputs:
            yield from _tables(source)


def _distinct(fields: list[pa.Field]) -> list[pa.Field]:
    """The fields under names that are all different."""
    seen: set[str] = set()
    out = []
    for field in fields:
        name, number = field.name, 2
        while name in seen:
            name, number = f"{field.name}_{number}", number + 1
        seen.add(name)
        out.append(field.with_name(name))
    return out


def _spread(probe: pa.RecordBatch, state: GroupTable) -> pa.RecordBatch:
    """The key as a row of what the groups store; other columns are NULL."""
    values = dict(zip(state.key, probe.columns))
    columns = [values.get(i, pa.nulls(1, f.type)) for i, f in enumerate(state.keys.schema)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in state.keys.schema]))


def _pieces(ids: Ids) -> Iterator[Ids]:
    for start in range(0, ids.shape[0], _CHUNK):
        yield ids[start : start + _CHUNK]


def _batch(columns: list[pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(columns, names=[str(i) for i in range(len(columns))])
