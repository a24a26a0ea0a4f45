"""INSERT of many constants is not planned row by row: it gives what the planned statement gives, errors with their places too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.errors import ForebayError, SqlError
from forebay.inserting import Inserting
from forebay.planner.dialect import constants
from forebay.planner.dialect.script import parse
from forebay.planner.statements import Insert, InsertConstants

TABLE = """CREATE TABLE t (id INT, b BIGINT, s STRING, x DOUBLE, d DECIMAL(12, 3), ok BOOLEAN, day DATE, at TIMESTAMP(3),
  PRIMARY KEY (id) NOT ENFORCED)"""
MADE = {
    "id": lambda rng: str(rng.randrange(50)),
    "b": lambda rng: str(rng.choice([0, -7, 2**31 - 1, -(2**31), 2**31, -(2**63) + 1, 2**63 - 1])),
    "s": lambda rng: rng.choice(["'it''s'", "''", "'a,(b)'", r"'\n'", "'é--x'", "'/* no */'"]),
    "x": lambda rng: rng.choice(["1", "-2.50", "0.1", "123456789012.125", "007.70"]),
    "d": lambda rng: rng.choice(["1", "-0.5", "12345.678", "0.0", "00.50"]),
    "ok": lambda rng: rng.choice(["TRUE", "false"]),
    "day": lambda rng: f"DATE '2026-0{rng.randrange(1, 10)}-11'",
    "at": lambda rng: f"TIMESTAMP '2026-01-01 00:00:00{rng.choice(['', '.5', '.123'])}'",
}


def statement(seed: int, rows: int, **other: Any) -> str:
    rng = random.Random(seed)
    nulls = rng.choice([0.0, 0.2])
    made = MADE | other
    cells = lambda: (make(rng) if n == "id" or rng.random() >= nulls else "NULL" for n, make in made.items())
    return "INSERT INTO t VALUES\n" + ",\n".join(f"({', '.join(cells())})" for _ in range(rows))


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    with forebay.connect(":memory:") as made:
        made.execute(TABLE)
        yield made


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "LEAST", 10)


def outcome(con: Connection, sql: str) -> Any:
    """The rows that the table has then, or the error."""
    con.execute("DELETE FROM t")
    try:
        return con.execute(sql).rowcount, con.sql("SELECT * FROM t ORDER BY id").fetchall()
    except ForebayError as error:
        return type(error), error.message, error.detail, getattr(error, "line", None), getattr(error, "column", None)


def planned(con: Connection, sql: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(constants, "LEAST", 1 << 30)
        assert isinstance(parse(sql)[0], Insert)
        return outcome(con, sql)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_those_of_the_planned_statement(con: Connection, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = statement(seed, 40)
    assert isinstance(parse(sql)[0], InsertConstants)
    expected = planned(con, sql, monkeypatch)
    monkeypatch.setattr(Inserting, "insert", None)  # nothing is left to it
    assert outcome(con, sql) == expected


EDGES = {
    "a type that does not fit": {"b": lambda rng: "'x'"},
    "numbers of two kinds": {"x": lambda rng: rng.choice(["1e3", "0.1"])},
    "too large for BIGINT": {"b": lambda rng: rng.choice(["1", str(2**63)])},
    "too large for the column": {"d": lambda rng: rng.choice(["1", "12345678901.5"])},
    "more digits than a DECIMAL has": {"d": lambda rng: rng.choice(["1.0", "1." + "1" * 40])},
    "no date": {"day": lambda rng: rng.choice(["DATE '2026-01-01'", "DATE '2026-02-30'"])},
    "another spelling of a time": {"at": lambda rng: rng.choice(["TIMESTAMP '2026-01-01T00:00'", "NULL"])},
    "floats": {"x": lambda rng: rng.choice(["1e3", "-2.5E-4"])},
    "only NULL": {"s": lambda rng: "NULL"},
    "NULL in the key": {"id": lambda rng: rng.choice(["1", "NULL"])},
    "one constant too many": {"more": lambda rng: "1"},
    "an expression": {"b": lambda rng: rng.choice(["1", "1 + 1"])},
    "a function that is not there": {"b": lambda rng: rng.choice(["1", "fn(1)"])},
}


@pytest.mark.parametrize("edge", EDGES)
def test_whatever_the_constants_the_outcome_is_the_same(
    con: Connection, edge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = statement(9, 20, **EDGES[edge])
    assert outcome(con, sql) == planned(con, sql, monkeypatch)


@pytest.mark.parametrize(
    ("row", "line", "column"),
    [("(77, )", 78, 4), ("(77 'a')", 78, 5), ("(77, 'a'))", 78, 10), ("(77, nope)", 78, 6), ("(77, fn('a'))", 78, 6)],
)
def test_an_error_far_down_has_its_place(con: Connection, row: str, line: int, column: int) -> None:
    rows = ",\n".join(f"({i}, 'a')" for i in range(1, 100)).replace("(77, 'a')", row)
    with pytest.raises(SqlError) as raised:
        con.execute(f"INSERT INTO t (id, s) VALUES\n{rows}")
    assert (raised.value.line, raised.value.column) == (line, column)
