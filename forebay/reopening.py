"""Opening a warehouse that is there: the catalog is loaded, every job placed on the last checkpoint, DML replayed.

The catalog is saved as statements, and they are carried out again, in an order in which each finds what it reads. What the
checkpoint knows takes its place there *before* states are loaded; what came after it starts when they are, from the contents
that they restore. Where catalog and checkpoint do not agree on what a job is, the checkpoint is right: it has the state.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forebay.bound import as_bound, as_made
from forebay.context import Context
from forebay.defining import Defining
from forebay.engine.errors import StateError
from forebay.engine.runtime.warehouse import Restored
from forebay.histories import Histories
from forebay.keeping import Keeping
from forebay.materializing import Materializing
from forebay.planner import statements as st
from forebay.planner.catalog import tables_named
from forebay.planner.dialect.script import parse
from forebay.running import Running

Start = Callable[[], None]


class Reopening:
    """Opens one warehouse."""

    def __init__(
        self,
        context: Context,
        defining: Defining,
        materializing: Materializing,
        running: Running,
        keeping: Keeping,
        histories: Histories,
    ) -> None:
        self._context = context
        self._defining = defining
        self._materializing = materializing
        self._running = running
        self._keeping = keeping
        self._histories = histories

    def open(self) -> None:
        """Load the catalog and the last checkpoint, place every job, replay DML.

        Raises:
            StateError: the catalog is damaged, or no checkpoint can be read.
        """
        context = self._context
        saved = context.warehouse.load_catalog()
        value = None if saved is None else _catalog_of(saved)
        for name, option in (value["options"] if value else {}).items():
            context.options.given.setdefault(name, option)
        context.configure_driver()
        if value is not None:
            self._reload(value)
        context.opened = True

    def _reload(self, value: Mapping[str, Any]) -> None:
        warehouse = self._context.warehouse
        restored = warehouse.read_checkpoint()
        jobs = [_as_checkpointed(job, restored) for job in value["jobs"]]
        self._running.ids = {job["name"]: job["id"] for job in jobs if "id" in job}
        late: list[Start] = []  # what no checkpoint knows yet starts from the contents that it restores
        made = {job["name"]: job for job in jobs}
        for statement in _in_order([_as_job(parse(ddl)[0], jobs) for ddl in value["relations"]]):
            late += self._relation(statement, restored, made)
        for job in jobs:
            late += self._job(job, restored)
        late += self._keeping.reopen(value.get("kept", ()), restored.placements, restored.scans)
        late += self._histories.reopen(value.get("loading", ()), restored.placements, restored.scans)
        warehouse.load_states()
        for start in late:
            start()
        warehouse.replay_dml()
        self._context.driver.forget_bootstraps()

    def _relation(
        self, statement: st.Statement, restored: Restored, made: Mapping[str, Mapping[str, Any]]
    ) -> list[Start]:
        """Enter a relation again; what is to be done once states are loaded."""
        match statement:
            case st.CreateTable() | st.CreateView():
                self._defining.reopen(statement)
            case st.CreateMaterializedView() if statement.options:
                self._materializing.reopen(statement, None, {})
            case st.CreateMaterializedView():
                placement = restored.placements.get(statement.name)
                reopen = functools.partial(self._materializing.reopen, statement, placement, restored.scans)
                return self._placed(made.get(statement.name, {}), reopen, late=placement is None)
        return []

    def _job(self, job: Mapping[str, Any], restored: Restored) -> list[Start]:
        """Start a job again; what is to be done once states are loaded. A view's is started with it."""
        name, statement = job["name"], parse(job["sql"])[0]
        if isinstance(statement, st.CreateMaterializedView):
            return []
        placement = restored.placements.get(name)
        restart = functools.partial(self._running.restart, name, statement, placement, restored.scans)
        return self._placed(job, restart, late=placement is None)

    def _placed(self, job: Mapping[str, Any], start: Start, *, late: bool) -> list[Start]:
        """Start a job now, or give back what does so."""
        start = functools.partial(self._as_made, job, start)
        if late:
            return [start]
        start()
        return []

    def _as_made(self, job: Mapping[str, Any], start: Start) -> None:
        """Start a job that the catalog has, under what it was made under."""
        context, bound, made = self._context, job.get("bound", {}), job.get("options", {})
        with as_bound(context.catalog, context.registry, context.relations, bound), as_made(context.options, made):
            start()


def _catalog_of(saved: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(saved)
    except ValueError as error:
        raise StateError(
            "the catalog is damaged; nothing was changed",
            detail=f"catalog.json: {error}",
            hint="put a copy of catalog.json in its place",
        ) from error
    return value


def _as_job(statement: st.Statement, jobs: list[dict[str, Any]]) -> st.Statement:
    """A saved relation's statement; of a materialized view as its job is known, whose state is there."""
    if not isinstance(statement, st.CreateMaterializedView) or statement.options:
        return statement
    return next((parse(job["sql"])[0] for job in jobs if job["name"] == statement.name), statement)


def _in_order(statements: Sequence[st.Statement]) -> list[st.Statement]:
    """Saved relations, each after those that its query reads: a checkpoint may know a view that the catalog does not yet."""
    names = {getattr(s, "name", ""): s for s in statements}
    done: dict[str, st.Statement] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name not in seen and name in names:
            seen.add(name)
            statement = names[name]
            if isinstance(statement, st.CreateView | st.CreateMaterializedView):
                for read in sorted(tables_named(statement.sql) - {name}):
                    visit(read)
            done[name] = statement

    for name in names:
        visit(name)
    return list(done.values())


def _as_checkpointed(job: dict[str, Any], restored: Restored) -> dict[str, Any]:
    """A saved job as the checkpoint knows it, whose state it has.

    A change that came after the checkpoint was never acknowledged; another job of the name has nothing to do with that state.
    """
    known = restored.definitions.get(job["name"])
    if known is None or job["name"] not in restored.placements:
        return job
    if job.get("id", known["id"]) != known["id"]:
        restored.placements = {name: placed for name, placed in restored.placements.items() if name != job["name"]}
        return job
    return dict(known)
