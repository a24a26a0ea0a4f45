"""Messages between Kafka and columns, neither decoded nor encoded: `python -m bench.wire [--messages 2000000] [--json FILE]`.

Reading: a topic into Arrow values, partitions and offsets, by librdkafka's calls and by confluent-kafka's; beside them what
confluent-kafka's `consume` costs alone. The messages have been fetched before the clock starts as far as the client's queue holds
them (`--queue` MiB), so the first figure is the client's, `rows_per_s`, and the broker has a core of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition

from bench import broker, measure
from forebay.connectors.kafka import options as o
from forebay.connectors.kafka.direct import Library, library
from forebay.connectors.kafka.dispatch import ClientDispatch, DirectDispatch, Dispatch
from forebay.connectors.kafka.intake import ClientIntake, DirectIntake, Intake
from forebay.connectors.records import Encoded

COLUMNS = ("case", "rows", "seconds", "rows_per_s", "cpu_seconds", "ns_per_row", "peak_rss_mb")
TOPIC = "wire"


def fill(bootstrap: str, messages: int, size: int, partitions: int) -> None:
    """Write the topic that is read."""
    broker.fresh_topic(bootstrap, TOPIC, partitions)
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 2_000_000, "linger.ms": 20})
    payload = b'{"id": %%012d, "text": "%s"}' % (b"x" * max(size - 33, 0))
    for i in range(messages):
        producer.produce(TOPIC, payload % i, partition=i // 1000 % partitions)
        if i % 100_000 == 0:
            producer.poll(0.1)
    producer.flush()


# -- reading ----------------------------------------------------------------------------------------------------------


def consumer(args: argparse.Namespace) -> Any:
    """A client as the Kafka source makes it, with a queue of `--queue` MiB."""
    return Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": "bench",
            "queued.max.messages.kbytes": args.queue * 1024,
            "queued.min.messages": 10_000_000,
            "fetch.queue.backoff.ms": o.TUNING.queue_backoff_ms,
            "fetch.wait.max.ms": o.TUNING.fetch_wait_ms,
            "enable.auto.commit": False,
        }
    )


def read_columns(args: argparse.Namespace, make: Callable[[Any], Intake]) -> measure.Result:
    """Values, partitions and offsets of every message, chunk by chunk."""
    client = consumer(args)
    intake = make(client)
    for p in range(args.partitions):
        intake.expect(TOPIC, p)
    client.assign([TopicPartition(TOPIC, p, 0) for p in range(args.partitions)])

    def work() -> dict[str, Any]:
        left, nbytes = args.messages, 0
        while left > 0:
            with intake.take(min(left, o.TUNING.chunk), 1.0) as chunk:
                chunk.partitions()
                chunk.offsets()
                nbytes += chunk.values().nbytes
                left -= len(chunk)
        return {"megabytes": nbytes / 1e6}

    time.sleep(args.ahead)
    result = measure.measure(args.case, args.messages, work)
    intake.close()
    client.close()
    return result


def read_objects(args: argparse.Namespace) -> measure.Result:
    """confluent-kafka's message objects, of which nothing is asked."""
    client = consumer(args)
    client.assign([TopicPartition(TOPIC, p, 0) for p in range(args.partitions)])

    def work() -> None:
        left = args.messages
        while left > 0:
            left -= len(client.consume(min(left, o.TUNING.chunk), 1.0))

    time.sleep(args.ahead)
    result = measure.measure(args.case, args.messages, work)
    client.close()
    return result


def read_direct(args: argparse.Namespace) -> measure.Result:
    """By librdkafka's calls."""
    return read_columns(args, lambda client: DirectIntake(client, found_library()))


def found_library() -> Library:
    """What the fast way needs."""
    found = library()
    if found is None:
        raise SystemExit("bench.wire: librdkafka cannot be called here")
    return found


# -- writing ----------------------------------------------------------------------------------------------------------


