"""The oracle: after every step, each materialized view equals its query's batch answer over the tables as they are then.

The batch answer takes another way: the query is bound for batch and run by DataFusion over the tables' contents.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.connection import Connection
from forebay.engine.batch import Batch
from forebay.engine.types import from_arrow
from forebay.planner.nodes import Node
from forebay.snapshots import SnapshotQueries
from tests.planner.relations import parse

Row = tuple[Any, ...]


def normal(value: Any) -> Any:
    """A value that compares and hashes: nine digits of floats, tuples for lists."""
    match value:
        case float():
            return "nan" if math.isnan(value) else float(f"{value:.9g}") + 0.0
        case Decimal():
            return value.normalize()
        case dict():
            return tuple((k, normal(v)) for k, v in value.items())
        case list() | tuple():
            return tuple(map(normal, value))
    return value


def rows(table: pa.Table) -> list[Row]:
    """A table's rows."""
    return list(zip(*(column.to_pylist() for column in table.columns)))


def bag(rows: list[Row]) -> Counter[Row]:
    """Rows as a multiset."""
    return Counter(tuple(map(normal, row)) for row in rows)


def create(con: Connection, name: str, schema: pa.Schema, key: tuple[str, ...] = ()) -> None:
    """An embedded table."""
    columns = ", ".join(f"`{f.name}` {from_arrow(f.type)}" for f in schema)
    primary = f", PRIMARY KEY ({', '.join(key)}) NOT ENFORCED" if key else ""
    con.execute(f"CREATE TABLE {name} ({columns}{primary})")


@dataclass
class Oracle:
    """Views over embedded tables, and what was seen of them."""

    con: Connection
    views: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    """Comparisons of each view whose answer was not empty and had changed."""
    comparisons: int = 0
    _plans: dict[str, Node] = field(default_factory=dict)
    _last: dict[str, Counter[Row]] = field(default_factory=dict)

    def view(self, name: str, query: str) -> None:
        """Maintain a query."""
        self.con.execute(f"CREATE MATERIALIZED VIEW {name} AS {query}")
        self.views[name] = query
        self._plans[name] = self.con.relations.binder().bind_batch(parse(query), query)

    def feed(self, changes: Mapping[str, Batch]) -> None:
        """One epoch per table."""
        for table, batch in changes.items():
            failed = self.con.warehouse.driver.feed(table, batch)
            assert not failed, failed

    @property
    def _queries(self) -> SnapshotQueries:
        return self.con._executor.queries

    def shown(self, name: str) -> Counter[Row]:
        """What a view shows now."""
        return bag(rows(self._queries.contents(name)))

    def check(self, step: object = "") -> None:
        """Compare every view with its batch answer."""
        for name, query in self.views.items():
            shown = self.shown(name)
            expected = bag(rows(self._queries.answer(self._plans[name])))
            if not shown and _row_of_nothing(expected):
                expected = Counter()  # a global aggregate over no rows has no row in a continuous query
            assert shown == expected, (step, name, query, shown - expected, expected - shown)
            self.comparisons += 1
            self.answers[name] += bool(shown) and shown != self._last.get(name)
            self._last[name] = shown


def _row_of_nothing(answer: Counter[Row]) -> bool:
    rows = list(answer.elements())
    return len(rows) == 1 and not any(rows[0])


def changes(
    data: Mapping[str, pa.RecordBatch], rng: random.Random, steps: int, first: float = 0.0
) -> Iterator[dict[str, Batch]]:
    """Random batches of insertions and deletions of the rows of `data`: rows come, go, and come again.

    The first batch brings the part `first` of all rows.
    """
    waiting = [(table, i) for table, batch in data.items() for i in range(batch.num_rows)]
    rng.shuffle(waiting)
    live: list[tuple[str, int]] = []
    size = max(2 * len(waiting) // steps, 2)
    for step in range(steps):
        most = int(first * len(waiting)) if first and not step else rng.randrange(1, size)
        come = [waiting.pop() for _ in range(min(len(waiting), most))]
        gone = [live.pop(rng.randrange(len(live))) for _ in range(min(len(live), rng.randrange(len(come) + 1)))]
        by_table: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for weight, rows in ((1, come), (-1, gone)):
            for table, i in rows:
                by_table[table].append((i, weight))
        live += come
        for row in gone:
            waiting.insert(rng.randrange(len(waiting) + 1), row)
        yield {
            table: Batch(data[table].take(pa.array([i for i, _ in rows])), np.array([w for _, w in rows], np.int64))
            for table, rows in by_table.items()
        }
