"""The agent of most tests: what it does is written in the question, and every step of it is a checkpoint.

The first word of a question is its label; each further word is a round of tool calls, after which comes the answer
`LABEL: RESULT, RESULT, ...`. A word names one tool call, or several with `+` between them, all at once. A name that
begins with `~` is an async tool, with `~^` one that kills the server's process, with `!` one that raises, with `?`
one that ends when it is asked to, with `@` one that asks a person first; the word `fail` makes the model fail instead.

    "q1"            -> "q1"
    "q1 a ~b+c"     -> uses a, then ~b and c in parallel, then answers "q1: did a, did ~b, did c"
    "q1 a fail"     -> uses a, then the model fails

Checkpoints: `LABEL model N` before the model's call N (from 0), `LABEL model N asks` when it has requested tools and
the server does not know yet, `LABEL NAME` inside a tool, `LABEL NAME ended` once its result was handed over.
"""

import asyncio
import math
import os
import signal
import sys
from itertools import pairwise
from typing import cast

from strands import Agent, ToolContext, tool
from strands.hooks import AfterToolCallEvent, BeforeToolsEvent
from strands.types.content import Messages

from acceptance.checkpoints import pass_step
from strandline._model import Message
from strandline.testing import Answer, ScriptedModel, call, say
from strandline.testing._checker import check_pairing


async def script(messages: Messages) -> Answer:
    """Do what the last question says, as far as the conversation shows that it has not been done.

    Refuses, as a provider does, a conversation in which roles do not take turns or tools are left without a result.
    """
    faults = check_pairing(cast("list[Message]", messages))
    if faults or any(before["role"] == after["role"] for before, after in pairwise(messages)):
        raise ValueError(f"the conversation is malformed: {faults or [message['role'] for message in messages]}")
    last_text = max(number for number, message in enumerate(messages) if _texts_of(messages, number))
    texts = _texts_of(messages, last_text)
    label, *rounds = texts[-1].split()
    users = [message for message in messages[last_text + 1 :] if message["role"] == "user"]
    await asyncio.to_thread(pass_step, f"{label} model {len(users)}")
    if len(users) == len(rounds):
        results = [part["text"] for message in users for part in _results_of(message["content"])]
        return f"{label}: {', '.join(results)}" if results else label
    names = rounds[len(users)]
    if names == "fail":
        raise ConnectionError("the provider is out of order")
    return [
        say(f"Round {len(users)}. "),
        *(
            call("work_async" if name.startswith("~") else "work", {"label": label, "name": name})
            for name in names.split("+")
        ),
    ]


def _texts_of(messages: Messages, number: int) -> list[str]:
    message = messages[number]
    return [block["text"] for block in message["content"] if message["role"] == "user" and "text" in block]


def _results_of(content: object) -> list[dict[str, str]]:
    assert isinstance(content, list)
    return [part for block in content if "toolResult" in block for part in block["toolResult"]["content"]]


@tool(context=True)
def work(label: str, name: str, tool_context: ToolContext) -> str:
    """Do something that can be seen from outside.

    Args:
        label: the question's
        name: what to do
        tool_context: given by the agent
    """
    pass_step(f"{label} {name}")
    if name.startswith("!"):
        raise ValueError(f"{name} went wrong")
    if name.startswith("?"):
        tool_context.cancel_signal.wait()
    if name.startswith("@"):
        answer = tool_context.interrupt(name, reason=f"may I, {label}?")
        pass_step(f"{label} {name} answered {answer}")
        return f"did {name} ({answer})"
    return f"did {name}"


@tool
async def work_async(label: str, name: str) -> str:
    """Do something that can be seen from outside, in async code.

    Args:
        label: the question's
        name: what to do
    """
    if name.startswith("~^"):
        in_worker = "strandline._workers.runtime" in sys.modules
        os.kill(os.getppid() if in_worker else os.getpid(), signal.SIGKILL)
    await asyncio.to_thread(pass_step, f"{label} {name}")
    return f"did {name}"


async def before_tools(event: BeforeToolsEvent) -> None:
    """Report that the model has requested tools."""
    uses = [block["toolUse"] for block in event.message["content"] if "toolUse" in block]
    number = next(block["text"] for block in event.message["content"] if "text" in block).split()[1].rstrip(".")
    await asyncio.to_thread(pass_step, f"{uses[0]['input']['label']} model {number} asks")


async def ended(event: AfterToolCallEvent) -> None:
    """Report that a tool's result was passed to the server."""
    arguments = event.tool_use["input"]
    await asyncio.to_thread(pass_step, f"{arguments['label']} {arguments['name']} ended")


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    agent = Agent(model=ScriptedModel(script), tools=[work, work_async])
    agent.add_hook(before_tools, BeforeToolsEvent, order=-math.inf)  # before the server's own
    agent.add_hook(ended, AfterToolCallEvent, order=math.inf)  # after the server's own
    return agent
