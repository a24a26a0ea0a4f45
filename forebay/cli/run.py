"""`forebay run` and `forebay jobs`: scripts and the jobs that they start, with progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.live import Live
from rich.table import Table

import forebay
from forebay.cli.output import Output
from forebay.cli.sql import run_script
from forebay.session import Session

_COLUMNS = ("job", "status", "messages", "rate /s", "lag", "ETA", "watermark", "checkpoint", "restarts", "error")
_LOG_EVERY = 5.0
"""Seconds between progress lines where no terminal shows them in place."""


def run(script: str, warehouse: str) -> int:
    """Run a script, then stay until its bounded inputs are consumed and committed; else until Ctrl-C or SIGTERM, which end
    with a last checkpoint. 1 if a job failed."""
    output = Output()
    try:
        text = sys.stdin.read() if script == "-" else Path(script).read_text()
    except (OSError, UnicodeDecodeError) as error:
        output.errors.print(f"error: {script} cannot be read: {error}", soft_wrap=True)
        return 1
    with forebay.connect(warehouse) as con:
        for warning in con.warnings:
            output.errors.print(f"warning: {warning}", soft_wrap=True)
        if not run_script(con, text, output, stop_at_error=True):
            return 1
        try:
            _watch(con, output)
        except KeyboardInterrupt:
            output.errors.print("stopping, with a last checkpoint")
        return _outcome(con, output)


def _watch(con: Session, output: Output) -> None:
    """Show progress until everything that can end has ended."""
    if not con.jobs:
        return
    if not output.errors.is_terminal:
        _log(con, output)
        return
    with Live(console=output.errors, refresh_per_second=4, transient=True) as live:
        while not _done(con):
            live.update(progress(con))


def _log(con: Session, output: Output) -> None:
    told = time.monotonic()
    while not _done(con):
        if time.monotonic() - told >= _LOG_EVERY:
            told = time.monotonic()
            for name, job in con.jobs.items():
                m = job.metrics()
                output.errors.print(
                    f"{name}: {m['status']}, {m['records']} messages, {m['rate']:.0f}/s, lag {m['lag']}"
                )


def _done(con: Session) -> bool:
    """Wait a little for the jobs; true when all that can end has ended, or one has failed."""
    try:
        return con.wait(timeout=0.25)
    except KeyboardInterrupt:
        raise
    except Exception:  # noqa: BLE001 - the job's own failure, shown with its outcome
        return all(job.status in ("FAILED", "FINISHED") for job in con.jobs.values())


def _outcome(con: Session, output: Output) -> int:
    failed = [job for job in con.jobs.values() if job.status == "FAILED"]
    if con.jobs:
        output.errors.print(progress(con))
    for job in failed:
        output.errors.print(f"job {job.name} failed:")
        if job.error is not None:
            output.error(job.error)
    return 1 if failed else 0


def show_jobs(warehouse: str) -> int:
    """One look at the jobs; of a warehouse that runs elsewhere, through its socket."""
    if not (Path(warehouse) / "warehouse.lock").exists():  # to look must not make one
        print(f"error: there is no warehouse at '{warehouse}'", file=sys.stderr)
        return 1
    with forebay.connect(warehouse, resume=False) as con:
        Output().console.print(progress(con))
    return 0


def progress(con: Session) -> Table:
    """All jobs as a table."""
    table = Table(*_COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in sorted(con.jobs):
        table.add_row(name, *_cells(con.jobs[name].metrics()))
    return table


def _cells(m: Mapping[str, Any]) -> list[str]:
    lag, rate = m["lag"], m["rate"]
    eta = "" if m["eta"] is None else f"{m['eta']:.0f} s"
    return [
        m["status"] if m["loaded"] is None else f"{m['status']} {m['loaded']:.0%}",
        f"{m['records']:,}",
        f"{rate:,.0f}",
        "" if lag is None else f"{lag:,}",
        eta,
        _time(m["watermark"]),
        _time(m["last_checkpoint"]),
        str(m["restarts"] or ""),
        m["error"] or "",
    ]


def _time(value: Any) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"
