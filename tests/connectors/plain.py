"""A small format for tests that must not depend on the real ones: JSON objects by the standard library.

'plain' is append-only; 'plain-cdc' wraps a row as {"op": "+" or "-", "row": {...}}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import (
    Changelog,
    DeadLetter,
    Decoded,
    Decoder,
    Encoder,
    Format,
    Option,
    Records,
    Registry,
)


class PlainDecoder(Decoder):
    def __init__(self, schema: pa.Schema, options: Mapping[str, str], cdc: bool) -> None:
        self.schema = schema
        self.changelog = Changelog.APPEND
        if cdc:
            self.changelog = Changelog.UPSERT if options.get("changelog.upsert") == "true" else Changelog.RETRACT
        self._cdc = cdc

    def decode(self, records: Records) -> Decoded:
        rows: list[dict[str, Any]] = []
        at, signs, dead, unknown = [], [], [], dict[str, int]()
        for i, value in enumerate(records.values.to_pylist()):
            try:
                parsed = json.loads(value)
                row = parsed["row"] if self._cdc else parsed
                pa.RecordBatch.from_pylist([row], schema=self.schema)
            except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
                where = records.source_of(i), int(records.partitions[i]), int(records.offsets[i])
                dead.append(DeadLetter(*where, f"bad: {type(error).__name__}", value))
                continue
            rows.append(row)
            at.append(i)
            signs.append(-1 if self._cdc and parsed["op"] == "-" else 1)
            for name in row:
                if name not in self.schema.names:
                    unknown[name] = unknown.get(name, 0) + 1
        batch = pa.RecordBatch.from_pylist(rows, schema=self.schema)
        weights = np.array(signs, np.int64) if self._cdc else None
        return Decoded(Batch(batch, weights), np.array(at, np.int64), tuple(dead), unknown_fields=unknown)


class PlainEncoder(Encoder):
    def __init__(self, cdc: bool) -> None:
        self._cdc = cdc

    def encode(self, batch: Batch) -> pa.BinaryArray:
        weights = batch.weight_array().tolist()
        rows: list[Any] = batch.rows.to_pylist()
        if self._cdc:
            rows = [{"op": "+" if w > 0 else "-", "row": r} for r, w in zip(rows, weights)]
        return pa.array([json.dumps(r, default=str).encode() for r in rows], pa.binary())


def register(registry: Registry) -> Registry:
    for name, cdc, changelog in (("plain", False, Changelog.APPEND), ("plain-cdc", True, Changelog.RETRACT)):
        registry.formats[name] = Format(
            name,
            (Option("strict", "nothing", "false"),),
            decoder=lambda schema, options, cdc=cdc: PlainDecoder(schema, options, cdc),
            encoder=lambda schema, options, cdc=cdc: PlainEncoder(cdc),
            changelog=changelog,
        )
    return registry
