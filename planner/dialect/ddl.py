"""CREATE, ALTER and DROP, of relations and of jobs; their queries go through the grammar, the words around them one by one."""

from __future__ import annotations

from typing import Any

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from forebay.engine.errors import SqlError, nearest
from forebay.planner import statements as st
from forebay.planner.dialect.definitions import columns_of, create_table, hint_options, property_options
from forebay.planner.dialect.reader import QUERY, Reader

_CREATED = ("TABLE", "VIEW", "MATERIALIZED", "TEMPORARY", "OR", "FUNCTION", "SAVEPOINT")


def create(r: Reader) -> st.Statement:
    """CREATE of anything."""
    if r.word() == "CREATE" and r.parser._next and r.parser._next.text.upper() in ("CATALOG", "DATABASE"):
        raise r.fail(f"CREATE {r.parser._next.text.upper()} is not supported: a warehouse has one catalog")
    kind = r.parser._next.text.upper() if r.parser._next else ""
    if kind not in _CREATED:
        close = nearest(kind, _CREATED)
        hint = f"did you mean CREATE {close}?" if close else f"CREATE {', '.join(_CREATED)}"
        raise r.refuse("this CREATE statement is not supported", hint=hint)
    if kind == "SAVEPOINT":
        return _create_savepoint(r)
    start_of_query = _query_start(r)
    parsed = r.guarded(r.parser._parse_statement)
    if not isinstance(parsed, exp.Create):
        raise r.refuse("this CREATE statement is not supported")
    if parsed.args["kind"] == "TABLE":
        try:
            return create_table(parsed, r.place, r.script)
        except SqlError as error:
            raise r.named(error, error.message.split("'")[1::2] or error.message.split()[1:2]) from None
    return _create_view(r, parsed, start_of_query)


def _query_start(r: Reader) -> Token | None:
    """The first token after the AS that a view's query follows."""
    depth = 0
    for at, token in enumerate(r.tokens[:-1]):
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        following = r.tokens[at + 1].text.upper()
        if depth == 0 and token.text.upper() == "AS" and following in QUERY:
            return r.tokens[at + 1]
    return None


def _create_view(r: Reader, parsed: exp.Create, start: Token | None) -> st.Statement:
    if parsed.args["kind"] != "VIEW" or start is None or parsed.expression is None:
        hint = "CREATE [TEMPORARY] VIEW v AS SELECT ..., CREATE MATERIALIZED VIEW v AS SELECT ..."
        raise r.refuse(f"CREATE {parsed.args['kind']} is not supported here", hint)
    target = parsed.this
    schema = target if isinstance(target, exp.Schema) else None
    table = schema.this if schema is not None else target
    properties = parsed.args.get("properties")
    kinds = {type(p) for p in properties.expressions} if properties is not None else set()
    comment = next(
        (p.this.name for p in properties.expressions if isinstance(p, exp.SchemaCommentProperty)), None
    ) if properties is not None else None  # fmt: skip
    common: dict[str, Any] = {
        "name": ".".join(p.name for p in table.parts),
        "query": parsed.expression,
        "query_sql": r.script[start.start : r.ends],
        "columns": tuple(c.name for c in schema.expressions) if schema is not None else (),
        "if_not_exists": bool(parsed.args.get("exists")),
        "comment": comment,
        **r.place,
    }
    if exp.MaterializedProperty in kinds:
        return st.CreateMaterializedView(options=property_options(properties), **common)
    return st.CreateView(temporary=exp.TemporaryProperty in kinds, replace=bool(parsed.args.get("replace")), **common)


def _create_savepoint(r: Reader) -> st.CreateSavepoint:
    r.need("CREATE")
    r.need("SAVEPOINT")
    name = r.quoted_or_name()
    location = r.text() if r.take("TO") else None
    return st.CreateSavepoint(name=name, location=location, **r.place)


