"""The graph of the dataflow: nodes in topological order, and the jobs whose plans they carry out.

A job's steps are *placed*: each on a node that runs and does the same (*sharing*), if that can show the job its past or the job
needs none, else on a new node over the nodes of its inputs. A node goes when no job uses it any more; relations stay.

Invariant: a node comes after its inputs in `order`, has each job that uses what stands on it among its own, and of the nodes with
one key there is one that newcomers share. `nodes` and `order` are the same objects for ever.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.errors import StateError
from forebay.engine.operators.base import Operator
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.runtime.alter import Choice
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.outbox import Outlet
from forebay.engine.runtime.plan import JobPlan, OperatorStep, OutputStep, RelationStep, ScanStep, Step
from forebay.engine.runtime.scan import Scan, ScanSpec
from forebay.engine.state import Segmented, Tiered
from forebay.engine.state.coldstore import ColdStore


@dataclass(slots=True)
class Attachment:
    """A job on its way in."""

    job: str
    now: int
    placement: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    built: Mapping[str, Operator] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    fresh: list[Node] = field(default_factory=list)
    choices: Mapping[str, Choice] | None = None
    """For a changed job: what becomes of each step."""
    outlets: Mapping[str, Outlet] = field(default_factory=dict)
    """Outlets that go over to the new plan, by path."""
    prefix: str = ""
    """Of the ids of private nodes; default: the job's name."""

    def elders(self) -> dict[int, Node]:
        """By `id` of a new scan: the one whose past is its own."""
        choices = self.choices or {}
        scans = [n for n in self.fresh if n.scan is not None and n.path in choices]
        found = {id(n): choices[n.path].continues for n in scans}
        return {key: node for key, node in found.items() if node is not None}


