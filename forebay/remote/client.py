"""The attached side: a session whose warehouse runs in another process.

Waiting is done in short calls, and a statement's call on a thread of its own, so that Ctrl-C gets through at once; the
statement is then called off at the owner too.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as flight

from forebay.engine.errors import ConnectorError, ForebayError, InternalError, UnsupportedError
from forebay.interrupt import StatementCancelledError
from forebay.remote import wire
from forebay.remote.address import SOCKET, location, short_path
from forebay.result import ChangeStream, Result, as_table
from forebay.session import JobHandle, Jobs, Session, names_of

T = TypeVar("T")
_SLICE = 0.25
"""Seconds that the owner waits within one call, so that both sides stay free to stop."""
_CHECKPOINT_SLICE = 5.0
_GREETING = 10.0
"""Seconds within which an owner that is not stopped answers."""


class OwnerGoneError(ConnectorError):
    """The process that owns the warehouse does not answer."""


class AttachedConnection(Session):
    """A session of a warehouse that another process owns. Closing it detaches; the warehouse runs on."""

    def __init__(self, path: Path, config: Mapping[str, str] | None = None) -> None:
        """Attach to the owner of the warehouse at `path`.

        Raises:
            OwnerGoneError: it does not answer.
            UnsupportedError: it is of a version that does not understand this one.
        """
        self._path = path
        self._closed = False
        self._lost: str | None = None
        self._streams: set[ChangeStream] = set()
        with contextlib.ExitStack() as opened:
            short = opened.enter_context(short_path(path))
            self._client = opened.enter_context(flight.FlightClient(location(short / SOCKET)))
            self._greet()
            for pair in (config or {}).items():
                key, value = (text.replace("'", "''") for text in pair)
                self.execute(f"SET '{key}' = '{value}'")
            self._opened = opened.pop_all()

    def _greet(self) -> None:
        owner = self.ask("hello", flight.FlightCallOptions(timeout=_GREETING), protocol=wire.PROTOCOL)
        if owner["protocol"] != wire.PROTOCOL:
            raise UnsupportedError(
                f"process {owner['pid']}, which owns warehouse '{self._path}', runs another version of Forebay",
                hint="use the same version in both",
            )

    # -- statements ---------------------------------------------------------------------------------------------

    def execute(self, sql: str) -> Result:
        def fetch(reader: Any) -> Result:
            with self._owner_there():
                rows = reader.read_all()
            schema, header = wire.take_header(rows.schema)
            return wire.result_of(header, rows.replace_schema_metadata(schema.metadata))

        return self._get("execute", sql, fetch)

    def stream(self, query: str) -> ChangeStream:
        def follow(reader: Any) -> ChangeStream:
            weighted, _ = wire.take_header(reader.schema)
            stream = ChangeStream(weighted.remove(len(weighted) - 1), lambda: self._end(stream, reader))
            self._streams.add(stream)
            threading.Thread(target=self._follow, args=(reader, stream), name="forebay-stream", daemon=True).start()
            return stream

        return self._get("stream", query, follow)

    def _end(self, stream: ChangeStream, reader: Any) -> None:
        self._streams.discard(stream)
        reader.cancel()

    def _follow(self, reader: Any, stream: ChangeStream) -> None:
        """Deliver what comes until the query ends, here or there."""
        try:
            while True:
                with self._owner_there():
                    chunk = reader.read_chunk()
                if chunk.app_metadata is not None:
                    raise wire.error_from_json(json.loads(chunk.app_metadata.to_pybytes()))
                stream.deliver([wire.batch_from_wire(chunk.data, stream.schema)])
        except StopIteration:
            stream.end()
        except Exception as error:  # noqa: BLE001 - it belongs to the thread that reads the stream
            stream.end(error)
        self._streams.discard(stream)

    def lookup(self, relation: str, key: Any) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.ask("lookup", relation=relation, key=wire.key_to_wire(key))
        return found

    def register(self, name: str, data: Any) -> None:
        self._check_open()
        table = as_table(data)
        with self._owner_there():
            writer, answers = self._client.do_put(flight.FlightDescriptor.for_path(name), table.schema)
            with writer:
                writer.write_table(table, max_chunksize=65_536)
                writer.done_writing()
                answer = json.loads(answers.read().to_pybytes())
        if answer:
            raise wire.error_from_json(answer)

    def create_function(self, function: Callable[..., Any]) -> None:
        raise UnsupportedError(
            "functions are defined in the process that owns the warehouse: they run there",
            hint="call create_function in that process; its functions work in attached sessions too",
        )

    # -- jobs ---------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Jobs[AttachedJob]:
        sqls = {j["name"]: j["sql"] for j in self.ask("jobs", all_jobs=True)}
        return Jobs(lambda: list(sqls), lambda name: AttachedJob(self, name, sqls[name]))

    def resume(self) -> None:
        self.ask("resume", all_jobs=True)

    def wait(
        self, names: Iterable[str | JobHandle] | str | JobHandle | None = None, timeout: float | None = None
    ) -> bool:
        wanted = None if names is None else names_of(names)
        return sliced(lambda seconds: self.ask("wait", names=wanted, timeout=seconds), timeout, _SLICE)

    def checkpoint(self, timeout: float | None = None) -> bool:
        return sliced(lambda seconds: self.ask("checkpoint", timeout=seconds), timeout, _CHECKPOINT_SLICE)

    # -- life ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        for stream in list(self._streams):
            stream.close()
        self._closed = True
        self._opened.close()

    # -- calls --------------------------------------------------------------------------------------------------

    def ask(self, method: str, options: Any = None, /, **arguments: Any) -> Any:
        """The owner's answer to one short call; `options` are Flight's.

        Raises:
            OwnerGoneError: there is none.
            Exception: what the call raised there.
        """
        self._check_open()
        with self._owner_there():
            [answer] = self._client.do_action(flight.Action(method, wire.pack(arguments)), options)
        body = answer.body.to_pybytes()
        if body[:1] == b"!":
            raise wire.error_from_json(json.loads(body[1:]))
        return wire.unpack(body[1:])

    def _get(self, method: str, sql: str, use: Callable[[Any], T]) -> T:
        """What `use` makes of the rows that a statement gives."""
        self._check_open()
        call = uuid.uuid4().hex
        abandoned = threading.Event()
        ticket = flight.Ticket(json.dumps({"method": method, "sql": sql, "call": call}))

        def work() -> T:
            with self._owner_there():
                reader = self._client.do_get(ticket)
            if abandoned.is_set():  # nobody will read it
                reader.cancel()
                raise StatementCancelledError("the statement was cancelled")
            return use(reader)

        if threading.current_thread() is not threading.main_thread():
            return work()
        try:
            return _on_thread(work)
        except KeyboardInterrupt:
            abandoned.set()
            with contextlib.suppress(ForebayError):  # an owner that is gone has called it off itself
                self.ask("call_off", call=call)
            raise

    @contextlib.contextmanager
    def _owner_there(self) -> Any:
        try:
            yield
        except (flight.FlightError, pa.ArrowException, OSError) as error:
            if self._closed:
                raise ForebayError("the connection is closed") from error
            if isinstance(error, flight.FlightUnavailableError | flight.FlightTimedOutError):
                self._lost = str(error).split(". gRPC client debug context")[0]
                raise self._gone() from error
            raise InternalError("the transport failed", detail=str(error)) from error

    def _gone(self) -> OwnerGoneError:
        return OwnerGoneError(
            f"the process that owns warehouse '{self._path}' does not answer",
            detail=self._lost,
            hint="it may have ended; connect again: the first to do so becomes the owner",
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ForebayError("the connection is closed")
        if self._lost is not None:  # the transport would find a new owner, minutes later
            raise self._gone()


class AttachedJob(JobHandle):
    """A job of a warehouse that another process owns."""

    def __init__(self, session: AttachedConnection, name: str, sql: str) -> None:
        super().__init__(name, sql)
        self._session = session

    @property
    def status(self) -> str:
        return str(self._session.ask("job_status", name=self.name))

    @property
    def error(self) -> Exception | None:
        sent = self._session.ask("job_error", name=self.name)
        return None if sent is None else wire.error_from_json(json.loads(sent))

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = self._session.ask("job_metrics", name=self.name)
        return found

    def wait(self, timeout: float | None = None) -> bool:
        return sliced(lambda s: self._session.ask("job_wait", name=self.name, timeout=s), timeout, _SLICE)

    def stop(self) -> None:
        self._session.ask("job_stop", name=self.name)

    def cancel(self) -> None:
        self._session.ask("job_cancel", name=self.name)

    def resume(self) -> None:
        self._session.ask("job_resume", name=self.name)


def sliced(wait: Callable[[float], bool], timeout: float | None, longest: float) -> bool:
    """Wait in slices of `longest` seconds until it has happened, or `timeout` is over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = longest if deadline is None else min(longest, max(deadline - time.monotonic(), 0.0))
        if wait(left):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


def _on_thread(work: Callable[[], T]) -> T:
    """Do it on a thread of its own: the caller's can then be interrupted, as waiting in the transport cannot."""
    done: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised on the caller's thread
            done.put((None, error))

    threading.Thread(target=run, name="forebay-statement", daemon=True).start()
    value, error = done.get()
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
