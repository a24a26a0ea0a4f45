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
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.node import Node
from forebay.engine.serve.groups import Groups
from forebay.engine.serve.snapshot import expand
from forebay.engine.state import Segmented, State
from forebay.engine.state.arrangement import Arrangement, View
from forebay.engine.state.groups import GroupTable
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.multiset import OrderedRows
from forebay.engine.state.times import NEVER

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
        names = self.schema.names
        if isinstance(self.state, Arrangement):
            return tuple(names[k] for k in self.state.key)
        if isinstance(self.state, GroupTable) and isinstance(self.state.keys, KeyTable):
            return tuple(names[k] for k in self.state.keys.key)
        return self._owner_key() if isinstance(self.state, OrderedRows) else ()

    def _owner_key(self) -> tuple[str, ...]:
        """Of the groups for which rows are kept."""
        fields, stored = self._fields(), [f.name for f in self._fields()]
        owner = self._owner
        if owner is None:
            return ()
        keys = [f.name for f in owner.keys.schema]
        if self._groups is not None:
            return tuple(f.name for f in _distinct(fields)[: len(keys)])
        return tuple(keys) if all(stored.count(k) == 1 for k in keys) else ()

    @property
    def _owner(self) -> GroupTable | None:
        """The groups for which these rows are kept."""
        if not isinstance(self.state, OrderedRows):
            return None
        tables = [s for s in self.node.states().values() if isinstance(s, GroupTable)]
        return next((t for t in tables if self.state in t.dependents), None)

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
        fields = self._key_fields()
        columns = [pa.array([values[n].as_py()], f.type) for n, f in zip(self.key, fields)]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in fields]))

    def _key_fields(self) -> list[pa.Field]:
        state = self.state
        if isinstance(state, Arrangement):
            return [state.schema.field(k) for k in state.key]
        table = state if isinstance(state, GroupTable) else self._owner
        assert table is not None
        return [table.keys.schema.field(k) for k in table.key]

    def _batches(self, probe: pa.RecordBatch | None) -> Iterator[pa.RecordBatch]:
        state, owner = self.state, self._owner
        if isinstance(state, Arrangement):
            yield from self._arranged(state, probe)
        elif isinstance(state, GroupTable):
            yield from Groups(state, self._groups if self.part == "groups" else None).rows(probe)
        elif isinstance(state, OrderedRows) and owner is not None:
            yield from Groups(owner, self._groups).kept(state, probe)
        elif isinstance(state, ClosedUntil):
            yield pa.record_batch([pa.array([max(state.value, 0)], pa.timestamp("us", "UTC"))], names=["closed_until"])

    def _arranged(self, state: Arrangement, probe: pa.RecordBatch | None) -> Iterator[pa.RecordBatch]:
        if probe is None:
            yield from map(expand, state.contents())
            return
        for _, ids in state.probe(probe, range(probe.num_columns), _ALL, nulls_match=True):
            rows, weights = state.rows_at(ids), state.weights_at(ids)
            yield rows if weights is None else rows.take(pa.array(np.repeat(np.arange(ids.shape[0]), weights)))

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
        if not isinstance(state, Segmented):
            return None
        segments = [s.times for s in state.cold_segments()]
        if None in segments:
            return None
        hot = [pc.min(column) for column in self._times()]
        known = [v.cast(pa.timestamp("us")).cast(pa.int64()).as_py() for v in hot if v.is_valid]
        least = min([*known, *(times[0] for times in segments if times is not None)], default=NEVER)
        return _moment(least)

    def _times(self) -> Iterator[pa.Array]:
        """The times of the rows in memory, in pieces; none if they have none."""
        state = self.state
        if isinstance(state, Arrangement):
            column = _first_timestamp(state.schema) if state.time is None else state.time
            if column is not None:
                yield from (state.rows_at(ids, [column]).column(0) for ids in state.hot_ids())
        elif isinstance(state, GroupTable | OrderedRows):
            table = state if isinstance(state, GroupTable) else state.table
            column = _first_timestamp(table.keys.schema)
            if column is not None:
                yield table.keys.gather_column(table.all_ids(), column)


def _moment(time: int) -> datetime | None:
    return None if time == NEVER else datetime.fromtimestamp(time / 1e6, UTC)


def _first_timestamp(schema: pa.Schema) -> int | None:
    return next((i for i, f in enumerate(schema) if pa.types.is_timestamp(f.type)), None)


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
