"""`forebay sql`: statements from the command line, from standard input, or interactively."""

from __future__ import annotations

import sys
import time

import forebay
from forebay.cli.output import Output
from forebay.engine.errors import ForebayError, UnboundedError
from forebay.planner import statements as st
from forebay.planner.dialect.script import parse
from forebay.session import Session


def sql(warehouse: str, text: str | None, *, resume: bool) -> int:
    """Run `text`, else standard input, else a prompt. 1 if a statement failed."""
    output = Output()
    if text is None and sys.stdin.isatty():
        from forebay.cli.repl import Repl

        output.console.print("loading", style="dim", end="\r")
        with forebay.connect(warehouse, resume=resume) as con:
            Repl(con, output).run()
        return 0
    with forebay.connect(warehouse, resume=resume) as con:
        return 0 if run_script(con, sys.stdin.read() if text is None else text, output, stop_at_error=True) else 1


def run_script(con: Session, text: str, output: Output, *, stop_at_error: bool = False, timing: bool = False) -> bool:
    """Run statements one by one and print each result; false if one failed. A wrong statement is told before any runs."""
    try:
        statements = parse(text)
    except ForebayError as error:
        output.error(error)
        return False
    good = True
    for statement in statements:
        started = time.perf_counter()
        try:
            run_statement(con, statement, output)
        except ForebayError as error:
            output.error(error)
            good = False
            if stop_at_error:
                return False
        if timing:
            output.console.print(f"{(time.perf_counter() - started) * 1e3:.1f} ms", style="dim")
    return good


def run_statement(con: Session, statement: st.Statement, output: Output) -> None:
    """Run one statement; a SELECT over an input without end becomes a live view where there is a terminal.

    Raises:
        ForebayError: it failed.
    """
    try:
        output.result(con.execute(statement.sql))
    except UnboundedError:
        if not output.console.is_terminal:
            raise
        from forebay.cli.live import live

        live(con, statement.sql, output)
