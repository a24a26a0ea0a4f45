"""What every benchmark reports, and how: one case per fresh process, pinned to its cores, as JSON.

`{"bench": ..., "machine": {...}, "results": [{"case", "rows", "seconds", "rows_per_s", "cpu_seconds", "peak_rss_mb", ...}]}`.
CPU seconds are those of all threads of the process; the peak is of its resident memory since its start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One measured case."""

    case: str
    rows: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    more: dict[str, Any] = field(default_factory=dict)
    """Figures of this benchmark alone."""

    def entry(self) -> dict[str, Any]:
        """The case as it stands in the JSON."""
        entry = {k: _rounded(v) for k, v in asdict(self).items() if k != "more"}
        entry["rows_per_s"] = round(self.rows / self.seconds) if self.seconds else 0
        return entry | {k: _rounded(v) for k, v in self.more.items()}


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def measure(case: str, rows: int, work: Callable[[], dict[str, Any] | None]) -> Result:
    """Run `work` once; what it returns are further figures."""
    started, cpu = time.perf_counter(), time.process_time()
    more = work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Result(case, rows, seconds, cpu, peak_rss_mb(), more or {})


def peak_rss_mb() -> float:
    """Peak resident memory of this process, in MiB."""
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # `ru_maxrss` has that of the parent in it, from before the process began to run its own program
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pin(cores: Sequence[int]) -> None:
    """Keep every thread of this process on these cores."""
    os.sched_setaffinity(0, cores)


def cases(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of a benchmark that runs each of its cases, `--case`, in a process of its own."""
    made.add_argument("--core", type=int, default=0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--timeout", type=float, default=3600)
    made.add_argument("--json", metavar="FILE", help="where the results go; without it, standard output")
    made.add_argument("--case", help=argparse.SUPPRESS)
    return made


def main(
    made: argparse.ArgumentParser,
    argv: list[str] | None,
    case: Callable[[argparse.Namespace], Any],
    whole: Callable[[argparse.Namespace, list[str]], int],
) -> int:
    """The command of a benchmark: `case` on its core, its entry printed, if `--case` names one; else the `whole` of it.

    `whole` gets the arguments as they were given too, for `in_process`; it returns the exit status.
    """
    given = sys.argv[1:] if argv is None else argv
    args = made.parse_args(given)
    if not args.case:
        return whole(args, given)
    if args.core >= 0:
        pin([args.core])
    print(json.dumps(case(args)))
    return 0


def in_process(module: str, arguments: Sequence[str], timeout: float, memory: int | None = None) -> Any:
    """Run a case in a process of its own; it prints its entry, or all of them, as the last line of its output.

    `memory`: bytes that the process and its share of the page cache may take together, where control groups can be had; the
    entry then tells so.

    Raises:
        subprocess.SubprocessError: it failed or took too long; what it wrote to standard error is shown as it comes.
    """
    command = [sys.executable, "-m", module, *arguments]
    with _control_group(memory) as group:
        if group is not None:
            command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout, check=True, text=True)
    entry = json.loads(done.stdout.splitlines()[-1])
    return entry if group is None else entry | {"memory_max_mb": (memory or 0) >> 20}


@contextmanager
def _control_group(memory: int | None) -> Iterator[Path | None]:
    """A control group with so much memory while the block runs; None if there is no way to make one."""
    name, group = f"forebay-{os.getpid()}", None
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        if memory is None or not os.access(Path(root, "cgroup.procs"), os.W_OK):
            continue
        group = Path(root, name)
        group.mkdir()
        if (group / limit).exists():
            (group / limit).write_text(str(memory))
            break
        group.rmdir()
        group = None
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def report(bench: str, entries: Sequence[dict[str, Any]], path: str | None, **setting: Any) -> None:
    """Write the JSON to a file, or to standard output if `path` is None or '-'."""
    document = {"bench": bench, "machine": machine(), **setting, "results": list(entries)}
    text = json.dumps(document, indent=2)
    if path is None or path == "-":
        print(text)
    else:
        Path(path).write_text(text + "\n")


def listing(entry: dict[str, Any]) -> str:
    """All of an entry, a figure a line, for the eye."""
    return "\n".join(f"{name:>20} {value}" for name, value in entry.items())


def table(entries: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """The entries as aligned text, for the eye."""
    rows = [list(columns), *([_shown(e.get(c)) for c in columns] for e in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in rows)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:,.2f}"
        case int():
            return f"{value:,}"
    return str(value)
