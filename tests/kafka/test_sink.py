"""The Kafka sink on a real broker: what is written, what read_committed readers see, and what is left after a failure."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from forebay.connectors.kafka import options as o
from forebay.connectors.kafka.sink import KafkaSink
from forebay.engine.connector import ColumnSpec
from forebay.engine.errors import ConnectorError, DataError, OptionError
from forebay.engine.files import set_kill_hook
from tests.kafka.tables import ID, NAME, messages, open_reader, open_sink, rows, values
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
ONCE = {"sink_delivery__guarantee": "exactly-once", "sink_transactional__id__prefix": "tests"}


class Crashed(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    set_kill_hook(None)


def _once(broker: Broker, topic: str, **options: str) -> KafkaSink:
    """An exactly-once sink with an id of its own per topic."""
    return open_sink(broker, topic, **(ONCE | {"sink_transactional__id__prefix": topic} | options))


def _ids(broker: Broker, topic: str) -> list[int]:
    return sorted(int(v[6:-1]) for v in values(broker, topic) if v is not None)


# -- what is written ----------------------------------------------------------------------------------------------


def test_rows_come_back_with_key_timestamp_and_headers(broker: Broker) -> None:
    broker.create_topic("written")
    stamp = ColumnSpec("ts", pa.timestamp("ms", tz="UTC"), metadata="timestamp")
    head = ColumnSpec("h", pa.map_(pa.string(), pa.binary()), metadata="headers")
    columns = (ID, NAME, stamp, head)
    options = {"key_format": "json", "key_fields": "id"}
    sink = open_sink(broker, "written", *columns, **options)
    assert sink.recover() is None
    times = pa.array([1_700_000_000_000, None], stamp.type)
    heads = pa.array([[("a", b"1"), ("b", None)], None], head.type)
    before = int(time.time() * 1000)
    sink.write(rows([1, 2], name=["x", None], ts=times, h=heads))
    sink.flush()
    sink.close()
    first, second = messages(broker, "written")
    assert (first.key(), first.value()) == (b'{"id":1}', b'{"id":1,"name":"x"}')
    assert first.timestamp()[1] == 1_700_000_000_000
    assert first.headers() == [("a", b"1"), ("b", None)]
    assert (second.key(), second.headers()) == (b'{"id":2}', None)
    assert before <= second.timestamp()[1] <= time.time() * 1000
    reader = open_reader(broker, "written", *columns, scan_bounded_mode="latest-offset", **options)
    batch = None
    while not reader.finished():
        fetched = reader.poll(10, 0.2)
        batch = fetched.batch if fetched is not None else batch
    reader.close()
    assert batch is not None
    assert batch.rows.column("h").to_pylist() == [[("a", b"1"), ("b", None)], None]
    assert batch.rows.column("name").to_pylist() == ["x", None]


def test_a_deleted_key_is_a_tombstone(broker: Broker, way: str) -> None:
    topic = f"tombstones-{way}"
    broker.create_topic(topic)
    sink = open_sink(broker, topic, ID, NAME, connector="upsert-kafka", key_format="json")
    sink.recover()
    sink.write(rows([1, 2, 1], [1, 1, -1], name=["a", "b", "a"]))
    sink.commit(1)
    sink.close()
    found = [(m.key(), m.value()) for m in messages(broker, topic)]
    assert found == [(b'{"id":1}', b'{"id":1,"name":"a"}'), (b'{"id":2}', b'{"id":2,"name":"b"}'), (b'{"id":1}', None)]
    reader = open_reader(
        broker, topic, ID, NAME, connector="upsert-kafka", key_format="json", scan_bounded_mode="latest-offset"
    )
    seen = []
    while not reader.finished():
        fetched = reader.poll(10, 0.2)
        if fetched is not None:
            seen += list(zip(fetched.batch.rows["id"].to_pylist(), fetched.batch.weight_array().tolist()))
    reader.close()
    assert seen == [(1, 1), (2, 1), (1, -1)]


def test_a_deletion_needs_a_format_that_knows_changes(broker: Broker) -> None:
    broker.create_topic("changes")
    sink = open_sink(broker, "changes", value_format="debezium-json")
    sink.recover()
    sink.write(rows([1, 1], [1, -1]))
    sink.commit(1)
    sink.close()
    assert [b'"op":"d"' in (v or b"") for v in values(broker, "changes")] == [False, True]
    plain = open_sink(broker, "changes")
    plain.recover()
    with pytest.raises(DataError, match="append-only"):
        plain.write(rows([1], [-1]))
    plain.close()


@pytest.mark.parametrize(
    ("partitioner", "counts"), [("fixed", [30, 0, 0]), ("round-robin", [10, 10, 10]), ("default", None)]
)
def test_partitioners(broker: Broker, way: str, partitioner: str, counts: list[int] | None) -> None:
    topic = f"parted-{partitioner}-{way}"
    broker.create_topic(topic, 3)
    keyed = {"key_format": "json", "key_fields": "id"} if counts is None else {}
    sink = open_sink(broker, topic, sink_partitioner=partitioner, **keyed)
    sink.recover()
    for _ in range(3):
        sink.write(rows(range(10)))
    sink.commit(1)
    sink.close()
    found = messages(broker, topic)
    if counts is not None:
        assert [sum(m.partition() == p for m in found) for p in range(3)] == counts
        return
    assert len(found) == 30
    assert len({(m.key(), m.partition()) for m in found}) == 10
    # where Java's DefaultPartitioner puts these keys: murmur2 of the bytes, sign bit cleared, modulo partitions
    assert {m.key(): m.partition() for m in found} == {
        b'{"id":%d}' % i: _murmur2(b'{"id":%d}' % i) % 3 for i in range(10)
    }


def _murmur2(data: bytes) -> int:
    """`org.apache.kafka.common.utils.Utils.murmur2`, positive."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def test_rows_go_to_the_topics_that_they_name(broker: Broker, way: str) -> None:
    a, b = f"routed-a-{way}", f"routed-b-{way}"
    for topic in (a, b):
        broker.create_topic(topic)
    columns = (ID, ColumnSpec("to", pa.string(), metadata="topic"))
    sink = open_sink(broker, f"{a};{b}", *columns, **(ONCE | {"sink_transactional__id__prefix": f"routed-{way}"}))
    assert sink.recover() is None
    sink.write(rows([1, 2, 3], to=[a, b, a]))
    sink.commit(7)
    with pytest.raises(DataError, match="names topic 'elsewhere'"):
        sink.write(rows([1], to=["elsewhere"]))
    with pytest.raises(DataError, match="a row names no topic"):
        sink.write(rows([1], to=pa.array([None], pa.string())))
    sink.close()
    assert (_ids(broker, a), _ids(broker, b)) == ([1, 3], [2])
    free = open_sink(broker, None, *columns, **(ONCE | {"sink_transactional__id__prefix": f"free-{way}"}))
    assert free.recover() is None
    free.write(rows([4], to=[a]))
    free.commit(8)
    with pytest.raises(ConnectorError, match="topic 'nowhere'"):
        free.write(rows([5], to=["nowhere"]))
    free.close()
    assert _ids(broker, a) == [1, 3, 4]
    again = open_sink(broker, None, *columns, **(ONCE | {"sink_transactional__id__prefix": f"free-{way}"}))
    assert again.recover() == 8
    again.close()


