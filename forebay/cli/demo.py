"""`forebay demo`: plays the demo with a progress bar and prints what it found."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from forebay.cli.output import Output
from forebay.demo.run import Report, bootstrap_servers, run


def demo(orders: int, keep: str | None) -> int:
    """Play it; 1 if the result differs from the batch recomputation."""
    output = Output()
    kafka = bootstrap_servers()
    where = f"Kafka at {kafka}" if kafka else "the embedded topic log (set KAFKA_BOOTSTRAP to use Kafka)"
    output.console.print(f"A food-delivery warehouse on {where}: {orders:,} orders, their changes, refunds and clicks.")
    output.console.print("The first start compiles kernels: that takes some seconds, once.", style="dim")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    folder = nullcontext(keep) if keep else tempfile.TemporaryDirectory(prefix="forebay-demo-")
    with folder as directory, Progress(*columns, console=output.errors) as bars:
        tasks: dict[str, int] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)  # type: ignore[arg-type]

        report = run(Path(directory), orders, progress, kafka)
    _print(output, report, keep)
    return 1 if report.differences else 0


def _print(output: Output, report: Report, keep: str | None) -> None:
    for title, result in report.tables:
        output.console.print(f"\n{title}", style="bold")
        output.rows(result.arrow())
    rate = report.events / report.seconds
    output.console.print(
        f"\n{report.events:,} events in {report.seconds:.1f} s, from binlog to metrics: {rate:,.0f} events/s."
    )
    for difference in report.differences:
        output.errors.print(f"wrong: {difference}", style="bold red")
    if not report.differences:
        output.console.print("Every number equals a batch recomputation.", style="bold green")
    if keep:
        output.console.print(f"The warehouse is kept: forebay sql {keep}/warehouse")
