"""Where the owner of a warehouse is reached: the Unix socket `warehouse.sock` in its directory.

The kernel allows a socket path of about 100 bytes, and Flight's locations are URIs. Where the directory's own path is too long
or has other characters, both sides go through a short symbolic link of their own in the temporary directory: the socket
itself always lies in the warehouse, so nothing has to be recorded and nothing goes stale.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = "warehouse.sock"
_PLAIN = re.compile(r"[A-Za-z0-9/._-]{1,70}")
"""Directories that a location can name as they are, with room left for the names of sockets in them."""


@contextmanager
def short_path(directory: Path) -> Iterator[Path]:
    """A path of the directory that a location can name; valid within the block."""
    directory = directory.absolute()
    if _PLAIN.fullmatch(str(directory)):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="forebay-") as own:
        link = Path(own, "w")
        link.symlink_to(directory, target_is_directory=True)
        try:
            yield link
        finally:
            link.unlink(missing_ok=True)


def location(path: Path) -> str:
    """The Flight location of a socket."""
    return f"grpc+unix://{path}"


def publish(bound: Path, directory: Path) -> None:
    """Show a listening socket under its public name, for its user alone; replaces what a killed owner left."""
    os.chmod(bound, 0o600)
    bound.replace(directory / SOCKET)


def withdraw(directory: Path) -> None:
    """Remove the socket."""
    with contextlib.suppress(FileNotFoundError):
        (directory / SOCKET).unlink()
