"""EXPLAIN STATE: what a statement will have to remember, before it is started; beside that what it does remember, when it runs.

Per step that remembers: how many rows it comes to and what they take in memory and on disk. With a TTL that is the rate of the
step times the TTL; without one the rows that are there now, and how many more each day brings. A state that runs already, for
this job or another, is counted and costs nothing anew. Columns `basis` and `known_from` say what a number stands on
(`forebay.volume`); where nothing is known there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from forebay.engine.operators.base import Operator
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.runtime.budget import SEAL, Budget
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.plan import JobPlan, OperatorStep, RelationStep, ScanStep, Step
from forebay.engine.serve.inspect import named_states
from forebay.engine.state import Segmented
from forebay.engine.state.groups import GroupTable
from forebay.engine.state.multiset import BestRows, OrderedRows
from forebay.planner.explain import duration
from forebay.result import Result
from forebay.volume import COUNTED, GUESS, Volume, Volumes, worst

_TEXT, _LONG = pa.string(), pa.int64()
_SCHEMA = pa.schema(
    [
        ("state", _TEXT), ("of", _TEXT), ("jobs", _TEXT), ("shared", _TEXT), ("ttl", _TEXT), ("rows", _LONG), ("bytes", _LONG),
        ("rows_per_day", _LONG), ("bytes_per_day", _LONG), ("new_bytes", _LONG), ("memory_bytes", _LONG), ("disk_bytes", _LONG),
        ("actual_rows", _LONG), ("actual_bytes", _LONG), ("actual_disk_bytes", _LONG), ("basis", _TEXT), ("known_from", _TEXT),
        ("hint", _TEXT),
    ]
)  # fmt: skip
_TEXT_WIDTH = 24
"""Bytes of a text whose length nobody knows."""
_ROW = 24
"""Bytes that a row of an arrangement takes beside its values: index and bookkeeping."""
_GROUP = 64
"""The same of a group of keyed state, or a row kept for one."""
_COLD = 2.5
"""Bytes of memory of a row on disk."""
_COLD_HEAD = 16
"""Bytes on disk beside its values: hash and number."""


@dataclass(slots=True)
class _Size:
    rows: float
    bytes: float
    width: float
    """Bytes of the values of a row."""


def explain_state(flow: Dataflow, budget: Budget, job: str | None, plan: JobPlan, volumes: Volumes) -> Result:
    """One row per step that remembers, inputs first, then their sum. `job`: the job that runs the plan, if it does."""
    own = {} if job is None else {n.print: n for n in flow.nodes_of(job) if n.print}
    names = {id(n.node): n.name for n in named_states(flow).values()}
    rows: list[dict[str, Any]] = []
    sizes: list[_Size | None] = []
    for step in plan.steps():
        if not isinstance(step, OperatorStep) or not (step.remembers or step.relation):
            continue
        node = own.get(step.print) or flow.graph.shared(step.key) or _view(flow, job, step)
        row, size = _told(step, node, volumes)
        if node is not None:
            row["shared"] = names.get(id(node)) if node.jobs - {job} else None
        rows.append({"state": step.label, "of": ", ".join(dict.fromkeys(_tables(step))), **row})
        sizes.append(size if node is None else None)
    return Result(pa.Table.from_pylist([*rows, _divided(flow, budget, rows, sizes)], _SCHEMA))


def _view(flow: Dataflow, job: str | None, step: OperatorStep) -> Node | None:
    return flow.nodes.get(f"relation/{step.relation}") if job is not None and step.relation == job else None


def _told(step: OperatorStep, node: Node | None, volumes: Volumes) -> tuple[dict[str, Any], _Size | None]:
    actual = {} if node is None else _counted(node)
    if step.label.startswith("Join"):
        own = {"rows": 0, "bytes": 0, "new_bytes": 0, "known_from": "its sides remember", "basis": COUNTED}
        return {**own, **actual, "rows_per_day": 0}, None
    volume = volumes.of(step)
    told, size = _estimated(step, volume, volumes)
    if node is not None:
        told["new_bytes"] = 0
    return {**told, **actual}, size


def _counted(node: Node) -> dict[str, Any]:
    states = node.states().values()
    segments = [s for state in states if isinstance(state, Segmented) for s in state.cold_segments()]
    return {
        "jobs": ", ".join(sorted(node.jobs)),
        "actual_rows": sum(s.rows() for s in states),
        "actual_bytes": sum(s.nbytes() for s in states),
        "actual_disk_bytes": sum(s.nbytes_on_disk for s in segments),
    }


# -- estimates ------------------------------------------------------------------------------------------------------


def _estimated(step: OperatorStep, volume: Volume, volumes: Volumes) -> tuple[dict[str, Any], _Size | None]:
    operator = step.make([None])
    ttl = _ttl(step)
    growth = volume.per_second
    told: dict[str, Any] = {
        "ttl": None if not step.lives else "for ever" if ttl is None else duration(ttl),
        "rows_per_day": None if growth is None else round(growth * 86_400),
        "basis": volume.basis,
        "known_from": "; ".join(volume.known_from),
        "hint": _hint(step, operator, ttl, growth),
    }
    rows = volume.rows if ttl is None else volume.after(ttl / 1e6)
    if rows is None:
        return told, None
    width, guessed = _width(step, volumes)
    told["basis"] = worst(volume.basis, GUESS if guessed else COUNTED)
    size = _Size(rows, _bytes(operator, rows, width, volumes.of(step.inputs[0]).rows or rows), width)
    if growth is not None:
        more = volumes.of(step.inputs[0]).per_second or growth
        told["bytes_per_day"] = round(_bytes(operator, growth * 86_400, width, more * 86_400))
    if guessed:
        told["known_from"] += "; width from the types of the columns"
    return {**told, "rows": round(rows), "bytes": round(size.bytes), "new_bytes": round(size.bytes)}, size


def _ttl(step: OperatorStep) -> int | None:
    """How long the longest of the plan's joins sees a row, in µs; None: for ever."""
    if not step.lives or None in step.lives:
        return None
    return max(t for t in step.lives if t is not None)


