"""The filesystem connector: formats, partitions, positions, bad rows and files, exactly-once writing through crashes."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors import filesystem
from forebay.connectors.filesystem.partitions import directory_of, split_rows, values_of
from forebay.engine.batch import Batch
from forebay.engine.connector import ColumnSpec, Reader, Registry, Sink, Source, TableSpec
from forebay.engine.errors import ConnectorError, DataError, OptionError
from forebay.engine.files import KILL_POINTS, Files, set_kill_hook

from . import plain
from .conftest import drain, table
from .lossy import LossyFiles

COLUMNS = {"id": pa.int64(), "name": pa.string()}


def registry(files: Files | None = None) -> Registry:
    made = plain.register(Registry())
    filesystem.register(made, files)
    return made


def source(spec: TableSpec) -> Source:
    factory = registry().connector("filesystem").source
    assert factory is not None
    return factory(spec)


def sink(spec: TableSpec, files: Files | None = None) -> Sink:
    factory = registry(files).connector("filesystem").sink
    assert factory is not None
    made = factory(spec)
    made.recover()
    return made


def options(path: Path, format_: str = "plain", **more: str) -> dict[str, str]:
    return {"connector": "filesystem", "path": str(path), "format": format_, **more}


def batch(first: int, count: int, **columns: Any) -> Batch:
    ids = list(range(first, first + count))
    data = {"id": pa.array(ids, pa.int64()), "name": pa.array([f"n{i}" for i in ids]), **columns}
    return Batch(pa.RecordBatch.from_pydict(data))


def visible(directory: Path) -> list[str]:
    return sorted(
        str(p.relative_to(directory))
        for p in directory.rglob("*")
        if p.is_file() and not any(part[0] == "." for part in p.relative_to(directory).parts)
    )


def polled(reader: Reader, step: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while not reader.finished():
        fetched = reader.poll(step, 0)
        rows += fetched.batch.rows.to_pylist() if fetched else []
    return rows


# --- lines -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet="ab\r \u00e9", max_size=9), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 5),
)
def test_lines_and_their_offsets(tmp_path_factory: Any, texts: list[str], end: str, ended: bool, step: int) -> None:
    path = tmp_path_factory.mktemp("lines") / "f.json"
    content = end.join(json.dumps({"name": t}) if t else "" for t in texts) + (end if ended else "")
    path.write_bytes(content.encode())
    made = source(table(COLUMNS, options(path)))
    rows = polled(made.reader(None), step)
    assert [r["name"] for r in rows] == [t for t in texts if t]
    reader = made.reader(None)
    seen = []
    while not reader.finished():  # a new reader after every poll
        fetched = reader.poll(step, 0)
        seen += fetched.batch.rows["name"].to_pylist() if fetched else []
        reader = made.reader(reader.positions())
    assert seen == [t for t in texts if t]


def test_bad_lines_become_dead_letters_with_their_byte_offset(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"id": 1}\n{"id": \n{"id": 3}\n')
    fetched = source(table(COLUMNS, options(tmp_path))).reader(None).poll(100, 0)
    assert fetched is not None
    assert fetched.batch.rows["id"].to_pylist() == [1, 3]
    assert [(d.source, d.offset, d.value) for d in fetched.dead] == [("a.json", 10, b'{"id": ')]
    assert fetched.records == 3


def test_compressed_files_resume_at_uncompressed_offsets(tmp_path: Path) -> None:
    lines = b"".join(b'{"id": %d}\n' % i for i in range(1000))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(lines))
    made = source(table(COLUMNS, options(tmp_path)))
    reader = made.reader(None)
    first = reader.poll(300, 0)
    assert first is not None
    rest = polled(made.reader(reader.positions()), 1000)
    assert [*first.batch.rows["id"].to_pylist(), *(r["id"] for r in rest)] == list(range(1000))


def test_a_line_longer_than_a_block(tmp_path: Path) -> None:
    long = "x" * (3 << 20)
    (tmp_path / "a.json").write_text(json.dumps({"name": long}) + "\n" + json.dumps({"name": "y"}))
    assert [len(r["name"]) for r in polled(source(table(COLUMNS, options(tmp_path))).reader(None), 10)] == [3 << 20, 1]


def test_limit_stops_at_records_and_reopens(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.json").write_bytes(b"".join(b'{"id": %d}\n' % i for i in range(5)))
    reader = source(table(COLUMNS, options(tmp_path))).reader(None)
    reader.limit({"a.json": 20})
    assert [r["id"] for r in polled(reader, 10)] == [0, 1]
    assert reader.positions() == {"a.json": 20, "b.json": 0}
    reader.limit({"a.json": "done"})
    assert [r["id"] for r in polled(reader, 10)] == [2, 3, 4]
    reader.limit(None)
    assert [r["id"] for r in polled(reader, 10)] == [0, 1, 2, 3, 4]
    assert reader.positions() == {"a.json": "done", "b.json": "done"}


# --- parquet ---------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, data: dict[str, Any], groups: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(data), path, row_group_size=groups)


@pytest.mark.parametrize("step", [1, 7, 10, 1000])
def test_parquet_rows_from_any_position(tmp_path: Path, step: int) -> None:
    write_parquet(
        tmp_path / "a.parquet", {"id": list(range(35)), "name": [f"n{i}" for i in range(35)], "more": [0] * 35}
    )
    write_parquet(tmp_path / "b.parquet", {"name": ["z"]})
    made = source(table(COLUMNS, options(tmp_path, "parquet")))
    reader, ids = made.reader(None), []
    while not reader.finished():
        fetched = reader.poll(step, 0)
        ids += fetched.batch.rows["id"].to_pylist() if fetched else []
        reader = made.reader(reader.positions())
    assert ids == [*range(35), None]


def test_parquet_types_are_conformed_and_misfits_are_dead(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"id": [1, 2**40, 3], "name": pa.array(["a", "b", "c"]).dictionary_encode()})
    fetched = (
        source(table({"id": pa.int32(), "name": pa.string()}, options(tmp_path, "parquet"))).reader(None).poll(9, 0)
    )
    assert fetched is not None
    assert fetched.batch.rows.to_pylist() == [{"id": 1, "name": "a"}, {"id": 3, "name": "c"}]
    assert [(d.offset, "column 'id'" in d.reason) for d in fetched.dead] == [(1, True)]
    with pytest.raises(ConnectorError, match="is int64, not"):
        source(table({"id": pa.list_(pa.int32())}, options(tmp_path, "parquet"))).reader(None).poll(9, 0)


def test_a_broken_file_is_a_dead_letter_and_the_others_live(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"id": [1]})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing of the kind")
    write_parquet(tmp_path / "c.parquet", {"id": [3]})
    reader = source(table(COLUMNS, options(tmp_path, "parquet"))).reader(None)
    found, dead = [], []
    while not reader.finished():
        fetched = reader.poll(10, 0)
        assert fetched is not None or reader.finished()
        if fetched:
            found += fetched.batch.rows["id"].to_pylist()
            dead += [d.source for d in fetched.dead]
    assert (found, dead) == ([1, 3], ["b.parquet"])


def test_pruned_columns_are_not_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "dt=1" / "a.parquet", {"id": [1, 2], "name": ["a", "b"]})
    columns = COLUMNS | {"dt": pa.int32()}
    for wanted, row in ((("id",), [1, None, None]), (("dt",), [None, None, 1]), ((), [None, None, None])):
        spec = table(columns, options(tmp_path, "parquet"), partitioned_by=("dt",), read_columns=wanted)
        rows = polled(source(spec).reader(None), 10)
        assert len(rows) == 2
        assert [rows[0][c] if c in wanted else None for c in columns] == row


# --- directories -----------------------------------------------------------------------------------------------------


def test_hidden_files_patterns_order_and_a_single_file(tmp_path: Path) -> None:
    for name in ("b/1.json", "a/2.json", "_hidden/3.json", ".x/4.json", "a/.5.json", "_SUCCESS", "c/6.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"name": name}))
    assert source(table(COLUMNS, options(tmp_path))).reader(None).splits() == ["a/2.json", "b/1.json", "c/6.txt"]
    pattern = options(tmp_path) | {"source.path.regex-pattern": ".*/a/.*"}
    assert source(table(COLUMNS, pattern)).reader(None).splits() == ["a/2.json"]
    one = source(table(COLUMNS, options(tmp_path / "b" / "1.json"))).reader(None)
    assert (one.splits(), [r["name"] for r in polled(one, 9)]) == (["1.json"], ["b/1.json"])
    uri = source(table(COLUMNS, options(tmp_path) | {"path": f"file://{tmp_path}/c"})).reader(None)
    assert [r["name"] for r in polled(uri, 9)] == ["c/6.txt"]
    with pytest.raises(ConnectorError, match="there is no"):
        source(table(COLUMNS, options(tmp_path / "missing"))).reader(None)


def test_new_files_are_found_while_running(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"id": 1}\n')
    made = source(table(COLUMNS, options(tmp_path) | {"source.monitor-interval": "10 ms"}))
    assert not made.bounded
    reader = made.reader(None)
    first = reader.poll(10, 0)
    assert first is not None
    assert reader.poll(10, 0.03) is None
    assert not reader.finished()
    (tmp_path / "a.json").write_text('{"id": 2}\n')
    second = reader.poll(10, 5)
    assert second is not None
    assert second.batch.rows["id"].to_pylist() == [2]
    assert second.split is not None
    assert [reader.splits()[i] for i in second.split] == ["a.json"]
    again = made.reader(reader.positions())
    assert again.splits() == ["b.json", "a.json"]
    assert again.poll(10, 0.03) is None
    (tmp_path / "c.json").write_text('{"id": 3}\n')
    time.sleep(0.02)
    third = again.poll(10, 0)  # as the driver asks, which does not wait
    assert third is not None
    assert third.batch.rows["id"].to_pylist() == [3]


def test_a_checkpoint_fixes_the_files_of_a_bounded_input(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": 1}\n')
    made = source(table(COLUMNS, options(tmp_path)))
    reader = made.reader(None)
    (tmp_path / "b.json").write_text('{"id": 2}\n')
    assert polled(made.reader(reader.positions()), 9) == [{"id": 1, "name": None}]


def test_file_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": 1}\n')
    metadata = tuple(ColumnSpec(f"m{i}", t, metadata=k) for i, (k, t) in enumerate(filesystem.o.METADATA.items()))
    spec = TableSpec("t", (ColumnSpec("id", pa.int64()), *metadata), options(tmp_path))
    (row,) = polled(source(spec).reader(None), 9)
    assert (row["m0"], row["m1"], row["m2"]) == (str(tmp_path / "a.json"), "a.json", 10)
    assert abs(row["m3"].timestamp() - (tmp_path / "a.json").stat().st_mtime) < 0.01


# --- partitions ------------------------------------------------------------------------------------------------------

TYPED = {
    "s": (pa.string(), st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable())),
    "i": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "b": (pa.bool_(), st.booleans()),
    "d": (pa.date32(), st.dates()),
    "t": (
        pa.timestamp("ms"),
        st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)).map(lambda v: v.replace(microsecond=0)),
    ),
    "n": (pa.decimal128(9, 2), st.integers(-(10**8), 10**8).map(lambda v: Decimal(v).scaleb(-2))),
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*(st.one_of(st.none(), values) for _, values in TYPED.values())), min_size=1, max_size=6))
def test_partition_values_survive_their_directory_names(given: list[tuple[Any, ...]]) -> None:
    schema = pa.schema([(n, t) for n, (t, _) in TYPED.items()])
    rows = pa.RecordBatch.from_pylist([dict(zip(TYPED, row)) for row in given], schema)
    back: dict[int, dict[str, Any]] = {}
    for directory, at in split_rows(rows, list(TYPED), "__NULL__"):
        values = values_of(f"{directory}/f", schema, list(TYPED), "__NULL__")
        for i in range(len(given)) if at is None else at:
            assert int(i) not in back
            back[int(i)] = {n: v.as_py() for n, v in values.items()}
    assert [back[i] for i in range(len(given))] == rows.to_pylist()


def test_partition_directories_are_named_as_hive_names_them() -> None:
    assert directory_of(("dt", "city"), ("2026-01-31", None), "__D__") == "dt=2026-01-31/city=__D__"
    assert directory_of(("p",), ("a/b:c=%",), "__D__") == "p=a%2Fb%3Ac%3D%25"


def test_partition_columns_are_typed_and_misfits_are_told(tmp_path: Path) -> None:
    for directory in ("dt=2026-01-31/h=7", "dt=__DEFAULT_PARTITION__/h=8", "dt=someday/h=9", "dt=2026-02-01"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "a.json").write_text('{"id": 1}\n')
    columns = {"h": pa.int8(), "id": pa.int64(), "dt": pa.date32()}
    reader = source(table(columns, options(tmp_path), partitioned_by=("dt", "h"))).reader(None)
    rows, dead = [], []
    while not reader.finished():
        fetched = reader.poll(10, 0)
        if fetched:
            rows += fetched.batch.rows.to_pylist()
            dead += [(d.source, d.reason) for d in fetched.dead]
    assert rows == [{"h": 7, "id": 1, "dt": dt.date(2026, 1, 31)}, {"h": 8, "id": 1, "dt": None}]
    assert dead == [
        ("dt=2026-02-01/a.json", "no directory 'h=' in the path"),
        ("dt=someday/h=9/a.json", "partition value 'someday' of 'dt' is not date32[day]"),
    ]


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["plain", "parquet"])
def test_rows_appear_with_the_commit_and_come_back(tmp_path: Path, format_: str) -> None:
    spec = table(COLUMNS | {"dt": pa.string()}, options(tmp_path, format_), partitioned_by=("dt",), job="j")
    out = sink(spec)
    out.write(batch(0, 6, dt=["x", "y", None] * 2))
    assert visible(tmp_path) == []
    assert polled(source(spec).reader(None), 9) == []
    out.commit(3)
    assert visible(tmp_path) == [
        f"dt={d}/part-j_t-0000000003-{i}.{format_}" for i, d in ((2, "__DEFAULT_PARTITION__"), (0, "x"), (1, "y"))
    ]
    rows = polled(source(spec).reader(None), 9)
    assert sorted((r["id"], r["name"], r["dt"]) for r in rows if r["dt"]) == [
        (0, "n0", "x"),
        (1, "n1", "y"),
        (3, "n3", "x"),
        (4, "n4", "y"),
    ]
    assert sorted(r["id"] for r in rows if r["dt"] is None) == [2, 5]


def test_files_roll_by_size_and_success_files_mark_partitions(tmp_path: Path) -> None:
    more = {"sink.rolling-policy.file-size": "200b", "sink.partition-commit.policy.kind": "success-file"}
    out = sink(table(COLUMNS, options(tmp_path) | more))
    for i in range(0, 40, 10):
        out.write(batch(i, 10))
    out.commit(1)
    assert visible(tmp_path) == ["_SUCCESS", *(f"part-t-0000000001-{i}.plain" for i in range(4))]


def test_parquet_row_groups_gather_small_batches(tmp_path: Path) -> None:
    out = sink(table(COLUMNS, options(tmp_path, "parquet", **{"parquet.compression": "zstd"})))
    for i in range(50):
        out.write(batch(i * 10, 10))
    out.commit(1)
    metadata = pq.read_metadata(tmp_path / visible(tmp_path)[0])
    assert (metadata.num_row_groups, metadata.num_rows) == (1, 500)
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_changes(tmp_path: Path) -> None:
    two = Batch(batch(0, 2).rows, np.array([2, 1], np.int64))
    out = sink(table(COLUMNS, options(tmp_path / "a", "parquet")))
    out.write(two)
    out.commit(1)
    assert pq.read_table(tmp_path / "a")["id"].to_pylist() == [0, 0, 1]
    with pytest.raises(DataError, match="append-only"):
        out.write(two.negate())
    log = sink(table(COLUMNS, options(tmp_path / "b", "plain-cdc")))
    log.write(two.negate())
    log.commit(1)
    lines = (tmp_path / "b" / visible(tmp_path / "b")[0]).read_text().splitlines()
    assert [(json.loads(line)["op"], json.loads(line)["row"]["id"]) for line in lines] == [("-", 0), ("-", 0), ("-", 1)]


class Crash(BaseException):
    """Ends a simulated process."""


def crash_at(point: str, nth: int) -> Callable[[str], None]:
    left = [nth]

    def hook(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] == 0:
                raise Crash

    return hook


def run_job(path: Path, format_: str, total: int, files: Files | None = None) -> None:
    more = {"sink.partition-commit.policy.kind": "success-file", "sink.rolling-policy.file-size": "150b"}
    spec = table(COLUMNS | {"p": pa.string()}, options(path, format_) | more, partitioned_by=("p",), job="j")
    factory = registry(files).connector("filesystem").sink
    assert factory is not None
    out = factory(spec)
    done = out.recover() or 0
    for checkpoint in range(done + 1, total + 1):
        for first in (0, 4):
            out.write(batch(checkpoint * 10 + first, 4, p=["x", "y", "x", None]))
        out.flush()
        out.commit(checkpoint)
    out.close()


POINTS = sorted(p for p in KILL_POINTS if p.startswith("filesink."))


@pytest.mark.parametrize("format_", ["plain", "parquet"])
@pytest.mark.parametrize("point", POINTS)
def test_exactly_once_whatever_the_instant_of_the_crash(tmp_path: Path, point: str, format_: str) -> None:
    for nth in (1, 2, 3, 5, 8):
        path = tmp_path / str(nth)
        set_kill_hook(crash_at(point, nth))
        crashed = False
        try:
            run_job(path, format_, 3)
        except Crash:
            crashed = True
        finally:
            set_kill_hook(None)
        assert crashed or nth > 1, f"{point} is never reached"
        run_job(path, format_, 3)
        columns = COLUMNS | {"p": pa.string()}
        rows = polled(source(table(columns, options(path, format_), partitioned_by=("p",))).reader(None), 100)
        assert sorted(r["id"] for r in rows) == [c * 10 + i for c in (1, 2, 3) for i in range(8)]
        assert not list(path.rglob("*.inprogress"))
        assert len(list(path.rglob("_SUCCESS"))) == 3


def test_a_zombie_is_fenced(tmp_path: Path) -> None:
    spec = table(COLUMNS, options(tmp_path), job="j")
    zombie = sink(spec)
    zombie.write(batch(0, 1))
    owner = sink(spec)
    owner.write(batch(5, 1))
    with pytest.raises(ConnectorError, match="taken over"):
        zombie.commit(1)
    owner.commit(1)
    assert drain(source(spec).reader(None))["id"].to_pylist() == [5]


@pytest.mark.parametrize(
    ("more", "spec_more", "message"),
    [
        ({"path": "s3a:/" + "/x"}, {}, "cannot be|cannot write"),
        ({"format": "parkett"}, {}, "did you mean 'parquet'"),
        ({"format": "parquet", "parquet.compresion": "zstd"}, {}, "did you mean 'compression'"),
        ({"format": "parquet", "parquet.compression": "lzma"}, {}, "one of: snappy"),
        ({}, {"partitioned_by": ("dt",)}, "partition column 'dt' is no column"),
        ({}, {"partitioned_by": ("id", "name")}, "no column besides"),
        ({"sink.rolling-policy.file-size": "big"}, {}, "a size such as"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, more: dict[str, str], spec_more: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        sink(table(COLUMNS, options(tmp_path) | more, **spec_more))


@pytest.mark.parametrize("point", POINTS)
def test_exactly_once_on_a_disk_that_forgets_what_was_not_synced(point: str) -> None:
    for nth in range(1, 7):
        files = LossyFiles(nth)
        set_kill_hook(crash_at(point, nth))
        try:
            run_job(Path("/w/t"), "plain", 3, files)
        except Crash:
            files.crash()
        finally:
            set_kill_hook(None)
        run_job(Path("/w/t"), "plain", 3, files)
        found = [
            json.loads(line)["id"]
            for path, content in files._content.items()
            if path.name.startswith("part-")
            for line in bytes(content).splitlines()
        ]
        assert sorted(found) == [c * 10 + i for c in (1, 2, 3) for i in range(8)]
        assert not [p for p in files._content if p.name.endswith(".inprogress")]
