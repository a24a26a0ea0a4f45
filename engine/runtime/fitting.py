"""What does not fit the memory budget, and how that is told: with numbers and a way out.

A new job is refused if what is in memory and cannot leave it, and what the job needs at least, is more than the budget. A running
one whose state outgrows the budget and cannot leave memory (one group is either in memory or on disk) is stopped as it is: its
inputs are held back, its state stays, and it goes on where it was once there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa

from forebay.engine.errors import StateError
from forebay.engine.runtime.accounts import busy_bytes, told
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.plan import JobPlan, OperatorStep
from forebay.engine.state import Tiered
from forebay.engine.state.coldstore import LOADED
from forebay.engine.state.groups import LEAST
from forebay.engine.state.rows import CHUNK

_INDEX = 16
"""Bytes of an arranged row beside its values, at least."""
_TEXT = 4
"""Bytes of a text, at least."""
_MEGABYTE = 1 << 20


class Overrun(NamedTuple):
    """Jobs that have to stop, and why."""

    jobs: frozenset[str]
    error: StateError


def overrun(flow: Dataflow, limit: int, used: int, found: Mapping[str, int]) -> Overrun | None:
    """The jobs of the node with most in memory; None if there is none with a quarter of the budget."""
    stopped = {id(n) for unit in flow.parking.units() for n in unit.nodes}
    nodes = [n for n in flow.order if n.jobs and id(n) not in stopped]
    if not nodes:
        return None
    node = max(nodes, key=busy_bytes)
    mine = busy_bytes(node)
    if mine < limit // 4:
        return None
    names = sorted(node.jobs)
    error = StateError(
        f"the state of {' and '.join(names)} does not fit the memory budget",
        detail=f"{node.label} needs {mine >> 20} MB in memory at a time, the budget is {limit >> 20} MB; used are {told(found)}",
        hint=f"SET 'memory.budget' = '{_rounded(2 * used)}MB' and RESUME JOB {names[0]}; or drop the job. Rows of one group are "
        "in memory together: a GROUP BY or PARTITION BY of more columns makes groups smaller",
    )
    return Overrun(frozenset(names), error)


def check_fits(flow: Dataflow, plan: JobPlan, limit: int, found: Mapping[str, int]) -> None:
    """Refuse a new job that cannot run within the budget; `found` are the accounts now.

    Raises:
        StateError: with what it needs, what there is, and the budget that would do.
    """
    new = [(s.label, least) for s in _new_steps(flow, plan) if (least := least_bytes(s))]
    needed = sum(least for _, least in new) + (LOADED if new else 0)
    states = [s for n in flow.order for s in n.states().values() if isinstance(s, Tiered)]
    fixed = max(0, found["state"] - sum(s.hot_bytes() for s in states))
    if not new or fixed + needed <= limit:
        return
    parts = ", ".join(f"{label} {_rounded(least)} MB" for label, least in sorted(new, key=lambda part: -part[1]))
    raise StateError(
        "the job does not fit the memory budget",
        detail=f"it needs {_rounded(needed)} MB at least (blocks from disk {LOADED >> 20} MB, {parts}); of {limit >> 20} MB "
        f"{fixed >> 20} MB are taken by what cannot leave memory",
        hint=f"SET 'memory.budget' = '{_rounded(2 * (fixed + needed))}MB', or more",
    )


def least_bytes(step: OperatorStep) -> int:
    """Bytes of memory that a step's state needs whatever leaves it: rows are sealed by whole chunks, groups from `LEAST` on."""
    if step.build is not None or step.relation is not None:
        return CHUNK * (_INDEX + sum(_width(f.type) for f in step.schema))
    return LEAST if step.remembers else 0


def _new_steps(flow: Dataflow, plan: JobPlan) -> Iterator[OperatorStep]:
    """The steps that no running node does."""
    yield from (s for s in plan.steps() if isinstance(s, OperatorStep) and not flow.graph.running(s))


def _width(kind: pa.DataType) -> int:
    try:
        width = int(kind.bit_width) // 8
    except ValueError:
        return _TEXT
    return max(1, width)


def _rounded(size: int) -> int:
    """In megabytes, up."""
    return -(-size // _MEGABYTE)
