"""librdkafka's own calls, beside confluent-kafka's: those that carry messages, thousands at a time.

confluent-kafka makes a Python object per message read and one call per message written, which is most of what a message
costs. Its clients go on doing everything else (assignment, offsets, metadata, transactions, logging, authentication); only
the messages of the same `rd_kafka_t` go by here. A second client of our own would need all of that again. What that takes:

- The *library* is the one that confluent-kafka is linked with: symbols are looked up through its extension module.
- The *handle* is the first field of confluent-kafka's client objects. `library` proves that once per process: NULL before a
  client is opened, the address of a client of the right name while it is open, NULL when it is closed.
- confluent-kafka's *callbacks* must be called within its own calls. So nothing here serves a queue that has any (see `intake`).

Where one of these fails (another build, another layout) `library` is None, a debug line says why, and messages go through
confluent-kafka. The environment variable FOREBAY_KAFKA_DIRECT=0 asks for that.
"""

from __future__ import annotations

import ctypes
import os
import platform
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, cimpl

from forebay.connectors.kafka.errors import LOG

ENABLED = os.environ.get("FOREBAY_KAFKA_DIRECT", "1") != "0"
"""The switch."""
_POINTER, _TEXT, _INT32 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
_HEAD = object.__basicsize__


class Message(ctypes.Structure):
    """C's `rd_kafka_message_t`, of 64-bit systems; its layout is part of librdkafka's documented interface."""

    _fields_ = (
        ("error", ctypes.c_int),
        ("topic", _POINTER),
        ("partition", _INT32),
        ("value", _POINTER),
        ("value_size", ctypes.c_size_t),
        ("key", _POINTER),
        ("key_size", ctypes.c_size_t),
        ("offset", ctypes.c_int64),
        ("opaque", _POINTER),
    )


class Library:
    """The functions, by librdkafka's names without 'rd_kafka_'. None of them holds the GIL.

    Raises:
        OSError, AttributeError: they cannot be found.
        RuntimeError: they are there, but confluent-kafka keeps its handles elsewhere.
    """

    def __init__(self) -> None:
        found = _linked()

        def function(name: str, result: Any, *arguments: Any) -> Any:
            call = getattr(found, f"rd_kafka_{name}")
            call.restype, call.argtypes = result, arguments
            return call

        self.name = function("name", _TEXT, _POINTER)
        self.last_error = function("last_error", ctypes.c_int)
        self.queue_new = function("queue_new", _POINTER, _POINTER)
        self.queue_get_partition = function("queue_get_partition", _POINTER, _POINTER, _TEXT, _INT32)
        self.queue_forward = function("queue_forward", None, _POINTER, _POINTER)
        self.queue_destroy = function("queue_destroy", None, _POINTER)
        self.consume_batch_queue = function(
            "consume_batch_queue", ctypes.c_ssize_t, _POINTER, ctypes.c_int, _POINTER, ctypes.c_size_t
        )
        self.topic_name = function("topic_name", _TEXT, _POINTER)
        self.topic_new = function("topic_new", _POINTER, _POINTER, _TEXT, _POINTER)
        self.topic_destroy = function("topic_destroy", None, _POINTER)
        self.produce_batch = function(
            "produce_batch", ctypes.c_int, _POINTER, _INT32, ctypes.c_int, _POINTER, ctypes.c_int
        )
        self.outq_len = function("outq_len", ctypes.c_int, _POINTER)
        self.queue_get_main = function("queue_get_main", _POINTER, _POINTER)
        self.queue_poll = function("queue_poll", _POINTER, _POINTER, ctypes.c_int)
        self.event_type = function("event_type", ctypes.c_int, _POINTER)
        self.event_error = function("event_error", ctypes.c_int, _POINTER)
        self.event_error_string = function("event_error_string", _TEXT, _POINTER)
        self.event_log = function("event_log", ctypes.c_int, _POINTER, _POINTER, _POINTER, _POINTER)
        self.event_destroy = function("event_destroy", None, _POINTER)
        self.message_errstr = function("message_errstr", _TEXT, _POINTER)
        self.message_destroy = _address(function("message_destroy", None, _POINTER))
        """An address, for kernels; so is the next."""
        self.message_timestamp = _address(function("message_timestamp", ctypes.c_int64, _POINTER, _POINTER))
        for client in (Consumer, Producer):
            self._prove(client)

    def handle(self, client: Any) -> int:
        """The address of an open client's `rd_kafka_t`; it lives as long as the client is open."""
        address = _field(client)
        if address is None:
            raise RuntimeError("the client is closed")
        return address

    def _prove(self, kind: Any) -> None:
        name = uuid.uuid4().hex
        client = kind.__new__(kind)
        if kind.__basicsize__ < _HEAD + ctypes.sizeof(_POINTER) or _field(client) is not None:
            raise RuntimeError(f"a {kind.__name__} that is not open has a handle")
        client.__init__({"client.id": name, "log_level": 0} | ({"group.id": name} if kind is Consumer else {}))
        named = str(self.name(self.handle(client)) or b"", "utf-8", "replace")
        client.close()
        if not named.startswith(f"{name}#") or _field(client) is not None:
            raise RuntimeError(f"the handle of a {kind.__name__} is not where it is looked for")


def library() -> Library | None:
    """The functions, or None where messages must go through confluent-kafka."""
    return _library() if ENABLED else None


@cache
def _library() -> Library | None:
    if ctypes.sizeof(_POINTER) != 8:
        LOG.debug("messages go through confluent-kafka: not a 64-bit system")
        return None
    try:
        return Library()
    except (OSError, AttributeError, RuntimeError) as e:
        LOG.debug("messages go through confluent-kafka: %s", e)
        return None


def _linked() -> ctypes.CDLL:
    """The librdkafka that confluent-kafka uses, already loaded."""
    extension = Path(cimpl.__file__)
    if platform.system() != "Windows":
        return ctypes.CDLL(str(extension))  # a symbol that it does not have is looked for in what it is linked with
    bundled = sorted((extension.parents[1] / "confluent_kafka.libs").glob("librdkafka*.dll"))
    if not bundled:
        raise OSError("confluent-kafka has no librdkafka of its own")
    return ctypes.CDLL(str(bundled[0]))


def _address(function: Any) -> int:
    return int(ctypes.cast(function, _POINTER).value or 0)


def _field(client: Any) -> int | None:
    """The first field of an object, a pointer; None where it is NULL."""
    return _POINTER.from_address(id(client) + _HEAD).value
