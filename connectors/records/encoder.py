"""Rows to records: the key, the value and the writable metadata (topic, timestamp, headers) of every change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors.records.layout import WRITABLE, key_format, key_schema, layout_of, value_format
from forebay.engine.batch import Batch
from forebay.engine.connector import (
    Changelog,
    Encoder,
    Registry,
    TableSpec,
)
from forebay.engine.errors import DataError, OptionError


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as records, columns of equal length."""

    values: pa.BinaryArray
    keys: pa.BinaryArray | None
    """NULL columns are left out of nothing: a table with key fields has a key in every record."""
    topics: pa.StringArray | None
    timestamps: npt.NDArray[np.int64] | None
    """Milliseconds since 1970; -1 where NULL."""
    headers: pa.MapArray | None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, at: npt.NDArray[np.intp]) -> Encoded:
        """The records at some places, with no topics."""
        taken = pa.array(at)
        return Encoded(
            self.values.take(taken),
            None if self.keys is None else self.keys.take(taken),
            None,
            None if self.timestamps is None else self.timestamps[at],
            None if self.headers is None else self.headers.take(taken),
        )


class RecordEncoder:
    """Rows of a sink table, found by name, to records: one per change."""

    def __init__(self, registry: Registry, spec: TableSpec, upsert: bool = False) -> None:
        layout = layout_of(spec, upsert)
        physical = spec.physical()
        value = value_format(registry, spec)
        if value.format.encoder is None:
            raise OptionError(f"format '{value.format.name}' cannot be written")
        self._upsert = upsert
        self.changelog = Changelog.UPSERT if upsert else value.format.changelog
        self._value_columns = layout.value
        self._value: Encoder = value.format.encoder(pa.schema([physical.field(c) for c in layout.value]), value.options)
        self._key_columns = layout.key
        self._key: Encoder | None = None
        if layout.key:
            key = key_format(registry, spec)
            if key.format.encoder is None:
                raise OptionError(f"format '{key.format.name}' cannot be written")
            self._key_schema = key_schema(spec, layout)
            self._key = key.format.encoder(self._key_schema, key.options)
        writable = [c for c in layout.metadata if not c.virtual]
        for column in writable:
            if column.metadata not in WRITABLE:
                raise OptionError(f"metadata column '{column.name}' cannot be written", hint="declare it VIRTUAL")
        self._metadata = {str(c.metadata): c.name for c in writable}
        self.bare = not {"timestamp", "headers"} & self._metadata.keys()
        """Whether records have neither timestamps nor headers of their own."""

    def encode(self, batch: Batch) -> Encoded:
        """One record per change: a weight of ±n gives n.

        Raises:
            DataError: a deletion for a format that has none.
        """
        batch = one_by_one(batch)
        values = (
            self._value.encode(batch.with_rows(batch.rows.select(self._value_columns))) if len(batch.rows) else None
        )
        if values is None:
            return Encoded(pa.array([], pa.binary()), pa.array([], pa.binary()), None, None, None)
        if batch.weights is not None and (batch.weights < 0).any():
            if self._upsert:
                values = pc.if_else(pa.array(batch.weights < 0), pa.scalar(None, pa.binary()), values)
            elif self.changelog is Changelog.APPEND:
                raise DataError("a deletion cannot be written in an append-only format", hint="use an upsert table")
        keys = None
        if self._key is not None:
            columns = batch.rows.select(self._key_columns).columns
            keys = self._key.encode(Batch(pa.RecordBatch.from_arrays(columns, schema=self._key_schema)))
        return Encoded(values, keys, self._column(batch, "topic"), self._times(batch), self._column(batch, "headers"))

    def _column(self, batch: Batch, key: str) -> pa.Array | None:
        return batch.rows.column(self._metadata[key]) if key in self._metadata else None

    def _times(self, batch: Batch) -> npt.NDArray[np.int64] | None:
        column = self._column(batch, "timestamp")
        if column is None:
            return None
        millis: npt.NDArray[np.int64] = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
        return np.asarray(pc.fill_null(millis, -1))


def one_by_one(batch: Batch) -> Batch:
    """The same changes with weights of ±1 only."""
    if batch.weights is None or (np.abs(batch.weights) == 1).all():
        return batch
    repeated = np.repeat(np.arange(batch.num_rows), np.abs(batch.weights))
    taken = batch.take(repeated)
    return Batch(taken.rows, np.sign(taken.weight_array()))
