"""The owner's side: carries the calls of attached processes out on the owner's connection.

Each call runs on a thread of gRPC's. A call ends when its client calls it off or dies, and when the owner closes; what it
started for itself (a stream, a query over a connector's table) ends with it, so a client that dies leaves nothing running.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.flight as flight

from forebay.engine.errors import ConnectorError, ForebayError
from forebay.interrupt import StatementCancelledError, interruptible
from forebay.remote import wire
from forebay.remote.address import location, publish, short_path, withdraw
from forebay.result import ChangeStream, Result

if TYPE_CHECKING:
    from forebay.connection import Connection

log = logging.getLogger("forebay")

_CHUNK_ROWS = 65_536
_BEHIND_ROWS = 1 << 20
"""Rows of changes that wait for a slow client before its stream is ended."""
_LOOK_UP = 0.2
"""Seconds between two looks whether the client of an idle stream is still there."""


def serve(connection: Connection, directory: Path) -> Server:
    """Serve the connection on the warehouse's socket, which only this user may open.

    It is bound in a private directory first, so that at no time anybody else can open it.
    """
    with short_path(directory) as short:
        private = short / ".bind"
        shutil.rmtree(private, ignore_errors=True)
        private.mkdir(mode=0o700)
        server = _Flight(location(private / "s"), connection)
        publish(private / "s", short)
        private.rmdir()
    return Server(server, directory)


class Server:
    """The running service. `close` ends every call and removes the socket."""

    def __init__(self, service: _Flight, directory: Path) -> None:
        self._service = service
        self._directory = directory
        atexit.register(self.close)

    def close(self) -> None:
        """Return once every call has ended."""
        atexit.unregister(self.close)
        withdraw(self._directory)
        self._service.closing.set()
        self._service.shutdown()


class _Flight(flight.FlightServerBase):  # type: ignore[misc]
    def __init__(self, where: str, connection: Connection) -> None:
        super().__init__(where)
        self.closing = threading.Event()
        self._connection = connection
        self._called_off: dict[str, threading.Event] = {}

    # -- rows out -----------------------------------------------------------------------------------------------

    def do_get(self, context: Any, ticket: Any) -> Any:
        request = json.loads(ticket.ticket)
        method = {"execute": self._execute, "stream": self._stream}[request["method"]]
        try:
            with self._call(context, request["call"]):
                return method(context, request["sql"])
        except BaseException as error:  # noqa: BLE001 - it is the client's to handle
            _note(error)
            return _rows(pa.schema([]), {"error": wire.error_to_json(error)}, [])

    def _execute(self, context: Any, sql: str) -> Any:
        result: Result = self._connection.execute(sql)
        header = wire.result_header(result)
        if not header["rows"]:
            return _rows(pa.schema([]), header, [])
        table = result.arrow()
        return _rows(table.schema, header, table.to_batches(max_chunksize=_CHUNK_ROWS))

    def _stream(self, context: Any, sql: str) -> Any:
        stream = self._connection.stream(sql)
        stream.max_pending = _BEHIND_ROWS
        schema = wire.with_header(wire.weighted(stream.schema), {})
        return flight.GeneratorStream(schema, self._changes(context, stream, schema))

    def _changes(self, context: Any, stream: ChangeStream, schema: pa.Schema) -> Iterator[Any]:
        """Changelog batches until the query or the call ends; an error as the metadata of an empty batch."""
        try:
            while not (stream.ended or context.is_cancelled()):
                if self.closing.is_set():
                    raise ConnectorError(
                        "the owner of the warehouse has closed it", hint="connect again to become its owner"
                    )
                for batch in stream.batches(_LOOK_UP):
                    yield wire.batch_to_wire(batch, schema), None
        except Exception as error:  # noqa: BLE001 - it is the client's to handle
            _note(error)
            yield pa.RecordBatch.from_pylist([], schema), json.dumps(wire.error_to_json(error)).encode()
        finally:
            stream.close()

    # -- rows in ------------------------------------------------------------------------------------------------

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        try:
            self._connection.register(descriptor.path[0].decode(), reader.read_all())
            answer = b"{}"
        except BaseException as error:  # noqa: BLE001 - it is the client's to handle
            _note(error)
            answer = json.dumps(wire.error_to_json(error)).encode()
        writer.write(pa.py_buffer(answer))

    # -- calls --------------------------------------------------------------------------------------------------

    def do_action(self, context: Any, action: Any) -> list[bytes]:
        try:
            method: Callable[..., bytes] = getattr(self, f"_do_{action.type}")
            return [b"=" + method(**wire.unpack(action.body.to_pybytes()))]
        except BaseException as error:  # noqa: BLE001 - it is the client's to handle
            _note(error)
            return [b"!" + json.dumps(wire.error_to_json(error)).encode()]

    def _do_hello(self, protocol: int) -> bytes:
        return wire.pack({"protocol": wire.PROTOCOL, "pid": os.getpid()})

    def _do_call_off(self, call: str) -> bytes:
        event = self._called_off.get(call)
        if event is not None:
            event.set()
        return wire.pack(event is not None)

    def _do_lookup(self, relation: str, key: dict[str, Any]) -> bytes:
        row = self._connection.lookup(relation, wire.key_from_wire(key))
        if row is None:
            return wire.pack(None)
        found = self._connection.relations.relation(relation)
        assert found is not None
        return wire.pack(row, pa.struct([found.schema.field(name) for name in row]))

    def _do_resume(self, all_jobs: bool) -> bytes:
        if not self._connection.warehouse.driver.running:
            self._connection.resume()
        return wire.pack(None)

    def _do_wait(self, names: list[str] | None, timeout: float) -> bytes:
        return wire.pack(self._connection.wait(names, timeout))

    def _do_checkpoint(self, timeout: float) -> bytes:
        return wire.pack(self._connection.checkpoint(timeout))

    def _do_jobs(self, all_jobs: bool) -> bytes:
        return wire.pack([{"name": j.name, "sql": j.sql} for j in self._connection.jobs.values()])

    def _do_job_status(self, name: str) -> bytes:
        handle = self._connection.jobs.get(name)
        return wire.pack("STOPPED" if handle is None else handle.status)

    def _do_job_error(self, name: str) -> bytes:
        handle = self._connection.jobs.get(name)
        error = None if handle is None else handle.error
        return wire.pack(None if error is None else json.dumps(wire.error_to_json(error)))

    def _do_job_metrics(self, name: str) -> bytes:
        return wire.pack(self._connection.jobs[name].metrics())

    def _do_job_wait(self, name: str, timeout: float) -> bytes:
        return wire.pack(name not in self._connection.jobs or self._connection.jobs[name].wait(timeout))

    def _do_job_stop(self, name: str) -> bytes:
        self._connection.jobs[name].stop()
        return wire.pack(None)

    def _do_job_cancel(self, name: str) -> bytes:
        self._connection.jobs[name].cancel()
        return wire.pack(None)

    def _do_job_resume(self, name: str) -> bytes:
        self._connection.jobs[name].resume()
        return wire.pack(None)

    @contextmanager
    def _call(self, context: Any, call: str) -> Iterator[None]:
        """A call that its client can call off, by name or by going away."""
        event = self._called_off[call] = threading.Event()
        try:
            with interruptible(lambda: event.is_set() or self.closing.is_set() or bool(context.is_cancelled())):
                yield
        finally:
            del self._called_off[call]


def _rows(schema: pa.Schema, header: dict[str, Any], batches: list[pa.RecordBatch]) -> Any:
    schema = wire.with_header(schema, header)
    parts = [pa.RecordBatch.from_arrays(b.columns, schema=schema) for b in batches]
    return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(schema, parts))


def _note(error: BaseException) -> None:
    """What no user has caused is logged at the owner too."""
    if not isinstance(error, ForebayError):
        log.error("a call of an attached process failed", exc_info=error)
    elif isinstance(error, StatementCancelledError):
        log.info("a statement of an attached process was cancelled")
