"""Options of `kafka` and `upsert-kafka` under Flink's names, and what they mean to librdkafka.

'properties.*' passes through; Java's `sasl.jaas.config` becomes librdkafka's user name and password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from forebay.connectors import bootstrap, records
from forebay.connectors.topiclog import options as log
from forebay.engine.connector import Option
from forebay.engine.errors import OptionError
from forebay.engine.optionkinds import Kind

_START = ("earliest-offset", "latest-offset", "group-offsets", "timestamp", "specific-offsets")
_STOP = ("unbounded", "latest-offset", "group-offsets", "timestamp", "specific-offsets")
PREFIX = "properties."

BOOTSTRAP = Option("properties.bootstrap.servers", "brokers, 'host:port,host:port'", required=True)
GROUP = Option("properties.group.id", "consumer group that offsets are committed to at checkpoints")
TOPIC, PATTERN = log.TOPIC, log.TOPIC_PATTERN
DISCOVERY = Option(
    "scan.topic-partition-discovery.interval", "how often new partitions are looked for", "5 min", kind=Kind.DURATION
)
STARTUP = Option("scan.startup.mode", "where to begin", "group-offsets", choices=_START)
STARTUP_TIME, STARTUP_OFFSETS = log.STARTUP_TIME, log.STARTUP_OFFSETS
BOUNDED = Option("scan.bounded.mode", "where to end", "unbounded", choices=_STOP)
BOUNDED_TIME, BOUNDED_OFFSETS = log.BOUNDED_TIME, log.BOUNDED_OFFSETS
RESET = Option(
    "scan.offset-reset",
    "where to go on when retention has removed the wanted offset",
    "error",
    choices=("error", "earliest", "latest"),
)
SOURCE_OPTIONS = (
    DISCOVERY,
    STARTUP,
    STARTUP_TIME,
    STARTUP_OFFSETS,
    BOUNDED,
    BOUNDED_TIME,
    BOUNDED_OFFSETS,
    RESET,
)
GUARANTEE = Option(
    "sink.delivery-guarantee",
    "'exactly-once': in transactions, seen at checkpoints; 'at-least-once': seen at once; 'none': not waited for",
    "at-least-once",
    choices=("exactly-once", "at-least-once", "none"),
)
TRANSACTIONAL_ID = Option("sink.transactional-id-prefix", "with 'exactly-once': unique on the cluster, never changed")
PARTITIONER = Option(
    "sink.partitioner",
    "'default': by key as Java's client does, else batch by batch; 'fixed': partition 0; 'round-robin': row by row",
    "default",
    choices=("default", "fixed", "round-robin"),
)
PARALLELISM = Option(
    "sink.parallelism", "taken for Flink's sake: one client writes to all partitions", kind=Kind.INTEGER, least=1
)
FLUSH_ROWS = Option(
    "sink.buffer-flush.max-rows",
    "taken for Flink's sake: rows are netted by key in every epoch",
    kind=Kind.INTEGER,
    least=0,
)
FLUSH_INTERVAL = Option(
    "sink.buffer-flush.interval", "taken for Flink's sake: rows are netted by key in every epoch", kind=Kind.DURATION
)
SINK_OPTIONS = (GUARANTEE, TRANSACTIONAL_ID, PARTITIONER, PARALLELISM)
OPTIONS = (BOOTSTRAP, GROUP, TOPIC, PATTERN, *SOURCE_OPTIONS, *SINK_OPTIONS, *records.OPTIONS, *bootstrap.OPTIONS)
UPSERT_OPTIONS = (
    *(o for o in OPTIONS if not o.name.startswith("scan.startup") and o.name not in ("key.fields", "sink.partitioner")),
    FLUSH_ROWS,
    FLUSH_INTERVAL,
)

_JAAS = re.compile(r"\s*[\w.]*\.(?:PlainLoginModule|ScramLoginModule)\s+required\s+(.*?);?\s*", re.S)
_PAIR = re.compile(r'(\w+)\s*=\s*"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Tuning:
    """Client settings that a table's 'properties.*' may override."""

    queue_kilobytes: int = 32 * 1024
    """Prefetched per client: bounds memory, and feeds several full polls."""
    chunk: int = 8192
    """Messages taken from the client at a time: while they fit in the cache they cost half."""
    queue_messages: int = 1_000_000
    """So many per partition that the bytes alone bound the queue."""
    queue_backoff_ms: int = 10
    """How long fetching rests when the queue is full; librdkafka's default of 1 s halves the rate of a backlog."""
    fetch_wait_ms: int = 100
    """How long the broker holds a fetch that finds nothing: so late is the end of a partition told."""
    request_seconds: float = 10.0
    """How long one question to the broker may take."""
    message_bytes: int = 150
    """What the client needs for a message beside its bytes, about."""
    producer_kilobytes: int = 64 * 1024
    """Rows that are not delivered yet, per sink; a full queue holds back that sink only."""
    producer_messages: int = 500_000
    linger_ms: int = 5
    """Lets batches fill; `flush` may wait for it."""
    transaction_linger_ms: int = 20
    """The same within a transaction, whose commit does not wait for it: a tenth less CPU per record."""
    transaction_ms: int = 600_000
    """A transaction must be committed in this time, so it bounds the checkpoint interval. After a crash that nobody
    recovers from, read_committed readers of the topics wait this long. Brokers allow 15 minutes."""
    patience_seconds: float = 60.0
    """How long a commit or recovery is tried again before the sink is told to be broken."""


