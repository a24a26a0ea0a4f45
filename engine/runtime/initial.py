"""The initial delta of a job that comes to a dataflow with a past.

Each *edge* from a node with a past (one that runs, or was built with its contents) to a new node brings that node's contents, in
pieces, each an epoch of the new nodes alone. Edges are taken from the last consumer to the first. So a join of two inputs with a
past sees of either the whole when it gets the other's pieces (`Turn.initial`: nothing is old); one whose other input is new sees
that still empty when it gets the past, and later has all of the past as old. Either way every pair is made exactly once.

Watermarks come in one last epoch without rows: no row of the past is late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Turn
from forebay.engine.runtime.node import Node
from forebay.engine.state.arrangement import Arrangement

if TYPE_CHECKING:
    from forebay.engine.runtime.dataflow import Dataflow
    from forebay.engine.runtime.scan import ScanSpec

PIECE = 1 << 20
"""Rows in one epoch: what fits comes as one change, as a sink would have it."""
SEAL_BYTES = 64 << 20
"""Hot bytes of a new arrangement from which on it is sealed between pieces."""
_HISTORY_ROWS = 1 << 16


class Initial:
    """Brings new nodes of a dataflow up to date."""

    def __init__(
        self,
        flow: Dataflow,
        fresh: list[Node],
        now: int,
        elders: Mapping[int, Node],
        specs: Mapping[int, ScanSpec] | None = None,
    ) -> None:
        """`fresh`: in topological order. `elders`: by `id` of a new scan, the running one where it goes on. `specs`: by `id` of
        a running scan, what is wanted of its rows."""
        self._flow = flow
        self._now = now
        self._elders = elders
        self._specs = specs or {}
        self._all = {id(n) for n in fresh}
        self._fresh = [n for n in fresh if n.scan is None and not n.complete]
        self._wanted = self._useful()

    def run(self) -> None:
        """Process the past."""
        if not self._fresh:
            return
        for node in reversed(self._fresh):
            if id(node) not in self._wanted:
                continue
            edges = [slot for slot, source in enumerate(node.inputs) if self._has_past(source)]
            if node.operator is not None and not node.operator.piecewise:
                self._step(node, {slot: list(self._past(node.inputs[slot])) for slot in edges})
                continue
            for slot in edges:
                for piece in _pieces(self._past(node.inputs[slot])):
                    self._step(node, {slot: piece})
        self._step(None, {})

    def _has_past(self, node: Node) -> bool:
        if id(node) in self._all:
            return node.complete or node.history is not None or id(node) in self._elders
        return self._flow.graph.past(node, self._specs.get(id(node))) is not None

    def _past(self, node: Node) -> Iterator[Batch]:
        elder = self._elders.get(id(node))
        if elder is not None and node.scan is not None:
            yield from self._flow.graph.past(elder, node.scan.spec) or ()
        elif id(node) in self._all and node.history is not None:
            yield from _history(node)
        else:
            yield from self._flow.graph.past(node, self._specs.get(id(node))) or ()

    def _useful(self) -> set[int]:
        """Nodes whose work leaves something behind: state of their own, or rows that an outlet takes."""
        useful: set[int] = set()
        for node in reversed(self._fresh):
            readers = [n for n in self._fresh if any(i is node for i in n.inputs)]
            keeps = not node.state_only if node.outlet is not None else bool(node.states())
            if keeps or any(id(n) in useful for n in readers):
                useful.add(id(node))
        return useful

    def _step(self, start: Node | None, given: dict[int, list[Batch]]) -> None:
        """One epoch of the new nodes: rows at some inputs of one node, or none and the watermarks at their end."""
        flow, last = self._flow, start is None
        flow.epoch += 1
        for node in self._fresh:
            node.output = []
        begun = last
        for node in self._fresh:
            begun = begun or node is start
            if not begun or not (last or id(node) in self._wanted):
                continue
            fed = node is start
            inputs = [
                given.get(slot, []) if fed else (source.output if source in self._fresh else [])
                for slot, source in enumerate(node.inputs)
            ]
            if not last and not any(inputs):
                continue
            watermarks = tuple(i.watermark if last else None for i in node.inputs)
            self._process(node, inputs, watermarks, fed)
        for node in self._fresh:
            node.commit()
            node.output = []
        self._seal()

    def _process(self, node: Node, inputs: list[list[Batch]], watermarks: tuple[int | None, ...], fed: bool) -> None:
        if node.outlet is not None:
            if not node.state_only:
                node.outlet.take(node.named(inputs[0]), watermarks[0], self._flow.epoch)
        elif node.operator is not None:
            node.output = node.operator.process(inputs, Turn(self._flow.epoch, self._now, watermarks, initial=fed))
            node.watermark = node.operator.watermark(watermarks)

    def _seal(self) -> None:
        """A past of any size does not outgrow memory: what has come of it leaves."""
        for node in self._fresh:
            for state in node.states().values():
                if isinstance(state, Arrangement) and state.hot_bytes() > SEAL_BYTES and state.seal(1.0):
                    state.finish_sealing()


def _history(node: Node) -> Iterator[Batch]:
    """The rows of a scan's history."""
    assert node.history is not None
    reader = node.history().reader(None)
    try:
        while not reader.finished():
            fetched = reader.poll(_HISTORY_ROWS, 0.0)
            if fetched is not None and fetched.batch.num_rows:
                yield fetched.batch
    finally:
        reader.close()


def _pieces(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    piece: list[Batch] = []
    rows = 0
    for batch in batches:
        piece.append(batch)
        rows += batch.num_rows
        if rows >= PIECE:
            yield piece
            piece, rows = [], 0
    if piece:
        yield piece
