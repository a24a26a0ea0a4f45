"""Statements as data: one frozen class each. Queries stay sqlglot trees; the binder takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from forebay.engine.types import SqlType


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A parsed statement. `sql` is its own text; `line` and `column` say where in the script it starts (1-based)."""

    sql: str
    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """One column of CREATE TABLE: physical (type only), computed (`expression`) or metadata (`metadata` key)."""

    name: str
    type: SqlType | None = None
    """None for a computed column until it is bound."""
    expression: str | None = None
    metadata: str | None = None
    virtual: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTable(Statement):
    name: str
    columns: tuple[ColumnDefinition, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    primary_key: tuple[str, ...] = ()
    watermark: tuple[str, str] | None = None
    """Column and expression."""
    partitioned_by: tuple[str, ...] = ()
    like: str | None = None
    like_options: tuple[str, ...] = ()
    """Pairs of words in order: INCLUDING, OPTIONS, EXCLUDING, WATERMARKS ..."""
    comment: str | None = None
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateView(Statement):
    name: str
    query: exp.Expression
    query_sql: str
    columns: tuple[str, ...] = ()
    temporary: bool = False
    replace: bool = False
    if_not_exists: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateMaterializedView(Statement):
    name: str
    query: exp.Expression
    query_sql: str
    columns: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    if_not_exists: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Statement):
    """`kind`: TABLE, VIEW, MATERIALIZED VIEW, JOB, FUNCTION or SAVEPOINT."""

    kind: str
    name: str
    if_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterTable(Statement):
    """One action: ADD, MODIFY (columns), DROP (names), RENAME COLUMN (old, new), RENAME TO (new), SET, RESET (options)."""

    name: str
    action: str
    columns: tuple[ColumnDefinition, ...] = ()
    names: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert(Statement):
    target: str
    query: exp.Expression
    columns: tuple[str, ...] = ()
    """Empty: all writable columns in order."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Of an OPTIONS hint after the target."""


@dataclass(frozen=True, slots=True)
class Constants:
    """A column of constants of one kind: integer, decimal (integers among them), float, string, boolean, date, timestamp."""

    kind: str
    """null: there are no others."""
    values: list[Any]
    """Integers, booleans, else texts; None for NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertConstants(Statement):
    """INSERT ... VALUES of many plain constants."""

    sample: Insert
    """The statement with some of its rows: the types of its columns are those of all rows."""
    constants: tuple[Constants, ...]
    """Per column of the query."""
    whole: Callable[[], Statement]
    """Reads the statement as a plain INSERT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementSet(Statement):
    inserts: tuple[Insert, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update(Statement):
    target: str
    assignments: tuple[tuple[str, exp.Expression], ...]
    where: exp.Expression | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Statement):
    target: str
    where: exp.Expression | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Statement):
    query: exp.Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain(Statement):
    statement: Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Show(Statement):
    """`what`: TABLES, VIEWS, MATERIALIZED VIEWS, JOBS, FUNCTIONS, STATE, SAVEPOINTS, DEAD LETTERS, SCHEMA CHANGES,
    UNKNOWN FIELDS, CREATE TABLE, CREATE VIEW, CREATE MATERIALIZED VIEW, COLUMNS; `name` for the last four."""

    what: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(Statement):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOption(Statement):
    """SET 'key' = 'value'; both None lists the options."""

    key: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOption(Statement):
    """RESET 'key'; None resets all."""

    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlJob(Statement):
    """STOP or RESUME a job."""

    action: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSavepoint(Statement):
    name: str
    location: str | None = None
    """URI of a directory that gets a copy; None: it stays in the warehouse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSavepoint(Statement):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterJob(Statement):
    """Another statement for a job that goes on with its state."""

    name: str
    body: Insert | StatementSet
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterMaterializedView(Statement):
    """Another query for a materialized view that goes on with its state, and its readers."""

    name: str
    query: exp.Expression
    query_sql: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Statement):
    """A procedure: `sys.name(a, b => c)`. Values are constants as text, None for NULL."""

    name: str
    """Without 'sys.'."""
    positional: tuple[str | None, ...] = ()
    named: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainState(Statement):
    """What a statement or a job remembers, or will: one of the two is given."""

    statement: Statement | None = None
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob(Statement):
    name: str
    values: Mapping[str, str | int | float | None]
    """Column → value that it is equal to."""
    seconds: float | None = None
    """Look at what passes, for so long; None with `limit` None too: at what is there."""
    limit: int | None = None
    """Rows after which looking ends."""

    @property
    def follows(self) -> bool:
        """Whether it looks at what passes from now on."""
        return self.seconds is not None or self.limit is not None
