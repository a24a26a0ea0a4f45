"""Damage to a warehouse's files is told, an older checkpoint is used where there is one, and nothing is destroyed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import forebay

SETUP = """
CREATE TABLE src (id INT, k INT) WITH ('connector' = 'log', 'topic' = 'src', 'format' = 'json',
  'scan.startup.mode' = 'earliest-offset');
CREATE TABLE dst (k INT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'log', 'topic' = 'dst',
  'format' = 'debezium-json', 'sink.delivery-guarantee' = 'exactly-once');
CREATE MATERIALIZED VIEW counts AS SELECT k, COUNT(*) AS n FROM src GROUP BY k;
INSERT INTO dst SELECT k, COUNT(*) FROM src GROUP BY k;
"""


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """A warehouse whose owner has died, with two checkpoints: after 10 rows and after 20."""
    path = tmp_path / "w"
    with forebay.connect(tmp_path / "running", config={"execution.checkpointing.interval": "1 h"}) as con:
        con.execute(SETUP)
        for first in (0, 10):
            rows = ", ".join(f"({i}, {i % 3})" for i in range(first, first + 10))
            con.execute(f"INSERT INTO src VALUES {rows}")
            show(con, *((k, (first + 12 - k) // 3) for k in range(3)))
            assert con.warehouse.driver.checkpoint_now(30)
        shutil.copytree(tmp_path / "running", path, ignore=shutil.ignore_patterns("*.sock"))
    return path


def show(con: forebay.Connection, *expected: tuple[int, int]) -> None:
    """Wait until the view shows this."""
    shown: list[tuple[int, int]] = []

    def there() -> bool:
        shown[:] = con.sql("SELECT k, n FROM counts ORDER BY k").fetchall()
        return shown == list(expected)

    assert con.warehouse.driver.wait(there, 10), shown


def newest(path: Path, kind: str) -> Path:
    return sorted((path / "checkpoints").glob(f"{kind}-*"))[-1]


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", ["state", "manifest"])
@pytest.mark.parametrize("damage", [flip, cut])
def test_an_older_checkpoint_is_used_and_told(warehouse: Path, kind: str, damage: object) -> None:
    damage(newest(warehouse, kind))  # type: ignore[operator]
    with forebay.connect(warehouse) as con:
        show(con, (0, 7), (1, 7), (2, 6))
        con.execute("INSERT INTO src VALUES (20, 0)")
        assert con.warehouse.driver.checkpoint_now(30)
    assert "an older checkpoint is used" in (warehouse / "forebay.log").read_text()
    with forebay.connect(warehouse) as con:
        show(con, (0, 8), (1, 7), (2, 6))


def test_without_a_good_checkpoint_nothing_opens_and_nothing_changes(warehouse: Path) -> None:
    for manifest in (warehouse / "checkpoints").glob("manifest-*"):
        cut(manifest)
    before = {p: p.read_bytes() for p in (warehouse / "checkpoints").iterdir()}
    with pytest.raises(forebay.StateError, match="no checkpoint can be read; nothing was changed") as failure:
        forebay.connect(warehouse)
    assert "manifest-" in str(failure.value.detail)
    assert {p: p.read_bytes() for p in (warehouse / "checkpoints").iterdir()} == before


def test_a_damaged_catalog_is_told(warehouse: Path) -> None:
    cut(warehouse / "catalog.json")
    with pytest.raises(forebay.ForebayError, match="catalog"):
        forebay.connect(warehouse)


@pytest.mark.parametrize("lost", ["topics/src", "topics"])
def test_a_lost_topic_fails_its_jobs_and_no_others(warehouse: Path, tmp_path: Path, lost: str) -> None:
    with forebay.connect(warehouse) as con:
        show(con, (0, 7), (1, 7), (2, 6))
        con.execute("CREATE TABLE t (n INT); CREATE MATERIALIZED VIEW total AS SELECT SUM(n) AS n FROM t")
        con.execute("INSERT INTO t VALUES (1), (2)")
        assert con.warehouse.driver.checkpoint_now(30)
        con.execute("INSERT INTO src VALUES (100, 0)")
        shutil.copytree(warehouse, tmp_path / "dead", ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(tmp_path / "dead" / lost)
    with forebay.connect(tmp_path / "dead") as con:
        con.execute("INSERT INTO t VALUES (3)")
        assert con.sql("SELECT n FROM total").fetchall() == [(6,)]
        assert con.warehouse.driver.wait(lambda: con.jobs["counts"].status == "FAILED", 20)
        assert "src" in str(con.jobs["counts"].metrics()["error"])


def test_a_torn_tail_of_the_dml_log_is_cut(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute("CREATE TABLE t (n INT)")
        assert con.warehouse.driver.checkpoint_now(30)
        con.execute("INSERT INTO t VALUES (1)")
        con.execute("INSERT INTO t VALUES (2)")
        shutil.copytree(tmp_path / "w", tmp_path / "torn", ignore=shutil.ignore_patterns("*.sock"))
    log = sorted((tmp_path / "torn" / "dml").iterdir())[-1]
    log.write_bytes(log.read_bytes()[:-7])
    with forebay.connect(tmp_path / "torn") as con:
        assert con.sql("SELECT n FROM t").fetchall() == [(1,)]
        con.execute("INSERT INTO t VALUES (3)")
    with forebay.connect(tmp_path / "torn") as con:
        assert con.sql("SELECT n FROM t ORDER BY n").fetchall() == [(1,), (3,)]


def test_the_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w"), pytest.raises(forebay.ForebayError, match=f"pid {os.getpid()}"):
        forebay.connect(tmp_path / "w", attach=False)
