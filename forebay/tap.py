"""TRACE JOB .. FOR 10 SECONDS: the changes of a key as they pass through a job, epoch by epoch.

A tap looks at what each node of the job has got and given in an epoch; a dataflow without taps does nothing for it. Rows that
meet the conditions are followed: what the operator carries of them (`Operator.carried`) tells which rows of its output stem from
them, whatever these are called there. What comes epochs later, when a window closes, is known by the keys of what went in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.errors import CatalogError, describe_error
from forebay.engine.operators.aside import made_of, reaching, stemming
from forebay.engine.operators.base import Carried
from forebay.engine.operators.join import JoinOperator
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.driver import Driver
from forebay.engine.runtime.node import Node
from forebay.interrupt import unless_interrupted
from forebay.matching import Key, told
from forebay.result import ChangeStream, Result
from forebay.trace import SCHEMA, check_columns, line, nodes_of

_SLICE = 0.1
"""Seconds between two looks whether the statement is still wanted."""
_MOST_HELD = 1000
"""Batches of keys remembered of a node that holds back."""


def follow(driver: Driver, job: str, key: Key, seconds: float | None, limit: int | None) -> ChangeStream:
    """The changes that pass from now on, as rows of trace.SCHEMA; for so many seconds or rows, or until it is closed.

    Raises:
        CatalogError: nothing has a column of a condition.
    """
    with driver.boundary() as flow:
        check_columns(flow, job, key)
    tap = JobTap(driver.flow, job, key, limit)
    monotonic = driver.clock.monotonic
    deadline = None if seconds is None else monotonic() + seconds

    def over() -> tuple[bool, Exception | None]:
        late = deadline is not None and monotonic() >= deadline
        return late or tap.done or driver.fatal is not None, tap.error or driver.fatal

    def close() -> None:
        with driver.boundary() as flow:
            if tap in flow.taps:
                flow.taps.remove(tap)

    tap.stream = ChangeStream(SCHEMA, close, over)
    with driver.boundary() as flow:
        flow.taps.append(tap)
    return tap.stream


def collected(stream: ChangeStream) -> Result:
    """All that comes; what has come when Ctrl-C ends it."""
    called_off = unless_interrupted(lambda: False)
    got: list[pa.RecordBatch] = []
    with stream:
        with contextlib.suppress(KeyboardInterrupt):
            while not stream.ended:
                for batch in stream.batches(_SLICE):
                    got.append(batch.rows)
                called_off()
        got += [b.rows for b in stream.batches(0.0)]
    return Result(pa.Table.from_batches(got, SCHEMA))


class JobTap:
    """Looks at one job."""

    stream: ChangeStream

    def __init__(self, flow: Dataflow, job: str, key: Key, limit: int | None) -> None:
        self._flow, self._job, self._key = flow, job, key
        self._left = limit
        self._epoch = -1
        self._numbers: dict[int, int] = {}
        self._followed: dict[int, list[Batch]] = {}
        """What is followed of the output of each node in the open epoch."""
        self._held: dict[int, list[Carried]] = {}
        self.done = False
        self.error: Exception | None = None

    def see(self, node: Node, inputs: Sequence[list[Batch]], epoch: int, error: Exception | None) -> None:
        if self.done:
            return
        if epoch != self._epoch:
            self._begin(epoch)
        number = self._numbers.get(id(node))
        if number is None:
            return
        try:
            rows = self._lines(number, node, inputs, error)
        except Exception as failure:  # noqa: BLE001 - looking on must not stop what is looked at
            self.error, self.done = failure, True
            return
        self._deliver([{"epoch": epoch, **row} for row in rows])

    def _begin(self, epoch: int) -> None:
        self._epoch, self._followed = epoch, {}
        self._numbers = {id(node): number for number, node in enumerate(nodes_of(self._flow, self._job), 1)}
        if not any(self._job in n.jobs for n in self._flow.order):
            self.done, self.error = True, CatalogError(f"job '{self._job}' is gone")

    def _deliver(self, rows: list[dict[str, Any]]) -> None:
        if self._left is not None:
            rows = rows[: self._left]
            self._left -= len(rows)
            self.done = self._left == 0
        if rows:
            self.stream.deliver([Batch(pa.RecordBatch.from_pylist(rows, SCHEMA))])

    # -- one node -----------------------------------------------------------------------------------------------

    def _lines(
        self, number: int, node: Node, inputs: Sequence[list[Batch]], error: Exception | None
    ) -> list[dict[str, Any]]:
        sources = [self._followed.get(id(i)) for i in node.inputs] or [None]
        mine = [self._key.changes(b) if known is None else known for b, known in zip(inputs, sources)]
        output = [] if error is not None else self._stemming(node, mine)
        self._followed[id(node)] = output
        if isinstance(node.operator, JoinOperator):
            mine = self._partners(node.operator, inputs, mine, output)
        names = [f"{self._numbers[id(i)]} {i.label}" for i in node.inputs] or ["changes"]
        rows = [line(number, node, "input", n, row, kind) for n, some in zip(names, mine) for kind, row in told(some)]
        if error is not None and rows:
            rows.append(line(number, node, "error", "", describe_error(error)))
        return rows + [line(number, node, "output", "", row, kind) for kind, row in told(output)]

    @staticmethod
    def _partners(
        join: JoinOperator, inputs: Sequence[list[Batch]], mine: Sequence[list[Batch]], output: Sequence[Batch]
    ) -> list[list[Batch]]:
        """What is followed of the inputs of a join, and the changes with the keys of what is followed of its output."""
        made, found = [b.rows for b in output], []
        for number, batches in enumerate(inputs):
            every = tuple(range(batches[0].rows.num_columns)) if batches else ()
            own = [(b.rows, every) for b in mine[number]]
            masks = [stemming(b.rows, own) | reaching(b.rows, join.carried(number, b.rows), made) for b in batches]
            found.append([b.take(np.flatnonzero(mask)) for b, mask in zip(batches, masks) if mask.any()])
        return found

    def _stemming(self, node: Node, inputs: Sequence[list[Batch]]) -> list[Batch]:
        """The changes of the output that stem from what is followed, or meet the conditions themselves."""
        carried = self._carried(node, inputs)
        found = []
        for batch in node.output:
            mask = stemming(batch.rows, carried)
            own = self._key.mask(batch.rows)
            mask = mask if own is None else mask | own
            if mask.any():
                found.append(batch.take(np.flatnonzero(mask)))
        return found

    def _carried(self, node: Node, inputs: Sequence[list[Batch]]) -> list[Carried]:
        operator = node.operator
        if operator is None:
            return []
        if operator.pure and any(inputs):
            made = made_of(operator, inputs, 0)
            return [(b.rows, tuple(range(b.rows.num_columns))) for b in made]
        carried = [c for i, batches in enumerate(inputs) for b in batches for c in operator.carried(i, b.rows)]
        if not operator.holds_back:
            return carried
        held = self._held.setdefault(id(node), [])
        held += carried
        del held[:-_MOST_HELD]
        return held
