"""The end of a run as a response: its status, and its last message as items. Pure."""

from msgspec import UNSET, Struct

from strandline._engine.events import RunFinished
from strandline._http.dialects.openai.answer import NoAnswer, answer_of
from strandline._http.dialects.openai.responses.wire import (
    Item,
    ItemStatus,
    OutputMessage,
    OutputText,
    Reasoning,
    ReasoningText,
    ResponseStatus,
)
from strandline._model import Outcome, RunId, RunStatus


class Ending(Struct, frozen=True, kw_only=True):
    """How a response has ended: with a text and reasoning, or with the error that there is no answer."""

    status: ResponseStatus
    text: str = ""
    reasoning: str = ""
    error: str | None = None

    def items(self, message_id: str, reasoning_id: str) -> list[Item]:
        """Return what it says, under these ids."""
        if self.error is not None:
            return []
        message = message_item(message_id, self.text)
        return [reasoning_item(reasoning_id, self.reasoning), message] if self.reasoning else [message]


def ending_of(end: Outcome | RunFinished, run_id: RunId) -> Ending:
    """Return how the response of a run has ended."""
    answer = answer_of(end, run_id)
    if isinstance(answer, NoAnswer):
        status: ResponseStatus = "cancelled" if end.status is RunStatus.CANCELLED else "failed"
        return Ending(status=status, error=answer.error.message)
    return Ending(
        status="completed" if answer.finish_reason == "stop" else "incomplete",
        text=answer.content,
        reasoning="" if answer.reasoning is UNSET else answer.reasoning,
    )


def whole_items(ending: Ending, run_id: RunId) -> list[Item]:
    """Return the output of a response that is read at once."""
    return ending.items(f"msg_{run_id}", f"rs_{run_id}")


def message_item(item_id: str, text: str, status: ItemStatus = "completed") -> OutputMessage:
    """Return a message."""
    return OutputMessage(id=item_id, status=status, content=[OutputText(text=text)])


def reasoning_item(item_id: str, text: str, status: ItemStatus = "completed") -> Reasoning:
    """Return a reasoning."""
    return Reasoning(id=item_id, status=status, content=[ReasoningText(text=text)])
