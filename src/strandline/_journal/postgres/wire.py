"""One connection to PostgreSQL, by libpq: prepared statements, as many as wanted in one round trip.

The only module that knows the driver. Nothing here blocks for ever: whatever waits has a limit, and what is given up is
a connection that is lost. Values and rows are plain: None, int, float, str, bytes, and bool in rows.

A pooler may give each transaction another of its connections, where our statements are not prepared: they are sent
whole from then on. Their names are drawn, so that no statement of another client is ever meant by one.
"""

import logging
import os
import re
import secrets
import select
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo
from psycopg.errors import Error as DriverError

_log = logging.getLogger("strandline.journal")

CONNECT_S: Final = 3.0
"""How long a connection to one address may take to be made; then the next one is tried."""
LOCK_TIMEOUT: Final = "55P03"
"""The SQLSTATE of a statement that has waited for a lock for as long as it may."""
ANSWER_S: Final = 30.0
"""How long an answer may take, unless said otherwise."""

_DONE: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_LOST: Final = (b"08", b"57P", b"25P03", b"25P04")
"""What SQLSTATEs begin with that say that the server has ended the connection, or is about to."""
_NO_STATEMENT: Final = b"26000"
_ESCAPED: Final = re.compile("\x01([\x01\x02])")
_PLACEHOLDER: Final = re.compile(r"\?|(?<![:\w]):([a-z_]+)")
_DECODED: Final[dict[int, Callable[[bytes], Any]]] = {
    16: lambda stored: stored != b"\0",
    17: bytes,
    20: lambda stored: struct.unpack("!q", stored)[0],
    21: lambda stored: struct.unpack("!h", stored)[0],
    23: lambda stored: struct.unpack("!i", stored)[0],
    25: lambda stored: _unescaped(stored.decode()),
    701: lambda stored: struct.unpack("!d", stored)[0],
    2278: lambda stored: None,
}
"""By type: bool, bytea, bigint, smallint, int, text, double precision, void."""


class ConnectionLost(Exception):
    """There is no connection, or no more. Whether what was sent has been done is not known."""


class Refused(Exception):
    """The server has refused a statement, and all that came with it."""

    def __init__(self, state: str, message: str, constraint: str | None = None) -> None:
        super().__init__(message)
        self.state = state
        """Its SQLSTATE."""
        self.constraint = constraint
        """The name of the constraint or unique index that it would have violated."""


class Found:
    """Rows, whole. Implements `database.Rows`."""

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int) -> None:
        self.rowcount = rowcount
        self._rows = iter(rows)

    def fetchone(self) -> Any:
        """Return the next row, None if there is none."""
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left."""
        return self._rows

    def close(self) -> None:
        """Let go of what was not fetched."""
        self._rows = iter(())


Values = Sequence[Any] | Mapping[str, Any]
Statement = tuple[str, Values]


def check_conninfo(conninfo: str) -> None:
    """Raise `ValueError` unless this is an address of a database, in libpq's form; no password is in the message."""
    wrong = "it is no address that PostgreSQL's clients understand (is a character of its password to be encoded?)"
    try:
        found = conninfo_to_dict(conninfo)
    except ProgrammingError:
        raise ValueError(wrong) from None  # (what it says may quote the password)
    if not re.fullmatch(r"[\d,]*", str(found.get("port") or "")) or "@" in str(found.get("host") or ""):
        raise ValueError(wrong)


