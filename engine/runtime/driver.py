"""The driver: polls scans, runs epochs, takes checkpoints, retries what failed.

`step` is one synchronous turn; a thread calls it in a loop, a simulator calls it by its own schedule. Everything that changes
the dataflow happens under `lock`, at an epoch boundary: the driver holds it for an epoch, a caller (attach, DML, snapshot)
for its own work. Polling happens outside, so that waiting for input never makes a caller wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched
from forebay.engine.errors import ConnectorError, ForebayError, StateError
from forebay.engine.files import Clock, Files, lacks_space
from forebay.engine.runtime import deadletters
from forebay.engine.runtime.alter import Comparison, inherited
from forebay.engine.runtime.bootstrap import Bootstrap, Workshop, must_wait, relations_there
from forebay.engine.runtime.bootstrap import check as check_gaps
from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.change import change
from forebay.engine.runtime.checkpoint import Capture, CheckpointStore
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.dmllog import DmlLog
from forebay.engine.runtime.fitting import check_fits
from forebay.engine.runtime.handover import follow
from forebay.engine.runtime.job import Job, Status
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.notes import Notes
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.outbox import Outbox, SinkRunner
from forebay.engine.runtime.plan import JobPlan, Step
from forebay.engine.runtime.polling import Polling
from forebay.engine.runtime.retry import Retry
from forebay.engine.runtime.steady import SteadyTime
from forebay.engine.state.coldstore import ColdStore

log = logging.getLogger("forebay")


class Driver:
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
        self.cold = cold or ColdStore(None)
        self.flow = Dataflow(self.cold)
        self.budget = Budget(self.cold)
        root, files = (None, Files()) if store is None else (store.directory.parent, store.files)
        self.clock = clock
        self.time = SteadyTime(clock)
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
        self.options = options
        self.store = store
        self.dml = dml
        self.jobs: dict[str, Job] = {}
        self.notes = Notes()
        self.checkpoint_id = 0
        self.checkpointed_at: int | None = None
        self.checkpoint_pause = 0.0
        """Longest time in seconds that a checkpoint held the driver."""
        self.checkpoints = Retry("the last checkpoint", f"free space in {root}")
        """Whether checkpoints fail; each has what the failed ones before it had."""
        self.fatal: Exception | None = None
        self.pinned: Callable[[], set[int]] = set
        """Cold segments that savepoints need."""
        self.definitions: Callable[[], Mapping[str, Any]] = dict
        """What jobs are, as JSON values by name: whoever restores their state has to know what it is of."""
        self._set_now = now_cell
        self._lock = threading.RLock()
        self._callers = 0
        self._changed = threading.Condition(self._lock)
        self._awake = threading.Event()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._pending: dict[str, list[Batch]] = {}
        self._in_flight: Capture | None = None
        self._writer: Callable[[Callable[[], None]], None] = lambda work: work()
        self._next_checkpoint = clock.monotonic() + options.checkpoint_interval
        self.polling = Polling(clock, self.budget, options.batch, self._source_failed)

    # -- callers ------------------------------------------------------------------------------------------------

    @contextmanager
    def boundary(self) -> Iterator[Dataflow]:
        """Hold the dataflow at an epoch boundary. The driver lets callers go first."""
        self._callers += 1
        try:
            self._lock.acquire()
        finally:
            self._callers -= 1
        try:
            yield self.flow
        finally:
            self._changed.notify_all()
            self._lock.release()
            self._awake.set()

    def configure(self, *, latency: float, checkpoint_interval: float) -> None:
        """Change the options, in seconds; another interval counts from now."""
        if checkpoint_interval != self.options.checkpoint_interval:
            self._next_checkpoint = self.clock.monotonic() + checkpoint_interval
        self.options = replace(self.options, latency=latency, checkpoint_interval=checkpoint_interval)

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
                outbox.wake = self._awake.set if id(outbox) not in runners else outbox.wake
            job.runners = [runners.get(id(o)) or SinkRunner(o) for o in job.outboxes]
            self._run_pending()
            if any(n.carried for n in flow.order):
                self._run({}, {})
            if self._threads:
                self._start_runners(job)
            return found, whole

    def _attach(self, job: Job, plan: JobPlan, **how: Any) -> None:
        self.flow.attach(job.name, plan, self._tick(), **how)
        for node in self.flow.nodes_of(job.name):
            if isinstance(node.outlet, Outbox):
                node.outlet.wake = self._awake.set
                job.outboxes.append(node.outlet)
                job.runners.append(SinkRunner(node.outlet))
        self.jobs[job.name] = job
        if job.follows is not None:
            follow(self.flow, job.name, job.follows)
        self._run_pending()
        if self._threads:
            self._start_runners(job)

    # -- bootstraps ---------------------------------------------------------------------------------------------

    def _bootstrap(self) -> bool:
        """A slice of the builds that jobs wait for; when all are there the jobs are attached, at one boundary.

        So jobs that were made together all see the stream from where their histories end.
        """
        if self.shop.space.waits(self.clock.monotonic()):
            return False
        waiting = [(j, j.bootstrap) for j in self.jobs.values() if j.status is Status.BOOTSTRAPPING and j.bootstrap]
        deadline = self.clock.monotonic() + self.options.latency
        for job, bootstrap in waiting:
            try:
                build = bootstrap.next(self.flow.graph.running)
                while build is not None and build.step() and self.clock.monotonic() < deadline and not self._callers:
                    pass
            except Exception as error:  # noqa: BLE001 - the job's own failure, reported through its status
                self._bootstrap_failed(job, error)
                return True
            if build is not None:
                return True
        attached = [self._attach_built(job, bootstrap) for job, bootstrap in waiting]
        return any(attached)

    def _attach_built(self, job: Job, bootstrap: Bootstrap) -> bool:
        if job.status is not Status.BOOTSTRAPPING or not relations_there(bootstrap.plan, self.flow):
            return False
        try:
            check_gaps(bootstrap.plan)
            job.status, job.loaded = Status.RUNNING, bootstrap.progress()
            self._attach(job, bootstrap.plan, built=bootstrap.take())
        except Exception as error:  # noqa: BLE001 - the job's own failure, reported through its status
            job.status, bootstrap.attached = Status.BOOTSTRAPPING, False  # what was built is found where it was saved
            self._bootstrap_failed(job, error)
        self._changed.notify_all()
        return True

    def _bootstrap_failed(self, job: Job, error: Exception) -> None:
        """Builds go on from what they have saved, unless trying again cannot help; for room on the disk they wait."""
        self.shop.close()
        if lacks_space(error):
            self.shop.space.failed(error, self.clock.monotonic())
        elif isinstance(error, ConnectorError) and not error.retryable:
            self._give_up(job, error)
        else:
            self._note_failures({job.name: error})

    def forget_bootstraps(self) -> None:
        """Remove what bootstraps of jobs that are gone have left."""
        self.shop.sweep(self._needed_builds())

    def _needed_builds(self) -> set[str]:
        return {
            name
            for j in self.jobs.values()
            if j.bootstrap is not None and not j.bootstrap.attached
            for name in j.bootstrap.names()
        }

    def detach(self, name: str) -> None:
        """Remove a job. Call `checkpoint` before if its sinks shall show everything."""
        with self.boundary() as flow:
            flow.detach(name)
            job = self.jobs.pop(name, None)
            if job is not None:
                if job.bootstrap is not None:
                    job.bootstrap.abandon(self._needed_builds())
                job.status = Status.STOPPED

    def feed(self, relation: str, batch: Batch, *, log_it: bool = True) -> dict[str, Exception]:
        """Apply a change to an embedded table: durable, then applied and shown in one epoch.

        Returns the jobs that failed on it.

        Raises:
            StateError: it cannot be made durable, and is not made.
            Exception: the table cannot take it (its cold rows are damaged). The log has it, so the driver stops.
        """
        with self.boundary():
            if self.fatal is not None:
                raise self.fatal
            if log_it and self.dml is not None:
                self.dml.append(relation, batch)
            try:
                failed = self._run({}, {f"relation/{relation}": [batch]})
                self._run_pending()
            except Exception as error:
                self._stop_for(error)
                raise
            return failed

    def queue(self, relation: str, batches: list[Batch]) -> None:
        """Changes that a job makes to an embedded table; applied in the next epoch."""
        self._pending.setdefault(f"relation/{relation}", []).extend(batches)

    def _run_pending(self) -> None:
        while self._pending:
            fed, self._pending = self._pending, {}
            self._run({}, fed)

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Block until `done()` at an epoch boundary; False after `timeout` seconds.

        Raises:
            Exception: what stopped the driver.
        """
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        with self._changed:
            while not done():
                if self.fatal is not None:
                    raise self.fatal
                left = None if deadline is None else deadline - self.clock.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(0.1 if left is None else min(left, 0.1))
            return True

    # -- one turn -----------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Poll, run an epoch if there is anything to do, checkpoint if it is time. False when idle."""
        with self._lock:
            if self.budget.stuck:
                self.budget.try_again(self.flow)
            merged = self.flow.limit_catch_ups()
            scans = [n for n in self.flow.scans() if not n.waits and not _ended(n) and not self._held_back(n)]
            for node in scans:
                assert node.scan is not None
                node.scan.begin()
        fetched = self.polling.poll(scans, self.options, self._hurried)
        with self._lock:
            worked = self._epoch(fetched, merged) | self._bootstrap()
            self._retry_failed()
            self._finish_jobs()
            if self._checkpoint_due():
                self.checkpoint()
            if worked:
                self._changed.notify_all()
        return worked

    def _held_back(self, node: Node) -> bool:
        """Whether all jobs that read a scan wait for their sinks, or all for memory. One that has room keeps a scan going."""
        if self.budget.stuck:
            return True
        jobs = [self.jobs[name] for name in node.jobs if name in self.jobs]
        most = self.budget.queue
        return bool(jobs) and all(any(o.full() or o.queued > most for o in job.outboxes) for job in jobs)

    def _hurried(self) -> bool:
        """Whether somebody waits for the end of the turn."""
        return self._callers > 0 or self._stopping

    def _source_failed(self, node: Node, error: Exception) -> None:
        """Trying to read it again does not help: the jobs that read it fail."""
        with self._lock:
            self.flow.fail(node.jobs, error, self._tick())
            for name in node.jobs:
                self._give_up(self.jobs[name], error)

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

    def _run(self, fetched: Mapping[str, Fetched | None], fed: Mapping[str, list[Batch]]) -> dict[str, Exception]:
        """One epoch, and then room for the next; returns the jobs that failed in it."""
        failed = self.flow.run_epoch(fetched, fed, self._tick())
        self._note_failures(failed)
        rows = sum(f.batch.num_rows for f in fetched.values() if f is not None)
        overrun = self.budget.keep(self.flow, rows + sum(b.num_rows for batches in fed.values() for b in batches))
        if overrun is not None:
            self.flow.fail(overrun.jobs, overrun.error, self._tick())
            for name in overrun.jobs & self.jobs.keys():
                self._give_up(self.jobs[name], overrun.error)
        return failed

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

    def _tick(self) -> int:
        """The epoch's processing time; functions such as NOW() show the clock as it is."""
        self._set_now(self.clock.now())
        return self.time.now()

    def _table_of(self, node_id: str) -> str:
        scan = self.flow.nodes[node_id].scan
        assert scan is not None
        return scan.spec.table

    def _note(self, node_id: str, fetched: Fetched) -> None:
        self._note_of(self._table_of(node_id), fetched)

    def _note_of(self, table: str, fetched: Fetched) -> None:
        self.notes.take(table, fetched, self.options.dead_letters)

    # -- jobs ---------------------------------------------------------------------------------------------------

    def _note_failures(self, failed: Mapping[str, Exception]) -> None:
        for name, error in failed.items():
            job = self.jobs.get(name)
            if job is None:
                continue
            job.error = error
            job.failures_here += 1
            log.error("job %s failed: %s", name, error)
            if job.failures_here > self.options.restarts:
                self._give_up(job, error)
            else:
                job.status = Status.RESTARTING
                job.retry_at = self.clock.monotonic() + self.options.backoff * 2 ** (job.failures_here - 1)

    def _give_up(self, job: Job, error: Exception) -> None:
        job.status = Status.FAILED
        job.error = error
        log.error("job %s stays failed: %s", job.name, error)

    def _retry_failed(self) -> None:
        for job in list(self.jobs.values()):
            if job.status is Status.RESTARTING and self.clock.monotonic() >= job.retry_at:
                try:
                    self.resume(job.name)
                except StateError as error:
                    self._give_up(job, error)

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
            if self._threads:
                self._start_runners(job)
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
                self._changed.notify_all()

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

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        """At the interval; with nothing on disk also when sinks have taken much, which is kept in memory until a cut."""
        if self.clock.monotonic() >= self._next_checkpoint or (
            self.checkpoints.error is not None and self._retry_due()
        ):
            return True
        return (
            self.store is None
            and self._in_flight is None
            and any(o.nbytes() > self.budget.queue for o in self._outboxes())
        )

    def _retry_due(self) -> bool:
        return self._in_flight is None and not self.checkpoints.waits(self.clock.monotonic())

    def checkpoint(self, keep: Callable[[int], None] | None = None) -> None:
        """Cut at this boundary and make it durable in the background; skipped while one is under way.

        `keep` gets the id once it is durable, on the thread that writes.
        """
        self._next_checkpoint = self.clock.monotonic() + self.options.checkpoint_interval
        if self._in_flight is not None:
            return
        with self.boundary():
            started = time.perf_counter()
            self._run_pending()
            self.checkpoint_id += 1
            capture = self._capture(self.checkpoint_id)
            if keep is not None:
                capture.keep = keep
            self.checkpoint_pause = max(self.checkpoint_pause, time.perf_counter() - started)
        self._in_flight = capture
        self._writer(lambda: self._write(capture))

    def _capture(self, checkpoint: int) -> Capture:
        outboxes = self._outboxes()
        for outbox in outboxes:
            outbox.seal(checkpoint)
        meta = {
            "scans": {n.id: n.scan.save() for n in self.flow.order if n.scan is not None},
            "placements": self.flow.graph.placements(),
            "parked": self.flow.parking.save(),
            "definitions": self.definitions(),
            "outboxes": {o.spec.name: o.unconfirmed() for o in outboxes},
            "time": self.clock.now(),
            "segments": self.flow.graph.segments(),
            "last_segment": self.cold.last,
        }
        if self.dml is not None:
            self.dml.roll(checkpoint)
        if self.store is None:
            return Capture(checkpoint, meta)
        return self.store.capture(checkpoint, self.states(), meta)

    def load(self, parked: Iterable[Mapping[str, Any]]) -> None:
        """Load every placed state from the checkpoint; jobs that had failed are tried again, from where they stood."""
        assert self.store is not None
        self.flow.parking.park_again(parked)
        self.store.load(self.states())
        self.flow.recall()
        for name, unit in self.flow.parked.items():
            job = self.jobs[name]
            job.status, job.error, job.retry_at = Status.RESTARTING, unit.error, self.clock.monotonic()

    def states(self) -> dict[str, Any]:
        """Every state of the dataflow by its key in the manifest."""
        states: dict[str, Any] = {f"{n.id}#{name}": s for n in self.flow.order for name, s in n.states().items()}
        return states | {f"parked/{min(unit.jobs)}": unit.backlog for unit in self.flow.parking.units()}

    def _outboxes(self) -> list[Outbox]:
        return [n.outlet for n in self.flow.order if isinstance(n.outlet, Outbox)]

    def _write(self, capture: Capture) -> None:
        with self._lock:
            outboxes = self._outboxes()
        if self.store is not None:
            try:
                for outbox in outboxes:
                    outbox.sync(capture.id)
                self.store.write(capture)
            except OSError as error:
                with self._lock:
                    self.checkpoints.failed(error, self.clock.monotonic())
                    self._in_flight = None
                    self._changed.notify_all()
                return
        capture.keep(capture.id)
        self.cold.collect(self.store.segments() | self.pinned() if self.store is not None else ())
        with self._lock:
            if self.cold.ill:
                self.cold.reopen()
            self.checkpoints.succeeded()
            for outbox in outboxes:
                outbox.durable(capture.id)
            for node in self.flow.scans():
                if node.scan is not None and node.id in capture.meta["scans"]:
                    node.scan.reader.committed(capture.meta["scans"][node.id]["positions"])
            self.checkpointed_at = self.clock.now()
            for job in self.jobs.values():
                if job.bootstrap is not None and job.name in capture.meta["placements"]:
                    job.bootstrap.durable()
                    job.bootstrap = None
            self._in_flight = None
            self._changed.notify_all()
        if self.dml is not None and self.store is not None:
            self.dml.prune(self.store.oldest())

    def savepoint(self, keep: Callable[[int], None]) -> None:
        """Take a checkpoint and have `keep` keep it before a later one can make anything of it go.

        Raises:
            StateError: the checkpoint failed, or the disk has no room for `keep`.
            Exception: what `keep` raised.
        """
        kept_at: list[int] = []
        failed: list[Exception] = []

        def kept(checkpoint: int) -> None:
            kept_at.append(checkpoint)
            try:
                keep(checkpoint)
            except Exception as error:  # noqa: BLE001 - the caller's, not the driver's
                failed.append(error)

        with self.boundary():
            self.wait(lambda: self._in_flight is None, None)
            self.checkpoint(kept)
            target = self.checkpoint_id
        self.wait(lambda: self._in_flight is None or self._in_flight.id > target, None)
        if failed and isinstance(failed[0], OSError):
            raise self._not_durable(failed[0]) from failed[0]
        if failed:
            raise failed[0]
        if not kept_at:
            raise self._not_durable(self.checkpoints.error)

    def _not_durable(self, error: Exception | None) -> StateError:
        return StateError("no checkpoint could be made", detail=str(error), hint=self.checkpoints.hint)

    def checkpoint_now(self, timeout: float | None = None) -> bool:
        """Take a checkpoint and wait until it is durable and every sink has committed it, but those of failed jobs.

        Later ones may be under way then, or owed: where they come faster than a sink commits there is no end of them.

        Raises:
            StateError: it failed.
        """
        with self.boundary():
            target = self.checkpoint_id + 1
        while self.checkpoint_id < target:
            if self._in_flight is None:
                self.checkpoint()
            else:
                self.wait(lambda: self._in_flight is None, timeout)

        def done() -> bool:
            durable = self._in_flight is None or self._in_flight.id > target
            return durable and (self.checkpoints.error is not None or not self._owed(target))

        there = self.wait(done, timeout)
        if self.checkpoints.error is not None:
            raise self._not_durable(self.checkpoints.error) from self.checkpoints.error
        return there

    def _owed(self, checkpoint: int) -> bool:
        """Whether a sink that works has this checkpoint to commit, or one before it."""
        outboxes = [o for j in self.jobs.values() if j.status is not Status.FAILED for o in j.outboxes]
        return any(i <= checkpoint for o in outboxes for i in o.unconfirmed())

    # -- threads ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether threads drive it."""
        return bool(self._threads)

    def start(self) -> None:
        """Run in threads: the driver, one background writer, one per sink."""
        work: list[Callable[[], None]] = []
        ready = threading.Condition()

        def submit(task: Callable[[], None]) -> None:
            with ready:
                work.append(task)
                ready.notify()

        def write_loop() -> None:
            while True:
                with ready:
                    while not work and not self._stopping:
                        ready.wait(0.1)
                    if not work:
                        return
                    task = work.pop(0)
                self._guard(task)

        self._writer = submit
        self._thread("forebay-writer", write_loop)
        self._thread("forebay-driver", self._loop)
        for job in self.jobs.values():
            self._start_runners(job)

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guard(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._stop_for(error)

    def _stop_for(self, error: Exception) -> None:
        log.error("the driver stops", exc_info=error)
        with self._changed:
            self.fatal = error
            self._changed.notify_all()

    def _loop(self) -> None:
        def run() -> None:
            while not self._stopping and self.fatal is None:
                if not self.step():
                    self._awake.wait(self.options.idle_wait)
                    self._awake.clear()
                while self._callers:
                    time.sleep(0.0001)

        self._guard(run)

    def _start_runners(self, job: Job) -> None:
        for runner in job.runners:
            if not runner.draining:
                runner.draining = True
                self._thread(f"forebay-sink-{job.name}", lambda r=runner: self._drain(job, r))  # type: ignore[misc]

    def _drain(self, job: Job, runner: SinkRunner) -> None:
        wake = threading.Event()
        runner.outbox.wake = wake.set
        while not (self._stopping or runner.outbox.closed):
            try:
                if runner.step():
                    with self._changed:
                        self._changed.notify_all()
                    continue
            except Exception as error:  # noqa: BLE001 - a sink's failure is its job's failure
                runner.close()
                with self.boundary():
                    runner.draining = False
                    self._give_up(job, error)
                return
            wake.wait(0.05)
            wake.clear()
        runner.close()

    def stop(self, *, final_checkpoint: bool = True, timeout: float = 30.0) -> None:
        """End the threads, after a last checkpoint that the sinks have committed."""
        if self._threads and final_checkpoint and self.fatal is None:
            try:
                self.checkpoint_now(timeout)
            except StateError as error:
                log.warning("ends without a last checkpoint; what came since the one before is read again: %s", error)
        self._stopping = True
        self._awake.set()
        for thread in self._threads:
            thread.join(timeout)
        self._threads = []
        with self.boundary() as flow:
            self.shop.close()
            for node in flow.order:
                if node.scan is not None:
                    node.scan.close()


def _ended(node: Node) -> bool:
    return node.scan is not None and node.scan.finished


def describe_error(error: Exception) -> str:
    """An error in one line, as SHOW JOBS shows it."""
    if isinstance(error, ForebayError):
        return f"{error.message}: {error.detail.splitlines()[0]}" if error.detail else error.message
    return f"{type(error).__name__}: {error}".splitlines()[0]
