"""Writing Kafka: rows go to the broker as they come, on librdkafka's threads.

'exactly-once': one transaction per checkpoint, seen by read_committed readers when it commits, with the checkpoint's id inside
(see `transactions`). `recover` fences an older writer of the same transactional id, whose open transaction vanishes.
'at-least-once': rows are seen at once; `flush` and `commit` wait until the broker has them all. 'none': they do not wait.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Producer

from forebay.connectors import options as read
from forebay.connectors.kafka import options as o
from forebay.connectors.kafka.direct import library
from forebay.connectors.kafka.dispatch import ClientDispatch, DirectDispatch, Dispatch
from forebay.connectors.kafka.errors import LOG, failure, insist, refused
from forebay.connectors.kafka.transactions import CommitMark
from forebay.connectors.records import Encoded, RecordEncoder
from forebay.connectors.topiclog.options import topics_of
from forebay.engine.batch import Batch
from forebay.engine.connector import Sink, TableSpec
from forebay.engine.errors import ConnectorError, DataError, OptionError
from forebay.engine.files import declare, kill_point

declare("kafka.offsets.before", "kafka.commit.before", "kafka.commit.after")

_OFFSETS_TOPIC = "__consumer_offsets"
_NO_PARTITION = -1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KafkaSinkSpec:
    """What a sink writes to, and how."""

    properties: Mapping[str, Any]
    """librdkafka's, as the table gives them."""
    topic: str | None
    """Where rows go that name no topic; None: every row must name one."""
    allowed: Callable[[str], bool] = lambda topic: True
    """Topics that rows may name."""
    home: str = _OFFSETS_TOPIC
    """The topic in whose offset the last checkpoint is remembered."""
    partitioner: str = "default"
    waits: bool = True
    """Whether `commit` waits for the broker."""


