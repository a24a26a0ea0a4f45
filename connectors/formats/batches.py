"""Decoding a batch of textual records: as columns where that is exact, record by record where not.

A format's kernels read a batch as columns and leave each record that they cannot vouch for to the exact reference of
`documents` and `values`, which alone decides what is a dead letter. So the outcome never depends on a record's neighbours.

Unknown fields are counted exactly where records are read one by one; of what is read as columns only a few sampled records are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors.formats.documents import Malformed, parse_object
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, DeadLetter, Decoded, Decoder, Records, SchemaChange
from forebay.engine.errors import OptionError

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SAMPLES = 8
"""Records of a large batch whose fields are looked at."""
SMALL = 24
"""Batches of fewer records are read one by one."""

METADATA_KEY = b"forebay.metadata"
"""A field of a decoder's schema that carries this Arrow metadata is filled with the format's metadata of that key."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows decoded together, and the record that each came from."""

    rows: pa.RecordBatch
    record: Indices
    weights: Indices | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A DDL event, before its place in the input is known."""

    database: str | None
    table: str | None
    text: str


@dataclass(slots=True)
class Collected:
    """What record-by-record reading gathers: rows as tuples, dead records, statements."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    record: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    dead: list[tuple[int, str]] = field(default_factory=list)
    statements: list[tuple[int, Statement]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)

    def part(self, schema: pa.Schema) -> Part:
        """The rows gathered so far as columns."""
        lists: Sequence[Sequence[Any]] = list(zip(*self.rows)) if self.rows else [()] * len(schema)
        columns = [pa.array(values, f.type) for values, f in zip(lists, schema)]
        rows = pa.RecordBatch.from_struct_array(pa.nulls(len(self.rows), pa.struct([]))) if not len(schema) else None
        rows = pa.RecordBatch.from_arrays(columns, schema=schema) if rows is None else rows
        return Part(rows, np.array(self.record, np.int64), np.array(self.weights, np.int64))


Rows = list[tuple[int, tuple[Any, ...]]]
"""Weighted rows of one record."""


class BatchDecoder(Decoder):
    """The frame shared by the textual formats; a format adds how one batch and how one document become rows."""

    skip_bad: bool = False
    """Bad records vanish ('ignore-parse-errors')."""

    def parse(self, value: bytes) -> Mapping[str, Any] | None:
        """The document of one record; None for one that means nothing.

        Raises:
            Malformed: the record is bad, with the reason.
        """
        return parse_object(value)

    @abstractmethod
    def read_columns(self, values: pa.BinaryArray) -> tuple[Part, Mask]:
        """Rows of the records that can be read as columns, and a mask of those which are left to `read_document` (their rows
        are not in the part). Tombstones are neither."""

    def learn(self, document: Mapping[str, Any]) -> None:
        """Told documents of records that were read as columns, to read the next ones faster."""

    @abstractmethod
    def read_document(self, document: Mapping[str, Any]) -> Rows | Statement:
        """Rows of one document, in order.

        Raises:
            Malformed: the record is bad, with the reason.
        """

    @abstractmethod
    def unknown_fields(self, document: Mapping[str, Any]) -> Sequence[str]:
        """Names of fields of a row that the schema does not have."""

    def decode(self, records: Records) -> Decoded:
        """See `Decoder.decode`; tombstones give nothing."""
        collected, parts, values = Collected(), list[Part](), records.values
        if len(values) < SMALL:
            self._one_by_one(values, np.flatnonzero(present(values)), collected)
        else:
            part, left = self.read_columns(values)
            parts.append(part)
            for document in self._sample(values, present(values) & ~left):
                collected.unknown.update(self.unknown_fields(document))
                self.learn(document)
            self._one_by_one(values, np.flatnonzero(left), collected)
        if collected.rows or not parts:
            parts.append(collected.part(self.schema))
        rows, record, weights = _merge(parts)
        return Decoded(
            Batch(rows, None if self.changelog is Changelog.APPEND else weights),
            record,
            () if self.skip_bad else tuple(dead_letter(records, i, reason) for i, reason in sorted(collected.dead)),
            tuple(_change(records, i, s) for i, s in sorted(collected.statements, key=lambda s: s[0])),
            {_whole(name) or "": count for name, count in collected.unknown.items()},
        )

    def _sample(self, values: pa.BinaryArray, read: Mask) -> list[Mapping[str, Any]]:
        """Documents of a few of the records that were read as columns."""
        among = np.flatnonzero(read)
        if not len(among):
            return []
        count = min(SAMPLES, 1 + len(among) // 512)
        at = np.unique(np.linspace(0, len(among) - 1, count, dtype=np.int64))
        documents = [self.parse(values[i].as_py()) for i in among[at].tolist()]
        return [d for d in documents if d is not None]

    def _one_by_one(self, values: pa.BinaryArray, at: Indices, collected: Collected) -> None:
        if not len(at):
            return
        for i, value in zip(at.tolist(), values.take(pa.array(at)).to_pylist()):
            try:
                document = self.parse(value)
                made = [] if document is None else self.read_document(document)
            except Malformed as error:
                collected.dead.append((i, str(error)))
                continue
            if isinstance(made, Statement):
                collected.statements.append((i, made))
                continue
            if document is not None:
                collected.unknown.update(self.unknown_fields(document))
            for weight, row in made:
                collected.rows.append(row)
                collected.record.append(i)
                collected.weights.append(weight)


def no_rows(schema: pa.Schema) -> Part:
    """The part of a batch of which nothing can be read as columns."""
    none = np.empty(0, np.int64)
    return Part(pa.RecordBatch.from_pylist([], schema), none, none)


def settled(rows: pa.RecordBatch, record: Indices, weights: Indices | None, left: Mask) -> Part:
    """The rows of all records but those that are left to the reference."""
    if not left.any():
        return Part(rows, record, weights)
    keep = ~left[record]
    return Part(rows.filter(pa.array(keep)), record[keep], None if weights is None else weights[keep])


def present(values: pa.BinaryArray) -> Mask:
    """The records that are no tombstones."""
    return ~_mask(values.is_null()) if values.null_count else np.ones(len(values), bool)


def _mask(array: pa.BooleanArray) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False)
    return mask


