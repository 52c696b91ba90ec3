"""Where a server's log goes: to the standard error output, as lines of text for people or of JSON for programs.

A line that is logged while a run executes says which one, whoever logs it: the engine, the agent, its tools in their
threads, Strands. In JSON nothing of what agents are told or say is in a line, unless somebody asks for it: an exception
is its kind and where it happened, and `Private` arguments are what they say instead of themselves. Two things are left
as they are: what the user's own code writes into a line of its own, and the text of an error for which callers were
given an id (`error_text`), which is in the log alone.

Nobody who logs waits for whoever reads the log, or for its disk: see `strandline._line_writer`.
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
"""How long a process that ends waits for its log to be taken."""

CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# Of a stream that is closed in its middle, as that of a cancelled run may be, Strands leaves the inner parts to the
# garbage collector, and OpenTelemetry tells, with a traceback, that its context was not left where it was entered. It
# also quotes the baggage and the trace state of strangers.
TALKATIVE: Final = (
    "strands",
    "opentelemetry.context",
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.span",
)

CALLBACK: Final = re.compile(r"(?<=^Exception in callback) .*")
"""What `asyncio` was to call, in its own message: with what it was to be called, too."""


def log_to_stderr(*, level: str = "info", form: str = "text", details: bool = False) -> None:
    """Log warnings of everybody and what Strandline does; at `debug` more of both, at `warning` and `error` less.

    `form` is `text` or `json`; `details`: also the texts of exceptions in JSON. May be called again.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter(details=details) if form == "json" else TextFormatter())
    root, debug = logging.getLogger(), level == "debug"
    for former in _handlers():
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(logging.INFO if debug else max(least, logging.WARNING))
    logging.getLogger("strandline").setLevel(least)
    logging.getLogger(ERROR_IDS).setLevel(min(least, logging.WARNING))
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.CRITICAL)
    logging.captureWarnings(form == "json")
    if form == "json":
        threading.excepthook = _ended_thread
        sys.unraisablehook = _uncatchable


def _ended_thread(failure: threading.ExceptHookArgs) -> None:
    """Log what has ended a thread, which Python would write as it is."""
    if failure.exc_type is not SystemExit:
        _log.error("an exception has ended a thread", exc_info=failure.exc_value)


def _uncatchable(failure: "sys.UnraisableHookArgs") -> None:
    """Log what was raised where nobody can catch it, in a `__del__` for instance."""
    _log.error("an exception was raised where nobody can catch it", exc_info=failure.exc_value)


def say(line: str) -> None:
    """Say a line to people on the standard error output, after what was logged before; nobody waits for it."""
    if handlers := _handlers():
        handlers[0].write(line)
    else:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def flush(within_s: float = FLUSH_S) -> None:
    """Return when all that was logged is written, after so many seconds at the latest."""
    for each in _handlers():
        each.flush(within_s)


def flush_printed(within_s: float = FLUSH_S) -> bool:
    """Return whether what user code has printed is written; if nobody has read it after so many seconds, it is not."""

    def write() -> None:
        for each in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                each.flush()

    writing = threading.Thread(target=write, name="strandline-print", daemon=True)
    with suppress(RuntimeError):  # (no thread is to be had: Python tries it as it ends)
        writing.start()
        writing.join(within_s)
    return not writing.is_alive()


def dropped() -> int:
    """Return how many lines were dropped, since nobody took them."""
    return sum(each.dropped for each in _handlers())


def _handlers() -> "list[_Handler]":
    return [each for each in logging.getLogger().handlers if isinstance(each, _Handler)]


class _Handler(logging.Handler):
    """Ours. What has no descriptor (in a test, say) is written to at once."""

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
        """Put a line on its way."""
        try:
            self.write(self.format(record))
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Put a line, as it is, on its way."""
        if self._lines is not None:
            self._lines.put(_encoded(line))
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def flush(self, within_s: float = FLUSH_S) -> None:
        """Return when all is written, after so many seconds at the latest."""
        if self._lines is not None:
            self._lines.flush(within_s)

    def close(self) -> None:
        """Let the writing thread end after what is on its way."""
        if self._lines is not None:
            self._lines.close()
        super().close()

    def _missing(self, count: int) -> bytes:
        told = "%d lines of this log are missing here: nobody took them, or there was no room for them"
        return _encoded(self.format(_log.makeRecord(_log.name, logging.WARNING, "", 0, told, (count,), None)))


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


class TextFormatter(logging.Formatter):
    """Lines for people; nothing in them controls their terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, and what belongs to it below, indented: no text that is quoted can look like another line."""
        return CONTROL.sub(lambda found: ascii(found[0])[1:-1], super().format(record)).replace("\n", "\n  ")


class JsonFormatter(logging.Formatter):
    """One JSON object per line, in ASCII, without what agents were told or said.

    `details` adds the texts of exceptions, which may quote both.
    """

    def __init__(self, *, details: bool = False) -> None:
        super().__init__()
        self._details = details

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
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
            # (Its further lines quote the exception.)
            return CALLBACK.sub("", record.getMessage().partition("\n")[0])
        if not self._details and isinstance(record.args, tuple):
            shown = tuple(each.instead if isinstance(each, Private) else each for each in record.args)
            return str(record.msg) % shown if shown else str(record.msg)
        return record.getMessage()


def _where(error: BaseException | None) -> Iterator[str]:
    """Yield what kind of error it is and where it happened, and what led to it, without a word of what it says."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = type(error)
        yield kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
