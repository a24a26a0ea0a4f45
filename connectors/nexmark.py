"""The `nexmark` source: the benchmark's event generator as a table, under the option names of its Flink edition.

A table declares any of the columns event_type, person, auction, bid, dateTime, and any fields of the rows. Without
'events.num' the stream has no end; with it the source is bounded. It runs at full speed unless 'rate.limited'.
"""

from __future__ import annotations

import pyarrow as pa

from forebay.connectors import options as read
from forebay.connectors.generated import GeneratedSource
from forebay.connectors.nexmark_events import SCHEMA, Generator, NexmarkConfig
from forebay.engine.connector import Connector, Option, Registry, TableSpec
from forebay.engine.errors import OptionError, nearest
from forebay.engine.optionkinds import Kind

EVENTS = Option("events.num", "number of events; 0 is without end", "0", kind=Kind.INTEGER, least=0)
STOP_AT = Option("stop-at", "event number to stop at; -1 is never", "-1", kind=Kind.INTEGER, least=-1)
KEEP_ALIVE = Option.boolean("keep-alive", "stay open after the last event")
RATE = Option("first-event.rate", "events per second of event time", "10000", kind=Kind.INTEGER, least=1)
NEXT_RATE = Option(
    "next-event.rate", "the same as 'first-event.rate': the rate does not vary", kind=Kind.INTEGER, least=1
)
LIMITED = Option.boolean("rate.limited", "emit at the rate instead of at full speed")
MAX_SPEED = Option.boolean("max-emit-speed", "emit at full speed; 'false' is as 'rate.limited'", "true")
SEED = Option("seed", "another seed gives other events", "0", kind=Kind.INTEGER)
BASE_TIME = Option(
    "base-time", "event time of the first event, milliseconds since 1970", "1436918400000", kind=Kind.INTEGER
)
DISORDER = Option(
    "out-of-order.group-size", "shuffle events within groups of this size", "1", kind=Kind.INTEGER, least=1
)
PEOPLE = Option("person.proportion", "people per round of events", "1", kind=Kind.INTEGER, least=1)
AUCTIONS = Option("auction.proportion", "auctions per round of events", "3", kind=Kind.INTEGER, least=1)
BIDS = Option("bid.proportion", "bids per round of events", "46", kind=Kind.INTEGER, least=1)
HOT_AUCTIONS = Option(
    "bid.hot-ratio.auctions", "one in this many bids is not on a hot auction", "2", kind=Kind.INTEGER, least=1
)
HOT_BIDDERS = Option(
    "bid.hot-ratio.bidders", "one in this many bids is not by a hot bidder", "4", kind=Kind.INTEGER, least=1
)
HOT_SELLERS = Option(
    "auction.hot-ratio.sellers", "one in this many auctions is not by a hot seller", "4", kind=Kind.INTEGER, least=1
)
PERSON_SIZE = Option("person.avg-size", "average size of a person", "200b", kind=Kind.SIZE)
AUCTION_SIZE = Option("auction.avg-size", "average size of an auction", "500b", kind=Kind.SIZE)
BID_SIZE = Option("bid.avg-size", "average size of a bid", "100b", kind=Kind.SIZE)

OPTIONS = (
    EVENTS,
    STOP_AT,
    KEEP_ALIVE,
    RATE,
    NEXT_RATE,
    LIMITED,
    MAX_SPEED,
    SEED,
    BASE_TIME,
    DISORDER,
    PEOPLE,
    AUCTIONS,
    BIDS,
    HOT_AUCTIONS,
    HOT_BIDDERS,
    HOT_SELLERS,
    PERSON_SIZE,
    AUCTION_SIZE,
    BID_SIZE,
)


def config_of(spec: TableSpec) -> NexmarkConfig:
    """The model's knobs from a table's options."""
    o = spec.options
    rate = read.integer(o, RATE, 1)
    if NEXT_RATE.name in o and read.integer(o, NEXT_RATE, 1) != rate:
        raise OptionError("'next-event.rate' differs from 'first-event.rate'", hint="varying rates are not supported")
    return NexmarkConfig(
        seed=read.integer(o, SEED),
        rate=rate,
        base_time=read.integer(o, BASE_TIME),
        people=read.integer(o, PEOPLE, 1),
        auctions=read.integer(o, AUCTIONS, 1),
        bids=read.integer(o, BIDS, 1),
        hot_auctions=read.integer(o, HOT_AUCTIONS, 1),
        hot_bidders=read.integer(o, HOT_BIDDERS, 1),
        hot_sellers=read.integer(o, HOT_SELLERS, 1),
        person_size=read.size(o, PERSON_SIZE),
        auction_size=read.size(o, AUCTION_SIZE),
        bid_size=read.size(o, BID_SIZE),
        disorder=read.integer(o, DISORDER, 1),
    )


def source(spec: TableSpec) -> GeneratedSource:
    """The source of a table that declares any of the model's columns under their names and types."""
    schema = spec.schema()
    for field in schema:
        _check(field, SCHEMA, "column")
    config = config_of(spec)
    ends = [n for n in (read.integer(spec.options, EVENTS, 0),) if n > 0]
    ends += [n for n in (read.integer(spec.options, STOP_AT, -1),) if n >= 0]
    limited = read.boolean(spec.options, LIMITED) or not read.boolean(spec.options, MAX_SPEED)
    made = GeneratedSource(
        schema,
        Generator(config, schema, spec.read_columns),
        end=min(ends, default=None),
        rate=config.rate if limited else None,
    )
    made.bounded = made.bounded and not read.boolean(spec.options, KEEP_ALIVE)
    return made


def _check(field: pa.Field, known: pa.Schema | pa.StructType, what: str) -> None:
    names = [f.name for f in known]
    if field.name not in names:
        close = nearest(field.name, names)
        hint = f"did you mean '{close}'?" if close else f"known: {', '.join(names)}"
        raise OptionError(f"nexmark has no {what} '{field.name}'", hint=hint)
    type_ = known.field(field.name).type
    if pa.types.is_struct(type_) and pa.types.is_struct(field.type):
        for child in field.type:
            _check(child, type_, f"field {field.name}.")
    elif _kind(type_) != _kind(field.type):
        raise OptionError(f"nexmark's {what} '{field.name}' is {type_}, not {field.type}")


def _kind(type_: pa.DataType) -> str:
    return "timestamp" if pa.types.is_timestamp(type_) else str(type_)


def register(registry: Registry) -> None:
    """Make `'connector' = 'nexmark'` known."""
    registry.connectors["nexmark"] = Connector("nexmark", OPTIONS, source=source)
