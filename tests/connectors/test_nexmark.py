"""The Nexmark generator: proportions, referential sense, determinism, equality under any batching and any pruning."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors import default_registry
from forebay.connectors.nexmark import OPTIONS, config_of, source
from forebay.connectors.nexmark_events import SCHEMA, Events, Generator, NexmarkConfig
from forebay.engine.connector import check_options
from forebay.engine.errors import OptionError

from .conftest import drain, table

REFERENCE = Generator(NexmarkConfig(seed=7), SCHEMA)(0, 2000)


def test_proportions_and_validity() -> None:
    REFERENCE.validate(full=True)
    kinds = pc.value_counts(REFERENCE["event_type"]).to_pylist()
    assert {k["values"]: k["counts"] for k in kinds} == {0: 40, 1: 120, 2: 1840}
    for kind, name in enumerate(("person", "auction", "bid")):
        assert REFERENCE[name].is_valid().equals(pc.equal(REFERENCE["event_type"], kind))
        for field in range(REFERENCE[name].type.num_fields):
            assert REFERENCE[name].field(field).null_count == REFERENCE[name].null_count


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_any_batching_gives_the_same_events(sizes: list[int]) -> None:
    generator, at, parts = Generator(NexmarkConfig(seed=7), SCHEMA), 0, []
    for size in sizes:
        size = min(size, 2000 - at)
        parts.append(generator(at, size))
        at += size
    assert pa.Table.from_batches(parts).equals(pa.Table.from_batches([REFERENCE.slice(0, at)]))


@pytest.mark.parametrize("columns", [["bid"], ["event_type", "dateTime"], ["bid.price", "auction.seller"], []])
def test_pruning_leaves_null_and_changes_nothing_else(columns: list[str]) -> None:
    pruned = Generator(NexmarkConfig(seed=7), SCHEMA, columns)(0, 2000)
    pruned.validate(full=True)
    for field in SCHEMA:
        if field.name in columns:
            assert pruned[field.name].equals(REFERENCE[field.name])
        elif not any(c.startswith(field.name + ".") for c in columns):
            assert pruned[field.name].null_count == 2000
    for column in (c for c in columns if "." in c):
        kind, name = column.split(".")
        assert pc.struct_field(pruned[kind], name).equals(pc.struct_field(REFERENCE[kind], name))
        others = [f.name for f in SCHEMA.field(kind).type if f"{kind}.{f.name}" not in columns]
        assert all(pc.struct_field(pruned[kind], n).null_count == 2000 for n in others)


def test_ids_refer_to_what_exists_or_soon_will() -> None:
    events = pa.Table.from_batches([Generator(NexmarkConfig(), SCHEMA)(0, 60_000)])
    people = pc.struct_field(events["person"].drop_null(), "id").to_numpy()
    auctions = pc.struct_field(events["auction"].drop_null(), "id").to_numpy()
    assert people.tolist() == list(range(1000, 2200))
    assert auctions.tolist() == list(range(1000, 4600))
    bids = pa.Table.from_struct_array(events["bid"].drop_null())
    assert bids["auction"].to_numpy().min() == 1000
    assert bids["auction"].to_numpy().max() < auctions[-1] + 11
    hot = np.mean(bids["auction"].to_numpy() % 100 == 0)
    assert 0.48 < hot < 0.53  # one bid in two goes to a hot auction, and some others by chance
    assert 0.74 < np.mean(bids["bidder"].to_numpy() % 100 == 1) < 0.77
    sellers = pc.struct_field(events["auction"].drop_null(), "seller").to_numpy()
    assert 0.73 < np.mean(sellers % 100 == 0) < 0.78
    popular = pc.is_in(bids["channel"], pa.array(["Google", "Facebook", "Baidu", "Apple"]))
    assert 0.49 < pc.mean(popular).as_py() < 0.51
    prices = bids["price"].to_numpy()
    assert prices.min() >= 100
    assert prices.max() <= 100_000_000
    assert 0.49 < np.mean(prices < 100_000) < 0.51  # log-uniform
    assert len(np.unique(prices[prices > 10_000_000])) > 0.9 * np.sum(prices > 10_000_000)


def test_the_model_against_its_naive_twin() -> None:
    config = NexmarkConfig()
    events = Events(config, np.arange(500, dtype=np.int64))
    people = auctions = -1
    for n in range(500):
        people += n % 50 == 0
        auctions += 1 <= n % 50 <= 3
        assert events.last_person[n] == people
        assert events.last_auction[n] == auctions
        assert events.time[n] == config.base_time + n // 10


def test_auctions_expire_after_they_open_and_cost_at_least_the_first_bid() -> None:
    auctions = pa.Table.from_struct_array(pc.struct_field(REFERENCE.to_struct_array(), "auction").drop_null())
    assert pc.all(pc.greater(auctions["expires"], auctions["dateTime"])).as_py()
    assert pc.all(pc.greater(auctions["reserve"], auctions["initialBid"])).as_py()
    assert set(auctions["category"].to_pylist()) == {10, 11, 12, 13, 14}


def test_average_sizes_follow_the_options() -> None:
    for size in (100, 300):
        spec = table(SCHEMA, {"connector": "nexmark", "events.num": "5000", "bid.avg-size": f"{size}b"})
        bids = drain(source(spec).reader(None))["bid"].drop_null()
        extra = pc.mean(pc.binary_length(pc.struct_field(bids, "extra"))).as_py()
        assert abs(extra + 32 - size) < 0.05 * size


def test_disorder_shuffles_within_groups_only() -> None:
    plain = Generator(NexmarkConfig(), SCHEMA, ["dateTime"])
    mixed = Generator(NexmarkConfig(disorder=100), SCHEMA, ["dateTime"])
    assert not mixed(0, 1000)["dateTime"].equals(plain(0, 1000)["dateTime"])
    for group in range(0, 1000, 100):
        assert mixed(group, 100)["dateTime"].sort().equals(plain(group, 100)["dateTime"])


def test_reader_is_bounded_positioned_and_limited() -> None:
    spec = table(SCHEMA, {"connector": "nexmark", "events.num": "1234", "seed": "7"})
    made = source(spec)
    assert made.bounded
    whole = drain(made.reader(None), 100)
    assert whole.num_rows == 1234
    reader = made.reader(None)
    reader.limit({"0": 150})
    first = drain(reader)
    assert first.num_rows == 150
    assert reader.finished()
    resumed = made.reader(reader.positions())
    assert resumed.lag() == 1084
    assert pa.concat_tables([first, drain(resumed)]).combine_chunks().equals(whole.combine_chunks())
    reader.limit(None)
    assert not reader.finished()


def test_rate_limit_follows_the_clock() -> None:
    spec = table(SCHEMA, {"connector": "nexmark", "first-event.rate": "2000", "rate.limited": "true"})
    reader = source(spec).reader(None)
    started, rows = time.monotonic(), 0
    while time.monotonic() - started < 0.2:
        fetched = reader.poll(1000, 0.01)
        rows += fetched.batch.num_rows if fetched else 0
    assert 200 < rows < 600
    assert not source(spec).bounded


def test_declared_columns_may_be_fewer_and_of_other_precision() -> None:
    bid = pa.struct([("price", pa.int64()), ("dateTime", pa.timestamp("us"))])
    rows = drain(source(table({"bid": bid}, {"events.num": "50"})).reader(None))
    assert rows.schema.field("bid").type == bid
    assert rows["bid"].null_count == 4


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"bids": SCHEMA.field("bid").type}, {}, "no column 'bids'"),
        ({"event_type": pa.int64()}, {}, "is int32"),
        ({"bid": pa.struct([("prize", pa.int64())])}, {}, "did you mean 'price'"),
        ({"event_type": pa.int32()}, {"events.num": "many"}, "events.num"),
        ({"event_type": pa.int32()}, {"bid.avg-size": "big"}, "size such as"),
        ({"event_type": pa.int32()}, {"next-event.rate": "5"}, "varying"),
    ],
)
def test_mistakes_are_named(columns: dict[str, pa.DataType], options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        source(table(columns, options))


def test_official_options_are_known() -> None:
    options = {"first-event.rate": "10", "next-event.rate": "10", "events.num": "5", "person.proportion": "2"}
    check_options(options, OPTIONS, (), "connector 'nexmark'")
    assert config_of(table(SCHEMA, options)).total == 51
    assert default_registry().connector("nexmark").source is source
