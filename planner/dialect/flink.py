"""Flink SQL for sqlglot: what its grammar has and stock sqlglot has not.

Function calls stay as the user wrote them (only structural ones are parsed into their own nodes), because the planner and not
sqlglot decides what a function means. Identifiers are case sensitive. PostgreSQL's type names and `::` parse as well.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any, ClassVar

from sqlglot import exp, generator, parser
from sqlglot.dialects.dialect import Dialect, NormalizationStrategy
from sqlglot.tokens import Tokenizer as BaseTokenizer
from sqlglot.tokens import TokenType

from forebay.engine.errors import InternalError
from forebay.planner.dialect.nodes import (
    LikeClause,
    MetadataColumn,
    OptionsHint,
    StateTtlHint,
    WatermarkDefinition,
    WindowTVF,
)

if importlib.util.find_spec("sqlglotc") is not None:
    raise InternalError(
        "the compiled sqlglot (package sqlglotc) cannot load dialects of others", hint="pip uninstall sqlglotc"
    )

TVFS = {
    "TUMBLE": ("SIZE", "OFFSET"),
    "HOP": ("SLIDE", "SIZE", "OFFSET"),
    "CUMULATE": ("STEP", "SIZE", "OFFSET"),
    "SESSION": ("GAP",),
}
"""Window table functions and the names of their intervals in positional order."""

_STRUCTURAL = frozenset(
    ("COALESCE", "COUNT", "SUM", "AVG", "MIN", "MAX", "IF", "CASE", "ROW_NUMBER", "RANK", "DENSE_RANK", "UNNEST")
)


class FlinkParser(parser.Parser):  # type: ignore[misc]
    """The grammar. Method names follow sqlglot's, which calls them."""

    FUNCTIONS: ClassVar = {k: v for k, v in parser.Parser.FUNCTIONS.items() if k in _STRUCTURAL}
    CONSTRAINT_PARSERS: ClassVar = {
        **parser.Parser.CONSTRAINT_PARSERS,
        "WATERMARK": lambda self: self._parse_watermark(),
        "METADATA": lambda self: self._parse_metadata(),
    }
    SCHEMA_UNNAMED_CONSTRAINTS: ClassVar = {*parser.Parser.SCHEMA_UNNAMED_CONSTRAINTS, "WATERMARK"}
    PROPERTY_PARSERS: ClassVar = {
        **parser.Parser.PROPERTY_PARSERS,
        "LIKE": lambda self: self._parse_like_clause(),
    }
    FUNCTION_PARSERS: ClassVar = {
        **parser.Parser.FUNCTION_PARSERS,
        "JSON_VALUE": lambda self: self._parse_json_path("JSON_VALUE"),
        "JSON_QUERY": lambda self: self._parse_json_path("JSON_QUERY"),
    }
    WRAPPED_TRANSFORM_COLUMN_CONSTRAINT = False

    def _parse_json_path(self, name: str) -> Any:
        """JSON_VALUE(json, path [RETURNING type] [NULL | ERROR | DEFAULT x ON EMPTY | ERROR]); the clauses lie in `meta`."""
        arguments = self._parse_csv(self._parse_bitwise)
        call = exp.Anonymous(this=name, expressions=arguments)
        if self._match(TokenType.RETURNING):
            call.meta["returning"] = self._parse_types()
        clauses = []
        while self._curr and self._curr.token_type != TokenType.R_PAREN:
            clauses.append(self._curr.text)
            self._advance()
        if clauses:
            call.meta["clauses"] = clauses
        return call

    # -- columns ------------------------------------------------------------------------------------------------

    def _parse_watermark(self) -> Any:
        if not self._match(TokenType.FOR):
            self.raise_error("expected FOR after WATERMARK")
        column = self._parse_column()
        if not self._match(TokenType.ALIAS):
            self.raise_error("expected AS in WATERMARK FOR column AS expression")
        return self.expression(WatermarkDefinition(this=column, expression=self._parse_disjunction()))

    def _parse_metadata(self) -> Any:
        key = self._parse_string() if self._match(TokenType.FROM) else None
        return self.expression(MetadataColumn(this=key, virtual=bool(self._match_text_seq("VIRTUAL"))))

    def _parse_key_constraint_options(self) -> list[Any]:
        options: list[Any] = []
        if self._match_text_seq("NOT", "ENFORCED"):
            options.append("NOT ENFORCED")
        elif self._match_text_seq("ENFORCED"):
            self.raise_error("PRIMARY KEY ENFORCED is not supported; write PRIMARY KEY (...) NOT ENFORCED")
        return options + list(super()._parse_key_constraint_options())

    def _parse_like_clause(self) -> Any:
        table = self._parse_id_var()
        options = []
        if self._match(TokenType.L_PAREN):
            while not self._match(TokenType.R_PAREN):
                if not self._curr:
                    self.raise_error("expected ) after the LIKE options")
                options.append(self._curr.text.upper())
                self._advance()
        return self.expression(LikeClause(this=table, options=options))

    # -- types --------------------------------------------------------------------------------------------------

    def _parse_types(
        self, check_func: bool = False, schema: bool = False, allow_identifiers: bool = True, **kwargs: Any
    ) -> Any:
        row = self._curr and self._curr.text.upper() == "ROW" and self._next
        if row and (self._next.token_type == TokenType.LT or (schema and self._next.token_type == TokenType.L_PAREN)):
            return self._parse_row_type()
        return super()._parse_types(check_func=check_func, schema=schema, allow_identifiers=allow_identifiers, **kwargs)

    def _parse_row_type(self) -> Any:
        self._advance()
        closing = TokenType.R_PAREN if self._curr.token_type == TokenType.L_PAREN else TokenType.GT
        self._advance()
        fields = []
        while True:
            name = self._parse_id_var(any_token=True)
            kind = self._parse_types(schema=True)
            if kind is None:
                self.raise_error("expected a type after the field's name in ROW")
            if self._match_pair(TokenType.NOT, TokenType.NULL):
                kind.set("nullable", False)
            if self._match(TokenType.COMMENT):
                self._parse_string()
            fields.append(self.expression(exp.ColumnDef(this=name, kind=kind)))
            if not self._match(TokenType.COMMA):
                break
        if not self._match(closing):
            self.raise_error("expected the end of the ROW type")
        return self.expression(exp.DataType(this=exp.DataType.Type.STRUCT, expressions=fields, nested=True))

    # -- FROM items ---------------------------------------------------------------------------------------------

    def _parse_table(self, *args: Any, **kwargs: Any) -> Any:
        window = self._try_window()
        if window is None:
            return super()._parse_table(*args, **kwargs)
        alias = self._parse_table_alias(alias_tokens=self.TABLE_ALIAS_TOKENS)
        if alias:
            window.set("alias", alias)
        if kwargs.get("joins"):
            for join in self._parse_joins():
                window.append("joins", join)
        return window

    def _parse_table_parts(self, *args: Any, **kwargs: Any) -> Any:
        table = super()._parse_table_parts(*args, **kwargs)
        if isinstance(table, exp.Table):
            hint = self._parse_table_hint()
            if hint is not None:
                table.set("hints", [hint])
        return table

    def _parse_table_hint(self) -> Any:
        if not self._match(TokenType.HINT):
            return None
        if not self._match_text_seq("OPTIONS"):
            self.raise_error("expected OPTIONS('key'='value', ...) in the table's hint")
        items = self._parse_wrapped_csv(self._parse_equality)
        self._end_hint()
        return self.expression(OptionsHint(expressions=items))

    def _end_hint(self) -> None:
        if not self._match_pair(TokenType.STAR, TokenType.SLASH):
            self.raise_error("expected */ at the end of the hint")

    def _parse_hint(self) -> Any:
        """After SELECT the tokenizer gives a hint's text as a comment."""
        if not self._match(TokenType.HINT):
            return None
        text = (self._prev_comments or [""])[0].strip()
        name, _, rest = text.partition("(")
        pairs = re.findall(r"'([^']*)'\s*=\s*'([^']*)'", rest)
        if name.strip().upper() != "STATE_TTL" or not pairs:
            self.raise_error("unknown hint; known after SELECT: STATE_TTL('table'='1d', ...)")
        items = [exp.EQ(this=exp.Literal.string(k), expression=exp.Literal.string(v)) for k, v in pairs]
        return self.expression(exp.Hint(expressions=[StateTtlHint(expressions=items)]))

    def _parse_lateral(self) -> Any:
        at = self._index
        if self._match(TokenType.LATERAL) and self._match_text_seq("TABLE") and self._match(TokenType.L_PAREN):
            function = self._parse_function(anonymous=True)
            self._match_r_paren()
            return self.expression(exp.Lateral(this=function, alias=self._parse_table_alias()))
        self._retreat(at)
        return super()._parse_lateral()

    def _try_window(self) -> Any:
        at = self._index
        wrapped = bool(self._match(TokenType.TABLE))
        if wrapped and not self._match(TokenType.L_PAREN):
            self._retreat(at)
            return None
        named = self._curr and self._curr.text.upper() in TVFS
        if not named or not self._next or self._next.token_type != TokenType.L_PAREN:
            self._retreat(at)
            return None
        window = self._parse_window_function()
        if wrapped:
            self._match_r_paren()
        return window

    def _parse_window_function(self) -> Any:
        start = self._curr
        name = start.text.upper()
        self._advance()
        self._advance()
        positional: list[Any] = []
        named: dict[str, Any] = {}
        while True:
            key = None
            if self._next and self._next.token_type == TokenType.FARROW:
                key = self._curr.text.upper()
                self._advance()
                self._advance()
            value = self._parse_window_argument()
            if key is None:
                positional.append(value)
            else:
                named[key] = value
            if not self._match(TokenType.COMMA):
                break
        self._match_r_paren()
        return self._window(name, start, positional, named)

    def _window(self, name: str, start: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        if named:
            source, time = named.pop("DATA", None), named.pop("TIMECOL", None)
            unknown = [k for k in named if k not in TVFS[name]]
            if unknown:
                self.raise_error(f"unknown parameter {unknown[0]} of {name}; known: {', '.join(TVFS[name])}", start)
            params = [named[k] for k in TVFS[name] if k in named]
        else:
            source, time, *params = [*positional, None, None][: max(len(positional), 2)]
        if source is None or time is None or not params:
            self.raise_error(f"{name} takes TABLE t, DESCRIPTOR(time column), INTERVAL ...", start)
        if not time.meta.get("descriptor"):
            self.raise_error(f"the second argument of {name} is DESCRIPTOR(time column)", start)
        window = self.expression(
            WindowTVF(
                this=name, input=source, timecol=time, params=params, partition_by=source.meta.pop("partition_by", None)
            )
        )
        window.meta.update(line=start.line, col=start.col)
        return window

    def _parse_window_argument(self) -> Any:
        if self._match(TokenType.TABLE):
            table = self._parse_table_parts()
            if self._match(TokenType.PARTITION_BY):
                wrapped = self._match(TokenType.L_PAREN)
                columns = [self._parse_column()]
                while (wrapped or not self._at_descriptor()) and self._match(TokenType.COMMA):
                    columns.append(self._parse_column())
                if wrapped:
                    self._match_r_paren()
                table.meta["partition_by"] = columns
            return table
        if self._match_text_seq("DESCRIPTOR"):
            column = self._parse_wrapped_csv(self._parse_column)[0]
            column.meta["descriptor"] = True
            return column
        if self._match(TokenType.L_PAREN, advance=False):
            return self._parse_select(table=True)
        return self._parse_assignment()

    def _at_descriptor(self) -> bool:
        return bool(self._next) and self._next.text.upper() == "DESCRIPTOR"


class Flink(Dialect):  # type: ignore[misc]
    """Flink SQL."""

    NORMALIZATION_STRATEGY = NormalizationStrategy.CASE_SENSITIVE
    NULL_ORDERING = "nulls_are_small"
    ALIAS_POST_VERSION = True

    class Tokenizer(BaseTokenizer):  # type: ignore[misc]
        """Backticks quote names; single quotes quote strings."""

        HEX_STRINGS: ClassVar = [("x'", "'"), ("X'", "'")]
        UNICODE_STRINGS: ClassVar = [(prefix + "'", "'") for prefix in ("U&", "u&")]
        IDENTIFIERS: ClassVar = ["`"]
        QUOTES: ClassVar = ["'"]
        COMMANDS: ClassVar[set[TokenType]] = set()
        KEYWORDS: ClassVar = {
            **BaseTokenizer.KEYWORDS,
            "BYTES": TokenType.VARBINARY,
            "STRING": TokenType.TEXT,
            "TIMESTAMP_LTZ": TokenType.TIMESTAMPLTZ,
            "ROW": TokenType.VAR,
            "SESSION": TokenType.VAR,
            "BYTEA": TokenType.VARBINARY,
            "FLOAT8": TokenType.DOUBLE,
            "FLOAT4": TokenType.FLOAT,
            "INT8": TokenType.BIGINT,  # bytes, as in PostgreSQL: sqlglot reads bits
        }

    Parser = FlinkParser

    class Generator(generator.Generator):  # type: ignore[misc]
        """Only used to show expressions back to the user."""
