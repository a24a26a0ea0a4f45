"""What to look for in JSON records, as the tables that `kernels.json_scan` reads, and where it was found.

A *shape* is made of the Arrow type of the wanted part of a record: members of structs by name, elements of lists. Each
wanted value has a *slot*. Two structs of equal type get slots in the same order, so that `Slot.distance` leads from any slot of
one to its twin in the other: the images before and after a change.

A shape also learns, from a record that was read, in which order members come and which others stand between them, so that the
kernel predicts every name. That changes its speed only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

NULL, STRING, ESCAPED, INTEGER, NUMBER, TRUE, FALSE, OBJECT, ARRAY, LIST = range(1, 11)
"""Kinds of spans, as in `kernels.json_scan`, which only processes that read JSON import."""
LONGEST = (1 << 28) - 1

_MOST_NAMES = 256
"""Members of one object that are learned."""
_ESCAPED = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
"""Characters that a name in JSON can only hold escaped; a record with an escaped name is left to the reference."""


@dataclass(slots=True)
class Slot:
    """A wanted value."""

    number: int
    type: pa.DataType
    space: int
    members: dict[str, Slot] = field(default_factory=dict)
    element: Slot | None = None

    def __getitem__(self, name: str) -> Slot:
        return self.members[name]

    def at(self, path: tuple[str, ...]) -> Slot:
        """The slot of a nested member."""
        slot = self
        for name in path:
            slot = slot.members[name]
        return slot

    def distance(self, twin: Slot) -> int:
        """What to add to the number of a slot below this one for its counterpart below `twin`."""
        return twin.number - self.number


class Shape:
    """The wanted part of records, and how it is written."""

    def __init__(self, wanted: pa.DataType) -> None:
        self._spaces: list[list[int]] = [[]]
        self._slots = 0
        self.root = self._slot(wanted, 0)
        self._learned: dict[int, list[str]] = {}
        self._unlearned = set(self._objects(self.root))
        self._room = [0] * len(self._spaces)
        self._tables = self._build()
        self._spare: list[Indices] = []

    def _slot(self, type_: pa.DataType, space: int) -> Slot:
        slot = Slot(self._slots, type_, space)
        self._slots += 1
        self._spaces[space].append(slot.number)
        if pa.types.is_struct(type_):
            slot.members = {f.name: self._slot(f.type, space) for f in type_}
        elif pa.types.is_list(type_):
            self._spaces.append([])
            slot.element = self._slot(type_.value_type, len(self._spaces) - 1)
        return slot

    def _objects(self, slot: Slot) -> Iterator[int]:
        if pa.types.is_struct(slot.type):
            yield slot.number
        for below in [*slot.members.values(), *([slot.element] if slot.element else [])]:
            yield from self._objects(below)

    def learn(self, document: Mapping[str, Any]) -> None:
        """Take the order of members from a document, for objects that were not seen before."""
        if self._unlearned and self._learn(self.root, document):
            self._tables = self._build()

    def _learn(self, slot: Slot, value: Any) -> bool:
        if slot.element is not None:
            return isinstance(value, list) and sum(self._learn(slot.element, v) for v in value[:4]) > 0
        if not isinstance(value, dict) or not pa.types.is_struct(slot.type):
            return False
        found = slot.number in self._unlearned
        if found:
            self._unlearned.discard(slot.number)
            self._learned[slot.number] = [name for name in value if len(name) <= _MOST_NAMES][:_MOST_NAMES]
        return any([found, *[self._learn(below, value.get(name)) for name, below in slot.members.items()]])

    def _build(self) -> _Tables:
        entries, nodes, names = [_entry(self.root)], list[tuple[int, int]](), bytearray()
        pending = [(0, self.root)]
        while pending:
            at, slot = pending.pop()
            if slot.element is not None:
                entries[at][_ELEMENT] = len(entries)
                pending.append((len(entries), slot.element))
                entries.append(_entry(slot.element))
            if not pa.types.is_struct(slot.type):
                continue
            order = [
                n for n in dict.fromkeys([*self._learned.get(slot.number, ()), *slot.members]) if not _ESCAPED.search(n)
            ]
            entries[at][_CHILD] = len(nodes)
            nodes.append((len(entries), len(order)))
            for name in order:
                below = slot.members.get(name)
                if below is not None:
                    pending.append((len(entries), below))
                entry = _entry(below)
                text = name.encode() + b'"'
                entry[:2] = len(names), len(text)
                names += text + bytes(-len(text) % 8)
                entries.append(entry)
        starts = np.cumsum([0, *map(len, self._spaces)])
        return _Tables(
            np.array(entries, np.int64),
            np.array(nodes, np.int64).reshape(-1, 2),
            np.frombuffer(bytes(names) + bytes(8), np.uint8),
            np.stack([starts[:-1], np.diff(starts)], 1).astype(np.int64),
            np.concatenate([np.array(s, np.int64) for s in self._spaces]),
        )

    def scan(self, values: pa.BinaryArray) -> Scan:
        """Find what is wanted in every record."""
        from forebay.kernels.json_scan import scan  # compiled, or loaded, by processes that read JSON only

        n, tables = len(values), self._tables
        data, offsets = buffers(values)
        valid = values.is_valid().cast(pa.uint8()).to_numpy() if values.null_count else np.empty(0, np.uint8)
        counts, state, record = np.empty(len(self._spaces), np.int64), np.empty(n, np.uint8), np.empty(n, np.int64)
        room = [n, *[max(n + 64, r) for r in self._room[1:]]]
        while True:
            bases, total = self._bases(room)
            spans = self._space(total)
            full = scan(
                data,
                offsets,
                valid,
                *tables.parts(),
                bases,
                np.array(room, np.int64),
                spans,
                counts,
                state,
                record,
            )
            if full < 0:
                return Scan(data, spans, bases, counts, state, record[: counts[0]])
            self._spare.append(spans)
            room[full] *= 2
            self._room = room

    def _space(self, size: int) -> Indices:
        """An array of at least that size: touching fresh memory would cost half as much as the scan."""
        try:
            spare = self._spare.pop()
        except IndexError:
            return np.empty(size, np.int64)
        return spare if len(spare) >= size else np.empty(size, np.int64)

    def release(self, scan: Scan) -> None:
        """Take back the memory of a scan that nobody reads any more."""
        self._spare.append(scan.flat)

    def _bases(self, room: list[int]) -> tuple[Indices, int]:
        """Where the spans of each slot begin, and how many there are."""
        sizes = np.empty(self._slots, np.int64)
        for members, rows in zip(self._spaces, room):
            sizes[members] = rows
        ends = np.cumsum(sizes)
        return ends - sizes, int(ends[-1])


_CHILD, _ELEMENT = 4, 5


def _entry(slot: Slot | None) -> list[int]:
    return [0, 0, -1, 0, -1, -1] if slot is None else [0, 0, slot.number, slot.space, -1, -1]


@dataclass(frozen=True, slots=True)
class _Tables:
    entries: Indices
    nodes: Indices
    names: Bytes
    spaces: Indices
    members: Indices

    def parts(self) -> tuple[npt.NDArray[Any], ...]:
        return self.entries, self.nodes, self.names, self.spaces, self.members


def buffers(values: pa.BinaryArray) -> tuple[Bytes, npt.NDArray[np.int32]]:
    """The bytes and the offsets of a column."""
    _, offsets, data = values.buffers()
    starts = np.frombuffer(offsets, np.int32, len(values) + 1, 4 * values.offset)
    return np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), starts


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found in a batch of records."""

    data: Bytes
    """The text that spans point into."""
    flat: Indices
    """The spans of all slots."""
    bases: Indices
    counts: Indices
    """Rows per space."""
    state: Bytes
    """Per record: see `kernels.json_scan`."""
    record: Indices
    """Per record that was read: its number, ascending."""

    def spans(self, slot: Slot) -> Indices:
        """One span per row of the slot's space."""
        return self.spans_of(slot.number, slot.space)

    def spans_of(self, number: int, space: int) -> Indices:
        """The spans of a slot by its number."""
        base = self.bases[number]
        return self.flat[base : base + self.counts[space]]

    def kinds(self, slot: Slot) -> Indices:
        """The kind of each span (see `kernels.json_scan`)."""
        return self.spans(slot) & 15

    def indices(self, slot: Slot, names: tuple[str, ...]) -> Indices:
        """Which of the names each string is, -1 if none or no string."""
        from forebay.kernels.json_values import codes

        spans = self.spans(slot)
        found = np.empty(len(spans), np.int64)
        ends = np.cumsum([0, *(len(n.encode()) for n in names)])
        codes(self.data, spans, np.frombuffer("".join(names).encode(), np.uint8), ends, found)
        return found

    def left(self) -> Mask:
        """The records that are left to the reference."""
        left: Mask = self.state == 1
        return left
