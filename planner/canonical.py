"""One text for one meaning: the canonical form of a plan and its fingerprint, by which jobs share scans and state.

Names of columns do not count (positions do), types, tables, options and constants do. The form is our own and carries a
version, so neither a library's printer nor a renamed class can silently change what an old checkpoint refers to.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from enum import Enum
from typing import Any

import pyarrow as pa

from forebay.engine.errors import InternalError
from forebay.planner.expr import Expr
from forebay.planner.nodes import AggregateCall, Node, SortKey, WindowSpec

VERSION = 1


def canonical(node: Node) -> str:
    """The canonical form of the relation that the node computes."""
    return f"v{VERSION} {_form(node)}"


def fingerprint(node: Node) -> str:
    """SHA-256 of the canonical form, as 64 hex digits."""
    return hashlib.sha256(canonical(node).encode()).hexdigest()


def _form(value: Any) -> str:
    """An S-expression: (Name field ...), lists in brackets, text quoted."""
    match value:
        case Node():
            types = " ".join(str(f.type) + ("" if f.nullable else "!") for f in value.schema)
            return f"({type(value).__name__} {_fields(value)} : {types})"
        case Expr() | AggregateCall() | SortKey() | WindowSpec():
            return f"({type(value).__name__} {_fields(value)})"
        case Enum():
            return str(value.value).replace(" ", "-")
        case pa.DataType():
            return f"<{value}>"
        case tuple() | list():
            return "[" + " ".join(map(_form, value)) + "]"
        case dict():
            return "{" + " ".join(f"{_form(k)}={_form(v)}" for k, v in sorted(value.items())) + "}"
        case str() | bytes():
            return repr(value)
        case None | bool() | int() | float():
            return repr(value)
    return _constant(value)


def _constant(value: Any) -> str:
    """Decimals and intervals, the other values that a constant may have."""
    if type(value).__name__ in ("Decimal", "MonthDayNano"):
        return str(value)
    raise InternalError(f"{type(value).__name__} has no canonical form")


def _fields(value: Any) -> str:
    return " ".join(_form(getattr(value, f.name)) for f in fields(value) if f.name != "schema")
