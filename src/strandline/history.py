"""History: what closes it, what a run has done so far, and what a provider would refuse. Pure.

A provider accepts a conversation only if its roles alternate, starting with `user`, if every `toolUse` of an
assistant message is answered by a `toolResult` in the very next message, and if no text is blank. `close` turns
whatever a run leaves (any prefix of it, in any ending) into messages of that kind, without forgetting or inventing
a side effect: the one place where the guarantee "truthful history" is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, assert_never

from msgspec import Struct

from strandline.model import (
    Block,
    Cancelled,
    Ending,
    Fact,
    Failed,
    Input,
    Message,
    RoundDone,
    RoundStarted,
    StateRecord,
    Succeeded,
    ToolDone,
    ToolResult,
)

EMPTY_MESSAGE: Final = "(empty message)"
NO_ANSWER: Final = "(This run ended without an answer.)"
UNKNOWN_OUTCOME: Final = (
    "The outcome of this tool call is unknown: the run ended before it returned. It may have taken effect."
)


def ended_early(code: str) -> str:
    """Return the sentence that tells, in history, that a run did not come to its own end."""
    return f"(This run ended early: {code}.)"


def question(prompt: Input) -> Message:
    """Return the user message for a run's input; blank text becomes `(empty message)`, since providers refuse it."""
    if isinstance(prompt, str):
        return {"role": "user", "content": [{"text": prompt if prompt.strip() else EMPTY_MESSAGE}]}
    content = _worth_keeping(block for block in prompt if "toolUse" not in block and "toolResult" not in block)
    return {"role": "user", "content": content or [{"text": EMPTY_MESSAGE}]}


def answer_text(message: Message | None) -> str:
    """Return the text blocks of a message, a line break between two of them."""
    if message is None:
        return ""
    return "\n".join(block["text"] for block in message["content"] if "text" in block)


# -- what a run has done so far -----------------------------------------------------------------------


class Progress(Struct, frozen=True, kw_only=True):
    """What is staged of a run: its messages, the results of its open round, the state at its last closed round."""

    messages: list[Message]
    results: dict[str, ToolResult]
    state: StateRecord | None = None

    def open_tools(self) -> list[str]:
        """Return the names of the tools that have begun and have no result: what they did is not known."""
        return [str(use.get("name", "?")) for use in _asked(self.messages) if use["toolUseId"] not in self.results]

    def rounds_closed(self) -> list[Message]:
        """Return the messages up to the end of the last round; a round whose tools all have results is closed by them."""
        asked = _asked(self.messages)
        if not asked:
            return self.messages
        return [*self.messages, {"role": "user", "content": _answers(asked, self.results)}]


def fold(facts: Iterable[Fact]) -> Progress:
    """Return what the facts of a run add up to."""
    messages: list[Message] = []
    results: dict[str, ToolResult] = {}
    state: StateRecord | None = None
    for fact in facts:
        match fact:
            case RoundStarted():
                messages += fact.messages
                results = {}
            case ToolDone():
                results[fact.tool_use_id] = fact.result
            case RoundDone():
                messages += fact.messages
                results = {}
                state = fact.state
            case _:
                assert_never(fact)
    return Progress(messages=messages, results=results, state=state)


# -- close --------------------------------------------------------------------------------------------


def close(messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending) -> list[Message]:
    """Return the messages that a run leaves in history, well formed whatever `messages` is a prefix of.

    `messages` are the run's own, from its question on; partial text of an unfinished model call may stand at their
    end as an assistant message. `results` are the results of tools that ended in a round that is still open; a tool
    with none gets an error result that says that its outcome is unknown. The messages given are not changed; where
    nothing had to be closed, the very same objects are returned.
    """
    closed: list[Message] = []
    for message in messages:
        content = _worth_keeping(message["content"])
        asked = _asked(closed)
        if message["role"] == "user":
            content = _only_answers_to(asked, content)
            given = {block["toolResult"]["toolUseId"] for block in content if "toolResult" in block}
            missing = [use for use in asked if use["toolUseId"] not in given]
            if missing:
                content = _answers(missing, results) + content
        elif asked:
            closed.append({"role": "user", "content": _answers(asked, results)})
        _append(closed, message, content)
    if asked := _asked(closed):
        closed.append({"role": "user", "content": _answers(asked, results)})
    match ending:
        case Succeeded(text=text, limit=limit):
            if _ends_open(closed):
                _append_text(closed, text or (ended_early("limit") if limit else NO_ANSWER))
        case Failed(code=code):
            _append_text(closed, ended_early(code))
        case Cancelled():
            _append_text(closed, ended_early("cancelled"))
        case _:
            assert_never(ending)
    return closed


