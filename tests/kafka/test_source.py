"""The Kafka source on a real broker: bounded reading past control records, limits, retention, tombstones, poison."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from forebay.connectors import default_registry
from forebay.connectors.kafka.reader import KafkaReader
from forebay.engine.connector import ColumnSpec, TableSpec
from forebay.engine.errors import ConnectorError
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
COLUMNS = (ColumnSpec("id", pa.int64()), ColumnSpec("off", pa.int64(), metadata="offset", virtual=True))


def _open(broker: Broker, topic: str, upsert: bool = False, **extra: str) -> KafkaReader:
    options = {"topic": topic, "properties.bootstrap.servers": broker.bootstrap, "value.format": "json"}
    options |= {"key.format": "json"} if upsert else {"scan.startup.mode": "earliest-offset"}
    options |= {k.replace("_", "."): v for k, v in extra.items()}
    spec = TableSpec("t", COLUMNS, options, primary_key=("id",) if upsert else ())
    factory = default_registry().connector("upsert-kafka" if upsert else "kafka").source
    assert factory is not None
    reader = factory(spec).reader(None)
    assert isinstance(reader, KafkaReader)
    return reader


def _read(reader: KafkaReader, most: int = 100) -> tuple[list[tuple[int, int, int]], int]:
    """(id, offset, weight) of everything up to the end, and the number of dead letters."""
    rows, dead, deadline = [], 0, time.monotonic() + 20
    while not reader.finished():
        assert time.monotonic() < deadline
        fetched = reader.poll(most, 0.2)
        if fetched is not None:
            ids, offsets = (c.to_pylist() for c in fetched.batch.rows.columns)
            rows += list(zip(ids, offsets, fetched.batch.weight_array().tolist()))
            dead += len(fetched.dead)
    return rows, dead


def _send(broker: Broker, topic: str, values: list[bytes | None], keys: list[bytes] | None = None) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for i, value in enumerate(values):
        producer.produce(topic, value, keys[i] if keys else None)
    assert producer.flush(20) == 0


def _numbers(n: int) -> list[bytes | None]:
    return [b'{"id": %d}' % i for i in range(n)]


def test_bounded_end_behind_control_records_and_aborted_rows(broker: Broker) -> None:
    broker.create_topic("transactional")
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "x"})
    producer.init_transactions(20)
    for i, commit in enumerate((True, False)):
        producer.begin_transaction()
        producer.produce("transactional", b'{"id": %d}' % i)
        producer.flush(20)
        producer.commit_transaction(20) if commit else producer.abort_transaction(20)
    reader = _open(broker, "transactional", scan_bounded_mode="latest-offset")
    assert _read(reader) == ([(0, 0, 1)], 0)
    assert reader.positions() == {"transactional-0": 4}
    reader.close()


def test_limits_neither_repeat_nor_skip(broker: Broker) -> None:
    broker.create_topic("limited")
    _send(broker, "limited", _numbers(50))
    reader, seen = _open(broker, "limited"), []
    for end in (7, 8, 30, 50):
        reader.limit({"limited-0": end})
        seen += _read(reader, 5)[0]
        assert reader.positions() == {"limited-0": end}
    reader.close()
    assert [row[0] for row in seen] == list(range(50))


def test_poison_is_a_dead_letter_and_its_neighbours_live(broker: Broker) -> None:
    broker.create_topic("poison")
    _send(broker, "poison", [b'{"id": 1}', b"{{{", b'{"id": 2}'])
    reader = _open(broker, "poison", scan_bounded_mode="latest-offset")
    assert _read(reader) == ([(1, 0, 1), (2, 2, 1)], 1)
    reader.close()


def test_a_tombstone_deletes_its_key(broker: Broker) -> None:
    broker.create_topic("tombs")
    _send(broker, "tombs", [b'{"id": 1}', None], [b'{"id": 1}', b'{"id": 1}'])
    reader = _open(broker, "tombs", upsert=True, scan_bounded_mode="latest-offset")
    assert _read(reader) == ([(1, 0, 1), (1, 1, -1)], 0)
    reader.close()


def test_a_removed_offset_is_told(broker: Broker) -> None:
    broker.create_topic("expired")
    _send(broker, "expired", _numbers(5))
    broker.delete_records("expired", 0, 3)
    extra = {"scan_startup_mode": "specific-offsets"}
    offsets = {"scan_startup_specific-offsets": "partition:0,offset:1"}
    with pytest.raises(ConnectorError, match="partition 0 no longer has offset 1"):
        _open(broker, "expired", **extra, **offsets)


def test_a_missing_topic_is_named(broker: Broker) -> None:
    with pytest.raises(ConnectorError, match="topic 'nowhere' does not exist"):
        _open(broker, "nowhere")
