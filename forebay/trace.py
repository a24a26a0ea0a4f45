"""TRACE JOB .. WHERE key = value: what each operator of a job gets, holds and gives for a key, from its tables down, now.

The job is asked aside of its run, between epochs; nothing is read from a source and nothing changes. Rows that meet the
conditions are looked up where rows are kept (tables, arrangements, groups) and followed from there: through filters and
projections by asking these, through a join by the keys of the rows, into a grouping or a ranking by the group. So a trace shows
where a wrong row came in, or where a right one was lost. A scan keeps no rows: what comes of it shows from the first state on,
or as it passes (`tap`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.errors import CatalogError, describe_error, nearest
from forebay.engine.operators.aggregate import AggregateOperator
from forebay.engine.operators.aside import join_under, made_of, rows_under, stemming
from forebay.engine.operators.join import ArrangeOperator, JoinOperator
from forebay.engine.operators.normalize import NormalizeOperator
from forebay.engine.operators.rank import RankOperator
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.outbox import Outbox
from forebay.engine.serve.inspect import NamedState, named_states
from forebay.engine.state.arrangement import Arrangement
from forebay.matching import MOST_SHOWN, Key, texts, told
from forebay.result import Result

SCHEMA = pa.schema(
    [
        ("epoch", pa.int64()), ("step", pa.int64()), ("node", pa.string()), ("what", pa.string()), ("name", pa.string()),
        ("kind", pa.string()), ("row", pa.string()),
    ]
)  # fmt: skip
"""`what`: input, state, output, missed, not confirmed, error or note; `name`: the step that an input comes from, the name of a
state; `epoch`: of a change that has passed, else NULL."""
MOST_LOOKED_THROUGH = 1_000_000
"""Rows of a state that is looked through without an index."""
Known = list[Batch] | None
"""Rows that are followed; None: nobody knows which there are."""


def trace(flow: Dataflow, job: str, key: Key, now: int) -> Result:
    """A row per row that an operator gets, holds or gives for the key, in the order of the dataflow.

    A condition on a column that rows do not have does not count for them. `now`: processing time in µs.

    Raises:
        CatalogError: nothing has a column of a condition.
    """
    check_columns(flow, job, key)
    return Result(pa.Table.from_pylist(list(_Trace(flow, job, key, now).lines()), SCHEMA))


def check_columns(flow: Dataflow, job: str, key: Key) -> None:
    """Raises:
    CatalogError: nothing that the job reads or makes has a column of a condition.
    """
    nodes = nodes_of(flow, job)
    schemas = [n.operator.schema for n in nodes if n.operator is not None]
    schemas += [n.scan.spec.schema for n in nodes if n.scan is not None]
    known = dict.fromkeys(name for schema in schemas for name in schema.names)
    for name in key.values:
        if known and name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close}?" if close else f"columns: {', '.join(known)}"
            raise CatalogError(f"nothing that job '{job}' reads or makes has a column '{name}'", hint=hint)


def nodes_of(flow: Dataflow, job: str) -> list[Node]:
    """The job's nodes and the relations that they read, in the order of the dataflow."""
    mine = flow.nodes_of(job)
    read = {id(i) for n in mine for i in n.inputs}
    return [n for n in flow.order if job in n.jobs or id(n) in read]


def line(number: int, node: Node, what: str, name: str, row: str, kind: str | None = None) -> dict[str, Any]:
    """A row of SCHEMA, without its epoch."""
    return {"step": number, "node": node.label, "what": what, "name": name, "kind": kind or None, "row": row}