class Wire:
    """A connection. Belongs to one thread at a time."""

    def __init__(self, conninfo: str, *, answer_s: float = ANSWER_S) -> None:
        """Connect. Raises `ConnectionLost` if that is not possible."""
        self.answer_s = answer_s
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._prefix = secrets.token_hex(4)
        self._is_prepared = True
        """Whether statements are prepared, for all that come after."""
        self._is_closed = False
        self._sent_at: float | None = None
        """When the statements were sent whose answers it waits for."""
        self._pg = _connected(conninfo)
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()

    def close(self) -> None:
        """End the connection. Idempotent."""
        self._is_closed = True
        self._pg.finish()

    @property
    def unanswered_s(self) -> float:
        """For how long what was sent last has had no answer, 0 if nothing is under way. On any thread."""
        sent_at = self._sent_at
        return 0.0 if sent_at is None else time.monotonic() - sent_at

    def script(self, sql: str) -> None:
        """Execute statements without values, one after another, in the transaction that is open."""
        try:
            self._pg.exit_pipeline_mode()
            result = self._pg.exec_(sql.encode())
            if result.status not in _DONE:
                failure = self._error(result)
                if isinstance(failure, Refused):  # (the transaction can still be undone)
                    self._pg.enter_pipeline_mode()
                raise failure
            self._pg.enter_pipeline_mode()
        except DriverError as error:
            raise ConnectionLost(_as_text(str(error))) from error

    def execute(self, sql: str, values: Values = ()) -> Found:
        """Execute one statement. Raises `Refused`, `ConnectionLost`."""
        return self.run([(sql, values)])[0]

    def run(self, statements: Sequence[Statement]) -> list[Found]:
        """Execute statements in their order, in one round trip. Raises `Refused` for the first that was refused: what
        came after it was not executed; `ConnectionLost` if it is not known what was."""
        if self._is_closed:
            raise ConnectionLost("the connection is closed")
        encoded = [_encoded(sql, values) for sql, values in statements]  # (before anything is sent)
        self._sent_at = time.monotonic()
        try:
            is_idle = self._pg.transaction_status == pq.TransactionStatus.IDLE
            results = self._exchange(encoded, is_idle)
            if results is None:
                results = self._exchange(encoded, False)
        except DriverError as error:
            raise ConnectionLost(_as_text(str(error))) from error
        finally:
            self._sent_at = None
        assert results is not None
        return [_found(result) for result in results]

    def _exchange(
        self, encoded: list[tuple[str, tuple[int, ...], list[bytes | None], list[int]]], is_idle: bool
    ) -> list[Any] | None:
        """Return the results; None if nothing was executed since statements that were prepared are not there any more,
        which is so only if no transaction was open."""
        pg, expected, coming = self._pg, list[tuple[str, tuple[int, ...]] | None](), dict[Any, bytes]()
        for sql, types, values, formats in encoded:
            if not self._is_prepared:
                pg.send_query_params(sql.encode(), values, types, formats, pq.Format.BINARY)
                expected.append(None)
                continue
            key = (sql, types)
            name = self._names.get(key) or coming.get(key)
            if name is None:
                name = coming[key] = f"s{self._prefix}{len(self._names) + len(coming)}".encode()
                pg.send_prepare(name, sql.encode(), types)
                expected.append(key)
            pg.send_query_prepared(name, values, formats, pq.Format.BINARY)
            expected.append(None)
        pg.pipeline_sync()
        until = time.monotonic() + self.answer_s
        while pg.flush():
            if self._wait(select.POLLIN | select.POLLOUT, until) & select.POLLIN:
                pg.consume_input()
        results, failed = [], None
        for key_of in expected:
            result = self._next_result(until)
            if result is None:
                raise ConnectionLost(_as_text(pg.error_message))
            if result.status not in _DONE:
                failed = failed or result
            elif key_of is None:
                results.append(result)
            else:
                self._names[key_of] = coming[key_of]
            self._next_result(until)  # (None, which ends the results of one statement)
            if failed is not None and pg.status != pq.ConnStatus.OK:
                raise self._error(failed)
        self._next_result(until)  # (that of the sync)
        if failed is None:
            return results
        if failed.error_field(pq.DiagnosticField.SQLSTATE) == _NO_STATEMENT:
            if is_idle and not results:
                self._is_prepared = False
                _log.warning(
                    "the database, or a pooler before it, does not keep prepared statements: they are sent whole from"
                    " now on, which costs it more time"
                )
                return None
            self.close()  # (some of a transaction was executed: it is begun again on another connection)
            raise ConnectionLost("prepared statements were lost in the middle of a transaction")
        raise self._error(failed)

    def _next_result(self, until: float) -> Any:
        while self._pg.is_busy():
            self._wait(select.POLLIN, until)
            self._pg.consume_input()
        return self._pg.get_result()

    def _wait(self, events: int, until: float) -> int:
        ready = _ready(self._pg, events, until)
        if not ready:
            self.close()
            raise ConnectionLost("the database does not answer")
        return ready

    def check(self) -> None:
        """Raise `ConnectionLost` if the server has ended the connection, as far as can be seen from here."""
        if self._is_closed:
            raise ConnectionLost("the connection is closed")
        try:
            poll = select.poll()
            poll.register(self._pg.socket, select.POLLIN)
            while poll.poll(0):
                self._pg.consume_input()
                if self._pg.status != pq.ConnStatus.OK:
                    raise ConnectionLost(_as_text(self._pg.error_message))
        except DriverError as error:
            raise ConnectionLost(_as_text(str(error))) from error

    def _error(self, result: Any) -> Exception:
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        message = _as_text(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message)
        if state is None or state.startswith(_LOST) or self._pg.status != pq.ConnStatus.OK:
            self.close()
            return ConnectionLost(message)
        constraint = result.error_field(pq.DiagnosticField.CONSTRAINT_NAME)
        return Refused(state.decode(), message, None if constraint is None else _as_text(constraint))


