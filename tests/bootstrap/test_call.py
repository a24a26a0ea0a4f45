"""CALL bootstrap: jobs that run get the history of their tables, nothing is emitted for it, and a row counts once."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import forebay
from forebay.cli import loading
from forebay.cli.output import Output
from forebay.cli.sql import run_script
from forebay.connection import Connection
from forebay.engine.runtime import bootstrap
from tests.bootstrap.orders import QUERIES, T, World, append, expected, settled, tables, wait_for
from tests.bootstrap.test_bootstrap import bag, comes_to, start

UNTIL = f"{T:%Y-%m-%d %H:%M:%S}"


def plain(root: Path, mode: str = "state-only", **how: str) -> str:
    """The two tables without their histories."""
    ddl = re.sub(r"'bootstrap\.[\w-]+' = '[^']*',?", "", tables(root, mode, **how))
    ddl = re.sub(r",\s*\)", ")", re.sub(r",\s*,", ",", ddl))
    return re.sub(r"('topic' = '[\w-]*refunds',)", r"\1 'scan.startup.mode' = 'earliest-offset',", ddl)


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


def test_a_sink_of_which_nothing_is_known_goes_on(con: Connection, world: World, tmp_path: Path) -> None:
    con.execute(plain(tmp_path))
    con.execute("CREATE TABLE ids (id BIGINT) WITH ('connector' = 'log', 'topic' = 'ids', 'format' = 'json')")
    con.execute("INSERT INTO ids SELECT refund_id FROM refunds")
    con.execute("CREATE MATERIALIZED VIEW n AS SELECT COUNT(*) AS n FROM refunds")
    wait_for(lambda: settled(con))
    con.checkpoint(20)
    ids = "SELECT id FROM ids /*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */"
    there = con.sql(ids.replace("id FROM ids", "refund_id FROM refunds")).fetchall()
    wait_for(lambda: con.checkpoint(20) and len(con.sql(ids).fetchall()) == len(there))
    before = con.sql(ids).fetchall()
    result = con.sql(calls(tmp_path, "replay")[1])
    assert result.fetchall()[0][4:] == ("insert_into_ids, n", None)
    assert "nothing knows what the sinks of insert_into_ids have got" in result.warnings[0]
    known = len(world.refunds)
    comes_to(con, "n", lambda rows: rows == [(known,)], known)
    while len(world.refunds) == known:
        live(world, 5)
    wait_for(lambda: con.checkpoint(20) and len(con.sql(ids).fetchall()) > len(before))
    wait_for(lambda: settled(con))
    con.checkpoint(20)
    assert bag(con.sql(ids).fetchall()) == bag([*before, *((r[0],) for r in world.refunds[known:])])


def test_state_that_is_kept_without_jobs_gets_the_history_too(con: Connection, world: World, tmp_path: Path) -> None:
    con.execute(plain(tmp_path))
    con.execute("ALTER TABLE refunds SET ('state.keep' = 'true')")
    con.execute("CREATE MATERIALIZED VIEW joined AS " + QUERIES["joined"][0])
    wait_for(lambda: settled(con))
    con.execute("DROP MATERIALIZED VIEW joined")
    (told,) = con.sql(calls(tmp_path)[1]).arrow().to_pylist()
    assert told["jobs"].startswith("state.keep refunds by (order_id)")
    con.execute(calls(tmp_path)[0])
    con.close()
    again = forebay.connect(tmp_path / "w", attach=False)
    assert isinstance(again, Connection)
    again.execute("CREATE MATERIALIZED VIEW joined AS " + QUERIES["joined"][0])
    wait_for(lambda: settled(again))
    live(world, 20)
    whole = expected(again, world, QUERIES["joined"][0])
    comes_to(again, "joined", lambda rows: bag(rows) == bag(whole), whole)
    again.close()


def test_records_keep_coming(con: Connection, world: World, tmp_path: Path) -> None:
    """The jobs' scans wait for a turn, no record is missed or read twice, and nothing waits afterwards."""
    begin(con, tmp_path, ["joined", "grouped"])
    wait_for(lambda: settled(con))
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            live(world, 3)
            time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for call in calls(tmp_path):
            con.execute(call)
    finally:
        done.set()
        writer.join()
    live(world, 20)
    for name in ("joined", "grouped"):
        whole = expected(con, world, QUERIES[name][0])
        comes_to(con, name, lambda rows, w=whole: bag(rows) == bag(w), whole)  # type: ignore[misc]
    flow = con.warehouse.driver.flow
    assert not flow.followers
    assert not any(node.waits for node in flow.order)


def test_columns_that_are_not_kept_come_from_the_history(con: Connection, world: World, tmp_path: Path) -> None:
    """A second job needs more than what the first one's state has: both then share a wider one."""
    con.execute(tables(tmp_path, "state-only"))
    con.execute("ALTER TABLE refunds SET ('state.columns' = 'order_id;refund_id')")
    con.execute("CREATE MATERIALIZED VIEW narrow AS " + QUERIES["joined"][0])
    wait_for(lambda: settled(con))
    (told,) = con.sql("CALL bootstrap('refunds', columns => 'all')").arrow().to_pylist()
    assert (told["jobs"], told["left_out"]) == ("narrow", None)
    wide = "SELECT r.refund_id, r.refunded, o.note FROM orders o JOIN refunds r ON o.order_id = r.order_id"
    con.execute(f"CREATE MATERIALIZED VIEW wide AS {wide}")
    live(world, 60)
    for name, query in (("wide", wide), ("narrow", QUERIES["joined"][0])):
        whole = expected(con, world, query)
        comes_to(con, name, lambda rows, w=whole: bag(rows) == bag(w), whole)  # type: ignore[misc]
    states = [s for s in con.sql("SHOW STATE").arrow().to_pylist() if s["node"].startswith("Arrange")]
    assert [(s["jobs"], s["columns"]) for s in states] == [("narrow, wide", "refund_id, order_id, refunded")]


