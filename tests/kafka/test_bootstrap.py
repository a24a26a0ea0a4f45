"""History in Parquet, then a real topic: results, and the gap that retention makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

import forebay
from forebay.connectors.bootstrap import OPTIONS
from forebay.engine.errors import ConnectorError
from tests.bootstrap.orders import T, World, records, tables, wait_for
from tests.bootstrap.test_bootstrap import check, start
from tests.bootstrap.test_call import calls, plain
from tests.kafka.tables import send, values
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka


def produce(broker: Broker, prefix: str, writes: Sequence[tuple[str, Any]]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for topic, key, value, at in records(writes):
        producer.produce(prefix + topic, value, key, timestamp=at)
    producer.flush()


@pytest.mark.parametrize("mode", ["state-only", "replay"])
def test_history_and_topic_are_one_table(broker: Broker, tmp_path: Path, mode: str) -> None:
    names = ["filtered", "joined", "joined_grouped"]
    prefix = f"boot-{mode}-"
    for topic in ("orders", "refunds"):
        broker.create_topic(prefix + topic, 2)
    world = World(11, tmp_path)
    while world.now < T:
        world.live(1)
    world.live(40)
    world.overlap(8)
    world.save()
    sent = len(world.writes)
    produce(broker, prefix, world.writes)
    servers = f", 'properties.bootstrap.servers' = '{broker.bootstrap}'"
    with forebay.connect(tmp_path / "w", resume=False, attach=False) as con:
        start(con, tmp_path, mode, names, connector="kafka", options=servers, prefix=prefix)
        con.resume()
        wait_for(lambda: all(job.status == "RUNNING" for job in con.jobs.values()))
        check(con, world, mode, names)
        world.live(60)
        produce(broker, prefix, world.writes[sent:])
        check(con, world, mode, names)


def test_running_jobs_get_a_history_and_the_topic_from_its_end_on(broker: Broker, tmp_path: Path) -> None:
    """A key that was deleted since, records that are in both, a topic that has lost what came after the history."""
    for topic in ("orders", "refunds"):
        broker.create_topic(f"call-{topic}", 2)
    world = World(13, tmp_path)
    while world.now < T:
        world.live(1)
    world.live(60)
    world.overlap(8)
    world.save()
    sent = len(world.writes)
    produce(broker, "call-", world.writes)
    servers = f", 'properties.bootstrap.servers' = '{broker.bootstrap}'"
    with forebay.connect(tmp_path / "w", attach=False) as con:
        con.execute(plain(tmp_path, connector="kafka", prefix="call-", options=servers))
        start(con, tmp_path, "", ["joined", "joined_grouped"], made=True)
        for call in calls(tmp_path, "replay"):
            (told,) = con.sql(call).arrow().to_pylist()
            assert told["left_out"] is None
        world.live(60)
        produce(broker, "call-", world.writes[sent:])
        check(con, world, "replay", ["joined", "joined_grouped"])
        broker.delete_records("call-refunds", 0, len(values(broker, "call-refunds")) // 4)
        with pytest.raises(ConnectorError, match="there is a gap"):
            con.execute("CALL bootstrap('refunds', until => '2026-10-31', columns => 'refund_id;order_id')")


def test_a_gap_in_a_topic_is_told_with_its_times(broker: Broker, tmp_path: Path) -> None:
    world = World(12, tmp_path)
    while world.now < T:
        world.live(1)
    world.live(60)
    world.save()
    for topic in ("orders", "refunds"):
        broker.create_topic(f"gap-{topic}", 1)
    produce(broker, "gap-", world.writes)
    mine = [record for record in records(world.writes) if record[0] == "orders"]
    before = sum(at < int(T.timestamp() * 1000) for *_, at in mine)
    servers = f", 'properties.bootstrap.servers' = '{broker.bootstrap}'"
    with forebay.connect() as con:
        con.execute(tables(tmp_path, "state-only", "kafka", servers, "gap-"))
        broker.delete_records("gap-orders", 0, before)
        con.execute("CREATE MATERIALIZED VIEW early AS SELECT COUNT(*) AS n FROM refunds")
        broker.delete_records("gap-orders", 0, before + 5)
        with pytest.raises(ConnectorError) as raised:
            con.execute("CREATE MATERIALIZED VIEW late AS SELECT COUNT(*) AS n FROM orders")
        first = next(row for kind, row in world.writes if kind != "refund" and row[-1] > T)
        assert "gap-orders-0: begins at " in str(raised.value)
        assert f"{first[-1]:%Y-%m-%d}" in str(raised.value)
        con.execute("ALTER TABLE orders SET ('bootstrap.fail-on-gap' = 'false')")
        con.execute("CREATE MATERIALIZED VIEW late AS SELECT COUNT(*) AS n FROM orders")


def test_the_statements_of_the_page_run(broker: Broker, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bootstrap.md").read_text()
    script, running = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    for name in ("orders", "refunds", "refunded-orders", "payments"):
        broker.create_topic(f"page-{name}")
        script = script.replace(f"'topic' = '{name}'", f"'topic' = 'page-{name}'")
        running = running.replace(f"'topic' = '{name}'", f"'topic' = 'page-{name}'")
    running = running.replace("localhost:9092", broker.bootstrap).replace("/warehouse/", f"{tmp_path}/")
    day = tmp_path / "ods_orders" / "dt=2026-10-05"
    day.mkdir(parents=True)
    order = {"order_id": 7, "city": "Rome", "amount": Decimal("9.50"), "updated_at": datetime(2026, 10, 5)}
    kinds = [pa.int64(), pa.string(), pa.decimal128(10, 2), pa.timestamp("ms")]
    pq.write_table(pa.Table.from_pylist([order], pa.schema(list(zip(order, kinds)))), day / "part-0.parquet")
    with forebay.connect(tmp_path / "w", attach=False) as con:
        con.execute(script.replace("localhost:9092", broker.bootstrap).replace("/warehouse/", f"{tmp_path}/"))
        wait_for(lambda: [job.status for job in con.jobs.values()] == ["RUNNING"])
        send(broker, "page-refunds", [b'{"refund_id":1,"order_id":7,"refunded":9.5}'])
        wait_for(lambda: values(broker, "page-refunded-orders"))
        paid = pa.table({"payment_id": [1], "order_id": [7], "paid": [Decimal("9.50")]})
        (tmp_path / "ods_payments").mkdir()
        pq.write_table(paid, tmp_path / "ods_payments" / "a.parquet")
        (told,) = con.execute(running).arrow().to_pylist()
        assert (told["rows"], told["jobs"], told["left_out"]) == (2, "paid_orders", None)
        assert con.sql("SELECT * FROM paid_orders").fetchall() == [(7, "Rome", Decimal("9.50"))]
    assert values(broker, "page-refunded-orders") == [b'{"refund_id":1,"order_id":7,"city":"Rome","refunded":9.50}']
    shown = set(re.findall(r"`(bootstrap[\w.-]+)`", page))
    assert shown >= {option.name for option in OPTIONS}
