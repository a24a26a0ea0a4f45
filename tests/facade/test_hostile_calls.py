"""Calls that no careful user makes: each is refused with a reason, and what is open goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import forebay


@pytest.fixture(scope="module")
def con() -> Iterator[forebay.Connection]:
    with forebay.connect() as made:
        made.execute("CREATE TABLE t (id INT, v STRING, PRIMARY KEY (id) NOT ENFORCED); INSERT INTO t VALUES (1, 'a')")
        yield made


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda con: con.lookup("t", "x"), r"the key of t is \(id\)"),
        (lambda con: con.lookup("t", (1, 2)), r"the key of t is \(id\)"),
        (lambda con: con.lookup("t", 2**40), r"the key of t is \(id\)"),
        (lambda con: con.lookup("t", None), None),
        (lambda con: con.register("w", 42), "a int is no table"),
        (lambda con: con.register("w", {"a": [1]}), "a dict is no table"),
        (lambda con: con.wait("nojob", timeout=1), "there is no job 'nojob'"),
        (lambda con: con.execute("SELECT " + "(" * 5000 + "1" + ")" * 5000), "nested too deeply"),
        (lambda con: con.execute("SELECT 1;\n SELECT 'abc"), r"a quote is not closed \(line 2, column 9\)"),
        (lambda con: con.execute("SELECT 'it''s', `a"), r"a quote is not closed \(line 1, column 17\)"),
        (lambda con: con.execute("SELECT 1 -- it's\n/* no end"), r"a comment is not closed \(line 2, column 1\)"),
    ],
)
def test_a_wrong_call_is_refused(con: forebay.Connection, call: Callable[[Any], Any], reason: str | None) -> None:
    if reason is None:
        assert call(con) is None
    else:
        with pytest.raises(forebay.ForebayError, match=reason):
            call(con)
    assert con.lookup("t", 1) == {"id": 1, "v": "a"}


def test_places_where_no_warehouse_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(forebay.StateError, match="no warehouse can be opened"):
            forebay.connect(place)


def test_options_may_be_numbers() -> None:
    with forebay.connect(config={"memory.budget": 1 << 30}) as con:  # type: ignore[dict-item]
        assert ("memory.budget", str(1 << 30)) in [row[:2] for row in con.execute("SET").fetchall()]


def test_a_closed_connection_says_so() -> None:
    con = forebay.connect()
    con.close()
    con.close()
    calls: list[Callable[[], object]] = [
        lambda: con.execute("SELECT 1"),
        lambda: con.wait(timeout=1),
        lambda: con.checkpoint(1),
        lambda: con.register("z", pa.table({"a": [1]})),
        lambda: con.stream("SELECT 1"),
    ]
    for call in calls:
        with pytest.raises(forebay.ForebayError, match="closed"):
            call()


def test_statements_that_would_do_nothing_say_so(con: forebay.Connection) -> None:
    con.execute("""
    CREATE TABLE clicks (id BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '1', 'state.ttl' = '1 d');
    CREATE MATERIALIZED VIEW v AS SELECT id FROM t
    """)
    assert con.execute("RESUME JOB v").message == "job v is RUNNING, there is nothing to resume"
    assert con.jobs["v"].metrics()["restarts"] == 0
    with pytest.raises(forebay.CatalogError, match=r"table clicks has no option 'state\.tll'") as error:
        con.execute("ALTER TABLE clicks RESET ('state.tll')")
    assert error.value.hint == "did you mean 'state.ttl'?"
    con.execute("ALTER TABLE clicks RESET ('state.ttl'); ALTER TABLE clicks RESET ('state.ttl')")
    with pytest.raises(forebay.SqlError, match="STATE_TTL names c twice"):
        con.sql("SELECT /*+ STATE_TTL('c' = '1 d', 'c' = '2 d') */ c.id FROM clicks c JOIN t ON t.id = c.id")
