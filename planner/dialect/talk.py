"""What is asked of a warehouse and told to it: EXPLAIN, SHOW, DESCRIBE, SET, TRACE, CALL, and orders to jobs and savepoints."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.tokens import TokenType

from forebay.engine.errors import nearest
from forebay.planner import statements as st
from forebay.planner.dialect.reader import Reader

SHOWN = (
    "MATERIALIZED VIEWS",
    "SCHEMA CHANGES",
    "UNKNOWN FIELDS",
    "DEAD LETTERS",
    "SAVEPOINTS",
    "FUNCTIONS",
    "TABLES",
    "STATE",
    "VIEWS",
    "JOBS",
    "CREATE MATERIALIZED VIEW",
    "CREATE TABLE",
    "CREATE VIEW",
    "COLUMNS",
)
_WITH_NAME = ("CREATE MATERIALIZED VIEW", "CREATE TABLE", "CREATE VIEW", "COLUMNS")
_UNITS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600}


def explain(r: Reader) -> st.Explain | st.ExplainState:
    """EXPLAIN of a statement, EXPLAIN STATE of one or of a job."""
    r.need("EXPLAIN")
    about_state = r.take("STATE")
    if about_state and r.take("JOB"):
        return st.ExplainState(job=r.quoted_or_name(), **r.place)
    while r.word() in ("CHANGELOG_MODE", "ESTIMATED_COST", "JSON_EXECUTION_PLAN", "PLAN_ADVICE", ","):
        r.parser._advance()
    r.take("PLAN")
    r.take("FOR")
    rest = r.tokens[r.parser._index :]
    if not rest:
        raise r.fail("expected a statement after EXPLAIN")
    r.parser._advance(len(rest))
    statement = r.nested(rest)
    return (st.ExplainState if about_state else st.Explain)(statement=statement, **r.place)


def show(r: Reader) -> st.Show:
    """SHOW."""
    r.need("SHOW")
    r.take("FULL")
    for what in SHOWN:
        if r.take(*what.split()):
            if what == "COLUMNS" and not r.take("FROM"):
                r.need("IN")
            return st.Show(what=what, name=r.name() if what in _WITH_NAME else None, **r.place)
    close = nearest(r.word(), [w.split()[0] for w in SHOWN])
    proposed = f"did you mean {close}? " if close else ""
    raise r.fail("unknown SHOW", hint=f"{proposed}known: {', '.join(sorted(SHOWN))}")


def describe(r: Reader) -> st.Describe:
    """DESCRIBE."""
    r.parser._advance()
    r.take("EXTENDED")
    return st.Describe(name=r.name(), **r.place)


def set_option(r: Reader) -> st.SetOption:
    """SET; without a key it asks for all."""
    r.need("SET")
    if not r.parser._curr:
        return st.SetOption(**r.place)
    key = r.text()
    r.need("=")
    return st.SetOption(key=key, value=r.text(), **r.place)


def reset_option(r: Reader) -> st.ResetOption:
    """RESET; without a key all."""
    r.need("RESET")
    return st.ResetOption(key=r.text() if r.parser._curr else None, **r.place)


def trace(r: Reader) -> st.TraceJob:
    """TRACE JOB."""
    r.need("TRACE")
    r.need("JOB")
    name = r.quoted_or_name()
    r.need("WHERE")
    condition = r.guarded(r.parser._parse_expression)
    values = {}
    for term in condition.flatten() if isinstance(condition, exp.And) else [condition]:
        column, value = (term.this, term.expression) if isinstance(term, exp.EQ) else (None, None)
        negative = isinstance(value, exp.Neg)
        literal = value.this if isinstance(value, exp.Neg | exp.Cast) else value  # TIMESTAMP '..' is a cast
        if not isinstance(column, exp.Column) or not isinstance(literal, exp.Literal | exp.Null | exp.Boolean):
            raise r.refuse("TRACE JOB takes column = constant, several with AND")
        if column.name in values:
            raise r.refuse(f"TRACE JOB takes one value of a column, '{column.name}' has two")
        values[column.name] = _constant(literal, negative)
    seconds = _span(r) if r.take("FOR") else None
    limit = _count(r, "rows") if r.take("LIMIT") else None
    return st.TraceJob(name=name, values=values, seconds=seconds, limit=limit, **r.place)


def _span(r: Reader) -> float:
    """'10 SECONDS', '2 MINUTES' or '1 HOUR', in seconds."""
    number = _count(r, "SECONDS")
    unit = r.word().removesuffix("S")
    if unit not in _UNITS:
        raise r.fail("expected SECONDS, MINUTES or HOURS", hint="FOR 10 SECONDS")
    r.parser._advance()
    return float(number * _UNITS[unit])


def _count(r: Reader, what: str) -> int:
    token = r.parser._curr
    if token is None or not token.text.isdigit() or int(token.text) == 0:
        raise r.fail(f"expected a number of {what}")
    r.parser._advance()
    return int(token.text)


def call(r: Reader) -> st.Call:
    """CALL of a procedure."""
    r.need("CALL")
    name = r.name()
    r.need("(")
    positional: list[str | None] = []
    named: dict[str, str | None] = {}
    while r.word() != ")":
        follows = r.parser._next
        if follows is not None and follows.token_type == TokenType.FARROW:
            parameter = r.part().lower()
            r.parser._advance()
            if parameter in named:
                raise r.fail(f"'{parameter}' is given twice")
            named[parameter] = _argument(r)
        elif named:
            raise r.fail("expected name => value after the first named argument")
        else:
            positional.append(_argument(r))
        if not r.take(","):
            break
    r.need(")")
    return st.Call(name=name.removeprefix("sys."), positional=tuple(positional), named=named, **r.place)


def _argument(r: Reader) -> str | None:
    """A constant as text."""
    value = r.guarded(r.parser._parse_unary)
    while isinstance(value, exp.Cast):  # TIMESTAMP '2026-11-01 00:00:00'
        value = value.this
    if isinstance(value, exp.Null):
        return None
    if isinstance(value, exp.Boolean):
        return "true" if value.this else "false"
    if not isinstance(value, exp.Literal):
        raise r.fail("expected a constant")
    return str(value.this)


def control(r: Reader) -> st.ControlJob:
    """STOP JOB and RESUME JOB."""
    action = r.word()
    r.parser._advance()
    r.need("JOB")
    return st.ControlJob(action=action, name=r.quoted_or_name(), **r.place)


def restore(r: Reader) -> st.RestoreSavepoint:
    """RESTORE SAVEPOINT."""
    r.need("RESTORE")
    r.need("SAVEPOINT")
    return st.RestoreSavepoint(name=r.quoted_or_name(), **r.place)


def _constant(literal: exp.Expression, negative: bool) -> str | int | float | None:
    if isinstance(literal, exp.Null):
        return None
    if isinstance(literal, exp.Boolean):
        return str(literal.this).lower()
    if literal.is_string:
        return str(literal.this)
    number = float(literal.this) if "." in literal.this or "e" in literal.this.lower() else int(literal.this)
    return -number if negative else number
