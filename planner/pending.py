"""Nodes that stand between DataFusion's plan and the rules: shapes that streaming runs only in certain combinations.

A rule turns each into a streaming node (an OVER ranking with a filter on the rank becomes `Rank`, ORDER BY .. LIMIT
too); what is left when the rules are done is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from forebay.planner.expr import Expr
from forebay.planner.nodes import Node, SortKey


@dataclass(frozen=True, slots=True)
class OverCall:
    """A function OVER a window; args, partition and order are columns, `frame` is (units, start, end) in SQL words."""

    name: str
    args: tuple[Expr, ...]
    partition: tuple[int, ...]
    order: tuple[SortKey, ...]
    frame: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Over(Node):
    """The input's columns, then one column per call."""

    input: Node
    calls: tuple[OverCall, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Sort(Node):
    """The input's rows in an order, of which only the first `limit` after `offset` are kept (None: all)."""

    input: Node
    order: tuple[SortKey, ...]
    offset: int = 0
    limit: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Hinted(Node):
    """A table whose rows live `ttl` ms where they are joined or grouped, by a STATE_TTL hint of its name."""

    input: Node
    ttl: int

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)
