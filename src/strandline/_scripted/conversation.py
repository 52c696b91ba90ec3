"""A scripted model that anybody can talk to: it repeats what was said, counts, and calls the tools that are named.

It stands in for a real model while there is none: whoever sees its answers sees the order of the messages and what a
tool call looks like. What it says follows from the conversation and the tools alone.
"""

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from strands.types.content import Messages

from strandline._scripted.model import Answer, ScriptedModel, call, question, results, say
from strandline.errors import SettingsError

PACE_VARIABLE: Final = "STRANDLINE_DEMO_PACE"
"""How many seconds the script thinks before each of its answers."""
DEFAULT_PACE_S: Final = 1.0
"""As slow as a model, so that a person sees how requests wait for each other."""

_NUMBER: Final = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_QUOTED: Final = re.compile(r"[\"“]([^\"”]+)[\"”]|(?<!\w)'([^']+)'(?!\w)")
_PLACE: Final = re.compile(r"\b(?:in|for|at|of|about|to|on|from)\s+((?:[\w'-]+\s*){1,4}?)[?.!,]*$", re.IGNORECASE)
_SMALL_WORDS: Final = frozenset({"a", "get", "the", "tool"})


class ConversationModel(ScriptedModel):
    """A `ScriptedModel` that sees the agent's tools and talks about them."""

    def __init__(self, *, pace_s: float | None = None) -> None:
        super().__init__(lambda messages: reply(messages, ()))
        self._pace_s = pace() if pace_s is None else pace_s

    async def _answer(self, messages: Messages, tool_specs: object) -> Answer:
        await asyncio.sleep(self._pace_s)
        return reply(messages, tool_specs if isinstance(tool_specs, list) else ())


def pace() -> float:
    """Return how long a script thinks, from the environment. Raises `SettingsError` if that is no number."""
    text = os.environ.get(PACE_VARIABLE) or str(DEFAULT_PACE_S)
    if not re.fullmatch(r"\d{1,3}(\.\d*)?|\.\d+", text):
        raise SettingsError(f"{PACE_VARIABLE} is {text!r}; it must be a number of seconds, such as 0.5")
    return float(text)


def nth(messages: Messages) -> int:
    """Return how many messages the person has sent so far."""
    return sum(
        1 for message in messages if message["role"] == "user" and any("text" in each for each in message["content"])
    )


def reply(messages: Messages, tools: Sequence[Mapping[str, Any]]) -> Answer:
    """Return what the script says next to this conversation, with these tools at hand."""
    count = f"That was message {nth(messages)} of this session."
    returned = results(messages)
    if returned:
        names = _names(messages)
        told = "; ".join(f"{names.get(key, 'a tool')} returned {value}" for key, value in returned.items())
        return f"{told}. {count}"
    asked = question(messages)
    for tool in tools:
        if _is_named(str(tool["name"]), asked):
            return [say(f"Let me call {tool['name']}. "), call(str(tool["name"]), arguments(tool, asked))]
    hint = f" Say the name of a tool and I call it: {', '.join(str(tool['name']) for tool in tools)}." if tools else ""
    said = asked if asked.rstrip().endswith((".", "?", "!")) else f"{asked}."
    return f"I am a script. You said: {said} {count}{hint}"


def arguments(tool: Mapping[str, Any], asked: str) -> dict[str, Any]:
    """Return arguments for a tool, made of the numbers and words of a question as its schema wants them."""
    schema = tool.get("inputSchema", {}).get("json", {})
    required = schema.get("required", ())
    numbers = [json.loads(found) for found in _NUMBER.findall(asked)]
    words = [quoted or single for quoted, single in _QUOTED.findall(asked)]
    made: dict[str, Any] = {}
    for name, kind in schema.get("properties", {}).items():
        needed, wanted = name in required, kind.get("type")
        if kind.get("enum"):
            made[name] = next((each for each in kind["enum"] if str(each).lower() in asked.lower()), kind["enum"][0])
        elif wanted in ("integer", "number"):
            if numbers or needed:
                number = numbers.pop(0) if numbers else 1
                made[name] = int(number) if wanted == "integer" else number
        elif needed:
            made[name] = _other(wanted, words, asked)
    return made


def _other(wanted: object, words: list[str], asked: str) -> Any:
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
            place = _PLACE.search(asked)
            return place[1].strip() if place else asked


def _is_named(name: str, asked: str) -> bool:
    """Return whether a question has all words of a tool's name, without those that say nothing."""
    said = set(re.findall(r"[a-z0-9]+", asked.lower()))
    words = set(re.findall(r"[a-z0-9]+", name.lower().replace("_", " "))) - _SMALL_WORDS
    return bool(words) and words <= said


def _names(messages: Messages) -> dict[str, str]:
    """Return the names of the tools that were called, by toolUseId."""
    uses = (block["toolUse"] for message in messages for block in message["content"] if "toolUse" in block)
    return {use["toolUseId"]: use["name"] for use in uses}
