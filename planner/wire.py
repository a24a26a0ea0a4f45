"""A reader for protobuf's wire format: enough to take DataFusion's serialized expressions apart.

A message is read into `Message`, a map from field number to the raw values in order of appearance; the caller names the
fields. Wire types: 0 varint, 1 fixed 64 bits, 2 length-delimited, 5 fixed 32 bits. Groups (3 and 4) do not occur.
"""

from __future__ import annotations

import struct

from forebay.engine.errors import InternalError

Raw = int | bytes


class Message:
    """One protobuf message. Absent fields read as their protobuf default."""

    __slots__ = ("fields",)

    def __init__(self, data: bytes) -> None:
        self.fields: dict[int, list[Raw]] = {}
        at, end = 0, len(data)
        while at < end:
            tag, at = _varint(data, at)
            value: Raw
            match tag & 7:
                case 0:
                    value, at = _varint(data, at)
                case 1:
                    value, at = data[at : at + 8], at + 8
                case 2:
                    size, at = _varint(data, at)
                    value, at = data[at : at + size], at + size
                case 5:
                    value, at = data[at : at + 4], at + 4
                case kind:
                    raise InternalError(f"protobuf wire type {kind} is not known")
            if at > end:
                raise InternalError("protobuf message is cut short")
            self.fields.setdefault(tag >> 3, []).append(value)

    def has(self, number: int) -> bool:
        return number in self.fields

    def one_of(self) -> int | None:
        """The number of the only field present, or None for an empty message."""
        return next(iter(self.fields), None)

    def raw(self, number: int) -> bytes:
        values = self.fields.get(number)
        value = values[-1] if values else b""
        if isinstance(value, int):
            raise InternalError(f"protobuf field {number} is a varint, bytes expected")
        return value

    def message(self, number: int) -> Message:
        return Message(self.raw(number))

    def messages(self, number: int) -> list[Message]:
        return [Message(v) for v in self.fields.get(number, ()) if isinstance(v, bytes)]

    def text(self, number: int) -> str:
        return self.raw(number).decode()

    def uint(self, number: int) -> int:
        values = self.fields.get(number)
        value = values[-1] if values else 0
        if isinstance(value, bytes):
            raise InternalError(f"protobuf field {number} holds bytes, a varint expected")
        return value

    def sint(self, number: int) -> int:
        """A signed varint (two's complement over 64 bits)."""
        value = self.uint(number)
        return value - (1 << 64) if value >> 63 else value

    def flag(self, number: int) -> bool:
        return self.uint(number) != 0

    def float32(self, number: int) -> float:
        return float(struct.unpack("<f", self.raw(number))[0]) if self.has(number) else 0.0

    def float64(self, number: int) -> float:
        return float(struct.unpack("<d", self.raw(number))[0]) if self.has(number) else 0.0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data):
            raise InternalError("protobuf message is cut short")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
