"""What an attached process and the owner say to each other.

Values (arguments, answers, rows looked up) travel as one-row Arrow IPC streams, so every SQL type arrives as it left. Errors
travel as JSON of their class name and attributes and are raised again as what they were: never as the transport's errors,
whose size gRPC limits. Changelog batches carry their weights in a last column.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.errors import ForebayError, InternalError
from forebay.result import Result

PROTOCOL = 1
"""Raised when either side could misunderstand the other."""
HEADER = b"forebay"
"""Key of the header in the metadata of a response's schema."""
WEIGHT = "__weight"


def pack(value: Any, kind: pa.DataType | None = None) -> bytes:
    """A Python value, of the Arrow type if given, as bytes."""
    column = pa.array([value], kind)
    batch = pa.record_batch([column], names=["value"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def unpack(data: bytes) -> Any:
    """The value in the bytes of `pack`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all().column(0)[0].as_py()


def key_to_wire(key: Any) -> dict[str, Any]:
    """The key of a look-up as one record: columns by name, or by position if no names are given."""
    if isinstance(key, Mapping):
        return {"named": True, "values": dict(key)}
    values = key if isinstance(key, tuple) else (key,)
    return {"named": False, "values": {str(i): v for i, v in enumerate(values)}}


def key_from_wire(sent: Mapping[str, Any]) -> Any:
    """The key that `key_to_wire` was given."""
    values: dict[str, Any] = sent["values"]
    return values if sent["named"] else tuple(values.values())


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An error's classes, own first, its text and plain attributes."""
    plain = {k: v for k, v in vars(error).items() if v is None or isinstance(v, str | int | float | bool)}
    return {"classes": [c.__name__ for c in type(error).__mro__], "text": str(error), "attributes": plain}


def error_from_json(sent: Mapping[str, Any]) -> Exception:
    """The error again, of the first of its classes that this process knows."""
    known: dict[str, Any] = {c.__name__: c for c in _subclasses(ForebayError)}
    for name in sent["classes"]:
        kind = known.get(name) or getattr(builtins, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Exception) or kind is Exception:
            continue
        error: Exception = kind.__new__(kind)
        error.args = (sent["attributes"].get("message", sent["text"]),)
        vars(error).update(sent["attributes"])
        return error
    return InternalError(f"{sent['classes'][0]} in the owner of the warehouse", detail=sent["text"])


def _subclasses(kind: type[ForebayError]) -> Iterator[type[ForebayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _subclasses(child)


def with_header(schema: pa.Schema, header: Mapping[str, Any]) -> pa.Schema:
    """The schema with a header for the other side."""
    return schema.with_metadata({**(schema.metadata or {}), HEADER: json.dumps(header).encode()})


def take_header(schema: pa.Schema) -> tuple[pa.Schema, dict[str, Any]]:
    """The schema as it was, and the header.

    Raises:
        Exception: the error that the header carries.
    """
    metadata = dict(schema.metadata or {})
    header: dict[str, Any] = json.loads(metadata.pop(HEADER))
    if "error" in header:
        raise error_from_json(header["error"])
    return schema.with_metadata(metadata or None), header


def result_header(result: Result) -> dict[str, Any]:
    """What a result says besides its rows."""
    return {
        "rows": result.description is not None,
        "message": result.message,
        "rowcount": result.rowcount,
        "warnings": result.warnings,
    }


def result_of(header: Mapping[str, Any], rows: pa.Table) -> Result:
    """The result again."""
    result = Result(rows if header["rows"] else None, message=header["message"], rowcount=header["rowcount"])
    result.warnings.extend(header["warnings"])
    return result


def weighted(schema: pa.Schema) -> pa.Schema:
    """The schema of changelog batches on the wire."""
    return schema.append(pa.field(WEIGHT, pa.int64(), nullable=False))


def batch_to_wire(batch: Batch, schema: pa.Schema) -> pa.RecordBatch:
    """A changelog batch with its weights as the last column of `schema`."""
    columns = [*batch.rows.columns, pa.array(batch.weight_array(), pa.int64())]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def batch_from_wire(rows: pa.RecordBatch, schema: pa.Schema) -> Batch:
    """The changelog batch again; `schema` is that of its rows."""
    *columns, weights = rows.columns
    return Batch(pa.RecordBatch.from_arrays(columns, schema=schema), weights.to_numpy())
