"""The events of the Nexmark benchmark: people, auctions and bids of an online auction, in the public proportions.

Of every 50 events 1 is a person, 3 are auctions, 46 are bids. Ids grow with the event number; most bids go to a recent *hot*
auction by a hot bidder, most auctions come from a hot seller. Event n is a pure function of (seed, n). Strings come from
pools made once, so an event costs a few vector operations and no Python. Fields that nobody reads stay NULL.
Model: Tucker, Tufte, Papadimos, Maier, "NEXMark - a benchmark for queries over data streams" (2002), as in Apache Beam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors.generated import (
    Bits,
    Numbers,
    below,
    draw,
    high,
    low,
    stream_key,
)

FIRST_ID = 1000
FIRST_CATEGORY = 10
CATEGORIES = 5
HOT_EVERY = 100
"""Every 100th auction, seller and bidder is a hot one."""
ID_LEAD = 10
"""Bids and auctions may name ids up to this far ahead of those that exist."""
IN_FLIGHT_AUCTIONS = 100
ACTIVE_PEOPLE = 1000

STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
CITIES = (
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
)
FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")
HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
CHANNELS = 10_000

_MS = pa.timestamp("ms")
_S = pa.string()
_I = pa.int64()


def _row(*fields: tuple[str, pa.DataType]) -> pa.DataType:
    return pa.struct([pa.field(n, t) for n, t in fields])


PERSON = _row(
    ("id", _I),
    ("name", _S),
    ("emailAddress", _S),
    ("creditCard", _S),
    ("city", _S),
    ("state", _S),
    ("dateTime", _MS),
    ("extra", _S),
)
AUCTION = _row(
    ("id", _I),
    ("itemName", _S),
    ("description", _S),
    ("initialBid", _I),
    ("reserve", _I),
    ("dateTime", _MS),
    ("expires", _MS),
    ("seller", _I),
    ("category", _I),
    ("extra", _S),
)
BID = _row(
    ("auction", _I),
    ("bidder", _I),
    ("price", _I),
    ("channel", _S),
    ("url", _S),
    ("dateTime", _MS),
    ("extra", _S),
)
SCHEMA = pa.schema(
    [("event_type", pa.int32()), ("person", PERSON), ("auction", AUCTION), ("bid", BID), ("dateTime", _MS)]
)
"""Everything the source can give; a table declares any of these columns, and any fields of the rows."""


@dataclass(frozen=True, slots=True)
class NexmarkConfig:
    """The knobs of the model; defaults are the benchmark's."""

    seed: int = 0
    rate: int = 10_000
    """Events per second of event time."""
    base_time: int = 1_436_918_400_000
    """Event time of event 0, ms since 1970: 2015-07-15T00:00:00Z."""
    people: int = 1
    auctions: int = 3
    bids: int = 46
    hot_auctions: int = 2
    """All but one of this many bids go to a hot auction."""
    hot_bidders: int = 4
    hot_sellers: int = 4
    person_size: int = 200
    """Average bytes of a person, reached by padding `extra`."""
    auction_size: int = 500
    bid_size: int = 100
    disorder: int = 1
    """Events are shuffled within groups of this many."""

    @property
    def total(self) -> int:
        return self.people + self.auctions + self.bids


# --- string pools ----------------------------------------------------------------------------------------------------


def _texts(
    name: str, count: int, least: int, most: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz"
) -> pa.StringArray:
    """`count` random strings of least..most characters; the same in every process and for every seed."""
    letters = np.frombuffer(alphabet.encode(), np.uint8)
    at = np.arange(count, dtype=np.int64)
    lengths = least + below(low(draw(stream_key(0, name + ".length"), at)), most - least + 1)
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    chars = np.arange(int(offsets[-1]), dtype=np.int64)
    data = letters[below(high(draw(stream_key(0, name), chars)), len(letters))]
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data))


def _join(*parts: pa.StringArray | str, by: str = "") -> pa.StringArray:
    columns = [p.to_pylist() if isinstance(p, pa.Array) else None for p in parts]
    count = next(len(c) for c in columns if c is not None)
    rows = ([c[i] if c is not None else p for c, p in zip(columns, parts)] for i in range(count))
    return pa.array([by.join(row) for row in rows], _S)


