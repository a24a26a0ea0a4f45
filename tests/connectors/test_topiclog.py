"""The embedded log: round trips, atomic appends, torn tails, crashes at every kill point, fencing, retention, live tails."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors import topiclog
from forebay.connectors.topiclog.frames import FULL, PLAIN, commit_frames, frame
from forebay.connectors.topiclog.memory import MemoryFiles
from forebay.connectors.topiclog.store import LogStore, SinkMark, StoreOptions, open_store
from forebay.engine.batch import Batch
from forebay.engine.connector import ColumnSpec, Reader, Registry, Sink, Source, TableSpec, check_options
from forebay.engine.errors import ConnectorError, DataError, OptionError, StateError
from forebay.engine.files import KILL_POINTS, Files, set_kill_hook

from . import plain
from .conftest import drain, table
from .lossy import LossyFiles

COLUMNS = {"id": pa.int64(), "name": pa.string()}
BASE = {"connector": "log", "topic": "t", "format": "plain"}
BOUNDED = BASE | {"scan.bounded.mode": "latest-offset"}


@pytest.fixture(autouse=True)
def fresh_memory() -> Iterator[None]:
    topiclog.forget_memory()
    yield
    topiclog.forget_memory()


def registry(files: Files | None = None) -> Registry:
    made = plain.register(Registry())
    topiclog.register(made, files)
    return made


def source(spec: TableSpec, files: Files | None = None) -> Source:
    connector = registry(files).connector(spec.options["connector"])
    given = {k: v for k, v in spec.options.items() if k != "connector"}
    check_options(given, connector.options, ("plain.",), "connector")
    assert connector.source is not None
    return connector.source(spec)


def sink(spec: TableSpec, files: Files | None = None) -> Sink:
    connector = registry(files).connector(spec.options["connector"])
    assert connector.sink is not None
    return connector.sink(spec)


def batch(first: int, count: int, weights: list[int] | None = None) -> Batch:
    ids = list(range(first, first + count))
    rows = pa.RecordBatch.from_pydict({"id": ids, "name": [f"n{i}" for i in ids]}, pa.schema(list(COLUMNS.items())))
    return Batch(rows, None if weights is None else np.array(weights, np.int64))


def records(values: list[str], timestamps: list[int] | None = None) -> pa.RecordBatch:
    times = timestamps or list(range(len(values)))
    return pa.RecordBatch.from_arrays(
        [pa.array(times), pa.nulls(len(values), pa.binary()), pa.array([v.encode() for v in values])], schema=PLAIN
    )


def values(store: LogStore, topic: str = "t") -> list[list[str]]:
    """Every visible value, by partition."""
    from forebay.connectors.topiclog.frames import read_rows

    found: list[list[str]] = []
    for partition, end in enumerate(store.partitions(topic)):
        mine: list[str] = []
        expected = end.start
        for segment in store.segments(topic, partition):
            if segment > end.segment:
                continue
            for head in store.heads(topic, partition, segment):
                assert head.base == expected
                rows = read_rows(store.files, store.segment_file(topic, partition, segment), head)
                assert rows.num_rows == head.count
                expected += head.count
                mine += [v.decode() for v in rows["value"].to_pylist()]
        assert expected == end.end
        found.append(mine)
    return found


def ids(spec: TableSpec, files: Files | None = None) -> list[int]:
    rows: list[int] = drain(source(spec, files).reader(None))["id"].to_pylist() if spec else []
    return rows


# --- table to table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("partitions", [1, 3])
def test_rows_come_back_in_order_and_from_any_position(tmp_path: Path, on_disk: bool, partitions: int) -> None:
    where: dict[str, Any] = {"warehouse": str(tmp_path) if on_disk else None}
    spec = table(COLUMNS, BOUNDED | {"partitions": str(partitions), "sink.partitioner": "round-robin"}, **where)
    out = sink(spec)
    assert out.recover() is None
    for i in range(5):
        out.write(batch(i * 40, 40))
        out.flush()
    out.commit(1)
    reader = source(spec).reader(None)
    assert reader.splits() == [f"t-{p}" for p in range(partitions)]
    assert reader.lag() == 200
    seen: dict[int, list[int]] = {p: [] for p in range(partitions)}
    for size in (1, 7, 64, 1000):
        fetched = reader.poll(size, 0)
        assert fetched is not None
        assert fetched.batch.num_rows <= max(size, partitions)
        split = np.zeros(fetched.batch.num_rows, int) if fetched.split is None else fetched.split
        for p, i in zip(split, fetched.batch.rows["id"].to_pylist()):
            seen[int(p)].append(i)
        reader = source(spec).reader(reader.positions())
    while (fetched := reader.poll(1000, 0)) is not None:
        split = np.zeros(fetched.batch.num_rows, int) if fetched.split is None else fetched.split
        for p, i in zip(split, fetched.batch.rows["id"].to_pylist()):
            seen[int(p)].append(i)
    assert seen == {p: list(range(p, 200, partitions)) for p in range(partitions)}
    assert reader.finished()


def test_exactly_once_shows_at_commit_and_at_least_once_at_flush() -> None:
    once = table(COLUMNS, BOUNDED | {"sink.delivery-guarantee": "exactly-once"}, job="a")
    least = table(COLUMNS, BOUNDED | {"topic": "other"}, job="b")
    for spec, shown in ((once, []), (least, [1, 2])):
        out = sink(spec)
        out.recover()
        out.write(batch(1, 2))
        out.flush()
        assert ids(spec) == shown if shown else source(spec).reader(None).finished()
        out.commit(7)
        assert sink(spec).recover() == 7
    assert ids(least) == [1, 2]


def test_limit_holds_and_reopens() -> None:
    spec = table(COLUMNS, BASE | {"partitions": "2", "sink.partitioner": "round-robin"})
    out = sink(spec)
    out.recover()
    out.write(batch(0, 20))
    out.commit(1)
    reader = source(spec).reader(None)
    reader.limit({"t-1": 4})
    first = reader.poll(100, 0)
    assert first is not None
    assert first.batch.rows["id"].to_pylist() == [1, 3, 5, 7]
    assert reader.finished()
    assert reader.positions() == {"t-0": 0, "t-1": 4}
    reader.limit(None)
    assert not reader.finished()
    rest = reader.poll(100, 0)
    assert rest is not None
    assert sorted(rest.batch.rows["id"].to_pylist()) == sorted({*range(20)} - {1, 3, 5, 7})


def test_startup_and_bounded_modes() -> None:
    store = open_store(None)
    store.create("t", 2)
    for p in (0, 1):
        store.append({("t", p): records([json.dumps({"id": p * 100 + i}) for i in range(10)], list(range(1000, 1010)))})

    def read(**options: str) -> list[int]:
        given = BOUNDED | {k.replace("_", "."): v for k, v in options.items()}
        spec = table(COLUMNS, {**given})
        reader = source(spec).reader(None)
        return sorted(drain(reader)["id"].to_pylist()) if not reader.finished() else []

    modes = {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": "1008"}
    assert read(**modes) == [8, 9, 108, 109]
    modes = {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": "partition:0,offset:9"}
    assert read(**modes) == [9, *range(100, 110)]
    modes = {"scan.bounded.mode": "timestamp", "scan.bounded.timestamp-millis": "1002"}
    assert read(**modes) == [0, 1, 100, 101]
    offsets = "partition:0,offset:1;partition:1,offset:0"
    assert read(**{"scan.bounded.mode": "specific-offsets", "scan.bounded.specific-offsets": offsets}) == [0]
    assert read(**{"scan.startup.mode": "latest-offset"}) == []


def test_upsert_log_with_tombstones_and_keys_on_one_partition() -> None:
    options = {
        "connector": "upsert-log",
        "topic": "u",
        "key.format": "plain",
        "value.format": "plain",
        "partitions": "4",
    }
    spec = table(COLUMNS, options | {"scan.bounded.mode": "latest-offset"}, primary_key=("id",))
    out = sink(spec)
    out.recover()
    out.write(batch(0, 40))
    out.write(batch(0, 20, [-1] * 20))
    out.write(batch(5, 5))
    out.commit(1)
    latest: dict[int, Any] = {}
    where: dict[int, set[int]] = {}
    reader = source(spec).reader(None)
    while (fetched := reader.poll(9, 0)) is not None:
        assert fetched.split is not None
        for row, weight, p in zip(fetched.batch.rows.to_pylist(), fetched.batch.weight_array(), fetched.split):
            latest[row["id"]] = row["name"] if weight > 0 else None
            where.setdefault(row["id"], set()).add(int(p))
    assert {i for i, v in latest.items() if v is not None} == {*range(5, 10), *range(20, 40)}
    assert all(len(p) == 1 for p in where.values())
    assert len(set.union(*where.values())) == 4


def test_topic_per_row_is_atomic_over_topics_and_patterns_find_them() -> None:
    columns = (ColumnSpec("to", pa.string(), metadata="topic"), ColumnSpec("id", pa.int64()))
    spec = TableSpec(
        "demux", columns, {"connector": "log", "format": "plain", "sink.delivery-guarantee": "exactly-once"}
    )
    pattern = {"connector": "log", "topic-pattern": "db\\..*", "format": "plain"}
    reader = source(table({"id": pa.int64()}, pattern)).reader(None)
    assert reader.poll(10, 0) is None
    out = sink(spec)
    out.recover()
    rows = pa.RecordBatch.from_pydict({"to": ["db.a", "db.b", "db.a"], "id": [1, 2, 3]})
    out.write(Batch(rows))
    assert reader.poll(10, 0) is None
    out.commit(1)
    fetched = reader.poll(10, 0)
    assert fetched is not None
    assert sorted(fetched.batch.rows["id"].to_pylist()) == [1, 2, 3]
    assert reader.splits() == ["db.a-0", "db.b-0"]
    with pytest.raises(DataError, match="names no topic"):
        out.write(Batch(pa.RecordBatch.from_pydict({"to": pa.array([None], pa.string()), "id": [1]})))


def test_metadata_and_dead_letters_carry_topic_partition_and_offset() -> None:
    store = open_store(None)
    store.create("t", 2)
    good = [b'{"id": 1}', b"broken", b'{"id": 3}']
    headers = pa.array([[("a", b"1")], None, None], FULL.field("headers").type)
    rows = [pa.array([10, 20, 30]), pa.array([b"k", None, None]), pa.array(good), headers]
    store.append({("t", 1): pa.RecordBatch.from_arrays(rows, schema=FULL)})
    meta = {"offset": pa.int64(), "partition": pa.int32(), "key": pa.binary(), "headers": FULL.field("headers").type}
    columns = tuple(ColumnSpec(k, t, metadata=k, virtual=True) for k, t in meta.items())
    spec = TableSpec("t", (ColumnSpec("id", pa.int64()), *columns), BASE)
    fetched = source(spec).reader(None).poll(10, 0)
    assert fetched is not None
    assert fetched.batch.rows.to_pylist() == [
        {"id": 1, "offset": 0, "partition": 1, "key": b"k", "headers": [("a", b"1")]},
        {"id": 3, "offset": 2, "partition": 1, "key": None, "headers": None},
    ]
    assert fetched.split is not None
    assert fetched.split.tolist() == [1, 1]
    assert [(d.source, d.partition, d.offset, d.value) for d in fetched.dead] == [("t", 1, 1, b"broken")]
    assert fetched.records == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"connector": "log", "format": "plain"}, "'topic' or 'topic-pattern'"),
        (BASE | {"scan.startup.mode": "timestamp"}, "scan.startup.timestamp-millis"),
        (
            BASE | {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": "0:1"},
            "partition:0,offset:42",
        ),
        (BASE | {"partitions": "0"}, "at least 1"),
        (BASE | {"scan.startup.mod": "earliest-offset"}, "did you mean 'scan.startup.mode'"),
    ],
)
def test_mistakes_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        source(table(COLUMNS, options)).reader(None)


def test_topic_names_cannot_leave_the_directory() -> None:
    for name in ("../x", "a/b", "..", "", "x" * 300):
        with pytest.raises(OptionError, match="name of a topic"):
            open_store(None).create(name, 1)


# --- live ------------------------------------------------------------------------------------------------------------


def test_a_waiting_reader_is_woken_by_a_writer_of_the_process() -> None:
    spec = table(COLUMNS, BASE)
    reader = source(spec).reader(None)
    out = sink(spec)
    out.recover()
    out.write(batch(1, 1))
    thread = threading.Timer(0.05, out.flush)
    thread.start()
    fetched = reader.poll(10, 5)
    thread.join()
    assert fetched is not None
    assert fetched.batch.num_rows == 1


WRITER = """
import sys, pyarrow as pa
from pathlib import Path
from forebay.connectors.topiclog.store import open_store
from forebay.connectors.topiclog.frames import PLAIN
store = open_store(sys.argv[1])
store.create("t", 2)
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    rows = pa.RecordBatch.from_arrays([pa.array([i]), pa.nulls(1, pa.binary()), pa.array([b'{"id": %d}' % i])], schema=PLAIN)
    store.append({("t", i % 2): rows})
