"""The probe of `strandline check`: an agent that reports when it worked on a question, and which conversation it saw.

It keeps nothing in memory, so its answers show what is wrong with a server. Serve it as you serve your own agent:
`make_agent` is a factory of Strands agents; any other framework calls `answer` where it would call a model.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from typing import Any, Final

from strands import Agent
from strands.types.content import Messages

from strandline._scripted.model import ScriptedModel

__all__ = ["answer", "make_agent"]

_MOST_NAMED: Final = 20
"""How many earlier questions an answer names."""
_QUESTION: Final = re.compile(r"probe (\{.*\})")


async def answer(said: Sequence[tuple[str, str]]) -> str:
    """Return the answer to the last of (role, text): when the probe worked on it, and which questions came before.

    Roles are `user` and `assistant`. Raises `ConnectionError` if the question requests a failure, as a broken model
    provider does. A question that `strandline check` did not send gets a sentence that says so.
    """
    begun = time.time()
    questions = [(role, _read(text)) for role, text in said]
    now = questions[-1][1] if questions else None
    if now is None:
        return "I am a probe. `strandline check` knows what to ask me."
    await asyncio.sleep(float(now.get("wait", 0)))
    if now.get("fail"):
        raise ConnectionError("the probe fails on request")
    earlier = [each for role, each in questions[:-1] if role == "user" and each is not None]
    roles = [role for role, _ in said]
    sound = all(role == ("user" if index % 2 == 0 else "assistant") for index, role in enumerate(roles))
    report = {
        "probe": now["label"],
        "begun": begun,
        "ended": time.time(),
        "before": [each["label"] for each in earlier[-_MOST_NAMED:]],
        "foreign": sum(each["session"] != now["session"] for each in earlier),
        "sound": sound,
    }
    return json.dumps(report)


def make_agent(session_id: str) -> Agent:
    """Return the probe of one session."""
    return Agent(model=ScriptedModel(_script), callback_handler=None)


async def _script(messages: Messages) -> str:
    said = [
        (str(message["role"]), "\n".join(block["text"] for block in message["content"] if "text" in block))
        for message in messages
    ]
    return await answer(said)


def _read(text: str) -> dict[str, Any] | None:
    found = _QUESTION.search(text)
    try:
        question = json.loads(found.group(1)) if found else None
    except ValueError:
        return None
    return question if isinstance(question, dict) and {"session", "label"} <= question.keys() else None
