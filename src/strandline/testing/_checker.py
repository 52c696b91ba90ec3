"""Checks that messages are a history that a model provider accepts, and that they show what happened.

Written from the providers' rules and Strandline's promises, independent of the code that makes history, so that it can
judge that code, a journal's content, or a server's answers. Knows only the form of messages.

    assert check_history(messages) == []
    assert check_truthful(messages, Ledger(ending=Cancelled(), finished={"t1": result}, unfinished={"t2"})) == []

Both return faults, one sentence each.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any, Final, assert_never

from msgspec import Struct

from strandline._model import Block, Cancelled, Ending, Failed, Input, Message, NeedsInput, Succeeded, ToolResult

_EARLY: Final = "(This run ended early: "
_REASON: Final = 500
"""How many characters of a failure's reason history keeps."""


class Ledger(Struct, frozen=True, kw_only=True):
    """What really happened in one run, as an observer recorded it.

    A field at its default is not checked, except `finished` and `unfinished`: together they are all the tools that the
    run called.
    """

    ending: Ending
    question: Input | None = None
    """The prompt, as it was sent."""
    said: Sequence[str] = ()
    """The texts that the model finished, in order."""
    partial: str = ""
    """The text of the model call that was cut off."""
    finished: Mapping[str, ToolResult] = {}
    """The result of every tool that ended, by toolUseId."""
    unfinished: Set[str] = frozenset()
    """The toolUseIds of calls without a result, which have, or may have, begun."""


# -- what a provider accepts --------------------------------------------------------------------------


def check_pairing(messages: Sequence[Message]) -> list[str]:
    """Return what a provider refuses in the tool blocks of a conversation, or of a part of it.

    The assistant calls tools, each with an id that is unique in its message; the next message begins with one result
    for each; no other message has results.
    """
    if malformed := list(_tool_form(messages)):
        return malformed
    return list(_pairing(messages))


def check_history(messages: Sequence[Message]) -> list[str]:
    """Return what a provider refuses in a whole conversation that waits for the next prompt.

    Besides the pairing of tools: roles alternate, user first; no message is empty, no text blank, no tool result empty
    (Amazon Bedrock), no answer ends in reasoning (Anthropic); everything is well formed.
    """
    if malformed := list(_form(messages)):
        return malformed
    return [*_pairing(messages), *_order(messages), *_content(messages)]


def _form(messages: Sequence[Any]) -> Iterator[str]:
    """Yield what is malformed for every provider, so that further checks are impossible."""
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), list):
            yield f"message {number} is no message with a list of blocks"
        elif message.get("role") not in ("user", "assistant"):
            yield f"message {number} is nobody's"
        elif not all(map(_is_block, message["content"])):
            yield f"message {number} has a malformed block"


def _is_block(block: Any) -> bool:
    if not _is_simple(block):
        return False
    known = {"text", "toolUse", "toolResult"} & set(block)
    if known == {"toolUse"}:
        use = block["toolUse"]
        return _is_named(use, "toolUseId") and _is_named(use, "name") and isinstance(use.get("input"), dict)
    if known == {"toolResult"}:
        result = block["toolResult"]
        if not _is_named(result, "toolUseId") or result.get("status") not in ("success", "error"):
            return False
        output = result.get("content")
        return isinstance(output, list) and all(
            _is_simple(each) and "toolUse" not in each and "toolResult" not in each for each in output
        )
    return len(known) < 2


def _is_simple(block: Any) -> bool:
    """Return whether a block is a text, JSON, or of another kind whose value is an object."""
    if not isinstance(block, dict):
        return False
    if "text" in block:
        return block["text"] is None or isinstance(block["text"], str)
    return "json" in block or dict in map(type, block.values())


def _is_named(tool: Any, by: str) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get(by), str) and tool[by].strip() != ""


def _tool_form(messages: Sequence[Any]) -> Iterator[str]:
    for number, message in enumerate(messages):
        for block in _blocks(message):
            for kind in ("toolUse", "toolResult"):
                if kind in block and not _is_named(block[kind], "toolUseId"):
                    yield f"message {number} has a {kind} without an id"


def _blocks(message: Any) -> list[Block]:
    content = message.get("content") if isinstance(message, dict) else None
    return [each if isinstance(each, dict) else {} for each in content] if isinstance(content, list | tuple) else []


def _pairing(messages: Sequence[Message]) -> Iterator[str]:
    ends: list[Message] = [{"role": "assistant", "content": []}, {"role": "user", "content": []}]
    padded = [ends[0], *messages, ends[1]]
    for number, (before, after) in enumerate(pairwise(padded)):
        uses = _ids(before, "toolUse") if _is_of(before, "assistant") else []
        results = _ids(after, "toolResult") if _is_of(after, "user") else []
        for each in sorted(set(uses) | set(results)):
            if uses.count(each) != results.count(each):
                yield f"{each} is called {uses.count(each)} times and answered {results.count(each)} at {number}"
            elif uses.count(each) > 1:
                yield f"{each} is called twice in one message before {number}"
        if any("toolResult" not in block for block in _blocks(after)[: len(results)]):
            yield f"message {number} does not begin with its results"
    for number, message in enumerate(messages):
        for kind, role in (("toolUse", "assistant"), ("toolResult", "user")):
            if _ids(message, kind) and not _is_of(message, role):
                yield f"message {number} has a {kind} and is not of role {role}"


def _order(messages: Sequence[Message]) -> Iterator[str]:
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        yield f"the roles do not go user, assistant, ..., but {', '.join(roles)}"


