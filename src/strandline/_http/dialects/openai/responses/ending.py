"""The end of a run as a response: its status, and its last message as items. Pure."""

from msgspec import UNSET, Struct

from strandline._encoding import encode
from strandline._engine.events import RunFinished
from strandline._http.dialects.openai.answer import NoAnswer, answer_of
from strandline._http.dialects.openai.responses.wire import (
    AboutRun,
    ApprovalRequest,
    FunctionCall,
    Item,
    ItemStatus,
    OutputMessage,
    OutputText,
    Reasoning,
    ReasoningText,
    ResponseStatus,
)
from strandline._model import InputRequest, Outcome, RunStatus


class Ending(Struct, frozen=True, kw_only=True):
    """How a response has ended: with a text, reasoning and questions, or with the error that there is no answer."""

    status: ResponseStatus
    text: str = ""
    reasoning: str = ""
    questions: list[InputRequest] = []
    """Those that are items of their own."""
    error: str | None = None

    @property
    def has_message(self) -> bool:
        """Whether it has a message, maybe an empty one."""
        return self.error is None and (self.text != "" or not self.questions)


def ending_of(end: Outcome | RunFinished, run: AboutRun) -> Ending:
    """Return how the response of a run has ended."""
    answer = answer_of(end, run.run_id)
    if isinstance(answer, NoAnswer):
        # Only a response in the background can be cancelled in this protocol; one that waits would take it for empty.
        is_cancelled = end.status is RunStatus.CANCELLED and run.is_background
        status: ResponseStatus = "cancelled" if is_cancelled else "failed"
        return Ending(status=status, error=answer.error.message)
    as_items = run.questions != "text"
    return Ending(
        status="completed" if answer.finish_reason == "stop" else "incomplete",
        text=answer.text if as_items else answer.content,
        reasoning="" if answer.reasoning is UNSET else answer.reasoning,
        questions=end.input_requests if as_items else [],
    )


def whole_items(ending: Ending, run: AboutRun) -> list[Item]:
    """Return the output of a response that is read at once."""
    if ending.error is not None:
        return []
    items: list[Item] = []
    if ending.reasoning:
        items.append(reasoning_item(f"rs_{run.run_id}", ending.reasoning))
    if ending.has_message:
        items.append(message_item(f"msg_{run.run_id}", ending.text))
    return items + questions_of(ending, run)


def questions_of(ending: Ending, run: AboutRun) -> list[Item]:
    """Return the questions of a response as items."""
    if run.questions == "mcp_approval_request":
        return [
            ApprovalRequest(id=each.id, server_label=run.model, name=each.name, arguments=_arguments(each))
            for each in ending.questions
        ]
    return [
        FunctionCall(id=f"fc_{each.id}", call_id=each.id, name=each.name, arguments=_arguments(each))
        for each in ending.questions
    ]


def _arguments(request: InputRequest) -> str:
    """Return what a question is about, as JSON of an object."""
    reason = request.reason
    about = reason if isinstance(reason, dict) else {} if reason is None else {"reason": reason}
    return encode(about).decode()


def message_item(item_id: str, text: str, status: ItemStatus = "completed") -> OutputMessage:
    """Return a message."""
    return OutputMessage(id=item_id, status=status, content=[OutputText(text=text)])


def reasoning_item(item_id: str, text: str, status: ItemStatus = "completed") -> Reasoning:
    """Return a reasoning."""
    return Reasoning(id=item_id, status=status, content=[ReasoningText(text=text)])
