"""How tables are read: what lowering asks of the catalog, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from forebay.engine.connector import Changelog, Source
from forebay.engine.expression import Output
from forebay.engine.operators.expiry import UNDATED, GroupLife
from forebay.engine.runtime.plan import History
from forebay.engine.runtime.scan import ScanSpec
from forebay.planner.relation import CatalogView


@dataclass(frozen=True, slots=True)
class Past:
    """A table's history."""

    history: History
    replay: bool
    """It flows through jobs that write to sinks."""
    chained: Callable[[frozenset[str] | None], Source]
    """Opens history and stream as one source."""
    version: int | None = None
    """The raw column that tells which of two rows of a primary key is newer."""


@dataclass(frozen=True, slots=True)
class TableSource:
    """How a connector's table is read."""

    scan: ScanSpec
    """Reads the source's raw schema."""
    changelog: Changelog
    shareable: bool
    """It starts at the same place whenever it is opened."""
    identity: str
    """Changes when the table's definition does."""
    key: tuple[int, ...] = ()
    """Primary key columns of the raw schema; needed for UPSERT."""
    computed: tuple[Output, ...] = ()
    """The declared columns over the raw ones; empty when they are the same."""
    past: Past | None = None
    """Set if the table has a history that its stream does not hold."""
    life: GroupLife = UNDATED
    """How long upserts are kept, by their key."""


class Tables(CatalogView, Protocol):
    """What lowering asks of the catalog."""

    def source(self, table: str, columns: frozenset[str], options: Mapping[str, str]) -> TableSource | None:
        """How to read a connector's table; None for an embedded table or a materialized view.

        `columns`: names, and dotted paths of fields, of what is read.
        """

    def schema(self, table: str) -> pa.Schema:
        """All readable columns of a relation."""
