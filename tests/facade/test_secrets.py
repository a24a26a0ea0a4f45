"""Values of secret options are hidden wherever they are shown or logged, and kept where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import forebay
from forebay.engine.secrets import hidden

HINT = "/*+ OPTIONS('properties.sasl.password' = 'hunter2') */"
TABLE = """CREATE TABLE k (id INT) WITH ('connector' = 'kafka', 'topic' = 't', 'properties.bootstrap.servers' = '127.0.0.1:1',
  'scan.startup.mode' = 'earliest-offset', 'format' = 'json', 'properties.sasl.password' = 'hunter2', 'topc' = 'x')"""


def wrong(sql: str) -> Callable[[forebay.Connection], str]:
    def told(con: forebay.Connection) -> str:
        with pytest.raises(forebay.ForebayError) as caught:
            con.execute(sql)
        return str(caught.value)

    return told


@pytest.mark.parametrize(
    "shown",
    [
        lambda con: con.execute("SHOW CREATE TABLE k").fetchall()[0][0],
        lambda con: con.execute("SHOW CREATE VIEW v").fetchall()[0][0],
        lambda con: con.execute(f"EXPLAIN SELECT id FROM k {HINT}").fetchall()[0][0],
        lambda con: con.execute(f"EXPLAIN INSERT INTO k {HINT} SELECT 1").fetchall()[0][0],
        wrong(TABLE),
        wrong(f"SELECT idd FROM k {HINT}"),
        wrong("ALTER TABLE k SET ('properties.sasl.password' = 'hunter2', 'topc' = 'x')"),
    ],
)
def test_a_password_is_hidden(shown: Callable[[forebay.Connection], str]) -> None:
    with forebay.Connection(resume=False) as con:
        con.execute(TABLE.replace(", 'topc' = 'x'", ""))
        con.execute(f"CREATE VIEW v AS SELECT id FROM k {HINT}")
        text = shown(con)
    assert "***" in text and "hunter2" not in text


def test_the_log_hides_it_and_the_catalog_keeps_it(tmp_path: Path) -> None:
    with forebay.Connection(tmp_path / "w", resume=False) as con:
        con.execute(TABLE.replace(", 'topc' = 'x'", ""))
    assert "hunter2" not in (tmp_path / "w" / "forebay.log").read_text()
    with forebay.Connection(tmp_path / "w", resume=False) as con:
        assert con.catalog.table("k").options["properties.sasl.password"] == "hunter2"


def test_places_stay_what_they_are() -> None:
    text = "WITH ('a.password' = 'it''s\nlong', 'b' = 'c')"
    assert hidden(text) == "WITH ('a.password' = '*****\n****', 'b' = 'c')"
