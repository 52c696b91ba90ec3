"""A server's log: on the standard error output, as text for people or JSON for programs.

A line logged while a run executes names the run, no matter who logs it: the engine, the agent, its tools in their
threads, Strands. A JSON log has no text of messages by default (`log_details`): an exception is its type and where it
happened, and a `Private` argument is its `instead`. Two texts are always logged: lines of the user's own code, and
the text of an error for which callers get an id (`error_text`), which is nowhere else.

Logging never waits for the reader of the log or for its disk: see `strandline._line_writer`.
"""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from strandline._engine.observers import CURRENT_RUN
from strandline._line_writer import LineWriter
from strandline._model import ANONYMOUS
from strandline._printable import ERROR_IDS, Private

_log = logging.getLogger("strandline.logs")

FLUSH_S: Final = 1.0
"""How long an ending process waits for its log to be written."""

CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# If a stream is closed early, as that of a cancelled run may be, Strands leaves its inner parts to the garbage
# collector, and OpenTelemetry logs a traceback, because its context is not left where it was entered. It also quotes
# baggage and trace state of clients.
NOISY: Final = (
    "strands",
    "opentelemetry.context",
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.span",
)

CALLBACK: Final = re.compile(r"(?<=^Exception in callback) .*")
"""The callback and its arguments in a message of `asyncio`."""


def log_to_stderr(*, level: str = "info", form: str = "text", details: bool = False, server: int | None = None) -> None:
    """Log warnings of all packages and Strandline's own lines; at `debug` more of both, at `warning` and `error` less.

    `form` is `text` or `json`; `details` adds the texts of exceptions to JSON. May be called again.

    `server` is the process of the server that logs, if several share the log; each line names it.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter(details=details, server=server) if form == "json" else TextFormatter(server))
    root, debug = logging.getLogger(), level == "debug"
    for former in _handlers():
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(logging.INFO if debug else max(least, logging.WARNING))
    logging.getLogger("strandline").setLevel(least)
    logging.getLogger(ERROR_IDS).setLevel(min(least, logging.WARNING))
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.CRITICAL)
    logging.captureWarnings(form == "json")
    if form == "json":
        threading.excepthook = _ended_thread
        sys.unraisablehook = _uncatchable


def _ended_thread(failure: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread. (Python would print it unformatted.)"""
    if failure.exc_type is not SystemExit:
        _log.error("an exception has ended a thread", exc_info=failure.exc_value)


def _uncatchable(failure: "sys.UnraisableHookArgs") -> None:
    """Log an exception that nothing can catch, such as one in `__del__`."""
    _log.error("an exception was raised where nothing can catch it", exc_info=failure.exc_value)


def say(line: str) -> None:
    """Write a line for people to the standard error output, after earlier log lines, without waiting for it."""
    if handlers := _handlers():
        handlers[0].write(line)
    else:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def flush(within_s: float = FLUSH_S) -> None:
    """Return when all log lines are written, after `within_s` seconds at the latest."""
    for each in _handlers():
        each.flush(within_s)


def flush_printed(within_s: float = FLUSH_S) -> bool:
    """Return whether the printed output of user code was written within `within_s` seconds."""

    def write() -> None:
        for each in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                each.flush()

    writing = threading.Thread(target=write, name="strandline-print", daemon=True)
    with suppress(RuntimeError):  # (no thread is available: Python flushes at exit)
        writing.start()
        writing.join(within_s)
    return not writing.is_alive()


def dropped() -> int:
    """Return how many lines were dropped, because the log is full or is not read."""
    return sum(each.dropped for each in _handlers())


def _handlers() -> "list[_Handler]":
    return [each for each in logging.getLogger().handlers if isinstance(each, _Handler)]


class _Handler(logging.Handler):
    """Our handler. A stream without a descriptor (in a test, say) is written to directly."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: LineWriter | None = None
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):
            return
        stream.flush()
        self._lines = LineWriter(descriptor, self._missing)

    @property
    def dropped(self) -> int:
        """How many lines were dropped."""
        return 0 if self._lines is None else self._lines.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line."""
        try:
            self.write(self.format(record))
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Queue a line as it is."""
        if self._lines is not None:
            self._lines.put(_encoded(line))
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def flush(self, within_s: float = FLUSH_S) -> None:
        """Return when all is written, after `within_s` seconds at the latest."""
        if self._lines is not None:
            self._lines.flush(within_s)

    def close(self) -> None:
        """Let the writing thread end once the queued lines are written."""
        if self._lines is not None:
            self._lines.close()
        super().close()

    def _missing(self, count: int) -> bytes:
        text = "%d lines of this log are missing here: the log was full or was not read"
        return _encoded(self.format(_log.makeRecord(_log.name, logging.WARNING, "", 0, text, (count,), None)))


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


class TextFormatter(logging.Formatter):
    """Lines for people, safe for a terminal."""

    def __init__(self, server: int | None = None) -> None:
        named = "" if server is None else f"[{server}]"
        super().__init__(f"%(asctime)s %(levelname)s %(name)s{named}: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's text with its further lines indented, so that no quoted text can look like another
        record."""
        return CONTROL.sub(lambda found: ascii(found[0])[1:-1], super().format(record)).replace("\n", "\n  ")


class JsonFormatter(logging.Formatter):
    """One JSON object per line, in ASCII, without texts of messages.

    `details` adds the texts of exceptions, which may quote them.
    """

    def __init__(self, *, details: bool = False, server: int | None = None) -> None:
        super().__init__()
        self._details = details
        self._server = server

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        if self._server is not None:
            line["server"] = self._server
        if (run := CURRENT_RUN.get()) is not None:
            line |= {"run_id": run.run_id, "session_id": run.key.session_id}
            if run.key.principal != ANONYMOUS:
                line["principal"] = run.key.principal
            if run.trace is not None and "traceparent" in run.trace:
                line["trace_id"] = run.trace["traceparent"].split("-")[1]
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line["exception"] = (
                "".join(traceback.format_exception(error)) if self._details else "\n".join(_where(error))
            )
        return json.dumps(line)

    def _message(self, record: logging.LogRecord) -> str:
        if not self._details and record.name == "asyncio" and record.exc_info:
            # (The further lines quote the exception.)
            return CALLBACK.sub("", record.getMessage().partition("\n")[0])
        if not self._details and isinstance(record.args, tuple):
            shown = tuple(each.instead if isinstance(each, Private) else each for each in record.args)
            return str(record.msg) % shown if shown else str(record.msg)
        return record.getMessage()


def _where(error: BaseException | None) -> Iterator[str]:
    """Yield the type and traceback of an error and of its causes, without their texts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = type(error)
        yield kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
