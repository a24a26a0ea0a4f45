"""The operator contract: one synchronous step per epoch, from input deltas to output deltas.

An operator is one running node of the dataflow. In every epoch it is called once, in topological order, with all changes
of that epoch on each input, and returns all its changes. It never blocks, reads no clock and starts no thread: time comes
in the `Turn`, so a run is a pure function of its inputs and can be replayed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.state import State


@dataclass(frozen=True, slots=True)
class Turn:
    """What an operator is told about the epoch that it processes."""

    epoch: int
    """Number of the epoch, from 1, ascending; resets when a process starts."""
    now: int
    """Processing time of the epoch in µs since 1970: one value for the whole epoch. It does not jump with the clock."""
    watermarks: tuple[int | None, ...]
    """Per input: µs since 1970 that event times have passed once this epoch's rows are seen; None before the first.
    `MAX_WATERMARK` after the end of a bounded input."""
    initial: bool = False
    """True in the first step of an operator that is attached to inputs with a past: the inputs hold their full contents
    as one delta, and a shared arrangement's older rows count as new, not as old."""


MAX_WATERMARK = 2**63 - 1
Carried = tuple[pa.RecordBatch, tuple[int, ...]]
"""Values of some columns, and the columns of the output that have them."""


class Operator(ABC):
    """One running node. Subclasses are built from a frozen spec by the physical planner."""

    schema: pa.Schema
    """Schema of the output rows."""
    piecewise = True
    """Whether an initial delta (`Turn.initial`) may come in pieces."""

    pure = False
    """Whether `process` follows from the rows alone, so that it may be asked aside of the run."""
    holds_back = False
    """Whether what becomes of a row may come epochs later."""
    passes_on = False
    """Whether the output is the input, batch by batch."""

    @abstractmethod
    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        """Take one epoch's changes of each input; return the output's changes (an empty list for none).

        Batches of an input may be in any order and are not consolidated; empty lists are common. An exception leaves
        the states to the caller, which rolls them back.
        """

    def foresee(self, number: int, batches: Sequence[Batch], epoch: int) -> None:  # noqa: B027 - most can do without
        """What `process` will be given of an input in this epoch, if all goes well: time to ask for what it will need."""

    def states(self) -> Mapping[str, State]:
        """Every piece of state that this operator owns, by a name that is stable across versions."""
        return {}

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        """How to know what becomes of these rows of an input: rows of the output that agree with one of them in an entry.

        By default in all columns of one name and type.
        """
        names, out = rows.schema.names, self.schema
        pairs = [(names.index(n), out.get_field_index(n)) for n in dict.fromkeys(names) if names.count(n) == 1]
        pairs = [(i, o) for i, o in pairs if o >= 0 and out.field(o).type == rows.schema.field(i).type]
        return [(rows.select([i for i, _ in pairs]), tuple(o for _, o in pairs))] if pairs else []

    def can_expire(self, table: str) -> bool:
        """Whether all that it keeps by the option of this table has a time."""
        return True

    def set_ttl(self, table: str, ttl: int | None, epoch: int) -> None:  # noqa: B027 - most keep nothing by it
        """At the end of `epoch`: the option that says how long rows of the table live has changed, to µs (None: for ever).

        What has no time lives for ever: see `can_expire`.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """The node is removed: give back what other nodes keep for it."""

    def watermark(self, inputs: tuple[int | None, ...]) -> int | None:
        """The output's watermark for the inputs' watermarks (the least one, unless the operator holds rows back)."""
        return None if any(w is None for w in inputs) else min(w for w in inputs if w is not None) if inputs else None
