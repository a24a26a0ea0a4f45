"""The command line: `forebay sql`, `run`, `jobs`, `restore`, `demo`. Commands load the engine if they need it, --help never."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_EXAMPLES = """examples:
  forebay sql                              a warehouse in memory, interactively
  forebay sql shop -c "SELECT * FROM t"    one statement in the warehouse 'shop'
  forebay run jobs.sql shop                run the jobs of a script until they end, or until Ctrl-C
  forebay jobs shop                        what runs there, how fast, how far behind
  forebay restore shop monday              back to the savepoint 'monday'
  forebay demo                             from a binlog to served metrics in a minute
"""


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    from forebay import __version__

    made = argparse.ArgumentParser(
        "forebay",
        description="A real-time warehouse in one process: Flink SQL over changelog streams.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"forebay {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sql = commands.add_parser("sql", help="statements, interactively or from standard input")
    sql.add_argument("warehouse", nargs="?", default=":memory:", help="directory; default: in memory")
    sql.add_argument("-c", "--command", dest="text", help="run these statements and leave")
    sql.add_argument("--no-resume", action="store_true", help="open it without running its jobs")

    run = commands.add_parser("run", help="run a script and its jobs until they end")
    run.add_argument("script", help="file of statements; '-' is standard input")
    run.add_argument("warehouse", nargs="?", default=":memory:", help="directory; default: in memory")

    jobs = commands.add_parser(
        "jobs", help="state, rate, lag, watermark, last checkpoint, restarts and errors of all jobs"
    )
    jobs.add_argument("warehouse", help="directory")

    restore = commands.add_parser("restore", help="take a warehouse that is not open back to a savepoint")
    restore.add_argument("warehouse", help="directory; with --from, one that does not exist yet")
    restore.add_argument("savepoint", help="its name")
    restore.add_argument("--from", dest="location", metavar="URI", help="make the warehouse from the copy there")

    demo = commands.add_parser("demo", help="a food-delivery warehouse, from its binlog to served metrics")
    demo.add_argument("--orders", type=int, default=60_000, help="how many orders to place (default: 60000)")
    demo.add_argument("--keep", metavar="DIR", help="keep the warehouse here")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, 1 if a statement or job failed, 130 if interrupted."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)  # a container is stopped like this: leave with a last checkpoint
    _tell_of_kernels()
    from forebay.engine.errors import ForebayError

    try:
        match args.command:
            case "sql":
                from forebay.cli.sql import sql

                return sql(args.warehouse, args.text, resume=not args.no_resume)
            case "run":
                from forebay.cli.run import run

                return run(args.script, args.warehouse)
            case "jobs":
                from forebay.cli.run import show_jobs

                return show_jobs(args.warehouse)
            case "restore":
                from forebay.saving import restore

                restore(Path(args.warehouse), args.savepoint, args.location)
                print(f"savepoint {args.savepoint} restored")
                return 0
        from forebay.cli.demo import demo

        return demo(args.orders, args.keep)
    except ForebayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _tell_of_kernels() -> None:
    """Show that kernels are being compiled: a first start takes some seconds."""
    logger = logging.getLogger("forebay.kernels")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Told())


class _Told(logging.Handler):
    """Shows a message on standard error, whatever that is at the time: the prompt puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
