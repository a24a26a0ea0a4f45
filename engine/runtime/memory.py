"""A bounded source over an Arrow table in memory: constants and registered objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Fetched, Position, Reader, Source


class MemorySource(Source):
    """Reads a table once, in order. The one split's position is the number of rows read."""

    changelog = Changelog.APPEND
    bounded = True

    def __init__(self, table: pa.Table) -> None:
        self.schema = table.schema
        self._table = table

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return _MemoryReader(self._table, 0 if positions is None else int(positions["rows"]))


class _MemoryReader(Reader):
    def __init__(self, table: pa.Table, at: int) -> None:
        self._table = table
        self._at = at
        self._end: int = table.num_rows

    def splits(self) -> Sequence[str]:
        return ["rows"]

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        part = self._table.slice(self._at, min(max_rows, self._end - self._at)).combine_chunks()
        if part.num_rows == 0:
            return None
        self._at += part.num_rows
        return Fetched(Batch(part.to_batches()[0]), None, records=part.num_rows, nbytes=part.nbytes)

    def positions(self) -> dict[str, Position]:
        return {"rows": self._at}

    def finished(self) -> bool:
        return self._at >= self._end

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._end = self._table.num_rows if positions is None else int(positions.get("rows", 0))

    def lag(self) -> int | None:
        return int(self._table.num_rows) - self._at
