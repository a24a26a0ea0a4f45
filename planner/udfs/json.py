"""JSON functions: JSON_VALUE, JSON_QUERY, JSON_EXISTS over strings, with the common part of SQL/JSON paths.

A path is `$`, `.name`, `['name']`, `[n]`, `[*]` and `.*`; `lax` and `strict` in front are accepted. What is missing, or no
JSON at all, gives NULL (FALSE for JSON_EXISTS).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa

from forebay.engine.errors import DataError
from forebay.planner.udfs import ArrowFunction, per_row

_S = pa.string()
_STEP = re.compile(r"\.([\w$-]+)|\.\*|\[\s*(?:(\d+)|'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|\*)\s*\]")
_ALL = object()


@cache
def steps(path: str) -> tuple[Any, ...]:
    """A path as member names (str), positions (int) and wildcards.

    Raises:
        DataError: the path is malformed.
    """
    text = re.sub(r"^\s*(lax|strict)\s+", "", path).strip()
    found: list[Any] = []
    at = 1
    if not text.startswith("$"):
        raise DataError(f"'{path}' is no JSON path", hint="a path starts with $, as in '$.user.name'")
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise DataError(f"'{path}' is no JSON path", detail=f"it cannot be read from '{text[at:]}' on")
        name, position, single, double = step.groups()
        key = next((k for k in (name, single, double) if k is not None), None)
        found.append(int(position) if position is not None else _ALL if key is None else key)
        at = step.end()
    return tuple(found)


@lru_cache(maxsize=4096)
def document(text: str) -> tuple[bool, Any]:
    """(is JSON, value); several paths into one document parse it once."""
    try:
        return True, json.loads(text)
    except ValueError:
        return False, None


def matches(value: Any, path: tuple[Any, ...]) -> Iterator[Any]:
    """Every value that the path leads to."""
    if not path:
        yield value
        return
    step, rest = path[0], path[1:]
    if step is _ALL:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from matches(item, rest)
    elif isinstance(step, int):
        if isinstance(value, list) and step < len(value):
            yield from matches(value[step], rest)
    elif isinstance(value, dict) and step in value:
        yield from matches(value[step], rest)


def _found(text: str, path: str) -> list[Any]:
    valid, value = document(text)
    return list(matches(value, steps(path))) if valid else []


def json_value(text: str, path: str) -> str | None:
    """The one scalar at the path as text."""
    found = _found(text, path)
    if len(found) != 1 or found[0] is None or isinstance(found[0], dict | list):
        return None
    return found[0] if isinstance(found[0], str) else json.dumps(found[0])


def json_query(text: str, path: str) -> str | None:
    """The object or array at the path as JSON text."""
    found = _found(text, path)
    if len(found) != 1 or not isinstance(found[0], dict | list):
        return None
    return json.dumps(found[0], ensure_ascii=False, separators=(",", ":"))


def json_quote(text: str) -> str:
    """The text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


JSON_FUNCTIONS = (
    ArrowFunction("json_value", (_S, _S), _S, per_row(json_value, _S)),
    ArrowFunction("json_query", (_S, _S), _S, per_row(json_query, _S)),
    ArrowFunction("json_exists", (_S, _S), pa.bool_(), per_row(lambda t, p: bool(_found(t, p)), pa.bool_())),
    ArrowFunction("is_json", (_S,), pa.bool_(), per_row(lambda t: document(t)[0], pa.bool_())),
    ArrowFunction("json_quote", (_S,), _S, per_row(json_quote, _S)),
)
