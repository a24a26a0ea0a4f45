"""Latency: `python -m bench.latency [--bootstrap HOST:PORT] --rate 10000 --seconds 30 --json FILE`.

A producer of its own appends events to a Kafka topic at a steady rate, each with the time of its sending. Measured from there:
the moment a materialized view shows the event, and the moments a reader gets it from an at-least-once sink and (reading
committed) from an exactly-once sink. Checkpoints are on, the warehouse is on disk. Times in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np

from bench import broker, measure

TABLES = """
CREATE TABLE events (id BIGINT, k BIGINT, sent BIGINT) WITH ('connector' = 'kafka', 'topic' = 'latency', 'format' = 'json',
  'properties.bootstrap.servers' = '{bootstrap}', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE soon (id BIGINT, sent BIGINT) WITH ('connector' = 'kafka', 'topic' = 'latency-soon', 'format' = 'json',
  'properties.bootstrap.servers' = '{bootstrap}', 'sink.delivery-guarantee' = 'at-least-once');
CREATE TABLE once (id BIGINT, sent BIGINT) WITH ('connector' = 'kafka', 'topic' = 'latency-once', 'format' = 'json',
  'properties.bootstrap.servers' = '{bootstrap}', 'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = 'latency');
CREATE MATERIALIZED VIEW shown AS SELECT id, sent FROM events;
INSERT INTO soon SELECT id, sent FROM events;
INSERT INTO once SELECT id, sent FROM events;
"""

SINKS = {"latency-soon": "at-least-once sink", "latency-once": "exactly-once sink, checkpoints every 5 s"}


def produce(bootstrap: str, rate: int, count: int) -> None:
    """Append `count` events, `rate` a second, in steps of 5 ms."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})
    started, sent = time.time(), 0
    while sent < count:
        due = min(int((time.time() - started) * rate), count)
        for i in range(sent, due):
            producer.produce("latency", json.dumps({"id": i, "k": i % 1000, "sent": time.time_ns() // 1000}))
        sent = due
        producer.poll(0)
        time.sleep(0.005)
    producer.flush()


def consume(bootstrap: str, topic: str, count: int, results: Any) -> None:
    """Read `count` events of a topic; put their ages in ms as they came."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": topic,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    ages: list[float] = []
    while len(ages) < count:
        for message in consumer.consume(10_000, 0.02):
            if message.error() is None:
                ages.append(time.time_ns() / 1e6 - json.loads(message.value())["sent"] / 1e3)
    consumer.close()
    results.put((topic, ages))


def run(bootstrap: str, rate: int, seconds: float) -> list[dict[str, Any]]:
    """One run; one entry per place where the events become visible."""
    import forebay

    spawn = multiprocessing.get_context("spawn")
    results: Any = spawn.Queue()
    count = int(rate * seconds)
    with tempfile.TemporaryDirectory() as directory, forebay.connect(directory) as con:
        con.execute(TABLES.format(bootstrap=bootstrap))
        shown: list[float] = []

        def watch() -> None:
            with con.stream("SELECT sent FROM shown") as stream:
                for batch in stream.batches(timeout=10):
                    sent = batch.rows.column(0).to_numpy()
                    shown.extend(time.time_ns() / 1e6 - sent / 1e3)

        threads = [threading.Thread(target=watch)]
        readers = [spawn.Process(target=consume, args=(bootstrap, topic, count, results)) for topic in SINKS]
        for worker in (*threads, *readers):
            worker.start()
        time.sleep(2)
        sender = spawn.Process(target=produce, args=(bootstrap, rate, count))
        sender.start()
        ages = dict(results.get(timeout=seconds + 120) for _ in readers)
        for worker in (sender, *readers, *threads):
            worker.join()
        pause = con.warehouse.driver.checkpoint_pause * 1e3
    found = {"materialized view": shown} | {case: ages[topic] for topic, case in SINKS.items()}
    entries = [_entry(case, np.array(values), rate, seconds) for case, values in found.items()]
    return [*entries, {"case": "longest checkpoint pause", "p99_ms": round(pause, 1)}]


def _entry(case: str, ages: Any, rate: int, seconds: float) -> dict[str, Any]:
    p50, p99 = np.percentile(ages, [50, 99])
    figures = {"p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1), "max_ms": round(float(ages.max()), 1)}
    return {"case": case, "rows": len(ages), "rate": rate, "seconds": seconds, **figures}


def main(argv: list[str] | None = None) -> int:
    """Run it against a given broker, or one of its own."""
    parser = argparse.ArgumentParser("bench.latency", description="From append to visible, in milliseconds.")
    parser.add_argument(
        "--bootstrap", help="HOST:PORT of Kafka, whose topics are made anew; without it a broker is started"
    )
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    with broker.reached(args.bootstrap) as bootstrap:
        for topic in ("latency", "latency-soon", "latency-once"):
            broker.fresh_topic(bootstrap, topic)
        entries = run(bootstrap, args.rate, args.seconds)
    print(measure.table(entries, ("case", "rows", "p50_ms", "p99_ms", "max_ms")), file=sys.stderr)
    measure.report("latency", entries, args.json, rate=args.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
