"""What running jobs were bound to: ALTER TABLE and CREATE OR REPLACE VIEW change what comes after, never a job that runs.

A job's state has the shape of its plan. So with a job the definitions of all tables and views that its text leads to are kept,
and a warehouse that is opened again binds the job to those, whatever the catalog has become. A job made anew takes the new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from forebay.engine.connector import Registry
from forebay.planner import statements as st
from forebay.planner.catalog import Catalog, tables_named
from forebay.planner.define import define
from forebay.planner.dialect.script import parse
from forebay.planner.options import Options
from forebay.planner.tables import Relation, Table, View
from forebay.relations import Relations

TTL = "table.exec.state.ttl"


def definitions(catalog: Catalog, sql: str) -> dict[str, str]:
    """DDL of the connectors' tables and plain views that a job's text leads to, by name.

    Embedded tables and materialized views cannot change while a job uses them.
    """
    found: dict[str, str] = {}
    waiting = list(tables_named(sql))
    while waiting:
        relation = catalog.relations.get(waiting.pop())
        if isinstance(relation, View) and relation.name not in found:
            found[relation.name] = relation.ddl()
            waiting += tables_named(relation.sql)
        elif isinstance(relation, Table) and not relation.embedded:
            found[relation.name] = relation.ddl(mask=False)
    return found


@contextmanager
def as_bound(catalog: Catalog, registry: Registry, relations: Relations, bound: Mapping[str, str]) -> Iterator[None]:
    """Within it the catalog has the definitions that a job was bound to."""
    now: dict[str, Relation | None] = {}
    for name, ddl in bound.items():
        relation = catalog.relations.get(name)
        same = (isinstance(relation, Table) and relation.ddl(mask=False) == ddl) or (
            isinstance(relation, View) and relation.ddl() == ddl
        )
        if not same:
            now[name] = relation
    try:
        for name in now:
            catalog.relations[name] = _defined(bound[name], catalog, registry, relations)
        yield
    finally:
        for name, relation in now.items():
            if relation is None:
                del catalog.relations[name]
            else:
                catalog.relations[name] = relation


@contextmanager
def as_made(options: Options, made: Mapping[str, str]) -> Iterator[None]:
    """Within it state lives as long as the options say under which a job was made: what its operators keep depends on that."""
    now = options.given.get(TTL)
    _put(options, made.get(TTL))
    try:
        yield
    finally:
        _put(options, now)


def _put(options: Options, ttl: str | None) -> None:
    if ttl is None:
        options.reset(TTL)
    else:
        options.set(TTL, ttl)


def rebound(ddl: str, options: Mapping[str, str | None], relations: Relations) -> str:
    """The DDL of a table with other values of some options, or without them (None)."""
    table = _defined(ddl, relations.catalog, relations.registry, relations)
    assert isinstance(table, Table)
    changed = {k: v for k, v in {**table.options, **options}.items() if v is not None}
    return replace(table, options=changed).ddl(mask=False)


def _defined(ddl: str, catalog: Catalog, registry: Registry, relations: Relations) -> Relation:
    statement = parse(ddl)[0]
    if isinstance(statement, st.CreateView):
        return View.of(statement)
    assert isinstance(statement, st.CreateTable)
    return define(statement, catalog, registry, relations.types)
