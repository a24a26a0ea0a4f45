"""What an operator makes of a few rows, asked aside of the run, between epochs: nothing that runs is changed by it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Carried, Operator, Turn
from forebay.engine.operators.horizon import ALWAYS, Lifetime
from forebay.engine.operators.join import JoinOperator
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.arrays import Mask, hash_rows
from forebay.engine.state.rows import Ids

MOST = 10_000
"""Rows of one side of a join that are looked at."""


class Joined(NamedTuple):
    """The rows under some keys, as each side has them, and what the join gives for these keys."""

    left: list[Batch]
    right: list[Batch]
    output: list[Batch]
    whole: bool
    """Whether those are all the rows."""


def join_under(join: JoinOperator, left: Sequence[Batch], right: Sequence[Batch], epoch: int) -> Joined:
    """The join of all rows that have the keys of these stored ones: by a join of the same make, of these rows alone.

    Rows that have expired for the join are not there. NOT IN, for which all rows matter, is not answered.
    """
    spec, sides = join.spec, join.sides
    keys = [b.rows.select(list(spec.left_keys)) for b in left] + [b.rows.select(list(spec.right_keys)) for b in right]
    found = [_under(rows, keys, epoch, since) for rows, since in zip(sides, join.horizon.bounds)]
    rows = [_batches(side, ids[:MOST]) for side, ids in zip(sides, found)]
    if spec.null_aware:
        return Joined(rows[0], rows[1], [], False)
    twins = [_arranged(side, mine) for side, mine in zip(sides, rows)]
    twin = JoinOperator(replace(spec, lives=(Lifetime(), Lifetime())), *twins)
    output = twin.process(rows, Turn(1, 0, (None, None), initial=True))
    return Joined(rows[0], rows[1], output, all(ids.size <= MOST for ids in found))


def _under(side: Arrangement, keys: Sequence[pa.RecordBatch], epoch: int, since: int) -> Ids:
    """The ids of the rows under the keys, ascending."""
    found = [np.zeros(0, np.int64)]
    for some in keys:
        view = side.new(epoch, since)
        found += [ids for _, ids in side.probe(some, range(some.num_columns), view, nulls_match=True)]
    return np.unique(np.concatenate(found))


def _batches(side: Arrangement, ids: Ids) -> list[Batch]:
    return [Batch(side.rows_at(ids), side.weights_at(ids))] if ids.size else []


def _arranged(side: Arrangement, rows: list[Batch]) -> Arrangement:
    made = Arrangement(side.schema, side.key, time=side.time)
    made.update(rows, 1)
    return made


def rows_under(side: Arrangement, keys: pa.RecordBatch, epoch: int) -> list[Batch]:
    """The rows of an arrangement with these keys (its key columns), at the end of the epoch."""
    return _batches(side, _under(side, [keys], epoch, ALWAYS))


def made_of(operator: Operator, inputs: Sequence[list[Batch]], now: int) -> list[Batch]:
    """What a pure operator makes of rows. What it counts is not counted."""
    counts = vars(operator).get("metrics")
    if counts is not None:
        operator = copy(operator)
        vars(operator)["metrics"] = dict(counts)
    return operator.process(inputs, Turn(0, now, (None,) * len(inputs)))


def reaching(rows: pa.RecordBatch, carried: Sequence[Carried], output: Sequence[pa.RecordBatch]) -> Mask:
    """Which rows of an input agree with one of some rows of the output, by what `Operator.carried` says of all of them."""
    out = np.zeros(rows.num_rows, bool)
    for values, columns in carried:
        if values.num_rows == rows.num_rows:
            for given in output:
                out |= np.isin(hash_rows(values, range(len(columns))), hash_rows(given, columns))
    return out


def stemming(output: pa.RecordBatch, carried: Sequence[Carried]) -> Mask:
    """Which rows of an output agree with one of the rows in an entry of `Operator.carried`."""
    out = np.zeros(output.num_rows, bool)
    for values, columns in carried:
        if not columns:
            out |= values.num_rows > 0
        elif all(output.schema.field(c).type == f.type for c, f in zip(columns, values.schema)):
            out |= np.isin(hash_rows(output, columns), hash_rows(values, range(len(columns))))
    return out
