"""An agent that can be steered: it says in its answer what it has heard, and every step of it is a checkpoint.

`plan LABEL a b` has a round of one tool for each further word, then the answer `LABEL: HEARD; HEARD`, of all that was
said meanwhile. A run with any other text answers `alone: TEXT`. Checkpoints: `LABEL model N` before the model's call N
(from 0) is answered, `LABEL NAME` inside a tool, `LABEL NAME ended` once its result was handed over, `alone TEXT`.
"""

import asyncio
import math
from itertools import pairwise
from typing import cast

from strands import Agent, tool
from strands.hooks import AfterToolCallEvent
from strands.types.content import Messages

from acceptance.checkpoints import pass_step
from strandline._history import SAID_MEANWHILE
from strandline._model import Message
from strandline.testing import Answer, ScriptedModel, call, say
from strandline.testing._checker import check_pairing


async def script(messages: Messages) -> Answer:
    """Do what the plan of the last run says, and refuse a conversation that a provider would refuse."""
    faults = check_pairing(cast("list[Message]", messages))
    if faults or any(before["role"] == after["role"] for before, after in pairwise(messages)):
        raise ValueError(f"the conversation is malformed: {faults or [message['role'] for message in messages]}")
    users = [message["content"] for message in messages if message["role"] == "user"]
    begin = max(at for at, content in enumerate(users) if not any("toolResult" in block for block in content))
    texts = [block["text"] for content in users[begin:] for block in content if "text" in block]
    first, *others = texts
    heard = [text for text in others if text != SAID_MEANWHILE]
    if not first.startswith("plan "):
        await asyncio.to_thread(pass_step, f"alone {first}")
        return f"alone: {'; '.join([first, *heard])}"
    _, label, *rounds = first.split()
    done = len(users) - begin - 1
    await asyncio.to_thread(pass_step, f"{label} model {done}")
    if done == len(rounds):
        return f"{label}: {'; '.join(heard)}"
    return [say(f"Round {done}. "), call("work", {"label": label, "name": rounds[done]})]


@tool
def work(label: str, name: str) -> str:
    """Do something that can be seen from outside.

    Args:
        label: the plan's
        name: what to do
    """
    pass_step(f"{label} {name}")
    if name == "!":
        raise SystemExit
    return f"did {name}"


async def ended(event: AfterToolCallEvent) -> None:
    """Report that a tool's result was passed to the server."""
    arguments = event.tool_use["input"]
    await asyncio.to_thread(pass_step, f"{arguments['label']} {arguments['name']} ended")


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    agent = Agent(model=ScriptedModel(script), tools=[work])
    agent.add_hook(ended, AfterToolCallEvent, order=math.inf)  # after the server's own
    return agent
