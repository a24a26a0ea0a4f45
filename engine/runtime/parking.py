"""Parked jobs: their private nodes stand still at an epoch's start, and what their inputs give since is kept in a *backlog*, so
that a resumed job replays exactly what it missed.

Jobs that share a private node are parked as one *unit*: their replay must run that node once. The *border* of a unit are the
nodes outside that its nodes read; arrangements among them keep what a replay needs to see.

Invariant: between epochs the state of a parked node reflects what all others reflect, less what the backlog of its unit holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forebay.engine.batch import Batch
from forebay.engine.errors import StateError
from forebay.engine.operators.base import Turn
from forebay.engine.runtime.backlog import Backlog, Missed
from forebay.engine.runtime.graph import Graph
from forebay.engine.runtime.node import Node, Tap
from forebay.engine.state.arrangement import Arrangement


@dataclass(slots=True, eq=False)
class Parked:
    """A unit: the nodes of failed jobs and what they have missed."""

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

    def retain(self, epoch: int, now: int, most: int) -> None:
        """Keep what the epoch gave; if that is more than `most` bytes in all, the unit is lost."""
        if self.lost:
            return
        inputs = {n.id: (list(n.output), n.watermark) for n in self.border}
        if not any(batches for batches, _ in inputs.values()) and self.backlog.missed:
            return
        self.backlog.append(Missed(epoch, now, inputs))
        if self.backlog.nbytes() > most:
            self.backlog.clear()
            self.lost = True
            self.hold(None)

    def replay(self, missed: Missed, epoch: int, taps: Sequence[Tap]) -> None:
        """Run the nodes with what they missed in one epoch, in the course of epoch `epoch`."""
        for node in self.nodes:
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
                for tap in taps:
                    tap.see(node, inputs, missed.epoch, failure)
        for node in self.nodes:
            node.commit()
            node.version = epoch
            if node.relation is not None:
                node.carried.extend(node.output)
            node.output = []

    def rollback(self) -> None:
        """Back to where the open epoch began."""
        for node in self.nodes:
            node.rollback()


class Parking:
    """The parked jobs of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.jobs: dict[str, Parked] = {}
        """The unit of each."""
        self._graph = graph

    def units(self) -> list[Parked]:
        """Parked jobs, those that go together once."""
        return list({id(unit): unit for unit in self.jobs.values()}.values())

    def nodes(self) -> set[int]:
        """The parked nodes, by `id`."""
        return {id(n) for unit in self.units() for n in unit.nodes}

    def leave(self, job: str) -> None:
        """The job goes; others of its unit stay."""
        unit = self.jobs.pop(job, None)
        if unit is not None and unit not in self.units():
            unit.hold(None)

    # -- parking ------------------------------------------------------------------------------------------------

    def park(self, failed: Mapping[str, Exception], epoch: int, now: int, most: int) -> None:
        """Take the private nodes of failed jobs back to the epoch's start and out of the run. `most`: see `retain`."""
        for unit in self._units_of(failed):
            unit.rollback()
            unit.hold(epoch - 1)
            unit.retain(epoch, now, most)
            self.jobs.update(dict.fromkeys(unit.jobs, unit))

    def retain(self, epoch: int, now: int, most: int) -> None:
        """Keep what the epoch gave to parked jobs, at most so many bytes for each unit."""
        for unit in self.units():
            unit.retain(epoch, now, most)

    def _units_of(self, failed: Mapping[str, Exception]) -> Iterator[Parked]:
        nodes = [n for n in self._graph.order if n.jobs and n.jobs <= failed.keys() and n.scan is None]
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

    # -- resuming -----------------------------------------------------------------------------------------------

    def resume(self, job: str, epoch: int, taps: Sequence[Tap]) -> Exception | None:
        """Replay a parked job's backlog in epoch `epoch`; the job runs on if that succeeds, else stays parked with the rest.

        Raises:
            StateError: the backlog was dropped because it outgrew `state.retain.max`.
        """
        parked = self.jobs[job]
        if parked.lost:
            raise StateError(
                f"job '{job}' was away for more than state.retain.max of changes",
                hint="drop the job and create it again to rebuild its state, or raise state.retain.max",
            )
        while parked.backlog.missed:
            try:
                parked.replay(parked.backlog.missed[0], epoch, taps)
            except Exception as error:  # noqa: BLE001 - the job's own failure, reported through its status
                parked.rollback()
                parked.error = error
                return error
            parked.hold(parked.backlog.pop().epoch)
        parked.hold(None)
        for name in parked.jobs:
            del self.jobs[name]
        return None

    # -- over a restart -----------------------------------------------------------------------------------------

    def save(self) -> list[dict[str, Any]]:
        """What a checkpoint's manifest notes of parked jobs; their backlogs are among the states."""
        return [{"jobs": sorted(unit.jobs), "lost": unit.lost, "error": str(unit.error)} for unit in self.units()]

    def park_again(self, saved: Iterable[Mapping[str, Any]]) -> None:
        """Park the jobs that were parked at the checkpoint, before states are loaded. Jobs that are gone are not missed."""
        for entry in saved:
            there = {n for n in entry["jobs"] if any(n in node.jobs for node in self._graph.order)}
            for unit in self._units_of(dict.fromkeys(there, StateError(entry["error"]))):
                unit.lost = entry["lost"]
                self.jobs.update(dict.fromkeys(unit.jobs, unit))

    def recall(self) -> int:
        """Once states are loaded: arrangements that parked jobs read go back by what those missed, and forward again epoch by
        epoch, so that a replay finds in each epoch what was there. Returns the last of these epochs."""
        old = sorted({m.epoch for unit in self.units() for m in unit.backlog.missed})
        epochs = {epoch: number for number, epoch in enumerate(old, 2)}
        deltas: dict[str, dict[int, list[Batch]]] = {}
        for unit in self.units():
            unit.backlog.renumber(epochs)
            for missed in unit.backlog.missed:
                for node, (batches, _) in missed.inputs.items():
                    deltas.setdefault(node, {})[missed.epoch] = batches
        for node_id, by_epoch in deltas.items():
            for state in self._graph.nodes[node_id].states().values():
                if isinstance(state, Arrangement):
                    state.update([b.negate() for batches in by_epoch.values() for b in batches], 1)
                    state.commit()
        for unit in self.units():
            if unit.backlog.missed:
                unit.hold(unit.backlog.missed[0].epoch - 1)
        for node_id, by_epoch in deltas.items():
            for state in self._graph.nodes[node_id].states().values():
                if isinstance(state, Arrangement):
                    for epoch in sorted(by_epoch):
                        state.update(by_epoch[epoch], epoch)
                        state.commit()
        return len(old) + 1