# -- what is refused ----------------------------------------------------------------------------------------------


def test_errors_that_no_retry_can_mend(broker: Broker) -> None:
    broker.create_topic("small")
    with pytest.raises(ConnectorError, match="topic 'absent'") as missing:
        open_sink(broker, "absent").recover()
    assert not missing.value.retryable
    assert missing.value.hint == "create the topic first"
    sink = open_sink(broker, "small", ID, NAME)
    sink.recover()
    with pytest.raises(ConnectorError, match="Message size too large") as large:
        sink.write(rows([1], name=["x" * 2_000_000]))
    sink.close()
    assert not large.value.retryable
    with pytest.raises(OptionError, match=r"No such configuration property: \"no.such\""):
        open_sink(broker, "small", properties_no_such="1").recover()
    with pytest.raises(OptionError, match="needs option 'sink"):
        open_sink(broker, "small", sink_delivery__guarantee="exactly-once")
    with pytest.raises(OptionError, match="needs one topic to write to"):
        open_sink(broker, "small;other")


def test_a_delivery_that_fails_is_told_by_commit(broker: Broker, way: str) -> None:
    topic = f"strict-{way}"
    broker.create_topic(topic, config={"max.message.bytes": "1000"})
    sink = open_sink(broker, topic, ID, NAME)
    sink.recover()
    sink.write(rows([1], name=["x" * 2000]))
    with pytest.raises(ConnectorError, match="writing failed") as caught:
        sink.commit(1)
    sink.close()
    assert not caught.value.retryable


