"""Queries and what changes rows: SELECT, INSERT, STATEMENT SET, UPDATE and DELETE."""

from __future__ import annotations

from forebay.planner import statements as st
from forebay.planner.dialect.definitions import hint_options
from forebay.planner.dialect.reader import QUERY, Reader, split
from forebay.planner.hints import comment_options


def query(r: Reader) -> st.Query:
    """A SELECT, WITH or VALUES."""
    parsed = r.guarded(r.parser._parse_statement)
    return st.Query(query=parsed, **r.place)


def insert(r: Reader) -> st.Insert:
    """INSERT INTO, with OPTIONS behind the table."""
    r.need("INSERT")
    if r.take("OVERWRITE"):
        raise r.fail("INSERT OVERWRITE is not supported", hint="use INSERT INTO")
    r.need("INTO")
    r.take("TABLE")
    target = r.name()
    comments = r.parser._prev_comments or ()
    hint = r.guarded(r.parser._parse_table_hint)
    columns: list[str] = []
    if r.word() == "(" and r.parser._next and r.parser._next.text.upper() not in ("SELECT", "WITH"):
        r.need("(")
        columns = [r.name()]
        while r.take(","):
            columns.append(r.name())
        r.need(")")
    if r.word() not in QUERY:
        raise r.fail("expected SELECT or VALUES")
    parsed = r.guarded(r.parser._parse_statement)
    options = hint_options(hint.expressions) if hint is not None else {}
    for comment in comments:
        options |= comment_options(comment)
    return st.Insert(target=target, query=parsed, columns=tuple(columns), options=options, **r.place)


def statement_set(r: Reader) -> st.Statement:
    """EXECUTE STATEMENT SET or BEGIN STATEMENT SET; EXECUTE INSERT too."""
    if r.take("EXECUTE") and r.word() != "STATEMENT":
        if r.word() == "INSERT":
            return insert(r)
        raise r.fail("expected STATEMENT SET or INSERT after EXECUTE")
    r.take("BEGIN")
    r.need("STATEMENT", "SET")
    r.take("BEGIN")
    r.take(";")
    body = r.tokens[r.parser._index :]
    if not body or body[-1].text.upper() != "END":
        raise r.refuse("the statement set has no END")
    inserts = []
    for chunk in split(body[:-1]):
        found = r.nested(chunk)
        if not isinstance(found, st.Insert):
            raise r.refuse("a statement set holds INSERT statements only")
        inserts.append(found)
    if not inserts:
        raise r.fail("the statement set is empty")
    r.parser._advance(len(body))
    return st.StatementSet(inserts=tuple(inserts), **r.place)


def update(r: Reader) -> st.Update:
    """UPDATE."""
    parsed = r.guarded(r.parser._parse_statement)
    assignments = tuple((e.this.name, e.expression) for e in parsed.expressions)
    where = parsed.args.get("where")
    name = ".".join(p.name for p in parsed.this.parts)
    return st.Update(target=name, assignments=assignments, where=where.this if where else None, **r.place)


def delete(r: Reader) -> st.Delete:
    """DELETE."""
    parsed = r.guarded(r.parser._parse_statement)
    where = parsed.args.get("where")
    name = ".".join(p.name for p in parsed.this.parts)
    return st.Delete(target=name, where=where.this if where else None, **r.place)