def write_columns(args: argparse.Namespace, make: Callable[[Any], Dispatch]) -> measure.Result:
    """The same batch again and again, until all is acknowledged."""
    broker.fresh_topic(args.bootstrap, f"{TOPIC}-out", args.partitions)
    settings = {"bootstrap.servers": args.bootstrap, "enable.idempotence": True, "linger.ms": args.linger}
    full = {
        "queue.buffering.max.kbytes": o.TUNING.producer_kilobytes,
        "queue.buffering.max.messages": o.TUNING.producer_messages,
        "batch.size": 1_000_000,
        "delivery.report.only.error": True,
        "on_delivery": _delivered,
    }
    client = Producer(settings | full)
    dispatch = make(client)
    records = Encoded(
        pa.array([b"%0*d" % (args.bytes, i) for i in range(args.batch)], pa.binary()), None, None, None, None
    )

    def work() -> None:
        for _ in range(0, args.messages, args.batch):
            dispatch.send(f"{TOPIC}-out", records, None, wait=lambda: dispatch.serve(0.1))
            dispatch.serve(0)
        while dispatch.flush(1.0):
            continue

    rows = -(-args.messages // args.batch) * args.batch
    result = measure.measure(args.case, rows, work)
    dispatch.close()
    return result


def _delivered(error: Any, message: Any = None) -> None:
    raise SystemExit(f"bench.wire: {error}")


def write_direct(args: argparse.Namespace) -> measure.Result:
    """By librdkafka's calls."""
    return write_columns(args, lambda client: DirectDispatch(client, found_library(), _delivered))


CASES: dict[str, Callable[[argparse.Namespace], measure.Result]] = {
    "read, librdkafka": read_direct,
    "read, confluent-kafka": lambda args: read_columns(args, ClientIntake),
    "read, consume() alone": read_objects,
    "write, librdkafka": write_direct,
    "write, confluent-kafka": lambda args: write_columns(args, ClientDispatch),
}


def run_case(args: argparse.Namespace) -> dict[str, Any]:
    """One case, in this process."""
    entry = CASES[args.case](args).entry()
    entry["ns_per_row"] = round(entry["cpu_seconds"] / entry["rows"] * 1e9)
    return entry


# -- all cases --------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.wire", description="Messages between Kafka and columns.")
    made.add_argument("--messages", type=int, default=2_000_000)
    made.add_argument("--bytes", type=int, default=170, help="of a message")
    made.add_argument("--partitions", type=int, default=4)
    made.add_argument("--queue", type=int, default=1024, help="MiB that the client may fetch ahead")
    made.add_argument("--ahead", type=float, default=3.0, help="seconds that it has for that")
    made.add_argument("--batch", type=int, default=8192, help="records that are written at a time")
    made.add_argument("--linger", type=int, default=o.TUNING.linger_ms, help="the producer's linger.ms")
    made.add_argument("--bootstrap", help="HOST:PORT of Kafka; without it a broker is started")
    made.add_argument("--core", type=int, default=0, help="core that each process is pinned to; -1 for none")
    made.add_argument("--json", metavar="FILE", help="where the results go; '-' is standard output")
    made.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
    return made


def whole(args: argparse.Namespace, argv: list[str]) -> int:
    """Run the cases; returns 1 if one failed."""
    entries = []
    with broker.reached(args.bootstrap, 1 if args.core == 0 else None) as bootstrap:
        fill(bootstrap, args.messages, args.bytes, args.partitions)
        for case in CASES:
            try:
                entries.append(measure.in_process("bench.wire", [*argv, "--bootstrap", bootstrap, "--case", case], 600))
            except subprocess.SubprocessError as error:
                entries.append({"case": case, "error": str(error)})
            print(measure.table(entries[-1:], COLUMNS), file=sys.stderr)
    measure.report("wire", entries, args.json, bytes=args.bytes, partitions=args.partitions, queue_mb=args.queue)
    return int(any("error" in entry for entry in entries))


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return measure.main(parser(), argv, run_case, whole)


if __name__ == "__main__":
    sys.exit(main())
