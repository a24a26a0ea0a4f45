"""What every kind of state promises, so that checkpoint, rollback, budget and EXPLAIN STATE are generic.

State belongs to an operator or, when shared, to an arrangement. Its time is the epoch: writers stamp what they change with
the open epoch, `commit` closes it, `rollback` undoes it. A checkpoint asks for the *changes* since the last one: an
append-only chain of record batches from which `load` rebuilds the state, so its cost follows the change and not the size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import pyarrow as pa

if TYPE_CHECKING:
    from forebay.engine.state.cold import ColdRows
    from forebay.engine.state.coldstore import ColdStore
    from forebay.engine.state.segment import Segment


class Frozen(ABC):
    """Rows that stay as they are, to be copied into a batch only when they are written: on any thread, and more than once."""

    @abstractmethod
    def batch(self) -> pa.RecordBatch:
        """The rows."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held beside those of the state."""


Change: TypeAlias = pa.RecordBatch | Frozen


def whole(change: Change) -> pa.RecordBatch:
    """The batch itself."""
    return change.batch() if isinstance(change, Frozen) else change


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

    def changes(self, full: bool) -> Sequence[Change]:
        """What changed since the last call (everything if `full`), as batches that later epochs do not touch.

        Called at an epoch boundary only. They may have different schemas; each carries its meaning in its
        schema's metadata, private to the state. A call starts a new interval, whether or not it was `full`.
        """

    def load(self, changes: Iterable[Change]) -> None:
        """Rebuild an empty state from a full set of changes followed by any number of later ones, in order.

        They may be gone through more than once.
        """


class Segmented(ABC):
    """A state some of whose rows may be in cold segments."""

    unmatched: int
    """Retractions that found nothing to retract."""

    @property
    @abstractmethod
    def on_disk(self) -> ColdRows | None:
        """Its cold rows; None without a store."""

    def cold_segments(self) -> list[Segment]:
        """The segments of these rows, in the order in which they came."""
        return list(self.on_disk.segments.values()) if self.on_disk is not None else []

    def memory_hits(self) -> float | None:
        """Which share of what was asked for and is there was in memory; None: nothing was, or it is not asked itself."""
        return None


class Tiered(Segmented):
    """A state that can give memory back by moving what was used longest ago to a cold store. Called between epochs."""

    @abstractmethod
    def use(self, store: ColdStore) -> None:
        """Rows may go to this store from now on."""

    @abstractmethod
    def hot_bytes(self) -> int:
        """Bytes that sealing could give back."""

    @abstractmethod
    def idle_bytes(self) -> int:
        """Bytes of `nbytes` that are held for rows to come: this state's, or its dependents'. No reason to seal."""

    @abstractmethod
    def seal(self, share: float) -> bool:
        """Begin to move that share of the hot rows; `maintain` goes on with it. False if there is nothing to move."""

    @property
    @abstractmethod
    def sealing(self) -> bool:
        """Whether rows are on their way out of memory."""

    @abstractmethod
    def maintain(self) -> bool:
        """One step of sealing and one of merging; False when there is nothing to do."""

    def ahead(self) -> None:
        """As much of that as can be done in the middle of an epoch, while somebody reads the state."""

    @abstractmethod
    def finish_sealing(self) -> None:
        """All that is left of the sealing under way."""

    @abstractmethod
    def stay(self) -> None:
        """Give up the sealing and the merging under way, of which a step has failed; what is hot stays hot."""

    @abstractmethod
    def close(self) -> None:
        """Nobody will read the state again."""
