"""A warehouse whose rows and groups all go to disk at once, for `lives` to kill while they are sealed, merged, saved, restored.

Each round inserts, updates and deletes orders and refunds under views that join and group them, then tells its number: what a
round does follows from its number, so what the table must show after any statement is known (`rounds`). Each life first tells
what it found: the orders, and in how many rows the views differ from the same queries over the tables.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import forebay
from forebay import saving
from forebay.connection import Connection
from forebay.engine.runtime.bootstrap import Build
from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.driver import Driver
from forebay.engine.runtime.waiting import Waiting
from forebay.engine.state import cold, groups
from forebay.engine.state.eviction import Eviction
from forebay.engine.state.sealing import Sealing
from forebay.planner.dialect.script import parse
from tests.bootstrap import victim
from tests.faults.lives import during
from tests.oracle.test_sealed import seal_all

Say = Callable[[Any], object]
Orders = dict[int, int]
TABLES = """
SET 'execution.checkpointing.interval' = '60 ms';
CREATE TABLE orders (id BIGINT, v BIGINT, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, w BIGINT);
CREATE MATERIALIZED VIEW wide AS SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
CREATE MATERIALIZED VIEW sums AS SELECT v % 50 AS g, COUNT(*) AS n, MIN(id) AS least, COUNT(DISTINCT id % 3) AS d FROM orders
  GROUP BY v % 50;
"""
SINK = """
CREATE TABLE out (id BIGINT, v BIGINT, w BIGINT) WITH ('connector' = 'log', 'topic' = 'out', 'format' = 'debezium-json',
  'sink.delivery-guarantee' = 'exactly-once');
CREATE TABLE shown (id BIGINT, v BIGINT, w BIGINT) WITH ('connector' = 'log', 'topic' = 'out', 'format' = 'debezium-json',
  'scan.startup.mode' = 'earliest-offset');
