"""History: what closes it, what a run has done so far, and what a provider would refuse. Pure.

A provider accepts a conversation only if its roles alternate, starting with `user`; if every `toolUse` of an
assistant message is answered by one `toolResult` at the head of the very next message; if no text is blank, no tool
result empty, and no answer stops at its reasoning. `close` turns whatever a run leaves (any prefix of it, in any
ending) into messages of that kind, without forgetting or inventing a side effect: the one place where the guarantee
"truthful history" is made.

Agents and tools build messages by hand, so nothing here trusts their form: what is no block is told as text, and
nothing that a tool returned is dropped for its form.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, count, groupby
from typing import Any, Final, Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from strandline.form import NAMELESS, blocks_of, by_id, formed, formed_result, holds, same_blocks, told_as_text
from strandline.model import (
    Block,
    Cancelled,
    Ending,
    Fact,
    Failed,
    Input,
    Message,
    NeedsInput,
    Question,
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
DISMISSED: Final = (
    "This tool asked a person for input and got no answer: it stopped at its question, and did nothing after it."
)
NOT_ANSWERED: Final = "(The input that was asked for was not given.)"
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
    own = [block for block in prompt if not holds(block, "toolUse") and not holds(block, "toolResult")]
    content = _worth_keeping(blocks_of(own))
    return {"role": "user", "content": content or [{"text": EMPTY_MESSAGE}]}


def answer_text(message: Message | None) -> str:
    """Return the text blocks of a message, a line break between two of them."""
    if message is None:
        return ""
    texts = (block["text"] for block in formed(message)["content"] if "text" in block)
    return "\n".join(text for text in texts if text is not None)


# -- what a run has done so far -----------------------------------------------------------------------


class Progress(Struct, frozen=True, kw_only=True):
    """What is staged of a run: its messages, the results of its open round, the state at its last closed round.

    `again` are the toolUseIds of the open round whose tools are to be started again (they are idempotent); the open
    round stays open then, and `results` has one for each of its other tools.

    A run that answers a question begins in the middle of a round: its first message is that of the run that asked, and
    `asking` the state that the agent goes on from with the answers. `begun` False: no tool of it was started since.
    """

    messages: list[Message]
    results: dict[str, ToolResult]
    state: StateRecord | None = None
    again: frozenset[str] = frozenset()
    asking: StateRecord | None = None
    begun: bool = True

    @property
    def takes_answers(self) -> bool:
        """Tell whether the agent is to be given the answers: it has not gone on with them yet, or is to do so again."""
        return self.asking is not None and (not self.begun or bool(self.again and len(self.messages) == 1))

    def open_tools(self) -> dict[str, str]:
        """Return the tools that have begun and have no result, name by id: what they did is not known."""
        ended = by_id(self.results)
        asked = _asked([_distinct(formed(message)) for message in self.messages[-1:]]) if self.begun else []
        return {use["toolUseId"]: use["name"] for use in asked if use["toolUseId"] not in ended}

    def ended(self) -> list[ToolResult]:
        """Return the results of the open round, but of the tools that are to be started `again`."""
        asked = _asked([_distinct(formed(message)) for message in self.messages[-1:]])
        ended = [use for use in asked if use["toolUseId"] not in self.again]
        return [block["toolResult"] for block in _answers(ended, by_id(self.results))]

    def to_go_on(self) -> list[Message]:
        """Return the messages that an attempt goes on from.

        An open round is closed by the results that it has, unless tools of it are started `again`.
        """
        messages = [_distinct(formed(message)) for message in self.messages]
        if self.begun and not self.again and (asked := _asked(messages)):
            messages.append({"role": "user", "content": _answers(asked, by_id(self.results))})
        return messages


def fold(facts: Iterable[Fact], question: Question | None = None) -> Progress:
    """Return what the facts of a run add up to, which goes on from `question` if it answers one.

    A round whose `RoundDone` was never staged (the server ended before it) is closed by what was staged of it as
    soon as a later fact shows that the run went on.
    """
    messages: list[Message] = [] if question is None else [question.message]
    results: dict[str, ToolResult] = {} if question is None else dict(question.results)
    state: StateRecord | None = None
    begun = question is None
    for fact in facts:
        begun = True
        match fact:
            case RoundStarted(messages=[]):
                pass  # the open round goes on: it is the tools that start again, not the round
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
    asking = None if question is None else question.state
    return Progress(messages=messages, results=results, state=state, asking=asking, begun=begun)


def _before(added: Sequence[Message], messages: list[Message], results: Mapping[str, ToolResult]) -> list[Message]:
    """Return `messages` as they stand before `added`: their open round is closed unless `added` closes it."""
    asked = _asked([_distinct(formed(message)) for message in messages[-1:]])
    if not asked or (added and formed(added[0])["role"] == "user"):
        return messages
    return [*messages, {"role": "user", "content": _answers(asked, by_id(results))}]


def reopened(
    progress: Progress, *, unknown_tool: Literal["fail", "tell"], idempotent_tools: Collection[str]
) -> Progress | None:
    """Return what another attempt goes on from after the process died; None if the run cannot go on.

    Open tools named in `idempotent_tools` are to be started `again`, under their ids. Of any other open tool nobody
    knows what it did: with `tell` its result says so and the run goes on, with `fail` there is no way on. A progress
    without an open tool comes back as it is.
    """
    open_tools = progress.open_tools()
    if not open_tools:
        return progress
    again = frozenset(each for each, name in open_tools.items() if name in idempotent_tools)
    unknown = [each for each in open_tools if each not in again]
    if unknown and unknown_tool == "fail":
        return None
    return replace(progress, results={**progress.results, **{each: _unknown(each) for each in unknown}}, again=again)


# -- close --------------------------------------------------------------------------------------------


def close(messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending) -> list[Message]:
    """Return the messages that a run leaves in history, well formed whatever `messages` is a prefix of.

    `messages` are the run's own, from its question on; partial text of an unfinished model call may stand at their
    end as an assistant message. `results` are the results of tools that ended in a round that is still open; a tool
    with none gets an error result that says that its outcome is unknown. The messages given are not changed; where
    nothing had to be closed, the very same objects are returned. Never raises, whatever an agent has built.
    """
    if isinstance(ending, Succeeded) and _only_said(messages):
        return list(messages)
    results = by_id(results)
    closed: list[Message] = []
    for message in _users_joined([formed(message) for message in messages]):
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
    if (asked := _asked(closed)) and not isinstance(ending, NeedsInput):
        closed.append({"role": "user", "content": _answers(asked, results)})
    match ending:
        case NeedsInput():
            pass  # its round stays open: whatever comes next begins with the results of it
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


def close_answer(
    messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending, *, begun: bool
) -> list[Message]:
    """Return the messages that a run leaves which answers a question: what comes after that open round's message.

    `messages` begin with that message. Unless the round has `begun` again, its tools are told to have stopped at their
    questions.
    """
    if not begun:
        asked = _asked([_distinct(formed(messages[0]))])
        results = {**{use["toolUseId"]: _dismissed(use["toolUseId"]) for use in asked}, **by_id(results)}
    return close(messages, results, ending)[1:]


def dismissed(question: Question, *, begun: bool = False) -> list[Message]:
    """Return the messages that close the open round of a question that is not answered, or (`begun`) to no avail."""
    return close_answer([question.message], question.results, Succeeded(text=NOT_ANSWERED), begun=begun)


def _only_said(messages: Sequence[Message]) -> bool:
    """Tell whether question and answer are text and nothing else, as nearly all are: there is nothing to close."""
    role = "user"
    for message in messages:
        if type(message) is not dict or message.get("role") != role:
            return False
        content = message.get("content")
        if type(content) is not list or not content:
            return False
        for block in content:
            if type(block) is not dict or len(block) != 1:
                return False
            text = block.get("text")
            if not isinstance(text, str) or not text or text.isspace():
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
    elif same_blocks(content, message["content"]):
        closed.append(message)
    else:
        closed.append({**message, "content": content})


def _append_text(closed: list[Message], text: str) -> None:
    _append(closed, {"role": "assistant", "content": []}, [{"text": text}])


def _ends_open(closed: list[Message]) -> bool:
    return not closed or closed[-1]["role"] != "assistant"


def _worth_keeping(content: Iterable[Block]) -> list[Block]:
    return [block for block in content if not ("text" in block and not (block["text"] or "").strip())]


def _sound(content: Iterable[Block], own: str) -> list[Block]:
    """Return the blocks that a provider takes from one role, which has tool blocks of the kind `own` only.

    The second block of one toolUseId gets an id of its own, in the answers as in the questions.
    """
    other = "toolUse" if own == "toolResult" else "toolResult"
    sound = _apart([block for block in _worth_keeping(content) if other not in block], own)
    return [_with_output(block) if "toolResult" in block else block for block in sound]


def _apart(content: Iterable[Block], own: str) -> list[Block]:
    """Return the blocks, those of the kind `own` with an id each that no other has."""
    apart: list[Block] = []
    ids: set[str] = set()
    for block in content:
        if own in block:
            named = _unused(block[own]["toolUseId"], ids)
            ids.add(named)
            if named != block[own]["toolUseId"]:
                block = {**block, own: {**block[own], "toolUseId": named}}
        apart.append(block)
    return apart


def _distinct(message: Message) -> Message:
    """Return a message that is formed, each of its tool blocks with an id of its own."""
    content = _apart(_apart(message["content"], "toolUse"), "toolResult")
    return message if same_blocks(content, message["content"]) else {**message, "content": content}


def _unused(name: str, used: set[str]) -> str:
    if name not in used:
        return name
    return next(each for each in (f"{name}-{n}" for n in count(2)) if each not in used)


def _with_output(block: Block) -> Block:
    """Return a toolResult block that is not empty: some providers refuse one, and the session with it."""
    result = block["toolResult"]
    content = _worth_keeping(result["content"]) or [{"text": NO_OUTPUT}]
    return block if same_blocks(content, result["content"]) else {**block, "toolResult": {**result, "content": content}}


def _asked(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the toolUse blocks of the last message: what the next message has to answer."""
    if not messages or messages[-1]["role"] != "assistant":
        return []
    return [block["toolUse"] for block in messages[-1]["content"] if "toolUse" in block]


