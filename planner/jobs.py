"""What goes on by itself, as it is saved: jobs, state that is held for a table, histories on their way.

Each has what it was bound to when it was made: what its state is of, whatever the catalog has become.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class JobDefinition:
    """A job that runs until it is stopped: its statement and the session options that it was made under."""

    name: str
    sql: str
    options: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    bound: Mapping[str, str] = field(default_factory=dict)
    """DDL of tables and views that could change while it runs, as they were when it was made."""
    id: str = field(default_factory=lambda: uuid4().hex)
    """Tells it from another job of its name; ALTER JOB keeps it."""

    def to_json(self) -> dict[str, Any]:
        """What a catalog and a checkpoint keep of it."""
        return {
            "name": self.name, "sql": self.sql, "options": dict(self.options), "bound": dict(self.bound), "id": self.id,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeptState:
    """Rows of a table by a key that are held although no job needs them."""

    table: str
    key: tuple[str, ...]
    stamped: bool
    bound: Mapping[str, str]
    """As of a job."""

    @property
    def name(self) -> str:
        """Of the job that holds them."""
        return f"state.keep {self.table} by ({', '.join(self.key)})"

    def to_json(self) -> dict[str, Any]:
        return {"table": self.table, "key": list(self.key), "stamped": self.stamped, "bound": dict(self.bound)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> KeptState:
        return KeptState(value["table"], tuple(value["key"]), value["stamped"], value["bound"])


@dataclass(frozen=True, slots=True)
class Loading:
    """A history on its way into the state of a table whose jobs run."""

    table: str
    options: Mapping[str, str]
    """What the table's options become."""
    replay: bool
    """Sinks get what the history adds to their results."""

    @property
    def job(self) -> str:
        """Name of the job that brings the state up."""
        return f"bootstrap {self.table}"

    def to_json(self) -> dict[str, Any]:
        return {"table": self.table, "options": dict(self.options), "replay": self.replay}
