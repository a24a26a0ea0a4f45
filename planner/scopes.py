"""Where names of a query come from: WITH queries in sight, and the place of a token in the statement's text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlglot import exp


def ctes_in_sight(node: exp.Expression) -> list[exp.CTE]:
    """The WITH queries that a name at `node` may mean, outermost first; a later one of a name hides the earlier ones.

    A WITH query sees those before it in its list, not itself.
    """
    found: list[exp.CTE] = []
    child, parent = node, node.parent
    while parent is not None:
        if isinstance(parent, exp.With):
            at = next(i for i, cte in enumerate(parent.expressions) if cte is child)
            found = [*parent.expressions[:at], *found]
            child, parent = parent, parent.parent  # the query that owns this WITH adds nothing of its own
            if parent is None:
                break
        else:
            with_ = parent.args.get("with_")
            if with_ is not None and with_ is not child:
                found = [*with_.expressions, *found]
        child, parent = parent, parent.parent
    return found


def cte_of(table: exp.Table) -> exp.CTE | None:
    """The WITH query that the table's name means, or None."""
    if table.args.get("db"):
        return None
    return next((cte for cte in reversed(ctes_in_sight(table)) if cte.alias == table.name), None)


def from_items(select: exp.Select) -> Iterator[exp.Expression]:
    """The tables and subqueries of FROM and its joins."""
    from_ = select.args.get("from_")
    if from_ is not None:
        yield from_.this
        yield from (join.this for join in from_.this.args.get("joins") or ())
    yield from (join.this for join in select.args.get("joins") or ())


def position(at: exp.Expression, sql: str | None) -> tuple[int | None, int | None]:
    """Line and column, from 1, of the first token under `at` that remembers where it stood.

    Tokens count from the start of their script; where that is not `sql`, the first equal word counts.
    """
    marked = sorted((n for n in at.walk() if "start" in n.meta), key=lambda n: int(n.meta["start"]))
    if sql is None or not marked:
        return None, None
    word, start = _word(marked[0]), int(marked[0].meta["start"])
    if word and not sql[start:].lstrip("`").lower().startswith(word.lower()):
        found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sql, re.IGNORECASE)
        if found is None:
            return None, None
        start = found.start()
    before = sql[:start]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _word(node: exp.Expression) -> str:
    return node.this if isinstance(node, exp.Anonymous) and isinstance(node.this, str) else node.name


_AGGREGATES = """
LISTAGG STRING_AGG ARRAY_AGG COLLECT FIRST_VALUE LAST_VALUE STDDEV STDDEV_POP STDDEV_SAMP VARIANCE VAR_POP VAR_SAMP EVERY SOME
"""
"""Aggregate functions that the parser does not tell from others."""


def may_give_many_rows(subquery: exp.Subquery) -> bool:
    """Whether a subquery that stands for a value is not plainly limited to one row: no aggregate, no LIMIT 1."""
    select = subquery.unnest()
    if not isinstance(select, exp.Select):
        return True
    limit = select.args.get("limit")
    count = limit.expression if isinstance(limit, exp.Limit) else limit.args.get("count") if limit is not None else None
    if select.args.get("from_") is None or (count is not None and count.name in ("0", "1")):
        return False
    return select.args.get("group") is not None or not any(_aggregates(item) for item in select.expressions)


def _aggregates(item: exp.Expression) -> bool:
    """Whether the item holds an aggregate of its own query."""
    if isinstance(item, exp.AggFunc) or (
        isinstance(item, exp.Anonymous) and _word(item).upper() in _AGGREGATES.split()
    ):
        return True
    return any(_aggregates(part) for part in item.iter_expressions() if not isinstance(part, exp.Query))
