"""A job that has failed, and a restart: it goes on from where it stood, and gives exactly what one gives that never failed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import forebay
from forebay.engine.errors import ForebayError

BROKEN: set[int] = set()
"""Values that the function cannot digest."""


@forebay.udf(["BIGINT"], "BIGINT")
def digest(v: pa.Array) -> pa.Array:
    if BROKEN & set(v.to_pylist()):
        raise ValueError("indigestible")
    return pc.multiply(v, 2)


TABLES = """
CREATE TABLE orders (id BIGINT, v BIGINT, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, w BIGINT);
CREATE TABLE doubled (id BIGINT, v BIGINT, w BIGINT) WITH
  ('connector' = 'log', 'topic' = 'doubled', 'format' = 'debezium-json', 'sink.delivery-guarantee' = 'exactly-once',
   'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE plain (id BIGINT, v BIGINT, w BIGINT) WITH
  ('connector' = 'log', 'topic' = 'plain', 'format' = 'debezium-json', 'sink.delivery-guarantee' = 'exactly-once',
   'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset');
INSERT INTO plain SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
INSERT INTO doubled SELECT o.id, digest(o.v), r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;
"""


def opened(path: Path) -> forebay.Connection:
    return forebay.Connection(path, resume=False, functions=[digest])


def settle(con: forebay.Connection) -> None:
    """Run without threads until there is nothing to do, and have the sinks commit."""
    driver = con.warehouse.driver
    for _ in range(2):
        while driver.step():
            pass
        driver.checkpoint()
        for job in driver.jobs.values():
            for runner in job.runners:
                while runner.step():
                    pass


def change(con: forebay.Connection, rng: random.Random, rounds: int) -> None:
    for _ in range(rounds):
        key = rng.randrange(20)
        con.execute(
            rng.choice(
                (
                    f"INSERT INTO orders VALUES ({key}, {rng.randrange(1000)})",
                    f"DELETE FROM orders WHERE id = {key}",
                    f"INSERT INTO refunds VALUES ({key}, {rng.randrange(9)})",
                    f"DELETE FROM refunds WHERE order_id = {key}",
                )
            )
        )


def written(con: forebay.Connection, topic: str) -> Counter[Any]:
    return Counter(con.sql(f"SELECT * FROM {topic}").fetchall())


@pytest.mark.parametrize("seed", range(6))
def test_a_job_that_failed_before_restarts_equals_one_that_never_did(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    BROKEN.clear()
    with opened(tmp_path / "w") as con:
        con.execute(TABLES)
        change(con, rng, 20)
        BROKEN.update(range(0, 1000, 1 + seed % 2))
        con.execute("INSERT INTO orders VALUES (5, 500)")
        assert con.jobs["insert_into_doubled"].status in ("RESTARTING", "FAILED")
        change(con, rng, 10)
        settle(con)
        change(con, rng, 10 * (seed % 3))  # what no checkpoint knows: it comes back as DML
    for _ in range(1 + seed % 2):
        with opened(tmp_path / "w") as con:  # and fails again
            settle(con)
            assert con.jobs["insert_into_doubled"].status == "RESTARTING"
            change(con, rng, 10)
            settle(con)
    BROKEN.clear()
    with opened(tmp_path / "w") as con:
        change(con, rng, 5)
        settle(con)
        assert con.jobs["insert_into_doubled"].status == "RUNNING"
        change(con, rng, 5)
        settle(con)
        con.resume()
        expected = Counter(
            con.sql("SELECT o.id, o.v, r.w FROM orders o LEFT JOIN refunds r ON r.order_id = o.id").fetchall()
        )
        assert expected
        assert written(con, "plain") == expected
        assert written(con, "doubled") == Counter({(i, v * 2, w): n for (i, v, w), n in expected.items()})


def test_a_job_that_missed_too_much_stays_failed_and_tells_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN.clear()
    with opened(tmp_path / "w") as con:
        con.execute(TABLES)
        monkeypatch.setattr(con.warehouse.driver.flow, "retain_bytes", 1)
        BROKEN.add(500)
        con.execute("INSERT INTO orders VALUES (5, 500)")
        settle(con)
    BROKEN.clear()
    with opened(tmp_path / "w") as con:
        settle(con)
        job = con.jobs["insert_into_doubled"]
        assert job.status == "FAILED"
        with pytest.raises(ForebayError, match=r"state\.retain\.max"):
            job.resume()
        con.resume()
        assert written(con, "plain") == Counter([(5, 500, None)])
