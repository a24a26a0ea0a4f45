"""Forebay: a real-time warehouse in one Python process.

import forebay

con = forebay.connect("warehouse")
con.execute("CREATE TABLE orders (id INT PRIMARY KEY NOT ENFORCED, amount DOUBLE)")
con.execute("CREATE MATERIALIZED VIEW total AS SELECT SUM(amount) AS total FROM orders")
con.execute("INSERT INTO orders VALUES (1, 9.5), (2, 0.5)")
con.sql("SELECT * FROM total").fetchall()   # [(10.0,)]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forebay.engine.errors import (
    CatalogError,
    ConnectorError,
    DataError,
    ForebayError,
    InternalError,
    OptionError,
    SqlError,
    StateError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from forebay.connection import Connection
    from forebay.opening import connect
    from forebay.saving import restore
    from forebay.session import JobHandle, Session
    from forebay.udfs import udf

__version__ = "0.1.0"

__all__ = [
    "CatalogError",
    "Connection",
    "ConnectorError",
    "DataError",
    "ForebayError",
    "InternalError",
    "JobHandle",
    "OptionError",
    "Session",
    "SqlError",
    "StateError",
    "UnsupportedError",
    "connect",
    "restore",
    "udf",
]

_LAZY = {
    "Connection": "forebay.connection",
    "JobHandle": "forebay.session",
    "Session": "forebay.session",
    "connect": "forebay.opening",
    "restore": "forebay.saving",
    "udf": "forebay.udfs",
}


def __getattr__(name: str) -> Any:
    """Loads the engine when it is first used, so that `forebay --help` is quick."""
    if name not in _LAZY:
        raise AttributeError(f"module 'forebay' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
