"""What does not fit the memory budget is refused, or stopped as it is, with numbers and a way out; never killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import forebay
from forebay.engine.runtime import budget as module
from forebay.engine.runtime.job import Status

SOURCE = """
CREATE TABLE t (id BIGINT, name STRING) WITH ('connector' = 'datagen', 'rows-per-second' = '0',
  'number-of-rows' = '{rows}', 'fields.id.kind' = 'sequence', 'fields.id.start' = '1', 'fields.id.end' = '{rows}',
  'fields.name.length' = '100');
CREATE TABLE o (n BIGINT) WITH ('connector' = 'blackhole');
"""


@pytest.fixture
def con(monkeypatch: pytest.MonkeyPatch) -> Iterator[forebay.Connection]:
    """A warehouse whose process may have nothing beside the budget, so that the accounts decide."""
    monkeypatch.setattr(module, "FIXED", 0)
    monkeypatch.setattr(module, "_EVERY", 1)
    with forebay.connect() as made:
        made.warehouse.driver.budget._beside = 0
        yield made


def test_a_job_that_needs_more_than_there_is_is_refused(con: forebay.Connection) -> None:
    con.execute(SOURCE.format(rows=10) + "SET 'memory.budget' = '9MB'")
    con.execute(
        "CREATE TABLE u (id BIGINT, a BIGINT, b BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '10')"
    )
    with pytest.raises(forebay.ForebayError, match="the job does not fit the memory budget") as told:
        con.execute("INSERT INTO o SELECT t.id FROM t JOIN u ON t.id = u.id")
    assert told.value.detail is not None and told.value.hint is not None
    assert "at least (blocks from disk 8 MB, Arrange" in told.value.detail and "of 9 MB" in told.value.detail
    assert "SET 'memory.budget' = '" in told.value.hint
    assert con.execute("SHOW JOBS").arrow().num_rows == 0
    con.execute("SET 'memory.budget' = '64MB'")
    con.execute("INSERT INTO o SELECT t.id FROM t JOIN u ON t.id = u.id")


@pytest.mark.parametrize("grouped", [False, pytest.param(True, marks=pytest.mark.faults)])
def test_one_group_that_is_too_large_stops_its_job_alone_and_loses_nothing(
    con: forebay.Connection, grouped: bool
) -> None:
    rows = 300_000
    con.execute(SOURCE.format(rows=rows) + "SET 'memory.budget' = '24MB'")
    con.execute(
        f"CREATE TABLE u (id BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{rows}', 'rows-per-second' = '0')"
    )
    con.execute("CREATE MATERIALIZED VIEW counted AS SELECT COUNT(*) AS n FROM u")
    key = "GROUP BY id - id" if grouped else ""
    con.execute(f"CREATE MATERIALIZED VIEW names AS SELECT COUNT(DISTINCT name) AS n FROM t {key}")
    driver = con.warehouse.driver
    job = driver.jobs["names"]
    assert driver.wait(lambda: job.status is Status.FAILED, None)
    assert isinstance(job.error, forebay.ForebayError)
    assert job.error.message == "the state of names does not fit the memory budget"
    assert "the budget is 24 MB; used are state" in str(job.error.detail)
    assert "RESUME JOB names" in str(job.error.hint)
    assert driver.wait(lambda: driver.jobs["counted"].status is Status.FINISHED, None)
    con.execute("SET 'memory.budget' = '2GB'; RESUME JOB names")
    assert driver.wait(lambda: job.status is Status.FINISHED, None)
    assert con.sql("SELECT n FROM names").fetchall() == con.sql("SELECT n FROM counted").fetchall() == [(rows,)]
