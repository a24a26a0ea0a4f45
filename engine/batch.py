"""The changelog batch: an Arrow RecordBatch plus one int64 weight per row.

+1 is an insertion, -1 a deletion, ±n the same n times; absent weights mean +1 everywhere (an append-only stream pays
nothing). A list of batches is a Z-set: only the sum of the weights of equal rows has a meaning, not their order.
The row kinds +I -U +U -D exist at connectors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Weights = npt.NDArray[np.int64]
_TAKE = pc.get_function("take")
_UNCHECKED = pc.TakeOptions(boundscheck=False)


def take(rows: pa.RecordBatch, indices: npt.NDArray[np.integer[Any]]) -> pa.RecordBatch:
    """The rows at `indices`, which must be within bounds: half the time of `RecordBatch.take` on small batches."""
    return _TAKE.call([rows, pa.array(indices)], _UNCHECKED)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows and their weights. `weights` has one int64 per row, or is None when each is +1."""

    rows: pa.RecordBatch
    weights: Weights | None = None

    @property
    def num_rows(self) -> int:
        """The number of (row, weight) pairs, not the sum of weights."""
        return int(self.rows.num_rows)

    @property
    def schema(self) -> pa.Schema:
        return self.rows.schema

    def weight_array(self) -> Weights:
        """The weights, written out when all are +1."""
        return np.ones(self.num_rows, np.int64) if self.weights is None else self.weights

    def with_rows(self, rows: pa.RecordBatch) -> Batch:
        """The same weights over other columns of the same rows."""
        return Batch(rows, self.weights)

    def negate(self) -> Batch:
        """The same rows retracted."""
        return Batch(self.rows, -self.weight_array())

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        """The rows at `indices`, in that order."""
        weights = None if self.weights is None else self.weights[indices]
        return Batch(take(self.rows, indices), weights)

    def filter(self, mask: pa.BooleanArray) -> Batch:
        """The rows where `mask` is true; NULL counts as false."""
        rows = self.rows.filter(mask)
        if self.weights is None or rows.num_rows == self.num_rows:
            return Batch(rows, self.weights)
        keep = mask.fill_null(False).to_numpy(zero_copy_only=False)
        return Batch(rows, self.weights[keep])


def concat(batches: Sequence[Batch]) -> Batch:
    """One batch with the rows of several of one schema; at least one is given."""
    if len(batches) == 1:
        return batches[0]
    rows = pa.concat_batches([b.rows for b in batches])
    if all(b.weights is None for b in batches):
        return Batch(rows)
    return Batch(rows, np.concatenate([b.weight_array() for b in batches]))
