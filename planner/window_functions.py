"""TUMBLE, HOP, CUMULATE and SESSION in FROM: DataFusion sees an opaque table of the input's columns plus the window's.

When the plan is walked, the table becomes `WindowTable` over the input, which is planned only then, for the columns in use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pyarrow as pa
from sqlglot import exp

from forebay.engine.errors import SqlError, nearest
from forebay.planner.build import project, unique_schema
from forebay.planner.dialect.nodes import WindowTVF
from forebay.planner.expr import Column
from forebay.planner.functions import empty_relation
from forebay.planner.nodes import Node, WindowKind, WindowSpec, WindowTable
from forebay.planner.planning import planned, schema_of
from forebay.planner.sqltext import interval, to_text
from forebay.planner.walk import Leaf

_MICROS = {
    "MICROSECOND": 1, "MILLISECOND": 1000, "SECOND": 1_000_000, "MINUTE": 60_000_000, "HOUR": 3_600_000_000,
    "DAY": 86_400_000_000, "WEEK": 604_800_000_000,
}  # fmt: skip
_BOUND = pa.timestamp("ms")


def window_leaf(window: WindowTVF, query: exp.Expression, leaves: Mapping[str, Leaf]) -> tuple[str, Leaf]:
    """The leaf's name and meaning for a window function over `query`, a rewritten SELECT of all the input's columns.

    Raises:
        SqlError: the time column is missing or no TIMESTAMP, or the sizes do not fit each other.
    """
    schema = schema_of(query, None)
    spec = window_spec(window, schema)
    time = schema.field(spec.time_column)
    bounds = [pa.field("window_start", _BOUND), pa.field("window_end", _BOUND), pa.field("window_time", time.type)]
    output = unique_schema([*schema, *(b.with_nullable(time.nullable) for b in bounds)])
    name = empty_relation(output, f"{spec} {to_text(query)}")
    return name, Leaf(name, _builder(query, leaves, schema, output, spec))


def _builder(
    query: exp.Expression, leaves: Mapping[str, Leaf], schema: pa.Schema, output: pa.Schema, spec: WindowSpec
) -> Callable[[tuple[str, ...], pa.Schema], Node]:
    def build(columns: tuple[str, ...], wanted: pa.Schema) -> Node:
        required = {spec.time_column, *spec.partition}
        used = [i for i, n in enumerate(schema.names) if n in columns or i in required]
        items = [exp.column(schema.names[i], quoted=True) for i in used]
        pruned = exp.select(*items, copy=False).from_(exp.Subquery(this=query.copy()), copy=False)
        source, _ = planned(pruned, leaves, None)
        moved = WindowSpec(
            spec.kind,
            used.index(spec.time_column),
            spec.size,
            spec.slide,
            spec.offset,
            tuple(used.index(p) for p in spec.partition),
        )
        fields = [*source.schema, *list(output)[len(schema) :]]
        table = WindowTable(pa.schema(fields), source, moved)
        names = [schema.names[i] for i in used] + output.names[len(schema) :]
        return project(table, tuple(Column(names.index(c)) for c in columns), wanted)

    return build


def window_spec(window: WindowTVF, schema: pa.Schema) -> WindowSpec:
    """The window over columns of `schema`.

    Raises:
        SqlError: as `window_leaf`.
    """
    kind = WindowKind(window.this)
    time = _column(window.args["timecol"], schema, kind)
    arrow = schema.field(time).type
    if not pa.types.is_timestamp(arrow):
        raise SqlError(f"the time column {schema.names[time]} of {kind.value} is {arrow}, not TIMESTAMP")
    partition = tuple(_column(c, schema, kind) for c in window.args.get("partition_by") or ())
    lengths = [micros(p) for p in window.args["params"]]
    if any(n <= 0 for n in lengths[: 2 if kind in (WindowKind.HOP, WindowKind.CUMULATE) else 1]):
        raise SqlError(f"the sizes of {kind.value} must be positive")
    if kind in (WindowKind.TUMBLE, WindowKind.SESSION):
        size, *offset = lengths
        return WindowSpec(kind, time, size, None, offset[0] if offset else 0, partition)
    if len(lengths) < 2:
        raise SqlError(f"{kind.value} takes two intervals", hint=f"{kind.value}(TABLE t, DESCRIPTOR(ts), step, size)")
    slide, size, *offset = lengths
    if size % slide:
        raise SqlError(
            f"the size of {kind.value} must be a multiple of its {'slide' if kind is WindowKind.HOP else 'step'}"
        )
    return WindowSpec(kind, time, size, slide, offset[0] if offset else 0, partition)


def _column(column: exp.Expression, schema: pa.Schema, kind: WindowKind) -> int:
    index: int = schema.get_field_index(column.name)
    if index < 0:
        close = nearest(column.name, schema.names)
        hint = f"did you mean {close}?" if close else "its columns are " + ", ".join(schema.names)
        raise SqlError(f"the input of {kind.value} has no column {column.name}", hint=hint)
    return index


def micros(length: exp.Expression) -> int:
    """A constant interval in µs.

    Raises:
        SqlError: no interval, or one of months or years, whose length varies.
    """
    if not isinstance(length, exp.Interval):
        raise SqlError("a window's size is an INTERVAL", hint="write INTERVAL '10' MINUTE")
    total = 0
    for number, unit in re.findall(r"(-?[\d.]+)\s+(\w+)", interval(length)):
        size = _MICROS.get(unit.upper().removesuffix("S"))
        if size is None:
            raise SqlError(f"a window cannot be measured in {unit}", hint="use DAY, HOUR, MINUTE or SECOND")
        whole, _, rest = number.partition(".")
        total += int(whole) * size + (int(rest) * size // 10 ** len(rest) if rest else 0)
    return total
