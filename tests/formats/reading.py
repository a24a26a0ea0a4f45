"""Shared by the format tests: records from bytes, decoding by name, and decoding one record at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.connectors import default_registry
from forebay.connectors.formats.batches import METADATA_KEY
from forebay.engine.connector import Decoded, Decoder, Encoder, Records

REGISTRY = default_registry()


def records(values: Sequence[bytes | None], first: int = 0) -> Records:
    n = len(values)
    return Records(pa.array(values, pa.binary()), "topic", np.zeros(n, np.int32), np.arange(first, first + n))


def _options(name: str, given: dict[str, str]) -> dict[str, str]:
    return {o.name: o.default for o in REGISTRY.format(name).options if o.default is not None} | {
        k.replace("__", ".").replace("_", "-"): v for k, v in given.items()
    }


def decoder(name: str, schema: pa.Schema, **options: str) -> Decoder:
    made = REGISTRY.format(name).decoder
    assert made is not None
    return made(schema, _options(name, options))


def encoder(name: str, schema: pa.Schema, **options: str) -> Encoder:
    made = REGISTRY.format(name).encoder
    assert made is not None
    return made(schema, _options(name, options))


def meta(name: str, key: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, metadata={METADATA_KEY: key.encode()})


def rows(decoded: Decoded) -> list[tuple[int, tuple[Any, ...]]]:
    """(weight, values) per row; values as Arrow scalars compare, NaN by its name."""
    columns = [[_plain(s) for s in c] for c in decoded.batch.rows.columns]
    return list(zip(decoded.batch.weight_array().tolist(), zip(*columns)))


def _plain(scalar: Any) -> Any:
    if not scalar.is_valid:
        return None
    if pa.types.is_temporal(scalar.type):
        return scalar.cast(pa.int64() if scalar.type.bit_width == 64 else pa.int32()).as_py()
    try:
        value = str(scalar.as_py()) if pa.types.is_nested(scalar.type) else scalar.as_py()
    except (OverflowError, ValueError):  # a year that Python does not have; Arrow shows it
        value = str(pa.array([scalar], scalar.type))
    return "NaN" if isinstance(value, float) and value != value else value


def one_at_a_time(made: Decoder, values: Sequence[bytes | None]) -> tuple[list[Any], list[tuple[int, str]]]:
    """Rows and dead letters when no record has a neighbour, so that the reference reads each."""
    found, dead = [], []
    for i, value in enumerate(values):
        decoded = made.decode(records([value], i))
        found += [(i, *row) for row in rows(decoded)]
        dead += [(d.offset, d.reason) for d in decoded.dead]
    return found, dead


def together(made: Decoder, values: Sequence[bytes | None]) -> tuple[list[Any], list[tuple[int, str]]]:
    decoded = made.decode(records(values))
    found = [(i, *row) for i, row in zip(decoded.record.tolist(), rows(decoded))]
    return found, [(d.offset, d.reason) for d in decoded.dead]
