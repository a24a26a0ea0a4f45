"""Cold rows: whatever is sealed is found by its hash, gathered with every type, survives merging and a new opening."""

from __future__ import annotations

import random
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from forebay.engine.errors import StateError
from forebay.engine.state import arrays
from forebay.engine.state import cold as module
from forebay.engine.state.arrays import hash_rows
from forebay.engine.state.cold import COLD, ColdRows, Deaths
from forebay.engine.state.coldstore import ColdStore

SCHEMA = pa.schema(
    [
        ("k", pa.int64()),
        ("name", pa.string()),
        ("flag", pa.bool_()),
        ("small", pa.int16()),
        ("f", pa.float64()),
        ("price", pa.decimal128(20, 2)),
        ("day", pa.date32()),
        ("at", pa.timestamp("us")),
        ("raw", pa.binary()),
        ("tags", pa.list_(pa.string())),
        ("pos", pa.struct([("x", pa.int32()), ("y", pa.string())])),
    ]
)


def rows_of(keys: range, seed: int = 0) -> pa.RecordBatch:
    rng = random.Random(seed)

    def maybe(value: object) -> object:
        return None if rng.random() < 0.1 else value

    return pa.RecordBatch.from_pylist(
        [
            {
                "k": k,
                "name": maybe("n" * rng.randrange(30) + str(k)),
                "flag": maybe(rng.random() < 0.5),
                "small": maybe(rng.randrange(-100, 100)),
                "f": maybe(rng.random()),
                "price": maybe(Decimal(rng.randrange(10**12)) / 100),
                "day": maybe(date(2026, 1, 1 + k % 28)),
                "at": maybe(datetime(2026, 1, 1, k % 24)),
                "raw": maybe(bytes([k % 256]) * rng.randrange(5)),
                "tags": maybe([str(k), None]),
                "pos": maybe({"x": k % 1000, "y": None}),
            }
            for k in keys
        ],
        schema=SCHEMA,
    )


def sealed(cold: ColdRows, rows: pa.RecordBatch, first_id: int) -> None:
    hashes = hash_rows(rows, [0])
    order = np.argsort(hashes)
    builder = cold.builder(rows.num_rows)
    builder.add(rows.take(pa.array(order)), hashes[order], order + first_id)
    cold.add(builder.finish())


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = ColdStore(tmp_path / "cold")
    yield made
    made.close()


def found(cold: ColdRows, keys: pa.RecordBatch) -> dict[int, dict[str, object]]:
    out = {}
    for which, handles, _ in cold.find(hash_rows(keys, [0])):
        assert (handles >= COLD).all()
        for i, row_id, row in zip(which, cold.ids(handles), cold.gather(handles).to_pylist()):
            assert row["k"] == keys.column(0)[int(i)].as_py()
            out[int(row_id)] = row
    return out


def test_every_type_is_found_and_gathered(store: ColdStore) -> None:
    cold = ColdRows(SCHEMA, store)
    rows = rows_of(range(3000))
    sealed(cold, rows.slice(0, 2000), 1)
    sealed(cold, rows.slice(2000), 2001)
    assert cold.rows() == 3000
    keys = pa.RecordBatch.from_pydict({"k": pa.array([0, 5, 1999, 2000, 2999, 3000, -1])})
    expected = {k + 1: rows.slice(k, 1).to_pylist()[0] for k in (0, 5, 1999, 2000, 2999)}
    assert found(cold, keys) == expected
    handles = np.concatenate(list(cold.scan()))
    mixed = np.random.default_rng(1).permutation(handles)
    again = cold.gather(mixed, [0, 1])
    assert again.schema.names == ["k", "name"]
    assert (again.column(0).to_numpy() == cold.ids(mixed) - 1).all()
    assert again.column(1).to_pylist() == rows.column(1).take(pa.array(cold.ids(mixed) - 1)).to_pylist()
    assert cold.gather(handles[:0]).num_rows == 0


def test_many_rows_of_one_hash_span_blocks(store: ColdStore) -> None:
    schema = pa.schema([("k", pa.int64()), ("v", pa.int64())])
    cold = ColdRows(schema, store)
    keys = np.r_[np.zeros(5000, np.int64), np.arange(1, 500)]
    sealed(cold, pa.RecordBatch.from_arrays([pa.array(keys), pa.array(np.arange(keys.size))], schema=schema), 1)
    probe = pa.RecordBatch.from_pydict({"k": pa.array([0, 7])})
    assert sorted(found(cold, probe)) == [*range(1, 5001), 5007]


