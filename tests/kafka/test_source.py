"""The Kafka source on a real broker: where it starts and ends, limits, discovery, retention, groups, changes, poison."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition

from forebay.connectors import default_registry
from forebay.connectors.kafka.reader import KafkaReader
from forebay.engine.connector import ColumnSpec, Rate
from forebay.engine.errors import ConnectorError, OptionError
from tests.kafka.tables import ID, NAME, SECONDS, numbers, open_reader, send, spec
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
OFFSET = ColumnSpec("off", pa.int64(), metadata="offset", virtual=True)
END = {"scan_bounded_mode": "latest-offset"}


def _read(reader: KafkaReader, most: int = 100) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Rows with their weights, and dead letters, up to the end."""
    rows, dead, deadline = [], [], time.monotonic() + SECONDS
    while not reader.finished():
        assert time.monotonic() < deadline
        fetched = reader.poll(most, 0.2)
        if fetched is not None:
            columns = [c.to_pylist() for c in fetched.batch.rows.columns]
            rows += list(zip(*columns, fetched.batch.weight_array().tolist()))
            dead += fetched.dead
            assert fetched.split is None or len(fetched.split) == fetched.batch.num_rows
    return rows, dead


def _ids(reader: KafkaReader, most: int = 100) -> list[int]:
    """The ids up to the end, sorted; closes the reader."""
    found = sorted(row[0] for row in _read(reader, most)[0])
    reader.close()
    return found


def _wait_for(reader: KafkaReader, ids: set[int]) -> None:
    """Poll until exactly these ids have come, of a reader without end."""
    seen: list[int] = []
    deadline = time.monotonic() + SECONDS
    while set(seen) != ids:
        assert time.monotonic() < deadline, seen
        fetched = reader.poll(100, 0.1)
        seen += [] if fetched is None else fetched.batch.rows["id"].to_pylist()
    assert len(seen) == len(ids)


# -- where it ends ------------------------------------------------------------------------------------------------


def test_bounded_end_behind_control_records_and_aborted_rows(broker: Broker, way: str) -> None:
    topic = f"transactional-{way}"
    broker.create_topic(topic)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "x"})
    producer.init_transactions(SECONDS)
    for i, commit in enumerate((True, False)):
        producer.begin_transaction()
        producer.produce(topic, b'{"id": %d}' % i)
        producer.flush(SECONDS)
        producer.commit_transaction(SECONDS) if commit else producer.abort_transaction(SECONDS)
    reader = open_reader(broker, topic, ID, OFFSET, **END)
    assert _read(reader) == ([(0, 0, 1)], [])
    assert reader.positions() == {f"{topic}-0": 4}
    reader.close()


def test_bounded_modes(broker: Broker) -> None:
    broker.create_topic("ends")
    for i in range(5):
        send(broker, "ends", numbers(i), timestamp=1000 * (i + 1))
    end = {"scan_bounded_mode": "timestamp", "scan_bounded_timestamp__millis": "3000"}
    assert _ids(open_reader(broker, "ends", **end)) == [0, 1]
    end = {"scan_bounded_mode": "specific-offsets", "scan_bounded_specific__offsets": "partition:0,offset:3"}
    assert _ids(open_reader(broker, "ends", **end)) == [0, 1, 2]
    group = {"properties_group_id": "enders"}
    reader = open_reader(broker, "ends", **group)
    reader.committed({"ends-0": 4})
    reader.close()
    assert _ids(open_reader(broker, "ends", scan_bounded_mode="group-offsets", **group)) == [0, 1, 2, 3]
    reader = open_reader(broker, "ends", **END)
    send(broker, "ends", numbers(9))
    assert _ids(reader) == [0, 1, 2, 3, 4]


