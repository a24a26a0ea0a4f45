"""How records go to the client: column by column, topic by topic.

There are two ways. `ClientDispatch` calls confluent-kafka's `produce` per record. `DirectDispatch` lays the records of a batch
out as C's messages and hands all of them to librdkafka in one call (see `direct`), which copies them; it knows neither headers
nor timestamps.

Whether a record was delivered is told by an event of the client's main queue, for a whole batch of them. confluent-kafka would
drop those of records that it did not send, so `DirectDispatch` serves that queue in its stead, log lines included, and calls
nothing of the client's that does, its `flush` above all; without which a record waits for 'linger.ms'. Committing a transaction
does serve the queue, but counts failures by itself.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException

from forebay.connectors.kafka.direct import Library, Message
from forebay.connectors.kafka.errors import LOG
from forebay.connectors.records import Encoded
from forebay.engine.state.arrays import is_null, text

Partitions = npt.NDArray[np.int32]
_NO_PARTITION = -1
_COPY, _EACH_PARTITION = 0x2, 0x8
_EVENT_LOG, _EVENT_ERROR = 0x4, 0x8
_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)
"""Python's levels of syslog's, as confluent-kafka has them."""
_FIELDS = {
    "error": np.int32,
    "partition": np.int32,
    "value": np.int64,
    "value_size": np.int64,
    "key": np.int64,
    "key_size": np.int64,
}
_MESSAGE = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": list(_FIELDS.values()),
        "offsets": [getattr(Message, name).offset for name in _FIELDS],
        "itemsize": ctypes.sizeof(Message),
    }
)
"""C's message as a row of numpy's."""


class Dispatch(ABC):
    """The way of records to one client."""

    @abstractmethod
    def send(self, topic: str, records: Encoded, partitions: Partitions | None, wait: Callable[[], Any]) -> None:
        """Give records to the client, in order; `partitions` None lets it choose. When its queue is full, `wait` is called
        before the next attempt, and may raise.

        Raises:
            KafkaException: the client does not take a record.
        """

    @abstractmethod
    def serve(self, seconds: float) -> None:
        """Let the client tell what it has to, waiting at most so long for that."""

    @abstractmethod
    def flush(self, seconds: float) -> int:
        """Wait at most so long until all is delivered. Returns how many records or events are left."""

    def close(self) -> None:  # noqa: B027 - optional by design
        """Let go of the client, before it is closed."""


class ClientDispatch(Dispatch):
    """By one call per record; the client itself reports deliveries."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def send(self, topic: str, records: Encoded, partitions: Partitions | None, wait: Callable[[], Any]) -> None:
        produce = self._client.produce
        for call in _calls(topic, records, partitions):
            while True:
                try:
                    produce(*call)
                    break
                except BufferError:
                    wait()

    def serve(self, seconds: float) -> None:
        self._client.poll(seconds)

    def flush(self, seconds: float) -> int:
        return int(self._client.flush(seconds))


def _calls(topic: str, records: Encoded, partitions: Partitions | None) -> Iterable[tuple[Any, ...]]:
    """The arguments of `produce` per record, as few as will do: they are the cost of a row."""
    topics, values = itertools.repeat(topic), records.values.to_pylist()
    keys: Iterable[bytes | None] = itertools.repeat(None)
    if records.keys is not None:
        keys = records.keys.to_pylist()
    if records.timestamps is None and records.headers is None:
        if partitions is not None:
            return zip(topics, values, keys, partitions.tolist())
        return zip(topics, values, keys) if records.keys is not None else zip(topics, values)
    nothing = itertools.repeat(None)
    times: Iterable[int] = itertools.repeat(0)  # 0: now
    if records.timestamps is not None:
        times = records.timestamps.clip(0).tolist()
    headers: Iterable[Any] = itertools.repeat([])
    if records.headers is not None:
        headers = [h or [] for h in records.headers.to_pylist()]
    to = partitions.tolist() if partitions is not None else itertools.repeat(_NO_PARTITION)
    return zip(topics, values, keys, to, nothing, nothing, times, headers)


class DirectDispatch(Dispatch):
    """By one call per batch. `failed` is told of deliveries that fail."""

    def __init__(self, client: Any, library: Library, failed: Callable[[KafkaError], None]) -> None:
        self._library, self._failed = library, failed
        self._client = library.handle(client)
        self._queue: int = library.queue_get_main(self._client)
        self._topics: dict[str, int] = {}

    def send(self, topic: str, records: Encoded, partitions: Partitions | None, wait: Callable[[], Any]) -> None:
        messages = laid_out(records, partitions)
        flags = _COPY if partitions is None else _COPY | _EACH_PARTITION
        handle, done = self._topic(topic), 0
        while done < len(messages):
            rest = messages[done:]
            if self._library.produce_batch(handle, _NO_PARTITION, flags, rest.ctypes.data, len(rest)) == len(rest):
                return
            done += int(np.argmax(rest["error"] != 0))
            error = int(messages["error"][done])
            if error != KafkaError._QUEUE_FULL:  # which all others after it would have, too
                raise KafkaException(KafkaError(error))
            wait()

    def _topic(self, name: str) -> int:
        if name not in self._topics:
            handle = self._library.topic_new(self._client, name.encode(), None)
            if handle is None:
                raise KafkaException(KafkaError(self._library.last_error()))
            self._topics[name] = handle
        return self._topics[name]

    def serve(self, seconds: float) -> None:
        wait = int(seconds * 1000)
        while (event := self._library.queue_poll(self._queue, wait)) is not None:
            try:
                self._happened(event)
            finally:
                self._library.event_destroy(event)
            wait = 0

    def _happened(self, event: int) -> None:
        kind, error = self._library.event_type(event), self._library.event_error(event)
        if kind == _EVENT_LOG:
            part, line, level = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_int()
            self._library.event_log(event, ctypes.byref(part), ctypes.byref(line), ctypes.byref(level))
            of = self._library.name(self._client)
            LOG.log(_LEVELS[level.value & 7], "%s [%s] %s", *map(_text, (part.value, of, line.value)))
        elif kind == _EVENT_ERROR:
            LOG.info("%s", _text(self._library.event_error_string(event)))
        elif error:
            self._failed(KafkaError(error))

    def flush(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while self._library.outq_len(self._client) and (left := deadline - time.monotonic()) > 0:
            self.serve(left)
        return int(self._library.outq_len(self._client))

    def close(self) -> None:
        for topic in self._topics.values():
            self._library.topic_destroy(topic)
        self._library.queue_destroy(self._queue)
        self._topics.clear()


def laid_out(records: Encoded, partitions: Partitions | None) -> npt.NDArray[Any]:
    """C's messages of the records, whose buffers must live as long."""
    messages = np.zeros(len(records), _MESSAGE)
    messages["partition"] = _NO_PARTITION if partitions is None else partitions
    for field, column in (("value", records.values), ("key", records.keys)):
        if column is not None:
            ends, data = text(column)
            messages[field] = ends[:-1].astype(np.int64) + data.ctypes.data
            messages[f"{field}_size"] = np.diff(ends)
            if column.null_count:
                messages[field][is_null(column)] = 0
    return messages


def _text(given: bytes | None) -> str:
    return str(given or b"", "utf-8", "replace")
