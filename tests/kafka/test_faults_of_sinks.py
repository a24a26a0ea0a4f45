"""Warehouses whose exactly-once sinks meet what Kafka does to transactions: a timeout, a second owner; and dead letters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec

import forebay
from tests.kafka.tables import messages, numbers, send, values
from tests.kafka.test_two_sinks import ids, leave, until
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
TABLES = """
SET 'execution.checkpointing.interval' = '{interval}';
CREATE TABLE src (id BIGINT) WITH ('connector' = 'kafka', 'topic' = '{p}src', 'properties.bootstrap.servers' = '{broker}',
  'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE dst (id BIGINT) WITH ('connector' = 'kafka', 'topic' = '{p}dst', 'properties.bootstrap.servers' = '{broker}',
  'format' = 'json', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '{p}'{more});
INSERT INTO dst SELECT id FROM src;
"""


def tables(prefix: str, broker: Broker, interval: str, more: str = "") -> str:
    named = TABLES.replace("{p}", prefix).replace("{broker}", broker.bootstrap)
    broker.create_topic(f"{prefix}src", 2)
    broker.create_topic(f"{prefix}dst", 2)
    return named.replace("{interval}", interval).replace("{more}", more)


def sent(broker: Broker, topic: str) -> int:
    """Records there, of open and aborted transactions too."""
    return len(messages(broker, topic, "read_uncommitted"))


def test_a_transaction_that_outlives_its_timeout_is_sent_again(broker: Broker, tmp_path: Path) -> None:
    more = ", 'properties.transaction.timeout.ms' = '1000'"
    with forebay.Connection(tmp_path / "w") as con:
        con.execute(tables("t-", broker, "1 h", more))
        send(broker, "t-src", numbers(*range(50)))
        until(lambda: sent(broker, "t-dst") == 50)
        until(lambda: settled(broker, "t-dst"))  # the broker has aborted it
        assert ids(broker, "t-dst") == []
        assert con.checkpoint(30)
        assert ids(broker, "t-dst") == list(range(50))
        assert sent(broker, "t-dst") == 100  # what was aborted, and again
        assert con.jobs["insert_into_dst"].status == "RUNNING"
        send(broker, "t-src", numbers(*range(50, 60)))
        until(lambda: sent(broker, "t-dst") == 110)
        assert con.checkpoint(30)
    assert ids(broker, "t-dst") == list(range(60))


def settled(broker: Broker, topic: str) -> bool:
    """Whether no transaction is open: readers of what is committed may come to the end."""
    admin, ends = broker.admin(), []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        asked = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(2)}
        found = admin.list_offsets(asked, isolation_level=level)
        ends.append({p.partition: f.result().offset for p, f in found.items()})
    return ends[0] == ends[1]


def test_a_zombie_with_an_open_transaction_is_fenced_and_its_rows_vanish(broker: Broker, tmp_path: Path) -> None:
    zombie = forebay.Connection(tmp_path / "old")
    zombie.execute(tables("z-", broker, "1 h"))
    send(broker, "z-src", numbers(*range(20)))
    until(lambda: sent(broker, "z-dst") == 20)
    assert zombie.checkpoint(30)
    send(broker, "z-src", numbers(*range(20, 40)))
    until(lambda: sent(broker, "z-dst") == 40)
    ignored = shutil.ignore_patterns("*.sock", "warehouse.lock")
    shutil.copytree(tmp_path / "old", tmp_path / "new", ignore=ignored)  # as a volume that is mounted elsewhere
    with forebay.Connection(tmp_path / "new") as con:
        until(lambda: sent(broker, "z-dst") == 60)  # those of the open transaction, which is gone, and again
        assert con.checkpoint(30)
        assert ids(broker, "z-dst") == list(range(40))
        zombie.warehouse.driver.checkpoint()
        until(lambda: zombie.jobs["insert_into_dst"].status == "FAILED")
        assert "another writer has taken over" in str(zombie.jobs["insert_into_dst"].error)
        leave(zombie)
        send(broker, "z-src", numbers(*range(40, 50)))
        until(lambda: sent(broker, "z-dst") == 70)
        assert con.checkpoint(30)
    assert ids(broker, "z-dst") == list(range(50))


def test_dead_letters_have_a_topic_of_their_own(broker: Broker, tmp_path: Path) -> None:
    bad = f"""
    CREATE TABLE bad (source STRING, `partition` INT, `offset` BIGINT, `value` STRING)
    WITH ('connector' = 'kafka', 'topic' = 'd-bad', 'properties.bootstrap.servers' = '{broker.bootstrap}', 'format' = 'json',
      'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'd-bad');
    INSERT INTO bad SELECT source, `partition`, `offset`, CAST(`value` AS STRING) FROM dead_letters;
    """
    broker.create_topic("d-bad")
    con = forebay.Connection(tmp_path / "w")
    con.execute(bad + tables("d-", broker, "1 h"))
    send(broker, "d-src", [*numbers(1), b"one", *numbers(2)], partition=1)
    until(lambda: sent(broker, "d-dst") == 2 and sent(broker, "d-bad") == 1)
    leave(con)  # in no checkpoint: both are read and sent again
    with forebay.Connection(tmp_path / "w") as con:
        send(broker, "d-src", [b"two"], partition=0)
        until(lambda: len(con.execute("SHOW DEAD LETTERS").fetchall()) == 2)
        assert con.checkpoint(30)
    found = sorted(json.loads(v or b"")["value"] for v in values(broker, "d-bad"))
    assert found == ["one", "two"]
    assert ids(broker, "d-dst") == [1, 2]
