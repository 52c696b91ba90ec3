"""What a provider would refuse in messages of any form."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from strandline._history.blocks import with_output
from strandline._history.texts import without_blank_text
from strandline._model import Message
from strandline._normalize import as_text, holds, normalize_message


def pairing_faults(messages: Sequence[Message]) -> list[str]:
    """Return what breaks the pairing of toolUse and toolResult in a window, one sentence each; [] if valid."""
    faults: list[str] = []
    called: list[str] = []
    for index, message in enumerate(messages):
        role, content = _as_it_is(message)
        results = [holds(block, "toolResult") for block in content]
        answers, calls = _ids(content, "toolResult"), _ids(content, "toolUse")
        if None in answers or None in calls:
            faults.append(f"message {index} has a tool block without an id")
        if role != "user" and answers:
            faults.append(f"message {index} is the {as_text(role)}'s and holds results of tools")
        if role != "assistant" and calls:
            faults.append(f"message {index} is the {as_text(role)}'s and calls tools")
        if results != sorted(results, reverse=True):
            faults.append(f"message {index} has something before its results of tools")
        given = [each for each in answers if each is not None]
        if uncalled := [each for each in given if each not in called]:
            faults.append(f"message {index} answers tools that were not called: {', '.join(uncalled)}")
        if unanswered := [each for each in called if each not in given]:
            faults.append(f"message {index} leaves tools without a result: {', '.join(unanswered)}")
        called = [each for each in calls if each is not None] if role == "assistant" else []
        if repeated := [each for each, times in Counter(called + given).items() if times > 1]:
            faults.append(f"message {index} names a tool use twice: {', '.join(repeated)}")
    if called:
        faults.append(f"the last message leaves tools without a result: {', '.join(called)}")
    return faults


def _as_it_is(message: Any) -> tuple[object, Sequence[object]]:
    """Return the role and the blocks of a message of any form."""
    if not isinstance(message, dict):
        return None, []
    content = message.get("content")
    return message.get("role"), content if isinstance(content, list | tuple) else []


def _ids(content: Iterable[Any], kind: str) -> list[str | None]:
    """Return the ids of tool blocks, None where one is missing."""
    tools = [block[kind] for block in content if holds(block, kind)]
    ids = [tool.get("toolUseId") if isinstance(tool, dict) else None for tool in tools]
    return [each if isinstance(each, str) and each.strip() else None for each in ids]


def history_faults(messages: Sequence[Message]) -> list[str]:
    """Return what makes a provider refuse a history, one sentence each; [] if valid."""
    faults = pairing_faults(messages)
    for index, message in enumerate(messages):
        expected = "assistant" if index % 2 else "user"
        role, _ = _as_it_is(message)
        proper = normalize_message(message)
        content = proper["content"]
        if proper is not message:
            faults.append(f"message {index} is malformed")
        if role != expected:
            faults.append(f"message {index} is of role {as_text(role)}, not {expected}")
        if not content:
            faults.append(f"message {index} is empty")
        if len(without_blank_text(content)) < len(content):
            faults.append(f"message {index} has a blank text")
        if any(with_output(block) is not block for block in content if "toolResult" in block):
            faults.append(f"message {index} has a tool result that is empty or has a blank text")
        if role == "assistant" and content and "reasoningContent" in content[-1]:
            faults.append(f"message {index} stops at its reasoning")
    if len(messages) % 2:
        faults.append("the last message is not the assistant's")
    return faults
