"""What an ending leaves: the outcome, and the settlement of a run that is closed. Pure."""

from typing import assert_never

from strandline.engine.options import Options
from strandline.history import answer_text, close, close_answer, question
from strandline.model import (
    Cancelled,
    Claim,
    Ending,
    ErrorCode,
    Failed,
    Message,
    NeedsInput,
    Outcome,
    RunError,
    RunStatus,
    Settlement,
    Succeeded,
)


def outcome_of(ending: Ending, messages: list[Message], usage: dict[str, int] | None = None) -> Outcome:
    """Return the outcome for an ending and the messages that `close` made of it."""
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    match ending:
        case Succeeded():
            return Outcome(status=RunStatus.SUCCEEDED, output=answer_text(last), message=last, usage=usage)
        case Failed(code=code, detail=detail, out_of_tokens=out_of_tokens):
            error = RunError(code, detail, out_of_tokens)
            return Outcome(status=RunStatus.FAILED, message=last, error=error, usage=usage)
        case Cancelled():
            return Outcome(status=RunStatus.CANCELLED, message=last, usage=usage)
        case NeedsInput(requests=requests):
            return Outcome(
                status=RunStatus.NEEDS_INPUT,
                output=answer_text(last),
                message=last,
                usage=usage,
                input_requests=requests,
            )
        case _:
            assert_never(ending)


def is_discarded(ending: Ending, options: Options) -> bool:
    """Tell whether what the run left in history is to be flagged and hidden."""
    match ending:
        case Cancelled(discard=discard):
            return discard
        case Failed():
            return options.on_failure == "drop"
    return False


def defective(claim: Claim, options: Options, *, external: bool, ending: Ending | None = None) -> Settlement:
    """Return the least that ends a run of which nothing else can be told: its question, and that it ended early."""
    if ending is None:
        ending = Failed(ErrorCode.AGENT_ERROR, "the run could not be ended as it should; the server's log says more")
    if (asked := claim.question) is not None:
        closed = close_answer([asked.message], asked.results, ending, begun=bool(claim.facts))
    else:
        closed = close([question(claim.run.input)], {}, ending)
    return Settlement(
        outcome=outcome_of(ending, closed),
        messages=[] if external else closed,
        discarded=is_discarded(ending, options),
    )