class _Trace:
    def __init__(self, flow: Dataflow, job: str, key: Key, now: int) -> None:
        self._flow, self._job, self._key, self._now = flow, job, key, now
        self._nodes = nodes_of(flow, job)
        self._states: dict[int, list[NamedState]] = {}
        for named in named_states(flow).values():
            self._states.setdefault(id(named.node), []).append(named)
        self._known: dict[int, Known] = {}
        self._numbers = {id(node): number for number, node in enumerate(self._nodes, 1)}
        self._outputs: list[tuple[type, Callable[[Node, list[Known]], Known]]] = [
            (ArrangeOperator, self._arranged),
            (NormalizeOperator, lambda node, _: self._looked_up(node, "rows")),
            (AggregateOperator, self._aggregated),
            (RankOperator, self._ranked),
        ]

    def lines(self) -> Iterator[dict[str, Any]]:
        for number, node in enumerate(self._nodes, 1):
            yield from self._lines(number, node)

    def _lines(self, number: int, node: Node) -> Iterator[dict[str, Any]]:
        inputs, output, error = self._asked(node)
        for source, rows in zip(node.inputs, inputs):
            for kind, row in told(rows or ()):
                yield line(number, node, "input", f"{self._numbers[id(source)]} {source.label}", row, kind)
        for named in self._states.get(id(node), ()):
            for row in self._held(named):
                yield line(number, node, "state", named.name, row)
        for kind, row in told(self._key.changes(self._missed(node))):
            yield line(number, node, "missed", "", row, kind)
        if error is not None:
            yield line(number, node, "error", "", describe_error(error))
        if node.scan is not None:
            yield line(number, node, "note", "", "keeps no rows; TRACE JOB .. FOR 10 SECONDS shows those that come")
        if not isinstance(node.operator, ArrangeOperator):  # its state is what it gives
            for kind, row in told(output or ()):
                yield line(number, node, "output", "", row, kind)
        if isinstance(node.outlet, Outbox):
            for kind, row in told(self._key.changes(node.outlet.pending())):
                yield line(number, node, "not confirmed", "", row, kind)

    def _missed(self, node: Node) -> list[Batch]:
        """Changes of a node that wait for the job because it has failed."""
        unit = self._flow.parked.get(self._job)
        missed = unit.backlog.missed if unit is not None else ()
        return [b for m in missed if node.id in m.inputs for b in m.inputs[node.id][0]]

    # -- following ----------------------------------------------------------------------------------------------

    def _asked(self, node: Node) -> tuple[list[Known], Known, Exception | None]:
        """What a node gets and gives for the key, and on what it would fail."""
        inputs = [self._known.get(id(i)) for i in node.inputs]
        output, error = None, None
        try:
            if isinstance(node.operator, JoinOperator):
                inputs, output = self._joined(node.operator, inputs)
            else:
                output = self._given(node, inputs)
        except Exception as failure:  # noqa: BLE001 - the job's own failure, which is what is looked for
            error = failure
        self._known[id(node)] = output
        return inputs, output, error

    def _given(self, node: Node, inputs: list[Known]) -> Known:
        if node.operator is None:
            return None
        for kind, ask in self._outputs:
            if isinstance(node.operator, kind):
                return ask(node, inputs)
        if node.operator.pure and any(rows is not None for rows in inputs):
            return made_of(node.operator, [rows or [] for rows in inputs], self._now)
        return None

    def _joined(self, join: JoinOperator, inputs: list[Known]) -> tuple[list[Known], Known]:
        if inputs[0] is None and inputs[1] is None:
            return inputs, None
        found = join_under(join, inputs[0] or [], inputs[1] or [], self._flow.epoch)
        return [found.left, found.right], found.output

    def _arranged(self, node: Node, inputs: list[Known]) -> Known:
        """The rows that came, if it is known which; else those that meet the conditions."""
        assert isinstance(node.operator, ArrangeOperator)
        known = next(iter(inputs), None)
        if known is None:
            return self._looked_up(node, "rows")
        arrangement = node.operator.arrangement
        if not arrangement.stamped:
            return known
        return [b for rows in known for b in self._with_times(arrangement, rows.rows)]

    def _with_times(self, arrangement: Arrangement, rows: pa.RecordBatch) -> Iterator[Batch]:
        """The rows as a stamped arrangement has them: with the time at which they came."""
        every = tuple(range(rows.num_columns))
        for held in rows_under(arrangement, rows.select(list(arrangement.key)), self._flow.epoch):
            yield held.filter(pa.array(stemming(held.rows, [(rows, every)])))

    def _aggregated(self, node: Node, inputs: list[Known]) -> Known:
        """The results of the groups of the rows that came."""
        if inputs[0] is None:
            return self._looked_up(node, "groups")
        assert node.operator is not None
        named = self._state(node, "groups")
        keys = [values for b in inputs[0] for values, _ in node.operator.carried(0, b.rows)]
        return [Batch(b) for key in _distinct(keys, named.key) for b in _rows(named, key)]

    def _ranked(self, node: Node, inputs: list[Known]) -> Known:
        """What is shown of the partitions of the rows that came."""
        operator, named = node.operator, self._state(node, "rows")
        assert isinstance(operator, RankOperator)
        if inputs[0] is None or (not named.key and named.state.rows() > MOST_LOOKED_THROUGH):
            return None
        keys = [values for b in inputs[0] for values, _ in operator.carried(0, b.rows)]
        out: list[Batch] = []
        for key in _distinct(keys, named.key):
            for kept in _rows(named, key):
                *_, counts = kept.columns
                repeated = np.repeat(np.arange(kept.num_rows), counts.to_numpy())
                out += operator.of(kept.select(list(range(kept.num_columns - 1))).take(pa.array(repeated)))
        return out

    # -- looking up ---------------------------------------------------------------------------------------------

    def _state(self, node: Node, part: str) -> NamedState:
        return next(n for n in self._states[id(node)] if n.part == part)

    def _looked_up(self, node: Node, part: str) -> Known:
        """The rows of a state that meet the conditions; None if none counts, or it is too large to look through."""
        found = self._find(self._state(node, part))
        return None if found is None else [Batch(b) for b in found.combine_chunks().to_batches() if b.num_rows]

    def _find(self, named: NamedState) -> pa.Table | None:
        key = self._key.typed(named.schema)
        indexed = bool(named.key) and set(named.key) <= key.keys()
        if not self._key.given(named.schema) or (not indexed and named.state.rows() > MOST_LOOKED_THROUGH):
            return None
        rows = named.rows(key if indexed else None)
        return pa.Table.from_batches([self._key.of(b) for b in rows.to_batches()], rows.schema)

    def _held(self, named: NamedState) -> Iterator[str]:
        if not self._key.given(named.schema):
            return
        found = self._find(named)
        if found is None:
            yield f"{named.state.rows()} rows, not looked through: its key is ({', '.join(named.key)})"
            return
        yield from texts(found.slice(0, MOST_SHOWN))
        if found.num_rows > MOST_SHOWN:
            yield f".. and {found.num_rows - MOST_SHOWN} more"


def _distinct(keys: Sequence[pa.RecordBatch], names: Sequence[str]) -> list[Mapping[str, pa.Scalar]]:
    """The first keys, each once; one empty key if there are no key columns."""
    seen: dict[tuple[str, ...], Mapping[str, pa.Scalar]] = {}
    for batch in keys:
        for row in range(batch.num_rows):
            values = [column[row] for column in batch.columns]
            if len(seen) < MOST_SHOWN:
                seen.setdefault(tuple(map(str, values)), dict(zip(names, values)))
    return list(seen.values())


def _rows(named: NamedState, key: Mapping[str, pa.Scalar]) -> Iterator[pa.RecordBatch]:
    yield from (b for b in named.rows(key).combine_chunks().to_batches() if b.num_rows)
