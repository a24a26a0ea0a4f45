"""DECIMAL meets FLOAT or DOUBLE: in Flink the exact side becomes DOUBLE; DataFusion would cut the float to a DECIMAL(30, 15).

A *group* is the operands of one node that are brought to one type: both sides of a comparison, the results of a CASE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from sqlglot import exp

_COMPARISONS = exp.EQ | exp.NEQ | exp.GT | exp.GTE | exp.LT | exp.LTE | exp.NullSafeEQ | exp.NullSafeNEQ
_CALLS = frozenset(("GREATEST", "LEAST", "NULLIF", "IFNULL", "NVL", "IF"))


_EXACT = frozenset(("SUM", "COUNT", "MIN", "MAX", "AVG", "ROW_NUMBER", "RANK", "DENSE_RANK"))
"""Calls that make no float of exact numbers."""


def has_float(schema: pa.Schema) -> bool:
    """Whether a column holds floats, nested ones too."""
    return any("float" in text or "double" in text for text in (str(f.type) for f in schema))


def makes_float(query: exp.Expression) -> bool:
    """Whether the query may have floats although its tables have none. Finding types costs time: most queries need not."""
    for node in query.walk():
        match node:
            case exp.Literal() if not node.is_string and "e" in node.name.lower():
                return True
            case exp.DataType() if node.this in (exp.DataType.Type.FLOAT, exp.DataType.Type.DOUBLE):
                return True
            case exp.Anonymous() if str(node.this).upper() not in _EXACT:
                return True
    return False


def group_of(node: exp.Expression) -> tuple[exp.Expression, ...]:
    """The operands of `node` that get one type; none if it has no such group, or one that cannot mix numbers."""
    operands = tuple(_operands(node))
    return () if len(operands) < 2 or any(_is_text(o) for o in operands) else operands


def _operands(node: exp.Expression) -> Sequence[Any]:
    match node:
        case exp.Between():
            return node.this, node.args["low"], node.args["high"]
        case exp.In() if node.expressions:
            return node.this, *node.expressions
        case exp.Case():
            default = node.args.get("default")
            return *(branch.args["true"] for branch in node.args["ifs"]), *([] if default is None else [default])
        case exp.Coalesce():
            return node.this, *node.expressions
        case exp.Anonymous() if str(node.this).upper() in _CALLS:
            return tuple(node.expressions)[1 if str(node.this).upper() == "IF" else 0 :]
    return (node.this, node.expression) if isinstance(node, _COMPARISONS) else ()


def _is_text(operand: exp.Expression) -> bool:
    return isinstance(operand, exp.Literal) and operand.is_string


def make_doubles(node: exp.Expression, types: list[pa.DataType]) -> None:
    """Cast the decimals of the node's group, of these types, if a float is among them."""
    if not (any(map(pa.types.is_floating, types)) and any(map(pa.types.is_decimal, types))):
        return
    for operand, kind in zip(group_of(node), types):
        if pa.types.is_decimal(kind):
            operand.replace(exp.Cast(this=operand.copy(), to=exp.DataType.build("DOUBLE")))