def _hint(step: OperatorStep, operator: Operator, ttl: int | None, growth: float | None) -> str | None:
    if ttl is not None or growth == 0:
        return None
    more = "by its input" if growth is None else f"by {growth * 86_400:,.0f} rows a day"
    if not isinstance(operator, ArrangeOperator) or step.relation:
        return f"grows without bound, {more}, as new keys come"
    table = next(iter(_tables(step)), "t")
    return f"grows without bound, {more}: give the query /*+ STATE_TTL('{table}' = '30 d') */, or the table 'state.ttl'"


def _width(step: OperatorStep, volumes: Volumes) -> tuple[float, bool]:
    """Bytes of the values of a row that is kept, and whether they are a guess."""
    sample = volumes.of(step).sample
    if sample is not None and sample.num_rows and sample.schema.types == step.schema.types[: sample.num_columns]:
        missing = step.schema.types[sample.num_columns :]
        return sample.nbytes / sample.num_rows + sum(map(_bytes_of, missing)), False
    return float(sum(map(_bytes_of, step.schema.types))), any(pa.types.is_string(t) for t in step.schema.types)


def _bytes(operator: Operator, rows: float, width: float, inputs: float) -> float:
    """In memory, of rows or groups with values of that width, and what is kept beside them of `inputs` rows."""
    if isinstance(operator, ArrangeOperator):
        return rows * (width + _ROW)
    total = 0.0
    for state in operator.states().values():
        if isinstance(state, GroupTable):
            total += rows * (width + _GROUP + 8 * state.width)
        elif isinstance(state, OrderedRows):
            kept = rows if isinstance(state, BestRows) else inputs
            total += kept * (sum(map(_bytes_of, state.table.keys.schema.types)) + _GROUP)
    return total or rows * (width + _ROW)


def _bytes_of(kind: pa.DataType) -> float:
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return _TEXT_WIDTH


# -- the budget -----------------------------------------------------------------------------------------------------


def _divided(flow: Dataflow, budget: Budget, rows: list[dict[str, Any]], sizes: list[_Size | None]) -> dict[str, Any]:
    """Says of each new state how much stays in memory and how much goes to disk; returns the sum of all."""
    used = sum(s.nbytes() for n in flow.order for s in n.states().values())
    new = sum(s.bytes for s in sizes if s is not None)
    room = SEAL * budget.limit
    hot = min(1.0, room / max(used + new, 1))
    for row, size in zip(rows, sizes):
        if size is not None:
            cold = size.rows * (1 - hot)
            row["memory_bytes"] = round(size.bytes * hot + cold * _COLD)
            row["disk_bytes"] = round(cold * (size.width + _COLD_HEAD))
    unknown = any(row.get("rows") is None for row in rows)
    told = [f"of a memory budget of {_mb(budget.limit)} states may take {_mb(room)}; {_mb(used)} are taken"]
    if hot < 1:
        told.append(f"{100 * (1 - hot):.0f} % of the rows will be on disk")
    if unknown:
        told.append("what is not known is not counted")
    keys = ("bytes", "new_bytes", "memory_bytes", "disk_bytes", "actual_bytes", "actual_disk_bytes")
    return {
        "state": "in all",
        **{k: sum(row.get(k) or 0 for row in rows) for k in keys},
        "basis": worst(COUNTED, *(row["basis"] for row in rows)),
        "known_from": "; ".join(told),
    }


def _mb(count: float) -> str:
    return f"{count / (1 << 20):,.0f} MB"


def _tables(step: Step) -> Iterator[str]:
    """The tables under a step."""
    for below in step.inputs:
        yield from _tables(below)
    if isinstance(step, ScanStep):
        yield step.scan.table
    elif isinstance(step, RelationStep):
        yield step.relation