class Graph:
    """Nodes and jobs. What runs them is `Dataflow`."""

    def __init__(self, cold: ColdStore | None) -> None:
        """`cold`: where states may put rows; without it all state stays in memory."""
        self.nodes: dict[str, Node] = {}
        self.order: list[Node] = []
        self.placed: dict[str, dict[str, Node]] = {}
        """Per job: the node of each path of its plan."""
        self._cold = cold
        self._shared: dict[str, Node] = {}

    # -- placing ------------------------------------------------------------------------------------------------

    def add_relation(self, name: str, operator: Operator) -> Node:
        """Make an embedded table's node: fed by DML, never detached by a job."""
        node = Node(f"relation/{name}", f"Table({name})", [], set(), operator=operator, relation=name)
        self._insert(node)
        return node

    def place(self, step: Step, into: Attachment) -> Node:
        """The node of a step: a running one where sharing is exact, else a new one over its placed inputs."""
        if step.path in into.nodes:
            return into.nodes[step.path]
        if isinstance(step, RelationStep):
            node = self.relation(step.relation)
        else:
            found = self._find(step, into)
            if found is not None:
                node = found
                self._adopt(node, into.job)
                if node.scan is not None and isinstance(step, ScanStep):
                    node.scan.widen(step.scan.columns)
            else:
                inputs = [self.place(s, into) for s in step.inputs]
                node = self._make(step, inputs, into)
        into.nodes[step.path] = node
        return node

    def _find(self, step: Step, into: Attachment) -> Node | None:
        """A node that already does what the step asks and can show a newcomer its past."""
        if into.choices is not None:
            return into.choices[step.path].node
        wanted = into.placement.get(step.path)
        if wanted is not None:
            return self.nodes.get(wanted)
        known = self._shared.get(step.key) if step.key is not None else None
        if known is None:
            return None
        if known not in into.fresh and not _suits(step, known):
            return None
        unread = known.scan is not None and known.scan.untouched and known.history is None
        return known if known in into.fresh or unread or known.contents() is not None else None

    def _adopt(self, node: Node, job: str) -> None:
        """Make a job use a running node and all that it stands on."""
        if node.relation is None and job not in node.jobs:
            node.jobs.add(job)
            for source in node.inputs:
                self._adopt(source, job)

    def _make(self, step: Step, inputs: list[Node], into: Attachment) -> Node:
        wanted = into.placement.get(step.path)
        taken = step.key is not None and step.key in self._shared
        shareable = step.key is not None and not taken and all(i.key or i.relation for i in inputs)
        identity = wanted or (f"shared/{step.key}" if shareable else f"{into.prefix or into.job}/{step.path}")
        node = Node(identity, step.label, inputs, {into.job}, key=step.key if shareable else None, print=step.print)
        node.path, node.wish = step.path, step.key
        former = into.choices[step.path].continues if into.choices is not None else None
        if isinstance(step, ScanStep):
            saved = into.positions.get(identity)
            if former is not None and former.scan is not None:
                saved = former.scan.save()
            node.scan = Scan(step.scan, into.now, saved)
            node.history = None if step.history is None else functools.partial(step.history.open, step.scan.columns)
            if taken and step.key is not None:
                node.catching_up = self._shared[step.key]
        elif isinstance(step, OperatorStep):
            node.operator = into.built.get(step.path) or step.make([i.operator for i in inputs])
            node.complete = step.path in into.built
            node.remembers = step.remembers
            if step.relation is not None:
                node.id, node.relation, node.key = f"relation/{step.relation}", step.relation, None
        elif isinstance(step, OutputStep):
            node.outlet = into.outlets.get(step.path) or step.outlet()
            node.schema = step.schema
            node.state_only = step.state_only
        if node.key is not None:
            self._shared[node.key] = node
        self._insert(node)
        into.fresh.append(node)
        return node

    def _insert(self, node: Node) -> None:
        self.use_cold(node)
        self.nodes[node.id] = node
        self.order.append(node)

    def use_cold(self, node: Node) -> None:
        """Its state may leave memory."""
        for state in node.states().values():
            if self._cold is not None and isinstance(state, Tiered) and not node.complete:
                state.use(self._cold)

    def keep(self, job: str, step: Step, node: Node) -> None:
        """Make a job that only holds a running node, which is what the step does."""
        self._adopt(node, job)
        self.note(job, JobPlan((step,)), {step.path: node})

    def note(self, job: str, plan: JobPlan, nodes: dict[str, Node]) -> None:
        """Remember where the steps of a job's plan are."""
        self.placed[job] = _with_inputs(plan, nodes)

    def discard(self, job: str) -> None:
        """Remove a job, and the nodes that were its alone."""
        self.placed.pop(job, None)
        for node in [n for n in self.order if job in n.jobs]:
            node.jobs.discard(job)
            if not node.jobs:
                self._remove(node)

    def drop_relation(self, name: str) -> None:
        """Remove an embedded table's node."""
        self._remove(self.nodes[f"relation/{name}"])

    def _remove(self, node: Node) -> None:
        self.order.remove(node)
        self.nodes.pop(node.id, None)
        if node.key is not None and self._shared.get(node.key) is node:
            del self._shared[node.key]
        node.close()

    # -- looking ------------------------------------------------------------------------------------------------

    def nodes_of(self, job: str) -> list[Node]:
        """A job's nodes in topological order."""
        return [n for n in self.order if job in n.jobs]

    def own_nodes(self, job: str) -> dict[str, Node]:
        """A job's nodes by what they do."""
        return {node.print: node for node in self.nodes_of(job) if node.print}

    def relation(self, name: str) -> Node:
        """The node of an embedded table or materialized view.

        Raises:
            StateError: it is not there before its job runs.
        """
        found = self.nodes.get(f"relation/{name}")
        if found is None:
            raise StateError(
                f"{name} is not there yet: histories of the tables that it reads are being loaded",
                hint="SHOW JOBS tells how far that is, and what has failed",
            )
        return found

    def is_read(self, name: str) -> bool:
        """Whether a job reads the relation."""
        node = self.nodes.get(f"relation/{name}")
        return node is not None and any(node in n.inputs for n in self.order)

    def placements(self) -> dict[str, dict[str, str]]:
        """Per job: the id of the node at each path of its plan, for a checkpoint."""
        return {job: {path: node.id for path, node in nodes.items()} for job, nodes in self.placed.items()}

    def segments(self) -> list[int]:
        """Numbers of the cold segments that the state consists of."""
        states = [s for n in self.order for s in n.states().values() if isinstance(s, Segmented)]
        return sorted(segment.number for state in states for segment in state.cold_segments())

    def shared(self, key: str | None) -> Node | None:
        """The node that all jobs with a step of that key may use."""
        return None if key is None else self._shared.get(key)

    def known(self, step: Step) -> Node | None:
        """The node of that key, if it still has the past that the step needs."""
        found = self.shared(step.key)
        return found if found is not None and _suits(step, found) else None

    def running(self, step: Step) -> bool:
        """Whether a node does what the step asks, and can show a newcomer its past."""
        if isinstance(step, RelationStep):
            return f"relation/{step.relation}" in self.nodes
        known = self._shared.get(step.key) if step.key is not None else None
        if known is None or not _suits(step, known):
            return False
        return known.contents() is not None

    def elder(self, scan: ScanSpec) -> Node | None:
        """A running scan of the table from before it got columns, all of whose rows are still known."""
        scans = [n for n in self.order if n.scan is not None and scan.grew_from(n.scan.spec)]
        return next((n for n in scans if self.past(n, scan) is not None), None)

    def past(self, node: Node, wanted: ScanSpec | None = None) -> Iterator[Batch] | None:
        """All rows that a node's changes add up to: from itself, or from an arrangement of them. None: nobody knows.

        With `wanted`, of a scan, as rows of that schema: columns that the scan's table did not have yet are NULL.
        """
        own = node.contents()
        if own is not None:
            return own
        for above in [n for n in self.order if n.inputs == [node]]:
            arranged = isinstance(above.operator, ArrangeOperator) and above.relation is None
            if node.scan is None and arranged:
                return above.contents() if not above.operator.arrangement.stamped else None  # type: ignore[union-attr]
            if node.scan is not None:
                held = above.contents() if arranged or above.label == "Normalize" else None
                held = self.past(above) if held is None and above.label.startswith("Pick(") else held
                spec = node.scan.spec if wanted is None else wanted
                if held is not None and _covers(above, node.scan, spec):
                    return (_as_scanned(b, spec.schema) for b in held)
        return None

    # -- changing -----------------------------------------------------------------------------------------------

    def give(self, job: str, name: str) -> None:
        """Let the nodes of a job belong to another."""
        for node in self.nodes_of(job):
            node.jobs.discard(job)
            node.jobs.add(name)

    def unused(self, job: str) -> str:
        """A prefix that no node's id has."""
        number = 2
        while any(i.startswith(f"{job}@{number}/") for i in self.nodes):
            number += 1
        return f"{job}@{number}"

    def sort(self) -> None:
        """Put nodes after their inputs again; those that are change places no more than they must."""
        done: set[int] = set()
        order: list[Node] = []

        def visit(node: Node) -> None:
            if id(node) not in done:
                done.add(id(node))
                for source in node.inputs:
                    visit(source)
                order.append(node)

        for node in self.order:
            visit(node)
        self.order[:] = order

    def merge(self, private: Node, shared: Node) -> None:
        """A private scan gives way to the shared one, where they stand at the same positions."""
        assert shared.scan is not None and private.scan is not None
        shared.scan.widen(private.scan.columns)
        for node in self.order:
            node.inputs = [shared if i is private else i for i in node.inputs]
        for nodes in self.placed.values():
            nodes.update({path: shared for path, node in nodes.items() if node is private})
        shared.jobs |= private.jobs
        private.jobs.clear()
        self._remove(private)
        self._share()

    def _share(self) -> None:
        """Nodes that stood on a scan of their own are shared from now on, unless others of their kind are."""
        for node in self.order:
            ready = (
                node.operator is not None and node.relation is None and all(i.key or i.relation for i in node.inputs)
            )
            if ready and node.key is None and node.wish is not None and node.wish not in self._shared:
                node.key = node.wish
                self._shared[node.key] = node


