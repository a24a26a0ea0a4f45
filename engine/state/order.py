"""The order of rows as words: what `kernels.topn` compares, and the treaps per group built on it.

A column becomes one word where it is NOT NULL or its type leaves room for NULL, else a null word and its value; DECIMAL takes
two value words, text an (offset, length) pair into a heap of bytes. Comparing words from left to right is comparing rows: NULLs
where they were asked for, NaN above every number, -0.0 equal to 0.0, text by bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.errors import UnsupportedError
from forebay.engine.state.arrays import (
    canonical,
    decimal_array,
    decimals,
    doubles,
    fixed_array,
    hash_rows,
    integer_array,
    integers,
    is_null,
    is_text,
    text,
)
from forebay.engine.state.slots import grown
from forebay.kernels import topn

Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.int64]

_MIN = np.int64(-(2**63))
_MAX = np.int64(2**63 - 1)
_SIGN = np.uint64(1 << 63)


class Order(NamedTuple):
    """One ORDER BY item: a column position, its direction, and where NULLs go."""

    column: int
    ascending: bool = True
    nulls_first: bool = True


class _TextHeap:
    """Bytes that only grow, until those of dead nodes are squeezed out."""

    def __init__(self) -> None:
        self.bytes = np.zeros(0, np.uint8)
        self.size = 0
        self._squeeze_at = 1 << 20

    def append(self, array: pa.Array) -> tuple[Ids, Ids]:
        """(offsets, lengths) of the texts of an array without NULLs, copied to the end."""
        offsets, data = text(array)
        start, stop = int(offsets[0]), int(offsets[-1])
        self.bytes = grown(self.bytes, self.size + stop - start, 0)
        self.bytes[self.size : self.size + stop - start] = data[start:stop]
        places = offsets[:-1].astype(np.int64) - start + self.size
        self.size += stop - start
        return places, np.diff(offsets).astype(np.int64)

    def due(self) -> bool:
        """Has the heap doubled since it was last squeezed?"""
        return self.size > self._squeeze_at

    def squeeze(self, words: Words, nodes: Ids, columns: Sequence[int]) -> None:
        """Keep only the texts of `nodes`, whose words at `columns` name them, and point those words at the new places."""
        kept = np.zeros(sum(int(words[nodes, j + 1].sum()) for j in columns), np.uint8)
        size = 0
        for j in columns:
            size = topn.move_text(words, nodes, j, self.bytes, kept, size)
        self.bytes, self.size = kept, size
        self._squeeze_at = max(1 << 20, 2 * size)


class _Encoder:
    """From the columns of a row to its words."""

    def __init__(self, schema: pa.Schema, orders: Sequence[Order], ties: Sequence[int]) -> None:
        self.heap = _TextHeap()
        self._orders = [Order(*o) for o in orders]
        self._ties = list(ties)
        self._null_words = [_has_null_word(schema.field(o.column)) for o in self._orders]
        self.plan: list[int] = []
        self.text_columns: list[int] = []
        for order, null_word in zip(self._orders, self._null_words):
            kind = schema.field(order.column).type
            self.plan += [topn.WORD] * null_word
            if is_text(kind):
                self.text_columns.append(topn.LINKS + len(self.plan))
            self.plan += _value_plan(kind, order.ascending)
        self.order_width = len(self.plan)
        if self._ties:
            self.plan.append(topn.WORD)

    def encode(self, rows: pa.RecordBatch, ties: bool = True) -> Words:
        """Words of rows, with unset links before them; without `ties`, those of the order columns alone."""
        width = len(self.plan) if ties else self.order_width
        out = np.empty((rows.num_rows, topn.LINKS + width), np.int64)
        at = topn.LINKS
        for order, null_word in zip(self._orders, self._null_words):
            for word in self._words(rows.column(order.column), order, null_word):
                out[:, at] = word
                at += 1
        if self._ties and ties:
            out[:, at] = hash_rows(rows, self._ties).view(np.int64)
        return out

    def _words(self, array: pa.Array, order: Order, null_word: bool) -> list[Words]:
        if pa.types.is_null(array.type):
            return []
        null = is_null(array)
        if is_text(array.type):
            values = list(self.heap.append(array.fill_null("" if pa.types.is_string(array.type) else b"")))
        else:
            values = [v if order.ascending else ~v for v in value_words(array)]
        if null_word:
            for v in values:
                v[null] = 0
            return [_null_word(null, order), *values]
        if array.null_count:
            values[0][null] = _MIN if order.nulls_first else _MAX
        return values


def _null_word(null: npt.NDArray[np.bool_], order: Order) -> Words:
    words: Words = (null != order.nulls_first).astype(np.int64)
    return words


def _has_null_word(field: pa.Field) -> bool:
    """Does NULL need a word of its own? Not where the value's word has codes to spare."""
    kind = field.type
    if not field.nullable or pa.types.is_null(kind) or pa.types.is_nested(kind):
        return False
    return is_text(kind) or not (pa.types.is_floating(kind) or kind.bit_width < 64)