@lru_cache(maxsize=16)
def _pool(name: str) -> pa.StringArray:
    """The pool of a field whose strings do not depend on the configuration."""
    match name:
        case "city":
            return pa.array(CITIES, _S)
        case "state":
            return pa.array(STATES, _S)
        case "name":
            return pa.array([f"{a} {b}" for a in FIRST_NAMES for b in LAST_NAMES], _S)
        case "emailAddress":
            return _join(_texts("user", 16384, 3, 7), "@", _texts("host", 16384, 3, 5), ".com")
        case "creditCard":
            return _join(*(_texts(f"card{i}", 16384, 4, 4, "0123456789") for i in range(4)), by=" ")
        case "itemName":
            return _texts("item", 16384, 3, 20, "abcdefghijklmnopqrstuvwxyz  ")
        case "description":
            return _texts("description", 4096, 3, 100, "abcdefghijklmnopqrstuvwxyz  ")
        case "channel":
            return pa.array([*HOT_CHANNELS, *(f"channel-{i}" for i in range(CHANNELS))], _S)
        case _:
            return _urls()


def _urls() -> pa.StringArray:
    """The url of every channel: nine in ten of the unpopular ones name their channel in it."""
    count = len(HOT_CHANNELS) + CHANNELS
    base = _join(*(_texts(f"path{i}", count, 3, 5, "abcdefghijklmnopqrstuvwxyz__") for i in range(3)), by="/")
    tail = below(low(draw(stream_key(0, "url"), np.arange(count, dtype=np.int64))), 10)
    urls = []
    for i, path in enumerate(base.to_pylist()):
        url = f"https://www.nexmark.com/{path}/item.htm?query=1"
        if i >= len(HOT_CHANNELS) and tail[i] > 0:
            url += f"&channel_id={int(f'{i - len(HOT_CHANNELS):032b}'[::-1], 2) & 0x7FFFFFFF}"
        urls.append(url)
    return pa.array(urls, _S)


@lru_cache(maxsize=16)
def _padding(size: int) -> pa.StringArray:
    """Strings of `size` ± 20 % characters."""
    if size <= 0:
        return pa.array([""], _S)
    delta = round(size * 0.2)
    return _texts(f"extra{size}", 1024, size - delta, size - delta + max(2 * delta - 1, 0))


@lru_cache(maxsize=1)
def _prices() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """10**(6 u) * 100 for u uniform in 24 bits, as a product of two 12-bit tables: exact on every machine, no power."""
    steps = range(4096)
    coarse = [10.0 ** (6.0 * i / 4096) * 100.0 for i in steps]
    fine = [10.0 ** (6.0 * i / (4096 * 4096)) for i in steps]
    return np.array(coarse), np.array(fine)


# --- events ----------------------------------------------------------------------------------------------------------