"""


def test_two_processes_write_and_a_third_follows(tmp_path: Path) -> None:
    run = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*run, str(lo), str(lo + 40)]) for lo in (0, 100)]
    reader = source(table(COLUMNS, BASE, warehouse=str(tmp_path))).reader(None)
    seen: list[int] = []
    deadline = time.monotonic() + 60
    while len(seen) < 80 and time.monotonic() < deadline:
        fetched = reader.poll(1000, 0.1)
        if fetched is not None:
            seen += fetched.batch.rows["id"].to_pylist()
    assert [w.wait() for w in writers] == [0, 0]
    assert sorted(seen) == [*range(40), *range(100, 140)]


# --- crashes ---------------------------------------------------------------------------------------------------------


def small(files: Files, directory: Path = Path("/w/topics")) -> LogStore:
    return LogStore(directory, files, StoreOptions(segment_bytes=1500, commit_bytes=900))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60))
def test_a_torn_commit_file_shows_all_or_nothing_of_the_last_append(seed: int, cut: int) -> None:
    files = MemoryFiles()
    store = small(files)
    store.create("t", 2)
    store.append({("t", 0): records(["a"]), ("t", 1): records(["b"])})
    before = store._read
    store.append({("t", 0): records(["c"]), ("t", 1): records(["d"])})
    path = store._commit_file(store._number)
    whole = files.size(path)
    keep = before + seed % (whole - before + 1)
    files.truncate(path, keep)
    files.append(path, b"\0" * cut, sync=True)
    again = small(files)
    assert values(again) == ([["a", "c"], ["b", "d"]] if keep == whole else [["a"], ["b"]])
    again.append({("t", 0): records(["e"])})
    assert values(small(files))[0][-1] == "e"


def test_damage_that_is_no_torn_tail_is_told(tmp_path: Path) -> None:
    data = bytearray(frame(b"{}") + frame(b'{"x": 1}') + frame(b"{}"))
    data[20] ^= 1  # in the second frame's payload
    with pytest.raises(StateError, match="damaged"):
        list(commit_frames(bytes(data), tmp_path, 0))
    files = MemoryFiles()
    store = small(files)
    store.create("t", 1)
    store.append({("t", 0): records(["a", "b"])})
    path = store.segment_file("t", 0, 0)
    files._content[path][60] ^= 1
    with pytest.raises(StateError, match="offsets 0 to 1"):
        values(store)


class Crash(BaseException):
    """Ends a simulated process; no handler may stop it."""


def crash_at(point: str, nth: int) -> Callable[[str], None]:
    left = [nth]

    def hook(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] == 0:
                raise Crash

    return hook


def run_job(files: Files, total: int, seed: int, schedule: random.Random) -> None:
    """A process that writes checkpoints 1 .. total, each with known rows, from where the sink stands, until it crashes."""
    spec = table(
        COLUMNS,
        BASE | {"partitions": "2", "sink.delivery-guarantee": "exactly-once", "sink.partitioner": "round-robin"},
        warehouse="/w",
        job="j",
    )
    topiclog.store._stores.clear()
    store = open_store("/w", files)
    store.options = StoreOptions(segment_bytes=1500, commit_bytes=900)
    out = sink(spec, files)
    done = out.recover() or 0
    for checkpoint in range(done + 1, total + 1):
        for first in range(0, 10, 5):
            out.write(batch(checkpoint * 10 + first, 5))
            out.flush()
        out.commit(checkpoint)
        if schedule.random() < 0.3:
            store.retain("t", before=-5, max_bytes=None)  # keeps all, but looks at all


POINTS = sorted(p for p in KILL_POINTS if p.startswith("topiclog."))


@pytest.mark.parametrize("point", [p for p in POINTS if "retain" not in p])
@pytest.mark.parametrize("lossy", [True, False])
def test_exactly_once_whatever_the_instant_of_the_crash(point: str, lossy: bool) -> None:
    for nth in range(1, 9):
        files: MemoryFiles = LossyFiles(nth) if lossy else MemoryFiles()
        schedule = random.Random(nth)
        crashed = 0
        set_kill_hook(crash_at(point, nth))
        try:
            run_job(files, 8, nth, schedule)
        except Crash:
            crashed = 1
            if isinstance(files, LossyFiles):
                files.crash()
        finally:
            set_kill_hook(None)
        assert crashed or nth > 1, f"{point} is never reached"
        run_job(files, 8, nth, schedule)
        found = [json.loads(v)["id"] for part in values(small(files)) for v in part]
        assert sorted(found) == list(range(10, 90))


def test_a_zombie_is_fenced() -> None:
    spec = table(COLUMNS, BOUNDED | {"sink.delivery-guarantee": "exactly-once"}, job="j")
    zombie, owner = sink(spec), sink(spec)
    zombie.recover()
    zombie.write(batch(0, 3))
    owner.recover()
    owner.write(batch(10, 3))
    with pytest.raises(ConnectorError, match="taken over"):
        zombie.commit(5)
    owner.commit(5)
    assert ids(spec) == [10, 11, 12]


# --- retention -------------------------------------------------------------------------------------------------------


def test_retention_removes_whole_old_segments_and_tells_readers() -> None:
    files = MemoryFiles()
    topiclog.store._stores.clear()
    store = open_store("/w", files)
    store.options = StoreOptions(segment_bytes=600, commit_bytes=900)
    store.create("t", 1)
    for i in range(20):
        store.append({("t", 0): records([json.dumps({"id": i})], [i])})
    spec = table(COLUMNS, BOUNDED, warehouse="/w")
    late = source(spec, files).reader({"t-0": 3})
    following = source(spec, files).reader(None)
    fetched = following.poll(18, 0)
    assert fetched is not None
    store.retain("t", before=15, max_bytes=None)
    start = store.partitions("t")[0].start
    assert 10 < start <= 15
    assert min(store.segments("t", 0)) == start
    assert ids(spec, files) == list(range(start, 20))
    assert drain(following)["id"].to_pylist() == [18, 19]
    with pytest.raises(ConnectorError, match="offset 3 of log 't-0' was removed by retention"):
        late.poll(10, 0)
    store.retain("t", before=None, max_bytes=1)
    assert len(store.segments("t", 0)) == 1


@pytest.mark.parametrize("point", [p for p in POINTS if "retain" in p])
def test_a_crash_during_retention_loses_nothing_that_is_kept(point: str) -> None:
    files = MemoryFiles()
    store = small(files)
    store.create("t", 1)
    for i in range(20):
        store.append({("t", 0): records([f"v{i:099}"], [i])})
    set_kill_hook(crash_at(point, 1))
    try:
        with pytest.raises(Crash):
            store.retain("t", before=15, max_bytes=None)
    finally:
        set_kill_hook(None)
    again = small(files)
    start = again.partitions("t")[0].start
    assert start > 0
    rows = _tail(again, start)
    assert rows == [f"v{i:099}" for i in range(start, 20)]


def _tail(store: LogStore, start: int) -> list[str]:
    from forebay.connectors.topiclog.frames import read_rows

    segment, position = store.locate("t", 0, start)
    assert (segment, position) == (start, 0)
    found = []
    for base in (b for b in store.segments("t", 0) if b >= start):
        for head in store.heads("t", 0, base):
            found += read_rows(store.files, store.segment_file("t", 0, base), head)["value"].to_pylist()
    return [v.decode() for v in found]


def test_the_commit_file_stays_small_and_readers_follow_it_over(tmp_path: Path) -> None:
    writer, reader = small(Files(), tmp_path / "topics"), small(Files(), tmp_path / "topics")
    writer.create("t", 1)
    for i in range(60):
        writer.append({("t", 0): records([str(i)])}, "s", SinkMark(0, i))
        if i % 17 == 0:
            assert reader.partitions("t")[0].end == i + 1
    names = [n for n in Files().list(tmp_path / "topics") if n.startswith("commits")]
    assert len(names) == 1
    assert Files().size(tmp_path / "topics" / names[0]) < 3000
    assert values(reader) == [[str(i) for i in range(60)]]
    assert reader.refresh().sinks["s"].checkpoint == 59


def test_reader_is_a_reader() -> None:
    reader = source(table(COLUMNS, BASE)).reader(None)
    assert isinstance(reader, Reader)
    reader.committed(reader.positions())
    reader.close()
