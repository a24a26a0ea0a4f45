"""Errors: each has a domain, says whether a retry can help, and names the fix.

A message is short and lower case; `detail` adds facts; `hint` names the fix. An error about a statement also carries the
statement's text, line and column, and shows the line with a caret.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import Enum

from forebay.engine.secrets import hidden


class Domain(Enum):
    """Who has to act."""

    USER = "user"
    EXTERNAL = "external"
    INTERNAL = "internal"


class ForebayError(Exception):
    """The base of every error that Forebay raises on purpose."""

    domain = Domain.INTERNAL
    retryable = False

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.detail:
            lines.append(f"detail: {self.detail}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class SqlError(ForebayError):
    """A statement that cannot be parsed, bound or planned. `line` and `column` are 1-based; None when unknown."""

    domain = Domain.USER

    def __init__(
        self,
        message: str,
        *,
        sql: str | None = None,
        line: int | None = None,
        column: int | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.sql = sql
        self.line = line
        self.column = column

    def __str__(self) -> str:
        if self.sql is None or self.line is None or self.column is None:
            return super().__str__()
        lines = hidden(self.sql).splitlines()
        source = lines[self.line - 1] if lines else ""
        prefix = f"{self.line} | "
        caret = " " * (len(prefix) + self.column - 1) + "^"
        head, *rest = super().__str__().splitlines()
        return "\n".join([f"{head} (line {self.line}, column {self.column})", prefix + source, caret, *rest])


class CatalogError(SqlError):
    """A table, view, job or function that is missing, or already there."""


class UnsupportedError(SqlError):
    """A query that streaming cannot run, named."""


class UnboundedError(UnsupportedError):
    """A query with no final answer: it reads an input that never ends."""


class OptionError(SqlError):
    """A connector, format or session option that is unknown, missing or has a wrong value."""


class DataError(ForebayError):
    """A value that an expression or a sink cannot take."""

    domain = Domain.USER


class ConnectorError(ForebayError):
    """An outside system that failed; `retryable` says whether trying again can help."""

    domain = Domain.EXTERNAL

    def __init__(
        self, message: str, *, retryable: bool = True, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.retryable = retryable


class StateError(ForebayError):
    """State or a checkpoint that cannot be read, or does not fit the plan."""

    domain = Domain.EXTERNAL


class InternalError(ForebayError):
    """A broken invariant: a defect of Forebay itself."""


def describe_error(error: Exception) -> str:
    """An error in one line, as SHOW JOBS shows it."""
    if isinstance(error, ForebayError):
        return f"{error.message}: {error.detail.splitlines()[0]}" if error.detail else error.message
    return f"{type(error).__name__}: {error}".splitlines()[0]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a misspelt one, or None when none is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