def drop(r: Reader) -> st.Drop:
    """DROP of anything."""
    r.need("DROP")
    r.take("TEMPORARY")
    for kind in ("MATERIALIZED VIEW", "TABLE", "VIEW", "JOB", "FUNCTION", "SAVEPOINT"):
        if r.take(*kind.split()):
            exists = r.take("IF", "EXISTS")
            return st.Drop(kind=kind, name=r.quoted_or_name(), if_exists=exists, **r.place)
    raise r.fail("expected TABLE, VIEW, MATERIALIZED VIEW, JOB, FUNCTION or SAVEPOINT after DROP")


def alter(r: Reader) -> st.Statement:
    """ALTER of anything."""
    r.need("ALTER")
    if r.take("JOB"):
        return _alter_job(r)
    if r.take("MATERIALIZED", "VIEW"):
        return _alter_materialized_view(r)
    if not r.take("TABLE"):
        raise r.fail("expected TABLE, JOB or MATERIALIZED VIEW after ALTER")
    return _alter_table(r)


def _alter_table(r: Reader) -> st.AlterTable:
    name = r.name()
    made = {"name": name, **r.place}
    if r.take("RENAME", "TO"):
        return st.AlterTable(action="RENAME TO", names=(r.name(),), **made)
    if r.take("RENAME"):
        r.take("COLUMN")
        old = r.name()
        r.need("TO")
        return st.AlterTable(action="RENAME COLUMN", names=(old, r.name()), **made)
    if r.take("SET"):
        pairs = r.guarded(lambda: r.parser._parse_wrapped_csv(r.parser._parse_equality))
        return st.AlterTable(action="SET", options=hint_options(pairs), **made)
    if r.take("RESET"):
        keys = r.guarded(lambda: r.parser._parse_wrapped_csv(r.parser._parse_string))
        return st.AlterTable(action="RESET", names=tuple(k.name for k in keys), **made)
    if r.take("DROP"):
        r.take("COLUMN")
        wrapped = r.take("(")
        names = [r.name()]
        while r.take(","):
            names.append(r.name())
        if wrapped:
            r.need(")")
        return st.AlterTable(action="DROP", names=tuple(names), **made)
    for action in ("ADD", "MODIFY"):
        if r.take(action):
            return st.AlterTable(action=action, columns=_alter_columns(r), **made)
    raise r.fail("expected ADD, MODIFY, DROP, RENAME, SET or RESET after ALTER TABLE")


def _alter_columns(r: Reader) -> tuple[st.ColumnDefinition, ...]:
    r.take("COLUMN")
    if r.word() == "(":
        parsed = r.guarded(lambda: r.parser._parse_wrapped_csv(lambda: _field(r)))
    else:
        parsed = [r.guarded(lambda: _field(r))]
    return columns_of(parsed, r.script)


def _field(r: Reader) -> Any:
    field = r.parser._parse_field_def()
    if isinstance(field, exp.Identifier) or field is None:
        r.parser.raise_error("expected a type after the column's name")
    return field


def _alter_materialized_view(r: Reader) -> st.AlterMaterializedView:
    name, options = r.name(), _with_options(r)
    r.need("AS")
    start = r.parser._curr
    if start is None or r.word() not in QUERY:
        raise r.fail("expected a query after AS")
    query = r.guarded(r.parser._parse_statement)
    text = r.script[start.start : r.ends]
    return st.AlterMaterializedView(name=name, query=query, query_sql=text, options=options, **r.place)


def _alter_job(r: Reader) -> st.AlterJob:
    name, options = r.quoted_or_name(), _with_options(r)
    r.need("AS")
    rest = r.tokens[r.parser._index :]
    body = r.nested(rest) if rest else None
    if not isinstance(body, st.Insert | st.StatementSet):
        raise r.fail("expected INSERT or EXECUTE STATEMENT SET after AS")
    r.parser._advance(len(rest))
    return st.AlterJob(name=name, body=body, options=options, **r.place)


def _with_options(r: Reader) -> dict[str, str]:
    if not r.take("WITH"):
        return {}
    return hint_options(r.guarded(lambda: r.parser._parse_wrapped_csv(r.parser._parse_equality)))
