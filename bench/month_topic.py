"""The orders and refunds of `bench.month` as one topic of Kafka, like a database's change log: both tables, in order of time.

Messages are 'ods-json', about 330 bytes of an order and 230 of a refund.
"""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition

from bench import broker
from bench.month import Month, connector

TOPIC = "month"
COLUMNS = {
    "orders": "order_id BIGINT, user_id BIGINT, shop_id BIGINT, city STRING, amount DECIMAL(10, 2), status STRING, "
    "ts TIMESTAMP(3), note STRING",
    "refunds": "refund_id BIGINT, order_id BIGINT, refunded DECIMAL(10, 2), `at` TIMESTAMP(3)",
}
TIMES = {"orders": "ts", "refunds": "`at`"}


def _options(bootstrap: str) -> str:
    return f"'connector' = 'kafka', 'topic' = '{TOPIC}', 'properties.bootstrap.servers' = '{bootstrap}', 'format' = 'ods-json'"


def tables(bootstrap: str) -> str:
    """Statements for the tables `orders` and `refunds` over the topic, from its beginning to its end of now."""
    bounds = "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset'"
    bounds += ", 'scan.watermark.alignment.group' = 'month', 'scan.watermark.alignment.max-drift' = '1 h'"
    return ";".join(
        f"CREATE TABLE {name} ({columns}, WATERMARK FOR {TIMES[name]} AS {TIMES[name]}) WITH ({_options(bootstrap)}, "
        f"'ods-json.table.include' = '{name}', {bounds})"
        for name, columns in COLUMNS.items()
    )


def publish(bootstrap: str, month: Month, timeout: float) -> int:
    """Write the topic anew; the number of messages."""
    from forebay.connection import Connection
    from forebay.connectors import default_registry

    broker.fresh_topic(bootstrap, TOPIC)
    registry = default_registry()
    registry.connectors["month"] = connector(month)
    with Connection(":memory:", registry=registry) as con:
        for name, columns in COLUMNS.items():
            con.execute(f"CREATE TABLE {name} ({columns}) WITH ('connector' = 'month', 'table' = '{name}')")
            con.execute(
                f"CREATE TABLE {name}_log ({columns}) WITH ({_options(bootstrap)}, 'ods-json.table-name' = '{name}')"
            )
        inserts = "".join(f"INSERT INTO {name}_log SELECT * FROM {name};" for name in COLUMNS)
        con.execute(f"EXECUTE STATEMENT SET BEGIN {inserts} END")
        con.wait(timeout=timeout)
    client = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    _, end = client.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=30)
    client.close()
    return int(end)
