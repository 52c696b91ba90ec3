"""A scripted model to chat with: it repeats the message, counts messages, and calls the tools that a message names.

It replaces a real model in demos: its answers show the order of messages, and tool calls. They depend only on the
conversation and the tools.
"""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from strands.types.content import Messages

from strandline._scripted.model import Answer, ScriptedModel, call, question, results, say
from strandline.errors import SettingsError

PACE_VARIABLE: Final = "STRANDLINE_DEMO_PACE"
"""The variable with the seconds before each answer."""
DEFAULT_PACE_S: Final = 1.0
"""As slow as a model, so that people see requests wait."""

_NUMBER: Final = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_QUOTED: Final = re.compile(r"[\"“]([^\"”]+)[\"”]|(?<!\w)'([^']+)'(?!\w)")
_PLACE: Final = re.compile(r"\b(?:in|for|at|of|about|to|on|from)\s+((?:[\w'-]+\s*){1,4}?)[?.!,]*$", re.IGNORECASE)
_FORMAT: Final = "You must format the previous response as structured output."
"""What Strands says to a model that has not given its answer the form that is wanted."""
_SMALL_WORDS: Final = frozenset({"a", "get", "the", "tool"})


class ConversationModel(ScriptedModel):
    """A `ScriptedModel` that gets the agent's tools and calls them."""

    def __init__(self, *, pace_s: float | None = None) -> None:
        super().__init__(lambda messages: reply(messages, ()))
        self._pace_s = pace() if pace_s is None else pace_s

    async def _answer(self, messages: Messages, tool_specs: object, tool_choice: object = None) -> Answer:
        await asyncio.sleep(self._pace_s)
        tools = tool_specs if isinstance(tool_specs, list) else ()
        return forced(messages, tools, tool_choice) or reply(messages, tools)


def pace() -> float:
    """Return the seconds before each answer, from the environment. Raises `SettingsError` if that is no number."""
    text = os.environ.get(PACE_VARIABLE) or str(DEFAULT_PACE_S)
    if not re.fullmatch(r"\d{1,3}(\.\d*)?|\.\d+", text):
        raise SettingsError(f"{PACE_VARIABLE} is {text!r}; it must be a number of seconds, such as 0.5")
    return float(text)


def nth(messages: Messages) -> int:
    """Return the number of messages that the user has sent."""
    return sum(
        1 for message in messages if message["role"] == "user" and any("text" in each for each in message["content"])
    )


def forced(messages: Messages, tools: Sequence[Mapping[str, Any]], choice: object) -> Answer | None:
    """Return the call of the tool that the model must call; None: it may answer as it likes."""
    match choice:
        case {"tool": {"name": str(name)}}:
            others = [each for each in messages if not _requests_format(each)]
            return next((call(name, arguments(tool, question(others))) for tool in tools if tool["name"] == name), None)
    return None


def reply(messages: Messages, tools: Sequence[Mapping[str, Any]]) -> Answer:
    """Return the next answer in a conversation, with these tools."""
    count = f"That was message {nth(messages)} of this session."
    returned = results(messages)
    if returned:
        names = _names(messages)
        shown = "; ".join(f"{names.get(key, 'a tool')} returned {value}" for key, value in returned.items())
        return f"{shown}. {count}"
    text = question(messages)
    for tool in tools:
        if _is_named(str(tool["name"]), text):
            return [say(f"Let me call {tool['name']}. "), call(str(tool["name"]), arguments(tool, text))]
    hint = f" Say the name of a tool and I call it: {', '.join(str(tool['name']) for tool in tools)}." if tools else ""
    said = text if text.rstrip().endswith((".", "?", "!")) else f"{text}."
    return f"I am a script. You said: {said} {count}{hint}"


def arguments(tool: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return arguments for a tool's schema from the numbers and words of a question."""
    schema = tool.get("inputSchema", {}).get("json", {})
    required = schema.get("required", ())
    numbers = [float(found) if "." in found else int(found) for found in _NUMBER.findall(text)]
    words = [quoted or single for quoted, single in _QUOTED.findall(text)]
    made: dict[str, Any] = {}
    for name, kind in schema.get("properties", {}).items():
        needed, wanted = name in required, kind.get("type")
        if kind.get("enum"):
            made[name] = next((each for each in kind["enum"] if str(each).lower() in text.lower()), kind["enum"][0])
        elif wanted in ("integer", "number"):
            if numbers or needed:
                number = numbers.pop(0) if numbers else 1
                made[name] = int(number) if wanted == "integer" else number
        elif needed:
            made[name] = _other(wanted, words, text)
    return made


def _other(wanted: object, words: list[str], text: str) -> Any:
    match wanted:
        case "boolean":
            return True
        case "array":
            return []
        case "object":
            return {}
        case _:
            if words:
                return words.pop(0)
            place = _PLACE.search(text)
            return place[1].strip() if place else text


def _requests_format(message: Mapping[str, Any]) -> bool:
    return any(block.get("text") == _FORMAT for block in message["content"])


def _is_named(name: str, text: str) -> bool:
    """Return whether a question has all words of a tool's name, except small ones."""
    said = set(re.findall(r"[a-z0-9]+", text.lower()))
    words = set(re.findall(r"[a-z0-9]+", name.lower().replace("_", " "))) - _SMALL_WORDS
    return bool(words) and words <= said


def _names(messages: Messages) -> dict[str, str]:
    """Return the names of the called tools, by toolUseId."""
    uses = (block["toolUse"] for message in messages for block in message["content"] if "toolUse" in block)
    return {use["toolUseId"]: use["name"] for use in uses}
