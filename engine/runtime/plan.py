"""The physical plan: what the dataflow is asked to run. Made by the planner, resolved by `Dataflow.attach`.

A step with a `key` is shareable: two steps of one key over the same inputs are one node, whoever asks. A `path` names a step
within its job, stable across restarts, so that its state is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from forebay.engine.connector import Source
from forebay.engine.operators.base import Operator
from forebay.engine.runtime.scan import ScanSpec

if TYPE_CHECKING:
    from forebay.engine.runtime.outbox import Outlet


@dataclass(frozen=True, slots=True)
class Step:
    """One node to be; `path` like '0.1.0' from the job's root."""

    schema: pa.Schema
    path: str
    label: str
    key: str | None
    """Fingerprint of the subtree, or None if it may not be shared (volatile functions, a start of its own)."""

    @property
    def inputs(self) -> tuple[Step, ...]:
        return ()

    @property
    def print(self) -> str:
        """What the step does, its inputs included: equal for equal work, also where it may not be shared. '': not told."""
        return self.key or ""

    @property
    def lineages(self) -> frozenset[str]:
        """Of all scans that it stands on, and what of them is stored: a plan names tables, whose definitions change."""
        return frozenset().union(*(s.lineages for s in self.inputs))


@dataclass(frozen=True, slots=True)
class History:
    """What a table was before its stream begins."""

    open: Callable[[frozenset[str] | None], Source]
    """A bounded source of insertions, in the columns of the scan; the columns that are needed (None: all)."""
    check: Callable[[], None]
    """Raises ConnectorError if the stream no longer holds what came after the history."""


@dataclass(frozen=True, slots=True)
class ScanStep(Step):
    """Read a connector's table. With a `history` the scan's rows come after those of the history."""

    scan: ScanSpec
    history: History | None = None

    @property
    def print(self) -> str:
        return self.key or self.path

    @property
    def lineages(self) -> frozenset[str]:
        return frozenset({self.scan.lineage} - {""})


@dataclass(frozen=True, slots=True)
class RelationStep(Step):
    """Follow an embedded table or a materialized view of the warehouse, by name."""

    relation: str


@dataclass(frozen=True, slots=True)
class Build:
    """How an arrangement is built from the rows that come."""

    replaces: bool = False
    """Of several rows of one key only the newest stays."""
    version: int | None = None
    """The column that tells which is newer, before the order in which they come."""


@dataclass(frozen=True, slots=True)
class OperatorStep(Step):
    """Run an operator. `make` gets the operators of the input nodes (a join takes their arrangements)."""

    sources: tuple[Step, ...]
    make: Callable[[Sequence[Operator | None]], Operator]
    relation: str | None = None
    """Set on the last step of a materialized view: its name."""
    rowwise: bool = False
    """Each row of its one input is dropped, or becomes one row, whatever the others are."""
    build: Build | None = None
    """Set if it arranges the rows of its one input."""
    keyed: tuple[int, ...] | None = None
    """Set if it keeps its own output arranged by these columns: a join by them needs no other arrangement."""
    suits: Callable[[Operator, int | None], bool] | None = None
    """Whether a running operator of this key, with its watermark, still has the past that this step needs; None: any has."""
    work: str = ""
    """`print`, where the planner tells it."""
    stored: str = ""
    """Of a join: tells apart what its sides are stored as, which the table's definition says and not the query."""
    lives: Sequence[int | None] = ()
    """Of an arrangement, for how long each of the plan's joins sees its rows, in µs; None: for ever."""
    remembers: bool = False
    """It has a state that follows from all that its inputs ever gave."""

    @property
    def inputs(self) -> tuple[Step, ...]:
        return self.sources

    @property
    def print(self) -> str:
        return self.work or self.key or ""

    @property
    def lineages(self) -> frozenset[str]:
        return frozenset().union(*(s.lineages for s in self.sources), {self.stored} - {""})


@dataclass(frozen=True, slots=True)
class OutputStep(Step):
    """The job's end: hand each epoch's net changes to an outlet (a sink's outbox, a stream, an embedded table)."""

    source: Step
    outlet: Callable[[], Outlet]
    state_only: bool = False
    """What the job makes of its inputs' past is not handed on."""
    append: bool = False
    """The outlet takes insertions only."""

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job's outputs; steps that are one object in several outputs run once."""

    outputs: tuple[Step, ...] = field(default=())

    def steps(self) -> Iterator[Step]:
        """Every step once, inputs first."""
        seen: set[str] = set()

        def visit(step: Step) -> Iterator[Step]:
            if step.path not in seen:
                seen.add(step.path)
                for source in step.inputs:
                    yield from visit(source)
                yield step

        for output in self.outputs:
            yield from visit(output)


def reads_history(step: Step) -> bool:
    """Whether it stands on a table with a history that does not flow through the job."""
    return (isinstance(step, ScanStep) and step.history is not None) or any(map(reads_history, step.inputs))