WRONG = [
    ("CALL nothing('t')", "there is no procedure 'nothing'"),
    ("CALL sys.bootstrap()", "needs the argument table"),
    ("CALL bootstrap('nope')", "table nope does not exist"),
    ("CALL bootstrap('orders')", "has no history yet"),
    ("CALL bootstrap('orders', '/h')", "needs option 'bootstrap.until'"),
    ("CALL bootstrap('orders', '/h', 'soon')", "cannot be 'soon'"),
    ("CALL bootstrap('orders', '/h', '2026-11-01', pat => 'x')", "did you mean 'path'"),
    ("CALL bootstrap('orders', path => '/h', until => '2026-11-01', mode => 'all')", "mode cannot be 'all'"),
    ("CALL bootstrap('orders', '/h', `table` => 'orders')", "argument 'table' is given twice"),
    ("CALL bootstrap('orders', '/h', '2026-11-01', version => 'vv')", "names 'vv'"),
    ("CALL bootstrap('orders', UPPER('x'))", "expected a constant"),
    ("CALL bootstrap('kept', '/h', '2026-11-01')", "no table of a connector"),
    ("CALL bootstrap('orders', '/h', '2026-11-01', format => 'xml')", "unknown format 'xml'"),
]


@pytest.mark.parametrize(("statement", "told"), WRONG)
def test_wrong_calls(statement: str, told: str) -> None:
    with forebay.connect() as con:
        con.execute("CREATE TABLE kept (id BIGINT)")
        con.execute(plain(Path("/nowhere")))
        con.execute("CREATE MATERIALIZED VIEW v AS SELECT order_id FROM orders")
        with pytest.raises(forebay.ForebayError, match=re.escape(told)) as failure:
            con.execute(statement)
        assert getattr(failure.value, "line", None) == 1
        assert not con.catalog.loading


def test_what_a_loading_history_is_asked_it_tells(tmp_path: Path) -> None:
    with forebay.connect(resume=False) as con:
        con.execute(plain(tmp_path))
        con.execute("CREATE MATERIALIZED VIEW v AS SELECT order_id FROM orders")
        con.execute(f"CALL bootstrap('orders', '{tmp_path}', '2026-11-01')")
        for statement in ("TRACE JOB {} WHERE id = 1", "EXPLAIN STATE JOB {}", "RESUME JOB {}", "STOP JOB {}"):
            with pytest.raises(forebay.CatalogError, match="loads a history, it can only be called off") as failure:
                con.execute(statement.format("`bootstrap orders`"))
            assert failure.value.hint == "DROP JOB `bootstrap orders` does that; or wait for it"
        con.execute("DROP JOB `bootstrap orders`")


def test_what_cannot_be_read_fails_and_leaves_all_as_it_was(con: Connection, world: World, tmp_path: Path) -> None:
    begin(con, tmp_path, ["filtered"])
    wait_for(lambda: settled(con) and con.sql("SELECT * FROM filtered").fetchall())
    wait_for(lambda: settled(con))
    before = bag(con.sql("SELECT * FROM filtered").fetchall())
    with pytest.raises(forebay.ForebayError, match="there is no"):
        con.execute(f"CALL bootstrap('orders', '{tmp_path}/nothing', '{UNTIL}')")
    assert bag(con.sql("SELECT * FROM filtered").fetchall()) == before
    assert list(con.jobs) == ["filtered", "filtered_shown", "insert_into_filtered_sink"]
    assert "bootstrap" not in con.sql("SHOW CREATE TABLE orders").fetchall()[0][0]
    con.execute(calls(tmp_path)[0])


def test_a_job_over_a_table_without_jobs_and_one_that_is_called_off(world: World, tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w", attach=False, resume=False) as con:
        con.execute(plain(tmp_path))
        (told,) = con.sql(calls(tmp_path)[1]).arrow().to_pylist()
        assert (told["rows"], told["jobs"]) == (0, "")
        con.execute("CREATE MATERIALIZED VIEW v AS SELECT order_id FROM orders")
        assert "once the warehouse runs" in con.execute(calls(tmp_path)[0]).message
        with pytest.raises(forebay.StateError, match="is being loaded already"):
            con.execute(calls(tmp_path)[0])
        assert con.jobs["bootstrap orders"].status == "BOOTSTRAPPING"
        con.execute("DROP JOB `bootstrap orders`")
        assert list(con.jobs) == ["v"]


def test_the_prompt_shows_a_bar(con: Connection, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(con, tmp_path, ["joined"])
    monkeypatch.setattr(bootstrap, "READ_ROWS", 1)
    monkeypatch.setattr(loading, "_REDRAW", 0.01)
    shown = io.StringIO()
    output = Output(Console(file=shown), Console(file=shown, force_terminal=True, width=120))
    run_script(con, calls(tmp_path)[0], output)
    assert "bootstrap orders" in shown.getvalue()
    assert "rows/s" in shown.getvalue()
    assert "(1 row)" in shown.getvalue()
