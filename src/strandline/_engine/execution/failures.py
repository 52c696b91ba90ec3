"""Errors of user code: their kind for programs, and how much of their text callers see.

An exception may quote anything: a database's URL with its password, another caller's message. So its text stays apart
from the engine's own words (`Failed.raised`) until `disclosed` decides, once, how much of it answers, history and
events get; the log gets the rest. Wrappers of the framework and of the engine are left out.
"""

import logging
import traceback
from typing import Final, assert_never

from msgspec.structs import replace

from strandline._engine.options import ErrorText
from strandline._model import ErrorCode, Failed, Raised, RunId
from strandline._printable import ERROR_IDS, Private
from strandline.errors import AgentFailed

_log = logging.getLogger("strandline.runner")
_ids = logging.getLogger(ERROR_IDS)

MOST_LOGGED: Final = 20_000
"""Characters of a text in the log: it may quote a message, which must not fill a disk or the log's queue."""


class FailedRemotely(AgentFailed):
    """An error that user code raised in another process; `kind` is the name of its class there."""

    def __init__(self, detail: str, kind: str) -> None:
        super().__init__(detail)
        self.kind = kind


def failed(error: BaseException) -> Failed:
    """Return the ending of a run whose code raised this. The kind of error is decided here, before it is redacted."""
    raised = Raised(kind_of(error), detail_of(error))
    return Failed(ErrorCode.AGENT_ERROR, raised=raised, out_of_tokens=raised.is_out_of_tokens)


def disclosed(ending: Failed, error_text: ErrorText, run_id: RunId) -> Failed:
    """Return an ending with as much of the error's text in `detail` as callers and history may see.

    The log gets all of it.
    """
    known = full_text(ending)
    if ending.raised is not None and error_text == "id":
        _ids.warning("run %s failed, shown to callers as %s: %s", run_id, error_id(run_id), known)
    elif ending.code is ErrorCode.AGENT_ERROR:
        kind = ending.code.value if ending.raised is None else ending.raised.kind
        _log.warning("run %s failed: %s", run_id, Private(known, kind))
    if ending.raised is None:
        return ending
    match error_text:
        case "full":
            text = ending.raised.text
        case "class":
            text = ending.raised.kind
        case "id":
            text = error_id(run_id)
        case _:
            assert_never(error_text)
    return replace(ending, detail=_joined(ending.detail, text), raised=None)


def full_text(ending: Failed) -> str:
    """Return the known reason why a run failed, for the log: all of it, unless it is very long."""
    text = _joined(ending.detail, "" if ending.raised is None else ending.raised.text)
    more = len(text) - MOST_LOGGED
    return text if more <= 0 else f"{text[:MOST_LOGGED]}... ({more} more characters)"


def error_id(run_id: RunId) -> str:
    """Return the id that stands for a run's error: a run has at most one, so that the id needs no memory of its own."""
    return f"err_{run_id.removeprefix('run_')}"


def _joined(*parts: str) -> str:
    return ": ".join(filter(None, parts))


def kind_of(error: BaseException) -> str:
    """Return the name of the class of the error that user code raised."""
    error = _cause(error)
    return error.kind if isinstance(error, FailedRemotely) else type(error).__name__


def detail_of(error: BaseException) -> str:
    """Return the error that user code raised, in one line."""
    error = _cause(error)
    if isinstance(error, AgentFailed):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()


def _cause(error: BaseException) -> BaseException:
    """Return the error that user code raised, or the wrapper, if it wraps nothing."""
    while isinstance(error, AgentFailed) and error.__cause__ is not None:
        error = error.__cause__
    return error