def test_wide_rows(store: ColdStore) -> None:
    schema = pa.schema([("k", pa.int64()), ("v", pa.string())])
    cold = ColdRows(schema, store)
    rows = pa.RecordBatch.from_pydict({"k": range(20), "v": [str(k) * 1_000_000 for k in range(20)]}, schema=schema)
    sealed(cold, rows, 1)
    handles = np.concatenate(list(cold.scan()))
    assert sorted(cold.gather(handles).column(1).to_pylist()) == sorted(rows.column(1).to_pylist())


def test_merging_keeps_what_is_alive(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 700)
    monkeypatch.setattr(module, "FAN", 4)
    monkeypatch.setattr(module, "DEAR", 0)
    cold = ColdRows(SCHEMA, store)
    rows = rows_of(range(4000), seed=3)
    for at in range(0, 4000, 1000):
        sealed(cold, rows.slice(at, 1000), at + 1)
    cold.dead.set(np.arange(1, 4001, 4))
    steps = 0
    while cold.maintain():
        steps += 1
        if steps == 3:
            cold.dead.set(np.arange(2, 4001, 4))  # die while the merge is under way
    assert (steps, len(cold.segments), cold.merges) == (6, 1, 1)
    assert cold.rows() < 3000 + 1
    alive = {k: v for k, v in found(cold, rows.select(["k"])).items() if not cold.dead.test(np.array([k]))[0]}
    assert alive == {k + 1: rows.slice(k, 1).to_pylist()[0] for k in range(4000) if k % 4 > 1}


def test_a_store_is_opened_again_and_collects(tmp_path: Path) -> None:
    store = ColdStore(tmp_path / "cold")
    cold = ColdRows(SCHEMA, store)
    rows = rows_of(range(300))
    for at in range(0, 300, 100):
        sealed(cold, rows.slice(at, 100), at + 1)
    first, second, third = cold.segments
    store.collect([])
    assert store.segments() == [first, second, third]
    store.close()
    store = ColdStore(tmp_path / "cold")
    again = ColdRows(SCHEMA, store)
    again.open([first, third])
    keys = rows.select(["k"])
    assert sorted(found(again, keys)) == [*range(1, 101), *range(201, 301)]
    store.collect([first, third])
    assert store.segments() == [first, third]
    with pytest.raises(StateError, match="is missing"):
        again.open([second])
    assert sorted(found(again, keys)) == [*range(1, 101), *range(201, 301)]
    assert store.new_segment() > third
    store.close()


