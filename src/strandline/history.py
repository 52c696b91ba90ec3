"""History: what closes it, what a run has done so far, and what a provider would refuse. Pure.

A provider accepts a conversation only if its roles alternate, starting with `user`; if every `toolUse` of an
assistant message is answered by one `toolResult` at the head of the very next message; if no text is blank, no tool
result empty, and no answer stops at its reasoning. `close` turns whatever a run leaves (any prefix of it, in any
ending) into messages of that kind, without forgetting or inventing a side effect: the one place where the guarantee
"truthful history" is made.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count, groupby
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
NO_OUTPUT: Final = "(no output)"
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
        """Return the messages up to the end of the last round; an open round is closed by the results that it has."""
        asked = _asked(self.messages)
        if not asked:
            return self.messages
        return [*self.messages, {"role": "user", "content": _answers(asked, self.results)}]


def fold(facts: Iterable[Fact]) -> Progress:
    """Return what the facts of a run add up to.

    A round whose `RoundDone` was never staged (the server ended before it) is closed by what was staged of it as
    soon as a later fact shows that the run went on.
    """
    messages: list[Message] = []
    results: dict[str, ToolResult] = {}
    state: StateRecord | None = None
    for fact in facts:
        match fact:
            case RoundStarted():
                messages = [*_before(fact.messages, messages, results), *fact.messages]
                results = {}
            case ToolDone():
                results[fact.tool_use_id] = fact.result
            case RoundDone():
                messages = [*_before(fact.messages, messages, results), *fact.messages]
                results = {}
                state = fact.state
            case _:
                assert_never(fact)
    return Progress(messages=messages, results=results, state=state)


def _before(added: Sequence[Message], messages: list[Message], results: Mapping[str, ToolResult]) -> list[Message]:
    """Return `messages` as they stand before `added`: their open round is closed unless `added` closes it."""
    asked = _asked(messages)
    if not asked or (added and added[0]["role"] == "user"):
        return messages
    return [*messages, {"role": "user", "content": _answers(asked, results)}]


# -- close --------------------------------------------------------------------------------------------


def close(messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending) -> list[Message]:
    """Return the messages that a run leaves in history, well formed whatever `messages` is a prefix of.

    `messages` are the run's own, from its question on; partial text of an unfinished model call may stand at their
    end as an assistant message. `results` are the results of tools that ended in a round that is still open; a tool
    with none gets an error result that says that its outcome is unknown. The messages given are not changed; where
    nothing had to be closed, the very same objects are returned.
    """
    if isinstance(ending, Succeeded) and _only_said(messages):
        return list(messages)
    closed: list[Message] = []
    for message in _users_joined(messages):
        asked = _asked(closed)
        if message["role"] == "user":
            content = _only_answers_to(asked, _sound(message["content"], "toolResult"))
            given = {block["toolResult"]["toolUseId"] for block in content if "toolResult" in block}
            content += _answers((use for use in asked if use["toolUseId"] not in given), results)
            content.sort(key=lambda block: "toolResult" not in block)
            if not content and not closed:
                content = [{"text": EMPTY_MESSAGE}]
        else:
            content = _sound(message["content"], "toolUse")
            while content and "reasoningContent" in content[-1]:
                content.pop()
            if asked and content:
                closed.append({"role": "user", "content": _answers(asked, results)})
        _append(closed, message, content)
    if asked := _asked(closed):
        closed.append({"role": "user", "content": _answers(asked, results)})
    match ending:
        case Succeeded(text=text, limit=limit):
            if _ends_open(closed):
                answer = text if text and text.strip() else None
                _append_text(closed, answer or (ended_early("limit") if limit else NO_ANSWER))
        case Failed(code=code):
            _append_text(closed, ended_early(code))
        case Cancelled():
            _append_text(closed, ended_early("cancelled"))
        case _:
            assert_never(ending)
    return closed


def _only_said(messages: Sequence[Message]) -> bool:
    """Tell whether question and answer are text and nothing else, as nearly all are: there is nothing to close."""
    role = "user"
    for message in messages:
        if message["role"] != role or not message["content"]:
            return False
        for block in message["content"]:
            text = block.get("text")
            if len(block) != 1 or not isinstance(text, str) or not text or text.isspace():
                return False
        role = "assistant" if role == "user" else "user"
    return role == "user" and len(messages) > 0


def _users_joined(messages: Sequence[Message]) -> Iterable[Message]:
    """Yield the messages, neighbours of the user's as one: the results of one round may stand in several."""
    for role, neighbours in groupby(messages, key=lambda message: message["role"]):
        if role == "user":
            first, *others = neighbours
            content = chain.from_iterable(message["content"] for message in (first, *others))
            yield {**first, "content": list(content)} if others else first
        else:
            yield from neighbours


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
    return [block for block in content if not ("text" in block and not str(block["text"] or "").strip())]


