"""Change events to weighted rows: the frame shared by debezium, canal, maxwell and ogg.

A *dialect* knows one envelope. It reads one document into an `Event`, and a batch into `Columns`: parallel before/after
images with an operation each. From there all dialects go one way: an insert gives +1 after, a delete -1 before, an update
-1 before and +1 after. With 'changelog.upsert' (set for tables with a primary key) only +1 after and -1 before of a delete
are given, and -1 of the old key where an update changes the key; then no before image is needed for updates.

DDL events become statements, whatever table they are for. Events that are no changes (heartbeats, transactions) give nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors.formats.batches import (
    BatchDecoder,
    Indices,
    Mask,
    Part,
    Rows,
    Statement,
    missing_values,
    not_null_check,
    split_schema,
)
from forebay.connectors.formats.columns import Inexact, finish, read_table, wire_type
from forebay.connectors.formats.documents import Instant, Malformed, kind
from forebay.connectors.formats.json import rows_of
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
    """A batch of m changes of n records as fetched by the columnar reader, not yet cast."""

    record: Indices
    """Per change: its record, ascending."""
    op: Ops
    before: pa.StructArray
    after: pa.StructArray
    closer: Mask
    """Per record: leave it to the reference. Its changes are ignored."""


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

    @abstractmethod
    def wire(self, row: pa.DataType) -> pa.Schema:
        """What to fetch of an envelope whose images have the type `row`."""

    @abstractmethod
    def columns(self, table: pa.Table, values: pa.BinaryArray) -> Columns:
        """The changes in what was fetched.

        Raises:
            Inexact: cannot tell.
        """

    def wire_metadata(self, keys: Sequence[str]) -> pa.Schema:
        """Further fields to fetch for metadata columns.

        Raises:
            Inexact: a key that the columnar reader cannot fetch.
        """
        if keys:
            raise Inexact
        return pa.schema([])

    def metadata_column(self, key: str, table: pa.Table) -> pa.Array:
        """The metadata of each record, of the type in `metadata`."""
        raise Inexact


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

    def read_columns(self, values: pa.BinaryArray, samples: Sequence[Mapping[str, Any]]) -> tuple[Part, Mask | None]:
        if self._rules.fail_on_missing:
            raise Inexact
        dialect, keys = self._dialect, list(self._metadata.values())
        images = [image for document in samples for image in dialect.samples(document)]
        row = pa.struct(
            [(f.name, wire_type(f.type, [i.get(f.name) for i in images], self._rules)) for f in self._physical]
        )
        wire = pa.unify_schemas([dialect.wire(row), dialect.wire_metadata(keys)])
        table = read_table(values, wire)
        changes = dialect.columns(table, values)
        closer = changes.closer | self._unreadable(changes, len(values))
        at, weights, record = self._emit(changes, closer)
        columns = [
            finish(_pick(changes.before.field(i), changes.after.field(i), at), f.type)
            for i, f in enumerate(self._physical)
        ]
        for name, key in self._metadata.items():
            column = dialect.metadata_column(key, table).take(pa.array(record))
            columns.append(column.cast(self.schema.field(name).type))
        rows = rows_of([columns[i] for i in self._order], self.schema, len(at))
        empty = missing_values(rows, record, len(values))
        if empty is not None:
            if not self._upsert:
                raise Inexact
            empty[:] = False
            late = missing_values(rows.filter(pa.array(weights > 0)), record[weights > 0], len(values))
            empty = empty if late is None else late
            keep = ~empty[record]
            rows, record, weights, closer = rows.filter(pa.array(keep)), record[keep], weights[keep], closer | empty
        return Part(rows, record, weights), closer

    def _unreadable(self, changes: Columns, n: int) -> Mask:
        """The records that lack an image which they need."""
        no_before, no_after = _nulls(changes.before), _nulls(changes.after)
        op = changes.op
        bad = no_after & ((op == INSERT) | (op == UPDATE))
        bad |= no_before & ((op == DELETE) | ((op == UPDATE) & (not self._upsert)))
        mask = np.zeros(n, bool)
        mask[changes.record[bad]] = True
        return mask

    def _emit(self, changes: Columns, closer: Mask) -> tuple[Indices, Indices, Indices]:
        """Rows to give, in order: indices into (before images, then after images), weights, records."""
        op, m = changes.op, len(changes.op)
        live = ~closer[changes.record]
        retract = op == DELETE
        if self._upsert:
            retract = retract | ((op == UPDATE) & self._keys_changed(changes))
        else:
            retract = retract | (op == UPDATE)
        chosen = np.stack([retract & live, ((op == INSERT) | (op == UPDATE)) & live], 1).ravel()
        which = np.flatnonzero(chosen)
        after = which % 2
        return which // 2 + after * m, after * 2 - 1, changes.record[which // 2]

    def _keys_changed(self, changes: Columns) -> Mask:
        changed = np.zeros(len(changes.op), bool)
        given = ~_nulls(changes.before)
        for name in self._key:
            i = self._physical.names.index(name)
            differs = pc.fill_null(pc.not_equal(changes.before.field(i), changes.after.field(i)), False)
            changed |= differs.to_numpy(zero_copy_only=False) & given
        return changed


def _pick(before: pa.Array, after: pa.Array, at: Indices) -> pa.Array:
    """Elements of before ++ after."""
    if not len(at) or (at[0] >= len(before) and (at >= len(before)).all()):
        return after.take(pa.array(at - len(before)))
    return pa.concat_arrays([before, after]).take(pa.array(at))


def _nulls(array: pa.Array) -> Mask:
    if not array.null_count:
        return np.zeros(len(array), bool)
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


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


def op_codes(names: pa.Array, codes: Mapping[str, int]) -> tuple[Ops, Mask]:
    """The operation of each name, and a mask of the names that are unknown or NULL."""
    coded = names.dictionary_encode()
    table = np.array([codes.get(n, -1) for n in coded.dictionary.to_pylist()] + [-1], np.int8)
    indices = coded.indices.fill_null(len(coded.dictionary)).to_numpy()
    ops = table[indices]
    return np.maximum(ops, 0), ops < 0
