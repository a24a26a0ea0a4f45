"""A table's history in files, and its seam with the stream: options 'bootstrap.*' of any connector of records.

The table is what the files hold until T, and the stream from T on. With a primary key rows that are in both are settled by the
table itself (the newest row of a key stays). Without one the *seam* is a time column: rows before T are taken from the files
only, rows at or after T from the stream only; a row without a time is taken from either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from forebay.connectors import options as read
from forebay.connectors.filesystem.options import FORMAT, PATH
from forebay.connectors.filesystem.source import DONE, FileSource, FileTable, FileTableReader
from forebay.engine.connector import Changelog, Fetched, Option, Position, Rate, Reader, Registry, Source, TableSpec
from forebay.engine.errors import ConnectorError, OptionError
from forebay.engine.files import Clock
from forebay.engine.runtime.watermark import to_micros

PREFIX = "bootstrap."
HISTORY_PATH = Option("bootstrap.path", "file or directory of the history: a local path or a URI")
HISTORY_FORMAT = Option("bootstrap.format", "format of these files", "parquet")
PARTITION_KEYS = Option(
    "bootstrap.partition-keys", "names in its directories, as in 'dt=2026-10-01/'; ';' between several"
)
UNTIL = Option(
    "bootstrap.until", "the history ends and the stream begins here: 'yyyy-MM-dd HH:mm:ss', UTC unless it says else"
)
VERSION = Option("bootstrap.version", "column that says which of two rows of a primary key is newer")
TIME_COLUMN = Option(
    "bootstrap.time-column", "without a primary key: rows before 'bootstrap.until' are history by this column"
)
MODE = Option(
    "bootstrap.mode",
    "whether sinks get results of the history ('replay') or only what comes after it ('state-only')",
    "state-only",
    choices=("state-only", "replay"),
)
FAIL_ON_GAP = Option.boolean(
    "bootstrap.fail-on-gap",
    "whether to stop if the stream no longer holds all records from 'bootstrap.until' on",
    "true",
)
OPTIONS = (HISTORY_PATH, HISTORY_FORMAT, PARTITION_KEYS, UNTIL, VERSION, TIME_COLUMN, MODE, FAIL_ON_GAP)
_HISTORY = "history:"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What a table's 'bootstrap.*' options say."""

    until: int
    """µs since 1970."""
    replay: bool
    version: str | None
    seam: Seam | None
    fail_on_gap: bool


@dataclass(frozen=True, slots=True)
class Seam:
    """Which rows belong to which side, by a timestamp column of the table."""

    column: str
    until: int

    def history(self, rows: pa.RecordBatch) -> Mask:
        """Rows before the seam, and those without a time."""
        micros, valid = to_micros(rows.column(self.column))
        return (micros < self.until) | ~valid

    def stream(self, rows: pa.RecordBatch) -> Mask:
        """Rows at or after the seam, and those without a time."""
        micros, valid = to_micros(rows.column(self.column))
        return (micros >= self.until) | ~valid


def bootstrap_of(spec: TableSpec, time_column: str | None) -> Bootstrap | None:
    """The bootstrap of a table, None if it has no history. `time_column`: the one that the table's watermark names, if any.

    Raises:
        OptionError: an option is missing, or does not fit the table.
    """
    given = [name for name in spec.options if name.startswith(PREFIX)]
    if not given:
        return None
    for option in (HISTORY_PATH, UNTIL):
        if option.name not in spec.options:
            raise OptionError(f"option '{given[0]}' needs option '{option.name}' beside it", hint=option.doc)
    if not spec.options[HISTORY_PATH.name]:
        raise OptionError(f"option '{HISTORY_PATH.name}' is empty", hint=HISTORY_PATH.doc)
    until = _micros(spec.options[UNTIL.name])
    version = _column(spec, VERSION)
    if version is not None and not spec.primary_key:
        raise OptionError(
            f"option '{VERSION.name}' is for tables with a PRIMARY KEY", hint=f"or set '{TIME_COLUMN.name}'"
        )
    explicit = _column(spec, TIME_COLUMN)
    if explicit is not None and spec.primary_key:
        raise OptionError(
            f"option '{TIME_COLUMN.name}' is for tables without a PRIMARY KEY",
            hint=f"rows of a key have '{VERSION.name}'",
        )
    column = explicit or (None if spec.primary_key else time_column)
    kinds = {c.name: c.type for c in spec.columns}
    if column is not None and column not in kinds:
        column = None  # the watermark is on a computed column
    if column is not None and not pa.types.is_timestamp(kinds[column]):
        raise OptionError(f"column '{column}' of option '{TIME_COLUMN.name}' is no TIMESTAMP")
    return Bootstrap(
        until,
        read.required(spec.options, MODE) == "replay",
        version,
        None if column is None else Seam(column, until),
        read.boolean(spec.options, FAIL_ON_GAP),
    )