def test_the_rate_of_a_topic_is_that_of_its_last_hour(broker: Broker) -> None:
    broker.create_topic("paced", 2)
    now = int(time.time() * 1000)
    for minutes in (300, 50, 40, 30, 20):
        send(broker, "paced", numbers(minutes), timestamp=now - minutes * 60_000, partition=minutes % 20 // 10)
    broker.create_topic("at-once")
    send(broker, "at-once", numbers(1, 2))
    make = default_registry().connector("kafka").source
    assert make is not None
    rates = [
        make(spec(broker, topic, (ID,), {"scan.startup.mode": "earliest-offset"})).rate(now * 1000)
        for topic in ("paced", "at-once")
    ]
    assert rates == [Rate(4 / 3600, "4 records in the last hour"), None]


def test_an_empty_topic_ends_at_once(broker: Broker) -> None:
    broker.create_topic("empty", 3)
    assert _ids(open_reader(broker, "empty", **END)) == []


def test_limits_neither_repeat_nor_skip(broker: Broker, way: str) -> None:
    topic = f"limited-{way}"
    broker.create_topic(topic)
    send(broker, topic, numbers(*range(50)))
    reader, seen = open_reader(broker, topic), []
    for end in (7, 8, 30, 50):
        reader.limit({f"{topic}-0": end})
        seen += [row[0] for row in _read(reader, 5)[0]]
        assert reader.positions() == {f"{topic}-0": end}
    reader.limit(None)
    send(broker, topic, numbers(50))
    _wait_for(reader, {50})
    reader.close()
    assert seen == list(range(50))


def test_a_limit_leaves_out_partitions_that_it_does_not_name(broker: Broker, way: str) -> None:
    topic = f"halves-{way}"
    broker.create_topic(topic, 2)
    for p in range(2):
        send(broker, topic, numbers(*range(10 * p, 10 * p + 5)), partition=p)
    reader = open_reader(broker, topic)
    reader.limit({f"{topic}-1": 2})
    assert sorted(r[0] for r in _read(reader)[0]) == [10, 11]
    reader.limit(None)
    _wait_for(reader, {0, 1, 2, 3, 4, 12, 13, 14})
    reader.close()


# -- where it starts ----------------------------------------------------------------------------------------------


def test_startup_modes(broker: Broker) -> None:
    broker.create_topic("starts", 2)
    for i in range(6):
        send(broker, "starts", numbers(i), timestamp=1000 * (i + 1), partition=i % 2)
    at = {"scan_startup_mode": "timestamp", "scan_startup_timestamp__millis": "3500"}
    assert _ids(open_reader(broker, "starts", **at, **END)) == [3, 4, 5]
    at = {"scan_startup_mode": "timestamp", "scan_startup_timestamp__millis": "99000"}
    assert _ids(open_reader(broker, "starts", **at, **END)) == []
    offsets = "partition:0,offset:1;partition:1,offset:3"
    at = {"scan_startup_mode": "specific-offsets", "scan_startup_specific__offsets": offsets}
    assert _ids(open_reader(broker, "starts", **at, **END)) == [2, 4]
    reader = open_reader(broker, "starts", scan_startup_mode="latest-offset")
    send(broker, "starts", numbers(7))
    _wait_for(reader, {7})
    reader.close()


def test_group_offsets_are_committed_and_taken_up(broker: Broker) -> None:
    broker.create_topic("grouped", 2)
    for p in range(2):
        send(broker, "grouped", numbers(p, p + 10, p + 20), partition=p)
    group = {"properties_group_id": "readers", "scan_startup_mode": "group-offsets"}
    reader = open_reader(broker, "grouped", **group)
    _wait_for(reader, {0, 1, 10, 11, 20, 21})
    assert reader.lag() == 0
    reader.committed({"grouped-0": 1, "grouped-1": 2})
    reader.close()
    assert _committed(broker, "readers", "grouped", 2) == [1, 2]  # and so Kafka's own tools show a lag of 2 and 1
    assert _ids(open_reader(broker, "grouped", **group, **END)) == [10, 20, 21]


def test_a_group_without_offsets(broker: Broker) -> None:
    broker.create_topic("new-group")
    send(broker, "new-group", numbers(1))
    group = {"properties_group_id": "newcomers", "scan_startup_mode": "group-offsets"}
    assert _ids(open_reader(broker, "new-group", **group, **END)) == [1]
    assert _ids(open_reader(broker, "new-group", properties_auto_offset_reset="latest", **group, **END)) == []
    with pytest.raises(ConnectorError, match="the consumer group has no offset of topic 'new-group' partition 0"):
        open_reader(broker, "new-group", properties_auto_offset_reset="none", **group, **END)


def test_without_a_group_nothing_is_committed(broker: Broker) -> None:
    broker.create_topic("groupless")
    send(broker, "groupless", numbers(1))
    reader = open_reader(broker, "groupless", **END)
    _read(reader)
    reader.committed(reader.positions())
    reader.close()
    assert _committed(broker, "forebay", "groupless", 1) == [-1001]
    with pytest.raises(OptionError, match=r"needs option 'properties\.group\.id'"):
        open_reader(broker, "groupless", scan_startup_mode="group-offsets")


def _committed(broker: Broker, group: str, topic: str, partitions: int) -> list[int]:
    admin = broker.admin()
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, p) for p in range(partitions)])
    found = admin.list_consumer_group_offsets([wanted])[group].result().topic_partitions
    return [f.offset for f in sorted(found, key=lambda f: f.partition)]


