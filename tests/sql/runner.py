"""SQL logic tests: scripts of statements with their answers, after SQLite's sqllogictest.

A file is a list of records, separated by blank lines; `#` begins a comment. A record is

    statement ok [regex of the message]        and the statement
    statement error <regex of the whole text>  and the statement
    query <types> [| options]                  the query, a line `----`, and the rows: columns apart by ` | `
    reopen                                     close the warehouse, open it again

Types are Flink's, in full. Options: `sorted` sorts both sides; `both` also keeps the query as a materialized view and
compares that; `eventually` asks again until the rows are right. `$DIR` stands for a fresh directory.

`python -m tests.sql.runner FILE ...` writes the answers that come into the files, to be read before they are kept.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import forebay
from forebay.connection import Connection
from forebay.engine.errors import ForebayError
from forebay.engine.types import from_arrow

SECONDS = 15.0
"""How long `eventually` asks."""


@dataclass(frozen=True, slots=True)
class Record:
    """One test of a file. `expected`: the regex, or the types and rows."""

    line: int
    kind: str
    sql: str = ""
    pattern: str = ""
    types: str = ""
    options: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


def records(text: str) -> Iterator[Record]:
    """The records of a file."""
    for match in re.finditer(r"(?:^(?!\s*$).+\n?)+", text, re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        lines = match.group().rstrip("\n").split("\n")
        while lines and lines[0].startswith("#"):
            lines.pop(0)
            line += 1
        if lines:
            yield _record(line, lines)


def _record(line: int, lines: list[str]) -> Record:
    head, rest = lines[0], lines[1:]
    if head == "reopen":
        return Record(line, "reopen")
    kind, _, tail = head.partition(" ")
    if kind == "statement":
        word, _, pattern = tail.partition(" ")
        if word not in ("ok", "error"):
            raise ValueError(f"line {line}: statement {word}?")
        return Record(line, word, "\n".join(rest), pattern)
    if kind != "query":
        raise ValueError(f"line {line}: {head}?")
    types, _, options = (part.strip() for part in tail.partition("|"))
    cut = rest.index("----") if "----" in rest else len(rest)
    rows = tuple(rest[cut + 1 :])
    return Record(line, "query", "\n".join(rest[:cut]), "", types, tuple(options.split()), rows)


def shown(value: Any) -> str:
    """A value as text."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case str():
            return value if value and value == value.strip() and "\n" not in value else json.dumps(value)
        case float():
            return repr(value)
        case bytes():
            return f"x'{value.hex()}'"
        case dt.datetime():
            return value.isoformat(" ")
        case list():
            return f"[{', '.join(map(_quoted, value))}]"
        case dict():
            return f"({', '.join(f'{k}: {_quoted(v)}' for k, v in value.items())})"
        case (key, item):
            return f"{_quoted(key)} -> {_quoted(item)}"
    return str(value)


def _quoted(value: Any) -> str:
    return repr(value) if isinstance(value, str) else shown(value)


class Run:
    """One file being run. With `accept` answers are taken down instead of compared."""

    def __init__(self, directory: Path, *, accept: bool = False) -> None:
        self._directory = directory
        self._accept = accept
        self._views = 0
        self._con: Connection = self._open()

    def _open(self) -> Connection:
        con = forebay.connect(self._directory / "warehouse")
        assert isinstance(con, Connection)
        return con

    def close(self) -> None:
        self._con.close()

    def record(self, record: Record) -> Record:
        """Run a record; returned as it would have to be written."""
        sql = record.sql.replace("$DIR", str(self._directory))
        match record.kind:
            case "reopen":
                self._con.close()
                self._con = self._open()
            case "ok":
                result = self._con.execute(sql)
                told = "\n".join([result.message or "", *result.warnings])
                assert re.search(record.pattern, told), f"{told!r} is not {record.pattern!r}"
            case "error":
                return self._error(record, sql)
            case "query":
                return self._query(record, sql)
        return record

    def _error(self, record: Record, sql: str) -> Record:
        try:
            self._con.execute(sql)
        except ForebayError as error:
            text = str(error)
            if self._accept and not record.pattern:
                return replace(record, pattern=re.escape(text.splitlines()[0]).replace("\\ ", " "))
            assert re.search(record.pattern, text, re.DOTALL), f"the error is\n{text}"
            return record
        raise AssertionError("the statement passes")

    def _query(self, record: Record, sql: str) -> Record:
        wanted = self._ordered(record, record.rows)
        deadline = time.monotonic() + (SECONDS if "eventually" in record.options else 0)
        while True:
            types, rows = self._answer(sql)
            if self._accept or self._ordered(record, rows) == wanted or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        if self._accept and "eventually" in record.options:
            time.sleep(1)
            types, rows = self._answer(sql)
        if self._accept:
            return replace(record, types=types, rows=tuple(self._ordered(record, rows)))
        assert self._ordered(record, rows) == wanted, "\n".join(["the rows are", *rows])
        assert types == record.types, f"the types are {types}"
        if "both" in record.options:
            self._views += 1
            self._con.execute(f"CREATE MATERIALIZED VIEW __view_{self._views} AS {sql}")
            view_types, view_rows = self._answer(f"SELECT * FROM __view_{self._views}")
            self._con.execute(f"DROP MATERIALIZED VIEW __view_{self._views}")
            assert sorted(view_rows) == sorted(record.rows), "\n".join(["the view's rows are", *view_rows])
            assert view_types == types, f"the view's types are {view_types}"
        return record

    def _answer(self, sql: str) -> tuple[str, list[str]]:
        result = self._con.execute(sql)
        types = ", ".join(str(from_arrow(f.type)) for f in result.schema)
        return types, [" | ".join(map(shown, row)) for row in result.fetchall()]

    @staticmethod
    def _ordered(record: Record, rows: Any) -> list[str]:
        return sorted(rows) if {"sorted", "both"} & set(record.options) else list(rows)


def run(path: Path, directory: Path) -> int:
    """Run a file; the number of its records. An AssertionError names the first that is wrong."""
    running = Run(directory)
    count = 0
    try:
        for record in records(path.read_text()):
            try:
                running.record(record)
            except (AssertionError, ForebayError) as error:
                raise AssertionError(f"{path.name}, line {record.line}:\n{record.sql}\n{error}") from error
            count += 1
    finally:
        running.close()
    return count


def accept(path: Path) -> None:
    """Rewrite a file with the answers that come."""
    text = path.read_text()
    lines = text.split("\n")
    with tempfile.TemporaryDirectory() as directory:
        running = Run(Path(directory), accept=True)
        shift = 0
        for record in records(text):
            try:
                new = running.record(record)
            except (AssertionError, ForebayError) as error:
                print(f"{path.name}, line {record.line}: {record.sql}\n  {error}")
                continue
            if new != record:
                shift += _rewrite(lines, record, new, record.line - 1 + shift)
        running.close()
    path.write_text("\n".join(lines))


def _rewrite(lines: list[str], old: Record, new: Record, at: int) -> int:
    size = old.sql.count("\n") + 1
    if new.kind == "error":
        lines[at] = f"statement error {new.pattern}"
        return 0
    options = f" | {' '.join(new.options)}" if new.options else ""
    lines[at] = f"query {new.types}{options}"
    end = at + 1 + size
    stale = 1 + len(old.rows) if end < len(lines) and lines[end] == "----" else 0
    lines[end : end + stale] = ["----", *new.rows]
    return 1 + len(new.rows) - stale


if __name__ == "__main__":
    for name in sys.argv[1:]:
        accept(Path(name))
