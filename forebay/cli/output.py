"""Results on the terminal: aligned tables with visible NULLs, errors with their caret, messages."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from forebay.engine.errors import ForebayError

if TYPE_CHECKING:
    import pyarrow as pa

    from forebay.result import Result

MOST_ROWS = 1000
"""Rows that a terminal shows of one result."""


_FILE_WIDTH = 400
"""Nothing wraps in a file or a pipe."""


class Output:
    """Where a session prints. `expanded`: one line per column instead of one per row."""

    def __init__(self, console: Console | None = None, errors: Console | None = None) -> None:
        self.console = console or _console(sys.stdout.isatty(), stderr=False)
        self.errors = errors or _console(sys.stderr.isatty(), stderr=True)
        self.expanded = False

    def result(self, result: Result) -> None:
        """A statement's rows, or its message; and its warnings."""
        for warning in result.warnings:
            self.errors.print(Text(f"warning: {warning}", style="yellow"))
        if result.description is None:
            self.console.print(Text(result.message), soft_wrap=True)
            return
        shown = result.arrow()
        if shown.column_names == ["plan"] or (shown.num_columns == 1 and shown.column_names[0].startswith("create ")):
            self.console.print(Text(str(shown.column(0)[0])), soft_wrap=True)
            return
        self.rows(shown)

    def rows(self, rows: pa.Table) -> None:
        """A table of rows and their number."""
        part = rows.slice(0, MOST_ROWS if self.console.is_terminal else rows.num_rows)
        values = list(zip(*(column.to_pylist() for column in part.columns)))
        if self.expanded:
            self._expanded(rows.column_names, values)
        else:
            self.console.print(table(rows.schema, values), soft_wrap=not self.console.is_terminal)
        more = f", {part.num_rows} shown" if part.num_rows < rows.num_rows else ""
        self.console.print(Text(f"({rows.num_rows} row{'' if rows.num_rows == 1 else 's'}{more})", style="dim"))

    def _expanded(self, names: Sequence[str], values: Iterable[Sequence[Any]]) -> None:
        width = max((len(n) for n in names), default=0)
        for number, row in enumerate(values, 1):
            self.console.print(Text(f"-- row {number}", style="dim"))
            for name, value in zip(names, row):
                self.console.print(Text(f"{name.ljust(width)} | ") + cell(value), soft_wrap=True)

    def error(self, error: BaseException) -> None:
        """An error as its class shows itself: message, place, detail, hint."""
        text = str(error) if isinstance(error, ForebayError) else f"{type(error).__name__}: {error}"
        self.errors.print(Text("error: ", style="bold red") + Text(text), soft_wrap=True)


def _console(terminal: bool, *, stderr: bool) -> Console:
    return Console(stderr=stderr, highlight=False, width=None if terminal else _FILE_WIDTH)


def table(schema: pa.Schema, rows: Iterable[Sequence[Any]]) -> Table:
    """Rows under their column names; numbers to the right."""
    import pyarrow as pa

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for field in schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        made.add_column(Text(field.name), justify="right" if number else "left", no_wrap=not sys.stdout.isatty())
    for row in rows:
        made.add_row(*map(cell, row))
    return made


def cell(value: Any) -> Text:
    """A value as text; NULL is dim, so that it is not the word."""
    match value:
        case None:
            return Text("NULL", style="dim")
        case bool():
            return Text("true" if value else "false")
        case bytes():
            return Text(value.decode("utf-8", "backslashreplace"))
        case float():
            return Text(f"{value:.12g}")
    return Text(str(value))
