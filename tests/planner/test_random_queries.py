"""Random queries: the plan that we read off answers what DataFusion's own plan of the same rewritten query answers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from forebay.planner.binder import Binder
from forebay.planner.canonical import canonical
from forebay.planner.changelog import infer
from forebay.planner.functions import new_session_context
from forebay.planner.nodes import Node
from forebay.planner.plansql import plan_to_sql
from tests.planner.relations import CATALOG, parse, table_rows
from tests.planner.test_render import answer, rows

COLUMNS = ("a", "b", "d")
"""Every generated relation has these, as BIGINT, INT and DECIMAL(10, 2)."""


class Queries:
    """Grows a random query; every relation it makes has COLUMNS."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._aliases = 0

    def query(self, depth: int) -> str:
        makers = [self.filtered, self.joined, self.grouped, self.union, self.ranked, self.distinct, self.subquery]
        return self._random.choice(makers)(depth)

    def relation(self, depth: int) -> str:
        if depth <= 0 or self._random.random() < 0.3:
            return f"{self._random.choice(('t', 'u'))} AS {self.alias()}"
        return f"({self.query(depth - 1)}) AS {self.alias()}"

    def alias(self) -> str:
        self._aliases += 1
        return f"q{self._aliases}"

    def number(self, source: str) -> str:
        choices = (
            "{0}.a",
            "{0}.b",
            "{0}.a + 1",
            "{0}.b * 2",
            "COALESCE({0}.b, 0)",
            "CASE WHEN {0}.b > 0 THEN {0}.a END",
        )
        return self._random.choice(choices).format(source)

    def condition(self, source: str) -> str:
        choices = (
            "{0}.b > {1}", "{0}.a <> {1}", "{0}.b IS NULL", "{0}.d BETWEEN {1} AND 60.5", "{0}.b IN (1, 2, {1}, NULL)",
            "NOT ({0}.b = {1})", "{0}.a % 3 = 1 OR {0}.d IS NOT NULL", "{0}.b IS DISTINCT FROM {1}",
        )  # fmt: skip
        return self._random.choice(choices).format(source, self._random.randrange(-3, 6))

    def select(self, source: str, other: str = "") -> str:
        a, d = (f"{x}.{c}" for x, c in ((source, "a"), (other or source, "d")))
        return f"SELECT CAST({a} AS BIGINT) AS a, CAST({self.number(other or source)} AS INT) AS b, {d} AS d"

    def filtered(self, depth: int) -> str:
        source = self.relation(depth)
        name = source.rsplit(" ", 1)[1]
        return f"{self.select(name)} FROM {source} WHERE {self.condition(name)}"

    def joined(self, depth: int) -> str:
        left, right = self.relation(depth), self.relation(depth)
        a, b = left.rsplit(" ", 1)[1], right.rsplit(" ", 1)[1]
        kind = self._random.choice(("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"))
        on = f"{self.number(a)} = {self.number(b)}"
        if self._random.random() < 0.4 and kind != "FULL JOIN":
            on += f" AND {a}.d < {b}.d"
        return f"{self.select(a, b)} FROM {left} {kind} {right} ON {on}"

    def grouped(self, depth: int) -> str:
        source = self.relation(depth)
        name = source.rsplit(" ", 1)[1]
        call = self._random.choice(
            ("SUM({0}.b)", "COUNT(*)", "MAX({0}.b)", "AVG({0}.b)", "COUNT(DISTINCT {0}.b)")
        ).format(name)
        condition = f" FILTER (WHERE {self.condition(name)})" if self._random.random() < 0.4 else ""
        having = " HAVING COUNT(*) > 1" if self._random.random() < 0.3 else ""
        key = self.number(name)
        return (
            f"SELECT CAST({key} AS BIGINT) AS a, CAST({call}{condition} AS INT) AS b, "
            f"CAST(MIN({name}.d) AS DECIMAL(10, 2)) AS d FROM {source} GROUP BY {key}{having}"
        )

    def union(self, depth: int) -> str:
        word = self._random.choice(("UNION ALL", "UNION", "INTERSECT", "EXCEPT"))
        parts = (f"SELECT a, b, d FROM {self.relation(depth)}" for _ in range(2))
        return f" {word} ".join(parts)

    def ranked(self, depth: int) -> str:
        source = self.relation(depth)
        name = source.rsplit(" ", 1)[1]
        over = f"PARTITION BY {self.number(name)} ORDER BY {name}.d DESC, {name}.b, {name}.a"
        bound = self._random.choice(("n = 1", "n <= 2", "n BETWEEN 2 AND 3", "n < 3 AND b > 0"))
        function = self._random.choice(("ROW_NUMBER", "RANK", "DENSE_RANK"))
        if function == "ROW_NUMBER":
            source = f"(SELECT DISTINCT a, b, d FROM {source}) AS {name}"  # full ties would leave the choice open
        inner = f"SELECT {name}.a, {name}.b, {name}.d, {function}() OVER ({over}) AS n FROM {source}"
        return f"SELECT a, b, d FROM ({inner}) AS {self.alias()} WHERE {bound}"

    def distinct(self, depth: int) -> str:
        return f"SELECT DISTINCT a, b, d FROM {self.relation(depth)}"

    def subquery(self, depth: int) -> str:
        outer, inner = self.relation(depth), self.relation(depth)
        a, b = outer.rsplit(" ", 1)[1], inner.rsplit(" ", 1)[1]
        test = self._random.choice(
            (
                f"{a}.b IN (SELECT {b}.b FROM {inner})",
                f"{a}.b NOT IN (SELECT {b}.b FROM {inner} WHERE {b}.b IS NOT NULL)",
                f"EXISTS (SELECT 1 FROM {inner} WHERE {b}.a = {a}.a AND {b}.d > {a}.d)",
                f"NOT EXISTS (SELECT 1 FROM {inner} WHERE {b}.a = {a}.b)",
                f"{a}.d > (SELECT AVG({b}.d) FROM {inner} WHERE {b}.a = {a}.a)",
                f"{a}.b > 2 OR {a}.a IN (SELECT {b}.b FROM {inner})",
            )
        )
        return f"{self.select(a)} FROM {outer} WHERE {test}"


