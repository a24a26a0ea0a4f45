"""What every kind of state promises, so that checkpoint, rollback, budget and EXPLAIN STATE are generic.

State belongs to an operator or, when shared, to an arrangement. Its time is the epoch: writers stamp what they change with
the open epoch, `commit` closes it, `rollback` undoes it. A checkpoint asks for the *changes* since the last one: an
append-only chain of record batches from which `load` rebuilds the state, so its cost follows the change and not the size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import pyarrow as pa


class State(Protocol):
    """A durable, epoch-transactional piece of memory."""

    def nbytes(self) -> int:
        """Bytes held, counted against the memory budget."""

    def rows(self) -> int:
        """Live rows (or groups, or keys)."""

    def commit(self) -> None:
        """Close the open epoch: what only `rollback` or readers of the old epoch needed may go."""

    def rollback(self) -> None:
        """Back to the last `commit`."""

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        """What changed since the last call (everything if `full`), as copies that later epochs do not touch.

        Called at an epoch boundary only. The batches may have different schemas; each carries its meaning in its
        schema's metadata, private to the state. A call starts a new interval, whether or not it was `full`.
        """

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Rebuild an empty state from a full set of changes followed by any number of later ones, in order."""
