"""History as people read it, in turns: a message, the tools used for it, and the answer."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

Message = dict[str, Any]
MOST_GIVEN: Final = 40
"""How many characters of tool arguments are shown."""


@dataclass(slots=True)
class ToolCall:
    """A tool that an agent used; `result` is None if the history has none."""

    name: str
    arguments: Any
    result: str | None = None
    failed: bool = False


@dataclass(slots=True)
class Turn:
    """A question and what came of it, in order."""

    question: str
    said: list[str | ToolCall] = field(default_factory=list)
    discarded: bool = False
    superseded: bool = False
    """Whether it is hidden from the agent, and why."""
    sender: str = ""
    """The name of the person or program that said it, if that is known."""


def turns_of(messages: Iterable[Message]) -> list[Turn]:
    """Return the turns of a history; messages before the first user message are left out."""
    turns: list[Turn] = []
    calls: dict[str, ToolCall] = {}
    for message in messages:
        text = text_of(message)
        if message["role"] == "user" and text:
            discarded, superseded = bool(message.get("discarded")), bool(message.get("superseded"))
            sender = (message.get("sender") or {}).get("name", "")
            turns.append(Turn(text, discarded=discarded, superseded=superseded, sender=sender))
        if not turns:
            continue
        for block in message["content"]:
            if "toolResult" in block:
                _give_result(calls, block["toolResult"])
            elif message["role"] == "assistant" and block.get("text", "").strip():
                turns[-1].said.append(block["text"])
            elif "toolUse" in block:
                use = block["toolUse"]
                call = calls[use.get("toolUseId", "")] = ToolCall(use.get("name", "?"), use.get("input"))
                turns[-1].said.append(call)
    return turns


def text_of(message: Message) -> str:
    """Return the text of a message."""
    return "\n".join(block["text"] for block in message["content"] if "text" in block)


def brief(call: ToolCall) -> str:
    """Return a call on one line, `add(a=1, b=2) -> 3`; long arguments are cut, so that the result is visible."""
    arguments = call.arguments if isinstance(call.arguments, dict) else {"input": call.arguments}
    given = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    if len(given) > MOST_GIVEN:
        given = f"{given[:MOST_GIVEN].rstrip()}..."
    result = "(no result)" if call.result is None else " ".join(call.result.split())
    return f"{call.name}({given}) -> {'failed: ' if call.failed else ''}{result}"


def _give_result(calls: dict[str, ToolCall], result: dict[str, Any]) -> None:
    call = calls.get(result.get("toolUseId", ""))
    if call is not None:
        parts = (
            part.get("text") or json.dumps(part.get("json", "..."), ensure_ascii=False) for part in result["content"]
        )
        call.result = " ".join(parts)
        call.failed = result.get("status") == "error"