def _content(messages: Sequence[Message]) -> Iterator[str]:
    for number, message in enumerate(messages):
        blocks = message["content"]
        if blocks == []:
            yield f"message {number} has no content"
        elif message["role"] == "assistant" and "reasoningContent" in blocks[-1]:
            yield f"message {number} ends in reasoning"
        for block in blocks:
            if _blank(block):
                yield f"message {number} has a blank text"
            if "toolResult" in block:
                output = block["toolResult"]["content"]
                if output == [] or any(map(_blank, output)):
                    yield f"message {number} has an empty result"


def _ids(message: Message, kind: str) -> list[str]:
    return [block[kind]["toolUseId"] for block in _blocks(message) if kind in block]


def _is_of(message: Any, role: str) -> bool:
    return isinstance(message, dict) and message.get("role") == role


def _blank(block: Mapping[str, Any]) -> bool:
    return "text" in block and (block["text"] is None or block["text"].isspace() or block["text"] == "")


# -- what happened ------------------------------------------------------------------------------------


def check_truthful(messages: Sequence[Message], ledger: Ledger) -> list[str]:
    """Return where the messages of one run (from its prompt on) contradict the ledger.

    The messages must have the prompt and everything that the model said; the result of each tool that ended, and an
    unknown outcome for each that did not; no other tool; the end in the fixed words and no others. A malformed tool
    result must be there as text.
    """
    if malformed := list(_form(messages)):
        return malformed
    return [
        *_question(messages, ledger),
        *_tools(messages, ledger),
        *_words(messages, ledger),
        *_end(messages, ledger),
    ]


def _question(messages: Sequence[Message], ledger: Ledger) -> Iterator[str]:
    if ledger.question is None:
        return
    sent: list[Block] = [{"text": ledger.question}] if isinstance(ledger.question, str) else ledger.question
    worth = [block for block in sent if not _blank(block)] or [{"text": "(empty message)"}]
    if not messages or messages[0]["role"] != "user" or messages[0]["content"][: len(worth)] != worth:
        yield "the run does not begin with its question"


def _tools(messages: Sequence[Message], ledger: Ledger) -> Iterator[str]:
    reported: dict[str, ToolResult] = {}
    for message in messages:
        for block in message["content"]:
            if "toolResult" in block:
                reported[block["toolResult"]["toolUseId"]] = block["toolResult"]
    called = {each for message in messages for each in _ids(message, "toolUse")}
    for each, result in ledger.finished.items():
        if each not in called or each not in reported:
            yield f"tool {each} had ended and is forgotten"
        elif _output(reported[each]) != _output(result) or reported[each]["status"] != _status(result):
            yield f"tool {each} had ended with another result"
    for each in ledger.unfinished:
        if each not in called or each not in reported:
            yield f"tool {each} may have run and is forgotten"
        elif reported[each].get("status") != "error" or "unknown" not in _text(reported[each]["content"]):
            yield f"tool {each} may have run and does not read as unknown"
    for each in sorted((called | set(reported)) - set(ledger.finished) - ledger.unfinished):
        yield f"tool {each} is reported and was never called"


def _words(messages: Sequence[Message], ledger: Ledger) -> Iterator[str]:
    texts = iter([text for message in messages if message["role"] == "assistant" for text in _texts(message)])
    for said in ledger.said:
        if said.strip() and said not in texts:  # continues where the last one was found
            yield f"the model said {said!r}, which is not there or out of order"
    if ledger.partial.strip():
        last = _texts(messages[-1]) if messages else []
        if isinstance(ledger.ending, Succeeded):
            yield "a run that succeeded has no partial text"
        elif ledger.partial not in last[:-1]:
            yield "the partial text is not a block of its own before the closing one"


def _end(messages: Sequence[Message], ledger: Ledger) -> Iterator[str]:
    closing: list[str] = []
    match ledger.ending:
        case Succeeded(limit=True):
            closing = [f"{_EARLY}limit.)"]
        case Failed(code=code, detail=detail, raised=raised):
            reason = detail[:_REASON]
            closing = [f"{_EARLY}{code.value}.)", *([reason] if reason.strip() else [])]
            if raised is not None and any(raised.text in text for message in messages for text in _texts(message)):
                yield "history has the text of an exception that must not be shown"
        case Cancelled():
            closing = [f"{_EARLY}cancelled.)"]
        case Succeeded() | NeedsInput():
            pass
        case _:
            assert_never(ledger.ending)
    texts = [text for message in messages for text in _texts(message)]
    endings = [text for text in texts if text.startswith(_EARLY)]
    last = messages[-1]["content"][-len(closing) :] if messages else []
    if not closing:
        if endings:
            yield "a run that came to its own end reads as ended early"
    elif last != [{"text": text} for text in closing] or messages[-1]["role"] != "assistant":
        yield f"the run does not close with {closing!r}"
    elif len(endings) > 1:
        yield "the end is reported twice"


def _texts(message: Message) -> list[str]:
    return [block["text"] for block in message["content"] if "text" in block]


def _text(content: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(block["text"] for block in content if "text" in block)


def _status(result: Any) -> str:
    given = result.get("status") if isinstance(result, dict) else None
    return {"success": "success", "None": "success"}.get(str(given), "error")


def _output(result: Any) -> list[Block]:
    """Return a tool's output as blocks, whatever its form; any words will do for an empty result."""
    if isinstance(result, dict):
        result = result.get("content")
    if not isinstance(result, list | tuple):
        result = [] if result is None else [result]
    said = [_as_block(each) for each in result]
    return [block for block in said if block != {} and not _blank(block) and block != {"text": "(no output)"}]


def _as_block(said: Any) -> Block:
    if said == {} or (_is_simple(said) and not {"toolUse", "toolResult"} & set(said)):
        return dict(said)
    if isinstance(said, dict) and "text" in said and "toolUse" not in said and "toolResult" not in said:
        return {**said, "text": str(said["text"])}
    return {"text": str(said)}
