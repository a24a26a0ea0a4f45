"""TRACE JOB .. WHERE key = value: what a job's inputs, states and outputs hold for a key, from the sources down.

Nothing is computed again: each piece of state is asked through its index where the key has the columns of it, and looked
through where it is small. So a trace shows where a wrong row came in, or where a right one was lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from forebay.engine.batch import Batch
from forebay.engine.runtime.dataflow import Dataflow, Node
from forebay.engine.runtime.outbox import Outbox
from forebay.engine.serve.inspect import NamedState, named_states
from forebay.result import Result

_SCHEMA = pa.schema([("step", pa.int64()), ("node", pa.string()), ("state", pa.string()), ("row", pa.string())])
MOST_LOOKED_THROUGH = 1_000_000
"""Rows of a state that is looked through without an index."""
MOST_SHOWN = 100
"""Rows shown of one state."""
Wanted = Mapping[str, Any]


def trace(flow: Dataflow, job: str, wanted: Wanted) -> Result:
    """One row per row that a piece of the job's state has for the key, in the order of the dataflow.

    `wanted`: column → value. A condition on a column that a state does not have does not count there; a state with none of the
    columns is left out.
    """
    nodes = _nodes(flow, job)
    states: dict[int, list[NamedState]] = {}
    for named in named_states(flow).values():
        states.setdefault(id(named.node), []).append(named)
    out: list[dict[str, Any]] = []
    for number, node in enumerate(nodes, 1):
        for named in states.get(id(node), ()):
            out += [_row(number, node, named.name, text) for text in _held(named, wanted)]
        if isinstance(node.outlet, Outbox):
            out += [_row(number, node, "not confirmed", text) for text in _owed(node.outlet, wanted)]
    return Result(pa.Table.from_pylist(out, _SCHEMA))


def _nodes(flow: Dataflow, job: str) -> list[Node]:
    """The job's nodes and the relations that they read, in the order of the dataflow."""
    mine = flow.nodes_of(job)
    read = {id(i) for n in mine for i in n.inputs}
    return [n for n in flow.order if job in n.jobs or id(n) in read]


def _row(number: int, node: Node, state: str, text: str) -> dict[str, Any]:
    return {"step": number, "node": node.label, "state": state, "row": text}


def _held(named: NamedState, wanted: Wanted) -> Iterator[str]:
    schema = named.schema
    given = {name: value for name, value in wanted.items() if name in schema.names}
    if not given:
        return
    key = _typed(given, schema)
    indexed = bool(named.key) and set(named.key) <= key.keys()
    if not indexed and named.state.rows() > MOST_LOOKED_THROUGH:
        yield f"{named.state.rows()} rows, not looked through: its key is ({', '.join(named.key)})"
        return
    found = _matching(named.rows(key if indexed else None), given)
    yield from _shown(found)


def _owed(outbox: Outbox, wanted: Wanted) -> Iterator[str]:
    """Rows that the sink has not confirmed, with their weights."""
    for batch in outbox.pending():
        rows = _weighted(batch)
        given = {name: value for name, value in wanted.items() if name in rows.schema.names}
        if given:
            yield from _shown(_matching(pa.Table.from_batches([rows]), given))


def _weighted(batch: Batch) -> pa.RecordBatch:
    return batch.rows.append_column("weight", pa.array(batch.weight_array()))


def _matching(rows: pa.Table, given: Wanted) -> pa.Table:
    for name, value in given.items():
        column = rows.column(name)
        if value is None:
            rows = rows.filter(pc.is_null(column))
        else:
            rows = rows.filter(pc.equal(column.cast(pa.string()), pa.scalar(_text(value, column.type), pa.string())))
    return rows


def _typed(given: Wanted, schema: pa.Schema) -> dict[str, pa.Scalar]:
    """The values as their columns have them, without those that are none of the column's type."""
    typed = {}
    for name, value in given.items():
        try:
            typed[name] = pa.array([value]).cast(schema.field(name).type)[0]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return typed


def _text(value: Any, kind: pa.DataType) -> str:
    """The value as a column of this type would write it; as it is if it is none of that type."""
    try:
        return str(pa.array([value]).cast(kind).cast(pa.string())[0].as_py())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return str(value)


def _shown(rows: pa.Table) -> Iterator[str]:
    for row in rows.slice(0, MOST_SHOWN).to_pylist():
        yield ", ".join(f"{name} = {value}" for name, value in row.items())
    if rows.num_rows > MOST_SHOWN:
        yield f".. and {rows.num_rows - MOST_SHOWN} more"
