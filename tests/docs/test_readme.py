"""The README's example runs, its tables are those of the results, its links lead somewhere; so do those in docs/."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from bench.readme import PAGES as PAGES_WITH_TABLES
from bench.readme import filled

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_example_runs() -> None:
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    example = doctest.DocTestParser().get_doctest(code, {}, "README.md", "README.md", 0)
    result = doctest.DocTestRunner().run(example)
    assert (result.failed, result.attempted) == (0, 4)


def test_the_tables_are_the_results() -> None:
    assert (ROOT / "README.md").read_text().count("<!-- bench:") >= 5
    for page in PAGES_WITH_TABLES:
        assert filled(page.read_text()) == page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:\s]*)(?:#[\w-]*)?\)", text):
        assert (page.parent / target).exists() if target else True, f"{page.name}: {target}"
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([\w-]+)\)", text):
        linked = (page.parent / target if target else page).read_text()
        heads = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", linked, re.M)]
        assert anchor in heads, f"{page.name}: {target}#{anchor}"
