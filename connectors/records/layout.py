"""Where each column of a table lives in a record, and which formats carry them: Flink's options, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from forebay.connectors import options as read
from forebay.engine.connector import (
    Changelog,
    ColumnSpec,
    Format,
    Option,
    Registry,
    TableSpec,
    check_options,
)
from forebay.engine.errors import OptionError, nearest

FORMAT = Option("format", "format of the value")
VALUE_FORMAT = Option("value.format", "format of the value; the same as 'format'")
KEY_FORMAT = Option("key.format", "format of the key")
KEY_FIELDS = Option("key.fields", "columns of the key, separated by ';'", "")
KEY_PREFIX = Option("key.fields-prefix", "prefix of the key columns' names that the key's format does not see", "")
FIELDS_INCLUDE = Option(
    "value.fields-include", "whether the value holds the key columns too", "ALL", choices=("ALL", "EXCEPT_KEY")
)
OPTIONS = (FORMAT, VALUE_FORMAT, KEY_FORMAT, KEY_FIELDS, KEY_PREFIX, FIELDS_INCLUDE)

HEADERS = pa.map_(pa.string(), pa.binary())
METADATA: Mapping[str, pa.DataType] = {
    "topic": pa.string(),
    "partition": pa.int32(),
    "offset": pa.int64(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
    "timestamp-type": pa.string(),
    "headers": HEADERS,
    "key": pa.binary(),
}
"""Metadata columns of every record; 'key' is the key's bytes."""
WRITABLE = ("topic", "timestamp", "headers")

FORMAT_METADATA = b"forebay.metadata"
"""Arrow metadata key of a field that a format fills from its envelope ('value.ingestion-timestamp' in SQL)."""


def read_names(spec: TableSpec) -> frozenset[str] | None:
    """The columns that must be filled: those that the plan reads ('a' or 'a.b') and the primary key; None for all."""
    if spec.read_columns is None:
        return None
    names = {c.name for c in spec.columns}
    return frozenset(c if c in names else c.partition(".")[0] for c in spec.read_columns) | set(spec.primary_key)


def read_fields(spec: TableSpec, format_: Format, fields: Sequence[pa.Field]) -> list[pa.Field]:
    """What a format must fill of its `fields`: the columns that the plan reads, of ROWs only the members that it reads. A
    format that goes by position gets all; one that goes by name gets at least one, since a row needs a column to be counted."""
    wanted = read_names(spec)
    if wanted is None or format_.positional:
        return list(fields)
    whole = frozenset(spec.read_columns or ()) | set(spec.primary_key)
    found = [f for f in fields if f.name in wanted] or list(fields[:1])
    return [f if f.name in whole else f.with_type(_pruned(f.type, f.name, whole)) for f in found]


def _pruned(type_: pa.DataType, path: str, wanted: frozenset[str]) -> pa.DataType:
    """A ROW with the members that are wanted, by dotted path, or have such members; as it is if there is none."""
    if not pa.types.is_struct(type_):
        return type_
    kept = [
        f if f"{path}.{f.name}" in wanted else f.with_type(_pruned(f.type, f"{path}.{f.name}", wanted))
        for f in type_
        if any(w == f"{path}.{f.name}" or w.startswith(f"{path}.{f.name}.") for w in wanted)
    ]
    return pa.struct(kept) if kept else type_


