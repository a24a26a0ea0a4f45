"""How messages come from the client: in chunks, as columns.

There are two ways. `ClientIntake` takes them as confluent-kafka's objects. `DirectIntake` takes their addresses from librdkafka
(see `direct`) and copies value after value into one buffer, at a third of the cost; it knows no headers.

The client's own queue carries calls back into confluent-kafka, which must happen within its own calls. So the queues of the
partitions, which have nothing but messages and their ends and errors, are forwarded to one of ours, and the client is still
polled for the rest. librdkafka ends a forwarding when it stops a partition, some time after it was told to: it is therefore
renewed when a partition is taken (again), and for all of them when nothing comes, or every second.

librdkafka's threads fetch, check and unpack the next messages, into a queue of bounded bytes, while a chunk is decoded.

Every message that librdkafka hands over is given back once: when its chunk ends, with or without an exception. It lives that
long so that the key and time of a dead letter, which decoding had no need of, can be looked up.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException

from forebay.connectors.kafka.direct import Library, Message, library
from forebay.engine.errors import ConnectorError
from forebay.kernels import messages as kernels

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Headers = Sequence[Sequence[tuple[str, bytes | None]] | None]
_RENEW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """The end of a partition, or an error."""

    error: KafkaError
    topic: str | None
    partition: int
    offset: int


class Chunk(ABC):
    """n messages in order of arrival, valid while the intake's context is open."""

    events: Sequence[Event]
    """What came among the messages."""

    @abstractmethod
    def __len__(self) -> int:
        """n."""

    @abstractmethod
    def partitions(self) -> Int32s:
        """Of every message."""

    @abstractmethod
    def offsets(self) -> Int64s:
        """Of every message; ascending within a partition."""

    @abstractmethod
    def topics(self) -> tuple[list[str], npt.NDArray[np.intp]]:
        """The names of the topics, and of every message the place of its topic among them."""

    @abstractmethod
    def keep(self, at: npt.NDArray[np.intp]) -> None:
        """Forget all but the messages at these places."""

    @abstractmethod
    def values(self) -> pa.BinaryArray:
        """NULL is a tombstone."""

    @abstractmethod
    def keys(self) -> pa.BinaryArray:
        """NULL where a message has none."""

    @abstractmethod
    def timestamps(self) -> tuple[Int64s, npt.NDArray[np.int8]]:
        """Milliseconds since 1970 (-1: unknown), and Kafka's codes of their types."""

    @abstractmethod
    def headers(self) -> Headers:
        """Of every message; None where it has none."""


class Intake(ABC):
    """The messages of one client."""

    @abstractmethod
    def take(self, most: int, seconds: float) -> AbstractContextManager[Chunk]:
        """At most so many messages and events, waiting at most so long for all of them.

        Raises:
            KafkaException: the client is broken.
        """

    def expect(self, topic: str, partition: int) -> None:  # noqa: B027 - optional by design
        """Told before a partition is assigned."""

    def close(self) -> None:  # noqa: B027 - optional by design
        """Let go of the client, before it is closed."""


def intake_of(consumer: Any, headers: bool) -> Intake:
    """The quickest way to a client's messages, with or without their headers."""
    found = None if headers else library()
    return ClientIntake(consumer) if found is None else DirectIntake(consumer, found)


# -- through confluent-kafka ------------------------------------------------------------------------------------------