INSERT INTO out SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
CREATE MATERIALIZED VIEW seen AS SELECT * FROM shown;
"""
parse(TABLES + SINK)  # what the parser learns the first time lives are born with
RUNNING = (
    (Connection, "__init__", "during the restart"),
    (Connection, "_restore", "while restoring a savepoint"),
    (saving.Saving, "create", "while making a savepoint"),
    (Driver, "_capture", "during a checkpoint"),
    (Driver, "_write", "during a checkpoint"),
    (Sealing, "step", "while sealing"),
    (Eviction, "step", "while sealing"),
    (cold._Merge, "step", "while merging"),
)
BOOTING = (
    (Build, "__init__", "during a bootstrap"),
    (Build, "step", "during a bootstrap"),
    (Waiting, "_attach_built", "during a bootstrap"),
)
"""Functions, and what goes on in them."""
VIEWS = {
    "wide": "SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id",
    "sums": "SELECT v % 50, COUNT(*), MIN(id), COUNT(DISTINCT id % 3) FROM orders GROUP BY v % 50",
}


def changes(n: int) -> list[str]:
    """The statements of a round."""
    return [
        f"INSERT INTO orders VALUES ({n}, 0)",
        f"INSERT INTO refunds VALUES ({n // 2}, {n})",
        f"UPDATE orders SET v = {n} WHERE id = {n // 3}",
        f"DELETE FROM orders WHERE id = {n // 5 * 2 - 1}",
    ]


def rounds(last: int) -> list[Orders]:
    """The orders before a round, and after each of its statements."""
    orders: Orders = {}
    seen: list[Orders] = []
    for n in range(1, last + 1):
        steps: list[Callable[[], object]] = [
            lambda: orders.update({n: 0}),
            lambda: None,
            lambda: orders.update({n // 3: n} if n // 3 in orders else {}),
            lambda: orders.pop(n // 5 * 2 - 1, None),
        ]
        seen = [dict(orders)] if n == last else []
        for step in steps:
            step()
            if n == last:
                seen.append(dict(orders))
    return seen or [{}]


def work(say: Say, root: str, sink: bool, going_back: bool) -> None:
    """Look, then make rounds until killed, with a savepoint in every fourth, and a copy of one in every eighth.

    `sink`: a sink writes the join exactly once. `going_back`: first go back to the last savepoint.
    """
    with opened(Path(root) / "w") as con:
        begin(con, sink)
        say(look(con))
        if going_back:
            back(say, con)
        for n in numbers(con):
            for statement in changes(n):
                con.execute(statement)
            say({"ack": n})
            if n % 4 == 0:
                save(say, con, n, f"file://{root}/copies" if n % 8 == 0 else None)


def end(say: Say, root: str, sink: bool) -> None:
    """Look, and with a sink compare what its topic adds up to."""
    with opened(Path(root) / "w") as con:
        begin(con, sink)
        found = look(con)
        if sink:
            assert con.checkpoint(60)
            expected = con.sql("SELECT * FROM wide").fetchall()
            seen = lambda: con.sql("SELECT * FROM seen").fetchall()
            con.warehouse.driver.wait(lambda: Counter(seen()) == Counter(expected), 60)
            differ(found, seen(), expected)
        say(found)


def tell(parts: Sequence[tuple[Any, str, str]]) -> None:
    """Let this life tell when it is in one of these."""
    for owner, name, phase in parts:
        during(owner, name, phase)


def copy_back(say: Say, root: str, number: int) -> None:
    """Make a warehouse of a copy, where that has not been done, and look at it."""
    during(saving, "restore", "while restoring a copy")
    path, location = Path(root) / f"copy{number}", f"file://{root}/copies"
    if not (path / "catalog.json").exists():
        name = min(p.stem for p in (Path(root) / "copies").glob("*.savepoint"))
        say({"restored": round_of(name)})
        saving.restore(path, name, location)
    with opened(path) as con:
        say(look(con))


def bootstrap(say: Say, root: str) -> None:
    """Bootstrap in small steps; at the end tell what the views show."""
    tell(BOOTING)
    say([repr(rows) for rows in victim.views(Path(root))])


def opened(path: Path) -> forebay.Connection:
    """The warehouse, whatever is in memory of it on its way out, and all that it is about told."""
    tell(RUNNING)
    Budget.keep = seal_all
    cold.FAN, cold.DEAR = 2, 0
    groups.LEAST = 0
    return forebay.connect(path, attach=False)


def begin(con: forebay.Connection, sink: bool) -> None:
    """Make what an earlier life has not made."""
    made = {*con.catalog.relations, *con.jobs}
    for statement in (TABLES + SINK * sink).split(";"):
        found = re.match(r"\s*(SET|CREATE TABLE|CREATE MATERIALIZED VIEW|INSERT INTO) (\w*)", statement)
        if found is not None and (f"insert_into_{found[2]}" if found[1] == "INSERT INTO" else found[2]) not in made:
            con.execute(statement)


def numbers(con: forebay.Connection) -> Iterator[int]:
    """The round that may have been cut off, and those after it."""
    n: int = con.sql("SELECT COALESCE(MAX(id), 1) FROM orders").fetchall()[0][0]
    while True:
        yield n
        n += 1


def save(say: Say, con: forebay.Connection, n: int, location: str | None) -> None:
    """Keep the present, and only that. An earlier life may have made a savepoint in this round."""
    old = [row[0] for row in con.sql("SHOW SAVEPOINTS").fetchall()]
    con.execute(f"CREATE SAVEPOINT s{n}_{os.getpid()}" + (f" TO '{location}'" if location else ""))
    say({"saved": n})
    for name in old:
        con.execute(f"DROP SAVEPOINT {name}")


def back(say: Say, con: forebay.Connection) -> None:
    """Go to the last savepoint in the warehouse."""
    there = [row[0] for row in con.sql("SHOW SAVEPOINTS").fetchall()]
    if there:
        say({"restoring": round_of(there[-1])})
        con.execute(f"RESTORE SAVEPOINT {there[-1]}")
        say({"restored": round_of(there[-1])})
        say(look(con))


def round_of(savepoint: str) -> int:
    """After which round it was made."""
    return int(savepoint[1:].split("_")[0])


def look(con: forebay.Connection) -> dict[str, Any]:
    """The orders, and how far the views are from the truth."""
    found: dict[str, Any] = {
        "orders": con.sql("SELECT id, v FROM orders").fetchall(),
        "rows": 0,
        "lost": 0,
        "doubled": 0,
    }
    for name, query in VIEWS.items():
        differ(found, con.sql(f"SELECT * FROM {name}").fetchall(), con.sql(query).fetchall())
    return found


def differ(found: dict[str, Any], shown: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    """Count rows that are not shown, and those that should not be."""
    found["rows"] += len(expected)
    found["lost"] += sum((Counter(expected) - Counter(shown)).values())
    found["doubled"] += sum((Counter(shown) - Counter(expected)).values())
