"""Options of the `filesystem` connector, as Flink names them, and where its path points to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from forebay.connectors import options as read
from forebay.engine.connector import Option, TableSpec
from forebay.engine.errors import ConnectorError, OptionError
from forebay.engine.optionkinds import Kind

PATH = Option("path", "file or directory: a local path or a URI such as 's3://bucket/table'", required=True)
FORMAT = Option("format", "format of the files, such as parquet, json or csv", required=True)
MONITOR = Option(
    "source.monitor-interval", "look for new files this often; without it the input is bounded", kind=Kind.DURATION
)
PATTERN = Option("source.path.regex-pattern", "read only files whose whole path matches", kind=Kind.PATTERN)
DEFAULT_NAME = Option("partition.default-name", "directory value that stands for NULL", "__DEFAULT_PARTITION__")
ROLL_SIZE = Option("sink.rolling-policy.file-size", "begin another file beyond this size", "128 mb", kind=Kind.SIZE)
ROLL_INTERVAL = Option(
    "sink.rolling-policy.rollover-interval", "begin another file after this time", "30 min", kind=Kind.DURATION
)
COMMIT_POLICY = Option(
    "sink.partition-commit.policy.kind",
    "'success-file' writes an empty file into every directory that a commit added to",
    choices=("success-file",),
)
SUCCESS_NAME = Option("sink.partition-commit.success-file.name", "name of that file", "_SUCCESS")
OPTIONS = (
    PATH,
    FORMAT,
    MONITOR,
    PATTERN,
    DEFAULT_NAME,
    ROLL_SIZE,
    ROLL_INTERVAL,
    COMMIT_POLICY,
    SUCCESS_NAME,
)
COMPRESSION = Option(
    "compression", "codec of the columns", "snappy", choices=("snappy", "zstd", "gzip", "lz4", "brotli", "none")
)

METADATA = {
    "file.path": pa.string(),
    "file.name": pa.string(),
    "file.size": pa.int64(),
    "file.modification-time": pa.timestamp("ms", tz="UTC"),
}

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def file_system(spec: TableSpec) -> tuple[Any, str]:
    """The pyarrow file system of a table's path, and the path in it.

    Raises:
        OptionError: the URI cannot be understood.
        ConnectorError: its file system cannot be reached.
    """
    path = read.required(spec.options, PATH)
    if not _SCHEME.match(path):
        return pafs.LocalFileSystem(), str(Path(path.removeprefix("file:")).absolute())
    try:
        system, inner = pafs.FileSystem.from_uri(path)
    except pa.ArrowInvalid as error:
        raise OptionError(f"option 'path' cannot be '{path}'", detail=str(error)) from None
    except OSError as error:
        raise ConnectorError(f"cannot open '{path}'", detail=str(error)) from None
    return system, inner


def local_directory(spec: TableSpec) -> Path:
    """The directory that a sink writes to.

    Raises:
        OptionError: the path is not local.
    """
    path = read.required(spec.options, PATH)
    if _SCHEME.match(path) and not path.startswith("file://"):
        raise OptionError(f"cannot write to '{path}'", hint="files are written to local paths only")
    return Path(path.removeprefix("file://").removeprefix("file:")).absolute()


def check_partitions(spec: TableSpec) -> None:
    """Refuse partition columns that do not exist, or are all there is."""
    physical = spec.physical().names
    for name in spec.partitioned_by:
        if name not in physical:
            raise OptionError(f"partition column '{name}' is no column of '{spec.name}'")
    if len(spec.partitioned_by) >= len(physical):
        raise OptionError(f"table '{spec.name}' has no column besides its partition columns")


def file_schema(spec: TableSpec) -> pa.Schema:
    """The columns inside the files: all but the partition columns."""
    return pa.schema([f for f in spec.physical() if f.name not in spec.partitioned_by])
