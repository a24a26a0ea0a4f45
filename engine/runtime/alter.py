"""What a change of a job's statement means for its state: which running nodes the new plan keeps, which it makes anew, from what.

A step of the new plan *is* a running node if their fingerprints are equal. What is not running is made anew, and what it has to
remember is made from the *past* of its inputs: all rows that their changes add up to, which arrangements and groups can tell and
a scan cannot. So only what changed is rebuilt, from state that lives on, and no source is read again.

    AS_IS          nothing that remembers has changed
    AFTER_RENAME   nothing at all has changed but names
    REBUILD_PART   some of it is made anew from the rest
    INCOMPATIBLE   something would have to know what only the source knew: it can but begin empty
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from forebay.engine.errors import StateError
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.plan import JobPlan, OperatorStep, OutputStep, RelationStep, ScanStep, Step

if TYPE_CHECKING:
    from forebay.engine.runtime.dataflow import Dataflow


class Change(Enum):
    AS_IS = "AS_IS"
    AFTER_RENAME = "AFTER_RENAME"
    REBUILD_PART = "REBUILD_PART"
    INCOMPATIBLE = "INCOMPATIBLE"


@dataclass(slots=True)
class Choice:
    """What becomes of one step."""

    step: Step
    node: Node | None = None
    """The running node that it is; None: it is made."""
    need: bool = False
    """Somebody above has to know all rows that it has ever given."""
    continues: Node | None = None
    """For a scan of a table that has got other columns: the scan where it goes on."""


@dataclass(slots=True)
class Comparison:
    """A new plan beside what runs."""

    choices: dict[str, Choice] = field(default_factory=dict)
    """By path of the step."""
    lost: dict[str, str] = field(default_factory=dict)
    """What cannot be made anew → the input that does not know its past."""
    dropped: list[str] = field(default_factory=list)
    """What the job remembers now and the new plan does not ask for."""

    respelled: bool = False
    """The statement's text has changed."""

    @property
    def kept(self) -> list[str]:
        """Steps that remember, and go on as they are."""
        return [c.step.label for c in self.choices.values() if c.node is not None and _remembers(c.step)]

    @property
    def made(self) -> list[str]:
        """Steps that remember, and are made anew."""
        return [c.step.label for c in self.choices.values() if c.node is None and _remembers(c.step)]

    @property
    def change(self) -> Change:
        """The class of the change."""
        if self.lost:
            return Change.INCOMPATIBLE
        if self.made or self.dropped:
            return Change.REBUILD_PART
        return Change.AFTER_RENAME if self.respelled and self._same() else Change.AS_IS

    def _same(self) -> bool:
        """Every step but the outlets is what runs."""
        return all(c.node is not None or _is_output(c.step) for c in self.choices.values())


def compare(flow: Dataflow, job: str, plan: JobPlan, *, whole: bool = False) -> Comparison:
    """Compare a plan with the running job. `whole`: its complete result is wanted, not only its changes from here on."""
    found = Comparison()
    own = flow.graph.own_nodes(job)
    for output in plan.outputs:
        _visit(flow, own, output, whole and not _is_fed_so(flow, own, output), output.label, found)
    used = {id(n) for c in found.choices.values() if c.node is not None for n in _with_inputs(c.node)}
    found.dropped = [n.label for n in flow.nodes_of(job) if n.remembers and id(n) not in used]
    return found


def _is_fed_so(flow: Dataflow, own: Mapping[str, Node], output: Step) -> bool:
    """Whether an output is a materialized view whose input stays: what it shows, it has."""
    if not isinstance(output, OperatorStep) or output.relation is None:
        return False
    source = own.get(output.sources[0].print)
    return source is not None and source in flow.relation(output.relation).inputs


