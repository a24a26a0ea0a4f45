"""Change events to weighted rows: the frame shared by debezium, canal, maxwell and ogg.

A *dialect* knows one envelope. It reads one document into an `Event`, and a scanned batch into `Columns`: where the images
before and after each change are, and its operation. From there all dialects go one way: an insert gives +1 after, a delete
-1 before, an update -1 before and +1 after. With 'changelog.upsert' (set for tables with a primary key) only +1 after and -1
before of a delete are given, and -1 of the old key where an update changes the key; then no before image is needed for updates.

DDL events become statements, whatever table they are for. Events that are no changes (heartbeats, transactions) give nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors.formats.batches import (
    BatchDecoder,
    Indices,
    Mask,
    Part,
    Rows,
    Statement,
    missing_values,
    no_rows,
    not_null_check,
    present,
    settled,
    split_schema,
)
from forebay.connectors.formats.documents import Instant, Malformed, kind
from forebay.connectors.formats.fetch import Choice, Fetch, overlaid
from forebay.connectors.formats.json import rows_of
from forebay.connectors.formats.shape import NULL, OBJECT, Bytes, Scan, Shape, Slot
from forebay.connectors.formats.values import Rules, converter, field_converter
from forebay.engine.connector import Changelog

NOTHING, INSERT, UPDATE, DELETE = 0, 1, 2, 3
Ops = npt.NDArray[np.int8]

UPSERT = "changelog.upsert"
"""Set to 'true' by connectors for tables with a primary key."""
UPSERT_KEY = "changelog.key"
"""Columns of that key, separated by ';'."""

Image = Mapping[str, Any]


@dataclass(slots=True)
class Change:
    """One row's change. Images are objects of the document, or None where the event has none."""

    op: int
    before: Image | None
    after: Image | None


@dataclass(slots=True)
class Event:
    """A document as its dialect reads it."""

    changes: Sequence[Change] = ()
    statement: Statement | None = None
    database: str | None = None
    table: str | None = None
    time: Any = None
    """When the database made the change, as the envelope has it (milliseconds, or text for ogg)."""


@dataclass(frozen=True, slots=True)
class Columns:
    """A batch of m changes as found by the scan. Images are rows of the slot `image`, or ~rows of its twin."""

    row: Indices
    """Per change: its record, as a number among those that the scan has read; ascending."""
    op: Ops
    image: Slot
    twin: Slot
    before: Indices
    after: Indices
    left: Mask
    """Per record of the scan: leave it to the reference. Its changes are ignored."""
    old: Indices | None = None
    """Per change: ~row of the twin that holds the former values of what changed in `before`; 0 where there is none."""


class Reading(Enum):
    """How a metadata column comes out of a member of the envelope."""

    TEXT = 0
    MILLIS = 1
    """A number of milliseconds since 1970."""
    SECONDS = 2
    UTC = 3
    """A timestamp in text, without the zone that is meant."""


class Dialect(ABC):
    """One envelope of change events."""

    name: str
    metadata: Mapping[str, pa.DataType]
    epochs = False
    """Temporal columns come as numbers, in Debezium's units."""
    open_envelope = False
    """Messages may hold further fields beside the envelope's own, which an envelope table may declare."""
    before_hint = "send the whole row before the change, or declare a PRIMARY KEY: updates then need no before image"

    @abstractmethod
    def interpret(self, document: Mapping[str, Any]) -> Event:
        """One document; an event that is filtered out or carries no change has none.

        Raises:
            Malformed: it is no event of this dialect.
        """

    @abstractmethod
    def value(self, key: str, document: Mapping[str, Any]) -> Any:
        """The metadata `key` of a document, as JSON."""

    @abstractmethod
    def position(self, document: Mapping[str, Any]) -> Any:
        """Where the change stands in the database's log, as JSON; None if the message does not tell."""

    @abstractmethod
    def samples(self, document: Mapping[str, Any]) -> Sequence[Image]:
        """The row images of a document, without judging it."""

    members: Mapping[str, tuple[tuple[str, ...], Reading]]
    """Per metadata key that can be read as a column: the path of the member that holds it, and how."""

    @abstractmethod
    def wanted(self, row: pa.DataType) -> dict[str, Any] | None:
        """Types of the envelope's members that `columns` needs, by name (nested as they are), for images of the type
        `row`; None if such images cannot be read as columns."""

    @abstractmethod
    def columns(self, scan: Scan, root: Slot) -> Columns:
        """The changes in what was found."""


