"""Relations as binding sees them: what the catalog tells of a table, an embedded table, a materialized view or a view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from sqlglot import exp

from forebay.planner.expr import Expr


@dataclass(frozen=True, slots=True)
class Relation:
    """A name's columns and what is known of its changelog."""

    name: str
    schema: pa.Schema
    primary_key: tuple[str, ...] = ()
    updating: bool = False
    """Its changelog may retract or replace rows."""
    time_columns: tuple[str, ...] = ()
    """Columns that carry a watermark."""
    bounded: bool = False
    ttl: int | None = None
    """How long joins and groupings keep its rows, in ms, as its option says; 0: for ever; None: it has no such option."""
    view: exp.Expression | None = None
    """The query of a (not materialized) view; its columns are renamed to the names of `schema` if that is not empty."""


class CatalogView(Protocol):
    """The catalog as binding sees it."""

    def relation(self, name: str, options: tuple[tuple[str, str], ...] = ()) -> Relation | None:
        """The relation of that name (dotted if qualified), under the options of a hint; None if there is none."""
        ...

    def relation_names(self) -> Iterable[str]:
        """Every name, for suggestions."""
        ...

    def stored(self, table: str, options: tuple[tuple[str, str], ...]) -> pa.Schema | None:
        """The columns that joins of a connector's table store; None where each join stores what it uses."""
        ...

    def computed(self, table: str, name: str, schema: pa.Schema) -> Expr | None:
        """A computed column over columns of the table; None if it needs others than those of `schema`."""
        ...
