"""Scalar functions of Flink SQL that DataFusion lacks or gives another meaning, over Arrow arrays.

Each is an `ArrowFunction`: fixed argument types (the rewriter casts to them), arrays of one length in, one array out, NULL
in any argument gives NULL unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ArrowFunction:
    """A scalar function in Arrow terms. `volatile`: equal arguments may give other results."""

    name: str
    arguments: tuple[pa.DataType, ...]
    result: pa.DataType
    apply: Callable[..., pa.Array]
    volatile: bool = False


def per_row(function: Callable[..., Any], result: pa.DataType) -> Callable[..., pa.Array]:
    """Lifts a function of Python values over arrays; a NULL argument gives NULL without a call."""

    def apply(*arrays: pa.Array) -> pa.Array:
        rows: Iterable[tuple[Any, ...]] = zip(*(a.to_pylist() for a in arrays))
        return pa.array([None if None in row else function(*row) for row in rows], result)

    return apply
