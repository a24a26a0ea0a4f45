"""Bringing a second scan of a table to exactly where the jobs' scan stands, so that jobs can go over to what stands on it.

A table that gets a history while jobs read it is read a second time, from the history's end on, by a job that has the new
state and no output. Its scan *follows* the jobs' one: it is limited to where that stands, again and again, and when it was
there within a turn the other one waits for a turn. Once both stand at the same positions the other waits until jobs have gone
over. A scan that stands further on than the one that it follows (which has not come to the history's end yet) lets it catch up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forebay.engine.errors import StateError
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.plan import JobPlan, OperatorStep, ScanStep, Step

if TYPE_CHECKING:
    from forebay.engine.runtime.dataflow import Dataflow


@dataclass(slots=True, eq=False)
class Follower:
    """A scan, and those whose jobs will go over to it."""

    node: Node
    ahead: list[Node]
    limited: Mapping[str, Any] | None = None
    """Up to where it may read."""
    turns: int = 0
    """Since that was set."""

    @property
    def arrived(self) -> bool:
        """Whether it stands where all the others do."""
        return all(_positions(n) == _positions(self.node) for n in self.ahead)

    def step(self, flow: Dataflow) -> None:
        """At the start of a turn."""
        assert self.node.scan is not None
        scans = flow.scans()
        self.ahead = [n for n in self.ahead if n in scans and not _ended(n)]
        self.turns += 1
        wait = False
        if not self.ahead:
            self.node.scan.unlimit()
        elif self.arrived:
            wait = True
        elif self.limited is None or self.node.scan.reader.finished():
            there = _positions(self.ahead[0])
            wait = self.limited is not None and self.turns == 1 and there != self.limited
            self.limited, self.turns = there, 0
            self.node.scan.limit(there)
        for node in self.ahead:
            node.waits = wait


def _positions(node: Node) -> Mapping[str, Any]:
    assert node.scan is not None
    return node.scan.positions


def follow(flow: Dataflow, job: str, table: str) -> None:
    """Let a job's scans of the table follow those of all other jobs, from now on; before they have read anything."""
    mine = [n for n in flow.nodes_of(job) if _reads(n, table) and n.catching_up is None and n.jobs == {job}]
    others = [n for n in flow.scans() if _reads(n, table) and n not in mine and not _ended(n)]
    flow.followers += [Follower(node, list(others)) for node in mine if others]


def arrived(flow: Dataflow, job: str) -> bool:
    """Whether jobs can go over to what the job has: at this boundary it stands where they do."""
    nodes = flow.nodes_of(job)
    return all(n.catching_up is None for n in nodes) and all(f.arrived for f in flow.followers if f.node in nodes)


def unfollow(flow: Dataflow, job: str) -> None:
    """Nobody waits for the job's scans any more, and they go on by themselves."""
    nodes = flow.nodes_of(job)
    for follower in [f for f in flow.followers if f.node in nodes]:
        flow.followers.remove(follower)
        for node in follower.ahead:
            node.waits = False
        if follower.node.scan is not None:
            follower.node.scan.unlimit()


def _ended(node: Node) -> bool:
    return node.scan is not None and node.scan.finished


def _reads(node: Node, table: str) -> bool:
    return node.scan is not None and node.scan.spec.table == table


def parts_of(plan: JobPlan, table: str) -> Iterator[Step]:
    """The largest parts of a plan that stand on this table alone and may be shared. Paths are their keys, so that equal parts of
    several plans are one."""
    seen: dict[str, Step] = {}

    def visit(step: Step) -> Iterator[Step]:
        leaves = [s for s in JobPlan((step,)).steps() if not s.inputs]
        mine = all(isinstance(s, ScanStep) and s.scan.table == table for s in leaves)
        if mine and step.key is not None:
            yield _by_key(step, seen)
            return
        for source in step.inputs:
            yield from visit(source)

    for output in plan.outputs:
        yield from visit(output)


def _by_key(step: Step, seen: dict[str, Step]) -> Step:
    if step.path not in seen:
        path = step.key or step.path
        if isinstance(step, OperatorStep):
            seen[step.path] = replace(step, path=path, sources=tuple(_by_key(s, seen) for s in step.sources))
        elif isinstance(step, ScanStep):  # one scan, but each job has to say what it reads of it
            columns = "*" if step.scan.columns is None else ",".join(sorted(step.scan.columns))
            seen[step.path] = replace(step, path=f"{path} of {columns}")
        else:
            seen[step.path] = replace(step, path=path)
    return seen[step.path]


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of the jobs at a handover."""

    jobs: tuple[str, ...]
    """Those that have the history now."""
    left: Mapping[str, str]
    """Those that could not get it → why; they go on as they were."""


def hand_over(jobs: Mapping[str, Callable[[], None]]) -> Moved:
    """Have each job go over; one that cannot stays as it is."""
    done, left = [], {}
    for name, move in jobs.items():
        try:
            move()
            done.append(name)
        except StateError as error:
            left[name] = error.message + (f": {error.detail}" if error.detail else "")
    return Moved(tuple(done), left)
