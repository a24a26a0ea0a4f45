"""Cold rows of a group table, and what a checkpoint says of them: the stored columns, then the words; by cold id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.errors import StateError
from forebay.engine.state.cold import NONE, ColdRows, Deaths
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.segment import Segment

if TYPE_CHECKING:
    from forebay.engine.state.groups import GroupTable

Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.int64]
_DEAD = 1 << 14
"""Dead rows that may stay however few are alive."""
PART = b"part"
_NOTE = b"note"
COLD_PART = b"cold"
ID = pa.field("__id", pa.int64(), False)


_TIME = pa.timestamp("us")


class ColdTable(ColdRows):
    """Cold rows of a group table: what it stores, then its words.

    Where groups expire rows have a time: the word that dates their group, or beside a dependent's words a copy of it. Segments
    are dropped by it, and count their dead rows.
    """

    def __init__(self, table: GroupTable, store: ColdStore, dead: Deaths | None = None, *, dated: bool = False) -> None:
        """`dead`: the deaths of other rows, whose ids these rows share. `dated`: the time of a row is beside its words."""
        stored = [pa.field(f"c{i}", f.type) for i, f in enumerate(table.keys.schema)]
        words = [pa.field(f"w{i}", pa.int64()) for i in range(table.width)]
        time = None
        if table.aging is not None:
            words[table.aging.word] = pa.field("time", _TIME)
            time = len(stored) + table.aging.word
        elif dated:
            time = len(stored) + len(words)
            words.append(pa.field("time", _TIME))
        super().__init__(pa.schema([*stored, *words]), store, time)
        self.dead = dead if dead is not None else self.dead
        self.live = 0
        """Rows whose id is not dead."""
        self.least: dict[int, int] = {}
        """By segment, for a table that watches a word: no live row of it has less."""
        self._table = table
        self._noted = b""

    def live_rows(self) -> int:
        return self.live

    def maintain(self, held: Ids = NONE) -> bool:
        before = list(self.segments)
        merging = super().maintain(held)
        merged = [n for n in before if n not in self.segments and n in self.least]
        if merged:
            least = min(self.least.pop(n) for n in merged)
            self.least.update({n: least for n in self.segments if n not in before})
        self.live -= self.take_dropped()
        return merging

    def die(self, handles: Ids) -> None:
        """The ids of these rows have died."""
        if self.time is not None and handles.shape[0]:
            self.count_deaths(handles)
        self.live -= handles.shape[0]

    def _to_merge(self) -> list[Segment]:
        """As by size; all of them when dead rows are the greater part."""
        mostly_dead = self.rows() > 2 * self.live + _DEAD
        return super()._to_merge() or ([s for s in self.segments.values() if not s.damaged] if mostly_dead else [])

    def note(self, full: bool, **more: int) -> list[pa.RecordBatch]:
        """What a checkpoint has to say of these rows, if it was not said before."""
        least = [self.least.get(n) for n in self.segments]
        dead = [s.dead for s in self.segments.values()]
        note = json.dumps(
            {"segments": list(self.segments), "live": self.live, "least": least, "dead": dead, **more}
        ).encode()
        if note == self._noted and not full:
            return []
        self._noted = note
        schema = pa.schema([ID], {PART: COLD_PART, _NOTE: note})
        return [pa.RecordBatch.from_arrays([pa.array([], pa.int64())], schema=schema)]

    def pack(self, ids: Ids, times: Ids | None = None) -> pa.RecordBatch:
        """Hot rows as they are written; `times`: those beside their words."""
        words = self._table.read(ids)
        columns = [pa.array(np.ascontiguousarray(words[:, j])) for j in range(self._table.width)]
        columns += [] if times is None else [pa.array(times)]
        stored = self._table.keys.gather(ids).columns
        if self.time is not None:
            columns[self.time - len(stored)] = columns[self.time - len(stored)].view(_TIME)
        return pa.RecordBatch.from_arrays([*stored, *columns], schema=self.schema)

    def unpack(self, handles: Ids) -> tuple[pa.RecordBatch, Words]:
        """Cold rows as they were stored, and their words."""
        rows, stored = self.gather(handles), self._table.keys.schema
        words = [rows.column(len(stored) + j).view(pa.int64()).to_numpy() for j in range(self._table.width)]
        matrix = np.column_stack(words) if words else np.zeros((handles.shape[0], 0), np.int64)
        return pa.RecordBatch.from_arrays(rows.columns[: len(stored)], schema=stored), matrix


def read_note(batch: pa.RecordBatch) -> dict[str, Any]:
    """What `ColdTable.note` said."""
    note: dict[str, Any] = json.loads(batch.schema.metadata[_NOTE])
    return note


def open_cold(cold: ColdTable | None, note: dict[str, Any]) -> None:
    """Cold rows as a checkpoint describes them.

    Raises:
        StateError: there is no store, or a segment is not in it.
    """
    if cold is None:
        raise StateError("a checkpoint has cold state, and there is no store for it")
    cold.open(note["segments"], note.get("dead", ()))
    cold.live = note["live"]
    cold.least = {n: least for n, least in zip(note["segments"], note["least"]) if least is not None}
