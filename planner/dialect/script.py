"""A script of statements: split, parsed one by one, every error with its place in the script.

Queries and definitions go through the dialect's grammar; the small statements around them (SHOW, SET, ALTER TABLE, STATEMENT
SET ...) are read here, token by token, with its helpers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError
from sqlglot.tokens import Token, TokenType

from forebay.engine.errors import SqlError, nearest
from forebay.planner import statements as st
from forebay.planner.dialect.definitions import columns_of, create_table, hint_options, property_options
from forebay.planner.dialect.flink import Flink, FlinkParser
from forebay.planner.hints import comment_options

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
_CREATED = ("TABLE", "VIEW", "MATERIALIZED", "TEMPORARY", "OR", "FUNCTION", "SAVEPOINT")
_AFTER_NO_COMMA = frozenset((TokenType.COMMA, TokenType.R_PAREN, TokenType.FROM, TokenType.SEMICOLON))
_WITH_NAME = ("CREATE MATERIALIZED VIEW", "CREATE TABLE", "CREATE VIEW", "COLUMNS")
_STARTS = ("SELECT", "WITH", "VALUES", "CREATE", "DROP", "ALTER", "INSERT", "UPDATE", "DELETE", "EXPLAIN", "SHOW")
_KEYWORDS = (
    *_STARTS,
    "CALL",
    "DESCRIBE",
    "DESC",
    "SET",
    "RESET",
    "EXECUTE",
    "BEGIN",
    "STOP",
    "RESUME",
    "RESTORE",
    "TRACE",
)


def parse(script: str) -> list[st.Statement]:
    """Every statement of a script, in order.

    Raises:
        SqlError: with the line and column of the offending token.
    """
    try:
        tokens = Flink().tokenize(script)
    except TokenError as error:
        at = _unclosed(script)
        line, column = script.count("\n", 0, at) + 1, at - (script.rfind("\n", 0, at) + 1) + 1
        what = "a comment" if script[at : at + 1] == "/" else "a quote"
        raise SqlError(f"{what} is not closed", sql=script, line=line, column=column) from error
    return [_Reader(script, chunk).statement() for chunk in _split(tokens)]


_PIECE = re.compile(r"'(?:[^']|'')*'|`(?:[^`]|``)*`|--[^\n]*|/\*.*?\*/|.", re.DOTALL)


def _unclosed(script: str) -> int:
    """Where the quote or comment begins that makes the text unreadable."""
    pieces = (piece for piece in _PIECE.finditer(script) if piece[0] in ("'", "`", "/"))
    return next((p.start() for p in pieces if p[0] != "/" or script.startswith("/*", p.start())), 0)


_LAST_HINT = re.compile(r"\s*/\*\+.*?\*/", re.DOTALL)


def parse_expression(text: str) -> exp.Expression:
    """A scalar expression, as in a computed column."""
    reader = _Reader(text, Flink().tokenize(text))
    parsed = reader.guarded(reader.parser._parse_expression)
    reader.end()
    return parsed


_UNITS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600}


def _constant(literal: exp.Expression, negative: bool) -> str | int | float | None:
    if isinstance(literal, exp.Null):
        return None
    if isinstance(literal, exp.Boolean):
        return str(literal.this).lower()
    if literal.is_string:
        return str(literal.this)
    number = float(literal.this) if "." in literal.this or "e" in literal.this.lower() else int(literal.this)
    return -number if negative else number


def _split(tokens: list[Token]) -> list[list[Token]]:
    """One token list per statement; a statement set is one."""
    chunks: list[list[Token]] = [[]]
    in_set = False
    for token in tokens:
        if token.token_type != TokenType.SEMICOLON:
            chunks[-1].append(token)
            in_set = in_set or _starts_set(chunks[-1])
        elif in_set and chunks[-1][-1].text.upper() != "END":
            chunks[-1].append(token)
        else:
            in_set = False
            chunks.append([])
    return [chunk for chunk in chunks if chunk]


def _starts_set(chunk: list[Token]) -> bool:
    """Asked after each token, of which an INSERT may have very many."""
    first, last = ([t.text.upper() for t in part] for part in (chunk[:3], chunk[-4:]))
    sets = (["EXECUTE", "STATEMENT", "SET"], ["BEGIN", "STATEMENT", "SET"])
    return first in sets or (first[:2] == ["ALTER", "JOB"] and last in [["AS", *s] for s in sets])


def _plain(message: str, near: str) -> str:
    """sqlglot's message in words that do not name its classes."""
    if "required keyword" in message.lower():
        return f"something is missing at '{near}'"
    message = re.sub(r" but got <Token .*", ", but the statement ends or goes on otherwise", message).rstrip(".")
    return message if message[1:2].isupper() else message[:1].lower() + message[1:]


