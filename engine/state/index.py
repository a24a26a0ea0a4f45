"""The hash index over a row store: bulk insert, probe and unlink on the kernels of `kernels.index`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from forebay.engine.state.rows import ChunkTable, Ids
from forebay.kernels import index as kernels
from forebay.kernels.rows import SHIFT

Hashes = npt.NDArray[np.uint64]
_INITIAL = 16
_PAGE = 4096
_SMALL = 4096
"""Smaller tables grow fourfold: what costs there is the number of steps."""
_EMPTY = 4
"""A table that has room for so many times its entries is made smaller."""


class RowIndex:
    """Row ids by hash. Equal hashes of different keys share a chain: who needs key equality verifies it."""

    def __init__(self) -> None:
        self._tables = [np.zeros(_INITIAL * 2, np.uint64) for _ in range(kernels.PARTS)]
        self._parts = np.zeros((kernels.PARTS, 4), np.int64)
        self._chain = ChunkTable(8, fill=0)
        self._back = ChunkTable(8, fill=0)
        self._chained = 0
        self._wanted = np.zeros(kernels.PARTS, np.int64)
        for part in range(kernels.PARTS):
            self._install(part, self._tables[part])

    def insert(self, hashes: Hashes, rows: Ids) -> None:
        """Put rows (ascending) at the heads of their chains."""
        if not rows.shape[0]:
            return
        self._grow(hashes)
        for chunk in range(int(rows[0]) >> SHIFT, (int(rows[-1]) >> SHIFT) + 1):
            self._chain.require(chunk)
            self._back.require(chunk)
        self._chained += kernels.insert(hashes, rows, self._parts, self._chain.addresses, self._back.addresses)

    def unlink(self, hashes: Hashes, rows: Ids) -> None:
        """Take rows out that were inserted under these hashes; rows that are not in a chain are left alone."""
        if rows.shape[0]:
            for table in (self._chain, self._back):
                table.require(int(rows.max()) >> SHIFT)
            kernels.unlink(hashes, rows, self._parts, self._chain.addresses, self._back.addresses)

    def shrink(self) -> None:
        """Make the tables smaller that are mostly empty: many rows have been unlinked for good."""
        for part in np.flatnonzero(self._parts[:, 2] * _EMPTY < self._parts[:, 3]).tolist():
            slots = _INITIAL
            while self._parts[part, 2] * 2 > self._limit(part, slots):
                slots *= 2
            if slots <= self._parts[part, 1]:
                self._move(part, slots)

    def drop(self, chunk: int) -> None:
        """Give back the links of a chunk whose rows have all been unlinked."""
        self._chain.drop(chunk)
        self._back.drop(chunk)

    def candidates(self, hashes: Hashes) -> int:
        """How many rows, dead ones included, the chains of these hashes have."""
        return int(kernels.find(hashes, self._parts, np.empty(hashes.shape[0], np.uint64)))

    def pairs(
        self, hashes: Hashes, died: Ids, most: int, least: int, limit: int
    ) -> Iterator[tuple[npt.NDArray[np.int32], Ids]]:
        """(probe index, row) of every visible row under each hash, in pieces of at most `limit` pairs.

        `died` has an entry (perhaps 0) for the chunk of every row that was ever inserted.
        """
        cursor = np.empty(hashes.shape[0], np.uint64)
        total = kernels.find(hashes, self._parts, cursor)
        progress = np.zeros(1, np.int64)
        while total and progress[0] >= 0:
            room = min(total, limit)
            index, rows = np.empty(room, np.int32), np.empty(room, np.int64)
            n = kernels.expand(cursor, self._chain.addresses, died, most, least, index, rows, progress)
            if n:
                yield index[:n], rows[:n]

    def newest(self, hashes: Hashes, died: Ids, most: int, least: int) -> Ids:
        """The newest visible row under each hash, 0 for none."""
        payloads = np.empty(hashes.shape[0], np.uint64)
        rows = np.zeros(hashes.shape[0], np.int64)
        if kernels.find(hashes, self._parts, payloads):
            kernels.first_visible(payloads, self._chain.addresses, died, most, least, rows)
        return rows

    def nbytes(self) -> int:
        links = min(self._chain.nbytes() + self._back.nbytes(), 2 * _PAGE * self._chained)
        return sum(t.nbytes for t in self._tables) + links + self._parts.nbytes

    def _grow(self, hashes: Hashes) -> None:
        kernels.histogram(hashes, self._wanted)
        for part in np.flatnonzero(self._parts[:, 2] + self._wanted > self._parts[:, 3]).tolist():
            slots = int(self._parts[part, 1]) + 1
            while self._parts[part, 2] + self._wanted[part] > self._limit(part, slots):
                slots *= 4 if slots < _SMALL else 2
            self._move(part, slots)

    def _move(self, part: int, slots: int) -> None:
        table = np.zeros(slots * 2, np.uint64)
        kernels.rehash(self._tables[part].ctypes.data, int(self._parts[part, 1]) + 1, table.ctypes.data, slots - 1)
        self._install(part, table)

    def _install(self, part: int, table: Hashes) -> None:
        slots = table.shape[0] // 2
        self._tables[part] = table
        self._parts[part, 0] = table.ctypes.data
        self._parts[part, 1] = slots - 1
        self._parts[part, 3] = self._limit(part, slots)

    @staticmethod
    def _limit(part: int, slots: int) -> int:
        """Jittered, so that the parts of an evenly growing index do not all grow in one batch."""
        return int(slots * (0.45 + 0.3 * part / kernels.PARTS))
