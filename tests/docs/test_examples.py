"""Every file in examples/ runs and prints what it promises."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISED = {
    "python_data.py": ["Ada", "28.0", "Bob", "5.0"],
    "two_processes.py": ["client: +I coffee 4", "client: +I tea 5", "owner: [('coffee', 4), ('tea', 5)]"],
    "wide_table.py": ["+I Berlin 25.00 4.00", "Berlin: {'city': 'Berlin', 'orders': 2", "Rome   8.50     None"],
}


def test_every_example_is_known() -> None:
    assert {p.name for p in (ROOT / "examples").glob("*.py")} == PROMISED.keys()


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_it_runs(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    printed = capsys.readouterr().out
    for line in PROMISED[name]:
        assert line in printed, printed
