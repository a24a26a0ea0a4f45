"""Savepoints: kept over later checkpoints, restored in place, copied to URIs and begun from there; whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import forebay
from forebay.cli import main
from forebay.engine.files import KILL_POINTS, Files, set_kill_hook
from forebay.engine.runtime.budget import Budget
from forebay.engine.state.arrangement import Arrangement
from tests.oracle.test_sealed import seal_all
from tests.sim.world import Crash

SETUP = """
CREATE TABLE orders (id BIGINT, v BIGINT, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, w BIGINT);
CREATE MATERIALIZED VIEW wide AS SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
CREATE MATERIALIZED VIEW total AS SELECT COUNT(*) AS n, SUM(v) AS v FROM orders;
INSERT INTO orders VALUES (1, 10), (2, 20), (3, 30);
INSERT INTO refunds VALUES (2, 7);
"""
WIDE = [(1, 10, None), (2, 20, 7), (3, 30, None)]
HOUR = {"execution.checkpointing.interval": "1 h"}


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are sealed at once."""
    monkeypatch.setattr(Budget, "keep", seal_all)


def wide(con: forebay.Session) -> list[tuple[object, ...]]:
    assert con.sql("SELECT * FROM total").fetchall() == con.sql("SELECT COUNT(*), SUM(v) FROM orders").fetchall()
    return con.sql("SELECT * FROM wide ORDER BY id").fetchall()


def names(con: forebay.Session) -> list[str]:
    return [row[0] for row in con.sql("SHOW SAVEPOINTS").fetchall()]


def go_on(con: forebay.Connection) -> None:
    """Change everything, and let several checkpoints pass."""
    for n in range(4):
        con.execute(f"UPDATE orders SET v = {n} WHERE id = 1; INSERT INTO refunds VALUES (3, {n})")
        con.execute(f"DELETE FROM orders WHERE id = 2; INSERT INTO orders VALUES ({n + 10}, 5)")
        con.checkpoint(30)
    con.execute("CREATE TABLE later (n INT); INSERT INTO later VALUES (1)")


