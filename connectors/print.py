"""The `print` sink: one line per change on standard output or error, as `identifier> +I[1, pear]`.

A weight of ±n gives n lines. The row kinds -U and +U are shown where one write retracts and inserts a row of one primary
key; without a key each change is +I or -D.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from forebay.connectors import options as read
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Option, Registry, Sink, TableSpec

IDENTIFIER = Option("print-identifier", "text before every line")
STANDARD_ERROR = Option.boolean("standard-error", "print to standard error")
OPTIONS = (IDENTIFIER, STANDARD_ERROR)


class PrintSink(Sink):
    """Prints as rows come: at least once after a restart."""

    def __init__(self, identifier: str | None, key: tuple[int, ...], stream: TextIO | None, error: bool) -> None:
        self._prefix = f"{identifier}> " if identifier else ""
        self._key = key
        self._stream = stream
        self._error = error

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        # Looked up at every write: tests and notebooks replace the streams.
        stream = self._stream or (sys.stderr if self._error else sys.stdout)
        for kind, row in self._changes(batch):
            stream.write(f"{self._prefix}{kind}[{', '.join(map(_text, row))}]\n")

    def _changes(self, batch: Batch) -> Iterator[tuple[str, tuple[Any, ...]]]:
        rows = list(zip(*(column.to_pylist() for column in batch.rows.columns)))
        weights = batch.weight_array().tolist()
        deleted, inserted = self._keys(rows, weights, -1), self._keys(rows, weights, +1)
        updated = deleted & inserted
        for row, weight in zip(rows, weights):
            update = self._key_of(row) in updated if self._key else False
            kind = ("+U" if update else "+I") if weight > 0 else ("-U" if update else "-D")
            for _ in range(abs(weight)):
                yield kind, row

    def _keys(self, rows: Iterable[tuple[Any, ...]], weights: Iterable[int], sign: int) -> set[str]:
        return {self._key_of(row) for row, weight in zip(rows, weights) if weight * sign > 0} if self._key else set()

    def _key_of(self, row: tuple[Any, ...]) -> str:
        return repr([row[i] for i in self._key])

    def commit(self, checkpoint: int) -> None:
        self.flush()

    def flush(self) -> None:
        (self._stream or (sys.stderr if self._error else sys.stdout)).flush()


def _text(value: Any) -> str:
    """A value as Flink prints it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "+I[" + ", ".join(map(_text, value.values())) + "]"
        case list() if value and all(isinstance(v, tuple) and len(v) == 2 for v in value):
            return "{" + ", ".join(f"{_text(k)}={_text(v)}" for k, v in value) + "}"
        case list():
            return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)


def sink(spec: TableSpec, stream: TextIO | None = None) -> PrintSink:
    """The sink of a table; `stream` takes the place of the standard ones."""
    names = [c.name for c in spec.columns]
    key = tuple(names.index(k) for k in spec.primary_key)
    return PrintSink(read.text(spec.options, IDENTIFIER), key, stream, error=read.boolean(spec.options, STANDARD_ERROR))


def register(registry: Registry) -> None:
    """Make `'connector' = 'print'` known."""
    registry.connectors["print"] = Connector("print", OPTIONS, sink=sink, sink_changelog=lambda spec: Changelog.RETRACT)
