"""What an aggregate function keeps per group and what it makes of it.

An accumulator owns `width` words of its group's row and says what a *delta* (groups, weights, values) does to them and which
result they stand for. Functions whose result does not follow from a sum are *held*: the operator keeps their rows in order
beside the words, and they read their result off the order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forebay.engine.errors import UnsupportedError
from forebay.engine.state.arrays import decimal_array, decimals, doubles, integer_array, integers
from forebay.engine.state.groups import Ids, Words
from forebay.engine.state.multiset import OrderedRows
from forebay.engine.state.order import Order, from_value_words, value_words
from forebay.kernels import aggregate as kernels


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One aggregate call: `name` lower case, args and filter are input columns, `type` is that of the result.

    `constants` are literal arguments after the columns (a separator); `order` is the ORDER BY inside the call.
    """

    name: str
    args: tuple[int, ...]
    type: pa.DataType
    distinct: bool = False
    filter: int | None = None
    constants: tuple[object, ...] = ()
    order: tuple[Order, ...] = ()


class Accumulator(ABC):
    """`words` is the group table's matrix; `at` the first of the accumulator's words in a row."""

    width: int

    @abstractmethod
    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        """Add `weights` times the values to their groups; a NULL value has weight 0."""

    @abstractmethod
    def result(self, rows: Words, at: int) -> pa.Array:
        """One value per row of gathered words."""

    def settle(self, rows: Words, at: int) -> None:  # noqa: B027 - exact accumulators end where they began
        """At the end of an epoch: bring the gathered words of groups without values back to zero."""


class Count(Accumulator):
    """COUNT: how many."""

    width = 1

    def __init__(self, kind: pa.DataType) -> None:
        self._type = kind

    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        kernels.add_count(words, at, groups, weights)

    def result(self, rows: Words, at: int) -> pa.Array:
        return integer_array(_column(rows, at), None, self._type)


class IntegerSum(Accumulator):
    """SUM of integers: wraps in the result's type, as Flink's does. NULL of nothing."""

    width = 2

    def __init__(self, kind: pa.DataType) -> None:
        self._type = kind

    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        kernels.add_int(words, at, groups, weights, integers(values))

    def result(self, rows: Words, at: int) -> pa.Array:
        return integer_array(_column(rows, at), rows[:, at + 1] == 0, self._type)


class IntegerAverage(IntegerSum):
    """AVG of integers: truncated if the result is an integer."""

    def result(self, rows: Words, at: int) -> pa.Array:
        total, count = _column(rows, at), _column(rows, at + 1)
        none = count == 0
        count[none] = 1
        if pa.types.is_floating(self._type):
            return pa.array(total / count, mask=none).cast(self._type)
        quotient = total // count
        quotient += (total < 0) & (quotient * count != total)
        return integer_array(quotient, none, self._type)


class FloatSum(Accumulator):
    """SUM of floating-point numbers: exact inside, rounded once; see `kernels.wide`."""

    width = kernels.FLOAT_WIDTH

    def __init__(self, kind: pa.DataType) -> None:
        self._type = kind

    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        kernels.add_float(words, at, groups, weights, doubles(values).view(np.int64))

    def result(self, rows: Words, at: int) -> pa.Array:
        return self._finish(self._total(rows, at), rows[:, at + 4] == 0)

    def settle(self, rows: Words, at: int) -> None:
        rows[rows[:, at + 4] == 0, at : at + self.width] = 0

    def _total(self, rows: Words, at: int) -> npt.NDArray[np.float64]:
        out = np.empty(rows.shape[0])
        kernels.float_result(rows, at, out)
        return out

    def _finish(self, values: npt.NDArray[np.float64], none: npt.NDArray[np.bool_]) -> pa.Array:
        if pa.types.is_integer(self._type):  # STDDEV_POP(INT) is INT in Flink
            values = np.where(none | ~np.isfinite(values), 0.0, values)
            return integer_array(np.trunc(values).astype(np.int64), none, self._type)
        return pa.array(values, mask=none).cast(self._type)


class FloatAverage(FloatSum):
    """AVG of floating-point numbers."""

    def result(self, rows: Words, at: int) -> pa.Array:
        count = _column(rows, at + 4)
        none = count == 0
        return self._finish(self._total(rows, at) / np.where(none, 1, count), none)


