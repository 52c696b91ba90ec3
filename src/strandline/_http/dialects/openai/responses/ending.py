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
    call_id_of,
)
from strandline._http.dialects.sent_text import BREAK
from strandline._model import InputRequest, Outcome, RunStatus


class Ending(Struct, frozen=True, kw_only=True):
    """How a response has ended: with a text, reasoning and questions, or with the error that there is no answer."""

    status: ResponseStatus
    text: str = ""
    reasoning: str = ""
    questions: list[InputRequest] = []
    """Those to a person that are items of their own."""
    calls: list[InputRequest] = []
    """Calls of the client's tools."""
    error: str | None = None

    @property
    def has_message(self) -> bool:
        """Whether it has a message, maybe an empty one."""
        return self.error is None and (self.text != "" or not (self.questions or self.calls))


def ending_of(end: Outcome | RunFinished, run: AboutRun) -> Ending:
    """Return how the response of a run has ended."""
    answer = answer_of(end, run.run_id)
    if isinstance(answer, NoAnswer):
        # Only a response in the background can be cancelled in this protocol; one that waits would take it for empty.
        is_cancelled = end.status is RunStatus.CANCELLED and run.is_background
        status: ResponseStatus = "cancelled" if is_cancelled else "failed"
        return Ending(status=status, error=answer.error.message)
    as_items = run.questions != "text"
    of_people = [each for each in end.input_requests if each.client_tool is not True]
    # (What a model says before it calls a tool is not of the form that the client reads.)
    text = "" if run.has_format and answer.calls else answer.text
    question = "" if as_items else answer.question
    return Ending(
        status="incomplete" if answer.finish_reason == "length" else "completed",
        text=BREAK.join(filter(None, (text, question))),
        reasoning="" if answer.reasoning is UNSET else answer.reasoning,
        questions=of_people if as_items else [],
        calls=[each for each in end.input_requests if each.client_tool is True],
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
    """Return the calls of the client's tools in a response, and its questions, as items."""
    items: list[Item] = [_call(each, call_id_of(run.run_id, each.id)) for each in ending.calls]
    for each in ending.questions:
        if run.questions == "mcp_approval_request":
            about = _arguments(each)
            items.append(ApprovalRequest(id=each.id, server_label=run.model, name=each.name, arguments=about))
        else:
            items.append(_call(each, each.id))
    return items


def _call(request: InputRequest, call_id: str) -> FunctionCall:
    return FunctionCall(id=f"fc_{call_id}", call_id=call_id, name=request.name, arguments=_arguments(request))


def _arguments(request: InputRequest) -> str:
    """Return the arguments of a call, or what a question is about, as JSON of an object."""
    reason = request.reason
    about = reason if isinstance(reason, dict) else {} if reason is None else {"reason": reason}
    return encode(about).decode()


def message_item(item_id: str, text: str, status: ItemStatus = "completed") -> OutputMessage:
    """Return a message."""
    return OutputMessage(id=item_id, status=status, content=[OutputText(text=text)])


def reasoning_item(item_id: str, text: str, status: ItemStatus = "completed") -> Reasoning:
    """Return a reasoning."""
    return Reasoning(id=item_id, status=status, content=[ReasoningText(text=text)])