class ChangeDecoder(BatchDecoder):
    """Change events of one dialect to rows."""

    def __init__(self, dialect: Dialect, schema: pa.Schema, options: Mapping[str, str], rules: Rules) -> None:
        self.schema = schema
        self.changelog = Changelog.UPSERT if options.get(UPSERT) == "true" else Changelog.RETRACT
        self.skip_bad = rules.null_on_error
        self._dialect = dialect
        self._rules = rules
        self._upsert = self.changelog is Changelog.UPSERT
        self._physical, self._metadata = split_schema(schema, dialect.metadata)
        self._key = [k for k in options.get(UPSERT_KEY, "").split(";") if k in self._physical.names]
        self._fields = [field_converter(f, rules) for f in self._physical]
        lenient = Rules(null_on_error=True, epochs=True)
        self._readers: list[tuple[str, Callable[[Any], Any]]] = [
            (key, converter(schema.field(name).type, lenient)) for name, key in self._metadata.items()
        ]
        self._layout = [*self._physical.names, *self._metadata]
        self._order = [self._layout.index(name) for name in schema.names]
        self._check = not_null_check(self._physical)
        self._known = frozenset(self._physical.names)
        self._shape = self._made_shape()

    def _made_shape(self) -> Shape | None:
        """What to look for; None where only the reference can read."""
        wanted = self._dialect.wanted(pa.struct(list(self._physical)))
        for name, key in self._metadata.items():
            path, reading = self._dialect.members.get(key, ((), Reading.TEXT))
            if wanted is None or not path or not _readable(reading, self.schema.field(name).type):
                return None
            inner = wanted
            for step in path[:-1]:
                inner = inner.setdefault(step, {})
            inner.setdefault(path[-1], pa.int64() if reading in _NANOS else pa.string())
        return None if wanted is None else Shape(_struct(wanted))

    def learn(self, document: Mapping[str, Any]) -> None:
        if self._shape is not None:
            self._shape.learn(document)

    def unknown_fields(self, document: Mapping[str, Any]) -> Sequence[str]:
        images = self._dialect.samples(document)[:1]
        return [name for image in images for name in image if name not in self._known]

    # --- one document -------------------------------------------------------------------------------------------------

    def read_document(self, document: Mapping[str, Any]) -> Rows | Statement:
        event = self._dialect.interpret(document)
        if event.statement is not None:
            return event.statement
        rows: Rows = []
        metadata = tuple([convert(self._dialect.value(key, document)) for key, convert in self._readers])
        for change in event.changes:
            before, after = self._images(change)
            if before is not None:
                rows.append((-1, self._row(before, metadata, deletes=True)))
            if after is not None:
                rows.append((1, self._row(after, metadata, deletes=False)))
        return rows

    def _images(self, change: Change) -> tuple[Image | None, Image | None]:
        """The images to retract and to insert."""
        if change.op in (INSERT, UPDATE) and change.after is None:
            raise Malformed("the event has no row after the change")
        if change.op == INSERT:
            return None, change.after
        if change.op == UPDATE and self._upsert:
            return (change.before if self._key_changed(change) else None), change.after
        if change.before is None:
            what = "update" if change.op == UPDATE else "deletion"
            raise Malformed(f"the {what} has no row before the change; hint: {self._dialect.before_hint}")
        return change.before, change.after if change.op == UPDATE else None

    def _key_changed(self, change: Change) -> bool:
        before, after = change.before, change.after
        if before is None or after is None:
            return False
        return any(before.get(k) is not None and before.get(k) != after.get(k) for k in self._key)

    def _row(self, image: Image, metadata: tuple[Any, ...], deletes: bool) -> tuple[Any, ...]:
        row = tuple([convert(image) for convert in self._fields])
        if not (deletes and self._upsert):
            self._check(row)
        row += metadata
        return tuple([row[i] for i in self._order])

    # --- a batch ------------------------------------------------------------------------------------------------------

    def read_columns(self, values: pa.BinaryArray) -> tuple[Part, Mask]:
        if self._shape is None:
            return no_rows(self.schema), present(values)
        scan = self._shape.scan(values)
        root = self._shape.root
        changes = self._dialect.columns(scan, root)
        choice, weights, row = self._emit(scan, changes)
        bad, fetch = np.zeros(len(row), np.uint8), Fetch(scan, self._rules)
        columns = [
            fetch.column(changes.image[f.name], bad, self._overlaid(scan, changes, choice, changes.image[f.name]))
            for f in self._physical
        ]
        at = Choice(row)
        for name, key in self._metadata.items():
            path, reading = self._dialect.members[key]
            columns.append(_metadata(fetch, root.at(path), at, reading, self.schema.field(name).type, bad))
        rows = rows_of([columns[i] for i in self._order], self.schema, len(row))
        record, left = scan.record[row], scan.left()
        self._shape.release(scan)
        left[scan.record[changes.left]] = True
        left[record[bad > 0]] = True
        needed = weights > 0 if self._upsert else np.ones(len(row), bool)
        empty = missing_values(rows, record, len(values), needed)
        if empty is not None:
            left |= empty
        return settled(rows, record, weights, left), left

    def _emit(self, scan: Scan, changes: Columns) -> tuple[_Sides, Indices, Indices]:
        """Rows to give, in order: where their images are, weights, and their record (as a number of the scan); marks records
        that lack an image which they need."""
        op, m = changes.op, len(changes.op)
        before, after = (_image_kinds(scan, changes, at) for at in (changes.before, changes.after))
        writes, update = (op == INSERT) | (op == UPDATE), op == UPDATE
        retracts = (op == DELETE) if self._upsert else (op == DELETE) | update
        bad = (writes & (after != OBJECT)) | (retracts & (before != OBJECT))
        bad |= ((before > NULL) & (before != OBJECT)) | ((after > NULL) & (after != OBJECT))
        changes.left[changes.row[bad]] = True
        if self._upsert and update.any():
            retracts = retracts | self._keys_changed(scan, changes, update & (before == OBJECT) & ~bad)
        live = ~changes.left[changes.row]
        chosen = np.flatnonzero(np.stack([retracts & live, writes & live], 1).ravel())
        change, side = chosen >> 1, (chosen & 1).astype(bool)
        old = None
        if changes.old is not None and m:
            old = np.where(side, 0, changes.old[change])
        sides = _Sides(np.where(side, changes.after[change], changes.before[change]), old)
        return sides, np.where(side, 1, -1), changes.row[change]

    def _keys_changed(self, scan: Scan, changes: Columns, among: Mask) -> Mask:
        """The updates that change the key; marks the records where that is not obvious."""
        at = np.flatnonzero(among)
        changed, bad = np.zeros(len(at), np.uint8), np.zeros(len(at), np.uint8)
        before = _Sides(changes.before[at], None if changes.old is None else changes.old[at])
        after = Choice(changes.after[at], changes.image.distance(changes.twin))
        fetch = Fetch(scan, self._rules)
        for name in self._key:
            slot = changes.image[name]
            fetch.compare(slot, self._overlaid(scan, changes, before, slot), after, changed, bad)
        changes.left[changes.row[at[bad > 0]]] = True
        found = np.zeros(len(among), bool)
        found[at[changed > 0]] = True
        return found

    def _overlaid(self, scan: Scan, changes: Columns, sides: _Sides, slot: Slot) -> Choice:
        """Where the values of one column are: a former value that is given wins."""
        distance = changes.image.distance(changes.twin)
        at = sides.at
        if sides.old is not None:
            former = scan.spans_of(slot.number + distance, changes.twin.space)
            at = overlaid(former, at, sides.old)
        return Choice(at, distance)