@pytest.mark.usefixtures("cold")
def test_a_savepoint_outlives_checkpoints_and_is_restored_in_place(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(SETUP)
        con.execute("CREATE SAVEPOINT before")
        go_on(con)
        con.execute("CREATE SAVEPOINT after")
        after = wide(con)
        assert names(con) == ["before", "after"]
        con.execute("RESTORE SAVEPOINT before")
        assert wide(con) == WIDE
        assert "later" not in [r[0] for r in con.sql("SHOW TABLES").fetchall()]
        con.execute("INSERT INTO orders VALUES (4, 40)")
        assert wide(con) == [*WIDE, (4, 40, None)]
        con.checkpoint(30)
        con.execute("RESTORE SAVEPOINT after")
        assert wide(con) == after
    with forebay.connect(tmp_path / "w") as con:
        assert wide(con) == after
        con.execute(
            "RESTORE SAVEPOINT before; DROP SAVEPOINT before; DROP SAVEPOINT after; INSERT INTO refunds VALUES (1, 1)"
        )
        con.checkpoint(30)
        needed = con.warehouse.driver.cold.live
        assert set(con.warehouse.driver.cold.segments()) <= needed | con.warehouse.driver.store.segments()  # type: ignore[union-attr]
        assert wide(con) == [(1, 10, 1), *WIDE[1:]]


def test_names_are_checked(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute("CREATE SAVEPOINT one")
        for statement, message in (
            ("CREATE SAVEPOINT one", "savepoint 'one' exists already"),
            ("CREATE SAVEPOINT '../one'", "cannot name a savepoint"),
            ("DROP SAVEPOINT onne", "there is no savepoint 'onne'"),
            ("RESTORE SAVEPOINT onne", "did you mean one"),
            ("CREATE SAVEPOINT two TO 'nowhere://x'", "cannot be opened"),
        ):
            with pytest.raises(forebay.ForebayError, match=message):
                con.execute(statement)
        con.execute("DROP SAVEPOINT IF EXISTS onne; DROP SAVEPOINT one")
        assert names(con) == []
    with forebay.connect() as con, pytest.raises(forebay.ForebayError, match="in memory has no savepoints"):
        con.execute("CREATE SAVEPOINT one")


def test_sinks_go_on_after_a_restore(tmp_path: Path) -> None:
    """What came after the savepoint is written again, under ids that the sink has not seen: nothing is lost."""
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(
            "CREATE TABLE src (k INT, v INT) WITH ('connector' = 'log', 'topic' = 'src', 'format' = 'json', "
            "'scan.startup.mode' = 'earliest-offset');"
            "CREATE TABLE dst (k INT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'upsert-log', 'topic' = 'dst',"
            "'key.format' = 'json', 'value.format' = 'json', 'sink.delivery-guarantee' = 'exactly-once');"
            "INSERT INTO dst SELECT k, SUM(v) FROM src GROUP BY k; CREATE MATERIALIZED VIEW back AS SELECT * FROM dst;"
            "INSERT INTO src VALUES (1, 1), (2, 2)"
        )
        back = lambda: sorted(con.sql("SELECT * FROM back").fetchall())
        assert eventually(con, lambda: con.checkpoint(30) and back() == [(1, 1), (2, 2)])
        con.execute("CREATE SAVEPOINT s; INSERT INTO src VALUES (1, 10)")
        assert eventually(con, lambda: con.checkpoint(30) and back() == [(1, 11), (2, 2)])
        con.execute("RESTORE SAVEPOINT s; INSERT INTO src VALUES (2, 20)")
        assert eventually(con, lambda: con.checkpoint(30) and back() == [(1, 11), (2, 22)])


def test_a_job_made_again_mends_what_a_sink_got_since_the_savepoint(tmp_path: Path) -> None:
    """What the restored warehouse does not come by again stays in the sink: changes of embedded tables, and values that went
    and came back in one step."""
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        job = "INSERT INTO dst SELECT k, v FROM src"
        con.execute(
            "CREATE TABLE src (k INT, v INT, PRIMARY KEY (k) NOT ENFORCED);"
            "CREATE TABLE dst (k INT, v INT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'upsert-log', 'topic' = 'dst',"
            "'key.format' = 'json', 'value.format' = 'json', 'sink.delivery-guarantee' = 'exactly-once');"
            f"{job}; CREATE MATERIALIZED VIEW back AS SELECT * FROM dst; INSERT INTO src VALUES (1, 1), (2, 2)"
        )
        back = lambda: sorted(con.sql("SELECT * FROM back").fetchall())
        assert eventually(con, lambda: con.checkpoint(30) and back() == [(1, 1), (2, 2)])
        con.execute("CREATE SAVEPOINT s; UPDATE src SET v = 10 WHERE k = 1")
        assert eventually(con, lambda: con.checkpoint(30) and back() == [(1, 10), (2, 2)])
        con.execute("RESTORE SAVEPOINT s; INSERT INTO src VALUES (3, 3)")
        assert eventually(con, lambda: con.checkpoint(30) and (3, 3) in back())
        assert back() == [(1, 10), (2, 2), (3, 3)]
        con.execute(f"DROP JOB insert_into_dst; {job}")
        assert eventually(con, lambda: con.checkpoint(30) and back() == [(1, 1), (2, 2), (3, 3)])


def eventually(con: forebay.Connection, done: object) -> bool:
    return con.warehouse.driver.wait(done, 20)  # type: ignore[arg-type]


@pytest.mark.usefixtures("cold")
def test_a_copy_sends_only_what_is_new_and_begins_another_warehouse(tmp_path: Path) -> None:
    uri = (tmp_path / "copies").as_uri()
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(SETUP)
        con.execute(f"INSERT INTO orders SELECT x.id * 1000 + o.id, 1 FROM orders o, (VALUES {many(2000)}) AS x(id)")
        shown = wide(con)
        con.execute(f"CREATE SAVEPOINT one TO '{uri}'")
        files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "copies" / "files").iterdir()}
        con.execute(f"INSERT INTO refunds VALUES (1, 1); CREATE SAVEPOINT two TO '{uri}'")
        grown = {p.name: p.stat().st_size for p in (tmp_path / "copies" / "files").iterdir()}
        assert {p: (tmp_path / "copies" / "files" / p).stat().st_mtime_ns for p in files} == files
        new = sum(size for name, size in grown.items() if name not in files)
        assert 0 < new < sum(grown.values()) / 5
        assert [row[4] for row in con.sql("SHOW SAVEPOINTS").fetchall()] == [uri, uri]
        go_on(con)
        con.execute("RESTORE SAVEPOINT one")
        assert wide(con) == shown
    assert main(["restore", str(tmp_path / "other"), "one", "--from", uri]) == 0
    with forebay.connect(tmp_path / "other", config=HOUR) as con:
        assert wide(con) == shown
        go_on(con)
    with forebay.connect(tmp_path / "w") as con:
        con.execute("DROP SAVEPOINT one")
        left = {p.name for p in (tmp_path / "copies" / "files").iterdir()}
        assert left and left <= grown.keys()
        con.execute("DROP SAVEPOINT two")
        assert not list((tmp_path / "copies" / "files").iterdir())


def many(count: int) -> str:
    return ", ".join(f"({i})" for i in range(1, count))


def test_an_empty_warehouse_is_copied_too(tmp_path: Path) -> None:
    """Its state file has no bytes."""
    uri = (tmp_path / "copies").as_uri()
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(f"CREATE TABLE t (n INT); CREATE SAVEPOINT one TO '{uri}'")
    assert main(["restore", str(tmp_path / "other"), "one", "--from", uri]) == 0
    with forebay.connect(tmp_path / "other", config=HOUR) as con:
        assert con.execute("INSERT INTO t VALUES (1); SELECT * FROM t").fetchall() == [(1,)]


