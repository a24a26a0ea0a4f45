"""Which write of each key wins when writes carry versions."""

from __future__ import annotations

from numba import boolean, void

from forebay.kernels.hash import i64_in, i64_out
from forebay.kernels.jit import kernel

u1_in = boolean[::1]


@kernel(void(i64_in, i64_in, u1_in, i64_out, i64_out))
def newest_write(key, version, puts, held, last):
    """Fold the writes of one epoch, in order, into the state of each key.

    Write i puts (puts[i]) or deletes the row of key[i] at version[i]; -1 is no version. It counts unless it is older than the row
    that is there: a put without a version is older than any, a delete without one always counts. held[k]: the version of the row
    of key k, -1 for a row without one, -2 where there is none; last[k]: the write that counted last, -1 before any has.
    """
    for i in range(key.shape[0]):
        k = key[i]
        if held[k] >= 0 and version[i] < held[k] and (puts[i] or version[i] >= 0):
            continue
        held[k] = version[i] if puts[i] else -2
        last[k] = i