class KafkaSink(Sink):
    """At least once, or not even that (`waits` false)."""

    def __init__(self, spec: KafkaSinkSpec, encoder: RecordEncoder) -> None:
        self._spec, self._encoder = spec, encoder
        self._client: Any = None
        self._dispatch: Dispatch
        self._partitions: dict[str, Iterator[int]] = {}
        """Per topic known to exist: the partitions of its next rows."""
        self._width = 0.0
        """Bytes of a record of the last batch, about."""
        self._lost: KafkaError | None = None
        """The first delivery that failed."""

    # -- opening ------------------------------------------------------------------------------------------------

    def recover(self) -> int | None:
        self._open({})
        return None

    def _open(self, more: Mapping[str, Any]) -> None:
        tuned = {
            "linger.ms": o.TUNING.linger_ms,
            "queue.buffering.max.kbytes": o.TUNING.producer_kilobytes,
            "queue.buffering.max.messages": o.TUNING.producer_messages,
            "batch.size": 1_000_000,
            "enable.idempotence": self._spec.waits,
            "partitioner": "murmur2_random",  # as Java's client, so that equal keys of other writers meet
        }
        fixed = {"delivery.report.only.error": True, "on_delivery": self._delivered}
        try:
            self._client = Producer({**tuned, **more, **o.for_producer(self._spec.properties), **fixed}, logger=LOG)
        except KafkaException as e:
            raise refused(e) from e
        self._dispatch = self._way()
        for topic in {self._spec.topic, self._spec.home} - {None, _OFFSETS_TOPIC}:
            self._partitions[str(topic)] = self._targets(str(topic))

    def _way(self) -> Dispatch:
        """By librdkafka's calls, except for what only confluent-kafka's have: more than key and value, asking Python for
        a token."""
        asks = "OAUTHBEARER" in map(str.upper, self._spec.properties.values())
        found = library() if self._encoder.bare and not asks else None
        return ClientDispatch(self._client) if found is None else DirectDispatch(self._client, found, self._delivered)

    def _targets(self, topic: str) -> Iterator[int]:
        """The partitions of a topic's rows, one after the other.

        Raises:
            ConnectorError: there is no such topic, and the broker does not make it.
        """
        count = len(partitions_of(self._client, topic))
        match self._spec.partitioner:
            case "fixed":
                return itertools.repeat(0)
            case "round-robin":
                return itertools.cycle(range(count))
        return itertools.repeat(_NO_PARTITION)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        encoded = self._encoder.encode(batch)
        if len(encoded):
            self._width = encoded.values.nbytes / len(encoded)
            for topic, records in self._routes(encoded):
                self._send(topic, records)
            self._poll(0)

    def _routes(self, encoded: Encoded) -> Iterator[tuple[str, Encoded]]:
        """The records of every topic, in order."""
        if encoded.topics is None:
            yield str(self._spec.topic), encoded
            return
        named = encoded.topics if self._spec.topic is None else encoded.topics.fill_null(self._spec.topic)
        self._check_topics(named)
        coded = named.dictionary_encode()
        for place, topic in enumerate(coded.dictionary.to_pylist()):
            yield topic, encoded.take(np.flatnonzero(coded.indices.to_numpy() == place))

    def _check_topics(self, named: pa.StringArray) -> None:
        if named.null_count:
            raise DataError("a row names no topic", hint="fill the metadata column 'topic', or give option 'topic'")
        for topic in named.unique().to_pylist():
            if topic not in self._partitions:
                if not self._spec.allowed(topic):
                    raise DataError(f"a row names topic '{topic}', which the table does not", hint="see option 'topic'")
                self._partitions[topic] = self._targets(topic)

    def _send(self, topic: str, records: Encoded) -> None:
        partitions = None
        if self._spec.partitioner != "default":
            partitions = np.fromiter(itertools.islice(self._partitions[topic], len(records)), np.int32, len(records))
        try:
            self._dispatch.send(topic, records, partitions, wait=lambda: self._poll(0.1))
        except KafkaException as e:
            raise self._failed("writing", e) from e

    def _delivered(self, error: KafkaError | None, message: Any = None) -> None:
        if error is not None and self._lost is None:
            self._lost = error

    def _poll(self, seconds: float) -> None:
        """Serve the client's reports.

        Raises:
            ConnectorError: the client is broken, or a record could not be delivered.
        """
        self._served(self._dispatch.serve, seconds)

    def _served(self, serve: Callable[[float], T], seconds: float) -> T:
        try:
            served = serve(seconds)
        except KafkaException as e:
            raise self._failed("writing", e) from e
        if self._lost is not None:
            raise failure("writing", self._lost)
        return served

    def _failed(self, doing: str, error: KafkaException) -> ConnectorError:
        return failure(doing, error)

    def nbytes(self) -> int:
        return 0 if self._client is None else int(len(self._client) * (self._width + o.TUNING.message_bytes))

    # -- ends ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        if not self._spec.waits:
            self._poll(0)
            return
        while self._served(self._dispatch.flush, 1.0):
            continue  # a record that cannot be delivered ends by 'message.timeout.ms'

    def commit(self, checkpoint: int) -> None:
        kill_point("kafka.commit.before")
        self.flush()
        kill_point("kafka.commit.after")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            self._abandon(client)
            self._dispatch.close()

    def _abandon(self, client: Any) -> None:
        """Forget what is not delivered."""
        client.purge()