def _value_plan(kind: pa.DataType, ascending: bool) -> list[int]:
    """What the value words of a column of this type are."""
    if pa.types.is_null(kind):
        return []
    if is_text(kind):
        return [topn.TEXT_UP if ascending else topn.TEXT_DOWN] * 2
    if pa.types.is_nested(kind) or pa.types.is_interval(kind):
        raise UnsupportedError(f"cannot order by a column of type {kind}", hint="order by one of its fields")
    return [topn.WORD] * (2 if pa.types.is_decimal(kind) else 1)


def value_words(array: pa.Array) -> list[Words]:
    """Fresh int64 words, most significant first, that order a column of fixed width ascending; unspecified at NULLs."""
    kind = array.type
    if pa.types.is_decimal(kind):
        low, high = decimals(array)
        return [high.view(np.int64).copy(), (low ^ _SIGN).view(np.int64)]
    if pa.types.is_floating(kind):
        bits = canonical(doubles(array)).view(np.int64)
        return [bits ^ ((bits >> 63) & _MAX)]
    if pa.types.is_uint64(kind):
        return [(integers(array).view(np.uint64) ^ _SIGN).view(np.int64)]
    return [integers(array).copy()]


def from_value_words(words: Words, null: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """The column whose `value_words` are the columns of `words`; NULL where `null` is true."""
    if pa.types.is_decimal(kind):
        pairs = np.empty((words.shape[0], 2), np.uint64)
        pairs[:, 1] = words[:, 0].view(np.uint64)
        pairs[:, 0] = words[:, 1].view(np.uint64) ^ _SIGN
        return decimal_array(pairs, null, kind)
    word = np.ascontiguousarray(words[:, 0])
    if pa.types.is_floating(kind):
        numbers = (word ^ ((word >> 63) & _MAX)).view(np.float64)
        return fixed_array(numbers.astype(kind.to_pandas_dtype()), null, kind)
    if pa.types.is_uint64(kind):
        return fixed_array(word.view(np.uint64) ^ _SIGN, null, kind)
    return integer_array(word, null, kind)


class OrderIndex:
    """Nodes in order, per group. A node's words are set once, before it is inserted; groups and nodes are dense ids.

    Columns that `schema` declares NOT NULL have no NULL. `ties` are the columns whose hash decides between rows that `orders`
    leaves equal, so that the order does not depend on arrival. Insertions and removals are undone by `rollback`; words of a
    removed node stay readable until then.
    """

    def __init__(self, schema: pa.Schema, orders: Sequence[Order], ties: Sequence[int] = ()) -> None:
        self._encoder = _Encoder(schema, orders, ties)
        self.order_width = self._encoder.order_width
        self.plan = np.array(self._encoder.plan, np.int64)
        self.words: Words = np.zeros((0, topn.LINKS + len(self.plan)), np.int64)
        self.roots: Ids = np.zeros(0, np.int64)
        self._position: Ids = np.zeros(0, np.int64)
        self._member = np.zeros(0, bool)
        self._walked: Words = np.empty((1024, 4), np.int64)  # scratch
        self._log: list[tuple[bool, Ids, Ids]] = []

    @property
    def heap(self) -> npt.NDArray[np.uint8]:
        """The bytes of text words."""
        return self._encoder.heap.bytes

    def reserve(self, groups: int, nodes: int) -> None:
        """Make room for ids below `groups` and `nodes`."""
        self.roots = grown(self.roots, groups, topn.NIL)
        self.words = grown(self.words, nodes, 0)
        self._position = grown(self._position, nodes, 0)
        self._member = grown(self._member, nodes, 0)

    def encode(self, rows: pa.RecordBatch) -> Words:
        """The words of each row, as `kernels.topn` lays them out: int64[n, LINKS + width]."""
        return self._encoder.encode(rows)

    def insert(self, groups: Ids, nodes: Ids, rows: pa.RecordBatch) -> None:
        """Add nodes that are not there, ordered as `rows`."""
        if nodes.shape[0]:
            self.words[nodes] = self.encode(rows)
            self._link(groups, nodes)
            self._log.append((True, groups, nodes))

    def adopt(self, groups: Ids, nodes: Ids, rows: pa.RecordBatch) -> None:
        """`insert`, as if the nodes had been here before the epoch."""
        self.words[nodes] = self.encode(rows)
        self._link(groups, nodes)

    def forget(self, groups: Ids, nodes: Ids) -> None:
        """Between epochs: these groups have no nodes any more, and these were theirs."""
        self.roots[groups[groups < self.roots.shape[0]]] = topn.NIL
        self._member[nodes] = False

    def remove(self, groups: Ids, nodes: Ids) -> None:
        """Take out nodes that are there."""
        if nodes.shape[0]:
            self._unlink(groups, nodes)
            self._log.append((False, groups, nodes))

    def _link(self, groups: Ids, nodes: Ids) -> None:
        topn.insert_nodes(self.words, self.roots, groups, nodes, self.plan, self.heap)
        self._member[nodes] = True

    def _unlink(self, groups: Ids, nodes: Ids) -> None:
        topn.remove_nodes(self.words, self.roots, groups, nodes, self.plan, self.heap)
        self._member[nodes] = False

    def promising(self, groups: Ids, rows: pa.RecordBatch, sizes: Ids, limit: int) -> Ids:
        """The rows that may be among the `limit` best of their groups, as far as the order columns tell."""
        words = self._encoder.encode(rows, ties=False)
        out = np.empty(groups.shape[0], np.int64)
        n = topn.promising(
            self.words, self.roots, sizes, limit, groups, words, self.order_width, self.plan, self.heap, out
        )
        return out[:n]

    def offer(self, groups: Ids, words: Words, sizes: Ids, limit: int, free: Ids) -> tuple[Ids, Ids]:
        """Offer rows to the `limit` best of their groups; see `kernels.topn.offer`.

        Returns (accepted, evicted): the node of `free` that each row became, -1 if it is not among the best in the end; and
        the older nodes that left.
        """
        accepted = np.empty(groups.shape[0], np.int64)
        evicted = np.empty(groups.shape[0], np.int64)
        topn.offer(
            self.words,
            self.roots,
            sizes,
            limit,
            groups,
            words,
            free,
            accepted,
            evicted,
            self.plan,
            self.heap,
        )
        row = np.flatnonzero(accepted >= 0)
        self._position[accepted[row]] = row + 1
        out = np.flatnonzero(evicted >= 0)
        again = self._position[evicted[out]]
        self._position[accepted[row]] = 0
        accepted[again[again > 0] - 1] = topn.NIL
        old = out[again == 0]
        row = np.flatnonzero(accepted >= 0)
        self._member[accepted[row]] = True
        self._member[evicted[old]] = False
        self._log.append((True, groups[row], accepted[row]))
        self._log.append((False, groups[old], evicted[old]))
        return accepted, evicted[old]

    def first(self, groups: Ids) -> Ids:
        """The first node of each group, -1 where there is none."""
        return self._extreme(groups, False)

    def last(self, groups: Ids) -> Ids:
        """The last node of each group, -1 where there is none."""
        return self._extreme(groups, True)

    def _extreme(self, groups: Ids, greatest: bool) -> Ids:
        out = np.empty(groups.shape[0], np.int64)
        topn.extremes(self.words, self.roots, groups, greatest, out)
        return out

    def walk(
        self,
        groups: Ids,
        counts: Words,
        kind: int = topn.ROW_NUMBER,
        start: int = 1,
        end: int = 2**62,
        ranked: bool = False,
        beyond: bool = False,
    ) -> Words:
        """Rows (index into groups, node, rank, weight) of the nodes ranked in [start, end]; see `kernels.topn.walk`."""
        while True:
            out = self._walked
            n = topn.walk(
                self.words, self.roots, groups, counts, self.order_width, kind, start, end, ranked, beyond,
                self.plan, self.heap, out,
            )  # fmt: skip
            if n <= out.shape[0]:
                return out[:n].copy()
            self._walked = np.empty((n + n // 4, 4), np.int64)

    def difference(self, old: Words, new: Words, ranked: bool) -> Words:
        """Rows (node, rank, weight): what `new` has and `old` has not, both from `walk`."""
        out = np.empty((old.shape[0] + new.shape[0], 3), np.int64)
        return out[: topn.difference(old, new.copy(), self._position, ranked, out)]

    def commit(self) -> None:
        self._log.clear()
        if self._encoder.heap.due():
            self._encoder.heap.squeeze(self.words, np.flatnonzero(self._member), self._encoder.text_columns)

    def rollback(self) -> None:
        for inserted, groups, nodes in reversed(self._log):
            if inserted:
                self._unlink(groups, nodes)
            else:
                self._link(groups, nodes)
        self._log.clear()

    def nbytes(self) -> int:
        arrays = (self.words, self.roots, self._position, self._member, self._walked, self.heap)
        return sum(a.nbytes for a in arrays)
