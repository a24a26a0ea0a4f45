"""DML on embedded tables outlives crashes, once, whatever became of the checkpoints in between."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import forebay


def crashed(con: forebay.Connection, path: Path, name: str) -> Path:
    """What lies on disk if the process dies now."""
    copy = path / name
    shutil.copytree(path / "w", copy, ignore=shutil.ignore_patterns("*.sock", "LOCK"))
    return copy


def numbers(con: forebay.Connection) -> list[int]:
    return [n for (n,) in con.sql("SELECT n FROM t ORDER BY n").fetchall()]


def test_a_checkpoint_that_never_became_durable_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute("CREATE TABLE t (n INT); INSERT INTO t VALUES (1)")
        driver = con.warehouse.driver
        assert driver.checkpoint_now(30)
        con.execute("INSERT INTO t VALUES (2)")
        assert driver.store is not None
        with monkeypatch.context() as patch:
            patch.setattr(driver.store, "write", lambda capture: None)
            driver.checkpoint()
            driver.wait(lambda: driver._in_flight is None, 30)
            con.execute("INSERT INTO t VALUES (3)")
            first = crashed(con, tmp_path, "first")
    first.rename(tmp_path / "again")
    shutil.rmtree(tmp_path / "w")
    (tmp_path / "again").rename(tmp_path / "w")
    with forebay.connect(tmp_path / "w") as con:
        assert numbers(con) == [1, 2, 3]
        con.execute("INSERT INTO t VALUES (4)")
        assert con.warehouse.driver.checkpoint_now(30)
        con.execute("INSERT INTO t VALUES (5)")
        second = crashed(con, tmp_path, "second")
    with forebay.connect(second) as con:
        assert numbers(con) == [1, 2, 3, 4, 5]