def _append(closed: list[Message], message: Message, content: list[Block]) -> None:
    """Append `message` with `content`; two neighbours of one role become one message."""
    if not content:
        return
    if closed and closed[-1]["role"] == message["role"]:
        closed[-1] = {**closed[-1], "content": closed[-1]["content"] + content}
    elif content == message["content"]:
        closed.append(message)
    else:
        closed.append({**message, "content": content})


def _append_text(closed: list[Message], text: str) -> None:
    _append(closed, {"role": "assistant", "content": []}, [{"text": text}])


def _ends_open(closed: list[Message]) -> bool:
    return not closed or closed[-1]["role"] != "assistant"


def _worth_keeping(content: Iterable[Block]) -> list[Block]:
    return [block for block in content if not ("text" in block and not str(block["text"]).strip())]


def _asked(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the toolUse blocks of the last message: what the next message has to answer."""
    if not messages or messages[-1]["role"] != "assistant":
        return []
    return [block["toolUse"] for block in messages[-1]["content"] if "toolUse" in block]


def _answers(asked: Iterable[Mapping[str, str]], results: Mapping[str, ToolResult]) -> list[Block]:
    return [{"toolResult": results.get(use["toolUseId"]) or _unknown(use["toolUseId"])} for use in asked]


def _unknown(tool_use_id: str) -> ToolResult:
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": UNKNOWN_OUTCOME}]}


def _only_answers_to(asked: Iterable[Mapping[str, str]], content: list[Block]) -> list[Block]:
    """Drop toolResults that answer nothing, and all but the first for one toolUse."""
    open_ids = {use["toolUseId"] for use in asked}
    kept: list[Block] = []
    for block in content:
        if "toolResult" in block:
            tool_use_id = block["toolResult"]["toolUseId"]
            if tool_use_id not in open_ids:
                continue
            open_ids.remove(tool_use_id)
        kept.append(block)
    return kept


# -- what a provider would refuse ---------------------------------------------------------------------


def pairing_faults(messages: Sequence[Message]) -> list[str]:
    """Return what breaks the pairing of toolUse and toolResult in a window, one sentence each; [] if valid."""
    faults: list[str] = []
    asked: set[str] = set()
    for index, message in enumerate(messages):
        answers = [block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block]
        if unasked := [each for each in answers if each not in asked]:
            faults.append(f"message {index} answers tools that were not asked for: {', '.join(unasked)}")
        if unanswered := asked - set(answers):
            faults.append(f"message {index} leaves tools without a result: {', '.join(sorted(unanswered))}")
        asked = {use["toolUseId"] for use in _asked([message])}
    if asked:
        faults.append(f"the last message leaves tools without a result: {', '.join(sorted(asked))}")
    return faults


def history_faults(messages: Sequence[Message]) -> list[str]:
    """Return what makes a history one that a provider refuses, one sentence each; [] if valid."""
    faults = pairing_faults(messages)
    for index, message in enumerate(messages):
        expected = "assistant" if index % 2 else "user"
        if message["role"] != expected:
            faults.append(f"message {index} is of role {message['role']}, not {expected}")
        if not message["content"]:
            faults.append(f"message {index} is empty")
        if len(_worth_keeping(message["content"])) < len(message["content"]):
            faults.append(f"message {index} has a blank text")
    if len(messages) % 2:
        faults.append("the last message is not the assistant's")
    return faults
