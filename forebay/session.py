"""What every connection can do, whether it owns its warehouse or is attached to the owner's.

`Session` and `JobHandle` are the contracts: `Connection` and `Job` carry them out in the process that owns the warehouse,
`forebay.remote` carries them to it. Code that takes a `Session` need not know which it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from forebay.engine.errors import CatalogError, nearest
from forebay.result import ChangeStream, Result


class JobHandle(ABC):
    """One running INSERT, STATEMENT SET or materialized view."""

    def __init__(self, name: str, sql: str) -> None:
        self.name = name
        self.sql = sql

    @property
    @abstractmethod
    def status(self) -> str:
        """RUNNING, RESTARTING, FAILED, FINISHED or STOPPED."""

    @property
    @abstractmethod
    def error(self) -> Exception | None:
        """What the job failed on last."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """Counters and positions now: rows_in, rows_out, records, dead, lag, watermark, last_checkpoint, restarts ..."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Block until the job is FINISHED; False after `timeout` seconds.

        Raises:
            Exception: what the job failed on.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the job after a last checkpoint, so that its sinks show everything read so far."""

    @abstractmethod
    def cancel(self) -> None:
        """End the job now; what its sinks have not committed is discarded."""

    @abstractmethod
    def resume(self) -> None:
        """Try a failed job again from where it stood.

        Raises:
            StateError: what it missed is no longer kept.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.status}>"


J = TypeVar("J", bound=JobHandle)
T = TypeVar("T")


class Jobs(Mapping[str, J]):
    """The jobs of a connection by name."""

    def __init__(self, names: Callable[[], list[str]], make: Callable[[str], J]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str) -> J:
        if name not in self._names():
            close = nearest(name, self._names())
            raise CatalogError(f"there is no job '{name}'", hint=f"did you mean '{close}'?" if close else None)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    @overload
    def get(self, name: str, /) -> J | None: ...
    @overload
    def get(self, name: str, /, default: T) -> J | T: ...
    def get(self, name: str, /, default: T | None = None) -> J | T | None:
        return self._make(name) if name in self else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


class Session(ABC):
    """An open warehouse. Safe to use from several threads; a statement at a time per thread."""

    @property
    def warnings(self) -> list[str]:
        """What was wrong when this process opened the warehouse, as that an older checkpoint had to be used."""
        return []

    # -- statements ---------------------------------------------------------------------------------------------

    @abstractmethod
    def execute(self, sql: str) -> Result:
        """Run every statement of a script; the last one's result.

        Raises:
            ForebayError: a statement is wrong or cannot be carried out; those before it stand.
        """

    def sql(self, query: str) -> Result:
        """Run one query and return its rows."""
        return self.execute(query)

    def explain(self, sql: str) -> str:
        """The plan of a statement as text."""
        return str(self.execute(f"EXPLAIN {sql}").fetchall()[0][0])

    @abstractmethod
    def stream(self, query: str) -> ChangeStream:
        """Run a query continuously: its current result, then its changes as they happen."""

    @abstractmethod
    def lookup(self, relation: str, key: Any) -> dict[str, Any] | None:
        """The row of a materialized view or embedded table under its primary key, or None.

        `key` is a value, a tuple for a key of several columns, or a mapping of column to value.

        Raises:
            CatalogError: the relation is missing or has no key.
        """

    @abstractmethod
    def register(self, name: str, data: Any) -> None:
        """Make an Arrow, pandas or Polars object readable as a bounded table."""

    @abstractmethod
    def create_function(self, function: Callable[..., Any]) -> None:
        """Make a function decorated with `forebay.udf` usable in SQL.

        Raises:
            CatalogError: it is none, or has a built-in function's name.
            UnsupportedError: the warehouse is owned by another process, which cannot run this one's code.
        """

    # -- jobs ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def jobs(self) -> Mapping[str, JobHandle]:
        """The jobs by name."""

    @abstractmethod
    def resume(self) -> None:
        """Let the jobs run, after `connect(..., resume=False)`."""

    @abstractmethod
    def wait(
        self, names: Iterable[str | JobHandle] | str | JobHandle | None = None, timeout: float | None = None
    ) -> bool:
        """Block until the bounded inputs of these jobs or views (None: of all) are consumed and shown.

        False after `timeout` seconds.

        Raises:
            Exception: what one of them failed on.
        """

    @abstractmethod
    def checkpoint(self, timeout: float | None = None) -> bool:
        """Take a checkpoint now; True once it is durable and the sinks have committed it."""

    # -- life ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """End the connection: its streams end. The owner's also stops all jobs with a final checkpoint."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def names_of(names: Iterable[str | JobHandle] | str | JobHandle) -> list[str]:
    """The names in what `Session.wait` takes."""
    given = [names] if isinstance(names, str | JobHandle) else names
    return [n.name if isinstance(n, JobHandle) else n for n in given]