_NANOS = {Reading.MILLIS: 10**6, Reading.SECONDS: 10**9}


@dataclass(frozen=True, slots=True)
class _Sides:
    """Per row to give: the row of its image, and ~row of the twin with its former values, 0 for none."""

    at: Indices
    old: Indices | None


def _struct(wanted: Mapping[str, Any]) -> pa.DataType:
    return pa.struct([(name, _struct(t) if isinstance(t, dict) else t) for name, t in wanted.items()])


def _readable(reading: Reading, type_: pa.DataType) -> bool:
    """Whether a metadata column of that type can be read as a column."""
    if reading is Reading.TEXT:
        return bool(pa.types.is_string(type_))
    return bool(pa.types.is_timestamp(type_)) and (reading is not Reading.UTC or type_.tz is not None)


def _image_kinds(scan: Scan, changes: Columns, at: Indices) -> Indices:
    """The kind of each change's image."""
    kinds = (
        scan.spans(changes.image)[np.maximum(at, 0)] if len(scan.spans(changes.image)) else np.zeros(len(at), np.int64)
    )
    second = at < 0
    if second.any():
        kinds = np.where(second, scan.spans(changes.twin)[np.maximum(~at, 0)], kinds)
    return kinds & 15


def _metadata(fetch: Fetch, slot: Slot, choice: Choice, reading: Reading, type_: pa.DataType, bad: Bytes) -> pa.Array:
    """A metadata column. What is odd is left to the reference, which makes it NULL."""
    if reading is Reading.TEXT:
        return fetch.column(slot, bad, choice)
    if reading is Reading.UTC:
        return fetch.utc(slot, bad, choice, type_)
    return fetch.instants(slot, bad, choice, type_, _NANOS[reading])


def image_of(value: Any, what: str) -> Image | None:
    """A row image: an object, or None.

    Raises:
        Malformed: anything else.
    """
    if value is None or isinstance(value, dict):
        return value
    raise Malformed(f"'{what}' must be an object, found {kind(value)}")


def text_at(document: Mapping[str, Any], name: str) -> str | None:
    """A member that is text, else None."""
    value = document.get(name)
    return value if type(value) is str else None


def epoch_millis(value: Any) -> Instant | None:
    """A number of milliseconds since 1970, for metadata columns of any precision; anything else is None."""
    return Instant(value * 10**6, value) if type(value) is int else None


def op_codes(scan: Scan, slot: Slot, codes: Mapping[str, int]) -> tuple[Ops, Mask]:
    """The operation that each record names, and a mask of the names that are unknown or no text."""
    index = scan.indices(slot, tuple(codes))
    table = np.array([*codes.values(), NOTHING], np.int8)
    return table[index], index < 0
