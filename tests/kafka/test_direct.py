"""librdkafka's own calls: found or done without, every message given back once, memory that returns."""

from __future__ import annotations

import ctypes
import gc
import logging
import platform
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from forebay.connectors.kafka import direct
from forebay.connectors.kafka.direct import Library, library
from forebay.connectors.kafka.dispatch import ClientDispatch, DirectDispatch
from forebay.connectors.kafka.intake import ClientIntake, DirectIntake, Intake, intake_of
from forebay.connectors.records import Encoded
from forebay.engine.connector import ColumnSpec
from forebay.engine.errors import ConnectorError
from tests.kafka.tables import ID, SECONDS, messages, numbers, open_reader, open_sink, rows, send, values
from tests.servers.kafka.broker import Broker

END = {"scan_bounded_mode": "latest-offset"}
CLIENT = {"group.id": "direct", "enable.partition.eof": True, "enable.auto.commit": False, "fetch.wait.max.ms": 50}


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for anew, in the test and after it."""
    direct._library.cache_clear()
    yield
    direct._library.cache_clear()


@pytest.fixture
def found() -> Library:
    """The library, which this platform has."""
    made = library()
    assert made is not None
    return made


# -- found or not -------------------------------------------------------------------------------------------------


def _no_library() -> ctypes.CDLL:
    raise OSError("no such file")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("_linked", _no_library, "no such file"),
        ("_linked", lambda: ctypes.CDLL(None), "rd_kafka_name"),
        ("_field", lambda client: None, "the client is closed"),
        ("_field", lambda client: 4096, "that is not open has a handle"),
    ],
)
def test_another_platform_does_without(
    name: str, other: Any, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(direct, name, other)
    with caplog.at_level(logging.DEBUG, "forebay.kafka"):
        assert library() is None
    assert "messages go through confluent-kafka" in caplog.text
    assert reason in caplog.text


def test_which_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer(CLIENT)
    assert isinstance(intake_of(consumer, headers=True), ClientIntake)
    intake = intake_of(consumer, headers=False)
    assert isinstance(intake, DirectIntake)
    intake.close()
    monkeypatch.setattr(direct, "ENABLED", False)
    assert isinstance(intake_of(consumer, headers=False), ClientIntake)
    consumer.close()


def test_a_closed_client_has_no_handle(found: Library) -> None:
    for client in (Consumer(CLIENT), Producer({})):
        assert found.handle(client) > 0
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            found.handle(client)


# -- messages -----------------------------------------------------------------------------------------------------


def _open(broker: Broker, topics: list[str], partitions: int, make: Any) -> tuple[Any, Intake]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, **CLIENT})
    intake = make(consumer)
    at = [TopicPartition(t, p, 0) for t in topics for p in range(partitions)]
    for place in at:
        intake.expect(place.topic, place.partition)
    consumer.assign(at)
    return consumer, intake


@pytest.mark.kafka
def test_both_ways_give_the_same_columns(broker: Broker, found: Library) -> None:
    topics, now = ["same-a", "same-b"], int(time.time() * 1000)
    for topic in topics:
        broker.create_topic(topic, 2)
        for p in range(2):
            values = [b"", None, b"x" * 100, *(b"%d" % i for i in range(30))]
            send(broker, topic, values, [b"k%d" % i for i in range(33)], partition=p, timestamp=now + p)
            send(broker, topic, [b"no key"], partition=p)
    seen = []
    for make in (ClientIntake, lambda consumer: DirectIntake(consumer, found)):
        consumer, intake = _open(broker, topics, 2, make)
        rows: list[tuple[Any, ...]] = []
        ends: list[tuple[Any, ...]] = []
        while len(ends) < 4:
            with intake.take(50, 0.2) as chunk:
                names, index = chunk.topics()
                times, kinds = chunk.timestamps()
                columns = [chunk.partitions(), chunk.offsets(), times, kinds]
                both = [chunk.values().to_pylist(), chunk.keys().to_pylist()]
                rows += zip([names[i] for i in index], *(c.tolist() for c in columns), *both)
                assert [c.dtype for c in columns] == [np.int32, np.int64, np.int64, np.int8]
                ends += [(e.topic, e.partition, e.offset, e.error.name()) for e in chunk.events]
                chunk.keep(np.arange(0, len(chunk), 3))
                third = rows[len(rows) - len(index) :][::3]
                assert chunk.values().to_pylist() == [r[-2] for r in third]
                assert chunk.offsets().tolist() == [r[2] for r in third]
        intake.close()
        consumer.close()
        seen.append((sorted(rows, key=lambda r: r[:3]), sorted(ends)))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 4 * 34


@pytest.mark.kafka
def test_every_message_is_given_back_once_also_after_an_exception(broker: Broker, found: Library) -> None:
    broker.create_topic("once")
    send(broker, "once", numbers(*range(100)))
    consumer, intake = _open(broker, ["once"], 1, lambda consumer: DirectIntake(consumer, found))
    freed, destroy = list[int](), ctypes.CFUNCTYPE(None, ctypes.c_void_p)(found.message_destroy)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def counted(message: int) -> None:
        freed.append(message)
        destroy(message)

    counting = object.__new__(Library)
    counting.__dict__.update(found.__dict__, message_destroy=ctypes.cast(counted, ctypes.c_void_p).value)
    intake._library = counting

    def fail() -> tuple[int, bool]:
        with suppress(LookupError), intake.take(7, 0.2) as chunk:
            came, ended = len(chunk) + len(chunk.events), bool(chunk.events)
            raise LookupError
        return came, ended

    taken, ended = 0, False
    while not ended:
        came, ended = fail()
        taken += came
        assert len(freed) == taken
    assert taken == 101  # and the end of the partition
    intake.close()
    consumer.close()


@pytest.mark.kafka
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc for the memory in use")
def test_memory_returns(broker: Broker) -> None:
    broker.create_topic("returns")
    producer = Producer({"bootstrap.servers": broker.bootstrap, "queue.buffering.max.messages": 200_000})
    for i in range(100_000):
        producer.produce("returns", b'{"id": %d, "more": "%s"}' % (i, b"x" * 80), b"key")
    producer.flush(SECONDS)
    key = ColumnSpec("k", pa.binary(), metadata="key", virtual=True)
    used = []
    for _ in range(4):
        reader, rows = open_reader(broker, "returns", ID, key, **END), 0
        while not reader.finished():
            fetched = reader.poll(20_000, 0.2)
            rows += 0 if fetched is None else fetched.batch.num_rows
        del fetched
        reader.close()
        assert rows == 100_000
        used.append(_in_use() + pa.total_allocated_bytes())
    assert used[-1] - used[0] < 1_000_000  # a lost message in twenty would be more


@pytest.mark.kafka
def test_a_reader_that_nobody_closes_goes(broker: Broker) -> None:
    broker.create_topic("left")
    send(broker, "left", numbers(1, 2))
    reader = open_reader(broker, "left", ID, **END)
    while not reader.finished():
        reader.poll(1, 0.2)
    assert isinstance(reader._intake, DirectIntake)
    gone = weakref.ref(reader)
    del reader  # the client waits for whatever holds it
    gc.collect()
    assert gone() is None


# -- records ------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_which_way_is_taken_by_a_sink(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.create_topic("ways")
    head = ColumnSpec("h", pa.map_(pa.string(), pa.binary()), metadata="headers")

    def way(*columns: ColumnSpec, **options: str) -> type:
        sink = open_sink(broker, "ways", *columns, **options)
        sink.recover()
        sink.close()
        return type(sink._dispatch)

    assert way(ID) is DirectDispatch
    assert way(ID, head) is ClientDispatch
    assert way(ID, properties_sasl_mechanism="OAUTHBEARER") is ClientDispatch
    monkeypatch.setattr(direct, "ENABLED", False)
    assert way(ID) is ClientDispatch


def _encoded(values: list[bytes | None], keys: list[bytes | None] | None = None) -> Encoded:
    return Encoded(
        pa.array(values, pa.binary()), None if keys is None else pa.array(keys, pa.binary()), None, None, None
    )


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["direct", "client"])
def test_records_of_any_shape(broker: Broker, found: Library, kind: str) -> None:
    broker.create_topic(f"shapes-{kind}", 2)
    client = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
    failed: list[KafkaError] = []
    dispatch = ClientDispatch(client) if kind == "client" else DirectDispatch(client, found, failed.append)
    many = _encoded([b"x%d" % i for i in range(20)], [b"k%d" % i for i in range(20)])
    sliced = Encoded(many.values[5:7], many.keys[5:7] if many.keys is not None else None, None, None, None)
    one, other = np.zeros(2, np.int32), np.array([0, 1], np.int32)
    for records, partitions in (
        (_encoded([b"", None]), one),
        (_encoded([b"", b""], [b"", None]), other),
        (sliced, one),
        (many.take(np.array([9, 3])), other),
        (_encoded([None, None], [b"a", b"b"]), one),
        (_encoded([]), np.empty(0, np.int32)),
    ):
        dispatch.send(f"shapes-{kind}", records, partitions, wait=lambda: None)
    while dispatch.flush(1.0):
        pass
    dispatch.close()
    found_ = [(m.partition(), m.key(), m.value()) for m in messages(broker, f"shapes-{kind}")]
    assert found_ == [
        (0, None, b""),
        (0, None, None),
        (0, b"", b""),
        (0, b"k5", b"x5"),
        (0, b"k6", b"x6"),
        (0, b"k9", b"x9"),
        (0, b"a", None),
        (0, b"b", None),
        (1, None, b""),
        (1, b"k3", b"x3"),
    ]
    assert not failed


@pytest.mark.kafka
def test_a_full_queue_is_waited_for_in_order(broker: Broker, way: str) -> None:
    topic = f"full-{way}"
    broker.create_topic(topic)
    sink = open_sink(broker, topic, properties_queue_buffering_max_messages="50")
    sink.recover()
    sink.write(rows(range(1000)))
    sink.commit(1)
    sink.close()
    assert values(broker, topic) == [b'{"id":%d}' % i for i in range(1000)]


@pytest.mark.kafka
def test_a_batch_that_the_broker_refuses_is_told(broker: Broker, way: str) -> None:
    topic = f"compacted-{way}"
    broker.create_topic(topic, config={"cleanup.policy": "compact"})
    sink = open_sink(broker, topic)
    sink.recover()
    sink.write(rows([1, 2]))
    with pytest.raises(ConnectorError, match="writing failed") as caught:
        sink.commit(1)
    sink.close()
    assert caught.value.hint == "a compacted topic takes records with a key only"


@pytest.mark.kafka
def test_the_client_logs_as_before(broker: Broker, way: str, caplog: pytest.LogCaptureFixture) -> None:
    topic = f"logged-{way}"
    broker.create_topic(topic)
    with caplog.at_level(logging.DEBUG, "forebay.kafka"):
        sink = open_sink(broker, topic, properties_debug="topic", properties_client_id=f"logger-{way}")
        sink.recover()
        sink.write(rows([1]))
        sink.commit(1)
        sink.close()
    lines = [r for r in caplog.records if f"[logger-{way}#producer-" in r.getMessage() and topic in r.getMessage()]
    assert {r.levelno for r in lines} == {logging.DEBUG}


@pytest.mark.kafka
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc for the memory in use")
def test_memory_of_records_returns(broker: Broker) -> None:
    broker.create_topic("sent")
    used = []
    for _ in range(4):
        sink = open_sink(broker, "sent")
        sink.recover()
        for i in range(10):
            sink.write(rows(range(10_000 * i, 10_000 * (i + 1))))
        sink.commit(1)
        sink.close()
        used.append(_in_use() + pa.total_allocated_bytes())
    assert used[-1] - used[0] < 1_000_000


def _in_use() -> int:
    """Bytes that malloc has given out."""

    class Info(ctypes.Structure):
        _fields_ = tuple((f"field{i}", ctypes.c_size_t) for i in range(10))

    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Info
    info = mallinfo()
    return int(info.field4 + info.field7)
