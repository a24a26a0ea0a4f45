"""docs/inspect.md does what it says: its examples are run from top to bottom, and its columns are those that there are."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import forebay

PAGE = Path(__file__).parents[2] / "docs" / "inspect.md"
TEXT = PAGE.read_text()


def test_the_examples_of_the_page() -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF | doctest.ELLIPSIS)
    names: dict[str, object] = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", TEXT, re.M | re.S))
    assert len(blocks) > 5
    for block in blocks:
        line = TEXT.count("\n", 0, block.start(1))
        example = doctest.DocTestParser().get_doctest(block.group(1), {}, f"inspect.md:{line}", str(PAGE), line)
        example.globs = names
        assert not runner.run(example, clear_globs=False).failed, f"docs/inspect.md, block at line {line}"
    con = names["con"]
    assert isinstance(con, forebay.Connection)
    con.close()


@pytest.mark.parametrize(
    ("statement", "heading"),
    [("SHOW STATE", "## What there is"), ("EXPLAIN STATE SELECT COUNT(*) FROM t", "## What a job will remember")],
)
def test_every_column_is_on_the_page(statement: str, heading: str) -> None:
    with forebay.connect() as con:
        con.execute("CREATE TABLE t (a INT)")
        columns = set(con.sql(statement).columns)
    section = TEXT.partition(heading)[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.M))))
    assert columns - listed <= {"state", "of", "jobs", "ttl"} and listed <= columns