class ClientIntake(Intake):
    """Messages as confluent-kafka's objects."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    @contextmanager
    def take(self, most: int, seconds: float) -> Iterator[Chunk]:
        with _no_collection():
            chunk = ClientChunk(self._consumer.consume(most, seconds))
            try:
                yield chunk
            finally:
                chunk.keep(np.empty(0, np.intp))


class ClientChunk(Chunk):
    """Every call on a message costs, so only what is asked for is called."""

    def __init__(self, messages: list[Any]) -> None:
        self.events = [_event(m) for m in messages if m.error() is not None]
        self._messages = [m for m in messages if m.error() is None] if self.events else messages

    def __len__(self) -> int:
        return len(self._messages)

    def partitions(self) -> Int32s:
        return np.array([m.partition() for m in self._messages], np.int32)

    def offsets(self) -> Int64s:
        return np.array([m.offset() for m in self._messages], np.int64)

    def topics(self) -> tuple[list[str], npt.NDArray[np.intp]]:
        of = [m.topic() for m in self._messages]
        place = {name: i for i, name in enumerate(dict.fromkeys(of))}
        return list(place), np.array([place[name] for name in of], np.intp)

    def keep(self, at: npt.NDArray[np.intp]) -> None:
        self._messages = [self._messages[i] for i in at]

    def values(self) -> pa.BinaryArray:
        return pa.array([m.value() for m in self._messages], pa.binary())

    def keys(self) -> pa.BinaryArray:
        return pa.array([m.key() for m in self._messages], pa.binary())

    def timestamps(self) -> tuple[Int64s, npt.NDArray[np.int8]]:
        both = np.array([m.timestamp() for m in self._messages], np.int64).reshape(-1, 2)
        return both[:, 1].copy(), both[:, 0].astype(np.int8)

    def headers(self) -> Headers:
        return [m.headers() for m in self._messages]


def _event(message: Any) -> Event:
    return Event(message.error(), message.topic(), message.partition(), message.offset())


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hold back Python's cycle collector: it would walk the thousands of messages of a chunk ten times over while they
    are made, for as much time as making them takes, and none is part of a cycle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# -- from librdkafka itself -------------------------------------------------------------------------------------------


class DirectIntake(Intake):
    """Messages by address."""

    def __init__(self, consumer: Any, library: Library) -> None:
        self._consumer, self._library = consumer, library
        self._queue = 0
        self._partitions: dict[tuple[str, int], int] = {}
        """The queues of the partitions."""
        self._client = library.handle(consumer)
        self._queue = library.queue_new(self._client)
        self._renewed = time.monotonic()
        self._addresses = np.empty(0, np.int64)

    def expect(self, topic: str, partition: int) -> None:
        queue = self._partitions.get((topic, partition))
        if queue is None:
            queue = self._library.queue_get_partition(self._client, topic.encode(), partition)
            if queue is None:
                raise ConnectorError(f"Kafka's client has no queue for topic '{topic}' partition {partition}")
            self._partitions[topic, partition] = queue
        self._library.queue_forward(queue, self._queue)

    @contextmanager
    def take(self, most: int, seconds: float) -> Iterator[Chunk]:
        told = self._poll()
        if len(self._addresses) < most:
            self._addresses = np.empty(most, np.int64)
        taken = self._library.consume_batch_queue(self._queue, int(seconds * 1000), self._addresses.ctypes.data, most)
        if taken < 0:
            raise KafkaException(KafkaError(self._library.last_error()))
        try:
            if taken == 0 or time.monotonic() - self._renewed > _RENEW_SECONDS:
                self._renew()
            yield DirectChunk(self._library, self._addresses[:taken], told)
        finally:
            kernels.free(self._addresses, taken, self._library.message_destroy)

    def _poll(self) -> list[Event]:
        """Let the client call back, and tell what it has that is of no partition."""
        message = self._consumer.poll(0)
        if message is None:
            return []
        if message.error() is None:
            raise ConnectorError("a message of Kafka came past the queue that it was forwarded to")
        return [_event(message)]

    def _renew(self) -> None:
        self._renewed = time.monotonic()
        for queue in self._partitions.values():
            self._library.queue_forward(queue, self._queue)

    def close(self) -> None:
        queues, self._queue = [*self._partitions.values(), self._queue], 0
        self._partitions.clear()
        for queue in filter(None, queues):
            self._library.queue_destroy(queue)

    def __del__(self) -> None:
        """A client that nobody closes waits for its queues when it goes; `close` is for the order, this for the end."""
        self.close()


class DirectChunk(Chunk):
    """Columns that kernels read from messages at `addresses`, which the intake owns."""

    def __init__(self, library: Library, addresses: Int64s, told: list[Event]) -> None:
        n = len(addresses)
        self._library = library
        scanned, self._topics = np.empty(n, np.int64), np.empty(n, np.int64)
        self._partitions, self._offsets = np.empty(n, np.int32), np.empty(n, np.int64)
        good = kernels.scan(addresses, n, scanned, self._partitions, self._offsets, self._topics)
        self._messages = scanned
        self.events = told + [self._event(address) for address in scanned[good:][::-1].tolist()]
        if good < n:
            self.keep(np.arange(good))

    def _event(self, address: int) -> Event:
        message = Message.from_address(address)
        text = str(self._library.message_errstr(address) or b"", "utf-8", "replace")
        topic = str(self._library.topic_name(message.topic), "utf-8") if message.topic else None
        error = KafkaError(message.error, text, fatal=message.error == KafkaError._FATAL)
        return Event(error, topic, message.partition, message.offset)

    def __len__(self) -> int:
        return len(self._messages)

    def partitions(self) -> Int32s:
        return self._partitions

    def offsets(self) -> Int64s:
        return self._offsets

    def topics(self) -> tuple[list[str], npt.NDArray[np.intp]]:
        first = np.flatnonzero(np.diff(self._topics, prepend=0))  # messages come in runs of one partition
        names = [str(self._library.topic_name(topic), "utf-8") for topic in self._topics[first].tolist()]
        place = {name: i for i, name in enumerate(dict.fromkeys(names))}
        lengths = np.diff(first, append=len(self))
        return list(place), np.repeat(np.array([place[name] for name in names], np.intp), lengths)

    def keep(self, at: npt.NDArray[np.intp]) -> None:
        self._messages, self._topics = self._messages[at], self._topics[at]
        self._partitions, self._offsets = self._partitions[at], self._offsets[at]

    def values(self) -> pa.BinaryArray:
        return self._column(kernels.VALUE)

    def keys(self) -> pa.BinaryArray:
        return self._column(kernels.KEY)

    def _column(self, field: int) -> pa.BinaryArray:
        n = len(self)
        ends, valid = np.empty(n + 1, np.int64), np.empty(n, np.uint8)
        nulls = kernels.measure(self._messages, field, ends, valid)
        total = int(ends[n])
        if total > np.iinfo(np.int32).max:
            raise ConnectorError(
                f"{n} messages of Kafka have {total} bytes, more than one batch can have",
                hint="lower 'properties.queued.max.messages.kbytes'",
                retryable=False,
            )
        data = pa.allocate_buffer(total)
        kernels.gather(self._messages, field, ends, data.address)
        bits = pa.py_buffer(np.packbits(valid, bitorder="little")) if nulls else None
        return pa.Array.from_buffers(pa.binary(), n, [bits, pa.py_buffer(ends.astype(np.int32)), data], nulls)

    def timestamps(self) -> tuple[Int64s, npt.NDArray[np.int8]]:
        times, kinds = np.empty(len(self), np.int64), np.empty(len(self), np.int32)
        kernels.timestamps(self._messages, self._library.message_timestamp, times, kinds)
        return times, kinds.astype(np.int8)

    def headers(self) -> Headers:
        raise NotImplementedError("headers come through confluent-kafka")
