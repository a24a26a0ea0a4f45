"""Damage to files of cold state: found by checksum, told with the file's name, and never a wrong row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

import forebay
from forebay.engine.files import set_kill_hook
from forebay.engine.runtime.budget import Budget
from forebay.engine.state import Segmented
from forebay.engine.state.coldstore import ColdStore
from tests.durable.pressure import press
from tests.durable.test_damage import cut, flip
from tests.oracle.test_sealed import seal_all
from tests.sim.world import Crash

ROWS = 400
TABLES = """
CREATE TABLE orders (id BIGINT, v BIGINT, pad STRING, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, w BIGINT);
CREATE MATERIALIZED VIEW wide AS SELECT o.id, o.pad, r.w FROM orders o JOIN refunds r ON r.order_id = o.id;
CREATE MATERIALIZED VIEW sums AS SELECT v, COUNT(*) AS n FROM orders GROUP BY v;
"""
WIDE = "SELECT o.id, o.pad, r.w FROM orders o JOIN refunds r ON r.order_id = o.id"


@pytest.fixture(autouse=True)
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "keep", seal_all)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A warehouse whose owner has died, with two checkpoints, and the name of the newest table file of each state."""
    root = tmp_path_factory.mktemp("built")
    with (
        mock.patch.object(Budget, "keep", seal_all),
        forebay.connect(root / "running", config={"execution.checkpointing.interval": "1 h"}) as con,
    ):
        con.execute(TABLES)
        for first in (0, ROWS):
            insert(con, first)
            assert con.checkpoint(30)
        driver = con.warehouse.driver
        states = {
            f"{n.label} {n.id}": s for n in driver.flow.order for s in n.states().values() if isinstance(s, Segmented)
        }
        newest = {name: s.cold_segments()[-1].number for name, s in states.items() if s.cold_segments()}
        files = {segment: table.name for segment, table in driver.cold.tables(list(newest.values()))}
        shutil.copytree(root / "running", root / "w", ignore=shutil.ignore_patterns("*.sock"))
    return root / "w", {name: files[number] for name, number in newest.items()}


