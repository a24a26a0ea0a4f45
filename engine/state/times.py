"""Times of rows, for expiry: a row expires when the time that its reader looks back to has passed its own.

All times are µs since 1970. A row without a time (NULL) never expires: nothing says that it is old.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.state.arrays import is_null, raw

Micros = npt.NDArray[np.int64]
NEVER = 2**63 - 1
"""The time of rows that have none."""
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def time_of(column: pa.Array) -> Micros:
    """A timestamp column as int64[n] µs, rounded down; NEVER where it is NULL."""
    per_second = _PER_SECOND[column.type.unit]
    values = raw(column).view(np.int64)
    if per_second < 10**6:
        values = values * (10**6 // per_second)
    elif per_second > 10**6:
        values = values // (per_second // 10**6)
    return np.where(is_null(column), NEVER, values) if column.null_count else values
