"""The contracts of connectors and formats, and the registry that names them.

Source: what a table reads. A `Source` opens a `Reader`; the reader is polled by the driver. A *split* is one independently
positioned part of the input (a Kafka partition, a file); a *position* is a JSON value that names the **next** record to read
of a split: resuming at a saved position neither repeats nor skips a record.

Sink: what a table writes. The engine keeps every row in a durable spool until a commit is confirmed, so a sink only has to
make the rows between two commits visible together, under an id, and remember the last id.

Format: bytes ↔ rows, for connectors that carry bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.errors import OptionError, nearest
from forebay.engine.optionkinds import Kind, fits, wanted
from forebay.engine.secrets import is_secret

MEMORY = ":memory:"
"""Begins the name of a warehouse that has no directory."""
Position = Any
"""A JSON value; only the connector that made it knows what it means."""


class Changelog(Enum):
    """What the weights of a stream's rows mean."""

    APPEND = "append"
    """Insertions only; weights are absent."""
    UPSERT = "upsert"
    """+1 writes the row of its key, replacing any; -1 deletes it (only the key columns need be set). Order matters."""
    RETRACT = "retract"
    """A Z-set: -1 takes away one earlier equal row."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read, kept for the user."""

    source: str
    """Topic or file."""
    partition: int
    offset: int
    reason: str
    value: bytes | None = None
    key: bytes | None = None
    timestamp: int | None = None
    """Milliseconds since 1970, where the source knows it."""


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A DDL event met in a binlog: shown, never applied by itself."""

    source: str
    partition: int
    offset: int
    database: str | None
    table: str | None
    statement: str
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """Raw records in arrival order, as columns of equal length n."""

    values: pa.BinaryArray
    """NULL is a tombstone."""
    source: str | pa.StringArray
    """Topic or file of every record, or one name per record."""
    partitions: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    keys: pa.BinaryArray | None = None
    timestamps: npt.NDArray[np.int64] | None = None
    """Milliseconds since 1970; -1 where unknown."""
    headers: Sequence[Sequence[tuple[str, bytes | None]] | None] | None = None
    timestamp_types: npt.NDArray[np.int8] | None = None
    """Kafka's codes: 0 none, 1 set by the writer, 2 by the broker; None: all by the writer."""

    def __len__(self) -> int:
        return len(self.values)

    def source_of(self, i: int) -> str:
        return self.source if isinstance(self.source, str) else str(self.source[i].as_py())


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a format made of `Records`: the good rows in record order, and what was not a row."""

    batch: Batch
    """Rows of the format's schema; weights per the format's changelog mode."""
    record: npt.NDArray[np.int64]
    """Per row: the index of the record that it came from (ascending; an update may give two rows of one record)."""
    dead: tuple[DeadLetter, ...] = ()
    schema_changes: tuple[SchemaChange, ...] = ()
    unknown_fields: Mapping[str, int] = field(default_factory=dict)
    """Occurrences per name of fields that the schema does not have."""


class Decoder(ABC):
    """Bytes to rows. Stateless: equal records give equal rows."""

    schema: pa.Schema
    changelog: Changelog

    @abstractmethod
    def decode(self, records: Records) -> Decoded:
        """Decode every record. Never raises for bad bytes: a bad record becomes a dead letter, its neighbours live on
        (or NULLs / nothing at all where the format's `ignore-parse-errors` says so)."""


class Encoder(ABC):
    """Rows to bytes."""

    @abstractmethod
    def encode(self, batch: Batch) -> pa.BinaryArray:
        """One value per row, in order. Of an updating stream each -1 row is written as the format's delete (for
        formats that know changes); NULL where the format writes a tombstone."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one poll brought."""

    batch: Batch
    """Rows of the source's schema."""
    split: npt.NDArray[np.int32] | None
    """Per row: index into `Reader.splits()`; None when all rows are of split 0."""
    dead: tuple[DeadLetter, ...] = ()
    schema_changes: tuple[SchemaChange, ...] = ()
    unknown_fields: Mapping[str, int] = field(default_factory=dict)
    nbytes: int = 0
    """Bytes read from outside, for the metrics."""
    records: int = 0
    """Records read from outside, bad ones included."""


def merge(parts: Sequence[Fetched]) -> Fetched | None:
    """What several polls of one reader brought, as one."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    unknown: dict[str, int] = {}
    for part in parts:
        for name, count in part.unknown_fields.items():
            unknown[name] = unknown.get(name, 0) + count
    splits = None
    if any(p.split is not None for p in parts):
        splits = np.concatenate([np.zeros(p.batch.num_rows, np.int32) if p.split is None else p.split for p in parts])
    return Fetched(
        concat([p.batch for p in parts]),
        splits,
        tuple(d for p in parts for d in p.dead),
        tuple(c for p in parts for c in p.schema_changes),
        unknown,
        sum(p.nbytes for p in parts),
        sum(p.records for p in parts),
    )


class Reader(ABC):
    """An open input. Polled by one thread; never blocks longer than told."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Names of the splits, stable across restarts. Grows when partitions are discovered; never shrinks or reorders."""

    @abstractmethod
    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        """Up to about `max_rows` rows, waiting at most `timeout` seconds; None when nothing came."""

    @abstractmethod
    def positions(self) -> dict[str, Position]:
        """Per split: the next record to read. Everything before has been returned by `poll`."""

    @abstractmethod
    def finished(self) -> bool:
        """True once every split has reached its end (bounded input) or its limit; more limits may reopen it."""

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        """Read no record at or beyond these positions (None lifts the limit). Splits not named are not read at all.

        Used to bring a late job to exactly where a shared reader stands.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be limited")

    def lag(self) -> int | None:
        """Records known to wait behind the positions; None when unknown."""
        return None

    def nbytes(self) -> int:
        """Bytes of memory, about, of what was read from outside ahead of `poll`."""
        return 0

    def committed(self, positions: Mapping[str, Position]) -> None:  # noqa: B027 - optional by design
        """Told after a checkpoint with these positions is durable (Kafka: commit to the consumer group)."""

    def close(self) -> None:  # noqa: B027 - optional by design
        """Release everything. Called once."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many records come per second."""

    per_second: float
    known_from: str
    """Over what it was measured, or who says so."""


class Source(ABC):
    """A table's input as configured. Cheap to make; opens nothing until `reader`."""

    schema: pa.Schema
    """The columns of the TableSpec, in its order: physical ones, and metadata columns where they are declared."""
    changelog: Changelog
    bounded: bool = False
    """Ends by itself."""

    @abstractmethod
    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        """Open at `positions` (a checkpoint's), or where the startup options say when None."""

    def beginnings(self) -> Mapping[str, int | None]:
        """Splits that have lost their first records: the timestamp (ms since 1970) of the first that is left, None if none is."""
        return {}

    def peek(self, count: int) -> pa.RecordBatch | None:
        """Its first rows, where they can be had without opening it; else None."""
        return None

    def rate(self, now: int) -> Rate | None:
        """How fast records come, as far as that is known without reading them; `now` in µs. May ask outside, for some seconds."""
        return None


class Sink(ABC):
    """An open output, used by one thread: `recover`, then (`write`* `commit`)*, then `close`.

    Rows written after the last commit become visible with the next `commit`, or never: after a crash, or after any
    exception from `write` or `commit`, the engine makes a new sink, asks it for the last confirmed id and writes the
    rows after that id again from its spool, under the same ids.
    """

    remembers: bool = False
    """True if commits outlive the process that made them, so that `recover` returning None on a sink that has
    committed before means that the memory was lost, and rows must not be sent again blindly."""

    @abstractmethod
    def recover(self) -> int | None:
        """Make the sink ready; fence a zombie; return the last id known to be committed, or None when it knows none."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Take rows of the sink's schema, changes consolidated per epoch; deletes come before insertions of a key."""

    @abstractmethod
    def commit(self, checkpoint: int) -> None:
        """Make all rows since the last commit visible, remember `checkpoint`, return when that is durable."""

    def flush(self) -> None:  # noqa: B027 - optional by design
        """Push out buffered rows; called when the spool is drained. At-least-once sinks become visible here."""

    def nbytes(self) -> int:
        """Bytes of memory, about, of rows that were taken and are not yet with the outside. Asked by the sink's thread."""
        return 0

    def close(self) -> None:  # noqa: B027 - optional by design
        """Release everything without committing. Called once."""


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A column of a table as a connector sees it."""

    name: str
    type: pa.DataType
    nullable: bool = True
    metadata: str | None = None
    """Key of a metadata column ('offset', 'topic', ...); None for a physical column."""
    virtual: bool = False
    """A metadata column that is read only."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """What a factory gets: the table as declared, options merged with hints, secrets resolved."""

    name: str
    columns: tuple[ColumnSpec, ...]
    options: Mapping[str, str]
    primary_key: tuple[str, ...] = ()
    partitioned_by: tuple[str, ...] = ()
    warehouse: str | None = None
    """Directory of the warehouse, or MEMORY and a number for one in memory; None where there is no warehouse."""
    job: str | None = None
    """Name of the job that opens it; sinks derive stable ids from it."""
    begin: int | None = None
    """Milliseconds since 1970 from which on a stream is wanted, unless the options say where to begin: what was before is
    history, and read from elsewhere."""
    read_columns: tuple[str, ...] | None = None
    """Columns that the plan reads (None: all); a source may leave the others NULL."""

    def schema(self) -> pa.Schema:
        """All columns as an Arrow schema."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    def physical(self) -> pa.Schema:
        """The columns that are in the record itself."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns if c.metadata is None])


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a connector or format."""

    name: str
    doc: str
    default: str | None = None
    required: bool = False
    choices: tuple[str, ...] = ()
    secret: bool = False
    kind: Kind = Kind.TEXT
    least: int | None = None
    """Of a whole number."""

    @classmethod
    def boolean(cls, name: str, doc: str, default: str = "false") -> Option:
        """An option that is 'true' or 'false'."""
        return cls(name, doc, default, kind=Kind.BOOLEAN)


@dataclass(frozen=True, slots=True)
class Connector:
    """A named kind of table: its options and factories."""

    name: str
    options: tuple[Option, ...]
    source: Callable[[TableSpec], Source] | None = None
    sink: Callable[[TableSpec], Sink] | None = None
    sink_changelog: Callable[[TableSpec], Changelog] | None = None
    """What the sink takes: APPEND refuses updates, UPSERT wants one net change per key, RETRACT takes all."""
    option_prefixes: tuple[str, ...] = ()
    """Free option families: 'properties.', 'fields.' ..."""
    uses_format: bool = False
    metadata: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Metadata columns that a source can give, by key."""


@dataclass(frozen=True, slots=True)
class Format:
    """A named format: its options (without the 'json.' prefix) and factories.

    Factories get the schema of the columns that this format carries, and its options by short name with defaults
    filled in.
    """

    name: str
    options: tuple[Option, ...]
    decoder: Callable[[pa.Schema, Mapping[str, str]], Decoder] | None = None
    encoder: Callable[[pa.Schema, Mapping[str, str]], Encoder] | None = None
    changelog: Changelog = Changelog.APPEND
    metadata: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Metadata that the format itself can give ('ingestion-timestamp', 'database', ...), as Flink's 'value.' keys."""
    positional: bool = False
    """A field is found by its position, so that a decoder needs all of them, not only those that are read."""


class Registry:
    """Connectors and formats by name."""

    def __init__(self) -> None:
        self.connectors: dict[str, Connector] = {}
        self.formats: dict[str, Format] = {}

    def connector(self, name: str) -> Connector:
        """The connector of that name.

        Raises:
            OptionError: there is none.
        """
        return _lookup(self.connectors, name, "connector")

    def format(self, name: str) -> Format:
        """The format of that name.

        Raises:
            OptionError: there is none.
        """
        return _lookup(self.formats, name, "format")


_Named = TypeVar("_Named", Connector, Format)


def _lookup(known: Mapping[str, _Named], name: str, what: str) -> _Named:
    if name in known:
        return known[name]
    close = nearest(name, known)
    hint = f"did you mean '{close}'?" if close else f"known: {', '.join(sorted(known))}"
    raise OptionError(f"unknown {what} '{name}'", hint=hint)


def check_options(options: Mapping[str, str], known: Sequence[Option], prefixes: Sequence[str], what: str) -> None:
    """Refuse options that are unknown, missing, or have a value outside their choices or of another kind.

    Raises:
        OptionError: naming the option, and the nearest known one.
    """
    names = {o.name: o for o in known}
    for name, value in options.items():
        if name not in names:
            if any(name.startswith(p) for p in prefixes):
                continue
            close = nearest(name, names)
            hint = f"did you mean '{close}'?" if close else f"known options: {', '.join(sorted(names))}"
            raise OptionError(f"unknown option '{name}' for {what}", hint=hint)
        choices = names[name].choices
        if choices and value not in choices:
            raise OptionError(f"option '{name}' of {what} cannot be '{value}'", hint=f"one of: {', '.join(choices)}")
        if not fits(names[name].kind, value, names[name].least):
            shown = "******" if names[name].secret or is_secret(name) else value
            raise OptionError(
                f"option '{name}' of {what} cannot be '{shown}'",
                hint=f"give {wanted(names[name].kind, names[name].least)}",
            )
    for option in known:
        if option.required and option.name not in options:
            raise OptionError(f"{what} needs option '{option.name}'", hint=option.doc)
