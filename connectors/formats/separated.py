"""Fields of lines of separated values as spans, so that `fetch` makes columns of them as of JSON's strings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from forebay.connectors.formats.shape import Bytes, Scan, buffers


class Splitter:
    """Splits records at one delimiter; -1 stands for a quote, an escape or a mark of comments that there is not."""

    def __init__(self, types: Sequence[pa.DataType], marks: tuple[int, int, int, int], null: bytes | None) -> None:
        self._textual = np.array([pa.types.is_string(t) for t in types], np.uint8)
        self._marks = marks
        """Delimiter, quote, escape, comment."""
        self._null: Bytes = np.frombuffer(null or b"", np.uint8)
        self._nullable = null is not None
        self._roomy = False
        """Whether there were fields to be written anew, and probably will be."""

    def scan(self, values: pa.BinaryArray) -> Scan:
        """The fields of all lines that can be split; slot i is column i."""
        from forebay.kernels.csv_scan import split  # compiled, or loaded, by processes that read CSV only

        n = len(values)
        data, offsets = buffers(values)
        valid = values.is_valid().cast(pa.uint8()).to_numpy() if values.null_count else np.empty(0, np.uint8)
        spans, state, record = np.empty(n * len(self._textual), np.int64), np.empty(n, np.uint8), np.empty(n, np.int64)
        while True:
            text = np.concatenate([data, np.empty(len(data), np.uint8)]) if self._roomy else data
            rows = split(
                text,
                offsets,
                valid,
                len(data),
                *self._marks,
                self._null,
                self._nullable,
                self._textual,
                spans,
                state,
                record,
            )
            if rows >= 0:
                bases = np.arange(len(self._textual), dtype=np.int64) * n
                return Scan(text, spans, bases, np.array([rows]), state, record[:rows])
            self._roomy = True
