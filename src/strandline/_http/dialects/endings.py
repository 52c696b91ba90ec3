"""Why a run has no answer, in words that all dialects share."""

from strandline._engine.events import RunFinished
from strandline._model import ErrorCode, Outcome, RunStatus


def reason_of(end: Outcome | RunFinished) -> tuple[str, str] | None:
    """Return the code and text of an end without an answer, else None."""
    match end.status:
        case RunStatus.SUCCEEDED | RunStatus.NEEDS_INPUT:
            return None
        case RunStatus.CANCELLED:
            return "cancelled", "the run was cancelled"
    code, detail = (end.error.code, end.error.detail) if end.error else (ErrorCode.AGENT_ERROR, "")
    return str(code), detail or str(code)
