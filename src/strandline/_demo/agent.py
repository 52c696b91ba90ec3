"""The demo's agent: a Strands agent with one tool, on a small local model, a scripted one, or a named one.

`strandline serve strandline._demo.agent` finds `make_agent` here. Which model it gets is decided by the
environment at the time of the call: with `STRANDLINE_DEMO_URL` an OpenAI-compatible server on this machine
(`strandline._demo.local_model` starts one); with a name such as `openai:gpt-4o-mini` in `STRANDLINE_DEMO_MODEL` what
`load_model` makes of it; else a script that needs nothing. The script uses its tool when it is asked to roll dice,
and says how many messages it has got in this session, so that their order can be seen.
"""

import asyncio
import functools
import os
import random
import re
from typing import Final

from strands import Agent, tool
from strands.agent.conversation_manager import NullConversationManager, SlidingWindowConversationManager
from strands.models.model import Model
from strands.types.content import Messages

from strandline._demo.local_model import KEY_VARIABLE, MODEL_VARIABLE, URL_VARIABLE
from strandline._scripted.conversation import PACE_VARIABLE as PACE_VARIABLE
from strandline._scripted.conversation import pace
from strandline._scripted.model import Answer, Script, ScriptedModel, call, question, results, say
from strandline.providers import load_model

SYSTEM_PROMPT: Final = "You are a helpful assistant. Answer in one short sentence."
"""Chosen by trial: with a friendlier prompt the small model loses itself in lists of French places."""
MAX_TOKENS: Final = 200
"""A small model that rambles is cut here: about six seconds on two cores."""
MAX_SIDES: Final = 1000

_ROLL: Final = re.compile(r"\b(?:roll|dice|die|d\d+)\b", re.IGNORECASE)
_SIDES: Final = re.compile(r"\bd(\d+)\b|\b(\d+)[ -]side", re.IGNORECASE)


@tool
def roll_dice(sides: int = 6) -> str:
    """Roll one die and return what it shows.

    Args:
        sides: How many sides the die has, 2 to 1000.
    """
    if not 2 <= sides <= MAX_SIDES:
        raise ValueError(f"no die has {sides} sides")
    return f"{random.randint(1, sides)} on a die with {sides} sides"


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session, on the model that the environment names."""
    url = os.environ.get(URL_VARIABLE)
    window: NullConversationManager | SlidingWindowConversationManager
    if url is None and (named := _named()) is not None:
        model: Model = _loaded(named)
        window = SlidingWindowConversationManager()
    elif url is None:
        model = ScriptedModel(_script(pace()))
        # The script counts all messages, so none may slide out of its window.
        window = NullConversationManager()
    else:
        model = _served_model(url, os.environ.get(KEY_VARIABLE, "none"))
        # 2,048 tokens for each of the model's four conversations: older messages are dropped.
        window = SlidingWindowConversationManager(window_size=8)
    return Agent(
        model=model,
        tools=[roll_dice],
        system_prompt=SYSTEM_PROMPT,
        conversation_manager=window,
        callback_handler=None,
    )


def answer(messages: Messages) -> Answer:
    """Return the scripted model's answer: roll if asked to, else echo; always count."""
    nth = sum(1 for message in messages if message["role"] == "user" and _has_text(message["content"]))
    rolled = results(messages)
    if rolled:
        return f"I rolled {' and '.join(rolled.values())}. That was message {nth} of this session."
    prompt = question(messages)
    if _ROLL.search(prompt):
        return [say("Let me roll. "), call("roll_dice", {"sides": _sides(prompt)})]
    return f"I am a script, and you said: {prompt} That was message {nth} of this session."


def _named() -> str | None:
    """Return the model that the environment names for `load_model`; None if the demo has its own."""
    named = os.environ.get(MODEL_VARIABLE) or "scripted"
    return None if named in ("local", "scripted") else named


@functools.cache
def _loaded(named: str) -> Model:
    """Return a model that may be shared by all sessions."""
    return load_model(named)


def _script(pace_s: float) -> Script:
    async def script(messages: Messages) -> Answer:
        await asyncio.sleep(pace_s)
        return answer(messages)

    return script


def _served_model(url: str, key: str) -> Model:
    # Only here: a script needs no client for a model's server.
    from strandline._demo.served_model import ServedModel

    return ServedModel(
        client_args={"api_key": key, "base_url": url},
        model_id="local",
        params={"max_tokens": MAX_TOKENS, "temperature": 0.2, "frequency_penalty": 0.5},
    )


def _has_text(content: object) -> bool:
    return isinstance(content, list) and any("text" in block for block in content)


def _sides(text: str) -> int:
    found = _SIDES.search(text)
    if found is None:
        return 6
    return min(max(int(found[1] or found[2]), 2), MAX_SIDES)


if (_wanted := _named()) is not None:
    _loaded(_wanted)  # report what is missing at the start, not at the first request