def _connected(conninfo: str) -> Any:
    """Return a connection to the first address that can be reached; of several, to the first that takes writes."""
    defaults = {"application_name": "strandline", "connect_timeout": "3", "keepalives_idle": "5"}
    fixed = {"client_encoding": "UTF8"}  # (as text is encoded here, whatever the default is)
    try:
        attempts = conninfo_attempts({**defaults, **conninfo_to_dict(conninfo), **fixed})
    except DriverError as error:
        raise ConnectionLost(_as_text(str(error))) from error
    wanted = os.environ.get("PGTARGETSESSIONATTRS", "read-write" if len(attempts) > 1 else "any")
    failures = []
    for attempt in attempts:
        address: dict[str, Any] = {"target_session_attrs": wanted, **attempt}
        pg = pq.PGconn.connect_start(make_conninfo("", **address).encode())
        try:
            if (failure := _failure(pg, time.monotonic() + CONNECT_S)) is None:
                return pg
        except BaseException:
            pg.finish()
            raise
        pg.finish()
        failures.append(failure or f"{attempt.get('host') or 'the database'} does not answer")
    raise ConnectionLost("; ".join(failures))


def _failure(pg: Any, until: float) -> str | None:
    """Wait until there is a connection, then return None; else why there is none, empty if nothing answers."""
    waits_for = {pq.PollingStatus.READING: select.POLLIN, pq.PollingStatus.WRITING: select.POLLOUT}
    while (status := pg.connect_poll()) != pq.PollingStatus.OK:
        if status == pq.PollingStatus.FAILED:
            return _as_text(pg.error_message)
        if not _ready(pg, waits_for[pq.PollingStatus(status)], until):
            return ""
    return None


def _ready(pg: Any, events: int, until: float) -> int:
    """Return which of these events have come; 0 if none comes until then."""
    poll = select.poll()
    poll.register(pg.socket, events)
    ready = poll.poll(max(0.0, until - time.monotonic()) * 1000)
    return ready[0][1] if ready else 0


def _as_text(message: bytes | str) -> str:
    text = message if isinstance(message, str) else message.decode(errors="replace")
    return " ".join(text.split()) or "the connection is closed"


@cache
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """Return a statement with `$1`, `$2` for `?` or `:name`, and the names in the order of these numbers, if any."""
    names: list[str] = []
    count = 0

    def number(match: re.Match[str]) -> str:
        nonlocal count
        if (name := match[1]) is None:
            count += 1
            return f"${count}"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PLACEHOLDER.sub(number, sql), tuple(names)


def _encoded(sql: str, values: Values) -> tuple[str, tuple[int, ...], list[bytes | None], list[int]]:
    text, names = numbered(sql)
    given = [values[name] for name in names] if isinstance(values, Mapping) else values
    types: list[int] = []
    parameters: list[bytes | None] = []
    formats: list[int] = []
    for value in given:
        kind, parameter, form = _parameter(value)
        types.append(kind)
        parameters.append(parameter)
        formats.append(form)
    return text, tuple(types), parameters, formats


def _parameter(value: Any) -> tuple[int, bytes | None, int]:
    match value:
        case None:
            return 0, None, 0
        case int():
            return 20, b"%d" % value, 0
        case str():
            return 25, _escaped(value).encode(), 1
        case float():
            return 701, repr(value).encode(), 0
    return 17, bytes(value), 1


def _escaped(text: str) -> str:
    """Return a text without U+0000, which PostgreSQL keeps in no text. Different texts stay so, in the same order."""
    return text.replace("\x01", "\x01\x02").replace("\0", "\x01\x01")


def _unescaped(text: str) -> str:
    if "\x01" not in text:
        return text
    return _ESCAPED.sub(lambda found: "\0" if found[1] == "\x01" else "\x01", text)


def _found(result: Any) -> Found:
    columns = range(result.nfields)
    decoders = [_DECODED[result.ftype(column)] for column in columns]
    rows = []
    for row in range(result.ntuples):
        stored = (result.get_value(row, column) for column in columns)
        rows.append(
            tuple(None if each is None else decode(each) for decode, each in zip(decoders, stored, strict=True))
        )
    return Found(rows, result.command_tuples or 0)