def _answers(asked: Iterable[Mapping[str, str]], results: Mapping[str, ToolResult]) -> list[Block]:
    ids = [use["toolUseId"] for use in asked]
    return [
        _with_output({"toolResult": formed_result(results[each], each) if each in results else _unknown(each)})
        for each in ids
    ]


def _unknown(tool_use_id: str) -> ToolResult:
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": UNKNOWN_OUTCOME}]}


def _dismissed(tool_use_id: str) -> ToolResult:
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": DISMISSED}]}


def _only_answers_to(asked: Iterable[Mapping[str, str]], content: list[Block]) -> list[Block]:
    """Drop toolResults that answer nothing; those that do not even say what they answer are told as they are."""
    ids = {use["toolUseId"] for use in asked}
    kept: list[Block] = []
    for block in content:
        if "toolResult" not in block or block["toolResult"]["toolUseId"] in ids:
            kept.append(block)
        elif block["toolResult"]["toolUseId"].startswith(NAMELESS):
            told = (each for each in block["toolResult"]["content"] if each.get("text") != NO_OUTPUT)
            kept += [{"text": told_as_text(each["json"])} if "json" in each else each for each in told]
    return _worth_keeping(kept)


# -- what a provider would refuse ---------------------------------------------------------------------


def pairing_faults(messages: Sequence[Message]) -> list[str]:
    """Return what breaks the pairing of toolUse and toolResult in a window, one sentence each; [] if valid."""
    faults: list[str] = []
    asked: list[str] = []
    for index, message in enumerate(messages):
        role, content = _as_it_is(message)
        results = [holds(block, "toolResult") for block in content]
        answers, asks = _ids(content, "toolResult"), _ids(content, "toolUse")
        if None in answers or None in asks:
            faults.append(f"message {index} has a tool block without an id")
        if role != "user" and answers:
            faults.append(f"message {index} is the {told_as_text(role)}'s and holds results of tools")
        if role != "assistant" and asks:
            faults.append(f"message {index} is the {told_as_text(role)}'s and asks for tools")
        if results != sorted(results, reverse=True):
            faults.append(f"message {index} has something before its results of tools")
        given = [each for each in answers if each is not None]
        if unasked := [each for each in given if each not in asked]:
            faults.append(f"message {index} answers tools that were not asked for: {', '.join(unasked)}")
        if unanswered := [each for each in asked if each not in given]:
            faults.append(f"message {index} leaves tools without a result: {', '.join(unanswered)}")
        asked = [each for each in asks if each is not None] if role == "assistant" else []
        if repeated := [each for each, times in Counter(asked + given).items() if times > 1]:
            faults.append(f"message {index} names a tool use twice: {', '.join(repeated)}")
    if asked:
        faults.append(f"the last message leaves tools without a result: {', '.join(asked)}")
    return faults


