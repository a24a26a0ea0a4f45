"""Dead letters as rows: the relation `dead_letters`, which jobs read like any stream.

Invariant: the rows of an epoch's bad records flow in the epoch that read them. So a checkpoint has them with the positions of
their sources, and a sink that is exactly once has each of them once, whatever dies when. Nothing of the past is kept here: a
job gets what comes after its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import DeadLetter
from forebay.engine.operators.base import Operator, Turn

NAME = "dead_letters"
SCHEMA = pa.schema(
    [
        ("table", pa.string()), ("source", pa.string()), ("partition", pa.int32()), ("offset", pa.int64()),
        ("reason", pa.string()), ("key", pa.binary()), ("value", pa.binary()), ("timestamp", pa.timestamp("ms", "UTC")),
    ]
)  # fmt: skip


def rows(letters: Iterable[tuple[str, DeadLetter]]) -> pa.RecordBatch:
    """One row of SCHEMA per (table, dead letter)."""
    values = [
        (t, d.source, d.partition, d.offset, d.reason, d.key, d.value, None if (d.timestamp or -1) < 0 else d.timestamp)
        for t, d in letters
    ]
    return pa.RecordBatch.from_pylist([dict(zip(SCHEMA.names, v)) for v in values], SCHEMA)


class DeadLetterOperator(Operator):
    """Hands on what the driver feeds it, and remembers nothing."""

    schema = SCHEMA

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        return inputs[0]