def widened(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """A column with the members of its ROWs that nobody reads as NULLs."""
    if array.type == type_:
        return array
    given = {f.name: array.field(i) for i, f in enumerate(array.type)}
    children = [widened(given[f.name], f.type) if f.name in given else pa.nulls(len(array), f.type) for f in type_]
    return pa.StructArray.from_arrays(children, fields=list(type_), mask=array.is_null() if array.null_count else None)


@dataclass(frozen=True, slots=True)
class ChosenFormat:
    """A format with its options, short names, defaults filled in."""

    format: Format
    options: Mapping[str, str]


def value_format(registry: Registry, spec: TableSpec) -> ChosenFormat:
    """The format of the value, from 'format' or 'value.format'.

    Raises:
        OptionError: there is none, or two that differ, or an option of it is wrong.
    """
    plain, value = spec.options.get(FORMAT.name), spec.options.get(VALUE_FORMAT.name)
    if plain and value and plain != value:
        raise OptionError("'format' and 'value.format' differ", hint="give one of them")
    if value:
        return _chosen(registry, spec, value, (f"{value}.", f"value.{value}."))
    if plain:
        return _chosen(registry, spec, plain, (f"{plain}.",))
    raise OptionError(f"table '{spec.name}' needs option 'format'", hint="for example 'format' = 'json'")


def key_format(registry: Registry, spec: TableSpec) -> ChosenFormat:
    """The format of the key.

    Raises:
        OptionError: there is none, it carries changes, or an option of it is wrong.
    """
    name = spec.options.get(KEY_FORMAT.name)
    if not name:
        raise OptionError(f"table '{spec.name}' needs option 'key.format'", hint="for example 'key.format' = 'json'")
    chosen = _chosen(registry, spec, name, (f"key.{name}.",))
    if chosen.format.changelog is not Changelog.APPEND:
        raise OptionError(f"'{name}' cannot be the format of a key", hint="it carries changes, not plain rows")
    return chosen


def _chosen(registry: Registry, spec: TableSpec, name: str, prefixes: Sequence[str]) -> ChosenFormat:
    """The format with the options under its prefixes; a later prefix wins."""
    format_ = registry.format(name)
    given = {o.removeprefix(p): v for p in prefixes for o, v in spec.options.items() if o.startswith(p)}
    check_options(given, format_.options, (), f"format '{name}'")
    defaults = {o.name: o.default for o in format_.options if o.default is not None}
    if given.get("envelope", "false").lower() == "true":
        format_ = replace(format_, changelog=Changelog.APPEND)  # its rows are the changes themselves
    if format_.changelog is not Changelog.APPEND and spec.primary_key:
        defaults |= {"changelog.upsert": "true", "changelog.key": ";".join(spec.primary_key)}
    return ChosenFormat(format_, defaults | given)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each column of a table lives in a record."""

    key: tuple[str, ...]
    """Columns of the key, under the table's names."""
    value: tuple[str, ...]
    key_prefix: str = ""
    format_metadata: tuple[ColumnSpec, ...] = ()
    """Metadata columns that the value's format fills."""
    metadata: tuple[ColumnSpec, ...] = ()
    """Metadata columns that the record itself gives."""

    @property
    def from_key(self) -> tuple[str, ...]:
        """Columns that only the key holds."""
        return tuple(c for c in self.key if c not in self.value)


def layout_of(spec: TableSpec, upsert: bool) -> Layout:
    """The layout that a table's options ask for; an upsert table's key is its primary key.

    Raises:
        OptionError: a key field that is no column, a prefix that does not fit, an upsert table without a primary key.
    """
    physical = [c.name for c in spec.columns if c.metadata is None]
    if upsert:
        if not spec.primary_key:
            raise OptionError(f"upsert table '{spec.name}' needs a primary key", hint="PRIMARY KEY (id) NOT ENFORCED")
        key = spec.primary_key
    else:
        fields = read.text(spec.options, KEY_FIELDS) or ""
        key = tuple(f.strip() for f in fields.split(";") if f.strip())
    prefix = read.text(spec.options, KEY_PREFIX) or ""
    for name in key:
        if name not in physical:
            close = nearest(name, physical)
            hint = f"did you mean '{close}'?" if close else None
            raise OptionError(f"key field '{name}' is no column of '{spec.name}'", hint=hint)
        if not name.startswith(prefix):
            raise OptionError(f"key field '{name}' does not start with 'key.fields-prefix' = '{prefix}'")
    without = read.text(spec.options, FIELDS_INCLUDE) == "EXCEPT_KEY"
    if prefix and not without:
        raise OptionError("'key.fields-prefix' needs 'value.fields-include' = 'EXCEPT_KEY'")
    return Layout(
        key=key,
        value=tuple(c for c in physical if not (without and c in key)),
        key_prefix=prefix,
        format_metadata=tuple(c for c in spec.columns if c.metadata and c.metadata.startswith("value.")),
        metadata=tuple(c for c in spec.columns if c.metadata and not c.metadata.startswith("value.")),
    )


def key_schema(spec: TableSpec, layout: Layout) -> pa.Schema:
    physical = spec.physical()
    return pa.schema([physical.field(c).with_name(c.removeprefix(layout.key_prefix)) for c in layout.key])


def check_metadata(spec: TableSpec) -> None:
    """Refuse metadata columns that records do not have.

    Raises:
        OptionError: naming the column, its key and the nearest known one.
    """
    for column in spec.columns:
        key = column.metadata
        if key is not None and not key.startswith("value.") and key not in METADATA:
            close = nearest(key, METADATA)
            hint = f"did you mean '{close}'?" if close else f"known: {', '.join(METADATA)}"
            raise OptionError(f"column '{column.name}': there is no metadata '{key}'", hint=hint)
