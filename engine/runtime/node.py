"""A node of the dataflow: one running operator, scan or outlet, with what it gave in the open epoch.

A node belongs to every job that uses it and is *shared* when they are several (or when it is a relation of the warehouse); the
other nodes of a job are *private*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Source
from forebay.engine.operators.base import Operator
from forebay.engine.runtime.outbox import Outlet
from forebay.engine.runtime.scan import Scan
from forebay.engine.state import State, Tiered


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

    def coming(self) -> list[Batch]:
        """What the output will be when only the scans have run; nothing where that is not known."""
        if self.scan is not None:
            return self.output
        return self.inputs[0].coming() if self.operator is not None and self.operator.passes_on and self.inputs else []

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

    def commit(self) -> None:
        """Close the open epoch."""
        for state in self.states().values():
            state.commit()
        if self.outlet is not None:
            self.outlet.commit()

    def rollback(self) -> None:
        """Back to where the open epoch began."""
        for state in self.states().values():
            state.rollback()
        if self.outlet is not None:
            self.outlet.rollback()
        self.seen = None
        self.output = []

    def close(self) -> None:
        """Nobody uses it any more."""
        if self.scan is not None:
            self.scan.close()
        if self.outlet is not None:
            self.outlet.close()
        if self.operator is not None:
            self.operator.close()
        for state in self.states().values():
            if isinstance(state, Tiered):
                state.close()


class Tap(Protocol):
    """One who looks on."""

    def see(self, node: Node, inputs: Sequence[list[Batch]], epoch: int, error: Exception | None) -> None:
        """A node has processed an epoch's changes; its `output` is there, unless there is an error. Must not raise."""
