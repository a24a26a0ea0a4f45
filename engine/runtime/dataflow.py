"""The one dataflow of a warehouse: its graph, run once per epoch, and the jobs that come and go between epochs.

Vocabulary: a *node* runs an operator or a scan, and belongs to every job that uses it; the *graph* has a job's steps on nodes,
shared where that is exact. An exception in a node fails all jobs that use it: the nodes that are theirs alone go back to the
epoch's start and are *parked* (`engine.runtime.parking`), everything else completes.

Invariant: between epochs every node's state reflects exactly the same prefix of every scan, except parked nodes, whose
backlogs hold the difference.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.runtime.alter import Choice
from forebay.engine.runtime.graph import Attachment, Graph
from forebay.engine.runtime.handover import Follower, unfollow
from forebay.engine.runtime.initial import Initial
from forebay.engine.runtime.node import Node, Tap
from forebay.engine.runtime.parking import Parking
from forebay.engine.runtime.plan import JobPlan
from forebay.engine.state.coldstore import ColdStore

log = logging.getLogger(__name__)


class Dataflow:
    """The graph, its jobs and the epoch step. Not thread-safe: the driver's lock guards it."""

    def __init__(self, cold: ColdStore | None = None, retain_bytes: int = 256 << 20) -> None:
        """`cold`: where arrangements may seal rows; without it all state stays in memory."""
        self.epoch = 0
        self.graph = Graph(cold)
        self.nodes, self.order = self.graph.nodes, self.graph.order
        self.parking = Parking(self.graph)
        self.parked = self.parking.jobs
        self.retain_bytes = retain_bytes
        """Most that is kept for parked jobs, each unit by itself."""
        self.followers: list[Follower] = []
        """Scans that follow others until jobs go over to them."""
        self.taps: list[Tap] = []
        """Those who look at what each node gets and gives."""
        self.taken: Callable[[], None] = lambda: None
        """Called in each epoch when its scans have taken what was fetched: they may be polled for the next one."""

    # -- jobs and relations -------------------------------------------------------------------------------------

    def add_relation(self, name: str, operator: Operator) -> Node:
        """Make an embedded table's node: fed by DML, never detached by a job."""
        return self.graph.add_relation(name, operator)

    def drop_relation(self, name: str) -> None:
        """Remove an embedded table's node."""
        self.graph.drop_relation(name)

    def relation(self, name: str) -> Node:
        """See `Graph.relation`."""
        return self.graph.relation(name)

    def nodes_of(self, job: str) -> list[Node]:
        """A job's nodes in topological order."""
        return self.graph.nodes_of(job)

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
                self.graph.place(output, placed)
            if initial:
                Initial(self, placed.fresh, now, placed.elders()).run()
        except BaseException:
            self.graph.discard(job)
            raise
        self.graph.note(job, plan, placed.nodes)

    def detach(self, job: str) -> None:
        """Remove a job; nodes that no other job uses go with it."""
        self.parking.leave(job)
        unfollow(self, job)
        self.graph.discard(job)

    def set_ttl(self, table: str, ttl: int | None) -> set[str]:
        """Tell all operators how long rows of a table live from now on, in µs (None: for ever).

        Returns the jobs that cannot follow, because some of their state has no time of the rows: nothing of them follows.
        """
        held = {id(n): unit.held for unit in self.parking.units() for n in unit.nodes}
        running = [(n, n.operator) for n in self.order if n.operator is not None]
        stuck = {job for n, o in running if not o.can_expire(table) for job in n.jobs}
        for node, operator in running:
            if not node.jobs or node.jobs - stuck:
                epoch = held.get(id(node))
                operator.set_ttl(table, ttl, self.epoch if epoch is None else epoch)
                self.graph.use_cold(node)
        return stuck

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
        parked = self.parking.nodes()
        scans = [n for n in self.order if n.scan is not None]
        for node in scans:
            self._run(node, fetched, fed, now, failed)
        self.taken()
        for node in self.order:
            if node.operator is not None and id(node) not in parked:
                self._foresee(node, node.operator)
        for node in self.order:
            if node.scan is None:
                node.output = []
                if id(node) not in parked and not (node.jobs and node.jobs <= failed.keys()):
                    self._run(node, fetched, fed, now, failed)
        self.parking.retain(self.epoch, now, self.retain_bytes)
        self.parking.park(failed, self.epoch, now, self.retain_bytes)
        parked = self.parking.nodes()
        for node in self.order:
            if id(node) not in parked:
                node.commit()
                node.output = []
        return failed

    def _foresee(self, node: Node, operator: Operator) -> None:
        """Tell an operator what it will be given, as far as it comes straight from the scans."""
        for number, each in enumerate(node.inputs):
            if coming := each.coming():
                try:
                    operator.foresee(number, coming, self.epoch)
                except Exception as error:  # noqa: BLE001 - `process` meets it again, and there it is the job's
                    log.debug("%s foresees an error: %s", node.label, error)

    def _run(
        self,
        node: Node,
        fetched: Mapping[str, Fetched | None],
        fed: Mapping[str, list[Batch]],
        now: int,
        failed: dict[str, Exception],
    ) -> None:
        started = time.perf_counter()
        node.output = []
        try:
            self._step(node, fetched, fed, now)
        except Exception as error:
            if not node.jobs:
                for each in self.order:
                    each.rollback()
                raise
            failed.update(dict.fromkeys(node.jobs, error))
        if self.taps:
            self._show(node, fed, failed)
        node.seconds += time.perf_counter() - started
        if node.output:
            node.rows_out += sum(b.num_rows for b in node.output)
            node.version = self.epoch

    def _show(self, node: Node, fed: Mapping[str, list[Batch]], failed: Mapping[str, Exception]) -> None:
        error = next((failed[job] for job in node.jobs if job in failed), None)
        inputs = [i.output for i in node.inputs] or [fed.get(node.id, [])]
        for tap in self.taps:
            tap.see(node, inputs, self.epoch, error)

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

    def fail(self, jobs: Iterable[str], error: Exception, now: int) -> None:
        """Park jobs between epochs: a source that cannot be read."""
        self.parking.park(dict.fromkeys(jobs, error), self.epoch, now, self.retain_bytes)

    def resume(self, job: str) -> Exception | None:
        """See `Parking.resume`."""
        return self.parking.resume(job, self.epoch, self.taps)

    def recall(self) -> None:
        """See `Parking.recall`."""
        self.epoch = max(self.epoch, self.parking.recall())

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
                self.graph.merge(node, shared)
                merged = True
            else:
                node.scan.limit(shared.scan.positions)
        return merged
