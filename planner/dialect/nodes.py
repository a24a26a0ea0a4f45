"""Nodes of the Flink dialect that sqlglot does not have."""

from __future__ import annotations

from sqlglot import exp


class WindowTVF(exp.Expression):  # type: ignore[misc]
    """TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL ...)). `this` is the upper-case name; `input` a table or query;
    `timecol` a column; `params` the intervals in positional order; `partition_by` columns of SESSION."""

    arg_types = {  # noqa: RUF012 - sqlglot's convention
        "this": True,
        "input": True,
        "timecol": True,
        "params": True,
        "partition_by": False,
        "alias": False,
        "joins": False,
        "pivots": False,
        "laterals": False,
        "sample": False,
        "hints": False,
    }

    @property
    def alias(self) -> str:
        alias = self.args.get("alias")
        return alias.name if alias is not None else ""


class MetadataColumn(exp.Expression, exp.ColumnConstraintKind):  # type: ignore[misc]
    """METADATA [FROM 'key'] [VIRTUAL]."""

    arg_types = {"this": False, "virtual": False}  # noqa: RUF012


class WatermarkDefinition(exp.Expression):  # type: ignore[misc]
    """WATERMARK FOR column AS expression."""

    arg_types = {"this": True, "expression": True}  # noqa: RUF012


class LikeClause(exp.Property):  # type: ignore[misc]
    """LIKE table [(INCLUDING | EXCLUDING | OVERWRITING ...)]."""

    arg_types = {"this": True, "options": False}  # noqa: RUF012


class OptionsHint(exp.Expression):  # type: ignore[misc]
    """/*+ OPTIONS('k'='v', ...) */ after a table."""

    arg_types = {"expressions": True}  # noqa: RUF012


class StateTtlHint(exp.Expression):  # type: ignore[misc]
    """/*+ STATE_TTL('alias'='1d', ...) */ after SELECT."""

    arg_types = {"expressions": True}  # noqa: RUF012
