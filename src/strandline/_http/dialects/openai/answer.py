"""The end of a run as a chat completion: an answer or an error. Pure."""

from msgspec import UNSET, Struct, UnsetType

from strandline._engine.events import RunFinished
from strandline._history import answer_text, is_unusable
from strandline._history.texts import ended_early
from strandline._http import wire
from strandline._http.dialects.endings import reason_of
from strandline._http.dialects.openai.wire import ENDED, ErrorDetail, FinishReason, ToolCall, calls_in, failed
from strandline._http.dialects.sent_text import BREAK
from strandline._http.dialects.waiting import questions
from strandline._model import InputRequest, Message, Outcome, RunId, RunStatus


class Answer(Struct, frozen=True, kw_only=True):
    """The text of an answer. `question` is our own text, if the run waits for a person; `calls` are those of tools of
    the client."""

    text: str
    finish_reason: FinishReason
    question: str = ""
    reasoning: str | UnsetType = UNSET
    calls: list[ToolCall] = []

    @property
    def content(self) -> str:
        """The whole text for the client."""
        return BREAK.join(filter(None, (self.text, self.question)))


class NoAnswer(Struct, frozen=True):
    """The error of a run that ended without an answer."""

    error: ErrorDetail
    status: int = ENDED


def answer_of(end: Outcome | RunFinished, run_id: RunId) -> Answer | NoAnswer:
    """Return the answer or error for the end of a run."""
    match end.status:
        case RunStatus.SUCCEEDED if not _ends_with(end.message, "limit"):
            return Answer(text=end.output, finish_reason="stop", reasoning=reasoning_of(end.message))
        case RunStatus.SUCCEEDED:
            return _cut_off(end.message, "limit")
        case RunStatus.NEEDS_INPUT:
            calls = calls_in(end.input_requests)
            of_people = [each for each in end.input_requests if each.client_tool is not True]
            return Answer(
                text=end.output,
                finish_reason="tool_calls" if calls else "stop",
                question=question_of(of_people) if of_people else "",
                reasoning=reasoning_of(end.message),
                calls=calls,
            )
    reason = reason_of(end)
    assert reason is not None
    code, text = reason
    if end.error is not None and end.error.out_of_tokens:
        return _cut_off(end.message, code)
    if end.error is not None and is_unusable(end.error.detail):
        return NoAnswer(failed(text, code, run_id), wire.BAD_REQUEST)
    return NoAnswer(failed(text, code, run_id))


def question_of(requests: list[InputRequest]) -> str:
    """Return a run's questions for people to read."""
    return f"(This waits for a person's answer. {questions(requests)})"


def reasoning_of(message: Message | None) -> str | UnsetType:
    """Return the reasoning in a message."""
    texts: list[str] = []
    for block in message["content"] if message else ():
        match block:
            case {"reasoningContent": {"reasoningText": {"text": str(text)}}}:
                texts.append(text)
    return "".join(texts) or UNSET


def _ends_with(message: Message | None, code: str) -> bool:
    last = message["content"][-1:] if message else []
    return any(block.get("text") == ended_early(code) for block in last)


def _cut_off(message: Message | None, code: str) -> Answer:
    """Return the answer of a run that was cut off: its text without the ending that history adds.

    The ending is a fixed sentence, which stays if there is no other text, and for a failure also the reason.
    """
    text, sentence = answer_text(message), ended_early(code)
    content = message["content"] if message else []
    if {"text": sentence} in content[-2:]:
        said, _, _ = text.rpartition(sentence)
        text = said.rstrip("\n") or sentence
    return Answer(text=text, finish_reason="length", reasoning=reasoning_of(message))