class Events:
    """The events of some event numbers, field by field; a field is computed when it is asked for."""

    def __init__(self, config: NexmarkConfig, numbers: Numbers) -> None:
        self.config = config
        self.numbers = numbers
        self._drawn: dict[str, Bits] = {}

    def bits(self, stream: str) -> Bits:
        """64 random bits per event, of a named stream."""
        if stream not in self._drawn:
            self._drawn[stream] = draw(stream_key(self.config.seed, stream), self.numbers)
        return self._drawn[stream]

    @cached_property
    def rounds(self) -> Numbers:
        return self.numbers // self.config.total

    @cached_property
    def places(self) -> Numbers:
        """Place of each event in its round: people come first, then auctions, then bids."""
        return self.numbers - self.rounds * self.config.total

    @cached_property
    def time(self) -> Numbers:
        return self.config.base_time + self.numbers * 1000 // self.config.rate

    @cached_property
    def last_person(self) -> Numbers:
        """Zero-based id of the newest person when the event happens."""
        c = self.config
        return self.rounds * c.people + np.minimum(self.places, c.people - 1)

    @cached_property
    def last_auction(self) -> Numbers:
        """Zero-based id of the newest auction; -1 while there is none."""
        c = self.config
        return self.rounds * c.auctions + np.clip(self.places - c.people, -1, c.auctions - 1)

    def any_person(self, random: Bits) -> Numbers:
        people = self.last_person + 1
        active = np.minimum(people, ACTIVE_PEOPLE)
        return people - active + below(random, active + ID_LEAD)

    def any_auction(self, random: Bits) -> Numbers:
        first = np.maximum(self.last_auction - IN_FLIGHT_AUCTIONS, 0)
        return first + below(random, np.maximum(self.last_auction, 0) - first + 1 + ID_LEAD)

    def hot_or(self, random: Bits, ratio: int, hot: Numbers, other: Numbers) -> Numbers:
        """One in `ratio` takes `other`, the rest take `hot`."""
        return np.where(low(random) < np.uint64((1 << 32) // ratio), other, hot) + FIRST_ID

    def price(self, stream: str) -> Numbers:
        coarse, fine = _prices()
        random = self.bits(stream)
        i, j = (random >> np.uint64(52)).view(np.int64), (random >> np.uint64(40)).view(np.int64) & 4095
        prices: Numbers = np.rint(coarse[i] * fine[j]).astype(np.int64)
        return prices

    def pick(self, stream: str, pool: pa.StringArray) -> pa.StringArray:
        return pool.take(pa.array(below(high(self.bits(stream)), len(pool))))

    @cached_property
    def channels(self) -> Numbers:
        """Index of the channel; half of the bids come over one of the four popular channels."""
        random = self.bits("channel")
        popular = below(low(random), 2 * len(HOT_CHANNELS))
        other = len(HOT_CHANNELS) + below(high(random), CHANNELS)
        return np.where(popular < len(HOT_CHANNELS), popular, other)

    def expires(self) -> Numbers:
        """An auction lasts up to twice the time in which as many auctions as are in flight come up."""
        c = self.config
        ahead = IN_FLIGHT_AUCTIONS * c.total // max(c.auctions, 1)
        horizon = c.base_time + (self.numbers + ahead) * 1000 // c.rate - self.time
        return self.time + 1 + below(high(self.bits("expires")), np.maximum(horizon * 2, 1))


Values = Any
"""Numbers, or a pa.StringArray."""
Field = Callable[[Events], Values]


def _seller(e: Events) -> Numbers:
    random = e.bits("seller")
    hot = e.last_person // HOT_EVERY * HOT_EVERY
    return e.hot_or(random, e.config.hot_sellers, hot, e.any_person(high(random)))


def _bid_auction(e: Events) -> Numbers:
    random = e.bits("bid.auction")
    hot = np.maximum(e.last_auction, 0) // HOT_EVERY * HOT_EVERY
    return e.hot_or(random, e.config.hot_auctions, hot, e.any_auction(high(random)))


def _bidder(e: Events) -> Numbers:
    random = e.bits("bidder")
    hot = e.last_person // HOT_EVERY * HOT_EVERY + 1
    return e.hot_or(random, e.config.hot_bidders, hot, e.any_person(high(random)))


def _pooled(name: str) -> Field:
    return lambda e: e.pick(name, _pool(name))


def _channel(name: str) -> Field:
    return lambda e: _pool(name).take(pa.array(e.channels))


# The bytes that the other fields take on average are what `extra` need not pad.
FIELDS: dict[str, dict[str, Field]] = {
    "person": {
        "id": lambda e: e.last_person + FIRST_ID,
        "name": _pooled("name"),
        "emailAddress": _pooled("emailAddress"),
        "creditCard": _pooled("creditCard"),
        "city": _pooled("city"),
        "state": _pooled("state"),
        "dateTime": lambda e: e.time,
        "extra": lambda e: e.pick("person.extra", _padding(e.config.person_size - 64)),
    },
    "auction": {
        "id": lambda e: e.last_auction + FIRST_ID,
        "itemName": _pooled("itemName"),
        "description": _pooled("description"),
        "initialBid": lambda e: e.price("initialBid"),
        "reserve": lambda e: e.price("initialBid") + e.price("reserve"),
        "dateTime": lambda e: e.time,
        "expires": lambda e: e.expires(),
        "seller": _seller,
        "category": lambda e: FIRST_CATEGORY + below(low(e.bits("category")), CATEGORIES),
        "extra": lambda e: e.pick("auction.extra", _padding(e.config.auction_size - 111)),
    },
    "bid": {
        "auction": _bid_auction,
        "bidder": _bidder,
        "price": lambda e: e.price("price"),
        "channel": _channel("channel"),
        "url": _channel("url"),
        "dateTime": lambda e: e.time,
        "extra": lambda e: e.pick("bid.extra", _padding(e.config.bid_size - 32)),
    },
}
KINDS = ("person", "auction", "bid")


class Generator:
    """Makes batches of a table's columns. Columns and fields outside `columns` ('bid' or 'bid.price') are NULL."""

    def __init__(self, config: NexmarkConfig, schema: pa.Schema, columns: Iterable[str] | None = None) -> None:
        self.config = config
        self.schema = schema
        self._columns = None if columns is None else frozenset(columns)
        starts = np.cumsum([0, config.people, config.auctions, config.bids])
        self._starts = dict(zip(KINDS, starts[:-1].tolist()))
        self._kind_of_place = np.repeat(np.arange(3, dtype=np.int32), np.diff(starts))

    def _reads(self, name: str) -> bool:
        return self._columns is None or name in self._columns

    def __call__(self, first: int, count: int) -> pa.RecordBatch:
        numbers = np.arange(first, first + count, dtype=np.int64)
        if self.config.disorder > 1:
            group = numbers // self.config.disorder * self.config.disorder
            numbers = group + (numbers - group) * 953 % self.config.disorder
        events = Events(self.config, numbers)
        columns = [self._column(field, events) for field in self.schema]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _column(self, field: pa.Field, events: Events) -> pa.Array:
        name, count = field.name, len(events.numbers)
        if pa.types.is_struct(field.type):
            whole = self._reads(name)
            wanted = [f.name for f in field.type if whole or self._reads(f"{name}.{f.name}")]
            return self._struct(name, field.type, wanted, events) if wanted else _nulls(count, field.type)
        if not self._reads(name):
            return _nulls(count, field.type)
        if name == "event_type":
            return pa.array(self._kind_of_place[events.places])
        return _array(events.time, _MS).cast(field.type)

    def _struct(self, kind: str, row: pa.DataType, wanted: list[str], events: Events) -> pa.Array:
        """The rows of one kind of event; rows of other kinds, and their fields, are NULL."""
        mine = self._kind_of_place[events.places] == KINDS.index(kind)
        count = len(mine)
        validity = pa.py_buffer(np.packbits(mine, bitorder="little"))
        if kind == "bid":  # nearly all events: computing the few others too is cheaper than gathering
            some, at = events, None
        else:
            at = np.flatnonzero(mine)
            some = Events(self.config, events.numbers[at])
        children = []
        for field in row:
            if field.name in wanted:
                values = FIELDS[kind][field.name](some)
                children.append(_spread(values, at, count, validity, SCHEMA.field(kind).type.field(field.name).type))
            else:
                children.append(_nulls(count, field.type))
        children = [c if c.type == f.type else c.cast(f.type) for c, f in zip(children, row)]
        return pa.Array.from_buffers(row, count, [validity], children=children)


@lru_cache(maxsize=256)
def _nulls(count: int, type_: pa.DataType) -> pa.Array:
    return pa.nulls(count, type_)


def _array(values: Numbers, type_: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)])


def _spread(values: Values, at: Numbers | None, count: int, validity: pa.Buffer, type_: pa.DataType) -> pa.Array:
    """`values` at rows `at` of an array of `count` rows (None: at all), NULL where `validity` is unset."""
    if isinstance(values, np.ndarray):
        full = values
        if at is not None:
            full = np.zeros(count, np.int64)
            full[at] = values
        return pa.Array.from_buffers(type_, count, [validity, pa.py_buffer(full)])
    _, offsets, data = values.buffers()
    if at is not None:
        ends = np.frombuffer(offsets, np.int32)[: len(values) + 1] if len(values) else np.zeros(1, np.int32)
        lengths = np.zeros(count + 1, np.int32)
        lengths[at + 1] = np.diff(ends)
        offsets = pa.py_buffer(np.cumsum(lengths, dtype=np.int32))
    return pa.Array.from_buffers(type_, count, [validity, offsets, data])