def _suits(step: Step, known: Node) -> bool:
    """Whether a running node still has the past that the step needs."""
    suits = step.suits if isinstance(step, OperatorStep) else None
    return suits is None or known.operator is None or suits(known.operator, known.watermark)


def _covers(holder: Node, scan: Scan, wanted: ScanSpec) -> bool:
    """Whether what holds a scan's rows has the columns that are wanted, but those that its table did not have."""
    assert holder.operator is not None
    held, had = holder.operator.schema.names, scan.spec.schema.names
    needed = wanted.schema.names if wanted.columns is None else {c.partition(".")[0] for c in wanted.columns}
    return all(name in held or name not in had for name in needed)


def _as_scanned(batch: Batch, schema: pa.Schema) -> Batch:
    """Rows with the columns of a scan, by name; those that they lack are NULL."""
    names = batch.schema.names
    columns = [
        batch.rows.column(names.index(f.name)).cast(f.type) if f.name in names else pa.nulls(batch.num_rows, f.type)
        for f in schema
    ]
    nullable = pa.schema([f.with_nullable(True) for f in schema])
    return batch.with_rows(pa.RecordBatch.from_arrays(columns, schema=nullable))


def _with_inputs(plan: JobPlan, placed: dict[str, Node]) -> dict[str, Node]:
    """The placement of every step of a plan, those below nodes that were running too: a restart has to find each again."""
    waiting = list(plan.outputs)
    while waiting:
        step = waiting.pop()
        for below, node in zip(step.inputs, placed[step.path].inputs):
            placed.setdefault(below.path, node)
            waiting.append(below)
    return placed
