"""How one job sees an arrangement that it shares: its own columns and filter, applied to stored rows after a probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.expression import Evaluator, Pick

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lens:
    """Pure: what it shows of a row follows from the row alone."""

    columns: tuple[int, ...]
    """The stored columns that it reads."""
    schema: pa.Schema
    """What it shows."""
    show: Callable[[pa.RecordBatch], tuple[pa.RecordBatch, Mask | None]]
    """These columns of stored rows to (the rows as shown, bool[n] of those that are seen or None for all)."""
    filters: bool
    """Whether there may be rows that it does not see."""

    def __call__(self, stored: pa.RecordBatch) -> tuple[pa.RecordBatch, Mask | None]:
        """`show` of whole stored rows."""
        return self.show(stored.select(self.columns))


class Showing:
    """What `Lens.show` does: rows where `mask` is true, through `program`, which reads the leaves of `pick`."""

    def __init__(
        self,
        schema: pa.Schema,
        mask: Callable[[pa.RecordBatch], pa.BooleanArray] | None,
        pick: Pick,
        program: Evaluator,
    ) -> None:
        self._schema = schema
        self._mask = mask
        self._pick = pick
        self._program = program

    def __call__(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Mask | None]:
        """Rows that are not seen are shown with NULLs: nothing is computed of them, for that might fail."""
        picked = self._pick(rows)
        if self._mask is None:
            return self._named(self._program(picked)), None
        seen: Mask = self._mask(rows).fill_null(False).to_numpy(zero_copy_only=False)
        if seen.all():
            return self._named(self._program(picked)), None
        places = np.flatnonzero(seen)
        shown = self._program(picked.take(pa.array(places)))
        back = np.zeros(rows.num_rows, np.int64)
        back[places] = np.arange(places.size)
        return self._named(shown.take(pa.array(back, mask=~seen))), seen

    def _named(self, shown: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(shown.columns, schema=self._schema)
