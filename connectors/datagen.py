"""The `datagen` source: random or sequential values of every SQL type, under Flink's option names.

Row n is a pure function of ('seed', n), so a restart repeats nothing and two runs are equal. A table is bounded with
'number-of-rows' or with a sequence that ends. Timestamps follow an event-time clock that starts at 'base-time' and moves
with the row number at the rate, less up to 'max-past' at random: not the wall clock, which no restart could repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors import options as read
from forebay.connectors.generated import GeneratedSource, Numbers, draw, stream_key
from forebay.engine.connector import Connector, Option, Registry, TableSpec
from forebay.engine.errors import OptionError, nearest
from forebay.engine.optionkinds import Kind

ROWS_PER_SECOND = Option(
    "rows-per-second", "rows per second of the clock; 0 is full speed", "10000", kind=Kind.INTEGER, least=0
)
NUMBER_OF_ROWS = Option("number-of-rows", "rows in all; without it the stream has no end", kind=Kind.INTEGER, least=0)
SEED = Option("seed", "another seed gives other rows", "0", kind=Kind.INTEGER)
BASE_TIME = Option(
    "base-time", "event time of the first row, milliseconds since 1970", "1767225600000", kind=Kind.INTEGER
)
OPTIONS = (ROWS_PER_SECOND, NUMBER_OF_ROWS, SEED, BASE_TIME)
FIELD_OPTIONS = ("kind", "min", "max", "length", "start", "end", "null-rate", "var-len", "max-past")


Column = Callable[[Numbers], pa.Array]
"""Values of one column for some row numbers."""


@dataclass(frozen=True, slots=True)
class FieldOptions:
    """The options 'fields.<name>.*' of one column, or of an element of it ('fields.<name>.element.*')."""

    name: str
    seed: int
    values: dict[str, str]

    def option(self, short: str, default: str | None = None) -> Option:
        return Option(f"fields.{self.name}.{short}", f"'{short}' of column {self.name}", default)

    def integer(self, short: str, default: int, least: int | None = None) -> int:
        return read.integer(self.values, self.option(short, str(default)), least)

    def number(self, short: str, default: float) -> float:
        option = self.option(short, repr(default))
        try:
            return float(read.required(self.values, option))
        except ValueError:
            raise read.bad_value(option, self.values[option.name], "a number") from None

    def child(self, name: str) -> FieldOptions:
        return FieldOptions(f"{self.name}.{name}", self.seed, self.values)

    def random(self, numbers: Numbers, what: str = "") -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return draw(stream_key(self.seed, f"{self.name}/{what}"), numbers)

    def unit(self, numbers: Numbers, what: str = "") -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Uniform in [0, 1)."""
        return (self.random(numbers, what) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, numbers: Numbers, least: int, most: int, what: str = "") -> Numbers:
        """Uniform whole numbers in [least, most]; the bias of the remainder is below 2**-32 for spans below 2**32."""
        span = most - least + 1
        bits = self.random(numbers, what)
        if span < 1 << 64:
            bits %= np.uint64(span)
        return (bits + np.uint64(least & 0xFFFFFFFFFFFFFFFF)).view(np.int64)


def _sequence(o: FieldOptions, type_: pa.DataType) -> Column:
    start = o.integer("start", 0)

    def column(numbers: Numbers) -> pa.Array:
        values = pa.array(numbers + start)
        return values.cast(pa.string()) if pa.types.is_string(type_) else values.cast(type_)

    return column


def _integers(o: FieldOptions, type_: pa.DataType) -> Column:
    bits = type_.bit_width
    least, most = o.integer("min", -(1 << bits - 1)), o.integer("max", (1 << bits - 1) - 1)
    if not -(1 << bits - 1) <= least <= most < 1 << bits - 1:
        raise OptionError(f"'fields.{o.name}': [{least}, {most}] is not a range of {type_}")
    return lambda n: pa.array(o.between(n, least, most)).cast(type_)


