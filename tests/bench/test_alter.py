"""The benchmark of ALTER runs, and its altered job gives what a new one gives."""

from __future__ import annotations

from bench.alter import CHANGES, parser, run


def test_it_runs() -> None:
    entries = run(parser().parse_args(["--orders", "2000", "--core", "-1"]))
    assert len(entries) == len(CHANGES) + 2
