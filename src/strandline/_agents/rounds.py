"""Guards every Strands agent that works for a run: a round without all its results fails the run.

Strands runs tools, and the nodes of a Graph, in tasks of their own. A `SystemExit` or another `BaseException` there
leaves no result and no error: the model is called again without the result, may request the same tool again, and in the
end the run looks successful. The guard sits in `Agent.stream_async`, so that it covers a run's own agent, sub-agents,
nodes and agents that tools make. Agents outside of a run are not guarded.
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
from strandline._agents.files import as_messages, show_files
from strandline._compat.strands import original_stream, patch_stream, skip_unrecorded_spans
from strandline._files.blocks import has_files
from strandline._model import Message
from strandline.errors import AgentFailed

FIRST: Final = HookOrder.SDK_FIRST - 2000.0
NEARLY_LAST: Final = HookOrder.SDK_LAST + 500.0
"""After session managers, which store the existing results, and before the hook that reports the closed round."""
_guarded: WeakSet[HookRegistry] = WeakSet()


def guard_all() -> None:
    """Guard every agent that works for a run from now on."""
    patch_stream(_stream_async)
    skip_unrecorded_spans()


def guard(agent: Agent) -> None:
    """Make an agent raise if a round of its run lacks results."""
    if agent.hooks not in _guarded:
        _guarded.add(agent.hooks)
        agent.add_hook(_on_message, MessageAddedEvent, order=NEARLY_LAST)
        agent.add_hook(_before_model, BeforeModelCallEvent, order=FIRST)
        agent.add_middleware(ExecuteToolStage, _on_tool)


def _stream_async(agent: Agent, *args: Any, **options: Any) -> AsyncIterator[Any]:
    exits = CURRENT.get()
    if exits is None:
        return original_stream(agent, *args, **options)
    if exits.files is not None:
        args, options = as_messages(args, options)
    events = original_stream(agent, *args, **options)
    guard(agent)
    return _watched(agent, cast(Any, events), exits)


async def _watched(agent: Agent, events: Any, exits: AbnormalExit) -> AsyncIterator[Any]:
    """Yield events, and record an end that no `except Exception` catches."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except BaseException as error:
        if _breaks_off(error):
            cancelled = isinstance(error, asyncio.CancelledError)
            did = "cancelled its own task" if cancelled else f"tried to end the process ({error!r})"
            exits.note(f"code of agent {agent.name!r} {did}")
        raise


async def _on_tool(context: ExecuteToolContext, run_tool: Any) -> AsyncGenerator[Any, None]:
    """Execute a tool, and record an abnormal exit at once: a round that waits for a person is not closed yet.

    Tools that user code calls directly, without a model's request, are not watched.
    """
    try:
        async for event in run_tool(context):
            yield event
    except BaseException as error:
        exits, use = CURRENT.get(), context.tool_use
        if exits is not None and _breaks_off(error) and _is_requested(use["toolUseId"], context.agent):
            exits.note(_reason([use["name"]]))
        raise


def _breaks_off(error: BaseException) -> bool:
    """Return whether the error ends a task silently. A requested cancel does not."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return not isinstance(error, Exception | GeneratorExit)


def _is_requested(tool_use_id: str, agent: object) -> bool:
    """Return whether the model's last message requests this tool."""
    messages = cast("list[Message]", cast(Agent, agent).messages)
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    blocks = [] if last is None else last["content"]
    return any(block["toolUse"].get("toolUseId") == tool_use_id for block in blocks if "toolUse" in block)


def _reason(names: list[str]) -> str:
    return f"a tool tried to end the process, and left no result ({', '.join(names)})"


async def _on_message(event: MessageAddedEvent[Any]) -> None:
    """Raise if results of the round are missing."""
    exits = CURRENT.get()
    if exits is not None and (missing := _missing_results(event.agent.messages, cast(Message, event.message))):
        exits.note(_reason(missing))
        raise AgentFailed(exits.reason)


async def _before_model(event: BeforeModelCallEvent) -> None:
    """Raise if the run cannot succeed any more. A model that is to see files gets them; what waits is read again."""
    exits = CURRENT.get()
    if exits is not None and exits.reason is not None:
        raise AgentFailed(exits.reason)
    if exits is not None and has_files(event.agent.messages):
        show_files(event.agent.model)
    if exits is not None and exits.waiting is not None:
        await exits.waiting.refresh()


def _missing_results(messages: list[Message], added: Message) -> list[str]:
    """Return the names of the tools whose results are missing in an added message of results."""
    before = next((messages[at - 1] for at in range(len(messages) - 1, 0, -1) if messages[at] is added), None)
    if before is None or before["role"] != "assistant" or added["role"] != "user":
        return []
    given = {block["toolResult"].get("toolUseId") for block in added["content"] if "toolResult" in block}
    uses = [block["toolUse"] for block in before["content"] if "toolUse" in block]
    return [str(use.get("name")) for use in uses if use.get("toolUseId") not in given]
