"""What tools say of a run: as text for models, and as values for programs."""

from typing import Final

from msgspec import UNSET

from strandline._engine.events import RunFinished
from strandline._engine.reading import RunView
from strandline._http import wire
from strandline._http.dialects.endings import reason_of
from strandline._http.dialects.mcp.wire import Failure, RunResult, ToolResult, text_result
from strandline._http.dialects.waiting import questions
from strandline._model import InputRequest, Outcome, RunId, RunStatus, SessionId

_LATER: Final = "Call status for its answer."


def ended(session_id: SessionId, run_id: RunId, end: Outcome | RunFinished) -> ToolResult:
    """Return the end of a run."""
    if (reason := reason_of(end)) is not None:
        code, detail = reason
        run = RunResult(session=session_id, run_id=run_id, status=end.status, error=Failure(code, detail))
        return text_result(f"The agent did not answer: {detail}", run, is_error=True)
    if end.status is RunStatus.NEEDS_INPUT:
        requests = end.input_requests
        run = RunResult(session=session_id, run_id=run_id, status=end.status, questions=requests)
        return text_result(f"The agent asks: {questions(requests)}\n\n{_how_to_answer(run_id, requests)}", run)
    run = RunResult(session=session_id, run_id=run_id, status=end.status, output=end.output)
    return text_result(end.output, run)


def continues_later(session_id: SessionId, run_id: RunId) -> ToolResult:
    """Return that the server stops before the end of a run."""
    text = f"The server is stopping; the run continues after its restart. Call status with run_id {run_id} then."
    run = RunResult(session=session_id, run_id=run_id, error=Failure("goes_on_later", text))
    return text_result(text, run, is_error=True)


def seen(view: RunView) -> ToolResult:
    """Return a run as it is now."""
    run, outcome = view.run, view.run.outcome
    if outcome is not None:
        return ended(run.key.session_id, run.run_id, outcome)
    because = "" if view.why is None else f": {view.why.text}"
    if run.status is RunStatus.QUEUED:
        return waits(run.key.session_id, run.run_id, run.position or 0, view.estimated_wait_s, because)
    return executes(run.key.session_id, run.run_id, f" ({view.phase})" if view.phase else "")


def cancelled(view: RunView) -> ToolResult:
    """Return a run that somebody has just cancelled."""
    run = view.run
    stops = run.outcome is None
    said = f"Run {run.run_id} of session {run.key.session_id} {'is being cancelled' if stops else 'is cancelled'}."
    return text_result(said, RunResult(session=run.key.session_id, run_id=run.run_id, status=run.status))


def waits(
    session_id: SessionId, run_id: RunId, position: int, estimated_wait_s: float | None, because: str = ""
) -> ToolResult:
    """Return a run that waits, at a position or at 0 beside the queue."""
    likely = wire.rounded(estimated_wait_s)
    run = RunResult(
        session=session_id,
        run_id=run_id,
        status=RunStatus.QUEUED,
        position=position or UNSET,
        estimated_wait_s=UNSET if likely is None else likely,
    )
    place = f" at place {position}" if position else ""
    about = f", for about {likely:.0f} s" if likely else ""
    return text_result(f"Run {run_id} of session {session_id} waits{place}{about}{because}. {_LATER}", run)


def executes(session_id: SessionId, run_id: RunId, doing: str = "") -> ToolResult:
    """Return a run that executes."""
    run = RunResult(session=session_id, run_id=run_id, status=RunStatus.RUNNING)
    return text_result(f"Run {run_id} of session {session_id} executes{doing}. {_LATER}", run)


def _how_to_answer(run_id: RunId, requests: list[InputRequest]) -> str:
    if len(requests) == 1:
        return f"Answer with the tool answer: run_id {run_id}, and the answer."
    ids = ", ".join(each.id for each in requests)
    return f"Answer with the tool answer: run_id {run_id}, and answers, an object with {ids}."
