"""The agent of the race: it books seats with a tool that takes a moment, and writes a ledger of its actions.

Its model is a script. Like Amazon Bedrock, from which Strands gets its models by default, it refuses a conversation
whose roles do not alternate or whose tool calls lack a result. It answers first when the gate of its session is open,
so that all requests have arrived, however slow the machine is.
"""

import asyncio
import os
import re
import time
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Final, cast

from strands import Agent, tool
from strands.hooks import AfterInvocationEvent, BeforeInvocationEvent
from strands.types.agent import ConcurrentInvocationMode
from strands.types.content import Messages

from strandline._demo.race import ledger
from strandline._model import Message
from strandline.testing import Answer, Script, ScriptedModel, call, question, results, say
from strandline.testing._checker import check_pairing

THINKS_S: Final = 0.15
BOOKS_S: Final = 0.25
GATE_S: Final = 60.0
FAILS: Final = "(the model will fail)"
"""With these words the model's provider fails after the tool has booked."""

KILLED: Final = "(the server will be killed)"
"""With these words the tool executes until the server is killed."""
PROVIDER_FAILED: Final = "the model's provider does not answer"

_SEAT: Final = re.compile(r"\bseat (\d+)", re.IGNORECASE)
_INVOCATION: Final = "invocation"


class Refused(Exception):
    """A provider refuses a conversation."""


def ask(seat: int, besides: str = "") -> str:
    """Return the question that books a seat; `besides` is `FAILS` or `KILLED`."""
    return f"Book seat {seat}, please. {besides}".rstrip()


def seat_of(text: str) -> int:
    """Return the first seat that a text names, 0 for none."""
    found = _SEAT.search(text)
    return int(found[1]) if found else 0


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return _make(session_id, ConcurrentInvocationMode.THROW)


def make_reentrant_agent(session_id: str) -> Agent:
    """Make an agent that allows concurrent calls; by default Strands refuses all but one."""
    return _make(session_id, ConcurrentInvocationMode.UNSAFE_REENTRANT)


def _make(session_id: str, mode: ConcurrentInvocationMode) -> Agent:
    folder = Path(os.environ[ledger.FOLDER_VARIABLE])

    @tool
    def book(seat: int, slowly: bool = False) -> str:
        """Book a seat.

        Args:
            seat: its number
            slowly: whether to execute until the server is killed
        """
        ledger.write(folder, session_id, "tool", seat)
        deadline = time.monotonic() + (GATE_S if slowly else BOOKS_S)
        while (left := deadline - time.monotonic()) > 0 and not (slowly and ledger.killed(folder).exists()):
            time.sleep(min(left, 0.02) if slowly else left)
        return f"seat {seat} is booked"

    def begun(event: BeforeInvocationEvent) -> None:
        event.invocation_state[_INVOCATION] = (
            uuid.uuid4().hex,
            seat_of(question(event.messages or event.agent.messages)),
        )
        invocation, seat = event.invocation_state[_INVOCATION]
        ledger.write(folder, session_id, "begun", seat, invocation)

    def ended(event: AfterInvocationEvent) -> None:
        invocation, seat = event.invocation_state[_INVOCATION]
        ledger.write(folder, session_id, "failed" if event.result is None else "ended", seat, invocation)

    agent = Agent(
        model=ScriptedModel(_script(ledger.gate(folder, session_id))),
        tools=[book],
        callback_handler=None,
        concurrent_invocation_mode=mode,
    )
    agent.add_hook(begun, BeforeInvocationEvent)
    agent.add_hook(ended, AfterInvocationEvent)
    return agent


def _script(gate: Path) -> Script:
    async def script(messages: Messages) -> Answer:
        async with asyncio.timeout(GATE_S):
            while not gate.exists():  # noqa: ASYNC110, ASYNC240  # another process makes it
                await asyncio.sleep(0.005)
        refusal = refuse(messages)
        await asyncio.sleep(THINKS_S)
        if refusal is not None:
            raise Refused(refusal)
        prompt, tool_results = question(messages), results(messages)
        if not tool_results:
            return [say("Let me book it. "), call("book", {"seat": seat_of(prompt), "slowly": KILLED in prompt})]
        if FAILS in prompt:
            raise ConnectionError(PROVIDER_FAILED)
        return f"Seat {seat_of(prompt)} is yours."

    return script


def refuse(messages: Messages) -> str | None:
    """Return why a strict provider refuses this conversation, or None."""
    faults = check_pairing(cast("list[Message]", messages))
    if faults:
        return f"a tool call lacks its result: {faults[0]}"
    if any(before["role"] == after["role"] for before, after in pairwise(messages)):
        return "roles must alternate between user and assistant"
    return None
