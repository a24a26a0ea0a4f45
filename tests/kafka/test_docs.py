"""docs/kafka.md does what it says: its statements run against the broker, and another process reads what they write."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import forebay
from forebay.connectors.kafka import options as o
from tests.kafka.tables import SECONDS, send, values
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
PAGE = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
BLOCKS = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
TOPICS = ("orders", "shop-sales", "orders-de", "orders-it", "secured")


def test_the_statements_of_the_page_run(broker: Broker, tmp_path: Path) -> None:
    for topic in TOPICS:
        broker.create_topic(topic, 2)
    orders = [(1, 7, "10.50"), (2, 7, "1.00"), (3, 200, "4.00")]
    send(broker, "orders", [b'{"order_id":%d,"shop_id":%d,"amount":%s}' % (i, s, a.encode()) for i, s, a in orders])
    with forebay.connect(tmp_path) as con:
        con.execute("SET 'execution.checkpointing.interval' = '200 ms'")
        for block in BLOCKS:
            con.execute(block.replace("localhost:9092", broker.bootstrap))
        deadline = time.monotonic() + SECONDS
        while len(values(broker, "orders-de")) < 2 or len(values(broker, "shop-sales")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert sorted(values(broker, "orders-de")) == [b'{"order_id":1,"amount":10.50}', b'{"order_id":2,"amount":1.00}']
    assert values(broker, "orders-it") == [b'{"order_id":3,"amount":4.00}']
    newest = {v for v in values(broker, "shop-sales") if v is not None}
    assert {b'{"shop_id":7,"orders":2,"amount":11.50}', b'{"shop_id":200,"orders":1,"amount":4.00}'} <= newest


def test_every_option_is_on_the_page() -> None:
    shown = set(re.findall(r"`([\w.-]+)`", PAGE))
    for option in (*o.OPTIONS, *o.UPSERT_OPTIONS):
        assert option.name in shown or f"{option.name.rsplit('.', 1)[0]}.*" in PAGE, option.name
        if option.default and option.name in shown and option.name.startswith(("scan", "sink.d", "sink.part")):
            row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{option.name}` "))
            assert f"| `{option.default}` |" in row


def test_security_options_reach_the_client() -> None:
    jaas = 'org.apache.kafka.common.security.scram.ScramLoginModule required username="u" password="p=;x";'
    given = o.client_properties(
        {"properties.sasl.jaas.config": jaas, "properties.ssl.ca.location": "/ca", "topic": "t"}
    )
    assert given == {"sasl.username": "u", "sasl.password": "p=;x", "ssl.ca.location": "/ca"}
    both = {
        "group.id": "g",
        "transaction.timeout.ms": "1",
        "ssl.ca.location": "/ca",
        "fetch.min.bytes": "1",
        "acks": "1",
    }
    assert o.for_consumer(both).keys() == {"group.id", "ssl.ca.location", "fetch.min.bytes"}
    assert o.for_producer(both).keys() == {"transaction.timeout.ms", "ssl.ca.location", "acks"}
    with pytest.raises(forebay.ForebayError, match=r"sasl\.jaas\.config"):
        o.client_properties({"properties.sasl.jaas.config": "com.Other required;"})
