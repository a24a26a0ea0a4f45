"""What the options of a history say, refuse and leave out; gaps between a history and its stream."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import forebay
from forebay.connection import Connection
from forebay.connectors.topiclog import open_store
from forebay.connectors.topiclog.frames import PLAIN
from forebay.connectors.topiclog.store import StoreOptions
from forebay.engine.errors import ConnectorError, OptionError, StateError
from tests.bootstrap.orders import wait_for

UNTIL = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def con(tmp_path: Path) -> Iterator[Connection]:
    with forebay.connect(tmp_path / "w", attach=False) as connection:
        yield connection


def files(root: Path, rows: dict[str, list[tuple[int, datetime]]]) -> None:
    """Rows (id, ts) per directory."""
    for directory, part in rows.items():
        (root / directory).mkdir(parents=True)
        columns = [
            pa.array([r[0] for r in part]),
            pa.array([r[1].replace(tzinfo=None) for r in part], pa.timestamp("ms")),
        ]
        pq.write_table(pa.table(columns, names=["id", "ts"]), root / directory / "a.parquet")


def table(root: Path, more: str = "") -> str:
    return f"""
    CREATE TABLE t (id BIGINT, ts TIMESTAMP(3), dt STRING) WITH (
      'connector' = 'log', 'topic' = 't', 'format' = 'json',
      'bootstrap.path' = '{root}/h', 'bootstrap.partition-keys' = 'dt', 'bootstrap.until' = '2026-11-01 12:00:00' {more})
    """


def append(warehouse: Path, rows: list[tuple[int, datetime, int]]) -> None:
    """Records (id, event time, minutes after UNTIL at which they were written)."""
    store = open_store(str(warehouse))
    store.create("t", 1)
    values = [f'{{"id": {i}, "ts": "{ts:%Y-%m-%d %H:%M:%S}"}}'.encode() for i, ts, _ in rows]
    times = [int((UNTIL + timedelta(minutes=m)).timestamp() * 1000) for _, _, m in rows]
    arrays = [pa.array(times), pa.nulls(len(rows), pa.binary()), pa.array(values, pa.binary())]
    store.append({("t", 0): pa.RecordBatch.from_arrays(arrays, schema=PLAIN)})


def test_partitions_from_the_end_on_are_not_read_and_their_names_are_values(con: Connection, tmp_path: Path) -> None:
    day = timedelta(days=1)
    files(
        tmp_path / "h",
        {
            "dt=2026-10-31": [(1, UNTIL - day)],
            "dt=20261101": [(2, UNTIL - timedelta(minutes=1)), (3, UNTIL)],
            "dt=2026-11-02": [(4, UNTIL - day)],
            "dt=other": [(5, UNTIL - day)],
        },
    )
    append(tmp_path / "w", [(3, UNTIL, 0), (6, UNTIL - timedelta(seconds=1), 1), (7, UNTIL + day, 2)])
    con.execute(table(tmp_path, ", 'bootstrap.time-column' = 'ts'"))
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT id, dt FROM t")
    expected = [(1, "2026-10-31"), (2, "20261101"), (3, None), (5, "other"), (7, None)]
    wait_for(lambda: con.jobs["v"].status == "RUNNING")
    wait_for(lambda: sorted(con.sql("SELECT * FROM v").fetchall()) == expected)


def test_a_job_that_is_made_later_begins_where_the_table_is(con: Connection, tmp_path: Path) -> None:
    """So docs/bootstrap.md says of state-only: its sink gets what comes from then on, joined to all that there is."""
    files(tmp_path / "h", {"dt=2026-10-01": [(1, UNTIL - timedelta(days=31)), (2, UNTIL - timedelta(days=31))]})
    append(tmp_path / "w", [(3, UNTIL, 1)])
    con.execute(table(tmp_path, ", 'bootstrap.time-column' = 'ts'"))
    con.execute("CREATE TABLE names (id BIGINT, name STRING); INSERT INTO names VALUES (1, 'one'), (3, 'three')")
    for sink in ("first", "later"):
        con.execute(
            f"CREATE TABLE {sink} (id BIGINT, name STRING) WITH ('connector' = 'log', 'topic' = '{sink}', "
            f"'format' = 'debezium-json', 'scan.startup.mode' = 'earliest-offset');"
            f"CREATE MATERIALIZED VIEW {sink}_got AS SELECT * FROM {sink};"
            f"INSERT INTO {sink} SELECT t.id, n.name FROM t JOIN names n ON n.id = t.id"
        )
        got = lambda view: sorted(con.sql(f"SELECT * FROM {view}_got").fetchall())
        wait_for(lambda: con.checkpoint(30) and got("first") == [(3, "three")])
    con.execute("INSERT INTO names VALUES (2, 'two')")
    append(tmp_path / "w", [(1, UNTIL, 2)])
    whole = [(1, "one"), (2, "two")]
    wait_for(lambda: con.checkpoint(30) and got("later") == whole)
    assert got("first") == [*whole, (3, "three")]


def test_a_watermark_column_is_the_seam_of_a_table_without_a_key(con: Connection, tmp_path: Path) -> None:
    files(tmp_path / "h", {"dt=2026-11-01": [(1, UNTIL - timedelta(hours=1)), (2, UNTIL + timedelta(hours=1))]})
    append(tmp_path / "w", [(2, UNTIL + timedelta(hours=1), 60)])
    con.execute(table(tmp_path).replace("dt STRING", "dt STRING, WATERMARK FOR ts AS ts - INTERVAL '1' HOUR"))
    with con.stream("SELECT id FROM t") as stream:
        seen: list[int] = []
        wait_for(lambda: seen.extend(row[0] for _, row in stream.fetch(0.1)) or sorted(seen) == [1, 2])
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT id FROM t")
    wait_for(lambda: con.jobs["v"].status == "RUNNING")
    wait_for(lambda: sorted(con.sql("SELECT id FROM v").fetchall()) == [(1,), (2,)])


def test_a_gap_is_told_and_can_be_accepted(con: Connection, tmp_path: Path) -> None:
    files(tmp_path / "h", {"dt=2026-10-31": [(1, UNTIL - timedelta(days=1))]})
    store = open_store(str(tmp_path / "w"))
    store.options = StoreOptions(segment_bytes=1)
    for number, minutes in enumerate((1, 90, 91, 92)):
        append(tmp_path / "w", [(2 + number, UNTIL, minutes)])
    store.retain("t", int((UNTIL + timedelta(minutes=60)).timestamp() * 1000), None)
    con.execute(table(tmp_path))
    with pytest.raises(ConnectorError) as raised:
        con.execute("CREATE MATERIALIZED VIEW v AS SELECT id FROM t")
    assert "the history ends at 2026-11-01 12:00:00 UTC" in str(raised.value)
    assert "t-0: begins at 2026-11-01 13:30:00 UTC" in str(raised.value)
    assert "'bootstrap.fail-on-gap' = 'false'" in str(raised.value)
    con.execute("ALTER TABLE t SET ('bootstrap.fail-on-gap' = 'false')")
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT id FROM t")
    wait_for(lambda: con.jobs["v"].status == "RUNNING")
    wait_for(lambda: sorted(con.sql("SELECT id FROM v").fetchall()) == [(1,), (3,), (4,), (5,)])


REFUSED = [
    ("'bootstrap.path' = '/h'", "needs option 'bootstrap.until'"),
    ("'bootstrap.until' = '2026-11-01'", "needs option 'bootstrap.path'"),
    ("'bootstrap.path' = '', 'bootstrap.until' = '2026-11-01'", "option 'bootstrap.path' is empty"),
    ("'bootstrap.path' = '/h', 'bootstrap.until' = 'soon'", "cannot be 'soon'"),
    ("'bootstrap.path' = '/h', 'bootstrap.until' = '2026-11-01', 'bootstrap.version' = 'id'", "PRIMARY KEY"),
    ("'bootstrap.path' = '/h', 'bootstrap.until' = '2026-11-01', 'bootstrap.time-column' = 'tz'", "names 'tz'"),
    ("'bootstrap.path' = '/h', 'bootstrap.until' = '2026-11-01', 'bootstrap.time-column' = 'id'", "no TIMESTAMP"),
    ("'bootstrap.path' = '/h', 'bootstrap.until' = '2026-11-01', 'bootstrap.mode' = 'all'", "cannot be 'all'"),
    ("'bootstrap.paths' = '/h'", "did you mean 'bootstrap.path'?"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED)
def test_options_that_do_not_fit_are_refused_when_the_table_is_made(con: Connection, options: str, told: str) -> None:
    with pytest.raises(OptionError) as raised:
        con.execute(
            f"CREATE TABLE t (id BIGINT, ts TIMESTAMP(3)) WITH ('connector' = 'log', 'topic' = 't', 'format' = 'json', {options})"
        )
    assert told in str(raised.value)
    assert raised.value.line is not None


def test_without_files_the_job_says_so(con: Connection, tmp_path: Path) -> None:
    con.execute(table(tmp_path))
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT id FROM t")
    with pytest.raises(StateError, match="v is not there yet"):
        con.sql("SELECT * FROM v")
    with pytest.raises(ConnectorError, match=r"there is no .*/h"):
        con.jobs["v"].wait()