def _column(spec: TableSpec, option: Option) -> str | None:
    name = spec.options.get(option.name)
    if name is not None and name not in {c.name for c in spec.columns}:
        raise OptionError(
            f"option '{option.name}' names '{name}', which is no column that '{spec.name}' reads",
            hint=f"one of: {', '.join(c.name for c in spec.columns)}",
        )
    return name


def _micros(text: str) -> int:
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise read.bad_value(UNTIL, text, "a time such as '2026-11-01 00:00:00'") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000_000)


# -- the files --------------------------------------------------------------------------------------------------


class HistorySource(FileSource):
    """The history of a table, in the table's columns. Partitions whose date is not before `until` are left out."""

    def __init__(
        self, registry: Registry, spec: TableSpec, until: int, clock: Clock, time_column: str | None = None
    ) -> None:
        """`time_column`: the one that tells how long a time the history covers.

        Raises:
            OptionError: the files cannot be a history.
        """
        self._until, self._time_column = until, time_column
        keys = _names(spec.options.get(PARTITION_KEYS.name, ""))
        columns = tuple(replace(c, metadata=None) for c in spec.columns)
        options = {PATH.name: spec.options[HISTORY_PATH.name], FORMAT.name: read.required(spec.options, HISTORY_FORMAT)}
        declared = {c.name for c in columns}
        files = replace(
            spec, columns=columns, options=options, partitioned_by=tuple(k for k in keys if k in declared), begin=None
        )
        super().__init__(registry, files, clock)
        if self.changelog is not Changelog.APPEND:
            raise OptionError(f"format '{options[FORMAT.name]}' cannot be that of a history: it holds changes")
        self._table = _PrunedTable(registry, files, lambda name: _begins_before(name, keys, until))

    def reader(self, positions: Mapping[str, Position] | None) -> FileTableReader:
        return HistoryReader(self._table, positions, None, self._clock)

    def rate(self, now: int) -> Rate | None:
        """Its rows over the time from the least value of the time column, by the statistics of the files, to its end.

        None if these do not tell, or a file cannot be read: whoever reads its rows says so.
        """
        if not self._table.parquet or self._time_column is None:
            return None
        try:
            found = [_counted(self._table, f.path, self._time_column) for f in self._table.list()]
        except (OSError, pa.ArrowInvalid):
            return None
        rows, begins = sum(count for count, _ in found), [begin for _, begin in found if begin is not None]
        if not begins or min(begins) >= self._until:
            return None
        seconds = (self._until - min(begins)) / 1e6
        return Rate(rows / seconds, f"{rows} rows of history in {seconds / 86_400:.1f} days")


class HistoryReader(FileTableReader):
    """Reads file after file, and knows how many rows are left where they are Parquet."""

    def lag(self) -> int | None:
        """Rows left, those that were read of the file under way included."""
        if not self._table.parquet:
            return None
        left = [f for f in self._files if not f.done]
        try:
            return sum(_rows_of(self._table, f.info.path) - f.position for f in left)
        except (OSError, pa.ArrowInvalid):
            return None


class _PrunedTable(FileTable):
    def __init__(self, registry: Registry, spec: TableSpec, wanted: Callable[[str], bool]) -> None:
        super().__init__(registry, spec)
        self._keep = wanted

    def list(self) -> list[Any]:
        return [info for info in super().list() if self._keep(self.name(info.path))]


def _rows_of(table: FileTable, path: str) -> int:
    with table.system.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)


def _counted(table: FileTable, path: str, column: str) -> tuple[int, int | None]:
    """(rows of a Parquet file, least time in a column in µs, if its statistics tell)."""
    with table.system.open_input_file(path) as file:
        head = pq.read_metadata(file)
    groups = [head.row_group(g) for g in range(head.num_row_groups)]
    chunks = [g.column(i) for g in groups for i in range(g.num_columns)]
    told = [c.statistics for c in chunks if c.path_in_schema == column]
    least = [s.min for s in told if s is not None and s.has_min_max and isinstance(s.min, datetime)]
    micros = [int((t if t.tzinfo else t.replace(tzinfo=UTC)).timestamp() * 1e6) for t in least]
    return int(head.num_rows), min(micros, default=None)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in re.split("[;,]", text) if name.strip())


def _begins_before(name: str, keys: Sequence[str], until: int) -> bool:
    """Whether a file may hold rows before `until`, as far as dates in its directories tell."""
    for part in name.split("/")[:-1]:
        key, equals, value = part.partition("=")
        day = _day(unquote(value)) if equals and unquote(key) in keys else None
        if day is not None:
            return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000 < until
    return True


def _day(text: str) -> date | None:
    """'2026-10-01' or '20261001' as a date."""
    try:
        return date.fromisoformat(text) if len(text) in (8, 10) else None
    except ValueError:
        return None


# -- both -------------------------------------------------------------------------------------------------------


class SeamSource(Source):
    """A source without the rows that belong to the other side of the seam."""

    def __init__(self, source: Source, keep: Callable[[pa.RecordBatch], Mask]) -> None:
        self.schema, self.changelog, self.bounded = source.schema, source.changelog, source.bounded
        self._source = source
        self._keep = keep

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return _SeamReader(self._source.reader(positions), self._keep)

    def beginnings(self) -> Mapping[str, int | None]:
        return self._source.beginnings()

    def rate(self, now: int) -> Rate | None:
        return self._source.rate(now)


