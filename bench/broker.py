"""A Kafka broker for the benchmarks: `python -m bench.broker [--core 1]` runs one until Ctrl-C and prints its address.

It is the broker of the test suite, in a temporary directory, optionally pinned to a core of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.servers.kafka.broker import Broker


@contextmanager
def running(core: int | None = None) -> Iterator[Broker]:
    """A running broker; with `core` its process is pinned there."""
    with tempfile.TemporaryDirectory(prefix="forebay-broker-") as directory:
        broker = Broker(Path(directory))
        cores = os.sched_getaffinity(0)
        if core is not None:
            os.sched_setaffinity(0, [core])  # inherited by the broker's process
        try:
            broker.start()
        finally:
            os.sched_setaffinity(0, cores)
        try:
            yield broker
        finally:
            broker.stop()


@contextmanager
def reached(bootstrap: str | None, core: int | None = None) -> Iterator[str]:
    """The address of a broker: the one that is named, or else one of our own while the block runs."""
    with nullcontext() if bootstrap else running(core) as own:
        yield bootstrap or own.bootstrap


def fresh_topic(bootstrap: str, name: str, partitions: int = 1) -> None:
    """Make an empty topic; one of that name goes first.

    Raises:
        KafkaException: the broker refuses.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if name in admin.list_topics(timeout=10).topics:
        admin.delete_topics([name])[name].result()
    for attempt in range(50):
        try:
            admin.create_topics([NewTopic(name, partitions, 1)])[name].result()
            return
        except KafkaException:  # a deletion takes effect a little later
            if attempt == 49:
                raise
            time.sleep(0.1)


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser("bench.broker", description="A Kafka broker for the benchmarks.")
    parser.add_argument("--core", type=int, help="core to pin it to")
    with running(parser.parse_args().core) as broker:
        print(broker.bootstrap, flush=True)
        signal.sigwait([signal.SIGINT, signal.SIGTERM])


if __name__ == "__main__":
    main()