@pytest.fixture
def dead(built: tuple[Path, dict[str, str]], tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    """A copy to damage."""
    shutil.copytree(built[0], tmp_path / "w")
    return tmp_path / "w", {name: tmp_path / "w" / "cold" / file for name, file in built[1].items()}


def insert(con: forebay.Connection, first: int) -> None:
    rows = ", ".join(f"({i}, {i % 7}, '{i:060d}')" for i in range(first, first + ROWS))
    con.execute(f"INSERT INTO orders VALUES {rows}")
    con.execute(f"INSERT INTO refunds VALUES {', '.join(f'({i}, {i})' for i in range(first, first + ROWS, 5))}")


def check(con: forebay.Connection, rows: int) -> None:
    assert con.sql("SELECT COUNT(*), SUM(id) FROM orders").fetchall() == [(rows, rows * (rows - 1) // 2)]
    assert sorted(con.sql("SELECT * FROM wide").fetchall()) == sorted(con.sql(WIDE).fetchall())
    assert sum(n for _, n in con.sql("SELECT * FROM sums").fetchall()) == rows


def log_of(path: Path) -> str:
    return (path / "forebay.log").read_text()


def of(files: dict[str, Path], name: str) -> Path:
    (found,) = [path for state, path in files.items() if name in state]
    return found


def footer_flipped(path: Path) -> None:
    """What is behind the footer's counts: fences and filter."""
    data = path.read_bytes()
    flip(path, (data.index(b'"block_rows"') + 1000) / len(data))


def index_flipped(path: Path) -> None:
    """The last bytes are RocksDB's own: where its index lies."""
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [footer_flipped, index_flipped, cut, Path.unlink])
def test_an_older_checkpoint_is_used_that_does_not_need_the_file(
    dead: tuple[Path, dict[str, Path]], damage: Callable[[Path], object]
) -> None:
    path, files = dead
    damaged = of(files, "orders")
    damage(damaged)
    with forebay.connect(path) as con:
        check(con, 2 * ROWS)
        insert(con, 2 * ROWS)
        check(con, 3 * ROWS)
    assert "an older checkpoint is used, of 20" in log_of(path)
    assert damage is Path.unlink or damaged.name in log_of(path)
    with forebay.connect(path) as con:
        check(con, 3 * ROWS)


@pytest.mark.parametrize("name", ["MANIFEST-*", "CURRENT"])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_the_stores_own_index_is_made_again(
    dead: tuple[Path, dict[str, Path]], name: str, damage: Callable[[Path], object]
) -> None:
    path, _ = dead
    (index,) = (path / "cold").glob(name)
    damage(index)
    with forebay.connect(path) as con:
        check(con, 2 * ROWS)
    assert "an older checkpoint" not in log_of(path)


@pytest.mark.parametrize("place", ["cold.rescue.before", "cold.rescue.marked", "cold.rescue.ingested"])
def test_a_rescue_that_is_cut_off_is_done_again(dead: tuple[Path, dict[str, Path]], place: str) -> None:
    path, files = dead
    damaged = of(files, "View(sums)")
    cut(damaged)
    store = ColdStore(path / "cold")

    def die(name: str) -> None:
        if name == place:
            raise Crash

    set_kill_hook(die)
    try:
        with pytest.raises(Crash):
            store.segments()
    finally:
        set_kill_hook(None)
    with forebay.connect(path) as con:
        check(con, 2 * ROWS)
    assert [p.stem for p in (path / "cold").glob("*.damaged")] == [damaged.stem]
    assert not list((path / "cold").glob("*.rescue"))


def test_a_damaged_block_stops_the_job_that_reads_it_and_no_other(dead: tuple[Path, dict[str, Path]]) -> None:
    path, files = dead
    flip(of(files, "View(wide)"), 0.2)
    with forebay.connect(path) as con:
        with pytest.raises(forebay.StateError, match="damaged") as failure:
            con.sql("SELECT * FROM wide").fetchall()
        assert of(files, "View(wide)").name in str(failure.value.detail)
        assert "RESTORE SAVEPOINT" in str(failure.value.hint)
        assert sum(n for _, n in con.sql("SELECT * FROM sums").fetchall()) == 2 * ROWS
        insert(con, 2 * ROWS)
        assert sum(n for _, n in con.sql("SELECT * FROM sums").fetchall()) == 3 * ROWS
        con.execute("DROP MATERIALIZED VIEW wide")
        con.execute(f"CREATE MATERIALIZED VIEW wide AS {WIDE}")
        check(con, 3 * ROWS)


def test_a_job_over_a_damaged_block_fails_with_the_file_and_the_remedy(dead: tuple[Path, dict[str, Path]]) -> None:
    path, _ = dead
    with forebay.connect(path, resume=False) as con:
        arranged = [n for n in con.warehouse.driver.flow.order if n.label.startswith("Arrange")]
        numbers = [s.cold_segments()[-1].number for n in arranged for s in n.states().values()]
        tables = [
            f for _, f in con.warehouse.driver.cold.tables(numbers) if f.stat().st_size > 20_000
        ]  # several blocks
    for file in tables:
        flip(file, 0.2)
    with forebay.connect(path) as con:
        con.warehouse.driver.options = replace(con.warehouse.driver.options, backoff=0.01)
        con.execute(f"INSERT INTO refunds VALUES {', '.join(f'({i}, 0)' for i in range(2 * ROWS))}")
        assert con.warehouse.driver.wait(lambda: con.jobs["wide"].status == "FAILED", 60)
        told = con.jobs["wide"].metrics()["error"]
        assert "cold state is damaged (checksum): segment" in told
        assert any(file.name in told for file in tables)
        assert con.sql("SELECT COUNT(*) FROM refunds").fetchall() == [(2 * ROWS + 2 * ROWS // 5,)]
        assert con.jobs["sums"].status == "RUNNING"
        con.execute("DROP MATERIALIZED VIEW wide")
        con.execute(f"CREATE MATERIALIZED VIEW wide AS {WIDE}")
        check(con, 2 * ROWS)


def test_a_table_with_a_damaged_block_refuses_what_needs_it(dead: tuple[Path, dict[str, Path]]) -> None:
    path, files = dead
    flip(of(files, "Table(orders)"), 0.2)
    with forebay.connect(path) as con:
        for statement in ("SELECT SUM(id) FROM orders", "UPDATE orders SET v = v + 1", "DELETE FROM orders"):
            with pytest.raises(forebay.StateError, match="damaged"):
                con.execute(statement)
        insert(con, 2 * ROWS)
        assert sum(n for _, n in con.sql("SELECT * FROM sums").fetchall()) == 3 * ROWS


def test_merging_goes_around_a_damaged_segment(
    dead: tuple[Path, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, files = dead
    flip(of(files, "View(wide)"), 0.2)
    press(monkeypatch)
    with forebay.connect(path) as con:
        for first in range(2 * ROWS, 5 * ROWS, ROWS):
            insert(con, first)
        cold = [s.cold_segments() for n in con.warehouse.driver.flow.order for s in n.states().values()]  # type: ignore[attr-defined]
        assert sum(s.damaged for segments in cold for s in segments) == 1
        assert max(map(len, cold)) < 8
        assert con.sql("SELECT COUNT(*) FROM orders").fetchall() == [(5 * ROWS,)]
