"""Bootstrapping a job: what it has to know of its tables' histories is built before it is attached to the dataflow.

Arrangements that follow row by row from a history, or from another arrangement that does, are built in bulk
(`engine.state.bulk`), one after the other, in steps between epochs; nothing of it is in the dataflow until all is there. Then
the job is attached at an epoch boundary with these arrangements in place, and what stands above them (aggregates, views) takes
their contents as its initial delta.

Each build has a directory with its spilled rows and a manifest: the positions in the history and what has been made. A process
that was killed goes on from there. The directory goes when a checkpoint has the job.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched, Reader
from forebay.engine.errors import InternalError
from forebay.engine.files import Clock, Files, declare, kill_point
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.runtime.plan import JobPlan, OperatorStep, RelationStep, ScanStep, Step
from forebay.engine.runtime.retry import Retry
from forebay.engine.state.bulk import BulkBuild
from forebay.engine.state.coldstore import ColdStore

if TYPE_CHECKING:
    from forebay.engine.runtime.dataflow import Dataflow

log = logging.getLogger("forebay")
FORMAT = 2
READ_ROWS = 1 << 17
"""Rows that are spilled together: the more, the fewer the pieces that a range is put together from."""
UNKNOWN_ROWS = 1 << 24
"""Rows expected of a history that cannot say how many it has."""
_MANIFEST = "manifest.json"
_TURN = Turn(1, 0, (None,))

declare("bootstrap.manifest.before", "bootstrap.manifest.after", "bootstrap.ready", "bootstrap.drop.before")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a bootstrap is."""

    rows: int
    """Rows read from histories so far."""
    total: int | None
    """Rows that there are, None if that is not known."""
    fraction: float
    """Of all the work, from 0 to 1."""
    seconds: float
    """Since this process began with it."""
    rate: float
    """Rows read a second, in this process."""

    @property
    def eta(self) -> float | None:
        """Seconds left; None when nothing can be said."""
        return self.seconds / self.fraction * (1 - self.fraction) if self.fraction > 0.01 and self.seconds else None


