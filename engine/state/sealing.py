"""Sealing: the live rows of some hot chunks go into a new cold segment, in the order of their hashes, a slice at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from forebay.engine.files import declare, kill_point
from forebay.engine.state.cold import ColdRows
from forebay.engine.state.index import Hashes
from forebay.engine.state.rows import Ids

_SLICE = 1 << 17
"""Rows written in one step."""

declare("cold.seal.before", "cold.seal.after")


class Sealing:
    """A segment in the making. The rows stay where they are until it is finished, and may die meanwhile."""

    def __init__(self, cold: ColdRows, ids: Ids, hashes: Hashes, end: int) -> None:
        """`end`: the first chunk that is not sealed."""
        order = np.argsort(hashes)
        self.ids = ids[order]
        self.hashes = hashes[order]
        self.end = end
        self._cold = cold
        self._done = 0
        self._builder = cold.builder(ids.shape[0])

    @property
    def ends(self) -> bool:
        """Whether only its last step is left."""
        return self._done + _SLICE >= int(self.ids.shape[0])

    def step(self, gather: Callable[[Ids], pa.RecordBatch]) -> bool:
        """Write one slice; True when that was the last, and the segment is part of the cold rows."""
        if not self.ids.shape[0]:
            self._builder.abandon()
            return True
        part = slice(self._done, self._done + _SLICE)
        self._builder.add(gather(self.ids[part]), self.hashes[part], self.ids[part])
        self._done += _SLICE
        if self._done < self.ids.shape[0]:
            return False
        kill_point("cold.seal.before")
        self._cold.add(self._builder.finish())
        kill_point("cold.seal.after")
        return True

    def abandon(self) -> None:
        """Stop for good."""
        self._builder.abandon()
