"""The guard of every Strands agent that works for a run: no round may go on that a tool has broken off.

Strands runs tools, and the nodes of a Graph, in tasks of their own. One that ends by `SystemExit` or another
`BaseException` leaves no result and no error: the model is called again with nothing, may ask for the same tool again,
and in the end the run looks like a good one. A run's own agent, a sub-agent, a node and an agent that a tool makes are
the same here: whatever is streamed while a run is current has the guard, so it is put where all of them pass, in
`Agent.stream_async`. Agents that work for no run are as Strands has them.
(strands-agents 1.62.0, tried by `tests/unit/test_rounds.py`.)
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, cast
from weakref import WeakSet

from strands import Agent
from strands.hooks import BeforeModelCallEvent, HookOrder, HookRegistry, MessageAddedEvent
from strands.middleware import ExecuteToolContext, ExecuteToolStage

from strandline._agents.abnormal_exit import CURRENT, AbnormalExit
from strandline._compat.strands import original_stream, patch_stream, skip_unrecorded_spans
from strandline._model import Message
from strandline.errors import AgentFailed

FIRST: Final = HookOrder.SDK_FIRST - 2000.0
NEARLY_LAST: Final = HookOrder.SDK_LAST + 500.0
"""After session managers, which keep the results that there are, and before what reports that a round is closed."""
_guarded: WeakSet[HookRegistry] = WeakSet()


def guard_all() -> None:
    """Have every agent guarded that works for a run from now on, whoever makes it and when."""
    patch_stream(_stream_async)
    skip_unrecorded_spans()


def guard(agent: Agent) -> None:
    """Have an agent stop where a round of the run that it works for was broken off."""
    if agent.hooks not in _guarded:
        _guarded.add(agent.hooks)
        agent.add_hook(_on_message, MessageAddedEvent, order=NEARLY_LAST)
        agent.add_hook(_before_model, BeforeModelCallEvent, order=FIRST)
        agent.add_middleware(ExecuteToolStage, _on_tool)


def _stream_async(agent: Agent, *args: Any, **options: Any) -> AsyncIterator[Any]:
    events = original_stream(agent, *args, **options)
    broken = CURRENT.get()
    if broken is None:
        return events
    guard(agent)
    return _noticing(agent, cast(Any, events), broken)


async def _noticing(agent: Agent, events: Any, broken: AbnormalExit) -> AsyncIterator[Any]:
    """Yield events, and note it if they end by what no `except Exception` sees: the task that asks may be lost."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except BaseException as error:
        if _breaks_off(error):
            cancelled = isinstance(error, asyncio.CancelledError)
            did = "cancelled its own task" if cancelled else f"tried to end the process ({error!r})"
            broken.tell(f"code of agent {agent.name!r} {did}")
        raise


async def _on_tool(context: ExecuteToolContext, go_on: Any) -> AsyncGenerator[Any, None]:
    """Execute a tool, and note it if that ends so: a round in which another tool asks a person is not closed yet.

    What code calls by itself, and no model has asked for, is left to that code.
    """
    try:
        async for event in go_on(context):
            yield event
    except BaseException as error:
        broken, use = CURRENT.get(), context.tool_use
        if broken is not None and _breaks_off(error) and _is_asked_for(use["toolUseId"], context.agent):
            broken.tell(_told([use["name"]]))
        raise


def _breaks_off(error: BaseException) -> bool:
    """Return whether this ends a task so that nobody hears of it. A cancel that somebody has asked for does not."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return not isinstance(error, Exception | GeneratorExit)


def _is_asked_for(tool_use_id: str, agent: object) -> bool:
    """Return whether a model's last message asks for this tool."""
    messages = cast("list[Message]", cast(Agent, agent).messages)
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    blocks = [] if last is None else last["content"]
    return any(block["toolUse"].get("toolUseId") == tool_use_id for block in blocks if "toolUse" in block)


def _told(names: list[str]) -> str:
    return f"a tool tried to end the process, and left no result ({', '.join(names)})"


async def _on_message(event: MessageAddedEvent[Any]) -> None:
    """Refuse to close a round of which results are missing."""
    broken = CURRENT.get()
    if broken is not None and (left := _left_without_result(event.agent.messages, cast(Message, event.message))):
        broken.tell(_told(left))
        raise AgentFailed(broken.told)


async def _before_model(event: BeforeModelCallEvent) -> None:
    """Ask no model any more for a run that cannot end well."""
    broken = CURRENT.get()
    if broken is not None and broken.told is not None:
        raise AgentFailed(broken.told)


def _left_without_result(messages: list[Message], added: Message) -> list[str]:
    """Return the names of the tools whose results are missing in a message that was added, where they belong."""
    before = next((messages[at - 1] for at in range(len(messages) - 1, 0, -1) if messages[at] is added), None)
    if before is None or before["role"] != "assistant" or added["role"] != "user":
        return []
    given = {block["toolResult"].get("toolUseId") for block in added["content"] if "toolResult" in block}
    asked = [block["toolUse"] for block in before["content"] if "toolUse" in block]
    return [str(use.get("name")) for use in asked if use.get("toolUseId") not in given]
