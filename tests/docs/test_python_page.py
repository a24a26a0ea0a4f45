"""docs/python.md does what it says: its examples are run from top to bottom."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    blocks = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
    only_code = [(m.start(1), m.group(1)) for m in blocks.finditer(text)]
    assert len(only_code) > 8
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    names: dict[str, object] = {}
    for start, code in only_code:
        line = text.count("\n", 0, start)
        example = doctest.DocTestParser().get_doctest(code, {}, f"python.md:{line}", str(PAGE), line)
        example.globs = names
        failed = runner.run(example, clear_globs=False)
        assert not failed.failed, f"docs/python.md, block at line {line}"
