"""Many reads of files at once, past the page cache: Linux AIO on files opened with O_DIRECT.

One call hands over as many reads as there are; they come while the process does something else, and one more call collects them:
3 to 4 µs of CPU for 4 KB, where a `pread` per thread costs 13 to 17. Where the disk's queue is full that call waits for the disk,
so large batches are handed over by a thread. Buffers of reads under way belong to the kernel: they are kept here until it is done
with them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forebay.kernels.extents import PAGE

Numbers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
_LIBC = ctypes.CDLL(None, use_errno=True)
_SETUP, _DESTROY, _EVENTS, _SUBMIT = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}.get(platform.machine(), (-1, -1, -1, -1))
_DEPTHS = (4096, 1024, 256, 64)
"""Reads under way at most, as many as the system still has room for (`fs.aio-max-nr`). From 256 on a disk answers no faster, but
has more to do while the process does something else."""
_QUEUE = 128
"""Reads that any disk's queue takes at once."""
_LATER = 0.0005
"""Seconds until there may be room for reads again."""
_READ = np.dtype(
    [
        ("data", "<u8"),
        ("key", "<u4"),
        ("flags", "<u4"),
        ("opcode", "<u2"),
        ("priority", "<i2"),
        ("file", "<u4"),
        ("buffer", "<u8"),
        ("size", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("more", "<u8"),
    ]
)
"""`struct iocb` of linux/aio_abi.h; opcode 0 reads."""
_EVENT = np.dtype([("data", "<u8"), ("read", "<u8"), ("result", "<i8"), ("more", "<i8")])
"""`struct io_event`."""


def buffer(size: int) -> Bytes:
    """So many bytes that begin at a page."""
    whole = np.empty(size + PAGE, np.uint8)
    begin = -whole.ctypes.data % PAGE
    return whole[begin : begin + size]


@dataclass(slots=True)
class Reads:
    """Reads that were asked for together."""

    calls: npt.NDArray[np.void]
    target: Bytes
    results: Numbers
    """Bytes that came, per read; what is negative is an error's number."""
    left: int
    """Reads that have not come."""
    sent: int = 0
    sending: Future[None] | None = None


class Aio:
    """A queue of reads."""

    def __init__(self) -> None:
        """Raises:
        OSError: the system has none.
        """
        self._context = ctypes.c_ulong(0)
        depths = (d for d in _DEPTHS if _SETUP >= 0 and not _LIBC.syscall(_SETUP, d, ctypes.byref(self._context)))
        self._depth = next(depths, 0)
        if not self._depth:
            raise OSError(ctypes.get_errno(), "no asynchronous reads")
        self._events = np.empty(self._depth, _EVENT)
        self._batches: dict[int, Reads] = {}
        self._next = 0
        self._flying = 0
        self._lock = threading.Lock()
        """For what is counted by the thread that sends, too."""
        self._sender: ThreadPoolExecutor | None = None

    def begin(self, files: Numbers, offsets: Numbers, sizes: Numbers, places: Numbers, target: Bytes) -> int:
        """Ask for sizes[i] bytes at offsets[i] of the file with descriptor files[i], to target[places[i]:].

        Offsets, sizes and places are multiples of a page; the descriptors stay open until `finish`. Returns the number to
        finish it by.
        """
        calls = np.zeros(files.shape[0], _READ)
        number, self._next = self._next, self._next + 1
        calls["data"] = (number << 32) + np.arange(calls.shape[0])
        calls["file"], calls["offset"], calls["size"] = files, offsets, sizes
        calls["buffer"] = target.ctypes.data + places
        batch = self._batches[number] = Reads(calls, target, np.zeros(calls.shape[0], np.int64), calls.shape[0])
        if batch.left > _QUEUE:
            self._sender = self._sender or ThreadPoolExecutor(1, "forebay-aio")
            batch.sending = self._sender.submit(self._send, batch)
        else:
            self._send(batch)
        return number

    def finish(self, number: int) -> Numbers:
        """Bytes that came of each read, when all have; a file may end before what was asked for. Negative: an error."""
        batch = self._batches[number]
        if batch.sending is not None:
            batch.sending.result()
        while batch.left:
            self._send(batch)
            self._collect(batch.sent + batch.left - batch.calls.shape[0])
        del self._batches[number]
        return batch.results

    def drop(self, number: int) -> None:
        """Wait for what was asked for, if nobody has."""
        if number in self._batches:
            self.finish(number)

    def close(self) -> None:
        """Wait for what is under way, and let go of it."""
        if self._sender is not None:
            self._sender.shutdown()
        _LIBC.syscall(_DESTROY, self._context)
        self._batches.clear()

    def _send(self, batch: Reads) -> None:
        """Hand over what there is room for."""
        while (count := min(batch.calls.shape[0] - batch.sent, self._depth - self._flying)) > 0:
            at = batch.calls.ctypes.data + _READ.itemsize * np.arange(batch.sent, batch.sent + count)
            with self._lock:
                self._flying += count
            done = _LIBC.syscall(_SUBMIT, self._context, count, at.ctypes.data_as(ctypes.c_void_p))
            with self._lock:
                self._flying -= count - max(done, 0)
                if done < 0 and self._flying:
                    return  # the system has no room for more now
                if done <= 0:
                    batch.results[batch.sent] = -ctypes.get_errno()
                    batch.left -= 1
                batch.sent += max(done, 1)

    def _collect(self, wanted: int) -> None:
        """Wait for so many reads, which are under way, and take what has come; with none look a little later."""
        if not wanted:
            time.sleep(_LATER)
        where = self._events.ctypes.data_as(ctypes.c_void_p)
        count = _LIBC.syscall(_EVENTS, self._context, wanted, self._depth, where, None)
        if count < 0:
            if (error := ctypes.get_errno()) == 4:  # EINTR
                return
            raise OSError(error, os.strerror(error))
        came = self._events[:count]
        with self._lock:
            self._flying -= count
        batches = (came["data"] >> 32).astype(np.int64)
        while came.shape[0]:
            number = int(batches[0])
            mine, came, batches = came[batches == number], came[batches != number], batches[batches != number]
            batch = self._batches[number]
            batch.results[(mine["data"] & 0xFFFFFFFF).astype(np.int64)] = mine["result"]
            with self._lock:
                batch.left -= mine.shape[0]
