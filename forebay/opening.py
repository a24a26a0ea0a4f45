"""`connect`: owns a warehouse that nobody owns, attaches to one that somebody does.

The lock in the directory decides who owns it; a socket that answers spares an attaching process loading the engine.
"""

from __future__ import annotations

import atexit
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from forebay.remote.address import SOCKET
from forebay.session import Session

if TYPE_CHECKING:
    from forebay.connection import Connection

_OWNER_STARTS = 10.0
"""Seconds within which an owner that holds the lock has to answer."""


@overload
def connect(
    path: Literal[":memory:"] = ":memory:",
    *,
    resume: bool = True,
    config: Mapping[str, str] | None = None,
    functions: Iterable[Callable[..., Any]] = (),
    attach: bool = True,
) -> Connection: ...
@overload
def connect(
    path: str | Path,
    *,
    resume: bool = True,
    config: Mapping[str, str] | None = None,
    functions: Iterable[Callable[..., Any]] = (),
    attach: Literal[False],
) -> Connection: ...
@overload
def connect(
    path: str | Path,
    *,
    resume: bool = True,
    config: Mapping[str, str] | None = None,
    functions: Iterable[Callable[..., Any]] = (),
    attach: bool = True,
) -> Session: ...
def connect(
    path: str | Path = ":memory:",
    *,
    resume: bool = True,
    config: Mapping[str, str] | None = None,
    functions: Iterable[Callable[..., Any]] = (),
    attach: bool = True,
) -> Session:
    """Open a warehouse: a directory, or ':memory:' for one that is gone when the connection closes.

    The first process to open a directory owns it and runs its jobs; others attach to the owner and use it through the same
    methods. `attach=False` insists on owning it. `config`: session options, as SET takes them; they belong to the warehouse,
    so attached sessions share them. With `resume=False` the owner runs nothing until `resume`, to look first. `functions`:
    what the owner gives to `create_function` before it resumes jobs that use them; attached sessions have the owner's.

    Raises:
        WarehouseLockedError: another process owns the warehouse, and `attach` is False or it does not answer.
        StateError: no checkpoint can be read.
    """
    if str(path) == ":memory:":
        from forebay.connection import Connection

        return Connection(resume=resume, config=config, functions=functions)
    directory = Path(path)
    deadline = time.monotonic() + _OWNER_STARTS
    while True:
        if attach and (attached := _attached(directory, config)) is not None:
            return attached
        patient = attach and time.monotonic() < deadline
        owner = _owner(directory, patient, resume=resume, config=config, functions=functions)
        if owner is not None:
            return owner
        time.sleep(0.05)


def _attached(directory: Path, config: Mapping[str, str] | None) -> Session | None:
    """A session of the owner; None if nobody answers."""
    if not (directory / SOCKET).exists():
        return None
    from forebay.remote.client import AttachedConnection, OwnerGoneError

    try:
        return AttachedConnection(directory, config)
    except OwnerGoneError:
        return None


def _owner(directory: Path, patient: bool, **arguments: Any) -> Connection | None:
    """The owner's connection; None if another process has the lock and we are patient: it is starting, or ending."""
    from forebay.connection import Connection
    from forebay.engine.runtime.warehouse import WarehouseLockedError

    try:
        connection = Connection(directory, **arguments)
    except WarehouseLockedError:
        if not patient:
            raise
        return None
    connection.serve(directory)
    _leave_well(connection)
    return connection


def _leave_well(connection: Connection) -> None:
    """End with a last checkpoint when the interpreter exits, and exit on SIGTERM unless the program minds it itself."""
    leaving = weakref.WeakMethod(connection.close)

    def close() -> None:
        if (end := leaving()) is not None:
            end()

    atexit.register(close)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