TUNING = Tuning()


_PRODUCERS = re.compile(
    r"(transaction|queue\.buffering|compression|batch|delivery|sticky)\..*|acks|request\.(required\.acks|timeout\.ms)"
    r"|message\.(timeout\.ms|send\.max\.retries)|retries|linger\.ms|enable\.(idempotence|gapless.*)|queuing\.strategy"
    r"|partitioner"
)
_CONSUMERS = re.compile(
    r"(group|session|heartbeat|coordinator|fetch|queued|offset\.store)\..*|max\.(poll\.interval\.ms|partition\.fetch\.bytes)"
    r"|auto\..*|enable\.(auto\..*|partition\.eof)|isolation\.level|check\.crcs|client\.rack|partition\.assignment\.strategy"
    r"|allow\.auto\.create\.topics"
)


def for_consumer(properties: Mapping[str, str]) -> dict[str, str]:
    """Without what only a producer takes: one table may be read and written."""
    return {k: v for k, v in properties.items() if not _PRODUCERS.fullmatch(k)}


def queue_bytes(options: Mapping[str, str]) -> int:
    """Bytes that the client of a table may fetch ahead."""
    given = options.get(f"{PREFIX}queued.max.messages.kbytes", "")
    return (int(given) if given.isdecimal() else TUNING.queue_kilobytes) << 10


def for_producer(properties: Mapping[str, str]) -> dict[str, str]:
    """Without what only a consumer takes."""
    return {k: v for k, v in properties.items() if not _CONSUMERS.fullmatch(k)}


def client_properties(options: Mapping[str, str]) -> dict[str, str]:
    """The 'properties.*' of a table as librdkafka takes them.

    Raises:
        OptionError: a JAAS configuration that is neither plain nor scram.
    """
    given = {k.removeprefix(PREFIX): v for k, v in options.items() if k.startswith(PREFIX)}
    jaas = given.pop("sasl.jaas.config", None)
    if jaas is not None:
        found = _JAAS.fullmatch(jaas)
        pairs = dict(_PAIR.findall(found[1])) if found else {}
        if not {"username", "password"} <= pairs.keys():
            raise OptionError(
                "option 'properties.sasl.jaas.config' cannot be used",
                hint="PlainLoginModule and ScramLoginModule are known; else set 'properties.sasl.username' and others",
            )
        given |= {"sasl.username": pairs["username"], "sasl.password": pairs["password"]}
    return given
