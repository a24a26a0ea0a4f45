"""A Kafka broker for the benchmarks: `python -m bench.broker [--core 1]` runs one until Ctrl-C and prints its address.

It is the broker of the test suite, in a temporary directory, optionally pinned to a core of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser("bench.broker", description="A Kafka broker for the benchmarks.")
    parser.add_argument("--core", type=int, help="core to pin it to")
    with running(parser.parse_args().core) as broker:
        print(broker.bootstrap, flush=True)
        signal.sigwait([signal.SIGINT, signal.SIGTERM])


if __name__ == "__main__":
    main()
