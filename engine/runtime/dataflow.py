"""The one dataflow of a warehouse: nodes in topological order, run once per epoch, shared between jobs.

Vocabulary: a *node* runs an operator or a scan; it belongs to every job that uses it and is *shared* when they are several
(or when it is a relation of the warehouse); the other nodes of a job are *private*. An exception in a node fails all jobs
that use it: their private nodes go back to the epoch's start and are *parked*, everything else completes. A parked job's
*backlog* keeps what its inputs gave since, so that a resumed job replays exactly what it missed.

Invariant: between epochs every node's state reflects exactly the same prefix of every scan, except parked nodes, whose
backlogs hold the difference.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched, Source
from forebay.engine.errors import StateError
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.runtime.alter import Choice
from forebay.engine.runtime.backlog import Backlog, Missed
from forebay.engine.runtime.handover import Follower, unfollow
from forebay.engine.runtime.initial import Initial
from forebay.engine.runtime.outbox import Outlet
from forebay.engine.runtime.plan import JobPlan, OperatorStep, OutputStep, RelationStep, ScanStep, Step
from forebay.engine.runtime.scan import Scan, ScanSpec
from forebay.engine.state import Segmented, State, Tiered
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.coldstore import ColdStore


@dataclass(slots=True, eq=False)
class Node:
    """One running node. Exactly one of `operator`, `scan`, `outlet` is set."""

    id: str
    label: str
    inputs: list[Node]
    jobs: set[str]
    key: str | None = None
    wish: str | None = None
    """The key that it will have once all that it stands on is shared."""
    operator: Operator | None = None
    scan: Scan | None = None
    outlet: Outlet | None = None
    print: str = ""
    """What it does (`Step.print`), by which a changed plan of its job finds it."""
    remembers: bool = False
    schema: pa.Schema | None = None
    """Of what an outlet is to get: the node below may be shared, and name its columns otherwise."""
    path: str = ""
    """Of its step in the plan of the job that made it."""
    relation: str | None = None
    """Name of the embedded table or materialized view that this node holds; such nodes outlive jobs."""
    waits: bool = False
    """A scan that is not polled: another one comes to where it stands."""
    catching_up: Node | None = None
    """The shared scan that this private scan will give way to."""
    output: list[Batch] = field(default_factory=list)
    watermark: int | None = None
    seen: tuple[int | None, ...] | None = None
    """Input watermarks at the last step."""
    carried: list[Batch] = field(default_factory=list)
    """Changes that a resumed materialized view still owes to its readers; part of the next epoch's output."""
    seconds: float = 0.0
    rows_out: int = 0
    version: int = 0
    """Epoch of the last change of the output."""
    history: Callable[[], Source] | None = None
    """Of a scan: opens what its table was before the stream begins."""
    complete: bool = False
    """Made with its contents in place."""
    state_only: bool = False
    """Of an outlet: it does not take what its job makes of the past."""

    def states(self) -> Mapping[str, State]:
        return self.operator.states() if self.operator is not None else {}

    def contents(self) -> Iterator[Batch] | None:
        """All rows that the node's past deltas add up to, or None when nothing holds them."""
        read = getattr(self.operator, "contents", None)
        return None if read is None else read()

    def named(self, batches: list[Batch]) -> list[Batch]:
        """An outlet's input under the names that it is to have."""
        schema = self.schema
        if schema is None:
            return batches
        return [
            b
            if b.schema.names == schema.names
            else b.with_rows(pa.RecordBatch.from_arrays(b.rows.columns, schema=schema))
            for b in batches
        ]


@dataclass(slots=True, eq=False)
class Parked:
    """The nodes of failed jobs and what they have missed."""

    jobs: set[str]
    nodes: list[Node]
    border: list[Node]
    error: Exception
    backlog: Backlog = field(default_factory=Backlog)
    lost: bool = False
    """The backlog outgrew its limit and was dropped: the job cannot be resumed, only started anew."""
    held: int | None = None
    """The last epoch that the job has seen: the arrangements that it reads keep what they need to show it again."""

    def hold(self, epoch: int | None) -> None:
        """Have the arrangements at the border keep what came after `epoch`, instead of what they kept so far."""
        arrangements = [s for n in self.border for s in n.states().values() if isinstance(s, Arrangement)]
        for arrangement in arrangements:
            if epoch is not None:
                arrangement.hold(epoch)
            if self.held is not None:
                arrangement.release(self.held)
        self.held = epoch


