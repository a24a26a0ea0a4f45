"""The live view of a continuous SELECT, its current result redrawn in place until Ctrl-C; and what TRACE JOB .. FOR sees pass."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from forebay.cli.output import Output, table
from forebay.result import ChangeStream, changes
from forebay.session import Session

_REDRAW = 0.25
_MOST_KEPT = 100_000
"""Rows beyond which a growing result is no longer kept, only counted."""


class LiveResult:
    """What a stream's changes add up to: the rows, latest last."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[Any, ...]] = Counter()
        self.count = 0
        self.changes = 0

    def apply(self, kind: str, row: Sequence[Any]) -> None:
        """One change."""
        key = tuple(_hashable(v) for v in row)
        sign = 1 if kind == "+I" else -1
        self.count += sign
        self.changes += 1
        self.rows[key] += sign
        if not self.rows[key]:
            del self.rows[key]
        if len(self.rows) > _MOST_KEPT:
            del self.rows[next(iter(self.rows))]

    def last(self, most: int) -> list[tuple[Any, ...]]:
        """The rows that came last."""
        return list(self.rows)[-most:]


def live(con: Session, query: str, output: Output) -> None:
    """Show it until Ctrl-C or the end of the query."""
    result, started = LiveResult(), time.monotonic()
    with con.stream(query) as stream, Live(console=output.console, auto_refresh=False) as screen:
        try:
            while _take(stream, result):
                screen.update(_drawn(stream, result, started, output), refresh=True)
        except KeyboardInterrupt:
            pass
        screen.update(_drawn(stream, result, started, output), refresh=True)


def follow(con: Session, trace: str, output: Output) -> None:
    """The rows of a TRACE JOB .. FOR, a line each as they come, until it ends or Ctrl-C."""
    shown = 0
    with con.stream(trace) as stream:
        try:
            for batch in stream.batches():
                for row in batch.rows.to_pylist():
                    shown += 1
                    output.console.print(Text(_traced(row)), soft_wrap=True)
        except KeyboardInterrupt:
            pass
    output.console.print(Text(f"({shown} row{'' if shown == 1 else 's'})", style="dim"))


def _traced(row: dict[str, Any]) -> str:
    where = f"epoch {row['epoch']}  {row['step']} {row['node']}  {row['what']}"
    return "  ".join(part for part in (where, row["name"], row["kind"], row["row"]) if part)


def _take(stream: ChangeStream, result: LiveResult) -> bool:
    """Changes until the next redraw; false at the end of the query."""
    until = time.monotonic() + _REDRAW
    for batch in stream.batches(timeout=_REDRAW):
        for kind, row in changes(batch):
            result.apply(kind, row)
        if time.monotonic() >= until:
            return True
    return time.monotonic() >= until


def _drawn(stream: ChangeStream, result: LiveResult, started: float, output: Output) -> RenderableType:
    rows = table(stream.schema, result.last(max(output.console.height - 8, 5)))
    rate = result.changes / max(time.monotonic() - started, 1e-3)
    return Group(
        rows, Text(f"{result.count:,} rows, {result.changes:,} changes, {rate:,.0f}/s; Ctrl-C ends it", style="dim")
    )


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, dict | list) else value