def test_a_damaged_copy_is_told_and_changes_nothing(tmp_path: Path) -> None:
    uri = (tmp_path / "copies").as_uri()
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(SETUP)
        con.execute(f"CREATE SAVEPOINT one TO '{uri}'")
    victim = next(p for p in (tmp_path / "copies" / "files").iterdir() if "state" in p.name)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(forebay.StateError, match="damaged"):
        forebay.restore(tmp_path / "other", "one", uri)
    assert not (tmp_path / "other" / "catalog.json").exists()
    (tmp_path / "copies" / "one.savepoint").write_bytes(b"")
    with pytest.raises(forebay.StateError, match="damaged"):
        forebay.restore(tmp_path / "other", "one", uri)


def test_the_command_restores_what_is_not_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(SETUP + "CREATE SAVEPOINT s; DELETE FROM orders")
        assert main(["restore", str(tmp_path / "w"), "s"]) == 1
        assert "owned by another process" in capsys.readouterr().err
    for manifest in (tmp_path / "w" / "checkpoints").glob("manifest-*"):
        manifest.write_bytes(b"")
    assert main(["restore", str(tmp_path / "w"), "nope"]) == 1
    assert main(["restore", str(tmp_path / "w"), "s"]) == 0
    with forebay.connect(tmp_path / "w") as con:
        assert wide(con) == WIDE


def test_checkpoints_are_retained_as_told(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute("SET 'state.checkpoints.num-retained' = '4'; CREATE TABLE t (n INT)")
        for n in range(7):
            con.execute(f"INSERT INTO t VALUES ({n})")
            con.checkpoint(30)
        assert len(list((tmp_path / "w" / "checkpoints").glob("manifest-*"))) == 4
        with pytest.raises(forebay.OptionError, match="not a number above 0"):
            con.execute("SET 'state.checkpoints.num-retained' = '0'")
    for manifest in sorted((tmp_path / "w" / "checkpoints").glob("manifest-*"))[1:]:
        manifest.write_bytes(b"")
    with forebay.connect(tmp_path / "w") as con:  # the oldest one, and the statements acknowledged since
        assert con.sql("SELECT COUNT(*) FROM t").fetchall() == [(7,)]


PLACES = sorted(p for p in KILL_POINTS if p.startswith(("savepoint.", "restore.")) and p != "restore.manifest")


COPYING = ("savepoint.cop", "savepoint.publish", "savepoint.withdraw", "restore.fetch")


class Fate:
    """Dies at one place, the first or second time."""

    def __init__(self, place: str, turn: int) -> None:
        self.place, self.left, self.passed = place, turn, False

    def __call__(self, name: str) -> None:
        self.passed = self.passed or name == self.place
        self.left -= name == self.place
        if self.left == 0:
            raise Crash


@pytest.fixture
def dying() -> Iterator[None]:
    yield
    set_kill_hook(None)


@pytest.mark.usefixtures("cold", "dying")
@pytest.mark.parametrize(
    ("place", "remote"),
    [
        *((p, False) for p in PLACES if not p.startswith(COPYING)),
        *((p, True) for p in PLACES if p.startswith(COPYING)),
        *(pytest.param(p, True, marks=pytest.mark.faults) for p in PLACES if not p.startswith(COPYING)),
    ],
)
def test_whatever_dies_a_savepoint_is_whole_or_absent(tmp_path: Path, place: str, remote: bool) -> None:
    """Statements are cut off at the place; the next life sees each savepoint whole or not at all, and goes on."""
    uri = (tmp_path / "copies").as_uri()
    to = f" TO '{uri}'" if remote else ""
    path = tmp_path / "w"
    con = forebay.Connection(path, config=HOUR, resume=False)
    con.execute(SETUP)
    con.execute(f"CREATE SAVEPOINT first{to}")
    con.execute("INSERT INTO orders VALUES (4, 40)")
    for statement in (f"CREATE SAVEPOINT second{to}", "RESTORE SAVEPOINT first", "DROP SAVEPOINT first"):
        before = wide(con)
        set_kill_hook(Fate(place, 1))
        try:
            con.execute(statement)
        except Crash:
            set_kill_hook(None)
            con = again(con, path)
            there, shown = names(con), wide(con)
            assert set(there) <= {"first", "second"}
            if statement.startswith("RESTORE"):
                assert shown in (before, WIDE)
            else:
                assert shown == before
                if statement.split()[-1] != "first" and "second" not in there and not remote:
                    con.execute(statement)
                if statement.startswith("DROP") and "first" in there:
                    con.execute(statement)
        set_kill_hook(None)
    for name in names(con):
        con.execute(f"RESTORE SAVEPOINT {name}")
        assert wide(con) == ([*WIDE, (4, 40, None)] if name == "second" else WIDE)
    con.close()


def again(con: forebay.Connection, path: Path) -> forebay.Connection:
    """The process is gone; another opens what it has left."""
    con.warehouse.close(final_checkpoint=False)
    return forebay.Connection(path, config=HOUR, resume=False)


def test_nothing_but_links_is_written_here(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(SETUP + "CREATE SAVEPOINT s")
        linked = list((tmp_path / "w" / "savepoints" / "s" / "checkpoints").iterdir())
        assert linked
        assert all(p.stat().st_nlink == 2 for p in linked)
        assert Files().exists(tmp_path / "w" / "savepoints" / "s.json")
        assert not any(isinstance(s, Arrangement) and s.cold_segments() for s in con.warehouse.driver.states().values())