def _as_it_is(message: Any) -> tuple[object, Sequence[object]]:
    """Return the role and the blocks of a message in whatever form."""
    if not isinstance(message, dict):
        return None, []
    content = message.get("content")
    return message.get("role"), content if isinstance(content, list | tuple) else []


def _ids(content: Iterable[Any], kind: str) -> list[str | None]:
    """Return the ids of tool blocks, None where there is none."""
    tools = [block[kind] for block in content if holds(block, kind)]
    ids = [tool.get("toolUseId") if isinstance(tool, dict) else None for tool in tools]
    return [each if isinstance(each, str) and each.strip() else None for each in ids]


def history_faults(messages: Sequence[Message]) -> list[str]:
    """Return what makes a history one that a provider refuses, one sentence each; [] if valid."""
    faults = pairing_faults(messages)
    for index, message in enumerate(messages):
        expected = "assistant" if index % 2 else "user"
        role, _ = _as_it_is(message)
        proper = formed(message)
        content = proper["content"]
        if proper is not message:
            faults.append(f"message {index} is malformed")
        if role != expected:
            faults.append(f"message {index} is of role {told_as_text(role)}, not {expected}")
        if not content:
            faults.append(f"message {index} is empty")
        if len(_worth_keeping(content)) < len(content):
            faults.append(f"message {index} has a blank text")
        if any(_with_output(block) is not block for block in content if "toolResult" in block):
            faults.append(f"message {index} has a tool result that is empty or has a blank text")
        if role == "assistant" and content and "reasoningContent" in content[-1]:
            faults.append(f"message {index} stops at its reasoning")
    if len(messages) % 2:
        faults.append("the last message is not the assistant's")
    return faults
