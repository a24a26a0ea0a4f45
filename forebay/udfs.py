"""User functions: a Python function of Arrow arrays, usable in SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from forebay.engine.errors import CatalogError, DataError
from forebay.planner.dialect.definitions import sql_type
from forebay.planner.dialect.script import parse_expression
from forebay.planner.functions import register_function
from forebay.planner.udfs import ArrowFunction

TypeName: TypeAlias = Any
"""A SQL type ('DECIMAL(10, 2)') or an Arrow type."""


class Udf:
    """A scalar function for SQL; still callable from Python."""

    def __init__(
        self,
        function: Callable[..., pa.Array],
        arguments: Sequence[TypeName],
        returns: TypeName,
        name: str | None,
        deterministic: bool,
    ) -> None:
        self.name = (name or function.__name__).lower()
        self.function = function
        self.arguments = tuple(map(_type, arguments))
        self.returns = _type(returns)
        self.deterministic = deterministic
        self.__doc__ = function.__doc__

    def __call__(self, *arrays: pa.Array) -> pa.Array:
        return self.function(*arrays)

    def checked(self, *arrays: pa.Array) -> pa.Array:
        """Call it, and see that it gave one value of its type per row.

        Raises:
            DataError: it did not.
        """
        result = self.function(*arrays)
        if isinstance(result, pa.ChunkedArray):
            result = result.combine_chunks()
        if not isinstance(result, pa.Array) or len(result) != len(arrays[0]):
            raise DataError(f"function {self.name} must return a pyarrow.Array as long as its arguments")
        return result if result.type == self.returns else result.cast(self.returns)


def udf(
    arguments: Sequence[TypeName], returns: TypeName, *, name: str | None = None, deterministic: bool = True
) -> Callable[[Callable[..., pa.Array]], Udf]:
    """Decorate a function of Arrow arrays of one length that returns an array of that length.

    `arguments` and `returns`: SQL types ('BIGINT', 'DECIMAL(10, 2)') or Arrow types. Say `deterministic=False` if equal
    arguments may give other results: what it made of a row is then remembered, so that retractions match.

        @forebay.udf(["STRING"], "STRING")
        def shout(words: pa.Array) -> pa.Array:
            return pc.utf8_upper(words)

        con.create_function(shout)
    """

    def decorate(function: Callable[..., pa.Array]) -> Udf:
        return Udf(function, arguments, returns, name, deterministic)

    return decorate


def register_udf(function: Any) -> None:
    """Make it known to planning and evaluation.

    Raises:
        CatalogError: it is no `udf`, takes no arguments, or has a built-in function's name.
    """
    if not isinstance(function, Udf):
        raise CatalogError("create_function takes a function decorated with forebay.udf")
    if not function.arguments:
        raise CatalogError(f"function {function.name} needs an argument: it could not know how many rows to give")
    try:
        register_function(
            ArrowFunction(
                function.name, function.arguments, function.returns, function.checked, not function.deterministic
            )
        )
    except ValueError as error:
        raise CatalogError(str(error)) from error


def _type(given: TypeName) -> pa.DataType:
    if isinstance(given, pa.DataType):
        return given
    return sql_type(parse_expression(f"CAST(x AS {given})").args["to"]).arrow
