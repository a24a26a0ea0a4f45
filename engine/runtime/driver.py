"""The driver: attaches jobs to a dataflow and takes its turns.

A *turn*, `step`, polls scans, runs an epoch on what they brought, builds for jobs that wait, takes a checkpoint if it is time,
and retries what failed. It is synchronous: threads take one after the other, a simulator takes them by its own schedule.
Polling happens outside the lock, so that waiting for input never makes a caller wait; all else is under it (`epochs`). Threads
poll ahead for the next turn: at once where there is a processor for it, else while the epoch waits for the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from forebay.engine import limits
from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched
from forebay.engine.errors import StateError
from forebay.engine.files import Clock, Files
from forebay.engine.runtime import deadletters
from forebay.engine.runtime.alter import Comparison, inherited
from forebay.engine.runtime.bootstrap import Bootstrap, Workshop, must_wait
from forebay.engine.runtime.change import change
from forebay.engine.runtime.checkpoint import CheckpointStore
from forebay.engine.runtime.checkpointing import Checkpointing
from forebay.engine.runtime.dmllog import DmlLog
from forebay.engine.runtime.fitting import check_fits
from forebay.engine.runtime.handover import follow
from forebay.engine.runtime.job import Job, Status
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.outbox import Outbox, SinkRunner
from forebay.engine.runtime.plan import JobPlan, Step
from forebay.engine.runtime.polling import Polling
from forebay.engine.runtime.retry import Retry
from forebay.engine.runtime.threads import Threads
from forebay.engine.runtime.waiting import Waiting
from forebay.engine.state.coldstore import ColdStore

log = logging.getLogger("forebay")


class Driver(Checkpointing):
    """Runs one dataflow."""

    def __init__(
        self,
        clock: Clock,
        options: DriverOptions,
        store: CheckpointStore | None = None,
        dml: DmlLog | None = None,
        now_cell: Callable[[int], None] = lambda now: None,
        cold: ColdStore | None = None,
    ) -> None:
        super().__init__(clock, options, store, dml, now_cell, cold or ColdStore(None))
        root, files = (None, Files()) if store is None else (store.directory.parent, store.files)
        self.shop = Workshop(
            root,
            files,
            self.cold,
            clock,
            self.time.now,
            self._note_of,
            lambda: self.budget.limit // 8,
            Retry("the bootstrap", f"free space in {self.cold.where if root is None else root}"),
        )
        self.budget.holders["builds"] = self.shop
        self.polling = Polling(clock, self.budget, options.batch, self._source_failed)
        self._waiting = Waiting(self, self.shop, self._attach)
        self._threads = Threads(self, self.step)
        self._may_poll = False
        """Threads take a turn, its epoch has what was fetched, and nothing was polled since."""
        self.flow.taken = self._taken
        self.cold.meanwhile = self._meanwhile

    # -- jobs ---------------------------------------------------------------------------------------------------

    def attach(
        self,
        name: str,
        plan: JobPlan,
        *,
        placement: Mapping[str, str] | None = None,
        positions: Mapping[str, Mapping[str, Any]] | None = None,
        initial: bool = True,
        follows: str | None = None,
    ) -> Job:
        """Add a job at an epoch boundary and start its sinks. A new one that stands on a history is bootstrapped first.

        `follows`: it brings state up for other jobs, and its scans of that table follow theirs.

        Raises:
            StateError: it cannot run within the memory budget.
        """
        with self.boundary() as flow:
            if placement is None:
                check_fits(flow, plan, self.budget.limit, self.budget.accounts(flow))
            job = Job(name, started=self._tick(), follows=follows)
            if placement is None and must_wait(plan, flow):
                job.status = Status.BOOTSTRAPPING
                job.bootstrap = Bootstrap(name, plan, self.shop)
                self.jobs[name] = job
                return job
            choices = inherited(flow, name, plan) if initial and placement is None else None
            self._attach(job, plan, placement=placement, positions=positions, initial=initial, choices=choices)
            return job

    def keep(self, name: str, step: Step, node: Node) -> None:
        """Add a job without output that holds a running node."""
        with self.boundary() as flow:
            flow.graph.keep(name, step, node)
            self.jobs[name] = Job(name, started=self._tick())

    def hold(
        self, name: str, step: Step, placement: Mapping[str, str] | None, positions: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Make a job again that holds what a step does."""
        self.attach(name, JobPlan((step,)), placement=placement, positions=positions, initial=placement is None)

    def alter(self, name: str, plan: JobPlan, former: JobPlan | None, *, lose: bool) -> tuple[Comparison, bool]:
        """Put another plan in the place of a job's, at an epoch boundary; see `change.change`.

        Raises:
            StateError: the job has failed, or state would be lost and not `lose`.
        """
        with self.boundary() as flow:
            self._run_pending()
            if name in flow.parked:
                raise StateError(f"job '{name}' has failed", hint=f"RESUME JOB {name} first, or drop it")
            if self.jobs[name].status is Status.BOOTSTRAPPING:
                raise StateError(f"job '{name}' waits for histories of its tables", hint="SHOW JOBS tells how long")
            job, now = self.jobs[name], self._tick()
            found, whole = change(flow, name, plan, former, now, lose=lose)
            runners = {id(r.outbox): r for r in job.runners}
            job.outboxes = [n.outlet for n in flow.nodes_of(name) if isinstance(n.outlet, Outbox)]
            for outbox in job.outboxes:
                outbox.wake = self.awake.set if id(outbox) not in runners else outbox.wake
            job.runners = [runners.get(id(o)) or SinkRunner(o) for o in job.outboxes]
            self._run_pending()
            if any(n.carried for n in flow.order):
                self._run({}, {})
            self._threads.drain(job)
            return found, whole

    def _attach(self, job: Job, plan: JobPlan, **how: Any) -> None:
        self.flow.attach(job.name, plan, self._tick(), **how)
        for node in self.flow.nodes_of(job.name):
            if isinstance(node.outlet, Outbox):
                node.outlet.wake = self.awake.set
                job.outboxes.append(node.outlet)
                job.runners.append(SinkRunner(node.outlet))
        self.jobs[job.name] = job
        if job.follows is not None:
            follow(self.flow, job.name, job.follows)
        self._run_pending()
        self._threads.drain(job)

    def detach(self, name: str) -> None:
        """Remove a job. Call `checkpoint` before if its sinks shall show everything."""
        with self.boundary() as flow:
            flow.detach(name)
            job = self.jobs.pop(name, None)
            if job is not None:
                if job.bootstrap is not None:
                    job.bootstrap.abandon(self._waiting.needed())
                job.status = Status.STOPPED

    def forget_bootstraps(self) -> None:
        """Remove what bootstraps of jobs that are gone have left."""
        self._waiting.sweep()

    # -- one turn -----------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Poll, run an epoch if there is anything to do, checkpoint if it is time. False when idle."""
        with self.lock:
            if self.budget.stuck:
                self.budget.try_again(self.flow)
            merged = self.flow.limit_catch_ups()
            scans = self._readable()
        fetched = self.polling.poll(scans, self.options, self._hurried)
        with self.lock:
            self._may_poll = self._threads.running and any(fetched.values())
            worked = self._epoch(fetched, merged)
            self._may_poll = False
            worked |= self._waiting.step()
            self._retry_failed()
            self._finish_jobs()
            if self._checkpoint_due():
                self.checkpoint()
            if worked:
                self.changed.notify_all()
        return worked

    def _readable(self) -> list[Node]:
        """The scans to poll."""
        return [n for n in self.flow.scans() if not n.waits and not _ended(n) and not self._held_back(n)]

    def _taken(self) -> None:
        """With a processor to spare the next rows are read and decoded while these are processed."""
        if limits.cores() > 1:
            self._poll_ahead()

    def _meanwhile(self) -> None:
        """While an epoch waits for the disk."""
        self._poll_ahead()
        self.budget.ahead()

    def _poll_ahead(self) -> None:
        """Begin to poll for the next epoch, unless where to stop depends on this one."""
        if not self._may_poll or self._hurried():
            return
        self._may_poll = False
        if not self.flow.followers and all(n.catching_up is None for n in self.flow.order):
            self.polling.begin(self._readable(), self.options, self._hurried)

    def _held_back(self, node: Node) -> bool:
        """Whether all jobs that read a scan wait for their sinks, or all for memory. One that has room keeps a scan going."""
        if self.budget.stuck:
            return True
        jobs = [self.jobs[name] for name in node.jobs if name in self.jobs]
        most = self.budget.queue
        return bool(jobs) and all(any(o.full() or o.queued > most for o in job.outboxes) for job in jobs)

    def _hurried(self) -> bool:
        """Whether somebody waits for the end of the turn."""
        return self.callers > 0 or self._threads.stopping

    def _source_failed(self, node: Node, error: Exception) -> None:
        """Trying to read it again does not help: the jobs that read it fail."""
        with self.lock:
            self.flow.fail(node.jobs, error, self._tick())
            for name in node.jobs:
                self.jobs[name].give_up(error)

    def _epoch(self, fetched: Mapping[str, Fetched | None], merged: bool) -> bool:
        live = {i: f for i, f in fetched.items() if i in self.flow.nodes}
        something = any(f is not None for f in live.values()) or merged or self._pending or self._ending(live)
        if not something and not self._watermark_moves():
            return False
        for node_id, part in live.items():
            if part is not None:
                self._note(node_id, part)
        fed, self._pending = self._pending, {}
        dead = [(self._table_of(i), d) for i, part in live.items() if part is not None for d in part.dead]
        if dead and self.flow.graph.is_read(deadletters.NAME):
            fed[f"relation/{deadletters.NAME}"] = [Batch(deadletters.rows(dead))]
        self._run(live, fed)
        return True

    def _ending(self, fetched: Mapping[str, Fetched | None]) -> bool:
        """A bounded scan has just come to its end: its last watermark must flow."""
        nodes = [self.flow.nodes[i] for i in fetched]
        return any(n.scan is not None and n.scan.at_end() and not n.scan.finished for n in nodes)

    def _watermark_moves(self) -> bool:
        """An idle split lets the watermark go on although no row came."""
        now = self.time.now()
        return any(
            n.scan is not None and n.scan.tracker is not None and n.scan.watermark(now) != n.watermark
            for n in self.flow.scans()
        )

    def _table_of(self, node_id: str) -> str:
        scan = self.flow.nodes[node_id].scan
        assert scan is not None
        return scan.spec.table

    def _note(self, node_id: str, fetched: Fetched) -> None:
        self._note_of(self._table_of(node_id), fetched)

    # -- what becomes of jobs -----------------------------------------------------------------------------------

    def _retry_failed(self) -> None:
        for job in list(self.jobs.values()):
            if job.status is Status.RESTARTING and self.clock.monotonic() >= job.retry_at:
                try:
                    self.resume(job.name)
                except StateError as error:
                    job.give_up(error)

    def resume(self, name: str) -> None:
        """Try a failed job again from where it stood.

        Raises:
            StateError: what it missed is no longer kept.
        """
        with self.boundary() as flow:
            job = self.jobs[name]
            job.restarts += 1
            if job.bootstrap is not None and not job.bootstrap.attached:
                job.status = Status.BOOTSTRAPPING
                return
            self._threads.drain(job)
            if name in flow.parked:
                error = flow.resume(name)
                if error is not None:
                    self._note_failures(dict.fromkeys(flow.parked[name].jobs, error))
                    return
                self._run({}, {})
            if name not in flow.parked:
                job.status = Status.RUNNING
                job.error = None
                job.failures_here = 0

    def _finish_jobs(self) -> None:
        for job in self.jobs.values():
            if job.status is Status.RUNNING and self._inputs_ended(job.name):
                if job.outboxes and self._unconfirmed(job):
                    if self._in_flight is None and any(o.unsealed() for o in job.outboxes):
                        self.checkpoint()  # one is enough: each is a commit that the sink has to make
                    continue
                self._run_pending()  # what it has made of its last rows is in its table when it is over
                job.status = Status.FINISHED
                self.changed.notify_all()

    def _inputs_ended(self, name: str) -> bool:
        scans = [n for n in self.flow.nodes_of(name) if n.scan is not None]
        return bool(scans) and all(_ended(n) for n in scans)

    def settled(self, job: Job) -> bool:
        """Everything that the job made is where it belongs: applied to tables, committed by sinks."""
        return not self._pending and not self._unconfirmed(job)

    def _unconfirmed(self, job: Job) -> bool:
        return any(o.nbytes() > 0 for o in job.outboxes)

    def trouble(self, job: Job) -> str | None:
        """What a job waits for although it has not failed: room on a disk, mostly."""
        loading = [self.shop.space] if job.status is Status.BOOTSTRAPPING else []
        retries = [*loading, *(r.space for r in job.runners), self.budget.moving, self.checkpoints]
        return next((told for r in retries if (told := r.told()) is not None), None)

    # -- threads ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether threads drive it."""
        return self._threads.running

    def start(self) -> None:
        """Run in threads: the driver, one background writer, one per sink."""
        self._writer = self._threads.submit
        self._threads.start()
        for job in self.jobs.values():
            self._threads.drain(job)

    def stop(self, *, final_checkpoint: bool = True, timeout: float = 30.0) -> None:
        """End the threads, after a last checkpoint that the sinks have committed."""
        if self.running and final_checkpoint and self.fatal is None:
            try:
                self.checkpoint_now(timeout)
            except StateError as error:
                log.warning("ends without a last checkpoint; what came since the one before is read again: %s", error)
        self._threads.stop(timeout)
        self.polling.close()
        with self.boundary() as flow:
            self.shop.close()
            for node in flow.order:
                if node.scan is not None:
                    node.scan.close()


def _ended(node: Node) -> bool:
    return node.scan is not None and node.scan.finished
