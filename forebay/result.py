"""What a statement gives back: rows, a message, or a stream of changes."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.errors import ConnectorError, DataError, ForebayError
from forebay.engine.types import from_arrow


class Result:
    """The outcome of a statement, with a cursor over its rows (DB-API names).

    A query has rows; DDL and DML have a `message` and, for DML, a `rowcount`.
    """

    def __init__(self, table: pa.Table | None = None, *, message: str = "", rowcount: int = -1) -> None:
        self._table = table
        self._at = 0
        self.message = message
        self.rowcount = table.num_rows if table is not None and rowcount < 0 else rowcount
        self.warnings: list[str] = []

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows; empty for statements without rows."""
        return self._table.schema if self._table is not None else pa.schema([])

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @property
    def description(self) -> list[tuple[str, str, None, None, None, None, bool]] | None:
        """DB-API description: name and SQL type of each column; None without rows."""
        if self._table is None:
            return None
        return [(f.name, str(from_arrow(f.type)), None, None, None, None, f.nullable) for f in self.schema]

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or None at the end."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        """Up to `size` next rows."""
        part = self.arrow().slice(self._at, size)
        self._at += part.num_rows
        return [tuple(row) for row in zip(*(column.to_pylist() for column in part.columns))]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that are left."""
        return self.fetchmany(max(self.arrow().num_rows - self._at, 0))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table.

        Raises:
            ForebayError: the statement has no rows.
        """
        if self._table is None:
            raise ForebayError("the statement returned no rows", detail=self.message or None)
        return self._table

    def df(self) -> Any:
        """All rows as a pandas DataFrame (needs `forebay[pandas]`)."""
        return self.arrow().to_pandas()

    def pl(self) -> Any:
        """All rows as a Polars DataFrame (needs `forebay[polars]`)."""
        import polars

        return polars.from_arrow(self.arrow())

    def __repr__(self) -> str:
        if self._table is None:
            return f"<Result: {self.message}>"
        return f"<Result: {self._table.num_rows} rows of ({', '.join(self.columns)})>"


_SLICE = 0.1
"""Seconds between two looks whether a query without changes has ended."""


class ChangeStream:
    """The changes of a continuous query, epoch by epoch. Iterate it, or its `batches()`; close it to end the query."""

    def __init__(
        self,
        schema: pa.Schema,
        close: Callable[[], None],
        over: Callable[[], tuple[bool, Exception | None]] | None = None,
    ) -> None:
        """`over()` says whether the query has ended by itself, and on what it failed; `end` may say so too."""
        self.schema = schema
        self.max_pending: int | None = None
        """Rows that may wait for a reader that has fallen behind; None: any number. One epoch's may be more."""
        self._queue: queue.Queue[list[Batch] | BaseException | None] = queue.Queue()
        self._pending = 0
        self._close = close
        self._over = over
        self._open = True
        self._ended = False

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    @property
    def ended(self) -> bool:
        """Whether everything has been read and nothing more can come."""
        return self._ended or not self._open

    def deliver(self, batches: list[Batch]) -> None:
        """Called by the dataflow after each epoch with changes."""
        if self.max_pending is not None and self._pending > self.max_pending:
            self._fall_behind()
            return
        self._pending += sum(b.num_rows for b in batches)
        self._queue.put(batches)

    def _fall_behind(self) -> None:
        """Forget what waits: the reader gets an error in its place, and nothing after it."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        message = f"the stream was ended: its reader is more than {self.max_pending} rows behind"
        self._queue.put(ConnectorError(message, hint="stream it again: its first changes are the whole result"))

    def end(self, error: BaseException | None = None) -> None:
        """Called by the dataflow when the query is over. Once the stream is closed, an error is only that it was."""
        self._queue.put(error if self._open else None)

    def batches(self, timeout: float | None = None) -> Iterator[Batch]:
        """Changelog batches as they come; ends with the query, or after `timeout` seconds without a change."""
        while not self.ended:
            try:
                item = self._next(timeout)
            except queue.Empty:
                return
            if item is None or isinstance(item, BaseException):
                self._ended = True
                self.close()
                if item is not None:
                    raise item
                return
            self._pending -= sum(b.num_rows for b in item)
            yield from item

    def _next(self, timeout: float | None) -> list[Batch] | BaseException | None:
        """What comes next; waits in slices, to see when the query has ended by itself."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            over, error = (False, None) if self._over is None else self._over()
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                if over:
                    return self._queue.get_nowait()
                return self._queue.get(
                    timeout=left if self._over is None else _SLICE if left is None else min(left, _SLICE)
                )
            except queue.Empty:
                if over:
                    return error
                if deadline is not None and time.monotonic() >= deadline:
                    raise

    def __iter__(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """('+I' or '-D', row) per change."""
        for batch in self.batches():
            yield from changes(batch)

    def fetch(self, timeout: float = 1.0) -> list[tuple[str, tuple[Any, ...]]]:
        """The changes that come until none has come for `timeout` seconds."""
        return [change for batch in self.batches(timeout) for change in changes(batch)]

    def close(self) -> None:
        """End the query. A thread that waits for changes sees the end."""
        if self._open:
            self._open = False
            self._close()
            self._queue.put(None)

    def __enter__(self) -> ChangeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def changes(batch: Batch) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """A batch as ('+I' or '-D', row), each as often as its weight says."""
    rows = zip(*(column.to_pylist() for column in batch.rows.columns))
    for row, weight in zip(rows, batch.weight_array().tolist()):
        kind = "+I" if weight > 0 else "-D"
        for _ in range(abs(weight)):
            yield kind, tuple(row)


def as_table(data: Any) -> pa.Table:
    """An Arrow, pandas or Polars object as an Arrow table.

    Raises:
        DataError: it is something else.
    """
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if hasattr(data, "to_arrow"):
        return data.to_arrow()
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    if not hasattr(data, "columns"):
        raise DataError(f"a {type(data).__name__} is no table", hint="give an Arrow, pandas or Polars object")
    return pa.Table.from_pandas(data, preserve_index=False)
