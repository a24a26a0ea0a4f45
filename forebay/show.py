"""SHOW and DESCRIBE: the catalog, the jobs, their state and what their sources reported, as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from forebay.engine.errors import UnsupportedError
from forebay.engine.runtime import deadletters
from forebay.engine.runtime.driver import Driver
from forebay.engine.secrets import hidden
from forebay.engine.serve.inspect import find_state, named_states
from forebay.engine.types import from_arrow
from forebay.jobs import Job
from forebay.planner import statements as st
from forebay.planner.catalog import Catalog
from forebay.planner.tables import MaterializedView, SystemStream, Table, View
from forebay.relations import STATES
from forebay.result import Result
from forebay.statelist import state_table

_TEXT, _LONG = pa.string(), pa.int64()
_TIME = pa.timestamp("ms", "UTC")
_JOBS = pa.schema(
    [
        ("name", _TEXT), ("status", _TEXT), ("records", _LONG), ("rate", pa.float64()), ("lag", _LONG),
        ("watermark", _TIME), ("last_checkpoint", _TIME), ("restarts", _LONG), ("state_bytes", _LONG), ("error", _TEXT),
        ("loaded", pa.float64()), ("eta", pa.float64()),
    ]
)  # fmt: skip
_COLUMNS = pa.schema([("name", _TEXT), ("type", _TEXT), ("null", pa.bool_()), ("key", _TEXT), ("extras", _TEXT)])
_CHANGES = pa.schema(
    [
        ("table", _TEXT), ("source", _TEXT), ("partition", _LONG), ("offset", _LONG), ("database", _TEXT),
        ("changed_table", _TEXT), ("statement", _TEXT), ("timestamp", _TIME),
    ]
)  # fmt: skip
_UNKNOWN = pa.schema([("table", _TEXT), ("field", _TEXT), ("count", _LONG)])


class Shows:
    """Answers SHOW and DESCRIBE."""

    def __init__(
        self, catalog: Catalog, driver: Driver, jobs: Mapping[str, Job], view_schema: Callable[[View], pa.Schema]
    ) -> None:
        self._view_schema = view_schema
        self._catalog = catalog
        self._driver = driver
        self._jobs = jobs
        self._answers: Mapping[str, Callable[[], pa.Table]] = {
            "TABLES": lambda: _names("table", catalog.names(Table)),
            "VIEWS": lambda: _names("view", catalog.names(View)),
            "MATERIALIZED VIEWS": lambda: _names("materialized view", catalog.names(MaterializedView)),
            "FUNCTIONS": _functions,
            "JOBS": self._show_jobs,
            "STATE": self._show_state,
            "DEAD LETTERS": self._dead_letters,
            "SCHEMA CHANGES": self._schema_changes,
            "UNKNOWN FIELDS": self._unknown_fields,
        }

    def show(self, statement: st.Show) -> Result:
        """The rows of one SHOW.

        Raises:
            CatalogError: what it names does not exist.
        """
        answer = self._answers.get(statement.what)
        if answer is not None:
            return Result(answer())
        if statement.name is None:
            raise UnsupportedError(f"SHOW {statement.what} is not supported", hint=f"SHOW {', '.join(self._answers)}")
        if statement.what == "COLUMNS":
            return self.describe(statement.name)
        relation = self._catalog.find(statement.name)
        return Result(pa.table({statement.what.lower(): [hidden(relation.ddl())]}))

    def describe(self, name: str) -> Result:
        """Columns of a relation: name, type, whether it may be NULL, its place in the key, and what computes it."""
        if name.startswith(STATES) and name not in self._catalog.relations:
            with self._driver.boundary() as flow:
                named = find_state(flow, name.removeprefix(STATES))
            fields = [(f.name, str(from_arrow(f.type)), True, _key(f.name, named.key), None) for f in named.schema]
            return Result(_table(_COLUMNS, fields))
        relation = self._catalog.find(name)
        match relation:
            case Table():
                rows = [
                    (
                        c.name,
                        str(replace(c.type, nullable=True)),
                        c.type.nullable,
                        _key(c.name, relation.primary_key),
                        _extras(relation, c.name),
                    )
                    for c in relation.columns
                ]
            case MaterializedView() | SystemStream():
                rows = [
                    (f.name, str(from_arrow(f.type)), f.nullable, _key(f.name, relation.primary_key), None)
                    for f in relation.schema
                ]
            case View():
                schema = self._view_schema(relation)
                rows = [(f.name, str(from_arrow(f.type)), f.nullable, None, None) for f in schema]
        return Result(_table(_COLUMNS, rows))

    def _show_jobs(self) -> pa.Table:
        rows = []
        for name in sorted(self._jobs):
            metrics: dict[str, Any] = {"name": name, **self._jobs[name].metrics()}
            rows.append(tuple(metrics[f.name] for f in _JOBS))
        return _table(_JOBS, rows)

    def _show_state(self) -> pa.Table:
        with self._driver.boundary() as flow:
            return state_table(flow)

    def state_schemas(self) -> dict[str, pa.Schema]:
        """The schema of every piece of state, by name."""
        with self._driver.boundary() as flow:
            return {name: named.schema for name, named in named_states(flow).items()}

    def _dead_letters(self) -> pa.Table:
        return pa.Table.from_batches([deadletters.rows(list(self._driver.notes.dead))])

    def _schema_changes(self) -> pa.Table:
        seen = list(self._driver.notes.schema_changes)
        rows = [
            (t, c.source, c.partition, c.offset, c.database, c.table, c.statement, _time(c.timestamp)) for t, c in seen
        ]
        return _table(_CHANGES, rows)

    def _unknown_fields(self) -> pa.Table:
        counts = dict(self._driver.notes.unknown_fields)
        return _table(_UNKNOWN, [(table, name, n) for (table, name), n in sorted(counts.items())])


def _functions() -> pa.Table:
    from forebay.planner.builtins import function_names
    from forebay.planner.functions import user_functions

    users = {f.name.upper() for f in user_functions()}
    names = sorted({*function_names(), *users})
    return pa.table({"function": names, "user_defined": [n in users for n in names]})


def _names(column: str, names: Sequence[str]) -> pa.Table:
    return pa.table({column: pa.array(names, _TEXT)})


def _table(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row)) for row in rows], schema=schema)


def _key(column: str, key: Sequence[str]) -> str | None:
    return f"PRI({', '.join(key)})" if column in key else None


def _extras(table: Table, name: str) -> str | None:
    column = table.column(name)
    parts = []
    if column.expression is not None:
        parts.append(f"AS {column.expression}")
    if column.metadata is not None:
        parts.append(f"METADATA FROM '{column.metadata}'" + (" VIRTUAL" if column.virtual else ""))
    if table.watermark is not None and table.watermark[0] == name:
        parts.append(f"WATERMARK AS {table.watermark[1]}")
    return " ".join(parts) or None


def _time(millis: int | None) -> datetime | None:
    return None if millis is None or millis < 0 else datetime.fromtimestamp(millis / 1000, UTC)
