"""Rows by slot: one array per column, addressed by dense ids that are used again, so that memory follows the live rows.

Fixed-width columns are plain arrays; texts lie in a heap of bytes that is squeezed when a third of it is dead; nested and rare
types are kept as Python values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.state.arrays import (
    canonical_value,
    fixed_array,
    is_fixed,
    is_null,
    is_pair,
    is_text,
    pairs,
    raw,
    text,
    text_array,
)
from forebay.kernels import group as kernels

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_LARGE = 8 << 20
_PIECE = 1 << 20
"""Bytes of text, about, that are moved at a time."""


def grown(array: npt.NDArray[Any], size: int, fill: int) -> npt.NDArray[Any]:
    """The array, or a copy of it with room for at least `size` rows, of which new ones hold `fill`.

    Large arrays grow by half, smaller ones double. Zeroed memory stays untouched until it is used, and numpy asks for huge
    pages for it; remapping in place gets neither.
    """
    have = array.shape[0]
    if size <= have:
        return array
    more = have // 2 if array.nbytes > _LARGE else have
    larger = np.zeros((max(size, have + more, 64), *array.shape[1:]), array.dtype)
    larger[:have] = array
    if fill:
        larger[have:] = fill
    return larger


class Column(ABC):
    """The values of one column by slot."""

    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind
        self._null: npt.NDArray[np.uint8] | None = None

    def put(self, ids: Ids, array: pa.Array) -> None:
        """Set the values of `ids`."""
        if array.null_count and self._null is None:
            self._null = np.zeros(0, np.uint8)
        if self._null is not None:
            self._null = grown(self._null, int(ids.max(initial=-1)) + 1, 0)
            self._null[ids] = is_null(array)
        self._put(ids, array)

    def gather(self, ids: Ids) -> pa.Array:
        """The values of `ids` as a column."""
        return self._gather(ids, self.null(ids))

    def null(self, ids: Ids) -> Mask | None:
        """Which of them are NULL; None for none."""
        if self._null is None:
            return None
        if self._null.shape[0] <= ids.max(initial=-1):
            self._null = grown(self._null, int(ids.max()) + 1, 0)
        return self._null[ids].astype(bool)

    def keep_equal(self, ids: Ids, array: pa.Array, equal: npt.NDArray[np.uint8]) -> None:
        """Clear equal[i] where the value of ids[i] and array[i] differ; NULL equals NULL, NaN NaN, -0.0 0.0."""
        null = self.null(ids)
        if null is None and not array.null_count:
            self._keep_equal(ids, array, equal)
            return
        mine = np.zeros(ids.shape[0], bool) if null is None else null
        other = is_null(array)
        same = np.ones(ids.shape[0], np.uint8)
        self._keep_equal(ids, array, same)
        same[mine | other] = 0
        same[mine & other] = 1
        equal &= same

    @property
    def has_null(self) -> bool:
        """May a value be NULL?"""
        return self._null is not None

    def forget(self, ids: Ids) -> None:  # noqa: B027 - a fixed slot has nothing to give back
        """The values of `ids` are dead."""

    def wasteful(self) -> bool:
        """Is it time to squeeze?"""
        return False

    def squeeze(self, live: Ids) -> None:  # noqa: B027 - see `wasteful`
        """Give back the memory of dead values; `live` are the ids still in use."""

    @abstractmethod
    def nbytes(self) -> int: ...

    def busy_bytes(self, share: float) -> int:
        """Of these, those of live values, if that share of the slots is in use."""
        return int(self.nbytes() * share)

    @abstractmethod
    def _put(self, ids: Ids, array: pa.Array) -> None: ...

    @abstractmethod
    def _gather(self, ids: Ids, null: Mask | None) -> pa.Array: ...

    @abstractmethod
    def _keep_equal(self, ids: Ids, array: pa.Array, equal: npt.NDArray[np.uint8]) -> None: ...


class _Fixed(Column):
    def __init__(self, kind: pa.DataType) -> None:
        super().__init__(kind)
        self._values = self._view(pa.array([], kind)).copy()

    def _view(self, array: pa.Array) -> npt.NDArray[Any]:
        return pairs(array) if is_pair(self.kind) else raw(array)

    def _put(self, ids: Ids, array: pa.Array) -> None:
        self._values = grown(self._values, int(ids.max(initial=-1)) + 1, 0)
        self._values[ids] = self._view(array)

    def _gather(self, ids: Ids, null: Mask | None) -> pa.Array:
        return fixed_array(self._values[ids], null, self.kind)

    def _keep_equal(self, ids: Ids, array: pa.Array, equal: npt.NDArray[np.uint8]) -> None:
        mine, other = self._values[ids], self._view(array)
        if pa.types.is_floating(self.kind):
            mine, other = mine.view(f"f{mine.itemsize}"), other.view(f"f{mine.itemsize}")
            equal &= (mine == other) | ((mine != mine) & (other != other))
        else:
            same = mine == other
            equal &= same.all(axis=1) if same.ndim == 2 else same

    def nbytes(self) -> int:
        return self._values.nbytes


class _Text(Column):
    def __init__(self, kind: pa.DataType) -> None:
        super().__init__(kind)
        self._places: Ids = np.zeros(0, np.int64)
        self._lengths: Ids = np.zeros(0, np.int64)
        self._heap = np.zeros(0, np.uint8)
        self._size = 0
        self._dead = 0
        self._reached = 0
        """Bytes of the heap that were ever written: beyond, it takes no memory."""

    def _put(self, ids: Ids, array: pa.Array) -> None:
        top = int(ids.max(initial=-1)) + 1
        self._places, self._lengths = grown(self._places, top, 0), grown(self._lengths, top, 0)
        offsets, data = text(array)
        start, size = int(offsets[0]), int(offsets[-1]) - int(offsets[0])
        self._room(self._size + size)
        self._heap[self._size : self._size + size] = data[start : start + size]
        self._places[ids] = offsets[:-1].astype(np.int64) + (self._size - start)
        self._lengths[ids] = np.diff(offsets)
        self._size += size
        self._reached = max(self._reached, self._size)

    def _gather(self, ids: Ids, null: Mask | None) -> pa.Array:
        lengths = self._lengths[ids]
        offsets = np.zeros(ids.shape[0] + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        out = np.empty(int(offsets[-1]), np.uint8)
        kernels.copy_text(self._places[ids], lengths, self._heap, offsets, out)
        return text_array(offsets, out, null, self.kind)

    def _keep_equal(self, ids: Ids, array: pa.Array, equal: npt.NDArray[np.uint8]) -> None:
        kernels.equal_text(ids, self._places, self._lengths, self._heap, *text(array), equal)

    def forget(self, ids: Ids) -> None:
        self._dead += int(self._lengths[ids].sum())

    def wasteful(self) -> bool:
        return self._dead > 1 << 20 and 3 * self._dead > self._size

    def _room(self, size: int) -> None:
        """A heap of `size` bytes at least. A large one is resized where it is or remapped: never is it there twice."""
        if size > self._heap.shape[0]:
            if size < _LARGE:
                self._heap = grown(self._heap, size, 0)
            else:
                self._heap.resize(size + size // 8, refcheck=False)

    def squeeze(self, live: Ids) -> None:
        """Move the texts together, in the order in which they lie, by way of a small buffer."""
        live = live[np.argsort(self._places[live], kind="stable")]
        ends = np.cumsum(self._lengths[live])
        self._size, self._dead = int(ends[-1]) if live.shape[0] else 0, 0
        cuts = np.searchsorted(ends, np.arange(_PIECE, self._size, _PIECE), "right")
        at = 0
        for ids in np.split(live, np.unique(cuts)):
            offsets, data = text(self._gather(ids, None))
            end = at + int(offsets[-1])
            self._heap[at:end] = data[: end - at]
            self._places[ids] = offsets[:-1].astype(np.int64) + at
            at = end
        self._heap.resize(self._size + self._size // 8, refcheck=False)
        self._reached = min(self._reached, self._heap.shape[0])

    def nbytes(self) -> int:
        return self._places.nbytes + self._lengths.nbytes + self._reached

    def busy_bytes(self, share: float) -> int:
        return int((self._places.nbytes + self._lengths.nbytes) * share) + self._size


class _Rare(Column):
    def __init__(self, kind: pa.DataType) -> None:
        super().__init__(kind)
        self._values: npt.NDArray[np.object_] = np.zeros(0, object)

    def put(self, ids: Ids, array: pa.Array) -> None:
        self._put(ids, array)

    def null(self, ids: Ids) -> Mask | None:
        return None

    def _put(self, ids: Ids, array: pa.Array) -> None:
        have, top = self._values.shape[0], int(ids.max(initial=-1)) + 1
        if top > have:
            self._values = np.append(self._values, np.full(max(64, top, 2 * have) - have, None, object))
        for slot, value in zip(ids.tolist(), array.to_pylist()):
            self._values[slot] = value

    def _gather(self, ids: Ids, null: Mask | None) -> pa.Array:
        return pa.array(self._values[ids].tolist(), self.kind)

    def keep_equal(self, ids: Ids, array: pa.Array, equal: npt.NDArray[np.uint8]) -> None:
        self._keep_equal(ids, array, equal)

    def _keep_equal(self, ids: Ids, array: pa.Array, equal: npt.NDArray[np.uint8]) -> None:
        mine = self._values[ids].tolist()
        same = [canonical_value(a) == canonical_value(b) for a, b in zip(mine, array.to_pylist())]
        equal &= np.array(same, bool)

    def forget(self, ids: Ids) -> None:
        self._values[ids] = None

    def nbytes(self) -> int:
        return 64 * int(self._values.shape[0])  # a guess: Python values are not measured


def column_of(kind: pa.DataType) -> Column:
    """Storage for values of a type."""
    if is_text(kind):
        return _Text(kind)
    return _Fixed(kind) if is_fixed(kind) or is_pair(kind) else _Rare(kind)
