"""A job over history and stream gives the batch answer over all rows; what its sink gets depends on the mode."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.connection import Connection
from tests.bootstrap.orders import QUERIES, T, World, append, expected, settled, tables, wait_for


def start(con: Connection, root: Path, mode: str, names: list[str], *, made: bool = False, **how: str) -> None:
    """A view, and a job into an upsert topic whose rows another view shows, of each query. `made`: the tables are there."""
    if not made:
        con.execute(tables(root, mode, **how))
    for name in names:
        query, keys = QUERIES[name]
        con.execute(f"CREATE MATERIALIZED VIEW {name} AS {query}")
        columns = [(c[0], c[1], c[2]) for c in con.sql(f"DESCRIBE {name}").fetchall()]
        key = ", ".join(c[0] for c in columns[:keys])
        columns_sql = ", ".join(f"{c[0]} {c[1]}" for c in columns)
        con.execute(
            f"""
            CREATE TABLE {name}_sink ({columns_sql}, PRIMARY KEY ({key}) NOT ENFORCED) WITH (
              'connector' = 'upsert-log', 'topic' = '{name}', 'key.format' = 'json', 'value.format' = 'json');
            CREATE MATERIALIZED VIEW {name}_shown AS SELECT * FROM {name}_sink;
            INSERT INTO {name}_sink {query};
            """
        )


def bag(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


def comes_to(con: Connection, view: str, fits: Callable[[list[tuple[Any, ...]]], bool], wanted: object) -> None:
    """Wait until the view's rows fit."""
    deadline = time.monotonic() + 30
    while not fits(rows := con.sql(f"SELECT * FROM {view}").fetchall()):
        assert time.monotonic() < deadline, (view, bag(rows), wanted)
        time.sleep(0.02)


def check(con: Connection, world: World, mode: str, names: list[str]) -> None:
    """Views have the batch answer. So have sinks, in mode 'state-only' but for what the history alone gives and the stream has
    not touched: a row that went and came back is shown."""
    touched = {row[0] if kind != "refund" else row[1] for kind, row in world.writes if row[-1] >= T}
    for name in names:
        query, _ = QUERIES[name]
        whole = expected(con, world, query)
        comes_to(con, name, lambda rows, w=whole: bag(rows) == bag(w), whole)  # type: ignore[misc]
        before = set(expected(con, world, query, past=True)) if mode == "state-only" else set()
        least = set(whole) - before
        most = least | {row for row in whole if "grouped" in name or touched & set(row)}
        comes_to(con, f"{name}_shown", lambda rows, a=least, b=most: a <= set(rows) <= b, (least, most))  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["state-only", "replay"])
def test_history_and_stream_are_one_table(tmp_path: Path, mode: str) -> None:
    names = list(QUERIES)
    world = World(1, tmp_path)
    while world.now < T:
        world.live(1)
    world.live(60)
    world.overlap(10)
    world.save()
    sent = len(world.writes)
    with forebay.connect(tmp_path / "w", resume=False, attach=False) as con:
        append(tmp_path / "w", world.writes)
        start(con, tmp_path, mode, names)
        con.resume()
        wait_for(lambda: settled(con))
        check(con, world, mode, names)
        world.live(100)
        append(tmp_path / "w", world.writes[sent:])
        wait_for(lambda: settled(con))
        check(con, world, mode, names)