class Variance(FloatSum):
    """VAR and STDDEV: `less` is 0 for a population, 1 for a sample (NULL of fewer than two values)."""

    width = kernels.VARIANCE_WIDTH

    def __init__(self, kind: pa.DataType, less: int, root: bool) -> None:
        super().__init__(kind)
        self._less = less
        self._root = root

    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        numbers = doubles(values)
        kernels.add_variance(words, at, groups, weights, numbers, numbers.view(np.int64), np.empty(2))

    def result(self, rows: Words, at: int) -> pa.Array:
        out = np.empty(rows.shape[0])
        kernels.variance_result(rows, at, self._less, out)
        return self._finish(np.sqrt(out) if self._root else out, rows[:, at + 4] <= self._less)


class DecimalSum(Accumulator):
    """SUM of decimals, exact; NULL of nothing, and where the result outgrows its precision."""

    width = kernels.DECIMAL_WIDTH

    def __init__(self, kind: pa.DataType, arg: pa.DataType) -> None:
        self._type = kind
        self._arg = arg if pa.types.is_decimal(arg) else pa.decimal128(19, 0)

    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        assert values is not None
        low, high = decimals(values.cast(self._arg))
        kernels.add_decimal(words, at, groups, weights, low, high)

    def result(self, rows: Words, at: int) -> pa.Array:
        return self._quotient(rows, at, (rows[:, at + 3] != 0).astype(np.int64))

    def _quotient(self, rows: Words, at: int, divisors: Ids) -> pa.Array:
        out = np.empty((rows.shape[0], 2), np.uint64)
        valid = np.empty(rows.shape[0], np.uint8)
        up = self._type.scale - self._arg.scale
        limit = 10**self._type.precision
        low, high = np.uint64(limit & (2**64 - 1)), np.uint64(limit >> 64)
        kernels.decimal_result(rows, at, divisors, max(up, 0), 10 ** max(-up, 0), low, high, out, valid)
        return decimal_array(out, valid == 0, self._type)


class DecimalAverage(DecimalSum):
    """AVG of decimals, rounded half away from zero to the result's scale."""

    def result(self, rows: Words, at: int) -> pa.Array:
        return self._quotient(rows, at, _column(rows, at + 3))


class Best(Accumulator):
    """MIN or MAX of fixed-width values that are never retracted."""

    def __init__(self, kind: pa.DataType, greatest: bool) -> None:
        self._type = kind
        self._greatest = greatest
        self._words = 2 if pa.types.is_decimal(kind) else 1
        self.width = self._words + 1

    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        kernels.keep_best(words, at, groups, weights, np.column_stack(value_words(values)), self._greatest)

    def result(self, rows: Words, at: int) -> pa.Array:
        return from_value_words(rows[:, at : at + self._words], rows[:, at + self._words] == 0, self._type)


class AllOrAny(Accumulator):
    """BOOL_AND (EVERY) and BOOL_OR (SOME): words count the true values and all values."""

    width = 2

    def __init__(self, every: bool) -> None:
        self._every = every

    def update(self, words: Words, at: int, groups: Ids, weights: Ids, values: pa.Array | None) -> None:
        kernels.add_int(words, at, groups, weights, integers(values))

    def result(self, rows: Words, at: int) -> pa.Array:
        true, count = rows[:, at], rows[:, at + 1]
        return pa.array((true == count) if self._every else (true > 0), mask=count == 0)


def _column(rows: Words, at: int) -> Ids:
    return np.array(rows[:, at])


class Held:
    """A function of rows kept in order, which the operator feeds; `column` is the value's place in these rows."""

    def __init__(self, held: OrderedRows, column: int, kind: pa.DataType) -> None:
        self._held = held
        self._column = column
        self._type = kind

    def _values(self, rows: Ids) -> pa.Array:
        return self._held.table.keys.gather_column(rows, self._column)


class Extreme(Held):
    """MIN, MAX, FIRST_VALUE, LAST_VALUE: the value of the first or last row of the group."""

    def __init__(self, held: OrderedRows, column: int, kind: pa.DataType, last: bool) -> None:
        super().__init__(held, column, kind)
        self._last = last

    def choose(self, groups: Ids) -> Ids:
        """The row whose value is the result of each group as the rows stand, -1 for none."""
        return self._held.last(groups) if self._last else self._held.first(groups)

    def result(self, rows: Ids) -> pa.Array:
        """The values of chosen rows; those of the open epoch's start are still there."""
        found = rows >= 0
        values = self._values(rows[found])
        if not found.all():
            values = values.take(pa.array(np.cumsum(found) - 1, mask=~found))
        return values.cast(self._type)


