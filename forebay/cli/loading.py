"""Progress bars of jobs whose histories are being loaded, until all run; Ctrl-C leaves them to themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from forebay.cli.output import Output

if TYPE_CHECKING:
    from forebay.result import Result
    from forebay.session import Session

_REDRAW = 0.25


def watch_loading(con: Session, output: Output) -> bool:
    """Show them on a terminal; returns at once where nothing is loaded, or nobody sees it. False after Ctrl-C."""
    if not output.errors.is_terminal or not _loading(con):
        return True
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=output.errors, transient=True) as bars:
        shown: dict[str, TaskID] = {}
        try:
            while jobs := _loading(con):
                for name, metrics in jobs.items():
                    if name not in shown:
                        shown[name] = bars.add_task(name, total=1.0, told="")
                    bars.update(shown[name], completed=metrics["loaded"] or 0.0, told=told(metrics))
                for name in shown.keys() - jobs.keys():
                    bars.update(shown[name], completed=1.0, told="")
                time.sleep(_REDRAW)
        except KeyboardInterrupt:
            _left(output)
            return False
    return True


def _left(output: Output) -> None:
    output.errors.print("loading goes on in the background; SHOW JOBS tells how far it is", style="dim")


def call(con: Session, sql: str, output: Output) -> Result | None:
    """Carry out a statement that loads, and show how far it is; None if Ctrl-C left it to itself."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(con.execute(sql))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, name="forebay-call", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            if not watch_loading(con, output):
                return None
            thread.join(_REDRAW)
    except KeyboardInterrupt:
        _left(output)
        return None
    if errors:
        raise errors[0]
    return results[0]


def _loading(con: Session) -> dict[str, Mapping[str, Any]]:
    metrics = {name: job.metrics() for name, job in con.jobs.items() if job.status == "BOOTSTRAPPING"}
    return {name: m for name, m in metrics.items() if m["status"] == "BOOTSTRAPPING"}


def told(metrics: Mapping[str, Any]) -> str:
    """Rows, rows a second and the time left, in words."""
    total = "" if metrics["lag"] is None else f" of {metrics['records'] + metrics['lag']:,}"
    left = "" if metrics["eta"] is None else f", {metrics['eta']:.0f} s left"
    return f"{metrics['records']:,}{total} rows, {metrics['rate']:,.0f} rows/s{left}"