@dataclass(slots=True, eq=False)
class Workshop:
    """Where builds are made, each once, whichever jobs need it."""

    root: Path | None
    """The warehouse's directory; None: the cold store's temporary one."""
    files: Files
    cold: ColdStore
    clock: Clock
    now: Callable[[], int]
    """Processing time in µs."""
    note: Callable[[str, Fetched], None]
    """Told what histories give besides rows, by table."""
    room: Callable[[], int]
    """Bytes that a build may have in memory, about."""
    space: Retry
    """A full disk is waited for, however long."""
    builds: dict[str, Build] = field(default_factory=dict)
    """By name: those under way and those that no job has taken yet."""

    @property
    def directory(self) -> Path:
        """Where each build has a directory."""
        return (self.root or self.cold.directory) / "bootstrap"

    def sweep(self, needed: Collection[str]) -> None:
        """Remove the directories of builds but these, which an earlier process has left."""
        for name in self.files.list(self.directory):
            if name not in needed:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove the directory of a build."""
        kill_point("bootstrap.drop.before")
        self.files.remove_tree(self.directory / name)

    def nbytes(self) -> int:
        """Bytes of memory of the builds under way; what is built counts as state once a job has it, and here until then."""
        return sum(b.nbytes() for b in self.builds.values())

    def give_back(self) -> None:
        """There is nothing that could be made again."""

    def close(self) -> None:
        """Stop; another process may go on from what was saved."""
        for build in self.builds.values():
            build.close()
        self.builds.clear()


class Bootstrap:
    """What one job needs."""

    def __init__(self, job: str, plan: JobPlan, shop: Workshop) -> None:
        self.job = job
        self.plan = plan
        self._shop = shop
        self._taken: list[str] = []
        self.attached = False
        """The job has what was built, and runs."""
        self._started = shop.clock.monotonic()

    def names(self) -> dict[str, OperatorStep]:
        """The steps that may be built in bulk, by the names of their builds, inputs first."""
        steps = [s for s in self.plan.steps() if isinstance(s, OperatorStep) and s.build is not None]
        return {_name(self.job, s): s for s in steps}

    def next(self, running: Callable[[Step], bool]) -> Build | None:
        """A build that is not done, begun if need be; None if none is left. `running` says what other jobs have."""
        there: set[str] = set()
        for step in self.plan.steps():
            if running(step):
                there |= set(within(step))
        builds = self._shop.builds
        for name, step in self.names().items():
            root = root_of(step.sources[0])
            below = builds.get(_name(self.job, root))
            history = isinstance(root, ScanStep) and root.history is not None
            if step.path in there or root.path in there or not (history or below is not None):
                continue
            if name not in builds:
                builds[name] = Build(name, step, None if history or below is None else below.operator, self._shop)
            if not builds[name].done:
                return builds[name]
        return None

    def take(self) -> dict[str, Operator]:
        """The operators that were built, by path: the job has them from now on."""
        mine = {name: step for name, step in self.names().items() if name in self._shop.builds}
        self._taken = list(mine)
        self.attached = True
        kill_point("bootstrap.ready")
        return {step.path: self._shop.builds.pop(name).operator for name, step in mine.items()}

    def progress(self) -> Progress:
        """How far it is; builds that have not begun count nothing."""
        seconds = self._shop.clock.monotonic() - self._started
        builds = [self._shop.builds[name] for name in self.names() if name in self._shop.builds]
        totals = [b.total for b in builds]
        total = None if None in totals else sum(t for t in totals if t is not None)
        fraction = sum(b.fraction() for b in builds) / max(len(builds), 1)
        fresh = sum(b.rows - b.resumed for b in builds)
        return Progress(sum(b.rows for b in builds), total, fraction, seconds, fresh / seconds if seconds > 0 else 0.0)

    def durable(self) -> None:
        """A checkpoint has the job: what it would go on from may go."""
        for name in self._taken:
            self._shop.remove(name)

    def abandon(self, needed: Collection[str]) -> None:
        """The job is dropped: its builds go, but those that others need (by name)."""
        self.durable()
        for name in self.names().keys() - set(needed):
            build = self._shop.builds.pop(name, None)
            if build is not None:
                build.abandon()
                build.operator.arrangement.close()
            self._shop.remove(name)


@dataclass(frozen=True, slots=True)
class _Input:
    """Where the rows of a build come from."""

    read: Callable[[], pa.RecordBatch | None]
    """Some rows, None at the end."""
    positions: Callable[[], Mapping[str, Any]]
    close: Callable[[], None]
    expected: int | None
    """Rows that are left to read, None if that is not known."""


def _from_files(step: ScanStep, positions: Mapping[str, Any] | None, shop: Workshop) -> _Input:
    assert step.history is not None
    reader: Reader = step.history.open(step.scan.columns).reader(positions)

    def read() -> pa.RecordBatch | None:
        while not reader.finished():
            fetched = reader.poll(READ_ROWS, 0.0)
            if fetched is not None:
                shop.note(step.scan.table, fetched)
                return fetched.batch.rows
        return None

    return _Input(read, reader.positions, reader.close, reader.lag())


def _from_rows(operator: ArrangeOperator) -> _Input:
    batches = operator.contents()

    def read() -> pa.RecordBatch | None:
        batch = next(batches, None)
        return None if batch is None else batch.rows

    return _Input(read, dict, lambda: None, operator.arrangement.rows())


class Build:
    """One arrangement under construction."""

    def __init__(self, name: str, goal: OperatorStep, below: ArrangeOperator | None, shop: Workshop) -> None:
        """`below`: where the rows come from if not from a history."""
        made = goal.make([None])
        if not isinstance(made, ArrangeOperator) or goal.build is None:
            raise InternalError(f"{goal.label} is no arrangement")
        made.arrangement.use(shop.cold)
        self.goal = goal
        self.operator = made
        self.done = False
        self.directory = shop.directory / name
        self._shop = shop
        self._chain = [step.make([None]) for step in chain_of(goal.sources[0])]
        saved = self._saved(below is None)
        self._reading = not saved.get("read", False)
        self._input = self._begin(below, saved)
        self.total: int | None = saved["total"] if saved else self._input.expected
        self._bulk = BulkBuild(
            made.arrangement,
            self.directory,
            UNKNOWN_ROWS if self.total is None else self.total,
            replaces=goal.build.replaces,
            version=goal.build.version,
            progress=saved.get("bulk"),
            most=shop.room(),
        )
        self.resumed: int = saved.get("rows", 0)
        self.rows = self.resumed
        """Rows read."""
        self._parts = self._bulk.parts

    def _begin(self, below: ArrangeOperator | None, saved: Mapping[str, Any]) -> _Input:
        if not self._reading:
            return _Input(lambda: None, dict, lambda: None, 0)
        if below is not None:
            return _from_rows(below)
        root = root_of(self.goal.sources[0])
        assert isinstance(root, ScanStep)
        return _from_files(root, saved.get("positions"), self._shop)

    def step(self) -> bool:
        """Read and spill some rows, or write a range; False when the arrangement is whole."""
        if self._reading:
            self._read()
            return True
        more = self._bulk.step()
        if self._bulk.parts != self._parts:
            self._parts = self._bulk.parts
            self._save()
        if not more:
            self._bulk.forget_runs()
            self.done = True
            self._shop.space.succeeded()
        return more

    def _read(self) -> None:
        rows = self._input.read()
        if rows is None:
            self._reading = False
            self._bulk.cut()
            self._save()
            self._input.close()
            return
        self.rows += rows.num_rows
        batches = [Batch(rows)]
        for operator in self._chain:
            batches = operator.process([batches], _TURN)
        for batch in batches:
            self._bulk.add(self._stamped(batch.rows))
        if self._bulk.full:
            self._bulk.cut()
            self._save()

    def _stamped(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with the time at which they came, where the arrangement keeps that: all come now."""
        arrangement = self.operator.arrangement
        if not arrangement.stamped:
            return rows
        stamp = pa.scalar(self._shop.now(), pa.int64()).cast(arrangement.schema[-1].type)
        return pa.RecordBatch.from_arrays([*rows.columns, pa.repeat(stamp, rows.num_rows)], schema=arrangement.schema)

    def nbytes(self) -> int:
        """Bytes of memory: spilled rows that are being written, and what the arrangement has of its segments."""
        return self._bulk.nbytes() + self.operator.arrangement.nbytes()

    def fraction(self) -> float:
        """Reading is taken for as much work as writing."""
        if self._reading:
            return 0.5 * min(self.rows / self.total, 1.0) if self.total else 0.0
        return 0.5 + 0.5 * self._bulk.written / max(self._bulk.rows, 1)

    def close(self) -> None:
        """It does not go on in this process."""
        self._input.close()
        self._bulk.close()

    def abandon(self) -> None:
        """What was built is not wanted."""
        self._input.close()
        self._bulk.abandon()

    # -- manifest -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        value = {
            "format": FORMAT,
            "boot": _boot(),
            "read": not self._reading,
            "rows": self.rows,
            "total": self.total,
            "positions": self._input.positions(),
            "bulk": self._bulk.save(),
        }
        files, target = self._shop.files, self.directory / _MANIFEST
        kill_point("bootstrap.manifest.before")
        files.write(target.with_suffix(".tmp"), json.dumps(value).encode())
        files.replace(target.with_suffix(".tmp"), target)
        kill_point("bootstrap.manifest.after")
        self._shop.space.succeeded()

    def _saved(self, from_files: bool) -> dict[str, Any]:
        """What an earlier process has left; empty if there is nothing to go on from."""
        problem = None
        value: dict[str, Any] = {}
        if self._shop.files.exists(self.directory / _MANIFEST):
            value, problem = self._checked(self._shop.files.read(self.directory / _MANIFEST), from_files)
        if problem is not None:
            log.warning("the bootstrap of %s begins anew: %s", self.goal.label, problem)
        if problem is not None or not value:
            self._shop.files.remove_tree(self.directory)
            value = {}
        self._shop.files.mkdir(self.directory)
        return value

    def _checked(self, data: bytes, from_files: bool) -> tuple[dict[str, Any], str | None]:
        """The manifest, and why it is of no use."""
        try:
            value = json.loads(data)
            if value["format"] != FORMAT:
                return {}, "another version has begun it"
            bulk = value["bulk"]
        except (ValueError, KeyError, TypeError):
            return {}, "its manifest cannot be read"
        if self._shop.cold.missing({s[0] for s in bulk["segments"] if s[0]}):
            return {}, "segments are missing"
        if len(bulk["segments"]) < bulk["parts"] and value["boot"] != _boot():
            return {}, "the machine was started since, and spilled rows may not have reached the disk"
        return value, None if value["read"] or from_files else "it was reading another arrangement"