def _sound(content: Iterable[Block], own: str) -> list[Block]:
    """Return the blocks that a provider takes from one role, which has tool blocks of the kind `own` only.

    The second block of one toolUseId gets an id of its own, in the answers as in the questions.
    """
    other = "toolUse" if own == "toolResult" else "toolResult"
    sound: list[Block] = []
    ids: set[str] = set()
    for block in _worth_keeping(content):
        if other in block:
            continue
        if own in block:
            named = _unused(str(block[own].get("toolUseId")), ids)
            ids.add(named)
            if named != block[own].get("toolUseId"):
                block = {**block, own: {**block[own], "toolUseId": named}}
            if own == "toolResult":
                block = _with_output(block)
        sound.append(block)
    return sound


def _unused(name: str, used: set[str]) -> str:
    return next(each for each in chain([name], (f"{name}-{n}" for n in count(2))) if each not in used)


def _with_output(block: Block) -> Block:
    """Return a toolResult block that is not empty: some providers refuse one, and the session with it."""
    result = block["toolResult"]
    content = _worth_keeping(result.get("content") or ()) or [{"text": NO_OUTPUT}]
    return block if content == result.get("content") else {**block, "toolResult": {**result, "content": content}}


def _asked(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the toolUse blocks of the last message: what the next message has to answer."""
    if not messages or messages[-1]["role"] != "assistant":
        return []
    return [block["toolUse"] for block in messages[-1]["content"] if "toolUse" in block]


def _answers(asked: Iterable[Mapping[str, str]], results: Mapping[str, ToolResult]) -> list[Block]:
    ids = [use["toolUseId"] for use in asked]
    return [
        _with_output({"toolResult": {**results[each], "toolUseId": each} if each in results else _unknown(each)})
        for each in ids
    ]


def _unknown(tool_use_id: str) -> ToolResult:
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": UNKNOWN_OUTCOME}]}


def _only_answers_to(asked: Iterable[Mapping[str, str]], content: list[Block]) -> list[Block]:
    """Drop toolResults that answer nothing."""
    ids = {use["toolUseId"] for use in asked}
    return [block for block in content if "toolResult" not in block or block["toolResult"]["toolUseId"] in ids]


# -- what a provider would refuse ---------------------------------------------------------------------


def pairing_faults(messages: Sequence[Message]) -> list[str]:
    """Return what breaks the pairing of toolUse and toolResult in a window, one sentence each; [] if valid."""
    faults: list[str] = []
    asked: list[str] = []
    for index, message in enumerate(messages):
        results = ["toolResult" in block for block in message["content"]]
        answers = [block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block]
        if message["role"] == "assistant" and answers:
            faults.append(f"message {index} is the assistant's and holds results of tools")
        if message["role"] == "user" and any("toolUse" in block for block in message["content"]):
            faults.append(f"message {index} is the user's and asks for tools")
        if results != sorted(results, reverse=True):
            faults.append(f"message {index} has something before its results of tools")
        if unasked := [each for each in answers if each not in asked]:
            faults.append(f"message {index} answers tools that were not asked for: {', '.join(unasked)}")
        if unanswered := [each for each in asked if each not in answers]:
            faults.append(f"message {index} leaves tools without a result: {', '.join(unanswered)}")
        asked = [use["toolUseId"] for use in _asked([message])]
        if repeated := [each for each, times in Counter(asked + answers).items() if times > 1]:
            faults.append(f"message {index} names a tool use twice: {', '.join(repeated)}")
    if asked:
        faults.append(f"the last message leaves tools without a result: {', '.join(asked)}")
    return faults


def history_faults(messages: Sequence[Message]) -> list[str]:
    """Return what makes a history one that a provider refuses, one sentence each; [] if valid."""
    faults = pairing_faults(messages)
    for index, message in enumerate(messages):
        expected = "assistant" if index % 2 else "user"
        content = message["content"]
        if message["role"] != expected:
            faults.append(f"message {index} is of role {message['role']}, not {expected}")
        if not content:
            faults.append(f"message {index} is empty")
        if len(_worth_keeping(content)) < len(content):
            faults.append(f"message {index} has a blank text")
        if any(_with_output(block) is not block for block in content if "toolResult" in block):
            faults.append(f"message {index} has a tool result that is empty or has a blank text")
        if message["role"] == "assistant" and content and "reasoningContent" in content[-1]:
            faults.append(f"message {index} stops at its reasoning")
    if len(messages) % 2:
        faults.append("the last message is not the assistant's")
    return faults
