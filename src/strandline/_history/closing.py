"""`close` and its variants: they make well-formed, true messages of whatever a run leaves."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby
from typing import assert_never

from strandline._history.blocks import (
    dismissed_result,
    distinct,
    not_returned_result,
    open_tool_uses,
    results_for,
    valid_blocks,
    without_stray_results,
)
from strandline._history.texts import EMPTY_MESSAGE, NO_ANSWER, NOT_ANSWERED, ended_early, stored_reason
from strandline._model import (
    OF_CLIENT,
    Block,
    Cancelled,
    Ending,
    Failed,
    Message,
    NeedsInput,
    Question,
    StateRecord,
    Succeeded,
    ToolResult,
)
from strandline._normalize import by_id, normalize_message, same_blocks


def close(messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending) -> list[Message]:
    """Return the messages that a run leaves in history, well formed whatever prefix of the run `messages` is.

    `messages` are the run's own, from its prompt on; an assistant message at their end may have the partial text of an
    unfinished model call. `results` are the results in the round that is still open; a tool without one gets an error
    result that says that its outcome is unknown. The arguments are not changed; a message that needs no closing is
    returned as the same object. Never raises, whatever an agent has built.
    """
    if isinstance(ending, Succeeded) and _only_said(messages):
        return list(messages)
    results = by_id(results)
    closed: list[Message] = []
    for message in _users_joined([normalize_message(message) for message in messages]):
        uses = open_tool_uses(closed)
        if message["role"] == "user":
            content = without_stray_results(uses, valid_blocks(message["content"], "toolResult"))
            given = {block["toolResult"]["toolUseId"] for block in content if "toolResult" in block}
            content += results_for((use for use in uses if use["toolUseId"] not in given), results)
            content.sort(key=lambda block: "toolResult" not in block)
            if not content and not closed:
                content = [{"text": EMPTY_MESSAGE}]
        else:
            content = valid_blocks(message["content"], "toolUse")
            while content and "reasoningContent" in content[-1]:
                content.pop()
            if uses and content:
                closed.append({"role": "user", "content": results_for(uses, results)})
        _append(closed, message, content)
    if (uses := open_tool_uses(closed)) and not isinstance(ending, NeedsInput):
        closed.append({"role": "user", "content": results_for(uses, results)})
    match ending:
        case NeedsInput():
            pass  # its round stays open: the next messages begin with its results
        case Succeeded(text=text, limit=limit):
            if _ends_open(closed):
                answer = text if text and text.strip() else None
                _append_text(closed, answer or (ended_early("limit") if limit else NO_ANSWER))
        case Failed(code=code, detail=detail):
            _append_text(closed, ended_early(code))
            if reason := stored_reason(detail):
                _append_text(closed, reason)
        case Cancelled():
            _append_text(closed, ended_early("cancelled"))
        case _:
            assert_never(ending)
    return closed


def close_answer(
    messages: Sequence[Message],
    results: Mapping[str, ToolResult],
    ending: Ending,
    *,
    begun: bool,
    state: StateRecord | None = None,
) -> list[Message]:
    """Return the messages that the run of an answer leaves: those after the message of the open round.

    `messages` begin with that message; `state` is that of the question. Unless the round has `begun` again, the results
    of its tools say that they stopped at their questions, and those of a client's tools that nobody has sent one.
    """
    if not begun:
        uses = open_tool_uses([distinct(normalize_message(messages[0]))])
        of_client = {tool["name"] for tool in (state or {}).get(OF_CLIENT, {}).get("tools", ())}
        closed = {
            use["toolUseId"]: (not_returned_result if use["name"] in of_client else dismissed_result)(use["toolUseId"])
            for use in uses
        }
        results = {**closed, **by_id(results)}
    return close(messages, results, ending)[1:]


def dismissed(question: Question, *, begun: bool = False) -> list[Message]:
    """Return the messages that close the open round of a question that got no answer, or (`begun`) one in vain."""
    ending, state = Succeeded(text=NOT_ANSWERED), question.state
    return close_answer([question.message], question.results, ending, begun=begun, state=state)


def _only_said(messages: Sequence[Message]) -> bool:
    """Return whether prompt and answer are nothing but text, as nearly all are: then there is nothing to close."""
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
    """Yield the messages, joining neighbours of the user's: the results of one round may be in several."""
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