@pytest.fixture(scope="module")
def context() -> Any:
    context = new_session_context()
    context.register_record_batches("t", [table_rows(25, 11).to_batches()])
    context.register_record_batches("u", [table_rows(20, 12).to_batches()])
    return context


@pytest.mark.parametrize("seed", [*range(60), 178])
def test_random_query(context: Any, seed: int) -> None:
    sql = Queries(seed).query(depth=2)
    plan = Binder(CATALOG).bind(parse(sql), sql)
    expected = answer(context, CATALOG, sql)
    got = context.sql(plan_to_sql(plan)).to_arrow_table()
    assert got.schema.types == plan.schema.types, sql
    assert rows(got) == rows(expected), sql
    assert canonical(plan) == canonical(Binder(CATALOG).bind(parse(sql))), "binding is deterministic"
    check_keys(plan, context)


def check_keys(plan: Node, context: Any) -> None:
    """Every key that inference claims is unique in the answer. The tables' own keys do not hold in this data: none is claimed."""
    keys = infer(plan, _NO_KEYS)[id(plan)].keys
    table = context.sql(plan_to_sql(plan)).to_arrow_table()
    for key in keys:
        values = [tuple(table.column(c)[i].as_py() for c in key) for i in range(table.num_rows)]
        assert len(set(values)) == len(values), (key, plan.schema.names)


class _Keyless:
    """CATALOG without its primary keys."""

    def relation(self, name: str, options: tuple[tuple[str, str], ...] = ()) -> Any:
        found = CATALOG.relation(name)
        return None if found is None else type(found)(found.name, found.schema, (), found.updating)

    def relation_names(self) -> Any:
        return CATALOG.relation_names()


_NO_KEYS = _Keyless()
