"""CREATE TABLE and column definitions: from sqlglot's tree to `planner.statements`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlglot import exp

from forebay.engine.errors import SqlError, nearest
from forebay.engine.types import SqlType
from forebay.planner.dialect.flink import Flink
from forebay.planner.dialect.nodes import LikeClause, MetadataColumn, WatermarkDefinition
from forebay.planner.statements import ColumnDefinition, CreateTable

_T = exp.DataType.Type
_NAMES = {
    _T.BOOLEAN: "BOOLEAN",
    _T.TINYINT: "TINYINT",
    _T.SMALLINT: "SMALLINT",
    _T.INT: "INT",
    _T.BIGINT: "BIGINT",
    _T.FLOAT: "FLOAT",
    _T.DOUBLE: "DOUBLE",
    _T.DECIMAL: "DECIMAL",
    _T.TEXT: "STRING",
    _T.VARCHAR: "VARCHAR",
    _T.CHAR: "CHAR",
    _T.NCHAR: "CHAR",
    _T.NVARCHAR: "VARCHAR",
    _T.BINARY: "BINARY",
    _T.VARBINARY: "VARBINARY",
    _T.DATE: "DATE",
    _T.TIME: "TIME",
    _T.TIMESTAMP: "TIMESTAMP",
    _T.TIMESTAMPNTZ: "TIMESTAMP",
    _T.DATETIME: "TIMESTAMP",
    _T.TIMESTAMPLTZ: "TIMESTAMP_LTZ",
    _T.TIMESTAMPTZ: "TIMESTAMP_LTZ",
    _T.ARRAY: "ARRAY",
    _T.MAP: "MAP",
    _T.STRUCT: "ROW",
    _T.INTERVAL: "INTERVAL",
}


def sql_type(kind: exp.DataType) -> SqlType:
    """The type that a type expression names.

    Raises:
        SqlError: Flink has no such type.
    """
    name = _NAMES.get(kind.this)
    if name is None:
        word = kind.sql()
        close = nearest(word.upper(), [*_NAMES.values(), "TIMESTAMP_LTZ"])
        hint = _HINTS.get(kind.this) or (f"did you mean {close}?" if close else None)
        raise SqlError(f"type '{word}' is not supported", hint=hint)
    nullable = kind.args.get("nullable") is not False
    if name == "ROW":
        fields = tuple((f.name, sql_type(f.kind)) for f in kind.expressions)
        return SqlType(name, fields=fields, nullable=nullable)
    if name in ("ARRAY", "MAP"):
        return SqlType(name, elements=tuple(sql_type(e) for e in kind.expressions), nullable=nullable)
    params = tuple(int(p.this.name if isinstance(p, exp.DataTypeParam) else p.name) for p in kind.expressions)
    if name == "VARBINARY" and not params:
        name = "BYTES"
    if name == "DECIMAL":
        precision, scale = (*params, *(10, 0)[len(params) :])
        if not 1 <= precision <= 38 or not 0 <= scale <= precision:
            raise SqlError(
                f"DECIMAL({precision}, {scale}) is out of range", hint="precision 1 to 38, scale 0 to precision"
            )
        params = (precision, scale)
    return SqlType(name, params, nullable=nullable)


_HINTS = {
    _T.JSONB: "store JSON as STRING and read it with JSON_VALUE",
    _T.JSON: "store JSON as STRING and read it with JSON_VALUE",
    _T.UUID: "store it as STRING",
}


def create_table(parsed: exp.Create, place: dict[str, Any], script: str) -> CreateTable:
    """The statement behind a CREATE TABLE tree."""
    target = parsed.this
    schema = target if isinstance(target, exp.Schema) else None
    table = schema.this if schema is not None else target
    if parsed.expression is not None:
        raise SqlError(
            "CREATE TABLE ... AS SELECT is not supported", sql=script, line=place["line"], column=place["column"],
            hint="CREATE MATERIALIZED VIEW keeps a query's result; or CREATE TABLE, then INSERT INTO",
        )  # fmt: skip
    items = list(schema.expressions) if schema is not None else []
    properties = parsed.args.get("properties")
    listed = properties.expressions if properties is not None else []
    watermark = next((i for i in items if isinstance(i, WatermarkDefinition)), None)
    like = next((p for p in listed if isinstance(p, LikeClause)), None)
    partitioned = next((p for p in listed if isinstance(p, exp.PartitionedByProperty)), None)
    comment = next((p.this.name for p in listed if isinstance(p, exp.SchemaCommentProperty)), None)
    definitions = [i for i in items if isinstance(i, exp.ColumnDef | exp.Identifier)]
    return CreateTable(
        name=".".join(p.name for p in table.parts),
        columns=columns_of(definitions, script),
        options=property_options(properties),
        primary_key=_primary_key(items),
        watermark=None if watermark is None else (watermark.this.name, text_of(watermark.expression)),
        partitioned_by=tuple(c.name for c in partitioned.this.expressions) if partitioned is not None else (),
        like=None if like is None else like.this.name,
        like_options=() if like is None else tuple(like.args["options"]),
        comment=comment,
        if_not_exists=bool(parsed.args.get("exists")),
        **place,
    )


def columns_of(definitions: Iterable[exp.Expression], script: str) -> tuple[ColumnDefinition, ...]:
    """Column definitions, with an error at the one that has neither a type nor an expression."""
    out = []
    for definition in definitions:
        if not isinstance(definition, exp.ColumnDef):
            raise SqlError(f"column '{definition.name}' has no type", sql=script, hint="write: name TYPE")
        out.append(_column(definition))
    return tuple(out)


def _column(definition: exp.ColumnDef) -> ColumnDefinition:
    kinds = [c.kind for c in definition.args.get("constraints") or []]
    metadata = next((k for k in kinds if isinstance(k, MetadataColumn)), None)
    computed = next((k for k in kinds if isinstance(k, exp.ComputedColumnConstraint)), None)
    comment = next((k.this.name for k in kinds if isinstance(k, exp.CommentColumnConstraint)), None)
    not_null = any(isinstance(k, exp.NotNullColumnConstraint) and not k.args.get("allow_null") for k in kinds)
    primary = any(isinstance(k, exp.PrimaryKeyColumnConstraint) for k in kinds)
    kind = sql_type(definition.kind) if definition.kind is not None else None
    if kind is not None and (not_null or primary):
        kind = kind.not_null()
    key = None
    if metadata is not None:
        key = metadata.this.name if metadata.this is not None else definition.name
    return ColumnDefinition(
        definition.name,
        kind,
        None if computed is None else text_of(computed.this),
        key,
        bool(metadata is not None and metadata.args.get("virtual")),
        comment,
    )


def _primary_key(items: Iterable[exp.Expression]) -> tuple[str, ...]:
    for item in items:
        found = item if isinstance(item, exp.PrimaryKey) else item.find(exp.PrimaryKey)
        if found is not None:
            return tuple(c.name for c in found.expressions)
        constraints = item.args.get("constraints") or []
        if any(isinstance(c.kind, exp.PrimaryKeyColumnConstraint) for c in constraints):
            return (item.name,)
    return ()


def property_options(properties: exp.Properties | None) -> dict[str, str]:
    """The options of a WITH clause."""
    listed = properties.expressions if properties is not None else []
    pairs = [p for p in listed if type(p) is exp.Property]
    return {p.this.name if isinstance(p.this, exp.Expression) else str(p.this): p.args["value"].name for p in pairs}


def hint_options(pairs: Iterable[exp.Expression]) -> dict[str, str]:
    """'key' = 'value' pairs."""
    return {p.this.name: p.expression.name for p in pairs}


def text_of(expression: exp.Expression) -> str:
    """An expression as Flink SQL again."""
    return str(expression.sql(dialect=Flink))
