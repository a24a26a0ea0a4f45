"""CALL bootstrap: jobs that run get the history of their tables, nothing is emitted for it, and a row counts once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import forebay
from forebay.connection import Connection
from tests.bootstrap.orders import QUERIES, T, World, append, expected, settled, tables, wait_for
from tests.bootstrap.test_bootstrap import bag, comes_to, start

UNTIL = f"{T:%Y-%m-%d %H:%M:%S}"


def plain(root: Path, mode: str = "state-only") -> str:
    """The two tables without their histories."""
    ddl = re.sub(r"'bootstrap\.[\w-]+' = '[^']*',?", "", tables(root, mode))
    return re.sub(
        r",\s*\)",
        ")",
        ddl.replace("'topic' = 'refunds',", "'topic' = 'refunds', 'scan.startup.mode' = 'earliest-offset',"),
    )


def calls(root: Path, mode: str = "state-only") -> list[str]:
    common = f"until => TIMESTAMP '{UNTIL}', partition_keys => 'dt', mode => '{mode}'"
    return [
        f"CALL sys.bootstrap(`table` => 'orders', path => '{root}/orders', version => 'updated', {common})",
        f"CALL bootstrap('refunds', '{root}/refunds', time_column => 'refunded', {common})",
    ]


def begin(con: Connection, root: Path, names: list[str]) -> None:
    """Jobs over the plain tables."""
    con.execute(plain(root))
    start(con, root, "state-only", names, made=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(5, tmp_path)
    while world.now < T:
        world.live(1)
    world.live(60)
    world.overlap(10)
    world.save()
    append(tmp_path / "w", world.writes)
    return world


@pytest.fixture
def con(tmp_path: Path, world: World) -> Iterator[Connection]:
    with forebay.connect(tmp_path / "w", attach=False) as connection:
        yield connection


def live(world: World, changes: int) -> None:
    """Changes of the stream."""
    sent = len(world.writes)
    world.live(changes)
    append(world.root / "w", world.writes[sent:])


@pytest.mark.parametrize("mode", ["state-only", "replay"])
def test_running_jobs_get_the_history(con: Connection, world: World, tmp_path: Path, mode: str) -> None:
    names = list(QUERIES)
    begin(con, tmp_path, names)
    wait_for(lambda: settled(con))
    con.checkpoint(20)
    shown = {name: bag(con.sql(f"SELECT * FROM {name}").fetchall()) for name in names}
    for name, rows in shown.items():
        comes_to(con, f"{name}_shown", lambda found, r=rows: bag(found) == r, rows)  # type: ignore[misc]
    for call in calls(tmp_path, mode):
        (told,) = con.sql(call).arrow().to_pylist()
        assert told["left_out"] is None
        assert told["rows"] > 40
    for name in names:
        whole = expected(con, world, QUERIES[name][0])
        comes_to(con, name, lambda rows, w=whole: bag(rows) == bag(w), whole)  # type: ignore[misc]
        con.checkpoint(20)
        same = bag(whole) if mode == "replay" else shown[name]
        comes_to(con, f"{name}_shown", lambda rows, s=same: bag(rows) == s, same)  # type: ignore[misc]
    before = {name: set(expected(con, world, QUERIES[name][0])) for name in names}
    live(world, 100)
    for name in names:
        whole = expected(con, world, QUERIES[name][0])
        comes_to(con, name, lambda rows, w=whole: bag(rows) == bag(w), whole)  # type: ignore[misc]
        new = set(whole) - (before[name] if mode == "state-only" else set())
        gone = before[name] - set(whole)
        fits = lambda rows, n=new, g=gone: n <= set(rows) and not g & set(rows)  # type: ignore[misc]
        comes_to(con, f"{name}_shown", fits, (new, gone))


def test_the_table_has_the_history_from_then_on(con: Connection, world: World, tmp_path: Path) -> None:
    begin(con, tmp_path, ["joined"])
    wait_for(lambda: settled(con))
    for call in calls(tmp_path):
        con.execute(call)
    assert "bootstrap.path" in con.sql("SHOW CREATE TABLE orders").fetchall()[0][0]
    con.execute("CREATE MATERIALIZED VIEW later AS " + QUERIES["by_user"][0])
    whole = expected(con, world, QUERIES["by_user"][0])
    wait_for(lambda: settled(con))
    comes_to(con, "later", lambda rows: bag(rows) == bag(whole), whole)
    state = con.sql("SHOW STATE").arrow().to_pylist()
    assert [s["jobs"] for s in state if s["key"] == "order_id" and s["node"].startswith("Newest")]
    con.close()
    again = forebay.connect(tmp_path / "w", attach=False)
    live(world, 40)
    whole = expected(again, world, QUERIES["joined"][0])  # type: ignore[arg-type]
    comes_to(again, "joined", lambda rows: bag(rows) == bag(whole), whole)  # type: ignore[arg-type]
    again.close()
