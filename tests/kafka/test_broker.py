"""The test broker itself: data outlives kill -9."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka


def test_records_survive_a_kill(broker: Broker) -> None:
    broker.create_topic("survivor")
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce("survivor", b"v")
    assert producer.flush(20) == 0
    broker.kill()
    broker.restart()
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g"})
    consumer.assign([TopicPartition("survivor", 0, 0)])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert message.value() == b"v"
