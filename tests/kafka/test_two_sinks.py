"""Warehouses on real brokers: one of two sinks is away across checkpoints and a restart; groups are deleted behind their back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import forebay
from tests.kafka.tables import numbers, send, values
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
TABLES = """
SET 'execution.checkpointing.interval' = '100 ms';
CREATE TABLE src (id BIGINT) WITH ('connector' = 'kafka', 'topic' = '{p}twice', 'properties.bootstrap.servers' = '{here}',
  'properties.group.id' = '{p}readers', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE one (id BIGINT) WITH ('connector' = 'kafka', 'topic' = '{p}one', 'properties.bootstrap.servers' = '{here}',
  'format' = 'json', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '{p}');
CREATE TABLE two (id BIGINT) WITH ('connector' = 'kafka', 'topic' = '{p}two', 'properties.bootstrap.servers' = '{there}',
  'format' = 'json', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '{p}');
INSERT INTO one SELECT id FROM src;
INSERT INTO two SELECT id * 2 FROM src;
"""


def tables(prefix: str, here: Broker, there: Broker) -> str:
    named = TABLES.replace("{p}", prefix)
    return named.replace("{here}", here.bootstrap).replace("{there}", there.bootstrap)


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def leave(con: forebay.Connection) -> None:
    """End without a last checkpoint, as a killed process does."""
    con.warehouse.close(final_checkpoint=False)
    con._closed = True


def three_checkpoints(con: forebay.Connection) -> None:
    driver = con.warehouse.driver
    first = driver.checkpoint_id
    until(lambda: driver.checkpoint_id >= first + 3 and driver._in_flight is None)


def ids(broker: Broker, topic: str) -> list[int]:
    return sorted(int((v or b"")[6:-1]) for v in values(broker, topic))


def test_one_of_two_sinks_is_away_across_checkpoints_and_a_restart(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Broker(tmp_path / "other")
    other.start()
    try:
        broker.create_topic("a-twice", 4)
        broker.create_topic("a-one")
        other.create_topic("a-two")
        con = forebay.Connection(tmp_path / "w")
        con.execute(tables("a-", broker, other))
        send(broker, "a-twice", numbers(*range(100)))
        until(lambda: len(ids(broker, "a-one")) == 100 and len(ids(other, "a-two")) == 100)
        other.kill()
        for start in (100, 200, 300):
            send(broker, "a-twice", numbers(*range(start, start + 100)))
            three_checkpoints(con)
        until(lambda: len(ids(broker, "a-one")) == 400)  # it does not wait for the other
        leave(con)
        con = forebay.Connection(tmp_path / "w")
        send(broker, "a-twice", numbers(*range(400, 500)))
        three_checkpoints(con)
        other.restart()
        until(lambda: con.warehouse.driver.settled(con.warehouse.driver.jobs["insert_into_two"]) or revive(con), 120)
        until(lambda: len(ids(other, "a-two")) >= 500)
        leave(con)
        assert ids(broker, "a-one") == list(range(500))
        assert ids(other, "a-two") == list(range(0, 1000, 2))
    finally:
        other.stop()


def revive(con: forebay.Connection) -> bool:
    """A sink that was away for longer than its retries leaves a FAILED job, which its owner resumes."""
    job = con.jobs["insert_into_two"]
    if job.status == "FAILED":
        job.resume()
    return False


def test_groups_that_are_deleted_before_a_restart(broker: Broker, tmp_path: Path) -> None:
    """The reader's group is only for people to look at: positions are in the checkpoint. The group of a sink is its memory:
    without it the job says so, and neither loses nor doubles rows by itself."""
    for topic in ("b-twice", "b-one", "b-two"):
        broker.create_topic(topic)
    with forebay.Connection(tmp_path / "w") as con:
        con.execute(tables("b-", broker, broker))
        send(broker, "b-twice", numbers(*range(100)))
        until(lambda: len(ids(broker, "b-one")) == 100 and len(ids(broker, "b-two")) == 100)
    admin = broker.admin()
    groups = [g.group_id for g in admin.list_consumer_groups().result().valid]
    assert "b-readers" in groups
    gone = ["b-readers", *(g for g in groups if "insert_into_two" in g)]
    assert len(gone) == 2, groups
    for future in admin.delete_consumer_groups(gone).values():
        future.result()
    with forebay.Connection(tmp_path / "w") as con:
        send(broker, "b-twice", numbers(*range(100, 150)))
        until(lambda: len(ids(broker, "b-one")) == 150)
        until(lambda: con.jobs["insert_into_two"].status == "FAILED")
        assert "forgotten" in str(con.jobs["insert_into_two"].error)
    assert ids(broker, "b-one") == list(range(150))
    assert ids(broker, "b-two") == list(range(0, 200, 2))
