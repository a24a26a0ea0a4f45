"""Consolidation: sum the weights of equal rows, drop the zeros.

Two rows are equal if all their columns are: NULL equals NULL, NaN equals NaN, -0.0 equals 0.0, in nested values too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch, Weights, concat, take
from forebay.engine.state.arrays import as_list, hash_rows, is_fixed, is_list, is_null
from forebay.engine.state.slots import column_of
from forebay.kernels.consolidate import group_hashes, sum_by_group

Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]


def consolidate(batches: Sequence[Batch]) -> Batch | None:
    """One batch with each distinct row once and no zero weights; None if nothing is left. Rows keep their first place."""
    batches = [b for b in batches if b.num_rows]
    if not batches:
        return None
    merged = concat(batches)
    places, weights = net_weights(merged)
    if not places.shape[0]:
        return None
    if places.shape[0] == merged.num_rows:
        return merged
    return Batch(take(merged.rows, places), weights)


def net_weights(batch: Batch) -> tuple[Ids, Weights]:
    """(places, weights): where each distinct row of a weight other than zero stands first, in order, and its weight."""
    group, first = group_rows(batch.rows)
    weights = np.zeros(first.shape[0], np.int64)
    sum_by_group(group, batch.weight_array(), weights)
    kept = np.flatnonzero(weights)
    return first[kept], weights[kept]


def net_changes(batch: Batch) -> tuple[Ids, Weights]:
    """(places, weights), places ascending: rows that came and went are there with what is left of them, if anything is.

    Rows that only came, or only went, stay as they are: to look at all of all others would tell nothing.
    """
    weights = batch.weight_array()
    places = np.arange(batch.num_rows)
    maybe = _both_ways(batch, weights)
    if 2 * maybe.shape[0] > batch.num_rows:
        return net_weights(batch)
    first, net = net_weights(Batch(take(batch.rows, maybe), weights[maybe]))
    result = weights.copy()
    result[maybe] = 0
    result[maybe[first]] = net
    kept = np.flatnonzero(result)
    return places[kept], result[kept]


def _both_ways(batch: Batch, weights: Weights) -> Ids:
    """The rows whose value in one column, which costs little to look at, came and went."""
    cheap = [i for i, column in enumerate(batch.rows.columns) if is_fixed(column.type)]
    hashes = hash_rows(batch.rows, cheap[:1] or range(batch.rows.num_columns))
    group, first = _by_hash(hashes)
    came, went = np.zeros(first.shape[0], bool), np.zeros(first.shape[0], bool)
    came[group[weights > 0]] = True
    went[group[weights < 0]] = True
    return np.flatnonzero((came & went)[group])


def group_rows(rows: pa.RecordBatch) -> tuple[Ids, Ids]:
    """(group, first): equal rows have equal numbers, from 0 in order of appearance; the row where each appeared first."""
    n = rows.num_rows
    group, first = _by_hash(hash_rows(rows, range(rows.num_columns)))
    if first.shape[0] == n:
        return group, first
    again = np.flatnonzero(first[group] != np.arange(n))
    same = same_rows(take(rows, again), take(rows, first[group[again]]))
    if same.all():
        return group, first
    return _split_collisions(rows, group, first, again[~same])


def _by_hash(hashes: npt.NDArray[np.uint64]) -> tuple[Ids, Ids]:
    """As `group_rows`, of hashes."""
    n = hashes.shape[0]
    group, first = np.empty(n, np.int64), np.empty(n, np.int64)
    return group, first[: group_hashes(hashes, np.zeros(1 << (2 * n).bit_length(), np.int64), group, first)]


def _split_collisions(rows: pa.RecordBatch, group: Ids, first: Ids, strange: Ids) -> tuple[Ids, Ids]:
    """Give rows that differ from the first of equal hash groups of their own."""
    sub_group, sub_first = group_rows_slowly(take(rows, strange))
    group[strange] = sub_group + first.shape[0]
    return group, np.concatenate([first, strange[sub_first]])


def group_rows_slowly(rows: pa.RecordBatch) -> tuple[Ids, Ids]:
    """`group_rows` by comparing each row with every group: for rows whose hashes say nothing."""
    group, first = np.zeros(rows.num_rows, np.int64), [0]
    for i in range(1, rows.num_rows):
        one = rows.take(pa.array([i] * len(first)))
        hits = np.flatnonzero(same_rows(rows.take(pa.array(first)), one))
        group[i] = hits[0] if hits.shape[0] else len(first)
        if not hits.shape[0]:
            first.append(i)
    return group, np.array(first)


def same_rows(left: pa.RecordBatch, right: pa.RecordBatch) -> Mask:
    """Which rows of two batches of one schema and length are equal."""
    same = np.ones(left.num_rows, bool)
    for a, b in zip(left.columns, right.columns):
        same &= same_values(a, b)
    return same


def same_values(left: pa.Array, right: pa.Array) -> Mask:
    """Which values of two columns of one type and length are equal, NULL to NULL and NaN to NaN."""
    if pa.types.is_struct(left.type) or is_list(left.type):
        same = _same_rows_of(left, right) if pa.types.is_struct(left.type) else _same_lists(left, right)
        null, other = is_null(left), is_null(right)
        return np.where(null | other, null & other, same)
    column = column_of(left.type)
    ids = np.arange(len(left))
    column.put(ids, left)
    equal = np.ones(len(left), np.uint8)
    column.keep_equal(ids, right, equal)
    return equal.astype(bool)


def _same_rows_of(left: pa.Array, right: pa.Array) -> Mask:
    same = np.ones(len(left), bool)
    for a, b in zip(left.flatten(), right.flatten()):
        same &= same_values(a, b)
    return same


def _same_lists(left: pa.Array, right: pa.Array) -> Mask:
    """Lists are equal if they are of one length and no elements at one place differ."""
    places = np.flatnonzero(as_list(left)[0] == as_list(right)[0])
    lengths, ours = as_list(left.take(pa.array(places)))
    _, theirs = as_list(right.take(pa.array(places)))
    differ = np.r_[0, np.cumsum(~same_values(ours, theirs))]
    ends = np.cumsum(lengths)
    same = np.zeros(len(left), bool)
    same[places] = differ[ends] == differ[ends - lengths]
    return same
