"""The connector `filesystem`: directories of Parquet, JSON or CSV files, Hive-style partitions, exactly-once writing."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq

from forebay.connectors import options as read
from forebay.connectors.filesystem import options as o
from forebay.connectors.filesystem.sink import FileSink, FileSinkSpec
from forebay.connectors.filesystem.source import FileSource
from forebay.connectors.records import value_format
from forebay.engine.connector import Changelog, Connector, Format, Registry, TableSpec
from forebay.engine.errors import OptionError, nearest
from forebay.engine.files import Clock, Files

__all__ = ["register"]


def _sink_spec(registry: Registry, spec: TableSpec, files: Files, clock: Clock) -> FileSinkSpec:
    o.check_partitions(spec)
    schema = o.file_schema(spec)
    chosen = value_format(registry, spec)
    parquet = chosen.format.name == "parquet"
    if parquet:
        _check_parquet(schema)
    elif chosen.format.encoder is None:
        raise OptionError(f"format '{chosen.format.name}' cannot be written")
    policy = spec.options.get(o.COMMIT_POLICY.name)
    return FileSinkSpec(
        name=re.sub(r"[^A-Za-z0-9]+", "_", f"{spec.job or ''}_{spec.name}").strip("_"),
        directory=o.local_directory(spec),
        schema=schema,
        partitioned_by=spec.partitioned_by,
        default_partition=read.required(spec.options, o.DEFAULT_NAME),
        roll_bytes=read.size(spec.options, o.ROLL_SIZE),
        roll_seconds=read.duration(spec.options, o.ROLL_INTERVAL),
        success_file=read.required(spec.options, o.SUCCESS_NAME) if policy == "success-file" else None,
        extension=chosen.format.name,
        encoder=None if chosen.format.encoder is None else chosen.format.encoder(schema, chosen.options),
        changelog=chosen.format.changelog,
        compression=chosen.options.get("compression", "snappy"),
        files=files,
        clock=clock,
    )


def _check_parquet(schema: pa.Schema) -> None:
    """Refuse columns that Parquet cannot hold, before the first row."""
    for column in schema:
        try:
            pq.write_table(pa.schema([column]).empty_table(), pa.BufferOutputStream())
        except pa.ArrowNotImplementedError:
            raise OptionError(f"Parquet cannot hold column '{column.name}' of type {column.type}") from None


def _check_metadata(spec: TableSpec) -> None:
    for column in spec.columns:
        if column.metadata is not None and column.metadata not in o.METADATA:
            close = nearest(column.metadata, o.METADATA)
            hint = f"did you mean '{close}'?" if close else f"known: {', '.join(o.METADATA)}"
            raise OptionError(f"column '{column.name}': there is no metadata '{column.metadata}'", hint=hint)


def register(registry: Registry, files: Files | None = None, clock: Clock | None = None) -> None:
    """Make `'connector' = 'filesystem'` and `'format' = 'parquet'` known. `files` and `clock` replace the real ones."""
    ticking, disk = clock or Clock(), files or Files()

    def source(spec: TableSpec) -> FileSource:
        _check_metadata(spec)
        return FileSource(registry, spec, ticking)

    registry.connectors["filesystem"] = Connector(
        "filesystem",
        o.OPTIONS,
        source=source,
        sink=lambda spec: FileSink(_sink_spec(registry, spec, disk, ticking)),
        sink_changelog=lambda spec: value_format(registry, spec).format.changelog,
        uses_format=True,
        metadata=o.METADATA,
    )
    registry.formats["parquet"] = Format("parquet", (o.COMPRESSION,), changelog=Changelog.APPEND)
