"""The typed logical plan: what a streaming query *is*. Nothing here knows how a node runs or prints.

Columns are addressed by position; join, group and rank keys are always plain columns (the binder puts a Project under a node
whose keys are expressions). `schema` is the output's Arrow schema, names unique within a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import pyarrow as pa

from forebay.planner.expr import Expr


@dataclass(frozen=True, slots=True)
class Node:
    """A relation. `schema` describes its rows."""

    schema: pa.Schema

    @property
    def inputs(self) -> tuple[Node, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Scan(Node):
    """Columns of a catalog table, embedded table or materialized view, in the order of `columns`."""

    table: str
    columns: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    """Options of an OPTIONS hint, sorted by name."""


@dataclass(frozen=True, slots=True)
class Values(Node):
    """A constant relation; one tuple of literals or constant expressions per row."""

    rows: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True, slots=True)
class Filter(Node):
    """Rows where the predicate is true."""

    input: Node
    predicate: Expr

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Project(Node):
    """One expression per output column."""

    input: Node
    exprs: tuple[Expr, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Union(Node):
    """UNION ALL."""

    parts: tuple[Node, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.parts


class JoinKind(Enum):
    INNER = "inner"
    LEFT = "left"
    RIGHT = "right"
    FULL = "full"
    LEFT_SEMI = "left semi"
    LEFT_ANTI = "left anti"
    RIGHT_SEMI = "right semi"
    RIGHT_ANTI = "right anti"
    LEFT_MARK = "left mark"
    """Left rows plus a BOOLEAN column: does a match exist."""


@dataclass(frozen=True, slots=True)
class Join(Node):
    """Equi-join with an optional residual over left columns followed by right columns. No keys: a cross join."""

    left: Node
    right: Node
    kind: JoinKind
    left_keys: tuple[int, ...]
    right_keys: tuple[int, ...]
    residual: Expr | None = None
    null_equals_null: bool = False
    null_aware: bool = False
    """Anti join of NOT IN: any NULL key on the right empties the result."""
    ttl: tuple[int | None, int | None] = (None, None)
    """Per side how long its rows live, in ms; None: for ever. Until `planner.lifetimes` has been there: of a STATE_TTL hint."""
    ttl_of: tuple[str, str] = ("", "")
    """Per side the table whose option rules that; empty where a hint does, or where the side is not one table's rows."""

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, slots=True)
class AggregateCall:
    """`name` lower case (count, sum, avg, min, max, ...); no args for COUNT(*). Args, filter and order are columns."""

    name: str
    args: tuple[int, ...]
    type: pa.DataType
    distinct: bool = False
    filter: int | None = None
    order: tuple[SortKey, ...] = ()
    constants: tuple[object, ...] = ()
    """Literal arguments after the columns (a separator, a percentile)."""


@dataclass(frozen=True, slots=True)
class SortKey:
    column: int
    ascending: bool = True
    nulls_first: bool = True


@dataclass(frozen=True, slots=True)
class Aggregate(Node):
    """Group keys first, then one column per call. No keys: one row once there is input. No calls: DISTINCT."""

    input: Node
    keys: tuple[int, ...]
    calls: tuple[AggregateCall, ...]
    ttl: int | None = None
    """How long a group lives after its last update, in ms; 0: for ever, but when that was is known; None: nobody knows."""
    ttl_of: str = ""
    """The table whose option rules that; empty where a hint does, or where the input is not one table's rows."""

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


class RankKind(Enum):
    ROW_NUMBER = "row_number"
    RANK = "rank"
    DENSE_RANK = "dense_rank"


@dataclass(frozen=True, slots=True)
class Rank(Node):
    """Rows whose rank within the partition lies in [start, end]; the rank is the last column if `with_rank`.

    Global ORDER BY ... LIMIT is a Rank with no partition.
    """

    input: Node
    kind: RankKind
    partition: tuple[int, ...]
    order: tuple[SortKey, ...]
    start: int
    end: int
    with_rank: bool
    ttl: int | None = None
    """How long a group lives after its last update, in ms; 0: for ever, but when that was is known; None: nobody knows."""
    ttl_of: str = ""
    """The table whose option rules that; empty where a hint does, or where the input is not one table's rows."""

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


class WindowKind(Enum):
    TUMBLE = "TUMBLE"
    HOP = "HOP"
    CUMULATE = "CUMULATE"
    SESSION = "SESSION"


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """A window table function; all times in µs. `slide` is HOP's slide or CUMULATE's step."""

    kind: WindowKind
    time_column: int
    size: int
    slide: int | None = None
    offset: int = 0
    partition: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowTable(Node):
    """Input rows plus window_start, window_end, window_time."""

    input: Node
    window: WindowSpec

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class WindowAggregate(Node):
    """Aggregate per window and keys, emitted when the watermark passes the window's end; late rows are counted.

    Output columns as in `Aggregate`; keys that are window_start, window_end or window_time of `input`'s WindowTable are
    among `keys` like any other. `window_end` is the input column that closes a group.
    """

    input: Node
    keys: tuple[int, ...]
    calls: tuple[AggregateCall, ...]
    window_end: int

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Unnest(Node):
    """One output row per element of the list (or map) columns in `columns`; the others repeat."""

    input: Node
    columns: tuple[int, ...]
    outer: bool = False

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Sink(Node):
    """Write `input` into `table`. `input` has exactly the table's writable columns, cast to their types."""

    input: Node
    table: str
    options: tuple[tuple[str, str], ...] = field(default=())
    key: tuple[int, ...] = ()
    """Columns by which the table upserts; empty if it takes rows as they come."""

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Traits:
    """What inference says of a node's output; see `planner.changelog`."""

    updating: bool
    """May retract rows (else append-only)."""
    keys: tuple[tuple[int, ...], ...] = ()
    """Column sets that are unique in the current contents; () as a member means at most one row."""
    time: tuple[int, ...] = ()
    """Columns that carry a watermark."""
    bounded: bool = False


TraitMap = Mapping[int, Traits]
"""Traits by `id` of node, valid while the plan is alive."""
