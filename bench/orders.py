"""Order ⟕ refund from Kafka: `python -m bench.orders --orders N [--bootstrap HOST:PORT] --json FILE`.

Orders come as upserts (upsert-kafka, about 170 bytes of JSON), refunds for one in twenty of them as a log (kafka). Timed from
the INSERT until both topics are consumed and the left join has gone into a blackhole. The engine has one core, the broker
the other.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from typing import Any

from bench import broker, measure

TABLES = """
CREATE TABLE orders (order_id BIGINT, user_id BIGINT, shop_id BIGINT, city STRING, amount DECIMAL(10, 2), status STRING,
  ordered TIMESTAMP(3), note STRING, PRIMARY KEY (order_id) NOT ENFORCED) WITH (
  'connector' = 'upsert-kafka', 'topic' = 'orders', 'key.format' = 'json', 'value.format' = 'json',
  'properties.bootstrap.servers' = '{bootstrap}', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE refunds (refund_id BIGINT, order_id BIGINT, amount DECIMAL(10, 2), refunded TIMESTAMP(3)) WITH (
  'connector' = 'kafka', 'topic' = 'refunds', 'format' = 'json', 'properties.bootstrap.servers' = '{bootstrap}',
  'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE wide (order_id BIGINT, shop_id BIGINT, city STRING, amount DECIMAL(10, 2), refunded DECIMAL(10, 2))
  WITH ('connector' = 'blackhole');
"""
INSERT = """
INSERT INTO wide SELECT o.order_id, o.shop_id, o.city, o.amount, r.amount
FROM orders o LEFT JOIN refunds r ON o.order_id = r.order_id
"""
PEER = 83_000
"""Messages a second of the best peer on a machine of the same kind: Pathway's join; Flink 2.2 with RocksDB did 52,000."""
CITIES = ("Beijing", "Chengdu", "Guangzhou", "Hangzhou", "Shanghai", "Shenzhen", "Wuhan", "Xian")


def publish(bootstrap: str, orders: int, seed: int) -> int:
    """Fill the topics; the number of messages."""
    from confluent_kafka import Producer

    rng = random.Random(seed)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000})
    sent = 0
    for i in range(orders):
        order = i if rng.random() < 0.8 else rng.randrange(i + 1)  # one in five changes an earlier order
        stamp = f"2026-01-{1 + i * 28 // orders:02d} {i % 24:02d}:{i % 60:02d}:00"
        value = (
            f'{{"order_id":{order},"user_id":{i % 99991},"shop_id":{i % 5003},"city":"{CITIES[i % 8]}","amount":'
            f'{(i * 37) % 9999 / 100},"status":"paid","ordered":"{stamp}","note":"leave it at the door, ring twice"}}'
        )
        producer.produce("orders", value, key=f'{{"order_id":{order}}}')
        sent += 1
        if rng.random() < 0.05:
            late = rng.randrange(i + 1)
            refund = {"refund_id": i, "order_id": late, "amount": 1.5, "refunded": stamp}
            producer.produce("refunds", json.dumps(refund))
            sent += 1
        if i % 10_000 == 0:
            producer.poll(0)
            producer.flush(10)
    producer.flush()
    return sent


def run(bootstrap: str, messages: int, core: int) -> dict[str, Any]:
    """The join over what the topics hold."""
    import forebay

    if core >= 0:
        measure.pin([core])
    with forebay.connect() as con:
        con.execute(TABLES.format(bootstrap=bootstrap))

        def work() -> None:
            con.execute(INSERT)
            con.wait(timeout=3600)

        return measure.measure("order ⟕ refund", messages, work).entry() | {"peer": PEER}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.orders", description="Order left join refund from Kafka.")
    made.add_argument("--orders", type=int, default=1_000_000)
    made.add_argument(
        "--bootstrap", help="HOST:PORT of Kafka, whose topics are made anew; without it a broker is started"
    )
    made.add_argument("--core", type=int, default=0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", metavar="FILE")
    made.add_argument("--messages", type=int, help=argparse.SUPPRESS)
    return made


def main(argv: list[str] | None = None) -> int:
    """Publish, then run in a process of its own."""
    args = parser().parse_args(argv)
    if args.messages:
        print(json.dumps(run(args.bootstrap, args.messages, args.core)))
        return 0
    with broker.reached(args.bootstrap, 1 if args.core == 0 else None) as bootstrap:
        broker.fresh_topic(bootstrap, "orders")
        broker.fresh_topic(bootstrap, "refunds")
        messages = publish(bootstrap, args.orders, args.seed)
        command = ["--bootstrap", bootstrap, "--messages", str(messages), "--core", str(args.core)]
        entry = measure.in_process("bench.orders", command, 3600)
    print(
        measure.table([entry], ("case", "rows", "seconds", "rows_per_s", "cpu_seconds", "peak_rss_mb")), file=sys.stderr
    )
    measure.report("orders", [entry], args.json, orders=args.orders)
    return 0


if __name__ == "__main__":
    sys.exit(main())