def test_a_broker_that_does_not_answer_is_told(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(o, "TUNING", o.Tuning(request_seconds=0.3))
    sink = open_sink(broker, "t", properties_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(ConnectorError, match="looking for topic 't' failed") as caught:
        sink.recover()
    sink.close()
    assert caught.value.retryable


# -- exactly once -------------------------------------------------------------------------------------------------


def test_nothing_is_seen_before_its_commit(broker: Broker, way: str) -> None:
    topic = f"unseen-{way}"
    broker.create_topic(topic)
    sink = _once(broker, topic)
    assert sink.recover() is None
    sink.write(rows([1, 2]))
    sink._client.flush(10)
    assert values(broker, topic) == []
    assert values(broker, topic, "read_uncommitted") == [b'{"id":1}', b'{"id":2}']
    sink.commit(1)
    assert _ids(broker, topic) == [1, 2]
    sink.commit(2)
    sink.write(rows([3]))
    sink.flush()
    sink.close()  # aborts: readers do not wait for the timeout
    assert _ids(broker, topic) == [1, 2]
    again = _once(broker, topic)
    assert again.recover() == 2
    again.close()


@pytest.mark.parametrize("place", ["kafka.offsets.before", "kafka.commit.before", "kafka.commit.after"])
def test_a_crash_anywhere_leaves_every_row_once(broker: Broker, place: str) -> None:
    topic = f"crash-{place}"
    broker.create_topic(topic, 2)
    dead = _once(broker, topic)
    assert dead.recover() is None
    dead.write(rows([1, 2]))
    dead.commit(1)
    dead.write(rows([3, 4]))

    def crash(name: str) -> None:
        if name == place:
            raise Crashed

    set_kill_hook(crash)
    with pytest.raises(Crashed):
        dead.commit(2)
    set_kill_hook(None)
    sink = _once(broker, topic)  # `dead` stays open, as a process that is gone leaves its transaction
    last = sink.recover()
    assert last == (2 if place == "kafka.commit.after" else 1)
    if last == 1:
        sink.write(rows([3, 4]))
        sink.commit(2)
    sink.write(rows([5]))
    sink.commit(3)
    sink.close()
    assert _ids(broker, topic) == [1, 2, 3, 4, 5]


def test_a_zombie_is_fenced_and_stays_away(broker: Broker) -> None:
    broker.create_topic("fenced")
    zombie = _once(broker, "fenced")
    zombie.recover()
    zombie.write(rows([1]))
    zombie._client.flush(10)
    sink = _once(broker, "fenced")
    assert sink.recover() is None
    with pytest.raises(ConnectorError, match="another writer has taken over") as caught:
        zombie.commit(1)
    zombie.close()
    assert not caught.value.retryable
    sink.write(rows([2]))
    sink.commit(1)
    sink.close()
    assert _ids(broker, "fenced") == [2]


def test_a_transaction_that_timed_out_is_told_and_sent_again(broker: Broker) -> None:
    broker.create_topic("slow")
    sink = _once(broker, "slow", properties_transaction_timeout_ms="1000")
    sink.recover()
    sink.write(rows([1]))
    sink._client.flush(10)
    time.sleep(3)
    with pytest.raises(ConnectorError, match="aborted the transaction") as caught:
        sink.commit(1)
    sink.close()
    assert caught.value.retryable
    again = _once(broker, "slow", properties_transaction_timeout_ms="1000")
    assert again.recover() is None
    again.write(rows([1]))
    again.commit(1)
    again.close()
    assert _ids(broker, "slow") == [1]


def test_a_deleted_group_is_not_remembered(broker: Broker) -> None:
    broker.create_topic("forgotten")
    sink = _once(broker, "forgotten")
    assert sink.remembers
    sink.recover()
    sink.write(rows([1]))
    sink.commit(5)
    sink.close()
    admin = broker.admin()
    for future in admin.delete_consumer_groups(["forgotten-job"]).values():
        future.result()
    again = _once(broker, "forgotten")
    assert again.recover() is None
    again.close()


def test_a_group_of_somebody_else_is_refused(broker: Broker) -> None:
    broker.create_topic("taken")
    reader = open_reader(broker, "taken", properties_group_id="taken-job")
    reader.committed({"taken-0": 0})
    reader.close()
    sink = _once(broker, "taken")
    with pytest.raises(ConnectorError, match="used by something else") as caught:
        sink.recover()
    sink.close()
    assert not caught.value.retryable


# -- a broker that dies -------------------------------------------------------------------------------------------


def _finish(broker: Broker, sink: KafkaSink, topic: str, once: bool) -> None:
    """Commit checkpoint 2 as the engine does: after an error that a retry may mend, by a new sink."""
    try:
        sink.commit(2)
        sink.close()
        return
    except ConnectorError as error:
        if not error.retryable:
            raise
    sink.close()
    again = _once(broker, topic) if once else open_sink(broker, topic)
    if again.recover() != 2:
        again.write(rows(range(1000, 3000)))
        again.commit(2)
    again.close()


def test_the_broker_dies_while_rows_are_written(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(o, "TUNING", o.Tuning(request_seconds=2))
    sinks = {}
    for topic in ("mortal-once", "mortal-plain"):
        broker.create_topic(topic, 2)
        sinks[topic] = _once(broker, topic) if topic == "mortal-once" else open_sink(broker, topic)
        sinks[topic].recover()
        sinks[topic].write(rows(range(1000)))
        sinks[topic].commit(1)
        sinks[topic].write(rows(range(1000, 2000)))
    broker.kill()
    for sink in sinks.values():
        sink.write(rows(range(2000, 3000)))
    broker.restart()
    for topic, sink in sinks.items():
        _finish(broker, sink, topic, topic == "mortal-once")
    assert _ids(broker, "mortal-once") == list(range(3000))
    assert set(_ids(broker, "mortal-plain")) == set(range(3000))