def _visit(flow: Dataflow, own: dict[str, Node], step: Step, need: bool, asker: str, found: Comparison) -> None:
    """Choose for a step and what is below it; again if somebody else needs more of it."""
    choice = found.choices.get(step.path)
    if choice is not None and (choice.need or not need):
        return
    choice = found.choices[step.path] = Choice(step, need=need)
    if isinstance(step, RelationStep):
        choice.node = flow.relation(step.relation)
    elif isinstance(step, ScanStep):
        _choose_scan(flow, own, choice, asker, found)
    else:
        running = None if isinstance(step, OutputStep) else own.get(step.print) or flow.graph.known(step)
        if running is not None and (not need or flow.graph.past(running) is not None):
            choice.node = running
            return
        remembers = _remembers(step)
        for source in step.inputs:
            _visit(flow, own, source, need or remembers, step.label if remembers else asker, found)


def _choose_scan(flow: Dataflow, own: dict[str, Node], choice: Choice, asker: str, found: Comparison) -> None:
    """A scan of the job goes on where it is, also if its table has got more columns; another is as a new job would have it.

    A new job's scan of a table that has got columns goes on where one from before stands, if the past of that is known.
    """
    step = choice.step
    assert isinstance(step, ScanStep)
    former = own.get(step.print) or next((n for n in own.values() if _reads_as(n, step)), None)
    known = flow.graph.shared(step.key)
    if former is None:
        stands = known is not None and _stands_where_one_of(own, known)
        fresh = known is not None and known.scan is not None and (known.scan.untouched or stands)
        choice.node = known if known is not None and (fresh or flow.graph.past(known) is not None) else None
        choice.continues = flow.graph.elder(step.scan) if choice.node is None and choice.need else None
        if choice.need and stands and known is not None and flow.graph.past(known) is None:
            found.lost[asker] = known.label
        return
    same = former.print == step.print
    choice.node, choice.continues = former if same else None, None if same else former
    if choice.need and flow.graph.past(former, step.scan) is None:
        found.lost[asker] = former.label


def _stands_where_one_of(own: Mapping[str, Node], known: Node) -> bool:
    """Whether a scan of the table, which now is read otherwise, stands exactly where the job's own does."""
    scan = known.scan
    mine = [n.scan for n in own.values() if n.scan is not None]
    return scan is not None and any((m.spec.table, m.positions) == (scan.spec.table, scan.positions) for m in mine)


def _reads_as(node: Node, step: ScanStep) -> bool:
    """Whether a scan reads what the step's does, whatever columns the table had."""
    spec = None if node.scan is None else node.scan.spec
    return spec is not None and (spec.table, spec.lineage) == (step.scan.table, step.scan.lineage)


def _with_inputs(node: Node) -> Iterator[Node]:
    yield node
    for source in node.inputs:
        yield from _with_inputs(source)


def _is_output(step: Step) -> bool:
    return isinstance(step, OutputStep) or (isinstance(step, OperatorStep) and step.relation is not None)


def _remembers(step: Step) -> bool:
    return isinstance(step, OperatorStep) and step.remembers


def inherited(flow: Dataflow, job: str, plan: JobPlan) -> Mapping[str, Choice] | None:
    """For a new job on tables that have got columns: how it begins with what was kept of them before; None if nothing was."""
    scans = [s.scan for s in plan.steps() if isinstance(s, ScanStep)]
    if not any(flow.graph.elder(scan) is not None for scan in scans):
        return None
    choices = compare(flow, job, plan, whole=True).choices
    return choices if any(c.continues is not None for c in choices.values()) else None


def unknown_past(job: str, found: Comparison) -> StateError:
    """The error of a change that loses state."""
    lost = "; ".join(
        f"{what}: {source} has no state that knows what it has read" for what, source in found.lost.items()
    )
    return StateError(
        f"job '{job}' cannot be changed so and keep its state",
        detail=lost,
        hint="ALTER JOB .. WITH ('allow-state-loss' = 'true') lets that begin empty; a new job reads from the start",
    )
