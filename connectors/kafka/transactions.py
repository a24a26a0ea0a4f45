"""Where a sink remembers its last committed checkpoint: in an offset, committed inside the transaction of the rows.

The group is named as the transactional id; the offset is that of partition 0 of the sink's own topic, always 0, and its
*metadata string* is what counts: 'ckpt=7 owner=3f..'. So rows and id become visible together or not at all, and the id goes
when the topic goes. The owner is the sink object that wrote it: librdkafka reports a transaction that the broker has timed
out and a takeover by another writer with one and the same error, and the owner tells them apart.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from forebay.connectors.kafka import options as o
from forebay.connectors.kafka.errors import LOG, ask
from forebay.engine.errors import ConnectorError

_MARK = re.compile(r"(?:ckpt=(\d+) )?owner=([0-9a-f]+)")


class CommitMark:
    """The mark of one transactional id."""

    def __init__(self, transactional_id: str, topic: str, properties: Mapping[str, Any]) -> None:
        self._id, self._topic = transactional_id, topic
        self._owner = uuid.uuid4().hex
        fixed = {"group.id": transactional_id, "isolation.level": "read_committed"}
        self._properties = {**o.for_consumer(properties), **fixed}
        self._group: Any = None

    def read(self) -> int | None:
        """The checkpoint that was committed last, or None.

        Raises:
            ConnectorError: the broker does not answer, or the group is not ours.
        """
        return self._read()[0]

    def mine(self) -> bool:
        """Whether no other writer has taken over since `offsets` was committed first."""
        return self._read()[1] == self._owner

    def offsets(self, checkpoint: int | None) -> list[TopicPartition]:
        """What to send to the transaction."""
        known = "" if checkpoint is None else f"ckpt={checkpoint} "
        return [TopicPartition(self._topic, 0, 0, f"{known}owner={self._owner}")]

    @property
    def group(self) -> Any:
        """The group's metadata as `send_offsets_to_transaction` wants it; known after `read`."""
        return self._group

    def _read(self) -> tuple[int | None, str | None]:
        consumer = Consumer(self._properties, logger=LOG)
        try:
            self._group = consumer.consumer_group_metadata()
            found = ask(
                f"reading the last checkpoint of '{self._id}'", lambda s: committed(consumer, self._topic, 0, s)
            )
        finally:
            consumer.close()
        if found.offset < 0:
            return None, None
        mark = _MARK.fullmatch(found.metadata or "")
        if mark is None:
            raise ConnectorError(
                f"consumer group '{self._id}' is used by something else",
                detail=f"its offset of topic '{self._topic}' says '{found.metadata}'",
                hint="choose another 'sink.transactional-id-prefix'",
                retryable=False,
            )
        return (None if mark[1] is None else int(mark[1])), mark[2]


def committed(consumer: Any, topic: str, partition: int, seconds: float) -> Any:
    """What a group has committed for a partition, with offset and metadata.

    Raises:
        KafkaException: the broker does not say.
    """
    found = consumer.committed([TopicPartition(topic, partition)], timeout=seconds)[0]
    if found.error is not None:
        raise KafkaException(found.error)
    return found