def _floats(o: FieldOptions, type_: pa.DataType) -> Column:
    least, most = o.number("min", 0.0), o.number("max", 1.0)
    return lambda n: pa.array(least + o.unit(n) * (most - least)).cast(type_)


def _decimals(o: FieldOptions, type_: pa.DataType) -> Column:
    digits = min(type_.precision, 15)
    least = round(o.number("min", 0.0) * 10**type_.scale)
    most = round(o.number("max", (10**digits - 1) / 10**type_.scale) * 10**type_.scale)

    def column(numbers: Numbers) -> pa.Array:
        low64 = o.between(numbers, least, most)
        wide = np.empty((len(numbers), 2), np.int64)  # little-endian 128 bits: low word, then the sign's extension
        wide[:, 0], wide[:, 1] = low64, low64 >> 63
        return pa.Array.from_buffers(type_, len(numbers), [None, pa.py_buffer(wide)])

    return column


def _bytes_like(o: FieldOptions, type_: pa.DataType) -> Column:
    length = o.integer("length", 100 if pa.types.is_string(type_) else 20, 0)
    variable = read.boolean(o.values, o.option("var-len", "false"))
    hexadecimal = np.frombuffer(b"0123456789abcdef", np.uint8)

    def column(numbers: Numbers) -> pa.Array:
        lengths = o.between(numbers, min(1, length), length, "length") if variable else np.full(len(numbers), length)
        offsets = np.zeros(len(numbers) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        words = -(-length // 8)
        grid = (numbers[:, None] * words + np.arange(words)).reshape(-1)
        data = o.random(grid).view(np.uint8).reshape(len(numbers), words * 8)
        data = hexadecimal[data & 15] if pa.types.is_string(type_) else data
        kept = data[np.arange(words * 8) < lengths[:, None]]
        return pa.Array.from_buffers(type_, len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(kept)])

    return column


def _timestamps(o: FieldOptions, type_: pa.DataType) -> Column:
    past = round(read.duration(o.values, o.option("max-past", "0 ms")) * 1000)
    factor = {"s": 1, "ms": 1, "us": 1000, "ns": 1_000_000}[type_.unit]
    base = read.integer(o.values, BASE_TIME)
    rate = read.integer(o.values, ROWS_PER_SECOND, 0) or 10_000
    return lambda n: pa.array((base + n * 1000 // rate - o.between(n, 0, past)) * factor).cast(type_)


def _dates(o: FieldOptions, type_: pa.DataType) -> Column:
    return lambda n: pa.array(o.between(n, 0, 20_453).astype(np.int32)).cast(type_)  # 1970-01-01 to 2025-12-31


def _times(o: FieldOptions, type_: pa.DataType) -> Column:
    return lambda n: pa.array(o.between(n, 0, 86_399_999).astype(np.int32)).cast(type_)


def _booleans(o: FieldOptions, type_: pa.DataType) -> Column:
    return lambda n: pa.array(o.random(n) >> np.uint64(63) == 1)


def _rows(o: FieldOptions, type_: pa.DataType) -> Column:
    children = [_column(o.child(f.name), f.type) for f in type_]
    return lambda n: pa.StructArray.from_arrays([c(n) for c in children], fields=list(type_))


def _lists(o: FieldOptions, type_: pa.DataType) -> Column:
    length = o.integer("length", 3, 0)
    pairs = pa.types.is_map(type_)
    keys = _column(o.child("key"), type_.key_type) if pairs else None
    items = _column(o.child("value" if pairs else "element"), type_.item_type if pairs else type_.value_type)

    def column(numbers: Numbers) -> pa.Array:
        inner = (numbers[:, None] * length + np.arange(length)).reshape(-1)
        offsets = pa.array(np.arange(len(numbers) + 1, dtype=np.int32) * np.int32(length))
        if keys is not None:
            return pa.MapArray.from_arrays(offsets, keys(inner), items(inner)).cast(type_)
        return pa.ListArray.from_arrays(offsets, items(inner)).cast(type_)

    return column


def _random(o: FieldOptions, type_: pa.DataType) -> Column:
    t = pa.types
    makers: tuple[tuple[Callable[[pa.DataType], bool], Callable[[FieldOptions, pa.DataType], Column]], ...] = (
        (t.is_boolean, _booleans),
        (t.is_integer, _integers),
        (t.is_floating, _floats),
        (t.is_decimal, _decimals),
        (t.is_string, _bytes_like),
        (t.is_binary, _bytes_like),
        (t.is_timestamp, _timestamps),
        (t.is_date, _dates),
        (t.is_time, _times),
        (t.is_struct, _rows),
        (t.is_map, _lists),
        (t.is_list, _lists),
    )
    for is_type, maker in makers:
        if is_type(type_):
            return maker(o, type_)
    raise OptionError(f"datagen cannot make {type_} for column '{o.name}'")


def _column(o: FieldOptions, type_: pa.DataType) -> Column:
    kind = read.required(o.values, o.option("kind", "random"))
    if kind == "sequence":
        return _sequence(o, type_)
    if kind != "random":
        raise read.bad_value(o.option("kind"), kind, "'random' or 'sequence'")
    values = _random(o, type_)
    rate = o.number("null-rate", 0.0)
    if rate <= 0:
        return values

    def column(numbers: Numbers) -> pa.Array:
        missing = pa.array(o.unit(numbers, "null") < rate)
        return pc.if_else(missing, pa.scalar(None, type_), values(numbers))

    return column


def _ends(spec: TableSpec) -> list[int]:
    """Row counts at which the stream ends: the given number, and the shortest sequence."""
    o = spec.options
    ends = [read.integer(o, NUMBER_OF_ROWS, 0)] if NUMBER_OF_ROWS.name in o else []
    for column in spec.columns:
        field = FieldOptions(column.name, 0, dict(o))
        end = field.option("end")
        if o.get(f"fields.{column.name}.kind") == "sequence" and end.name in o:
            ends.append(max(read.integer(o, end) - field.integer("start", 0) + 1, 0))
    return ends


def _check_fields(spec: TableSpec) -> None:
    """Refuse 'fields.' options of columns or properties that do not exist."""
    names = {c.name for c in spec.columns}
    for option in spec.options:
        if not option.startswith("fields."):
            continue
        path = option.removeprefix("fields.")
        column = next((n for n in names if path.startswith(n + ".")), None)
        if column is None:
            known = path.rpartition(".")[0]
            close = nearest(known, names)
            raise OptionError(f"option '{option}' names no column", hint=f"did you mean '{close}'?" if close else None)
        short = path.rpartition(".")[2]
        if short not in FIELD_OPTIONS:
            close = nearest(short, FIELD_OPTIONS) or FIELD_OPTIONS[0]
            raise OptionError(f"unknown option '{option}' for datagen", hint=f"did you mean '{close}'?")


def source(spec: TableSpec) -> GeneratedSource:
    """The source of a table of any columns."""
    _check_fields(spec)
    seed = read.integer(spec.options, SEED)
    schema = spec.schema()
    wanted = None if spec.read_columns is None else {c.partition(".")[0] for c in spec.read_columns}
    columns = [_column(FieldOptions(f.name, seed, dict(spec.options)), f.type) for f in schema]

    def generate(first: int, count: int) -> pa.RecordBatch:
        numbers = np.arange(first, first + count, dtype=np.int64)
        arrays = [
            make(numbers) if wanted is None or f.name in wanted else pa.nulls(count, f.type)
            for f, make in zip(schema, columns)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    rate = read.integer(spec.options, ROWS_PER_SECOND, 0)
    return GeneratedSource(schema, generate, end=min(_ends(spec), default=None), rate=rate or None)


def register(registry: Registry) -> None:
    """Make `'connector' = 'datagen'` known."""
    registry.connectors["datagen"] = Connector("datagen", OPTIONS, source=source, option_prefixes=("fields.",))
