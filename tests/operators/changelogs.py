"""Random changelogs for operator tests, and the harness that holds an operator against a naive model.

A *history* is a list of epochs, each a list of (row, weight); weights of live rows never go below zero at the end of an epoch
but do in between, rows are born and die within one, and some repeat. The harness feeds it in random batches and asserts
after every epoch that the integrated output equals the model of the integrated input.
"""

from __future__ import annotations

import decimal
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Operator, Turn

Row = tuple[Any, ...]
Epoch = list[tuple[Row, int]]

DAY = datetime(2026, 1, 1)
VALUES: dict[pa.DataType, list[Any]] = {
    pa.bool_(): [True, False],
    pa.int32(): [0, 1, -1, 7, 2**31 - 1, -(2**31)],
    pa.int64(): [0, 1, 2, -3, 10, 2**62, -(2**63)],
    pa.float64(): [0.0, -0.0, 0.1, 0.2, -7.5, 1e10, math.nan, math.inf, -math.inf],
    pa.decimal128(10, 2): [decimal.Decimal(v) for v in ("0.00", "1.10", "-2.25", "99999999.99")],
    pa.string(): ["", "a", "b", "ab", "Ähre", "long enough to leave the inline prefix"],
    pa.timestamp("ms"): [DAY + timedelta(minutes=m) for m in range(4)],
    pa.date32(): [date(2026, 1, 1), date(1969, 12, 31)],
}


def history_of(schema: pa.Schema, seed: int, epochs: int, most: int, append_only: bool = False) -> list[Epoch]:
    """`epochs` epochs with up to `most` new rows each, drawn from few distinct values, about one in six of them NULL."""
    random = Random(seed)
    live: Counter[Any] = Counter()
    known: dict[Any, Row] = {}
    history: list[Epoch] = []
    for _ in range(epochs):
        epoch: Epoch = []
        for _ in range(random.randint(0, most)):
            row = tuple(
                None if f.nullable and random.randrange(6) == 0 else random.choice(VALUES[f.type]) for f in schema
            )
            if known and random.randrange(4) == 0:
                row = random.choice(list(known.values()))
            epoch.append((row, random.choice([1, 1, 1, 1, 2, 3])))
            known[canonical(row)] = row
            live[canonical(row)] += epoch[-1][1]
        if not append_only:
            share = random.choice([0.0, 0.3, 0.3, 0.6, 1.0])
            victims = [key for key in live.elements() if random.random() < share]
            epoch += [(known[key], -1) for key in victims]
            live.subtract(victims)
        random.shuffle(epoch)
        history.append(epoch)
    return history


def histories(schema: pa.Schema, append_only: bool = False, most: int = 12) -> st.SearchStrategy[list[Epoch]]:
    """Histories of two to six epochs. A seed makes the rows: drawing each value would cost more than the tests."""
    return st.builds(
        history_of,
        st.just(schema),
        st.integers(0, 2**32),
        st.integers(2, 6),
        st.integers(1, most),
        st.just(append_only),
    )


def canonical(value: Any) -> Any:
    """A hashable form in which equal values of SQL are equal: one NaN, one zero."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if isinstance(value, tuple | list):
        return tuple(canonical(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, canonical(v)) for k, v in value.items())
    return value


def batch_of(schema: pa.Schema, changes: Sequence[tuple[Row, int]]) -> Batch:
    """A batch of (row, weight) pairs."""
    columns = [pa.array([row[i] for row, _ in changes], f.type) for i, f in enumerate(schema)]
    weights = np.array([w for _, w in changes], np.int64)
    return Batch(pa.RecordBatch.from_arrays(columns, schema=schema), None if (weights == 1).all() else weights)


def batches_of(schema: pa.Schema, epoch: Epoch, size: int = 5) -> list[Batch]:
    """The epoch cut into batches of at most `size` rows."""
    return [batch_of(schema, epoch[i : i + size]) for i in range(0, len(epoch), size)]


def integrate(total: Counter[Any], batches: Iterable[Batch]) -> Counter[Any]:
    """`total` plus the weights of the rows of `batches`, by canonical row; zeros are left out."""
    result = Counter(total)
    for batch in batches:
        columns = [c.to_pylist() for c in batch.rows.columns]
        rows = zip(*columns) if columns else [()] * batch.num_rows
        for row, weight in zip(rows, batch.weight_array().tolist()):
            result[canonical(row)] += weight
    return Counter({row: weight for row, weight in result.items() if weight})


def net(batches: Iterable[Batch]) -> Counter[Any]:
    """The consolidated weights of an output."""
    return integrate(Counter(), batches)


def elements(contents: Counter[Any], known: dict[Any, Row]) -> list[Row]:
    """Every live row, as often as it is live."""
    return [known[key] for key, weight in contents.items() for _ in range(weight)]


Model = Callable[[list[Row]], Iterable[Row]]


def turn(epoch: int = 1, watermark: int | None = None) -> Turn:
    return Turn(epoch, 0, (watermark,))


def assert_follows(
    make: Callable[[], Operator],
    schema: pa.Schema,
    history: list[Epoch],
    model: Model,
    *,
    restart: int | None = None,
    rollback: int | None = None,
) -> None:
    """Run `history` and compare with the model after every epoch.

    Before epoch `restart` the operator is saved and loaded into a fresh one; epoch `rollback` is processed, undone, followed by
    another epoch's rows, undone, and processed again.
    """
    operator = make()
    total: Counter[Any] = Counter()
    contents: Counter[Any] = Counter()
    known: dict[Any, Row] = {}
    saved: list[dict[str, list[pa.RecordBatch]]] = [save(operator, full=True)]
    for number, epoch in enumerate(history):
        if number == restart:
            operator = restored(make, saved)
        if number == rollback:
            for other in (epoch, history[0], epoch[::-1]):
                operator.process([batches_of(schema, other)], turn())
                for state in operator.states().values():
                    state.rollback()
        output = operator.process([batches_of(schema, epoch)], turn())
        for state in operator.states().values():
            state.commit()
        saved.append(save(operator, full=number % 3 == 2))
        if number % 3 == 2:
            del saved[:-1]
        total = integrate(total, output)
        contents = integrate(contents, batches_of(schema, epoch))
        known.update((canonical(row), row) for row, _ in epoch)
        assert all(w > 0 for w in contents.values())
        assert total == Counter(canonical(row) for row in model(elements(contents, known))), f"epoch {number}"
        for batch in output:
            assert batch.rows.schema.equals(operator.schema), batch.rows.schema
            batch.rows.validate(full=True)


def save(operator: Operator, full: bool) -> dict[str, list[pa.RecordBatch]]:
    return {name: state.changes(full) for name, state in operator.states().items()}


def restored(make: Callable[[], Operator], saved: list[dict[str, list[pa.RecordBatch]]]) -> Operator:
    """A fresh operator loaded from a full set of changes and those after it."""
    operator = make()
    for name, state in operator.states().items():
        state.load([batch for part in saved for batch in part[name]])
    return operator