def test_positions_are_taken_up_and_later_partitions_are_read_whole(broker: Broker) -> None:
    broker.create_topic("resumed")
    send(broker, "resumed", numbers(0, 1, 2))
    broker.grow("resumed", 2)
    send(broker, "resumed", numbers(10, 11), partition=1)
    reader = open_reader(broker, "resumed", positions={"resumed-0": 2}, scan_startup_mode="latest-offset", **END)
    assert _ids(reader) == [2, 10, 11]


def test_a_removed_offset_is_told(broker: Broker) -> None:
    broker.create_topic("expired")
    send(broker, "expired", numbers(*range(5)))
    broker.delete_records("expired", 0, 3)
    at = {"scan_startup_mode": "specific-offsets", "scan_startup_specific__offsets": "partition:0,offset:1"}
    with pytest.raises(ConnectorError, match="partition 0 no longer has offset 1") as caught:
        open_reader(broker, "expired", **at)
    assert not caught.value.retryable
    assert _ids(open_reader(broker, "expired", scan_offset__reset="earliest", **at, **END)) == [3, 4]
    assert _ids(open_reader(broker, "expired", scan_offset__reset="latest", **at, **END)) == []


def test_retention_that_overtakes_a_reader_is_told(broker: Broker, way: str) -> None:
    topic = f"overtaken-{way}"
    broker.create_topic(topic)
    send(broker, topic, numbers(*range(5)))
    reader = open_reader(broker, topic)
    reader.limit({f"{topic}-0": 2})
    assert [row[0] for row in _read(reader)[0]] == [0, 1]
    broker.delete_records(topic, 0, 4)
    reader.limit(None)
    with pytest.raises(ConnectorError, match="no longer has offset 2"):
        _wait_for(reader, {4})
    reader.close()


def test_a_missing_topic_is_named(broker: Broker) -> None:
    with pytest.raises(ConnectorError, match="topic 'nowhere' does not exist"):
        open_reader(broker, "nowhere")


# -- what is found while running ----------------------------------------------------------------------------------


def test_new_partitions_and_topics_are_found(broker: Broker) -> None:
    broker.create_topic("found-a")
    send(broker, "found-a", numbers(1))
    options = {"topic__pattern": "found-.*", "scan_topic__partition__discovery_interval": "100 ms"}
    reader = open_reader(broker, None, **options)
    _wait_for(reader, {1})
    broker.grow("found-a", 2)
    broker.create_topic("found-b")
    broker.create_topic("other")
    send(broker, "found-a", numbers(2), partition=1)
    send(broker, "found-b", numbers(3))
    send(broker, "other", numbers(4))
    _wait_for(reader, {2, 3})
    assert sorted(reader.splits()) == ["found-a-0", "found-a-1", "found-b-0"]
    assert reader.positions() == {"found-a-0": 1, "found-a-1": 1, "found-b-0": 1}
    reader.close()


def test_a_topic_that_is_deleted_is_told(broker: Broker) -> None:
    broker.create_topic("doomed")
    send(broker, "doomed", numbers(1))
    reader = open_reader(broker, "doomed", scan_topic__partition__discovery_interval="100 ms")
    _wait_for(reader, {1})
    broker.delete_topic("doomed")
    with pytest.raises(ConnectorError, match="topic 'doomed' does not exist") as caught:
        _wait_for(reader, {2})
    reader.close()
    assert not caught.value.retryable


def test_several_topics_are_one_table(broker: Broker, way: str) -> None:
    a, b = f"several-a-{way}", f"several-b-{way}"
    for i, topic in enumerate((a, b)):
        broker.create_topic(topic)
        send(broker, topic, numbers(i))
    where = ColumnSpec("topic", pa.string(), metadata="topic", virtual=True)
    reader = open_reader(broker, f"{a};{b}", ID, where, **END)
    assert sorted(_read(reader)[0]) == [(0, a, 1), (1, b, 1)]
    reader.close()