def _merge(parts: Sequence[Part]) -> tuple[pa.RecordBatch, Indices, Indices | None]:
    """All rows in record order."""
    if len(parts) == 1:
        part = parts[0]
        if not (np.diff(part.record) < 0).any():
            return part.rows, part.record, part.weights
    record = np.concatenate([p.record for p in parts])
    order = np.argsort(record, kind="stable")
    rows = pa.concat_batches([p.rows for p in parts]).take(pa.array(order))
    weights = np.concatenate([np.ones(len(p.record), np.int64) if p.weights is None else p.weights for p in parts])
    return rows, record[order], weights[order]


def _timestamp(records: Records, i: int) -> int | None:
    return None if records.timestamps is None or records.timestamps[i] < 0 else int(records.timestamps[i])


def dead_letter(records: Records, i: int, reason: str) -> DeadLetter:
    key = None if records.keys is None else records.keys[i].as_py()
    where = records.source_of(i), int(records.partitions[i]), int(records.offsets[i])
    return DeadLetter(*where, reason, records.values[i].as_py(), key, _timestamp(records, i))


def _change(records: Records, i: int, statement: Statement) -> SchemaChange:
    where = records.source_of(i), int(records.partitions[i]), int(records.offsets[i])
    database, table, text = _whole(statement.database), _whole(statement.table), _whole(statement.text) or ""
    return SchemaChange(*where, database, table, text, _timestamp(records, i))


def _whole(text: str | None) -> str | None:
    """The text with halves of surrogate pairs replaced, so that every consumer can encode it."""
    return text if text is None or text.isascii() else text.encode(errors="replace").decode()


def split_schema(schema: pa.Schema, known: Mapping[str, pa.DataType]) -> tuple[pa.Schema, dict[str, str]]:
    """The physical fields of a decoder's schema, and its metadata columns: name to key.

    Raises:
        OptionError: a metadata key that the format does not have.
    """
    columns = {f.name: f.metadata[METADATA_KEY].decode() for f in schema if METADATA_KEY in (f.metadata or {})}
    for name, key in columns.items():
        if key not in known:
            listed = ", ".join(f"'value.{k}'" for k in known) or "none"
            raise OptionError(f"column '{name}': the format has no metadata '{key}'", hint=f"known: {listed}")
    return pa.schema([f for f in schema if f.name not in columns]), columns


def missing_values(rows: pa.RecordBatch, record: Indices, n: int, needed: Mask | None = None) -> Mask | None:
    """The records that left a NOT NULL column empty, in the rows that `needed` names."""
    found: Mask | None = None
    for f, column in zip(rows.schema, rows.columns):
        if not f.nullable and column.null_count:
            found = np.zeros(n, bool) if found is None else found
            nulls = _mask(column.is_null())
            found[record[nulls if needed is None else nulls & needed]] = True
    return found


Check = Callable[[tuple[Any, ...]], None]


def not_null_check(schema: pa.Schema) -> Check:
    """Refuses rows that leave a NOT NULL column empty."""
    needed = [(i, f.name) for i, f in enumerate(schema) if not f.nullable]

    def check(row: tuple[Any, ...]) -> None:
        for i, name in needed:
            if row[i] is None:
                raise Malformed(f"field '{name}' is NULL or missing, but the column is NOT NULL")

    return check
