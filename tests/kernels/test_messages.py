"""The message kernels against naive twins, over messages that C never saw."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from forebay.connectors.kafka.direct import Message
from forebay.kernels import messages as kernels

pytestmark = pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the layout is that of 64-bit systems")


class Fakes:
    """n messages with random values, keys, places and errors."""

    def __init__(self, n: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)

        def content() -> list[bytes | None]:
            sizes = random.integers(-1, 40, n)
            return [None if size < 0 else random.bytes(size) for size in sizes]

        self.values, self.keys = content(), content()
        self.errors = np.where(random.random(n) < 0.2, -191, 0)
        self.partitions, self.offsets = random.integers(0, 9, n), random.integers(0, 1 << 40, n)
        self.structs = (Message * n)()
        self._kept: list[ctypes.Array[ctypes.c_char]] = []
        for i, m in enumerate(self.structs):
            m.error, m.topic, m.partition, m.offset = int(self.errors[i]), 7000 + i, self.partitions[i], self.offsets[i]
            m.value, m.value_size = self._place(self.values[i])
            m.key, m.key_size = self._place(self.keys[i])
        start = ctypes.addressof(self.structs)
        self.addresses = np.array([start + i * kernels.SIZE for i in range(n)], np.int64)

    def _place(self, content: bytes | None) -> tuple[int | None, int]:
        if content is None:
            return None, 0
        self._kept.append(ctypes.create_string_buffer(content, len(content) + 1))
        return ctypes.addressof(self._kept[-1]), len(content)


def test_the_layout_is_that_of_c() -> None:
    assert ctypes.sizeof(Message) == kernels.SIZE
    assert (Message.value.offset, Message.key.offset) == (kernels.VALUE, kernels.KEY)


@pytest.mark.parametrize("n", [0, 1, 3, 500])
def test_scan(n: int) -> None:
    fakes = Fakes(n)
    good, topics = np.empty(n, np.int64), np.empty(n, np.int64)
    partitions, offsets = np.empty(n, np.int32), np.empty(n, np.int64)
    count = kernels.scan(fakes.addresses, n, good, partitions, offsets, topics)
    fine = np.flatnonzero(fakes.errors == 0)
    assert count == len(fine)
    assert good[:count].tolist() == fakes.addresses[fine].tolist()
    assert good[count:][::-1].tolist() == fakes.addresses[fakes.errors != 0].tolist()
    assert partitions[:count].tolist() == fakes.partitions[fine].tolist()
    assert offsets[:count].tolist() == fakes.offsets[fine].tolist()
    assert topics[:count].tolist() == (7000 + fine).tolist()


@pytest.mark.parametrize("n", [0, 1, 3, 500])
@pytest.mark.parametrize("field", ["value", "key"])
def test_measure_and_gather(n: int, field: str) -> None:
    fakes = Fakes(n)
    place, contents = (kernels.VALUE, fakes.values) if field == "value" else (kernels.KEY, fakes.keys)
    ends, valid = np.empty(n + 1, np.int64), np.empty(n, np.uint8)
    nulls = kernels.measure(fakes.addresses, place, ends, valid)
    assert nulls == contents.count(None)
    assert valid.tolist() == [c is not None for c in contents]
    assert ends.tolist() == [0, *np.cumsum([len(c or b"") for c in contents])]
    out = np.zeros(int(ends[-1]) + 1, np.uint8)
    out[-1] = 99
    kernels.gather(fakes.addresses, place, ends, out.ctypes.data)
    assert out.tobytes() == b"".join(c or b"" for c in contents) + bytes([99])


def test_functions_are_called_once_per_message() -> None:
    fakes = Fakes(50)
    freed: list[int] = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(freed.append)
    kernels.free(fakes.addresses, 40, ctypes.cast(function, ctypes.c_void_p).value)
    assert freed == fakes.addresses[:40].tolist()

    @ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    def timestamp(message: int, kind: ctypes._Pointer[ctypes.c_int]) -> int:
        kind[0] = message % 3
        return message + 5

    times, kinds = np.empty(50, np.int64), np.empty(50, np.int32)
    kernels.timestamps(fakes.addresses, ctypes.cast(timestamp, ctypes.c_void_p).value, times, kinds)
    assert times.tolist() == (fakes.addresses + 5).tolist()
    assert kinds.tolist() == (fakes.addresses % 3).tolist()
