"""DataFusion's messages in the user's words: SQL's type names, no generated names, the place of the name that they speak of.

Messages without a rule of their own pass with the general clean-up, so nothing is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlglot.tokens import Tokenizer

from forebay.engine.errors import SqlError

_PREFIXES = re.compile(
    r"^(DataFusion error: |Error during planning: |Schema error: |SQL error: |ParserError\(|type_coercion\s+caused by\s+"
    r"|Optimizer rule '\w+' failed\s+caused by\s+|caused by\s+|Execution error: |Arrow error: |Invalid argument error: "
    r"|This feature is not implemented: |Diagnostic: |Internal error: |Cast error: |Parser error: )+",
)
_GENERATED = (
    (re.compile(r'arrow_cast\((?:Int64|Float64)\(([^()]*)\),\s*Utf8\("\w+"\)\)'), r"\1"),
    (re.compile(r'arrow_cast\(((?:[^()]|\([^()]*\))*),\s*Utf8\("[^"]*"\)\)'), r"\1"),
    (re.compile(r"wrap_int\d+\(((?:[^()]|\([^()]*\))*)\)"), r"\1"),
    (re.compile(r'\bUtf8\("([^"]*)"\)'), r"'\1'"),
    (re.compile(r"\b(?:Int|UInt|Float)\d+\(([^()]*)\)"), r"\1"),
    (re.compile(r"\x1f"), "."),
    (re.compile(r"\s*This issue was likely caused by a bug in DataFusion's code.*?/issues\.?", re.DOTALL), ""),
)
_TYPES = {
    "Int8": "TINYINT", "Int16": "SMALLINT", "Int32": "INT", "Int64": "BIGINT", "UInt64": "BIGINT", "Float32": "FLOAT",
    "Float64": "DOUBLE", "Utf8": "STRING", "Utf8View": "STRING", "LargeUtf8": "STRING", "Boolean": "BOOLEAN",
    "Binary": "BYTES", "Date32": "DATE", "Timestamp(s)": "TIMESTAMP(0)", "Timestamp(ms)": "TIMESTAMP(3)",
    "Timestamp(us)": "TIMESTAMP(6)", "Timestamp(ns)": "TIMESTAMP(9)", 'Timestamp(ms, "UTC")': "TIMESTAMP_LTZ(3)",
    'Timestamp(us, "UTC")': "TIMESTAMP_LTZ(6)", "Interval(MonthDayNano)": "INTERVAL", "Time32(ms)": "TIME",
}  # fmt: skip
_TYPE = re.compile("|".join(rf"\b{re.escape(t)}(?!\w)" for t in sorted(_TYPES, key=len, reverse=True)))
_DECIMAL = re.compile(r"\bDecimal128\((\d+), (\d+)\)")
_LIST = re.compile(r"\bList\(((?:[^()]|\([^()]*\))*)\)")


def explained(message: str, sql: str | None) -> SqlError:
    """DataFusion's message as ours, with the place of the name that it speaks of."""
    text = _PREFIXES.sub("", message.strip()).strip()
    for pattern, words in _GENERATED:
        text = pattern.sub(words, text)
    for pattern, build in _RULES:
        found = pattern.search(text)
        if found is not None:
            error, name = build(found)
            break
    else:
        error, name = _general(text), _named(text)
    if name and sql is not None:
        error.line, error.column = find_token(sql, name.split(".")[-1])
    error.sql = sql
    return error


def _general(text: str) -> SqlError:
    """First sentence, then the rest as detail; a suggestion is a hint."""
    text = in_sql_types(text)
    suggestion = re.search(r"\.?\s*Did you mean '?([^'\n?]+)'?\?", text)
    if suggestion is not None:
        text = text.replace(suggestion.group(0), ".")
    head, _, rest = re.sub(r"\s*\n\s*", " ", text).partition(". ")
    if head[:1].isupper() and not head[:2].isupper():
        head = head[0].lower() + head[1:]
    hint = f"did you mean {suggestion.group(1)}?" if suggestion is not None else None
    return SqlError(head.rstrip(". "), detail=rest.strip() or None, hint=hint)


