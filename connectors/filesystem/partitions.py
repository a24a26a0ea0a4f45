"""Hive-style partitions: column values in directory names, `dt=2026-01-31/city=S%C3%A3o`, typed by the table.

Names are escaped as Hive does: control characters and those with a meaning in paths become %XX of their UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_PLAIN = " !$&()+,;@~|<>-_."
"""Characters besides letters and digits that need no escape in a directory name."""


def directory_of(names: Sequence[str], values: Sequence[str | None], default: str) -> str:
    """The relative directory of one partition."""
    parts = (default if v is None or v == "" else quote(v, safe=_PLAIN) for v in values)
    return "/".join(f"{quote(n, safe=_PLAIN)}={p}" for n, p in zip(names, parts))


def values_of(path: str, schema: pa.Schema, names: Sequence[str], default: str) -> dict[str, pa.Scalar]:
    """The typed values of the partition columns `names` in a relative file path.

    Raises:
        ValueError: a column has no directory, or a value is not of its type.
    """
    found = {}
    for part in path.split("/")[:-1]:
        name, equals, value = part.partition("=")
        if equals:
            found[unquote(name)] = value
    typed = {}
    for name in names:
        if name not in found:
            raise ValueError(f"no directory '{name}=' in the path")
        type_ = schema.field(name).type
        text = found[name]
        typed[name] = pa.scalar(None, type_) if text == default else _typed(name, unquote(text), type_)
    return typed


def _typed(name: str, text: str, type_: pa.DataType) -> pa.Scalar:
    try:
        return pa.scalar(text).cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ValueError(f"partition value '{text}' of '{name}' is not {type_}") from None


def split_rows(
    rows: pa.RecordBatch, names: Sequence[str], default: str
) -> Iterator[tuple[str, npt.NDArray[np.int64] | None]]:
    """Relative directories with the indices of their rows, ascending; None: all rows."""
    if not names:
        yield "", None
        return
    codes = np.zeros(rows.num_rows, np.int64)
    texts = []
    for name in names:
        coded = _text(rows.column(name)).dictionary_encode(null_encoding="encode")
        texts.append(coded.dictionary.to_pylist())
        codes = codes * len(texts[-1]) + coded.indices.to_numpy()
    groups, inverse = np.unique(codes, return_inverse=True)
    for group, code in enumerate(groups.tolist()):
        values = []
        for text in reversed(texts):
            code, index = divmod(code, len(text))
            values.append(text[index])
        at = None if len(groups) == 1 else np.flatnonzero(inverse == group)
        yield directory_of(names, values[::-1], default), at


def _text(column: pa.Array) -> pa.StringArray:
    if pa.types.is_binary(column.type):
        return column.cast(pa.string(), safe=False)
    return pc.cast(column, pa.string())