class TransactionalKafkaSink(KafkaSink):
    """Exactly once."""

    remembers = True

    def __init__(self, spec: KafkaSinkSpec, encoder: RecordEncoder, transactional_id: str) -> None:
        super().__init__(spec, encoder)
        self._id = transactional_id
        self._mark = CommitMark(transactional_id, spec.home, spec.properties)
        self._began = self._stuck = False

    def recover(self) -> int | None:
        self._open(
            {
                "transactional.id": self._id,
                "transaction.timeout.ms": o.TUNING.transaction_ms,
                "linger.ms": o.TUNING.transaction_linger_ms,
            }
        )
        self._insist("starting transactions", self._client.init_transactions)
        last = self._mark.read()
        self._commit(last)  # so that a former owner sees who has taken over, and the mark does not expire
        return last

    def write(self, batch: Batch) -> None:
        self._begin()
        super().write(batch)

    def flush(self) -> None:
        self._poll(0)

    def commit(self, checkpoint: int) -> None:
        self._commit(checkpoint)

    def _begin(self) -> None:
        if not self._began:
            self._insist("beginning a transaction", lambda _: self._client.begin_transaction())
            self._began = True

    def _commit(self, checkpoint: int | None) -> None:
        self._begin()
        offsets = self._mark.offsets(checkpoint)
        kill_point("kafka.offsets.before")
        self._insist("adding the checkpoint", lambda seconds: self._send_offsets(offsets, seconds))
        kill_point("kafka.commit.before")
        self._insist("committing", self._client.commit_transaction)
        kill_point("kafka.commit.after")
        self._began = False

    def _send_offsets(self, offsets: list[Any], seconds: float) -> None:
        """On a thread of its own: librdkafka ignores the time limit, and waits for a coordinator that has gone for good
        (its issues 5456 and 5511). Such a client is left alone; the next one asks for the coordinator anew."""
        client, group, failed = self._client, self._mark.group, list[KafkaException]()

        def send() -> None:
            try:
                client.send_offsets_to_transaction(offsets, group, seconds)
            except KafkaException as e:
                failed.append(e)

        sender = threading.Thread(target=send, name="forebay-kafka-offsets", daemon=True)
        sender.start()
        sender.join(seconds + 1)
        if sender.is_alive():
            self._stuck = True
            raise ConnectorError("Kafka's client waits for a coordinator that has gone", detail="a new one is opened")
        if failed:
            raise failed[0]

    def _insist(self, doing: str, call: Callable[[float], Any]) -> None:
        try:
            insist(doing, call, lambda error: bool(error.retriable()))
        except KafkaException as e:
            raise self._failed(doing, e) from e

    def _failed(self, doing: str, error: KafkaException) -> ConnectorError:
        if error.args[0].code() not in (KafkaError._FENCED, KafkaError._FATAL):
            return failure(doing, error)
        if self._mark.mine():
            return ConnectorError(
                f"the broker has aborted the transaction of '{self._id}'",
                detail=f"{doing}: {error.args[0].str()}",
                hint="its rows are sent again; checkpoint more often, or raise 'properties.transaction.timeout.ms'",
            )
        return ConnectorError(
            f"another writer has taken over '{self._id}'",
            hint="stop one of the two, or give each its own 'sink.transactional-id-prefix'",
            retryable=False,
        )

    def _abandon(self, client: Any) -> None:
        if self._stuck:
            return
        super()._abandon(client)
        if self._began:
            try:
                client.abort_transaction(o.TUNING.request_seconds)
            except KafkaException as e:
                LOG.info("the open transaction of '%s' is left to its timeout: %s", self._id, e)


def partitions_of(client: Any, topic: str) -> list[int]:
    """The partitions of a topic.

    Raises:
        ConnectorError: there is no such topic, or the broker does not answer.
    """
    deadline = time.monotonic() + o.TUNING.request_seconds
    while True:
        try:
            found = client.list_topics(topic, timeout=o.TUNING.request_seconds).topics[topic]
        except KafkaException as e:
            raise failure(f"looking for topic '{topic}'", e) from e
        if found.error is None:
            return sorted(found.partitions)
        if not found.error.retriable() or time.monotonic() > deadline:
            raise failure(f"writing to topic '{topic}'", found.error)
        time.sleep(0.05)  # the broker is making it


def open_sink(spec: TableSpec, encoder: RecordEncoder) -> KafkaSink:
    """The sink that a table's options ask for; connects in `recover`.

    Raises:
        OptionError: no topic, no transactional id, or an option that librdkafka does not know.
    """
    names, pattern = topics_of(spec), spec.options.get(o.PATTERN.name)
    routed = any(c.metadata == "topic" and not c.virtual for c in spec.columns)
    if not routed and len(names) != 1:
        raise OptionError(
            f"table '{spec.name}' needs one topic to write to", hint="give option 'topic', or a metadata column 'topic'"
        )
    guarantee = read.required(spec.options, o.GUARANTEE)
    sink = KafkaSinkSpec(
        o.client_properties(spec.options),
        topic=names[0] if len(names) == 1 else None,
        allowed=_allowed(names, pattern),
        home=names[0] if names else _OFFSETS_TOPIC,
        partitioner=read.required(spec.options, o.PARTITIONER),
        waits=guarantee != "none",
    )
    if guarantee != "exactly-once":
        return KafkaSink(sink, encoder)
    prefix = spec.options.get(o.TRANSACTIONAL_ID.name)
    if not prefix:
        raise OptionError(
            "'exactly-once' needs option 'sink.transactional-id-prefix'",
            hint="a name that no other writer of the cluster has, for example that of the warehouse",
        )
    return TransactionalKafkaSink(sink, encoder, f"{prefix}-{spec.job or spec.name}")


def _allowed(names: list[str], pattern: str | None) -> Callable[[str], bool]:
    if len(names) > 1:
        return frozenset(names).__contains__
    if pattern:
        return lambda topic: re.fullmatch(pattern, topic) is not None
    return lambda topic: True
