"""Arrangements built in bulk have the rows and answer the probes of one that got the same rows by update."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from forebay.engine.state import bulk
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.bulk import BulkBuild
from forebay.engine.state.coldstore import ColdStore

SCHEMA = pa.schema([("k", pa.int64()), ("s", pa.string()), ("version", pa.int64()), ("d", pa.decimal128(9, 2))])
Row = tuple[object, ...]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "RANGE_ROWS", 50)
    monkeypatch.setattr(bulk, "RUN_BATCHES", 3)
    monkeypatch.setattr(bulk, "GROUPS", 4)


def batches(seed: int, keys: int, count: int = 12, rows: int = 60) -> list[pa.RecordBatch]:
    """Rows with keys from few values, NULLs, text of all lengths."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        null = rng.random((3, rows)) < 0.1
        arrays = [
            pa.array(rng.integers(0, keys, rows), mask=null[0]),
            pa.array(["t" * int(n) for n in rng.integers(0, 30, rows)], mask=null[1]),
            pa.array(rng.integers(0, 9, rows), mask=null[2]),
            pa.array([Decimal(int(n)) for n in rng.integers(0, 999, rows)], pa.decimal128(9, 2)),
        ]
        made.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
    return made


def arrangement(key: list[int], store: ColdStore) -> Arrangement:
    made = Arrangement(SCHEMA, key)
    made.use(store)
    return made


def built(goal: Arrangement, rows: list[pa.RecordBatch], directory: Path, **how: object) -> BulkBuild:
    directory.mkdir(exist_ok=True)
    build = BulkBuild(goal, directory, sum(b.num_rows for b in rows), **how)  # type: ignore[arg-type]
    for batch in rows:
        build.add(batch)
        if build.full:
            build.cut()
    build.cut()
    while build.step():
        pass
    return build


def bag(parts: Iterator[Batch]) -> list[Row]:
    return sorted((tuple(row.values()) for b in parts for row in b.rows.to_pylist()), key=repr)


@pytest.mark.parametrize("key", [[0], [1], [0, 1], []], ids=str)
@pytest.mark.parametrize("most", [1 << 19, 40], ids=["whole ranges", "split ranges"])
def test_rows_and_probes_are_those_of_updates(
    key: list[int], most: int, store: ColdStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MOST_ROWS", most)
    rows = batches(1, 40)
    goal, other = arrangement(key, store), Arrangement(SCHEMA, key)
    built(goal, rows, tmp_path / "b")
    other.update([Batch(b) for b in rows], 1)
    other.commit()
    assert goal.rows() == other.rows()
    assert bag(goal.contents()) == bag(other.contents())
    wanted = batches(2, 60, count=1)[0]
    for nulls in (False, True):
        found = []
        for side in (goal, other):
            pairs = side.probe(wanted, key, side.new(1), nulls_match=nulls)
            found.append(
                sorted(
                    repr((int(p), r)) for places, ids in pairs for p, r in zip(places, side.rows_at(ids).to_pylist())
                )
            )
        assert found[0] == found[1]
    assert null_keyed(goal) == null_keyed(other)


def null_keyed(side: Arrangement) -> list[str]:
    return sorted(repr(row) for ids in side.null_keyed(side.new(1)) for row in side.rows_at(ids).to_pylist())


def test_it_lives_on_like_any_other(store: ColdStore, tmp_path: Path) -> None:
    """Updates, deletes, a checkpoint and its restore."""
    rows = batches(3, 500)
    goal, other = arrangement([0], store), Arrangement(SCHEMA, [0])
    built(goal, rows, tmp_path / "b")
    other.update([Batch(b) for b in rows], 1)
    other.commit()
    gone, come = Batch(rows[0].slice(5, 30)).negate(), Batch(batches(4, 500, count=1)[0])
    saved = goal.changes(True)
    for side in (goal, other):
        side.update([gone, come], 2)
        side.commit()
    saved += goal.changes(False)
    assert goal.unmatched == 0
    again = arrangement([0], store)
    again.load(saved)
    for side in (goal, again):
        assert bag(side.contents()) == bag(other.contents())
        assert side.rows() == other.rows()


@pytest.mark.parametrize("version", [None, 2])
def test_the_newest_row_of_a_key_stays(version: int | None, store: ColdStore, tmp_path: Path) -> None:
    rows = batches(5, 90)
    goal = arrangement([0, 1], store)
    built(goal, rows, tmp_path / "b", replaces=True, version=version)
    newest: dict[Row, Row] = {}
    for row in (tuple(r.values()) for b in rows for r in b.to_pylist()):
        old = newest.get(row[:2])
        if old is None or version is None or _age(row) >= _age(old):
            newest[row[:2]] = row
    assert bag(goal.contents()) == sorted(newest.values(), key=repr)


def _age(row: Row) -> int:
    return -1 if row[2] is None else int(str(row[2]))


@pytest.mark.parametrize("cut", range(1, 12, 3))
def test_a_build_goes_on_from_what_was_saved(cut: int, store: ColdStore, tmp_path: Path) -> None:
    """The first dies after `cut` batches, the second after one part is written, the third goes on to the end."""
    rows, total = batches(6, 500), 12 * 60
    goal = arrangement([0], store)
    directory = tmp_path / "b"
    directory.mkdir()
    first = BulkBuild(goal, directory, total)
    progress, done = first.save(), 0
    for number, batch in enumerate(rows[:cut]):
        first.add(batch)
        if first.full:
            first.cut()
            progress, done = first.save(), number + 1
    first.close()
    second = BulkBuild(goal, directory, total, progress=progress)
    for batch in rows[done:]:
        second.add(batch)
    second.cut()
    progress = second.save()
    while second.parts < 1:
        second.step()
        progress = second.save()
    second.step()
    second.close()
    third = BulkBuild(goal, directory, total, progress=progress)
    while third.step():
        pass
    other = Arrangement(SCHEMA, [0])
    other.update([Batch(b) for b in rows], 1)
    assert bag(goal.contents()) == bag(other.contents())
    third.forget_runs()
    assert not list(directory.glob("*.run"))


def test_an_abandoned_build_leaves_nothing(store: ColdStore, tmp_path: Path) -> None:
    goal = arrangement([0], store)
    (tmp_path / "b").mkdir()
    build = BulkBuild(goal, tmp_path / "b", 720)
    for batch in batches(7, 500):
        build.add(batch)
    build.cut()
    while build.parts < 1:
        build.step()
    build.step()
    build.abandon()
    store.collect(())
    assert not store.segments() and not store.live
    assert not list((tmp_path / "b").iterdir())