# -- plans ------------------------------------------------------------------------------------------------------


def check(plan: JobPlan) -> None:
    """Raise if a stream that the plan reads has lost what came after its history.

    Raises:
        ConnectorError: saying what is missing.
    """
    for step in plan.steps():
        if isinstance(step, ScanStep) and step.history is not None:
            step.history.check()


def must_wait(plan: JobPlan, flow: Dataflow) -> bool:
    """Whether the plan stands on a history that no running node has, or on a relation that is not there yet."""
    return not relations_there(plan, flow) or any(map(functools.partial(_new_history, flow), plan.outputs))


def _new_history(flow: Dataflow, step: Step) -> bool:
    if flow.graph.running(step):
        return False
    own = isinstance(step, ScanStep) and step.history is not None
    return own or any(_new_history(flow, s) for s in step.inputs)


def relations_there(plan: JobPlan, flow: Dataflow) -> bool:
    """Whether every relation that the plan reads is in the dataflow."""
    return all(flow.graph.running(s) for s in plan.steps() if isinstance(s, RelationStep))


def root_of(step: Step) -> Step:
    """Below steps that take row by row: what they stand on."""
    while isinstance(step, OperatorStep) and step.rowwise:
        (step,) = step.sources
    return step


def chain_of(step: Step) -> list[OperatorStep]:
    """The steps from the root up to this one, without the root."""
    chain: list[OperatorStep] = []
    while isinstance(step, OperatorStep) and step.rowwise:
        chain.insert(0, step)
        (step,) = step.sources
    return chain


def within(step: Step) -> Iterator[str]:
    """The paths of a step and all that it stands on."""
    yield step.path
    for source in step.inputs:
        yield from within(source)


def _name(job: str, step: Step) -> str:
    """The directory of a build: shared steps are built once, whoever needs them."""
    return hashlib.sha256((step.key or f"{job}/{step.path}").encode()).hexdigest()[:24]


def _boot() -> str | None:
    """Changes when the machine is started: what was not synced is then gone."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else None
