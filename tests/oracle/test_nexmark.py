"""Nexmark as views: the unwindowed queries over a table that grows step by step, all of them over a whole stream."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

import forebay
from forebay.connectors.nexmark_events import SCHEMA, Generator, NexmarkConfig
from forebay.engine.batch import Batch
from tests.oracle.harness import Oracle, bag, create
from tests.planner import nexmark

WINDOWED = {"q5", "q7", "q8", "q11"}
STEPPED = [name for name in nexmark.QUERIES if name not in WINDOWED]
FIELDS = {"person": nexmark._PERSON, "auction": nexmark._AUCTION, "bid": nexmark._BID}


def events(count: int) -> pa.RecordBatch:
    return Generator(NexmarkConfig(seed=3), SCHEMA, None)(0, count)


def views() -> list[str]:
    """Statements for person, auction and bid over `events`."""
    made = []
    for number, (kind, fields) in enumerate(FIELDS.items()):
        items = ", ".join("dateTime" if f == "dateTime" else f"{kind}.{f} AS {f}" for f in fields)
        made.append(f"CREATE VIEW {kind} AS SELECT {items} FROM events WHERE event_type = {number}")
    return made


def total_order(query: str) -> str:
    """The query with ties of its rankings broken: otherwise several answers are right."""
    return query.replace("ORDER BY dateTime DESC)", "ORDER BY dateTime DESC, price, extra)").replace(
        "ORDER BY price DESC)", "ORDER BY price DESC, dateTime, extra)"
    )


def test_at_every_step() -> None:
    rng = random.Random(1)
    rows = events(2500)
    with forebay.connect(resume=False) as con:
        create(con, "events", rows.schema)
        for statement in views():
            con.execute(statement)
        oracle = Oracle(con)
        for name in STEPPED:
            oracle.view(f"v_{name}", total_order(nexmark.QUERIES[name]))
        at = 0
        while at < rows.num_rows:
            size = rng.randrange(100, 500)
            oracle.feed({"events": Batch(rows.slice(at, size))})
            at += size
            oracle.check(at)
        assert sum(oracle.answers.values()) >= oracle.comparisons / 2, oracle.answers


@pytest.mark.parametrize("name", sorted(WINDOWED - {"q11"}))
def test_windows_over_a_whole_stream(name: str) -> None:
    with forebay.connect() as con:
        con.execute(
            """
            CREATE TABLE events (event_type INT, person ROW<id BIGINT, name STRING>, auction ROW<id BIGINT, seller BIGINT>,
              bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, extra STRING>, dateTime TIMESTAMP(3),
              WATERMARK FOR dateTime AS dateTime - INTERVAL '4' SECOND)
            WITH ('connector' = 'nexmark', 'events.num' = '20000', 'seed' = '3');
            CREATE VIEW person AS SELECT person.id AS id, person.name AS name, dateTime FROM events WHERE event_type = 0;
            CREATE VIEW auction AS SELECT auction.seller AS seller, dateTime FROM events WHERE event_type = 1;
            CREATE VIEW bid AS SELECT bid.auction AS auction, bid.bidder AS bidder, bid.price AS price, dateTime,
              bid.extra AS extra FROM events WHERE event_type = 2;
            """
        )
        query = nexmark.QUERIES[name]
        con.execute(f"CREATE MATERIALIZED VIEW v AS {query}")
        assert con.wait("v", timeout=60)
        shown = bag(con.sql("SELECT * FROM v").fetchall())
        assert shown == bag(con.sql(query).fetchall())
        assert shown
