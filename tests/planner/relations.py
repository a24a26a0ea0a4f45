"""A small catalog for the planner's tests, and rows for it."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp

from forebay.planner.binder import Binder, Relation
from forebay.planner.dialect.flink import Flink
from forebay.planner.nodes import Node


def parse(sql: str) -> exp.Expression:
    """One query."""
    return sqlglot.parse_one(sql, dialect=Flink)


SCHEMA = pa.schema(
    [
        pa.field("a", pa.int64(), nullable=False),
        ("b", pa.int32()),
        ("s", pa.string()),
        ("d", pa.decimal128(10, 2)),
        ("f", pa.float64()),
        ("flag", pa.bool_()),
        ("day", pa.date32()),
        ("ts", pa.timestamp("ms")),
        ("arr", pa.list_(pa.int64())),
        ("m", pa.map_(pa.string(), pa.int64())),
        ("r", pa.struct([("x", pa.int64()), ("y", pa.string())])),
    ]
)


class TinyCatalog:
    """Relations by name."""

    def __init__(self, *relations: Relation) -> None:
        self._relations = {r.name: r for r in relations}

    def relation(self, name: str, options: tuple[tuple[str, str], ...] = ()) -> Relation | None:
        return self._relations.get(name)

    def relation_names(self) -> Iterable[str]:
        return self._relations

    def stored(self, table: str, options: tuple[tuple[str, str], ...]) -> None:
        return None

    def computed(self, table: str, name: str, schema: pa.Schema) -> None:
        return None


def table_rows(rows: int, seed: int) -> pa.Table:
    """Random rows of SCHEMA with NULLs and duplicates in every nullable column."""
    rng = random.Random(seed)

    def some(make: Any) -> list[Any]:
        return [None if rng.random() < 0.15 else make() for _ in range(rows)]

    columns = [
        [rng.randrange(8) for _ in range(rows)],
        some(lambda: rng.randrange(-5, 6)),
        some(lambda: rng.choice(["", "a", "it's", "Ünï", "abc,d"])),
        some(lambda: Decimal(rng.randrange(-10000, 10000)).scaleb(-2)),
        some(lambda: rng.randrange(-50, 50) / 4),
        some(lambda: rng.random() < 0.5),
        some(lambda: dt.date(2020, 1, 1) + dt.timedelta(days=rng.randrange(900))),
        some(lambda: dt.datetime(2020, 1, 1) + dt.timedelta(milliseconds=rng.randrange(10**11))),
        some(lambda: [rng.randrange(9) for _ in range(rng.randrange(4))]),
        some(lambda: [("k", rng.randrange(9)), ("l", None)]),
        some(lambda: {"x": rng.randrange(9), "y": rng.choice("pq")}),
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA)], schema=SCHEMA)


CATALOG = TinyCatalog(
    Relation("t", SCHEMA, primary_key=("a",), updating=True),
    Relation("u", SCHEMA),
    Relation("v", pa.schema([]), view=parse("SELECT a, b AS c FROM t WHERE b > 1")),
)


def bind(sql: str) -> Node:
    """The plan of a query over CATALOG."""
    return Binder(CATALOG).bind(parse(sql), sql)
