"""docs/cli.md does what it says: its commands print what stands below them, and its lists are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from forebay.cli import main
from forebay.cli.repl import _HELP

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_session_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (session,) = re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
    commands = re.findall(r"^\$ forebay (.*)\n((?:(?!\$ ).*\n)*)", session, re.M)
    assert len(commands) == 4
    for command, expected in commands:
        failed = main(shlex.split(command))
        shown = capsys.readouterr()
        assert lines(shown.out + shown.err) == lines(expected), command
        assert bool(failed) == ("error" in expected)


def test_every_command_of_the_prompt_is_on_the_page() -> None:
    for name in re.findall(r"\\(\w+)", _HELP):
        assert f"`\\{name}" in PAGE, name
