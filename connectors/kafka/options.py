"""Options of `kafka` and `upsert-kafka` under Flink's names, and what they mean to librdkafka.

'properties.*' passes through; Java's `sasl.jaas.config` becomes librdkafka's user name and password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from forebay.connectors import records
from forebay.connectors.topiclog import options as log
from forebay.engine.connector import Option
from forebay.engine.errors import OptionError

_START = ("earliest-offset", "latest-offset", "group-offsets", "timestamp", "specific-offsets")
_STOP = ("unbounded", "latest-offset", "group-offsets", "timestamp", "specific-offsets")
PREFIX = "properties."

BOOTSTRAP = Option("properties.bootstrap.servers", "brokers, 'host:port,host:port'", required=True)
GROUP = Option("properties.group.id", "consumer group that offsets are committed to at checkpoints")
TOPIC, PATTERN = log.TOPIC, log.TOPIC_PATTERN
DISCOVERY = Option("scan.topic-partition-discovery.interval", "how often new partitions are looked for", "5 min")
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
OPTIONS = (BOOTSTRAP, GROUP, TOPIC, PATTERN, *SOURCE_OPTIONS, *records.OPTIONS)
UPSERT_OPTIONS = tuple(o for o in OPTIONS if not o.name.startswith("scan.startup") and o.name != "key.fields")

_JAAS = re.compile(r"\s*[\w.]*\.(?:PlainLoginModule|ScramLoginModule)\s+required\s+(.*?);?\s*", re.S)
_PAIR = re.compile(r'(\w+)\s*=\s*"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Tuning:
    """Client settings that a table's 'properties.*' may override."""

    queue_kilobytes: int = 32 * 1024
    """Prefetched per client: bounds memory, and feeds several full polls."""
    fetch_partition_bytes: int = 4 << 20
    request_seconds: float = 10.0


TUNING = Tuning()


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
