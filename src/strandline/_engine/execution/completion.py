"""The result of a run's ending: closed history, the outcome, and everything stored with it. Pure."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, assert_never

from strandline._agents.port import Finished
from strandline._engine.options import Options
from strandline._engine.requests import tools_without_effect_in
from strandline._history import Progress, answer_text, close, close_answer, prompt_message, resume_point, took_too_long
from strandline._model import (
    Cancelled,
    Claim,
    Completion,
    Ending,
    ErrorCode,
    Failed,
    Message,
    NeedsInput,
    Outcome,
    Question,
    Run,
    RunError,
    RunId,
    RunStatus,
    Succeeded,
    ToolResult,
)

DAMAGED: Final = Failed(
    ErrorCode.CRASHED, "the records of this run are damaged in the journal's file, so it cannot resume"
)
"""The ending of a run that was claimed as damaged."""


def closed(
    claim: Claim, messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending, *, begun: bool
) -> list[Message]:
    """Return the messages that a run leaves in history, well formed and true, whatever its ending.

    `messages` are its own so far, its prompt first; `results` those of its open round. `begun`: its tools may have run,
    for a run that answers a question.
    """
    if claim.question is not None:
        return close_answer(messages, results, ending, begun=begun, state=claim.question.state)
    return close(messages or [prompt_message(claim.run.input, claim.run.sender)], results, ending)


def completion_of(
    finished: Finished,
    messages: list[Message],
    options: Options,
    question: Question | None = None,
    *,
    progress: Progress | None = None,
    joined: tuple[RunId, ...] = (),
) -> Completion:
    """Return the completion of a run with these closed messages; `question` is the one that it ends with, `joined` the
    runs whose messages are among these, `progress` what the journal has of it.

    A discarded run changes neither window nor state. Where agents keep their own history, only the outcome is stored.
    """
    ending = finished.ending
    outcome = outcome_of(ending, messages, finished.usage)
    is_dropped = isinstance(ending, Failed) and options.on_failure == "drop"
    discarded = is_dropped or (isinstance(ending, Cancelled) and ending.discard)
    unresolved = isinstance(ending, Failed) and ending.code is ErrorCode.CRASHED and _may_be_resolved(progress)
    if options.self_managed or discarded:
        left = [] if options.self_managed else messages
        return Completion(outcome=outcome, messages=left, discarded=discarded, joined=joined, unresolved=unresolved)
    return Completion(
        outcome=outcome,
        messages=messages,
        window=finished.window,
        state=finished.state,
        question=question,
        answer_within_s=options.input_timeout_s,
        joined=joined,
        unresolved=unresolved,
    )


def _may_be_resolved(progress: Progress | None) -> bool:
    """Return whether a person who finds out what the open tools of a run did can have it continue.

    A run that answers a question begins in the middle of another one's round, and cannot begin there again.
    """
    return progress is not None and progress.question_state is None and bool(progress.open_tools())


def last_resort(claim: Claim, ending: Ending | None, options: Options) -> Completion:
    """Return the least that ends a run: its prompt, and that it ended early."""
    if ending is None:
        ending = Failed(ErrorCode.AGENT_ERROR, "the run could not be ended properly; the server's log says more")
    question = claim.question
    messages, results = ([], {}) if question is None else ([question.message], question.results)
    left = closed(claim, messages, results, ending, begun=bool(claim.checkpoints))
    joined = () if messages else tuple(run.run_id for run in claim.collected)  # (what they said is in its prompt)
    return completion_of(Finished(ending=ending), left, options, joined=joined)


def outcome_of(ending: Ending, messages: list[Message], usage: dict[str, int] | None = None) -> Outcome:
    """Return the outcome for an ending and the closed messages of its run."""
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    left = partial(Outcome, message=last, usage=usage)
    match ending:
        case Succeeded():
            return left(status=RunStatus.SUCCEEDED, output=answer_text(last))
        case Failed(code=code, detail=detail, out_of_tokens=out_of_tokens):
            return left(status=RunStatus.FAILED, error=RunError(code, detail, out_of_tokens))
        case Cancelled():
            return left(status=RunStatus.CANCELLED)
        case NeedsInput(requests=requests):
            return left(status=RunStatus.NEEDS_INPUT, output=answer_text(last), input_requests=requests)
        case _:
            assert_never(ending)


def timed_out(run: Run, meanwhile: str = "") -> Failed:
    """Return the ending of a run whose deadline has passed."""
    return Failed(ErrorCode.TIMEOUT, f"{took_too_long(run.timeout_s)}{meanwhile}")


def resume_point_of(run: Run, checkpoint: Progress, options: Options) -> Progress | None:
    """Return what another attempt of a run resumes from; None if it cannot resume, as one of its tools may have run."""
    harmless = [*options.idempotent_tools, *tools_without_effect_in(run.metadata)]
    if checkpoint.question_state is not None:
        harmless += tools_without_effect_in(checkpoint.question_state)
    return resume_point(checkpoint, unknown_tool=options.unknown_tool, idempotent_tools=harmless)
