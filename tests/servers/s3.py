"""An S3-compatible server for tests: moto in a process of its own, spoken to over HTTP."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

_ADDRESS = re.compile(r"Running on http://(127\.0\.0\.1:\d+)")


@contextmanager
def running() -> Iterator[str]:
    """The server's host:port; it has one bucket, `backup`, and is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        address = None
        while address is None and (line := process.stderr.readline()):
            found = _ADDRESS.search(line)
            address = found.group(1) if found else None
        assert address is not None, "moto did not start"
        drain = threading.Thread(target=process.stderr.read, daemon=True)  # a full pipe would stop the server
        drain.start()
        request = urllib.request.Request(f"http://{address}/backup", method="PUT")
        with urllib.request.urlopen(request):
            yield address
        process.kill()
        drain.join()
    finally:
        process.kill()
        process.communicate()
