"""Tables on the test broker, and plain clients to look at their topics with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from forebay.connectors import default_registry
from forebay.connectors.kafka.reader import KafkaReader
from forebay.connectors.kafka.sink import KafkaSink
from forebay.engine.batch import Batch
from forebay.engine.connector import ColumnSpec, TableSpec, check_options
from tests.servers.kafka.broker import Broker

ID = ColumnSpec("id", pa.int64())
NAME = ColumnSpec("name", pa.string())
SECONDS = 20.0


def spec(broker: Broker, topic: str | None, columns: tuple[ColumnSpec, ...], options: Mapping[str, str]) -> TableSpec:
    """A table of format json, unless the options say otherwise."""
    given = {"properties.bootstrap.servers": broker.bootstrap, "value.format": "json", **options}
    if topic is not None:
        given["topic"] = topic
    connector = default_registry().connector(given.pop("connector", "kafka"))
    plain = {k: v for k, v in given.items() if not k.split(".", 1)[0].endswith("-json") and ".json." not in k}
    check_options(plain, connector.options, connector.option_prefixes, "the table")
    key = ("id",) if connector.name == "upsert-kafka" else ()
    return TableSpec("t", columns, given, primary_key=key, job="job")


def open_sink(
    broker: Broker, topic: str | None, *columns: ColumnSpec, connector: str = "kafka", **options: str
) -> KafkaSink:
    """A sink, not yet recovered; keyword `sink_partitioner` is option 'sink.partitioner'."""
    table = spec(broker, topic, columns or (ID,), _named(options) | {"connector": connector})
    make = default_registry().connector(connector).sink
    assert make is not None
    made = make(table)
    assert isinstance(made, KafkaSink)
    return made


def open_reader(
    broker: Broker,
    topic: str | None,
    *columns: ColumnSpec,
    connector: str = "kafka",
    positions: Mapping[str, Any] | None = None,
    **options: str,
) -> KafkaReader:
    """A reader, from the earliest offset unless the options say otherwise."""
    given = _named(options)
    if connector == "kafka":
        given.setdefault("scan.startup.mode", "earliest-offset")
    table = spec(broker, topic, columns or (ID,), given | {"connector": connector})
    make = default_registry().connector(connector).source
    assert make is not None
    reader = make(table).reader(positions)
    assert isinstance(reader, KafkaReader)
    return reader


def _named(options: Mapping[str, str]) -> dict[str, str]:
    """Options by keyword: '_' stands for '.', '__' for '-'."""
    return {k.replace("__", "-").replace("_", "."): v for k, v in options.items()}


def rows(ids: Any, weights: list[int] | None = None, **columns: list[Any]) -> Batch:
    """A batch of column 'id' and others."""
    batch = pa.RecordBatch.from_pydict({"id": pa.array(ids, pa.int64()), **columns})
    return Batch(batch, None if weights is None else np.array(weights, np.int64))


def send(broker: Broker, topic: str, values: list[bytes | None], keys: list[bytes] | None = None, **more: Any) -> None:
    """Produce plain records; `more` goes to every `produce`."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
    for i, value in enumerate(values):
        producer.produce(topic, value, keys[i] if keys else None, **more)
    assert producer.flush(SECONDS) == 0


def numbers(*ids: int) -> list[bytes | None]:
    """Records of a table of 'id'."""
    return [b'{"id": %d}' % i for i in ids]


def messages(broker: Broker, topic: str, isolation: str = "read_committed") -> list[Any]:
    """Every record of a topic, by partition, up to the end that a reader of that isolation sees."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "look",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
        }
    )
    parts = sorted(consumer.list_topics(topic, timeout=SECONDS).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, p, 0) for p in parts])
    found, ends, deadline = [], 0, time.monotonic() + SECONDS
    while ends < len(parts):
        assert time.monotonic() < deadline
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            found.append(message)
        elif message is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF
            ends += 1
    consumer.close()
    return sorted(found, key=lambda m: (m.partition(), m.offset()))


def values(broker: Broker, topic: str, isolation: str = "read_committed") -> list[bytes | None]:
    """The values of a topic's records, by partition and offset."""
    return [m.value() for m in messages(broker, topic, isolation)]
