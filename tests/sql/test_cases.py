"""Runs every file of `cases/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sql.runner import Record, records, run, shown

CASES = sorted((Path(__file__).parent / "cases").glob("*.slt"))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_case(path: Path, tmp_path: Path) -> None:
    assert run(path, tmp_path) > 3


def test_records_are_read() -> None:
    text = "# a comment\nstatement ok\nSET;\n\n# another\nquery INT, STRING | sorted\nSELECT 1\n----\n1 | a\n\nreopen\n"
    assert list(records(text)) == [
        Record(2, "ok", "SET;"),
        Record(6, "query", "SELECT 1", "", "INT, STRING", ("sorted",), ("1 | a",)),
        Record(11, "reopen"),
    ]


def test_values_are_shown() -> None:
    assert shown([None, 1.5, "x"]) == "[NULL, 1.5, 'x']"
    assert shown("") == '""'
    assert shown({"a": b"\x01"}) == "(a: x'01')"


def test_a_wrong_answer_is_told(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.slt"
    wrong.write_text("query INT\nSELECT 1\n----\n2\n")
    with pytest.raises(AssertionError, match="line 1"):
        run(wrong, tmp_path)
