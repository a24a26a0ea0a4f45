"""Write the tables of the README and of docs/faults.md from `bench/results/*.json`: `python -m bench.readme`.

`--check` only says whether they are current. Each table stands between `<!-- bench:NAME -->` and `<!-- /bench -->`, NAME being a
file of results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "faults.md")
RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- bench:([\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
_HEADS = {
    "case": "case",
    "kills": "kills",
    "rows": "rows",
    "lost": "lost",
    "doubled": "doubled",
    "rows_per_s": "rows/s",
    "engine_rows_per_s": "rows/s, generator apart",
    "cpu_seconds": "CPU s",
    "peak_rss_mb": "peak RSS, MB",
    "cold_hits_per_s": "cold hits/s",
    "days_4_to_6_rows_per_s": "days 4 to 6, rows/s",
    "days_27_to_29_rows_per_s": "days 27 to 29, rows/s",
    "first_result_seconds": "first result, s",
    "state_mb": "state, MB",
    "disk_mb": "on disk, MB",
    "changed_mb": "changed, MB",
    "written_mb": "written, MB",
    "sink_mb": "of that for the sink, MB",
    "written_percent": "the rest, % of the state",
    "checkpoint_seconds": "checkpoint, s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "max_ms": "max, ms",
    "peer": "best peer, rows/s",
}


def markdown(document: Mapping[str, Any]) -> str:
    """A document of results as a table, and a line on the machine."""
    entries = [e for e in document["results"] if "error" not in e]
    columns = [c for c in _HEADS if any(c in e for e in entries)]
    lines = ["| " + " | ".join(_HEADS[c] for c in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(e.get(c)) for c in columns) + " |" for e in entries]
    machine = document["machine"]
    lines.append(f"\n{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}.")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case float() | int():
            return f"{value:,.1f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"
    return str(value)


def filled(text: str) -> str:
    """The text with every table made anew."""

    def block(found: re.Match[str]) -> str:
        document = json.loads((RESULTS / f"{found[2]}.json").read_text())
        return f"{found[1]}{markdown(document)}{found[3]}"

    return _BLOCK.sub(block, text)


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser("bench.readme", description="Tables from bench/results/*.json.")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for page in PAGES:
        old = page.read_text()
        new = filled(old)
        stale += old != new
        if not check:
            page.write_text(new)
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
