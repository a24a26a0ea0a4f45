"""`forebay sql`: statements from the command line, from standard input, or interactively."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING

import forebay
from forebay.cli.output import Output
from forebay.engine.errors import ForebayError, UnboundedError

if TYPE_CHECKING:
    from forebay.planner import statements as st
    from forebay.session import Session


def sql(warehouse: str, text: str | None, *, resume: bool) -> int:
    """Run `text`, else standard input, else a prompt. 1 if a statement failed."""
    output = Output()
    if text is None and sys.stdin.isatty():
        _prompt(functools.partial(forebay.connect, warehouse, resume=resume), output)
        return 0
    with forebay.connect(warehouse, resume=resume) as con:
        return 0 if run_script(con, sys.stdin.read() if text is None else text, output, stop_at_error=True) else 1


def _prompt(connect: Callable[[], Session], output: Output) -> None:
    """The prompt comes at once; behind it the engine is loaded and the warehouse opened, which takes a second or, where much
    is to be restored or kernels are compiled, some."""
    from forebay.cli.repl import Repl

    signal.signal(signal.SIGTERM, _terminated)  # unlike Ctrl-C it ends the session
    with ThreadPoolExecutor(1, "forebay-opening") as behind:
        opening = behind.submit(connect)
        try:
            Repl(opening, output).run()
        finally:
            if opening.exception() is None:
                opening.result().close()


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run_script(con: Session, text: str, output: Output, *, stop_at_error: bool = False, timing: bool = False) -> bool:
    """Run statements one by one and print each result; false if one failed. A wrong statement is told before any runs."""
    from forebay.planner.dialect.script import parse

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
    """Run one statement; a SELECT over an input without end becomes a live view where there is a terminal, and TRACE JOB .. FOR
    shows what passes as it comes.

    Raises:
        ForebayError: it failed.
    """
    from forebay.planner.statements import Call, TraceJob

    if isinstance(statement, TraceJob) and statement.follows:
        from forebay.cli.live import follow

        follow(con, statement.sql, output)
        return
    try:
        if isinstance(statement, Call) and output.errors.is_terminal:
            from forebay.cli.loading import call

            result = call(con, statement.sql, output)
        else:
            result = con.execute(statement.sql)
        if result is not None:
            output.result(result)
    except UnboundedError:
        if not output.console.is_terminal:
            raise
        from forebay.cli.live import live

        live(con, statement.sql, output)
