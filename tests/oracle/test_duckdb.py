"""Another engine's word: TPC-H as views against DuckDB, from the queries' own text, after every few steps.

Our batch answers share the planner with the views; DuckDB shares nothing.
"""

from __future__ import annotations

import random
from decimal import Decimal
from math import isclose

import pyarrow as pa
import pytest

import forebay
from tests.oracle.harness import Oracle, Row, changes, create
from tests.planner import tpch

duckdb = pytest.importorskip("duckdb")

QUERIES = tpch.QUERIES | {"q17": tpch.QUERIES["q17"].replace("0.7 *", "0.71 *")}
"""0.7 of a rounded average can equal a quantity here and not there; 0.71 of it never does."""
NAMES = sorted(QUERIES)
RELATIVE = 1e-4
"""An AVG of decimals rounds to six digits after the point here, as in Flink, and is a DOUBLE there."""


def ordered(rows: list[Row]) -> list[Row]:
    """Rows with their numbers as floats, everything else as text; texts decide the order first."""
    plain = [tuple(float(v) if isinstance(v, int | float | Decimal) else str(v) for v in row) for row in rows]
    return sorted(plain, key=lambda row: sorted((isinstance(v, float), v) for v in row))


def agree(shown: list[Row], expected: list[Row]) -> bool:
    """Whether the rows are the same, their numbers up to ``RELATIVE``."""
    return len(shown) == len(expected) and all(
        len(a) == len(b)
        and all(
            isclose(x, y, rel_tol=RELATIVE) if isinstance(x, float) and isinstance(y, float) else x == y
            for x, y in zip(a, b, strict=True)
        )
        for a, b in zip(ordered(shown), ordered(expected), strict=True)
    )


def answers(tables: dict[str, pa.Table]) -> dict[str, list[Row]]:
    """DuckDB's answers over the tables."""
    with duckdb.connect() as con:
        for name, table in tables.items():
            con.register(name, table)
        return {name: con.sql(QUERIES[name]).fetchall() for name in NAMES}


def test_tpch_agrees_with_duckdb() -> None:
    data = {table: rows.to_batches()[0] for table, rows in tpch.tables(5, 150).items()}
    with forebay.connect(resume=False) as con:
        oracle = Oracle(con)
        for table, schema in tpch.SCHEMAS.items():
            create(con, table, schema, tpch.KEYS[table])
        for name in NAMES:
            oracle.view(f"v_{name}", QUERIES[name])
        filled = 0
        for step, change in enumerate(changes(data, random.Random(5), 8, first=0.7)):
            oracle.feed(change)
            if step % 3 == 1:
                continue
            expected = answers({t: con.sql(f"SELECT * FROM {t}").arrow() for t in tpch.SCHEMAS})
            for name in NAMES:
                shown = con.sql(f"SELECT * FROM v_{name}").fetchall()
                assert agree(shown, expected[name]), (step, name, shown, expected[name])
                filled += bool(shown)
        assert filled >= 2 * len(NAMES)
