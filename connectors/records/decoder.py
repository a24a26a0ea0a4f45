"""Records to rows: what a table's key format, value format and metadata columns make of `Records`.

In an upsert table a NULL value deletes its key. Rows keep the order of their records. A record whose key or value cannot be
read becomes a dead letter and its neighbours live on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors.records.layout import (
    FORMAT_METADATA,
    HEADERS,
    METADATA,
    key_format,
    key_schema,
    layout_of,
    read_fields,
    read_names,
    value_format,
    widened,
)
from forebay.engine.batch import Batch, Weights
from forebay.engine.connector import (
    Changelog,
    ColumnSpec,
    DeadLetter,
    Decoded,
    Decoder,
    Records,
    Registry,
    TableSpec,
)
from forebay.engine.errors import OptionError

Indices = npt.NDArray[np.int64]


class RecordDecoder:
    """Records to rows of `schema`: physical and metadata columns as declared."""

    def __init__(self, registry: Registry, spec: TableSpec, upsert: bool = False) -> None:
        self.schema = spec.schema()
        self._layout = layout_of(spec, upsert)
        self._wanted = read_names(spec)
        self._declared = frozenset(c.name for c in spec.columns)
        self._upsert = upsert
        self._value = self._value_decoder(registry, spec)
        self._key = self._key_decoder(registry, spec)
        read = {c.metadata or c.name for c in self._layout.metadata if self._reads(c.name)}
        self._needs = read | ({"key"} if self._layout.from_key else set())
        self.changelog = Changelog.UPSERT if upsert else self._value.changelog

    def _value_decoder(self, registry: Registry, spec: TableSpec) -> Decoder:
        chosen = value_format(registry, spec)
        if chosen.format.decoder is None:
            raise OptionError(f"format '{chosen.format.name}' cannot be read")
        if self._upsert and chosen.format.changelog is not Changelog.APPEND:
            raise OptionError(f"'{chosen.format.name}' carries changes itself; an upsert table needs a plain format")
        physical = spec.physical()
        fields = read_fields(spec, chosen.format, [physical.field(c) for c in self._layout.value])
        for column in self._layout.format_metadata:
            key = (column.metadata or "").removeprefix("value.")
            if key not in chosen.format.metadata:
                known = ", ".join(f"'value.{k}'" for k in chosen.format.metadata) or "none"
                raise OptionError(f"format '{chosen.format.name}' has no metadata '{key}'", hint=f"known: {known}")
            fields.append(pa.field(column.name, column.type, column.nullable, metadata={FORMAT_METADATA: key}))
        return chosen.format.decoder(pa.schema(fields), chosen.options)

    def _key_decoder(self, registry: Registry, spec: TableSpec) -> Decoder | None:
        if not self._upsert and not any(self._reads(c) for c in self._layout.from_key):
            return None
        chosen = key_format(registry, spec)
        if chosen.format.decoder is None:
            raise OptionError(f"format '{chosen.format.name}' cannot be read")
        return chosen.format.decoder(key_schema(spec, self._layout), chosen.options)

    def _reads(self, column: str) -> bool:
        return self._wanted is None or column in self._wanted

    def needs(self, what: str, values: pa.BinaryArray) -> bool:
        """Whether decoding these values reads 'key', 'timestamp', 'timestamp-type' or 'headers' of their records, too."""
        return what in self._needs or (what == "key" and self._upsert and values.null_count > 0)

    def decode(self, records: Records) -> Decoded:
        """Rows in record order; bad keys and bad values become dead letters."""
        absent = _nulls_of(records.values) if self._upsert else np.empty(0, np.int64)
        live = records if not len(absent) else select(records, np.setdiff1d(np.arange(len(records)), absent))
        value = self._value.decode(live)
        if len(absent):
            value = replace(value, record=np.setdiff1d(np.arange(len(records)), absent)[value.record])
        keys, dead = self._decode_keys(records, absent)
        rows, record, weights = self._merge(records, value, keys, absent)
        unknown = {n: c for n, c in value.unknown_fields.items() if n not in self._declared}
        return Decoded(Batch(rows, weights), record, (*value.dead, *dead), value.schema_changes, unknown)

    def _decode_keys(self, records: Records, absent: Indices) -> tuple[_Keys | None, tuple[DeadLetter, ...]]:
        """The keys of the records that need one: all if a column lives in the key only, else the tombstones."""
        if self._key is None:
            return None, ()
        everyone = bool(self._layout.from_key)
        needed = np.arange(len(records)) if everyone else absent
        keys = records.keys if records.keys is not None else pa.nulls(len(records), pa.binary())
        row_of = np.full(len(records), _DEAD, np.int64)
        missing = needed[_mask_of_nulls(keys)[needed]]
        dead: list[DeadLetter] = []
        if self._upsert:
            dead += [_letter(records, int(i), "the record has no key") for i in missing]
        else:
            row_of[missing] = _NULL
        present = np.setdiff1d(needed, missing)
        decoded = self._key.decode(select(replace(records, values=keys, keys=None), present))
        row_of[present[decoded.record]] = np.arange(len(decoded.record))
        at = {(d.source, d.partition, d.offset): d.reason for d in decoded.dead}
        if at:
            for i in present.tolist():
                reason = at.get((records.source_of(i), int(records.partitions[i]), int(records.offsets[i])))
                dead += [] if reason is None else [_letter(records, i, f"key: {reason}")]
        return _Keys(decoded.batch.rows, row_of), tuple(dead)

    def _merge(
        self, records: Records, value: Decoded, keys: _Keys | None, absent: Indices
    ) -> tuple[pa.RecordBatch, Indices, Weights | None]:
        """Rows of the values and of the tombstones in record order, without those whose key is dead."""
        record, weights = value.record, value.batch.weights
        at: Indices | None = None  # per row: its row in value.batch, negative for a tombstone
        if len(absent):
            weights = np.concatenate([value.batch.weight_array(), np.full(len(absent), -1, np.int64)])
            at = np.concatenate([np.arange(len(record)), np.full(len(absent), _NULL)])
            record = np.concatenate([record, absent])
            order = np.argsort(record, kind="stable")
            weights, at, record = weights[order], at[order], record[order]
        if keys is not None:
            tombstone = at < 0 if at is not None else np.zeros(len(record), bool)
            good = keys.row_of[record] != _DEAD
            keep = good if self._layout.from_key else good | ~tombstone
            if not keep.all():
                at = (np.arange(len(record)) if at is None else at)[keep]
                weights = None if weights is None else weights[keep]
                record = record[keep]
        return self._rows(records, value.batch.rows, at, record, keys), record, weights

    def _rows(
        self, records: Records, values: pa.RecordBatch, at: Indices | None, record: Indices, keys: _Keys | None
    ) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {}
        for name in values.schema.names:
            column = values.column(name)
            columns[name] = column if at is None else column.take(_nullable(at))
        if keys is not None:
            rows = keys.row_of[record]
            for name, column in zip(self._layout.key, keys.rows.columns):
                if name in self._layout.from_key:
                    columns[name] = column.take(_nullable(rows))
                elif at is not None and name in columns:
                    given = column.take(_nullable(np.where(at < 0, rows, _NULL)))
                    columns[name] = pc.if_else(pa.array(at < 0), given, columns[name])
        for spec in self._layout.metadata:
            if self._reads(spec.name):
                columns[spec.name] = _metadata(records, spec, record)
        arrays = [
            widened(columns[f.name], f.type) if f.name in columns else pa.nulls(len(record), f.type)
            for f in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


_NULL, _DEAD = -1, -2


@dataclass(frozen=True, slots=True)
class _Keys:
    rows: pa.RecordBatch
    row_of: Indices
    """Per record: its row in `rows`, _NULL for a NULL key, _DEAD for one that could not be read or was not needed."""


def select(records: Records, at: Indices) -> Records:
    """The records at some indices."""
    if len(at) == len(records):
        return records
    taken = pa.array(at)
    return Records(
        values=records.values.take(taken),
        source=records.source if isinstance(records.source, str) else records.source.take(taken),
        partitions=records.partitions[at],
        offsets=records.offsets[at],
        keys=None if records.keys is None else records.keys.take(taken),
        timestamps=None if records.timestamps is None else records.timestamps[at],
        timestamp_types=None if records.timestamp_types is None else records.timestamp_types[at],
        headers=None if records.headers is None else [records.headers[i] for i in at],
    )


def _nullable(at: Indices) -> pa.Array:
    return pa.array(np.maximum(at, 0), mask=at < 0)


def _mask_of_nulls(array: pa.Array) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _nulls_of(array: pa.Array) -> Indices:
    return np.flatnonzero(_mask_of_nulls(array)) if array.null_count else np.empty(0, np.int64)


def _letter(records: Records, i: int, reason: str) -> DeadLetter:
    return DeadLetter(
        records.source_of(i),
        int(records.partitions[i]),
        int(records.offsets[i]),
        reason,
        records.values[i].as_py(),
        None if records.keys is None else records.keys[i].as_py(),
        None if records.timestamps is None else int(records.timestamps[i]),
    )


def _topics(records: Records, record: Indices) -> pa.Array:
    if isinstance(records.source, str):
        return pa.repeat(pa.scalar(records.source), len(record))
    return records.source.take(pa.array(record))


def _timestamps(records: Records, record: Indices) -> pa.Array:
    if records.timestamps is None:
        return pa.nulls(len(record), METADATA["timestamp"])
    values = records.timestamps[record]
    return pa.array(values, mask=values < 0).cast(METADATA["timestamp"])


_TYPES = pa.array(["NoTimestampType", "CreateTime", "LogAppendTime"])


def _timestamp_types(records: Records, record: Indices) -> pa.Array:
    if records.timestamp_types is None:
        return pa.repeat(_TYPES[1], len(record))
    return _TYPES.take(pa.array(records.timestamp_types[record]))


def _headers(records: Records, record: Indices) -> pa.Array:
    if records.headers is None:
        return pa.nulls(len(record), HEADERS)
    return pa.array([records.headers[i] for i in record], HEADERS)


_READ_METADATA: Mapping[str, Callable[[Records, Indices], pa.Array]] = {
    "topic": _topics,
    "partition": lambda r, at: pa.array(r.partitions[at]),
    "offset": lambda r, at: pa.array(r.offsets[at]),
    "timestamp": _timestamps,
    "timestamp-type": _timestamp_types,
    "headers": _headers,
    "key": lambda r, at: pa.nulls(len(at), pa.binary()) if r.keys is None else r.keys.take(pa.array(at)),
}


def _metadata(records: Records, column: ColumnSpec, record: Indices) -> pa.Array:
    values = _READ_METADATA[column.metadata or column.name](records, record)
    return values if values.type == column.type else values.cast(column.type)
