"""Images before an update, from the image after it and the former values of changed fields (canal's and maxwell's `old`).

A field absent from `old` did not change; a null in it means that the value was NULL. The columnar reader cannot tell the two
apart, so a record whose text has a `null` behind `"old"` is left to the reference; of all others every NULL is an absence.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors.formats.batches import Mask, holds
from forebay.connectors.formats.changes import UPDATE, Ops
from forebay.connectors.formats.columns import Inexact

_OLD = b'"old"'


def null_behind_old(values: pa.BinaryArray, updates: Mask) -> Mask:
    """Records whose `old` may hold an explicit null (or whose key 'old' is written with escapes)."""
    found = np.zeros(len(values), bool)
    if not holds(values, b"null", anchor=1):
        return found
    for i, value in zip(np.flatnonzero(updates).tolist(), values.filter(pa.array(updates)).to_pylist()):
        at = value.find(_OLD)
        found[i] = at < 0 or value.find(b"null", at) >= 0
    return found


def overlay(data: pa.StructArray, old: pa.StructArray, op: Ops) -> pa.StructArray:
    """The images before: the data, for updates overlaid with the old values that are given."""
    updates = np.flatnonzero(op == UPDATE)
    if not len(updates):
        return data
    if old.null_count or data.null_count:
        raise Inexact
    position = np.full(len(data), -1)
    position[updates] = np.arange(len(updates))
    at = pa.array(np.maximum(position, 0), mask=position < 0)
    columns = [_coalesced(data.field(i), old.field(i), at) for i in range(data.type.num_fields)]
    return pa.StructArray.from_arrays(columns, fields=list(data.type)) if columns else data


def _coalesced(data: pa.Array, old: pa.Array, at: pa.Array) -> pa.Array:
    return data if old.null_count == len(old) else pc.coalesce(old.take(at), data)
