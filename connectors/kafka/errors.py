"""What an error of librdkafka means here: its words, whether a retry can help, and the fix.

librdkafka itself retries what is passing until its timeouts, so most of what reaches us after that is worth a new start of
the client; the codes below are not: somebody has to change something first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from forebay.connectors.kafka import options as o
from forebay.engine.errors import ConnectorError, OptionError

T = TypeVar("T")
LOG = logging.getLogger("forebay.kafka")
LOG.addHandler(logging.NullHandler())  # a library stays silent where nobody has set up logging

_ACL = "grant the principal access, or set 'properties.sasl.*'"
_LASTING: dict[int, str | None] = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topic first",
    KafkaError._UNKNOWN_TOPIC: "create the topic first",
    KafkaError._UNKNOWN_PARTITION: "was the topic deleted?",
    KafkaError.TOPIC_EXCEPTION: "topic names have letters, digits, '.', '_' and '-'",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: _ACL,
    KafkaError.GROUP_AUTHORIZATION_FAILED: _ACL,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: _ACL,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: _ACL,
    KafkaError.SASL_AUTHENTICATION_FAILED: _ACL,
    KafkaError._AUTHENTICATION: _ACL,
    KafkaError.MSG_SIZE_TOO_LARGE: "raise 'properties.message.max.bytes', and 'max.message.bytes' of the topic",
    KafkaError.INVALID_RECORD: "a compacted topic takes records with a key only",
    KafkaError.POLICY_VIOLATION: None,
    KafkaError.UNSUPPORTED_VERSION: None,
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "lower 'properties.transaction.timeout.ms' to what the broker allows",
}


def failure(doing: str, error: Any) -> ConnectorError:
    """The error for a `KafkaError` (or a `KafkaException` that holds one) met while `doing` something."""
    cause = error if isinstance(error, KafkaError) else error.args[0]
    code = cause.code() if isinstance(cause, KafkaError) else None
    return ConnectorError(
        f"{doing} failed: {cause.str() if isinstance(cause, KafkaError) else cause}",
        detail=None if code is None else f"Kafka's error {cause.name()}",
        hint=_LASTING.get(code) if code is not None else None,
        retryable=code not in _LASTING,
    )


def insist(doing: str, call: Callable[[float], T], again: Callable[[KafkaError], bool]) -> T:
    """Call with a time limit in seconds until it succeeds, at most `TUNING.patience_seconds` while `again` allows it.

    Raises:
        KafkaException: the last failure.
    """
    deadline = time.monotonic() + o.TUNING.patience_seconds
    while True:
        try:
            return call(o.TUNING.request_seconds)
        except KafkaException as e:
            if not again(e.args[0]) or time.monotonic() > deadline:
                raise
            LOG.info("%s: %s; trying again", doing, e.args[0].str())
            time.sleep(0.05)


def ask(doing: str, call: Callable[[float], T]) -> T:
    """The answer to a question, asked again while waiting may help (a coordinator that is still loading).

    Raises:
        ConnectorError: there is none.
    """
    try:
        return insist(doing, call, passing)
    except KafkaException as e:
        raise failure(doing, e) from e


def passing(error: KafkaError) -> bool:
    """Whether waiting may mend it."""
    return error.code() not in _LASTING and not error.fatal()


def refused(error: KafkaException) -> OptionError:
    """The error for 'properties.*' that librdkafka does not take."""
    return OptionError(
        f"Kafka's client refuses an option: {error.args[0].str()}", hint="'properties.*' take librdkafka's names"
    )
