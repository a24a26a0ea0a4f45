"""Micro-benchmarks of Kafka's messages: each kernel on 8192 messages of 170 bytes with a key; `python -m bench.wire` has the
client and the broker behind them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forebay.connectors.kafka.direct import Message
from forebay.connectors.kafka.dispatch import laid_out
from forebay.connectors.records import Encoded
from forebay.kernels import messages as kernels

ROWS, BYTES = 8192, 170

content = np.random.default_rng(7).integers(0, 256, ROWS * BYTES, np.uint8)
structs = (Message * ROWS)()
for i, message in enumerate(structs):
    message.topic, message.partition, message.offset = 4096, i // 1000, i
    message.value, message.value_size = content.ctypes.data + i * BYTES, BYTES
    message.key, message.key_size = content.ctypes.data + i * BYTES, 8
addresses = ctypes.addressof(structs) + np.arange(ROWS) * kernels.SIZE
good, offsets, topics = (np.empty(ROWS, np.int64) for _ in range(3))
partitions, kinds = np.empty(ROWS, np.int32), np.empty(ROWS, np.int32)
ends, valid, out = np.arange(ROWS + 1) * BYTES, np.empty(ROWS, np.uint8), np.empty_like(content)
labs = ctypes.cast(ctypes.CDLL(None).llabs, ctypes.c_void_p).value
records = Encoded(pa.array([b"%0170d" % i for i in range(ROWS)], pa.binary()), None, None, None, None)

KERNELS: dict[str, Callable[[], Any]] = {
    "scan": lambda: kernels.scan(addresses, ROWS, good, partitions, offsets, topics),
    "measure": lambda: kernels.measure(addresses, kernels.VALUE, ends, valid),
    "gather": lambda: kernels.gather(addresses, kernels.VALUE, ends, out.ctypes.data),
    "timestamps, calling llabs": lambda: kernels.timestamps(addresses, labs, offsets, kinds),
    "free, calling llabs": lambda: kernels.free(addresses, ROWS, labs),
    "laid out": lambda: laid_out(records, None),
}


@pytest.mark.parametrize("name", list(KERNELS))
def test_kernel(benchmark: Any, name: str) -> None:
    benchmark(KERNELS[name])