class Collection(Held):
    """ARRAY_AGG, LISTAGG, COLLECT: all values of the group in order. `once` gives each distinct row once, with its count."""

    def __init__(
        self, held: OrderedRows, column: int, kind: pa.DataType, finish: Callable[[Collected], pa.Array], once: bool
    ) -> None:
        super().__init__(held, column, kind)
        self._finish = finish
        self._once = once

    def result(self, groups: Ids) -> pa.Array:
        """One value per group, as the rows stand."""
        walked = self._held.walk(groups)
        owners, rows, counts = (np.array(walked[:, j]) for j in (0, 1, 3))
        if not self._once:
            owners, rows = np.repeat(owners, counts), np.repeat(rows, counts)
            counts = np.ones(rows.shape[0], np.int64)
        sizes = np.bincount(owners, minlength=groups.shape[0])
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        return self._finish(Collected(self._values(rows), counts, offsets, sizes == 0)).cast(self._type)


@dataclass(frozen=True, slots=True)
class Collected:
    """Values of several groups, one after the other: those of group k are values[offsets[k]:offsets[k + 1]]."""

    values: pa.Array
    counts: Ids
    offsets: npt.NDArray[np.int32]
    empty: npt.NDArray[np.bool_]


def as_list(collected: Collected) -> pa.Array:
    """ARRAY: NULL of nothing."""
    return pa.ListArray.from_arrays(_null_offsets(collected), collected.values)


def as_multiset(collected: Collected) -> pa.Array:
    """MAP of value to its number."""
    items = pa.array(collected.counts).cast(pa.int32())
    return pa.MapArray.from_arrays(_null_offsets(collected), collected.values, items)


def as_text(separator: str) -> Callable[[Collected], pa.Array]:
    """Texts joined by `separator`."""

    def join(collected: Collected) -> pa.Array:
        return pc.binary_join(as_list(collected), separator)

    return join


def _null_offsets(collected: Collected) -> pa.Array:
    """The offsets as Arrow takes them: a NULL offset makes the list NULL."""
    return pa.array(collected.offsets, mask=np.append(collected.empty, False))


_VARIANCE = {"var_pop": (0, False), "var_samp": (1, False), "stddev_pop": (0, True), "stddev_samp": (1, True)}
_ALIASES = {
    "var": "var_samp",
    "variance": "var_samp",
    "var_population": "var_pop",
    "var_sample": "var_samp",
    "stddev": "stddev_samp",
    "every": "bool_and",
    "some": "bool_or",
    "any": "bool_or",
    "string_agg": "listagg",
    "mean": "avg",
}


def function_name(name: str) -> str:
    """The name that the others stand for, lower case."""
    return _ALIASES.get(name.lower(), name.lower())


def accumulator(call: CallSpec, arg: pa.DataType | None) -> Accumulator | None:
    """The accumulator of a call whose words suffice, over an argument of type `arg`; None if it needs a multiset.

    Raises:
        UnsupportedError: the function does not take this type.
    """
    name = function_name(call.name)
    if name == "count":
        return Count(call.type)
    if name in _VARIANCE:
        return Variance(call.type, *_VARIANCE[name])
    if name in ("bool_and", "bool_or"):
        return AllOrAny(name == "bool_and")
    if name not in ("sum", "avg"):
        return None
    assert arg is not None
    average = name == "avg"
    if pa.types.is_integer(arg) and not pa.types.is_decimal(call.type):
        if average:
            return IntegerAverage(call.type)
        return IntegerSum(call.type) if pa.types.is_integer(call.type) else FloatSum(call.type)
    if pa.types.is_decimal(call.type) and (pa.types.is_decimal(arg) or pa.types.is_integer(arg)):
        return DecimalAverage(call.type, arg) if average else DecimalSum(call.type, arg)
    if pa.types.is_floating(arg) or pa.types.is_decimal(arg):
        return FloatAverage(call.type) if average else FloatSum(call.type)
    raise UnsupportedError(f"{name.upper()} does not take {arg}")