class Tap(Protocol):
    """One who looks on."""

    def see(self, node: Node, inputs: Sequence[list[Batch]], epoch: int, error: Exception | None) -> None:
        """A node has processed an epoch's changes; its `output` is there, unless there is an error. Must not raise."""


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


class Dataflow:
    """Nodes, jobs and the epoch step. Not thread-safe: the driver's lock guards it."""

    def __init__(self, cold: ColdStore | None = None, retain_bytes: int = 256 << 20) -> None:
        """`cold`: where arrangements may seal rows; without it all state stays in memory."""
        self.cold = cold
        self.epoch = 0
        self.nodes: dict[str, Node] = {}
        self.order: list[Node] = []
        self.parked: dict[str, Parked] = {}
        self.retain_bytes = retain_bytes
        self.followers: list[Follower] = []
        """Scans that follow others until jobs go over to them."""
        self.taps: list[Tap] = []
        """Those who look at what each node gets and gives."""
        self._shared: dict[str, Node] = {}
        self.placed: dict[str, dict[str, Node]] = {}
        """Per job: the node of each path of its plan."""

    # -- building -----------------------------------------------------------------------------------------------

    def add_relation(self, name: str, operator: Operator) -> Node:
        """Make an embedded table's node: fed by DML, never detached by a job."""
        node = Node(f"relation/{name}", f"Table({name})", [], set(), operator=operator, relation=name)
        self._insert(node)
        return node

    def attach(
        self,
        job: str,
        plan: JobPlan,
        now: int,
        *,
        placement: Mapping[str, str] | None = None,
        positions: Mapping[str, Mapping[str, Any]] | None = None,
        initial: bool = True,
        built: Mapping[str, Operator] | None = None,
        choices: Mapping[str, Choice] | None = None,
    ) -> None:
        """Add a job's nodes at the current epoch boundary and bring them up to date.

        A step whose key a running node has joins it if that node can show its past; else a new node is made.
        `placement` (a checkpoint's: path → node id) and `positions` (node id → a scan's saved value) put a restored job
        where it was. New nodes over inputs with a past get the full contents as one initial delta, unless not `initial`
        (their states are about to be loaded). `built`: by path, operators that have their history already. `choices`: what
        the job takes over from scans of tables that have got columns since. On an exception nothing is attached.
        """
        placed = Attachment(job, now, placement or {}, positions or {}, built or {}, choices=choices)
        try:
            for output in plan.outputs:
                self.place(output, placed)
            if initial:
                Initial(self, placed.fresh, now, self.elders(placed)).run()
        except BaseException:
            self.discard(job)
            raise
        self.note(job, plan, placed.nodes)

    def elders(self, placed: Attachment) -> dict[int, Node]:
        """By `id` of a new scan: the one whose past is its own."""
        scans = [n for n in placed.fresh if n.scan is not None] if placed.choices is not None else []
        found = {id(n): (placed.choices or {})[n.path].continues for n in scans}
        return {key: node for key, node in found.items() if node is not None}

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

    def running(self, step: Step) -> bool:
        """Whether a node does what the step asks, and can show a newcomer its past."""
        if isinstance(step, RelationStep):
            return f"relation/{step.relation}" in self.nodes
        known = self._shared.get(step.key) if step.key is not None else None
        if known is None or not _suits(step, known):
            return False
        return known.contents() is not None

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
            if self.cold is not None and isinstance(state, Tiered) and not node.complete:
                state.use(self.cold)

    def keep(self, job: str, step: Step, node: Node) -> None:
        """Make a job that only holds a running node, which is what the step does."""
        self._adopt(node, job)
        self.note(job, JobPlan((step,)), {step.path: node})

    def own_nodes(self, job: str) -> dict[str, Node]:
        """A job's nodes by what they do."""
        return {node.print: node for node in self.nodes_of(job) if node.print}

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

    def note(self, job: str, plan: JobPlan, nodes: dict[str, Node]) -> None:
        """Remember where the steps of a job's plan are."""
        self.placed[job] = with_inputs(plan, nodes)

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

    def shared(self, key: str | None) -> Node | None:
        """The node that all jobs with a step of that key may use."""
        return None if key is None else self._shared.get(key)

    def known(self, step: Step) -> Node | None:
        """The node of that key, if it still has the past that the step needs."""
        found = self.shared(step.key)
        return found if found is not None and _suits(step, found) else None

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

    def set_ttl(self, table: str, ttl: int | None) -> set[str]:
        """Tell all operators how long rows of a table live from now on, in µs (None: for ever).

        Returns the jobs that cannot follow, because some of their state has no time of the rows: nothing of them follows.
        """
        held = {id(n): unit.held for unit in self.units() for n in unit.nodes}
        running = [(n, n.operator) for n in self.order if n.operator is not None]
        stuck = {job for n, o in running if not o.can_expire(table) for job in n.jobs}
        for node, operator in running:
            if not node.jobs or node.jobs - stuck:
                epoch = held.get(id(node))
                operator.set_ttl(table, ttl, self.epoch if epoch is None else epoch)
                self.use_cold(node)
        return stuck

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

    def placements(self) -> dict[str, dict[str, str]]:
        """Per job: the id of the node at each path of its plan, for a checkpoint."""
        return {job: {path: node.id for path, node in nodes.items()} for job, nodes in self.placed.items()}

    def is_read(self, name: str) -> bool:
        """Whether a job reads the relation."""
        node = self.nodes.get(f"relation/{name}")
        return node is not None and any(node in n.inputs for n in self.order)

    # -- removal ------------------------------------------------------------------------------------------------

    def detach(self, job: str) -> None:
        """Remove a job; nodes that no other job uses go with it."""
        parked = self.parked.pop(job, None)
        if parked is not None and parked not in self.units():
            parked.hold(None)
        unfollow(self, job)
        self.discard(job)

    def drop_relation(self, name: str) -> None:
        """Remove an embedded table's node."""
        self._remove(self.nodes[f"relation/{name}"])

    def discard(self, job: str) -> None:
        self.placed.pop(job, None)
        for node in [n for n in self.order if job in n.jobs]:
            node.jobs.discard(job)
            if not node.jobs:
                self._remove(node)

    def _remove(self, node: Node) -> None:
        self.order.remove(node)
        self.nodes.pop(node.id, None)
        if node.key is not None and self._shared.get(node.key) is node:
            del self._shared[node.key]
        if node.scan is not None:
            node.scan.close()
        if node.outlet is not None:
            node.outlet.close()
        if node.operator is not None:
            node.operator.close()
        for state in node.states().values():
            if isinstance(state, Tiered):
                state.close()

    def segments(self) -> list[int]:
        """Numbers of the cold segments that the state consists of."""
        states = [s for n in self.order for s in n.states().values() if isinstance(s, Segmented)]
        return sorted(segment.number for state in states for segment in state.cold_segments())

    # -- running ------------------------------------------------------------------------------------------------

    def scans(self) -> list[Node]:
        """Scan nodes of jobs that are not parked."""
        return [n for n in self.order if n.scan is not None and not n.jobs <= self.parked.keys()]

    def run_epoch(
        self, fetched: Mapping[str, Fetched | None], fed: Mapping[str, list[Batch]], now: int
    ) -> dict[str, Exception]:
        """Run one epoch: what each polled scan fetched, and the changes fed to relations (DML), by node id.

        Returns the jobs that failed in it, with their errors; they are parked.
        """
        self.epoch += 1
        failed: dict[str, Exception] = {}
        parked = self._parked_nodes()
        for node in self.order:
            node.output = []
            if id(node) in parked or (node.jobs and node.jobs <= failed.keys() and node.scan is None):
                continue
            started = time.perf_counter()
            try:
                self._step(node, fetched, fed, now)
            except Exception as error:
                if not node.jobs:
                    self._roll_back(self.order)
                    raise
                failed.update(dict.fromkeys(node.jobs, error))
            if self.taps:
                self._show(node, fed, failed)
            node.seconds += time.perf_counter() - started
            if node.output:
                node.rows_out += sum(b.num_rows for b in node.output)
                node.version = self.epoch
        for unit in self.units():
            self._retain(unit, now)
        self._park(failed, now)
        parked = self._parked_nodes()
        for node in self.order:
            if id(node) not in parked:
                self.commit(node)
                node.output = []
        return failed

    def _show(self, node: Node, fed: Mapping[str, list[Batch]], failed: Mapping[str, Exception]) -> None:
        error = next((failed[job] for job in node.jobs if job in failed), None)
        inputs = [i.output for i in node.inputs] or [fed.get(node.id, [])]
        for tap in self.taps:
            tap.see(node, inputs, self.epoch, error)

    def _parked_nodes(self) -> set[int]:
        return {id(n) for unit in self.units() for n in unit.nodes}

    def units(self) -> list[Parked]:
        """Parked jobs, those that go together once."""
        return list({id(unit): unit for unit in self.parked.values()}.values())

    def _step(
        self, node: Node, fetched: Mapping[str, Fetched | None], fed: Mapping[str, list[Batch]], now: int
    ) -> None:
        if node.scan is not None:
            node.output = node.scan.take(fetched[node.id], now) if node.id in fetched else []
            node.watermark = node.scan.watermark(now)
            return
        inputs = [i.output for i in node.inputs]
        if node.relation is not None:
            inputs = inputs or [fed.get(node.id, [])]
        watermarks = tuple(i.watermark for i in node.inputs)
        if not any(inputs) and watermarks == node.seen and not node.carried:
            return
        node.seen = watermarks
        if node.outlet is not None:
            node.outlet.take(node.named(inputs[0]), watermarks[0], self.epoch)
            return
        assert node.operator is not None
        node.output = [*node.carried, *node.operator.process(inputs, Turn(self.epoch, now, watermarks))]
        node.carried = []
        node.watermark = node.operator.watermark(watermarks)

    def commit(self, node: Node) -> None:
        for state in node.states().values():
            state.commit()
        if node.outlet is not None:
            node.outlet.commit()

    # -- failure ------------------------------------------------------------------------------------------------

    def fail(self, jobs: Iterable[str], error: Exception, now: int) -> None:
        """Park jobs between epochs: a source that cannot be read."""
        self._park(dict.fromkeys(jobs, error), now)

    def _park(self, failed: Mapping[str, Exception], now: int) -> None:
        """Take the private nodes of failed jobs back to the epoch's start and out of the run.

        Jobs that share a private node go as one unit: their replay must run that node once.
        """
        for unit in self._units_of(failed):
            self._roll_back(unit.nodes)
            unit.hold(self.epoch - 1)
            self._retain(unit, now)
            self.parked.update(dict.fromkeys(unit.jobs, unit))

    def _units_of(self, failed: Mapping[str, Exception]) -> Iterator[Parked]:
        nodes = [n for n in self.order if n.jobs and n.jobs <= failed.keys() and n.scan is None]
        waiting = set(failed)
        while waiting:
            jobs = {waiting.pop()}
            while True:
                wider = jobs.union(*(n.jobs for n in nodes if n.jobs & jobs))
                if wider == jobs:
                    break
                jobs = wider
            waiting -= jobs
            mine = [n for n in nodes if n.jobs & jobs]
            inside = {id(n) for n in mine}
            border = {id(i): i for n in mine for i in n.inputs if id(i) not in inside}
            yield Parked(jobs, mine, list(border.values()), failed[min(jobs)])

    def _roll_back(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            for state in node.states().values():
                state.rollback()
            if node.outlet is not None:
                node.outlet.rollback()
            node.seen = None
            node.output = []

    def _retain(self, parked: Parked, now: int) -> None:
        if parked.lost:
            return
        inputs = {n.id: (list(n.output), n.watermark) for n in parked.border}
        if not any(batches for batches, _ in inputs.values()) and parked.backlog.missed:
            return
        parked.backlog.append(Missed(self.epoch, now, inputs))
        if parked.backlog.nbytes() > self.retain_bytes:
            parked.backlog.clear()
            parked.lost = True
            parked.hold(None)

    def resume(self, job: str) -> Exception | None:
        """Replay a parked job's backlog; the job runs on if that succeeds, else stays parked with the rest.

        Raises:
            StateError: the backlog was dropped because it outgrew `state.retain.max`.
        """
        parked = self.parked[job]
        if parked.lost:
            raise StateError(
                f"job '{job}' was away for more than state.retain.max of changes",
                hint="drop the job and create it again to rebuild its state, or raise state.retain.max",
            )
        while parked.backlog.missed:
            try:
                self._replay(parked, parked.backlog.missed[0])
            except Exception as error:  # noqa: BLE001 - the job's own failure, reported through its status
                self._roll_back(parked.nodes)
                parked.error = error
                return error
            parked.hold(parked.backlog.pop().epoch)
        parked.hold(None)
        for name in parked.jobs:
            del self.parked[name]
        return None

    def _replay(self, parked: Parked, missed: Missed) -> None:
        for node in parked.nodes:
            pairs = [missed.inputs.get(i.id, (i.output, i.watermark)) for i in node.inputs]
            inputs, watermarks = [p[0] for p in pairs], tuple(p[1] for p in pairs)
            failure: Exception | None = None
            try:
                if node.outlet is not None:
                    node.outlet.take(node.named(inputs[0]), watermarks[0], missed.epoch)
                elif node.operator is not None:
                    node.output = node.operator.process(inputs, Turn(missed.epoch, missed.now, watermarks))
                    node.watermark = node.operator.watermark(watermarks)
            except Exception as error:
                failure = error
                raise
            finally:
                for tap in self.taps:
                    tap.see(node, inputs, missed.epoch, failure)
        for node in parked.nodes:
            self.commit(node)
            node.version = self.epoch
            if node.relation is not None:
                node.carried.extend(node.output)
            node.output = []

    # -- parked over a restart ----------------------------------------------------------------------------------

    def save_parked(self) -> list[dict[str, Any]]:
        """What a checkpoint's manifest notes of parked jobs; their backlogs are among the states."""
        return [{"jobs": sorted(unit.jobs), "lost": unit.lost, "error": str(unit.error)} for unit in self.units()]

    def park_again(self, saved: Iterable[Mapping[str, Any]]) -> None:
        """Park the jobs that were parked at the checkpoint, before states are loaded. Jobs that are gone are not missed."""
        for entry in saved:
            there = {n for n in entry["jobs"] if any(n in node.jobs for node in self.order)}
            for unit in self._units_of(dict.fromkeys(there, StateError(entry["error"]))):
                unit.lost = entry["lost"]
                self.parked.update(dict.fromkeys(unit.jobs, unit))

    def recall(self) -> None:
        """Once states are loaded: arrangements that parked jobs read go back by what those missed, and forward again epoch by
        epoch, so that a replay finds in each epoch what was there."""
        old = sorted({m.epoch for unit in self.units() for m in unit.backlog.missed})
        epochs = {epoch: number for number, epoch in enumerate(old, 2)}
        deltas: dict[str, dict[int, list[Batch]]] = {}
        for unit in self.units():
            unit.backlog.renumber(epochs)
            for missed in unit.backlog.missed:
                for node, (batches, _) in missed.inputs.items():
                    deltas.setdefault(node, {})[missed.epoch] = batches
        for node_id, by_epoch in deltas.items():
            for state in self.nodes[node_id].states().values():
                if isinstance(state, Arrangement):
                    state.update([b.negate() for batches in by_epoch.values() for b in batches], 1)
                    state.commit()
        for unit in self.units():
            if unit.backlog.missed:
                unit.hold(unit.backlog.missed[0].epoch - 1)
        for node_id, by_epoch in deltas.items():
            for state in self.nodes[node_id].states().values():
                if isinstance(state, Arrangement):
                    for epoch in sorted(by_epoch):
                        state.update(by_epoch[epoch], epoch)
                        state.commit()
        self.epoch = max(self.epoch, len(old) + 1)

    # -- catching up --------------------------------------------------------------------------------------------

    def limit_catch_ups(self) -> bool:
        """Let private scans read up to where the shared ones stand; replace those that have arrived.

        True if one was replaced: its readers have the shared scan's watermark to see.
        """
        for follower in self.followers:
            follower.step(self)
        merged = False
        for node in [n for n in self.order if n.catching_up is not None]:
            shared = node.catching_up
            assert node.scan is not None and shared is not None and shared.scan is not None
            if node.scan.positions == shared.scan.positions and not shared.scan.untouched:
                self._merge(node, shared)
                merged = True
            else:
                node.scan.limit(shared.scan.positions)
        return merged

    def _merge(self, private: Node, shared: Node) -> None:
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

    def nodes_of(self, job: str) -> list[Node]:
        """A job's nodes in topological order."""
        return [n for n in self.order if job in n.jobs]


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


def with_inputs(plan: JobPlan, placed: dict[str, Node]) -> dict[str, Node]:
    """The placement of every step of a plan, those below nodes that were running too: a restart has to find each again."""
    waiting = list(plan.outputs)
    while waiting:
        step = waiting.pop()
        for below, node in zip(step.inputs, placed[step.path].inputs):
            placed.setdefault(below.path, node)
            waiting.append(below)
    return placed