def in_sql_types(text: str) -> str:
    """The text with SQL's names for Arrow's types."""
    text = _LIST.sub(r"ARRAY<\1>", _DECIMAL.sub(r"DECIMAL(\1, \2)", text))
    return _TYPE.sub(lambda m: _TYPES[m.group(0)], text)


_NAMED = re.compile(
    r"(?:No field named|Invalid function|unqualified field|[Ii]nvalid qualifier|predicate|[Ff]ield|[Cc]olumn) "
    r"[`'\"]?([\w.\"$]+?)[`'\"]?(?:[,;\s]|\.\s|\.?$)"
)


def _named(text: str) -> str | None:
    found = _NAMED.search(text)
    return None if found is None else found.group(1).strip('."').replace('"', "")


_Built = tuple[SqlError, str | None]


def _no_field(found: re.Match[str]) -> _Built:
    name, rest = found.group(1).replace('"', ""), found.string[found.end() :]
    close = re.search(r"Did you mean '([^']+)'", rest)
    fields = re.search(r"Valid fields are (.*?)\.?$", rest, re.DOTALL)
    return (
        SqlError(
            f"no field named {name}",
            detail=f"the fields are {', '.join(dict.fromkeys(fields.group(1).split(', ')))}" if fields else None,
            hint=f"did you mean {close.group(1)}?" if close else None,
        ),
        name,
    )


def _no_match(found: re.Match[str]) -> _Built:
    name, types = found.group(1), in_sql_types(found.group(2))
    takes = re.findall(rf"{re.escape(name)}\([^\n]*\)", found.string[found.end() :])
    detail = "it takes " + ", ".join(in_sql_types(t) for t in takes) if takes else None
    return SqlError(f"{name.upper()} does not take ({types})", detail=detail, hint="CAST the arguments"), name


def _not_grouped(found: re.Match[str]) -> _Built:
    name = found.group(1).replace('"', "")
    message = f"column {name} is neither in GROUP BY nor inside an aggregate function"
    return SqlError(message, hint=f"add {name} to GROUP BY, or take MAX({name})"), name


def _twice(found: re.Match[str]) -> _Built:
    table = found.group(1).split(".")[0]
    return SqlError(f"{table} is in FROM twice under one name", hint=f"give it an alias: {table} AS other"), table


def _no_room(found: re.Match[str]) -> _Built:
    hint = (
        "a quarter of the warehouse's memory is for queries: SET 'memory.budget' higher, or join and group fewer rows"
    )
    return SqlError("the query needs more memory than it may have", detail=found[1], hint=hint), None


_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], _Built]], ...] = (
    (re.compile(r'No field named ([\w"$]+(?:\.[\w"$]+)*)'), _no_field),
    (re.compile(r"No function matches the given name and argument types '(\w+)\((.*?)\)'", re.DOTALL), _no_match),
    (re.compile(r'column "([^"]+)" must appear in the GROUP BY clause'), _not_grouped),
    (re.compile(r"Resources exhausted: (.*)", re.DOTALL), _no_room),
    (re.compile(r"[Ss]chema contains duplicate qualified field name (\S+)"), _twice),
)


def find_token(sql: str, name: str) -> tuple[int | None, int | None]:
    """Line and column of the first token that spells the name."""
    for token in Tokenizer().tokenize(sql):
        if token.text.lower() == name.lower():
            before = sql[: token.start]
            return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return None, None


def place_in(sql: str, message: str) -> tuple[int, int]:
    """Line and column in the text of the first name that the message quotes."""
    for name in message.split("'")[1::2]:
        found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql)
        if name and found is not None:
            at = found.start()
            return sql.count("\n", 0, at) + 1, at - (sql.rfind("\n", 0, at) + 1) + 1
    return 1, 1
