"""The catalog: tables, views, materialized views and jobs by name, in the order they were made.

It is saved as the DDL that makes it again: the file is readable, and one parser serves both.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

from sqlglot import exp

from forebay.engine.errors import CatalogError, nearest
from forebay.engine.runtime import deadletters
from forebay.planner import statements as st
from forebay.planner.dialect.script import parse
from forebay.planner.jobs import JobDefinition, KeptState, Loading
from forebay.planner.tables import MaterializedView, Relation, SystemStream, Table, View, quoted

FORMAT = 1


class Catalog:
    """Everything that has a name."""

    def __init__(self) -> None:
        self.relations: dict[str, Relation] = {deadletters.NAME: SystemStream(deadletters.NAME, deadletters.SCHEMA)}
        self.jobs: dict[str, JobDefinition] = {}
        self.kept: dict[str, KeptState] = {}
        self.loading: dict[str, Loading] = {}
        """By name of the job."""

    # -- look-up ------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Relation:
        """The relation of that name.

        Raises:
            CatalogError: there is none.
        """
        found = self.relations.get(name)
        if found is None:
            close = nearest(name, self.relations)
            hint = f"did you mean {close}?" if close else "SHOW TABLES lists what exists"
            raise CatalogError(f"table {name} does not exist", hint=hint)
        return found

    def table(self, name: str) -> Table:
        """The table of that name.

        Raises:
            CatalogError: there is none, or it is a view.
        """
        found = self.find(name)
        if not isinstance(found, Table):
            what = "the warehouse's own" if isinstance(found, SystemStream) else "a view, not a table"
            raise CatalogError(f"{name} is {what}", hint="only tables can be written and altered")
        return found

    def job(self, name: str) -> JobDefinition:
        """The job of that name.

        Raises:
            CatalogError: there is none, or it loads a history.
        """
        if name in self.loading:
            raise CatalogError(
                f"'{name}' loads a history, it can only be called off",
                hint=f"DROP JOB `{name}` does that; or wait for it",
            )
        if name not in self.jobs:
            raise CatalogError(f"there is no job '{name}'", hint="SHOW JOBS lists them")
        return self.jobs[name]

    def names(self, kind: type[Relation]) -> list[str]:
        """Names of one kind, sorted."""
        return sorted(n for n, r in self.relations.items() if isinstance(r, kind))

    def users(self, name: str) -> list[str]:
        """Jobs and scheduled views that read or write the relation, through plain views too."""
        views = [r.name for r in self.relations.values() if isinstance(r, MaterializedView) and name in r.reads]
        return [j.name for j in self.jobs.values() if name in j.reads or name in j.writes] + views

    def dependents(self, name: str) -> list[str]:
        """All that cannot be without the relation: its users, and whatever names it in its text."""
        views = [r for r in self.relations.values() if isinstance(r, View | MaterializedView)]
        named = [d.name for d in (*views, *self.jobs.values()) if name in tables_named(d.sql)]
        return list(dict.fromkeys([*self.users(name), *named]))

    def readers(self, name: str) -> set[str]:
        """All relations that stand on this one, through others too."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            new = [d for d in self.dependents(waiting.pop()) if d in self.relations and d not in found]
            found |= set(new)
            waiting += new
        return found - {name}

    # -- change -------------------------------------------------------------------------------------------------

    def add(self, relation: Relation, *, replace_: bool = False) -> None:
        """Enter a new relation.

        Raises:
            CatalogError: the name is taken.
        """
        if relation.name in self.relations and not replace_:
            raise CatalogError(f"{relation.name} already exists", hint="CREATE ... IF NOT EXISTS, or DROP it first")
        self.relations[relation.name] = relation

    def put_last(self, view: MaterializedView) -> None:
        """Enter a view that has another query: after all that it may read now, and before its readers."""
        readers = self.readers(view.name)
        moved = {n: r for n, r in self.relations.items() if n in readers}
        for name in (view.name, *moved):
            del self.relations[name]
        self.relations |= {view.name: view, **moved}

    def drop(self, kind: str, name: str) -> Relation:
        """Remove a relation of the kind that DROP names.

        Raises:
            CatalogError: it is missing, of another kind, or jobs use it.
        """
        found = self.find(name)
        if isinstance(found, SystemStream):
            raise CatalogError(f"{name} is the warehouse's own", hint="it can be read only")
        wanted = {"TABLE": Table, "VIEW": View, "MATERIALIZED VIEW": MaterializedView}[kind]
        if not isinstance(found, wanted):
            word = {Table: "TABLE", View: "VIEW", MaterializedView: "MATERIALIZED VIEW"}[type(found)]
            raise CatalogError(f"{name} is not a {kind.lower()}", hint=f"DROP {word} {name}")
        users = [j for j in self.dependents(name) if j != name]
        if users:
            raise CatalogError(
                f"{name} is used by {', '.join(users)}",
                hint="; ".join(f"DROP {self._kind(j)} {quoted(j)}" for j in users),
            )
        return self.relations.pop(name)

    def _kind(self, user: str) -> str:
        found = self.relations.get(user)
        return "JOB" if found is None else "VIEW" if isinstance(found, View) else "MATERIALIZED VIEW"

    # -- saving -------------------------------------------------------------------------------------------------

    def to_json(self, options: Mapping[str, str]) -> bytes:
        """The catalog and the session's saved options."""
        passing = {n for n, r in self.relations.items() if isinstance(r, View) and r.temporary}
        own = {n for n, r in self.relations.items() if isinstance(r, SystemStream)}
        kept = [r for n, r in self.relations.items() if n not in own and (n not in passing or self.dependents(n))]
        value = {
            "format": FORMAT,
            "options": dict(options),
            "relations": [r.ddl(mask=False) if isinstance(r, Table) else r.ddl() for r in kept],
            "jobs": [j.to_json() for j in self.jobs.values()],
            "kept": [k.to_json() for k in self.kept.values()],
            "loading": [h.to_json() for h in self.loading.values()],
        }
        return json.dumps(value, indent=1).encode()


_WITH_QUERY = (st.Query, st.Insert, st.CreateView, st.CreateMaterializedView)


@functools.lru_cache(1024)
def tables_named(sql: str) -> frozenset[str]:
    """The relations that a query or job names."""
    found: set[str] = set()
    for statement in parse(sql):
        inserts = statement.inserts if isinstance(statement, st.StatementSet) else (statement,)
        queries = [s.query for s in inserts if isinstance(s, _WITH_QUERY)]
        found |= {s.target for s in inserts if isinstance(s, st.Insert)}
        found |= {".".join(p.name for p in t.parts) for query in queries for t in query.find_all(exp.Table)}
    return frozenset(found)