class _Reader:
    """Reads one statement."""

    def __init__(self, script: str, tokens: list[Token]) -> None:
        self.script = script
        self.tokens = tokens
        self.parser = FlinkParser(dialect=Flink(), error_level=ErrorLevel.IMMEDIATE)
        self._load(tokens)
        first, last = tokens[0], tokens[-1]
        hint = _LAST_HINT.match(script, last.end + 1)  # no token of its own, and yet part of the statement
        self.ends = hint.end() if hint is not None else last.end + 1
        self.place = {
            "sql": script[first.start : self.ends],
            "line": script.count("\n", 0, first.start) + 1,
            "column": first.start - (script.rfind("\n", 0, first.start) + 1) + 1,
        }

    def _load(self, tokens: list[Token]) -> None:
        parser = self.parser
        parser.reset()
        parser.sql = self.script
        parser._tokens = tokens
        parser._tokens_size = len(tokens)
        parser._index = -1
        parser._advance()

    # -- helpers ------------------------------------------------------------------------------------------------

    def guarded(self, work: Callable[[], Any]) -> Any:
        """Run a parser method; its errors become ours."""
        try:
            return work()
        except RecursionError as error:
            raise self.refuse("the statement is nested too deeply", hint="split it into views") from error
        except ParseError as error:
            found = error.errors[0] if error.errors else {}
            line, end, text = found.get("line"), found.get("col"), found.get("highlight") or ""
            column = None if end is None else max(int(end) - len(text) + 1, 1)
            message = _plain(str(found.get("description") or error), text)
            raise SqlError(message, sql=self.script, line=line, column=column, detail=f"near '{text}'") from error

    def fail(self, message: str, hint: str | None = None) -> SqlError:
        """An error at the current token."""
        token = self.parser._curr or self.tokens[-1]
        at = token.start if self.parser._curr else token.end + 1
        line = self.script.count("\n", 0, at) + 1
        column = at - (self.script.rfind("\n", 0, at) + 1) + 1
        return SqlError(message, sql=self.script, line=line, column=column, hint=hint)

    def named(self, error: SqlError, names: list[str]) -> SqlError:
        """The error at the first token that spells one of the names."""
        found = next((t for n in names for t in self.tokens if t.text.lower() == n.lower()), self.tokens[0])
        return self.placed(error, found)

    def placed(self, error: SqlError, found: Token) -> SqlError:
        """The error at a token."""
        error.sql = self.script
        error.line = self.script.count("\n", 0, found.start) + 1
        error.column = found.start - (self.script.rfind("\n", 0, found.start) + 1) + 1
        return error

    def refuse(self, message: str, hint: str | None = None) -> SqlError:
        """An error about the statement as a whole."""
        return SqlError(message, sql=self.script, line=self.place["line"], column=self.place["column"], hint=hint)

    def word(self) -> str:
        """The current token in upper case, '' at the end."""
        return self.parser._curr.text.upper() if self.parser._curr else ""

    def take(self, *words: str) -> bool:
        """Go past these words if they come next."""
        at = self.parser._index
        for word in words:
            if self.word() != word:
                self.parser._retreat(at)
                return False
            self.parser._advance()
        return True

    def need(self, *words: str) -> None:
        if not self.take(*words):
            found = f"found '{self.parser._curr.text}'" if self.parser._curr else "the statement ends"
            raise self.fail(f"expected {' '.join(words)}, {found}")

    def name(self) -> str:
        """An identifier, dotted if qualified."""
        parts = [self._part()]
        while self.parser._curr and self.parser._curr.token_type == TokenType.DOT:
            self.parser._advance()
            parts.append(self._part())
        return ".".join(parts)

    def quoted_or_name(self) -> str:
        """A name, as an identifier or as a string."""
        token = self.parser._curr
        return self.text() if token and token.token_type == TokenType.STRING else self.name()

    def _part(self) -> str:
        if not self.parser._curr or self.parser._curr.token_type in (TokenType.STRING, TokenType.L_PAREN):
            raise self.fail("expected a name")
        text = str(self.parser._curr.text)
        self.parser._advance()
        return text

    def text(self) -> str:
        """A string in quotes, or a dotted word as SET allows."""
        token = self.parser._curr
        if token and token.token_type == TokenType.STRING:
            self.parser._advance()
            return str(token.text)
        start = token
        last = token
        while self.parser._curr and self.parser._curr.token_type != TokenType.EQ:
            last = self.parser._curr
            self.parser._advance()
        if not start:
            raise self.fail("expected a value")
        return self.script[start.start : last.end + 1].strip()

    def end(self) -> None:
        if self.parser._curr:
            raise self.fail(f"unexpected '{self.parser._curr.text}'")

    def source(self, start: Token, end: Token | None = None) -> str:
        """The script's text from one token to another (the last one read)."""
        last = end or self.parser._prev
        return self.script[start.start : last.end + 1]

    # -- statements ---------------------------------------------------------------------------------------------

    def statement(self) -> st.Statement:
        """The statement, all of it."""
        self._refuse_stray_commas()
        read = self._READERS.get(self.word())
        if read is None:
            if self.word() not in ("SELECT", "WITH", "VALUES", "("):
                close = nearest(self.word(), _KEYWORDS)
                raise self.fail(
                    f"a statement cannot start with '{self.parser._curr.text}'",
                    hint=f"did you mean {close}?" if close else None,
                )
            read = _Reader._query
        found = read(self)
        self.end()
        return found

    def _refuse_stray_commas(self) -> None:
        """sqlglot reads over a comma that nothing follows."""
        for token, after in zip(self.tokens, [*self.tokens[1:], None]):
            ends = after is None or after.token_type in _AFTER_NO_COMMA
            if token.token_type == TokenType.COMMA and ends:
                raise self.placed(SqlError("nothing follows the comma", detail="near ','"), token)

    def _query(self) -> st.Query:
        parsed = self.guarded(self.parser._parse_statement)
        return st.Query(query=parsed, **self.place)

    def _create(self) -> st.Statement:
        if self.word() == "CREATE" and self.parser._next and self.parser._next.text.upper() in ("CATALOG", "DATABASE"):
            raise self.fail(f"CREATE {self.parser._next.text.upper()} is not supported: a warehouse has one catalog")
        kind = self.parser._next.text.upper() if self.parser._next else ""
        if kind not in _CREATED:
            close = nearest(kind, _CREATED)
            hint = f"did you mean CREATE {close}?" if close else f"CREATE {', '.join(_CREATED)}"
            raise self.refuse("this CREATE statement is not supported", hint=hint)
        if kind == "SAVEPOINT":
            return self._create_savepoint()
        start_of_query = self._query_start()
        parsed = self.guarded(self.parser._parse_statement)
        if not isinstance(parsed, exp.Create):
            raise self.refuse("this CREATE statement is not supported")
        if parsed.args["kind"] == "TABLE":
            try:
                return create_table(parsed, self.place, self.script)
            except SqlError as error:
                raise self.named(error, error.message.split("'")[1::2] or error.message.split()[1:2]) from None
        return self._create_view(parsed, start_of_query)

    def _create_savepoint(self) -> st.CreateSavepoint:
        self.need("CREATE")
        self.need("SAVEPOINT")
        name = self.quoted_or_name()
        location = self.text() if self.take("TO") else None
        return st.CreateSavepoint(name=name, location=location, **self.place)

    def _restore(self) -> st.RestoreSavepoint:
        self.need("RESTORE")
        self.need("SAVEPOINT")
        return st.RestoreSavepoint(name=self.quoted_or_name(), **self.place)

    def _query_start(self) -> Token | None:
        """The first token after the AS that a view's query follows."""
        depth = 0
        for at, token in enumerate(self.tokens[:-1]):
            depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
            following = self.tokens[at + 1].text.upper()
            if depth == 0 and token.text.upper() == "AS" and following in ("SELECT", "WITH", "VALUES", "("):
                return self.tokens[at + 1]
        return None

    def _create_view(self, parsed: exp.Create, start: Token | None) -> st.Statement:
        if parsed.args["kind"] != "VIEW" or start is None or parsed.expression is None:
            hint = "CREATE [TEMPORARY] VIEW v AS SELECT ..., CREATE MATERIALIZED VIEW v AS SELECT ..."
            raise self.refuse(f"CREATE {parsed.args['kind']} is not supported here", hint)
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
            "query_sql": self.script[start.start : self.ends],
            "columns": tuple(c.name for c in schema.expressions) if schema is not None else (),
            "if_not_exists": bool(parsed.args.get("exists")),
            "comment": comment,
            **self.place,
        }
        if exp.MaterializedProperty in kinds:
            return st.CreateMaterializedView(options=property_options(properties), **common)
        return st.CreateView(
            temporary=exp.TemporaryProperty in kinds, replace=bool(parsed.args.get("replace")), **common
        )

    def _drop(self) -> st.Drop:
        self.need("DROP")
        self.take("TEMPORARY")
        for kind in ("MATERIALIZED VIEW", "TABLE", "VIEW", "JOB", "FUNCTION", "SAVEPOINT"):
            if self.take(*kind.split()):
                exists = self.take("IF", "EXISTS")
                return st.Drop(kind=kind, name=self.quoted_or_name(), if_exists=exists, **self.place)
        raise self.fail("expected TABLE, VIEW, MATERIALIZED VIEW, JOB, FUNCTION or SAVEPOINT after DROP")

    def _alter(self) -> st.Statement:
        self.need("ALTER")
        if self.take("JOB"):
            return self._alter_job()
        if self.take("MATERIALIZED", "VIEW"):
            return self._alter_materialized_view()
        if not self.take("TABLE"):
            raise self.fail("expected TABLE, JOB or MATERIALIZED VIEW after ALTER")
        name = self.name()
        made = {"name": name, **self.place}
        if self.take("RENAME", "TO"):
            return st.AlterTable(action="RENAME TO", names=(self.name(),), **made)
        if self.take("RENAME"):
            self.take("COLUMN")
            old = self.name()
            self.need("TO")
            return st.AlterTable(action="RENAME COLUMN", names=(old, self.name()), **made)
        if self.take("SET"):
            pairs = self.guarded(lambda: self.parser._parse_wrapped_csv(self.parser._parse_equality))
            return st.AlterTable(action="SET", options=hint_options(pairs), **made)
        if self.take("RESET"):
            keys = self.guarded(lambda: self.parser._parse_wrapped_csv(self.parser._parse_string))
            return st.AlterTable(action="RESET", names=tuple(k.name for k in keys), **made)
        if self.take("DROP"):
            self.take("COLUMN")
            wrapped = self.take("(")
            names = [self.name()]
            while self.take(","):
                names.append(self.name())
            if wrapped:
                self.need(")")
            return st.AlterTable(action="DROP", names=tuple(names), **made)
        for action in ("ADD", "MODIFY"):
            if self.take(action):
                return st.AlterTable(action=action, columns=self._alter_columns(), **made)
        raise self.fail("expected ADD, MODIFY, DROP, RENAME, SET or RESET after ALTER TABLE")

    def _alter_columns(self) -> tuple[st.ColumnDefinition, ...]:
        self.take("COLUMN")
        if self.word() == "(":
            parsed = self.guarded(lambda: self.parser._parse_wrapped_csv(self._field))
        else:
            parsed = [self.guarded(self._field)]
        return columns_of(parsed, self.script)

    def _field(self) -> Any:
        field = self.parser._parse_field_def()
        if isinstance(field, exp.Identifier) or field is None:
            self.parser.raise_error("expected a type after the column's name")
        return field

    def _insert(self) -> st.Insert:
        self.need("INSERT")
        if self.take("OVERWRITE"):
            raise self.fail("INSERT OVERWRITE is not supported", hint="use INSERT INTO")
        self.need("INTO")
        self.take("TABLE")
        target = self.name()
        comments = self.parser._prev_comments or ()
        hint = self.guarded(self.parser._parse_table_hint)
        columns: list[str] = []
        if self.word() == "(" and self.parser._next and self.parser._next.text.upper() not in ("SELECT", "WITH"):
            self.need("(")
            columns = [self.name()]
            while self.take(","):
                columns.append(self.name())
            self.need(")")
        if self.word() not in ("SELECT", "WITH", "VALUES", "("):
            raise self.fail("expected SELECT or VALUES")
        query = self.guarded(self.parser._parse_statement)
        options = hint_options(hint.expressions) if hint is not None else {}
        for comment in comments:
            options |= comment_options(comment)
        return st.Insert(target=target, query=query, columns=tuple(columns), options=options, **self.place)

    def _statement_set(self) -> st.Statement:
        if self.take("EXECUTE") and self.word() != "STATEMENT":
            if self.word() == "INSERT":
                return self._insert()
            raise self.fail("expected STATEMENT SET or INSERT after EXECUTE")
        self.take("BEGIN")
        self.need("STATEMENT", "SET")
        self.take("BEGIN")
        self.take(";")
        body = self.tokens[self.parser._index :]
        if not body or body[-1].text.upper() != "END":
            raise self.refuse("the statement set has no END")
        inserts = []
        for chunk in _split(body[:-1]):
            found = _Reader(self.script, chunk).statement()
            if not isinstance(found, st.Insert):
                raise self.refuse("a statement set holds INSERT statements only")
            inserts.append(found)
        if not inserts:
            raise self.fail("the statement set is empty")
        self.parser._advance(len(body))
        return st.StatementSet(inserts=tuple(inserts), **self.place)

    def _update(self) -> st.Update:
        parsed = self.guarded(self.parser._parse_statement)
        assignments = tuple((e.this.name, e.expression) for e in parsed.expressions)
        where = parsed.args.get("where")
        name = ".".join(p.name for p in parsed.this.parts)
        return st.Update(target=name, assignments=assignments, where=where.this if where else None, **self.place)

    def _delete(self) -> st.Delete:
        parsed = self.guarded(self.parser._parse_statement)
        where = parsed.args.get("where")
        name = ".".join(p.name for p in parsed.this.parts)
        return st.Delete(target=name, where=where.this if where else None, **self.place)

    def _explain(self) -> st.Explain | st.ExplainState:
        self.need("EXPLAIN")
        about_state = self.take("STATE")
        if about_state and self.take("JOB"):
            return st.ExplainState(job=self.quoted_or_name(), **self.place)
        while self.word() in ("CHANGELOG_MODE", "ESTIMATED_COST", "JSON_EXECUTION_PLAN", "PLAN_ADVICE", ","):
            self.parser._advance()
        self.take("PLAN")
        self.take("FOR")
        rest = self.tokens[self.parser._index :]
        if not rest:
            raise self.fail("expected a statement after EXPLAIN")
        self.parser._advance(len(rest))
        statement = _Reader(self.script, rest).statement()
        return (st.ExplainState if about_state else st.Explain)(statement=statement, **self.place)

    def _show(self) -> st.Show:
        self.need("SHOW")
        self.take("FULL")
        for what in SHOWN:
            if self.take(*what.split()):
                if what == "COLUMNS" and not self.take("FROM"):
                    self.need("IN")
                return st.Show(what=what, name=self.name() if what in _WITH_NAME else None, **self.place)
        close = nearest(self.word(), [w.split()[0] for w in SHOWN])
        proposed = f"did you mean {close}? " if close else ""
        raise self.fail("unknown SHOW", hint=f"{proposed}known: {', '.join(sorted(SHOWN))}")

    def _describe(self) -> st.Describe:
        self.parser._advance()
        self.take("EXTENDED")
        return st.Describe(name=self.name(), **self.place)

    def _set(self) -> st.SetOption:
        self.need("SET")
        if not self.parser._curr:
            return st.SetOption(**self.place)
        key = self.text()
        self.need("=")
        return st.SetOption(key=key, value=self.text(), **self.place)

    def _reset(self) -> st.ResetOption:
        self.need("RESET")
        return st.ResetOption(key=self.text() if self.parser._curr else None, **self.place)

    def _trace(self) -> st.TraceJob:
        self.need("TRACE")
        self.need("JOB")
        name = self.quoted_or_name()
        self.need("WHERE")
        condition = self.guarded(self.parser._parse_expression)
        values = {}
        for term in condition.flatten() if isinstance(condition, exp.And) else [condition]:
            column, value = (term.this, term.expression) if isinstance(term, exp.EQ) else (None, None)
            negative = isinstance(value, exp.Neg)
            literal = value.this if isinstance(value, exp.Neg | exp.Cast) else value  # TIMESTAMP '..' is a cast
            if not isinstance(column, exp.Column) or not isinstance(literal, exp.Literal | exp.Null | exp.Boolean):
                raise self.refuse("TRACE JOB takes column = constant, several with AND")
            if column.name in values:
                raise self.refuse(f"TRACE JOB takes one value of a column, '{column.name}' has two")
            values[column.name] = _constant(literal, negative)
        seconds = self._span() if self.take("FOR") else None
        limit = self._count("rows") if self.take("LIMIT") else None
        return st.TraceJob(name=name, values=values, seconds=seconds, limit=limit, **self.place)

    def _span(self) -> float:
        """'10 SECONDS', '2 MINUTES' or '1 HOUR', in seconds."""
        number = self._count("SECONDS")
        unit = self.word().removesuffix("S")
        if unit not in _UNITS:
            raise self.fail("expected SECONDS, MINUTES or HOURS", hint="FOR 10 SECONDS")
        self.parser._advance()
        return float(number * _UNITS[unit])

    def _count(self, what: str) -> int:
        token = self.parser._curr
        if token is None or not token.text.isdigit() or int(token.text) == 0:
            raise self.fail(f"expected a number of {what}")
        self.parser._advance()
        return int(token.text)

    def _with_options(self) -> dict[str, str]:
        if not self.take("WITH"):
            return {}
        return hint_options(self.guarded(lambda: self.parser._parse_wrapped_csv(self.parser._parse_equality)))

    def _alter_materialized_view(self) -> st.AlterMaterializedView:
        name, options = self.name(), self._with_options()
        self.need("AS")
        start = self.parser._curr
        if start is None or self.word() not in ("SELECT", "WITH", "VALUES", "("):
            raise self.fail("expected a query after AS")
        query = self.guarded(self.parser._parse_statement)
        text = self.script[start.start : self.ends]
        return st.AlterMaterializedView(name=name, query=query, query_sql=text, options=options, **self.place)

    def _alter_job(self) -> st.AlterJob:
        name, options = self.quoted_or_name(), self._with_options()
        self.need("AS")
        rest = self.tokens[self.parser._index :]
        body = _Reader(self.script, rest).statement() if rest else None
        if not isinstance(body, st.Insert | st.StatementSet):
            raise self.fail("expected INSERT or EXECUTE STATEMENT SET after AS")
        self.parser._advance(len(rest))
        return st.AlterJob(name=name, body=body, options=options, **self.place)

    def _call(self) -> st.Call:
        self.need("CALL")
        name = self.name()
        self.need("(")
        positional: list[str | None] = []
        named: dict[str, str | None] = {}
        while self.word() != ")":
            follows = self.parser._next
            if follows is not None and follows.token_type == TokenType.FARROW:
                parameter = self._part().lower()
                self.parser._advance()
                if parameter in named:
                    raise self.fail(f"'{parameter}' is given twice")
                named[parameter] = self._argument()
            elif named:
                raise self.fail("expected name => value after the first named argument")
            else:
                positional.append(self._argument())
            if not self.take(","):
                break
        self.need(")")
        return st.Call(name=name.removeprefix("sys."), positional=tuple(positional), named=named, **self.place)

    def _argument(self) -> str | None:
        """A constant as text."""
        value = self.guarded(self.parser._parse_unary)
        while isinstance(value, exp.Cast):  # TIMESTAMP '2026-11-01 00:00:00'
            value = value.this
        if isinstance(value, exp.Null):
            return None
        if isinstance(value, exp.Boolean):
            return "true" if value.this else "false"
        if not isinstance(value, exp.Literal):
            raise self.fail("expected a constant")
        return str(value.this)

    def _control(self) -> st.ControlJob:
        action = self.word()
        self.parser._advance()
        self.need("JOB")
        return st.ControlJob(action=action, name=self.quoted_or_name(), **self.place)

    _READERS: dict[str, Callable[[_Reader], st.Statement]] = {  # noqa: RUF012 - a constant table
        "CREATE": _create,
        "DROP": _drop,
        "ALTER": _alter,
        "CALL": _call,
        "INSERT": _insert,
        "EXECUTE": _statement_set,
        "BEGIN": _statement_set,
        "UPDATE": _update,
        "DELETE": _delete,
        "EXPLAIN": _explain,
        "SHOW": _show,
        "DESCRIBE": _describe,
        "DESC": _describe,
        "SET": _set,
        "RESET": _reset,
        "STOP": _control,
        "RESUME": _control,
        "RESTORE": _restore,
        "TRACE": _trace,
    }