@pytest.mark.parametrize("how", ["direct", "moved", "without", "rocksdb"])
def test_blocks_are_read_where_they_lie_or_by_rocksdb(
    how: str, store: ColdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that lie elsewhere than is noted, or that the system cannot read past RocksDB, are read by it."""
    asked: list[bytes] = []
    get = store._get
    monkeypatch.setattr(store, "_get", lambda keys: asked.extend(keys) or get(keys))
    cold = ColdRows(SCHEMA, store)
    rows = rows_of(range(3000))
    for part in range(3):
        sealed(cold, rows.slice(1000 * part, 1000), 1 + 1000 * part)
    for segment in cold.segments.values():
        extents = segment.places.extents
        assert extents is not None
        if how == "moved":
            extents.starts[1:3] += 1
        elif how == "rocksdb":
            segment.places.extents = None
    if how == "without":
        monkeypatch.setattr(store._reader, "_off", True)
    asked.clear()
    got = found(cold, rows.select(["k"]))
    assert [got[k + 1] for k in range(3000)] == rows.to_pylist()
    read = store.read_blocks
    assert read == sum(s.fences.shape[0] for s in cold.segments.values())
    assert len(asked) == {"direct": 0, "moved": 6, "without": read, "rocksdb": read}[how]
    assert all((s.places.extents is None) == (how in ("moved", "rocksdb")) for s in cold.segments.values())
    part = [n for n in store.segments() if n != 2]
    cold.segments[2].places.at[:] = 0
    store.forget(cold.segments[2].places)
    store.collect(part)
    with pytest.raises(StateError, match="cold state is missing"):
        found(cold, rows.select(["k"]))


def test_blocks_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.state.coldstore.CACHE", 20_000)
    monkeypatch.setattr("forebay.engine.state.coldstore.ColdStore.loaded", 12_000)
    store = ColdStore(None)
    cold = ColdRows(SCHEMA, store)
    rows = rows_of(range(2000))
    sealed(cold, rows, 1)
    keys = rows.select(["k"])
    for seed in range(5):
        some = keys.take(pa.array(np.random.default_rng(seed).permutation(2000)[:300]))
        assert len(found(cold, some)) == 300
    assert store.nbytes() < 200_000
    directory = store.directory
    assert store.disk_bytes() > 100_000
    store.close()
    assert not directory.exists()


def test_deaths_are_bits() -> None:
    deaths = Deaths()
    ids = np.array([1, 8, 65535, 65536, 200_000])
    deaths.set(ids)
    assert deaths.test(np.array([1, 2, 8, 65535, 65536, 65537, 200_000, 10**9])).tolist() == [1, 0, 1, 1, 1, 0, 1, 0]
    deaths.set(ids[:2], False)
    again = Deaths()
    again.load(deaths.save())
    assert again.test(ids).tolist() == [0, 0, 1, 1, 1]


def test_segments_are_merged_when_looking_through_them_was_as_dear(
    store: ColdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAN", 4)
    cold, rows = ColdRows(SCHEMA, store), rows_of(range(4000))
    for part in range(4):
        sealed(cold, rows.slice(1000 * part, 1000), 1 + 1000 * part)
    assert not cold.maintain()
    hashes = hash_rows(rows, (0,))
    for _ in range(module.DEAR - 1):
        assert sum(ids.size for _, _, ids in cold.find(hashes[:1000])) == 1000
        assert not cold.maintain()
    list(cold.find(hashes[:1000]))
    while cold.maintain():
        pass
    assert [s.rows for s in cold.segments.values()] == [4000]


def test_segments_that_are_half_dead_are_merged(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAN", 4)
    cold, rows = ColdRows(SCHEMA, store), rows_of(range(4000))
    for part in range(4):
        sealed(cold, rows.slice(1000 * part, 1000), 1 + 1000 * part)
    for _, handles, ids in cold.find(hash_rows(rows.slice(1000, 2000), (0,))):
        assert not cold.maintain()
        cold.kill(handles, ids)
    while cold.maintain():
        pass
    assert [(s.rows, s.dead) for s in cold.segments.values()] == [(2000, 0)]


@pytest.mark.parametrize("kind", [pa.int64(), pa.int16(), pa.date32(), pa.timestamp("ms"), pa.string()])
def test_segments_of_other_keys_are_not_looked_at(tmp_path: Path, kind: pa.DataType) -> None:
    schema = pa.schema([("k", kind), ("v", pa.int64())])
    cold = ColdRows(schema, ColdStore(tmp_path / "cold"), key=0)

    def keys_of(numbers: range) -> pa.Array:
        if kind == pa.string():
            return pa.array([str(n) for n in numbers])
        return (
            pa.array(numbers, pa.int32()).cast(kind)
            if kind == pa.date32()
            else pa.array(numbers, pa.int64()).cast(kind)
        )

    parts = [range(-300, -100), range(-100, 100), range(100, 300)]
    for number, part in enumerate(parts):
        keys = pa.concat_arrays([keys_of(part), pa.nulls(number, kind)])
        sealed(cold, pa.RecordBatch.from_arrays([keys, pa.array(range(len(keys)))], schema=schema), 1 + 1000 * number)

    def told(cold: ColdRows, numbers: range) -> tuple[list[int], list[int]]:
        """The ids found, and how many keys each segment was asked for."""
        keys = keys_of(numbers)
        hashes = hash_rows(pa.RecordBatch.from_arrays([keys], ["k"]), [0])
        before = [s.asked for s in cold.segments.values()]
        ordinals = arrays.ordinals(keys)
        cold.prepare(hashes, keys=np.zeros(0, np.int64) if ordinals is None else ordinals)
        ids = sorted(int(i) for _, _, found in cold.find(hashes) for i in found)
        return ids, [s.asked - b for s, b in zip(cold.segments.values(), before)]

    expected = [*range(101, 201), *range(1001, 1051)]
    ordered = kind != pa.string()
    assert told(cold, range(-200, -50)) == (expected, [100, 50, 0] if ordered else [150] * 3)
    assert told(cold, range(1000, 1100)) == ([], [0, 0, 0] if ordered else [100] * 3)
    again = ColdRows(schema, cold.store, key=0)
    again.open(list(cold.segments))
    assert told(again, range(-200, -50)) == (expected, [100, 50, 0] if ordered else [150] * 3)
    null = hash_rows(pa.RecordBatch.from_arrays([pa.nulls(1, kind)], ["k"]), [0])
    assert sorted(int(i) for _, _, ids in again.find(null) for i in ids) == [1201, 2201, 2202]
    cold.store.close()
