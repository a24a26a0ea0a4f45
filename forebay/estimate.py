"""EXPLAIN STATE: what a statement will have to remember, before it is started; and what it does remember, when it runs.

A state that runs already (for this job or another that shares it) is live: its rows and bytes are counted. Another is estimated
from what is known of its input: rows of a table in the warehouse, or rows that a running scan of the table has read, times the
width of a row. Where nothing is known the answer is unknown, not a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from forebay.engine.runtime.dataflow import Dataflow, Node
from forebay.engine.runtime.plan import JobPlan, OperatorStep, OutputStep, RelationStep, ScanStep, Step
from forebay.result import Result

_SCHEMA = pa.schema(
    [
        ("state", pa.string()), ("of", pa.string()), ("jobs", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()),
        ("known_from", pa.string()),
    ]
)  # fmt: skip
_TEXT_WIDTH = 24
"""Bytes of a text whose length nobody knows."""
_INDEX = 24
"""Bytes a row of state takes beside its values: index and bookkeeping."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the rows of a step."""

    rows: int | None
    source: str


def explain_state(flow: Dataflow, job: str | None, plan: JobPlan) -> Result:
    """One row per step that remembers, inputs first. `job`: the job that runs the plan, if it does."""
    own = {} if job is None else {n.print: n for n in flow.nodes_of(job) if n.print}
    rows = []
    for step in _steps(plan):
        if not isinstance(step, OperatorStep) or not (step.remembers or step.relation):
            continue
        node = own.get(step.print) or flow.shared(step.key) or _view(flow, job, step)
        told = _live(node) if node is not None else _estimated(flow, step)
        rows.append({"state": step.label, "of": ", ".join(dict.fromkeys(_tables(step))), **told})
    return Result(pa.Table.from_pylist(rows, _SCHEMA))


def _view(flow: Dataflow, job: str | None, step: OperatorStep) -> Node | None:
    return flow.nodes.get(f"relation/{step.relation}") if job is not None and step.relation == job else None


def _live(node: Node) -> dict[str, object]:
    states = node.states().values()
    return {
        "jobs": ", ".join(sorted(node.jobs)),
        "rows": sum(s.rows() for s in states),
        "bytes": sum(s.nbytes() for s in states),
        "known_from": "live",
    }


def _estimated(flow: Dataflow, step: OperatorStep) -> dict[str, object]:
    if step.label.startswith("Join"):
        return {"jobs": None, "rows": 0, "bytes": 0, "known_from": "its sides remember"}
    known = [_rows_of(flow, source) for source in step.inputs]
    counts = [k.rows for k in known]
    source = "; ".join(dict.fromkeys(k.source for k in known))
    if any(count is None for count in counts):
        return {"jobs": None, "rows": None, "bytes": None, "known_from": f"unknown: {source}"}
    rows = sum(count for count in counts if count is not None)
    most = "at most, from " if not step.label.startswith("Arrange") or _filters(step) else "from "
    return {"jobs": None, "rows": rows, "bytes": rows * _width(step.schema), "known_from": most + source}


def _rows_of(flow: Dataflow, step: Step) -> _Known:
    """How many rows a step has given so far, as far as its inputs tell."""
    if isinstance(step, RelationStep):
        node = flow.relation(step.relation)
        return _Known(sum(s.rows() for s in node.states().values()), f"rows of {step.relation} now")
    if isinstance(step, ScanStep):
        table = step.scan.table
        read = [n.scan.metrics.rows for n in flow.scans() if n.scan is not None and n.scan.spec.table == table]
        if not any(read):
            return _Known(None, f"nothing has read {table}")
        return _Known(max(read), f"rows read of {table} so far")
    running = flow.shared(step.key)
    if running is not None and isinstance(step, OperatorStep) and step.remembers and running.states():
        return _Known(max(s.rows() for s in running.states().values()), f"rows of a running {step.label}")
    if isinstance(step, OperatorStep) and step.label.startswith("Join"):
        sides = [_rows_of(flow, s) for s in step.inputs]
        counts = [k.rows for k in sides if k.rows is not None]
        found = max(counts) if len(counts) == len(sides) else None
        return _Known(found, "; ".join(dict.fromkeys(k.source for k in sides)) + " (a join with one match each)")
    known = [_rows_of(flow, s) for s in step.inputs]
    counts = [k.rows for k in known if k.rows is not None]
    total = sum(counts) if len(counts) == len(known) else None
    return _Known(total, "; ".join(dict.fromkeys(k.source for k in known)))


def _filters(step: Step) -> bool:
    return any(s.label == "Filter" for s in _below(step))


def _width(schema: pa.Schema) -> int:
    """Bytes of a row in memory."""
    return _INDEX + sum(_bytes(f.type) for f in schema)


def _bytes(kind: pa.DataType) -> int:
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return _TEXT_WIDTH


def _tables(step: Step) -> Iterator[str]:
    for below in _below(step):
        if isinstance(below, ScanStep):
            yield below.scan.table
        elif isinstance(below, RelationStep):
            yield below.relation


def _below(step: Step) -> Iterator[Step]:
    for source in step.inputs:
        yield from _below(source)
    yield step


def _steps(plan: JobPlan) -> Iterator[Step]:
    """Every step once, inputs first."""
    seen: set[str] = set()
    for output in plan.outputs:
        for step in _below(output):
            if step.path not in seen and not isinstance(step, OutputStep):
                seen.add(step.path)
                yield step