def test_a_broker_that_is_away_is_waited_for(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    broker.create_topic("patient")
    send(broker, "patient", numbers(1))
    reader = open_reader(broker, "patient", scan_topic__partition__discovery_interval="100 ms")
    _wait_for(reader, {1})
    with caplog.at_level(logging.INFO, "forebay.kafka"):
        broker.kill()
        for _ in range(3):
            assert reader.poll(10, 0.1) is None
        broker.restart()
        send(broker, "patient", numbers(2))
        _wait_for(reader, {2})
    reader.close()
    assert "looking for partitions" in caplog.text


# -- what is in a record ------------------------------------------------------------------------------------------


def test_metadata_of_a_record(broker: Broker) -> None:
    stamp = ColumnSpec("ts", pa.timestamp("ms", tz="UTC"), metadata="timestamp", virtual=True)
    kind = ColumnSpec("kind", pa.string(), metadata="timestamp-type", virtual=True)
    head = ColumnSpec("h", pa.map_(pa.string(), pa.binary()), metadata="headers", virtual=True)
    key = ColumnSpec("k", pa.binary(), metadata="key", virtual=True)
    part = ColumnSpec("p", pa.int32(), metadata="partition", virtual=True)
    for topic, config in (("created", {}), ("appended", {"message.timestamp.type": "LogAppendTime"})):
        broker.create_topic(topic, 2, config)
        send(broker, topic, numbers(1), [b"key"], timestamp=5000, headers=[("a", b"b"), ("n", None)], partition=1)
    seen = {}
    for topic in ("created", "appended"):
        reader = open_reader(broker, topic, ID, stamp, kind, head, key, part, OFFSET, **END)
        seen[topic] = _read(reader)[0][0]
        reader.close()
    millis = seen["created"][1].timestamp() * 1000
    assert (millis, *seen["created"][2:7]) == (5000, "CreateTime", [("a", b"b"), ("n", None)], b"key", 1, 0)
    assert seen["appended"][2] == "LogAppendTime"
    assert time.time() - seen["appended"][1].timestamp() < 60


def test_poison_is_a_dead_letter_and_its_neighbours_live(broker: Broker, way: str) -> None:
    topic = f"poison-{way}"
    broker.create_topic(topic)
    send(broker, topic, [b'{"id": 1}', b"{{{", b'{"id": 2}'], [b"a", b"b", b"c"], timestamp=7000)
    reader = open_reader(broker, topic, ID, OFFSET, **END)
    rows, dead = _read(reader)
    reader.close()
    assert rows == [(1, 0, 1), (2, 2, 1)]
    assert [(d.source, d.partition, d.offset, d.value, d.key, d.timestamp) for d in dead] == [
        (topic, 0, 1, b"{{{", b"b", 7000)
    ]


def test_a_tombstone_deletes_its_key(broker: Broker, way: str) -> None:
    topic = f"tombs-{way}"
    broker.create_topic(topic)
    send(broker, topic, [b'{"id": 1}', None], [b'{"id": 1}', b'{"id": 1}'])
    reader = open_reader(broker, topic, ID, OFFSET, connector="upsert-kafka", key_format="json", **END)
    assert _read(reader) == ([(1, 0, 1), (1, 1, -1)], [])
    reader.close()


def _canal(kind: str, data: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> bytes:
    return json.dumps({"database": "d", "table": "t", "type": kind, "data": [data], "old": old and [old]}).encode()


def _debezium(op: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> bytes:
    return json.dumps({"before": before, "after": after, "op": op}).encode()


BINLOGS: dict[str, list[bytes | None]] = {
    "canal-json": [
        _canal("INSERT", {"id": "1", "name": "a"}),
        b"not json",
        _canal("UPDATE", {"id": "1", "name": "b"}, {"name": "a"}),
        b'{"type":"ALTER","isDdl":true,"sql":"ALTER TABLE t ADD x INT","data":null}',
        _canal("DELETE", {"id": "1", "name": "b"}),
    ],
    "debezium-json": [
        _debezium("c", None, {"id": 1, "name": "a"}),
        b"not json",
        _debezium("u", {"id": 1, "name": "a"}, {"id": 1, "name": "b"}),
        None,
        _debezium("d", {"id": 1, "name": "b"}, None),
    ],
}


@pytest.mark.parametrize("format_", sorted(BINLOGS))
def test_a_binlog_is_read_as_changes(broker: Broker, format_: str) -> None:
    broker.create_topic(format_)
    send(broker, format_, BINLOGS[format_])
    reader = open_reader(broker, format_, ID, NAME, OFFSET, value_format=format_, **END)
    assert reader.splits() == [f"{format_}-0"]
    rows, dead = _read(reader)
    reader.close()
    assert rows == [(1, "a", 0, 1), (1, "a", 2, -1), (1, "b", 2, 1), (1, "b", 4, -1)]
    assert [d.offset for d in dead] == [1]


def test_many_rows_in_small_and_large_polls(broker: Broker, way: str) -> None:
    topic = f"many-{way}"
    broker.create_topic(topic, 3)
    send(broker, topic, numbers(*range(12_000)))
    assert _ids(open_reader(broker, topic, **END), most=700) == list(range(12_000))
    assert _ids(open_reader(broker, topic, **END), most=65_536) == list(range(12_000))
