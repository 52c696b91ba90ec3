"""The agent of the soak: does what its messages say, and has its tools write down what they really did.

Served by `strandline serve soak/target.py`. Its model refuses, as a provider does, a conversation that is malformed.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

from strands import Agent, ToolContext, tool
from strands.hooks import BeforeToolCallEvent, HookOrder
from strands.types.content import Messages

from soak.ledger import VARIABLE, Ledger
from soak.message import OUT_OF_ORDER, answer, as_said, read, request_name, texts_of
from strandline._model import Message
from strandline.testing import Answer, ScriptedModel, call, say
from strandline.testing._checker import check_pairing

MALFORMED: Final = "the conversation is malformed"

ledger: Final = Ledger(
    Path(os.environ[VARIABLE]), parent=os.getppid() if "strandline._workers.__main__" in sys.modules else 0
)

allowed: Final[dict[str, int]] = {}
"""When the server let tools begin that have not begun yet, by their ids."""


async def script(session_id: str, messages: Messages) -> Answer:
    """Do what the last question says, as far as the conversation shows that it has not been done."""
    faults = check_pairing(cast("list[Message]", messages))
    if faults or any(before["role"] == after["role"] for before, after in pairwise(messages)):
        raise ValueError(f"{MALFORMED}: {faults or [message['role'] for message in messages]}")
    request = max(place for place, message in enumerate(messages) if _question(message))
    message = read(_question(messages[request]))
    results = [each for each in messages[request + 1 :] if each["role"] == "user"]
    ledger.write("model", session=session_id, label=message.label)
    turn = message.turns[len(results)]
    await asyncio.sleep(turn.think_ms / 1000)
    if turn.error:
        raise ConnectionError(OUT_OF_ORDER)
    if not turn.calls:
        return answer(message.label, [text for each in results for text in _results(each)])
    return [
        say(f"Round {len(results)}. "),
        *(call(each.tool, {"label": message.label, "ms": each.ms, "place": n}) for n, each in enumerate(turn.calls)),
    ]


def _question(message: Any) -> str:
    if message["role"] != "user":
        return ""
    return "".join(texts_of(message)[0])


def _results(message: Any) -> list[str]:
    parts = [part for block in message["content"] if "toolResult" in block for part in block["toolResult"]["content"]]
    return [part["text"] for part in parts]


@contextmanager
def written(label: str, context: ToolContext) -> Iterator[str]:
    """Write down the beginning and, however it comes, the end of a tool; gives what makes this execution known."""
    state = context.invocation_state
    token = secrets.token_hex(6)
    known: dict[str, Any] = {
        "session": state["session_id"],
        "label": label,
        "run_id": state["run_id"],
        "attempt": state["attempt"],
        "tool_use_id": context.tool_use["toolUseId"],
        "tool": context.tool_use["name"],
        "token": token,
    }
    ledger.write("begin", allowed_ns=allowed.pop(known["tool_use_id"], 0), **known)
    try:
        yield token
    except Exception:
        ledger.write("end", how="raised", **known)
        raise
    except BaseException:
        ledger.write("end", how="cancelled", **known)
        raise
    ledger.write("end", how="done", **known)


def _work(label: str, ms: int, context: ToolContext, *, hears: bool) -> str:
    """Work for `ms` milliseconds; one that `hears` ends early when the run is asked to end."""
    with written(label, context) as token:
        if hears:
            context.cancel_signal.wait(ms / 1000)
        else:
            time.sleep(ms / 1000)
        if context.tool_use["name"] == "fails":
            raise ValueError(f"went wrong {token}")
    return f"did {token}"


async def _work_async(label: str, ms: int, context: ToolContext) -> str:
    with written(label, context) as token:
        await asyncio.sleep(ms / 1000)
        if context.tool_use["name"] == "afails":
            raise ValueError(f"went wrong {token}")
    return f"did {token}"


@tool(context=True)
def work(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do something.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return _work(label, ms, tool_context, hears=True)


@tool(context=True)
def fails(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do something that goes wrong.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return _work(label, ms, tool_context, hears=True)


@tool(context=True)
def again(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do something that may be done again.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return _work(label, ms, tool_context, hears=True)


@tool(context=True)
def stubborn(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do something that cannot be ended early.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return _work(label, ms, tool_context, hears=False)


def _requests_input(label: str, ms: int, place: int, context: ToolContext) -> str:
    """Ask a person, and then do something: whatever is written down comes after the answer."""
    said = context.interrupt(request_name(label, place), reason={"label": label})
    return _work(label, ms, context, hears=True) + as_said(said)


@tool(context=True)
def asks(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do what needs a person's answer.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return _requests_input(label, ms, place, tool_context)


@tool(context=True)
def asksagain(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do what needs a person's answer, and may be done again.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return _requests_input(label, ms, place, tool_context)


@tool(context=True)
async def awork(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do something in async code.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return await _work_async(label, ms, tool_context)


@tool(context=True)
async def afails(label: str, ms: int, place: int, tool_context: ToolContext) -> str:
    """Do something in async code that goes wrong.

    Args:
        label: the run's
        ms: for how long
        place: of the call in its round
        tool_context: given by the agent
    """
    return await _work_async(label, ms, tool_context)


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""

    async def own(messages: Messages) -> Answer:
        return await script(session_id, messages)

    agent = Agent(model=ScriptedModel(own), tools=[work, awork, fails, afails, again, stubborn, asks, asksagain])
    agent.add_hook(note_allowed, BeforeToolCallEvent, order=HookOrder.SDK_LAST + 2000.0)
    return agent


def note_allowed(event: BeforeToolCallEvent) -> None:
    """Note when a tool may begin, after all other hooks: a thread or a process may stand still before it does."""
    allowed[event.tool_use["toolUseId"]] = time.monotonic_ns()
