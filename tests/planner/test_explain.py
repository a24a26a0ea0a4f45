"""EXPLAIN against golden files: `tests/plans/<name>.sql` and the expected `<name>.txt`.

Run with UPDATE_PLANS=1 to write the files anew, then read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from forebay.planner.binder import Binder, Relation
from forebay.planner.explain import duration, explain, text
from forebay.planner.expr import Binary, Column, Literal
from tests.planner import nexmark, tpch
from tests.planner.relations import SCHEMA, TinyCatalog, parse

PLANS = Path(__file__).parent.parent / "plans"
CATALOG = TinyCatalog(
    Relation("orders_log", SCHEMA, time_columns=("ts",)),
    Relation("t", SCHEMA, primary_key=("a",), updating=True),
    Relation("u", SCHEMA),
    *(Relation(n, s, tpch.KEYS[n], updating=True) for n, s in tpch.SCHEMAS.items()),
)


@pytest.mark.parametrize("name", ["q4", "q5", "q9", "q15"])
def test_golden_nexmark_plan(name: str) -> None:
    shown = explain(Binder(nexmark.CATALOG).bind(parse(nexmark.QUERIES[name])), nexmark.CATALOG)
    compare(shown, PLANS / f"nexmark_{name}.txt")


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.sql")), ids=lambda p: p.stem)
def test_golden_plan(path: Path) -> None:
    sql = path.read_text()
    shown = explain(Binder(CATALOG).bind(parse(sql), sql), CATALOG)
    compare(shown, path.with_suffix(".txt"))


def compare(shown: str, golden: Path) -> None:
    """Equal to the golden file, which UPDATE_PLANS writes."""
    if os.environ.get("UPDATE_PLANS"):
        golden.write_text(shown)
    assert shown == golden.read_text()


def test_durations_are_shown_in_whole_units() -> None:
    assert [duration(n) for n in (86_400_000_000, 5_400_000_000, 250_000, 7)] == ["1 d", "90 min", "250 ms", "7 µs"]


def test_constants_are_shown_as_sql() -> None:
    day = Binary(">", Column(0), Literal(18262, pa.date32()))
    assert text(day, ["day"]) == "day > DATE '2020-01-01'"
    assert text(Literal("it's", pa.string()), []) == "'it''s'"
    assert text(Literal(1_577_836_800_123, pa.timestamp("ms")), []) == "TIMESTAMP '2020-01-01 00:00:00.123000'"