class _SeamReader(Reader):
    def __init__(self, reader: Reader, keep: Callable[[pa.RecordBatch], Mask]) -> None:
        self._reader = reader
        self._keep = keep

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        fetched = self._reader.poll(max_rows, timeout)
        if fetched is None or not fetched.batch.num_rows:
            return fetched
        keep = self._keep(fetched.batch.rows)
        if keep.all():
            return fetched
        split = None if fetched.split is None else fetched.split[keep]
        return replace(fetched, batch=fetched.batch.take(np.flatnonzero(keep)), split=split)

    def splits(self) -> Sequence[str]:
        return self._reader.splits()

    def positions(self) -> dict[str, Position]:
        return self._reader.positions()

    def finished(self) -> bool:
        return self._reader.finished()

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._reader.limit(positions)

    def lag(self) -> int | None:
        return self._reader.lag()

    def nbytes(self) -> int:
        return self._reader.nbytes()

    def committed(self, positions: Mapping[str, Position]) -> None:
        self._reader.committed(positions)

    def close(self) -> None:
        self._reader.close()


class ChainedSource(Source):
    """The history, all of it, and then the stream: what a job sees to which the history shall flow."""

    def __init__(self, history: Source, stream: Source) -> None:
        self.schema, self.changelog, self.bounded = stream.schema, stream.changelog, stream.bounded
        self._history = history
        self._stream = stream

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        if positions is None:
            return ChainedReader(self._history.reader(None), self._stream.reader(None))
        parts: tuple[dict[str, Position], dict[str, Position]] = ({}, {})
        for name, position in positions.items():
            parts[not name.startswith(_HISTORY)][name.removeprefix(_HISTORY)] = position
        return ChainedReader(self._history.reader(parts[0]), self._stream.reader(parts[1]))

    def beginnings(self) -> Mapping[str, int | None]:
        return self._stream.beginnings()

    def rate(self, now: int) -> Rate | None:
        return self._history.rate(now) or self._stream.rate(now)


class ChainedReader(Reader):
    """While the history is read there is one split, the first; its watermark goes on as that of the stream's first split."""

    def __init__(self, history: Reader, stream: Reader) -> None:
        self._history = history
        self._stream = stream
        self._limited = False

    def splits(self) -> Sequence[str]:
        return self._stream.splits() if self._history.finished() else list(self._stream.splits())[:1]

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        if not self._history.finished():
            fetched = self._history.poll(max_rows, timeout)
            return fetched if fetched is None else replace(fetched, split=None)
        return None if self._waits() else self._stream.poll(max_rows, timeout)

    def _waits(self) -> bool:
        """The limit is within the history."""
        return self._limited and any(p != DONE for p in self._history.positions().values())

    def positions(self) -> dict[str, Position]:
        return {f"{_HISTORY}{n}": p for n, p in self._history.positions().items()} | self._stream.positions()

    def finished(self) -> bool:
        return self._history.finished() and (self._waits() or self._stream.finished())

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._limited = positions is not None
        if positions is None:
            self._history.limit(None)
            self._stream.limit(None)
            return
        mine = {n.removeprefix(_HISTORY): p for n, p in positions.items() if n.startswith(_HISTORY)}
        self._history.limit(mine)
        self._stream.limit({n: p for n, p in positions.items() if not n.startswith(_HISTORY)})

    def lag(self) -> int | None:
        lags = (self._history.lag(), self._stream.lag())
        known = [lag for lag in lags if lag is not None]
        return sum(known) if known else None

    def nbytes(self) -> int:
        return self._history.nbytes() + self._stream.nbytes()

    def committed(self, positions: Mapping[str, Position]) -> None:
        self._stream.committed({n: p for n, p in positions.items() if not n.startswith(_HISTORY)})

    def close(self) -> None:
        self._history.close()
        self._stream.close()


def refuse_gap(table: str, bootstrap: Bootstrap, beginnings: Mapping[str, int | None]) -> None:
    """Raise if the stream has lost records that came after the history's end.

    Raises:
        ConnectorError: naming the splits, the first time that each still has, and what can be done.
    """
    late = {n: t for n, t in beginnings.items() if t is None or t * 1000 > bootstrap.until}
    if not late or not bootstrap.fail_on_gap:
        return
    detail = "; ".join(
        f"{n}: {'no record is left' if t is None else f'begins at {_text(t * 1000)}'}" for n, t in late.items()
    )
    raise ConnectorError(
        f"between the history of {table} and its stream there is a gap",
        retryable=False,
        detail=f"the history ends at {_text(bootstrap.until)}, and records of the stream have been removed: {detail}",
        hint="write a later history and set 'bootstrap.until' to its end, or accept the gap with "
        "'bootstrap.fail-on-gap' = 'false'",
    )


def _text(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
