"""Strands agents: one `strands.Agent` per session, made by the user's factory. What else is served of Strands builds on
this room (`factory`, `multi`, `nodes`, `shared`, `external`); no other imports `strands`.

The agent's own list of messages is the window. What joined the conversation is known by `MessageAddedEvent`, never by
position in that list, since conversation managers rewrite it in the middle of a run. Rounds are staged by hooks: the
model's message before any tool of it starts, each result as its tool ends, the closed round as its results join.
(Facts on which hook sees what: strands-agents 1.62.0, tried by the tests in `tests/unit/test_strands_agent.py`.)
"""

import asyncio
import copy
import inspect
import logging
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast
from weakref import WeakSet

from strands import Agent
from strands.agent.agent_result import AgentResult
from strands.handlers.callback_handler import null_callback_handler
from strands.hooks import (
    AfterToolCallEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
    BeforeToolsEvent,
    HookOrder,
    MessageAddedEvent,
)
from strands.telemetry.metrics import EventLoopMetrics
from strands.types.exceptions import EventLoopException

from strandline.agents.port import Attempt, Finished, RunContext, SessionAgent
from strandline.encoding import decoder, encode, encode_messages
from strandline.errors import AgentFailed
from strandline.history import Progress, pairing_faults, question
from strandline.model import (
    WHOLE_HISTORY,
    AgentRecord,
    Ending,
    ErrorCode,
    Failed,
    Inline,
    Message,
    Range,
    SessionId,
    SessionKey,
    StateRecord,
    Succeeded,
    Window,
)

_log = logging.getLogger("strandline.agents")

CANCELLED_BY_USER = "Cancelled by user"
"""What Strands puts into the conversation in place of a model's answer that was cut off by a cancel."""
TOOL_CANCELLED = "Tool execution cancelled"
"""What Strands gives as the result of a tool that it did not start because of a cancel."""
NOT_STARTED = (
    "This tool was not started: the server was stopped first. Nothing of it was done; call it again if needed."
)
LAST = HookOrder.SDK_LAST + 1000.0
"""Our hooks see what all others have made of an event, those that asked for `SDK_LAST` too."""
_messages = decoder(list[Message])
PACK_LEVEL = 1
"""Fast: packing 20 messages takes some 50 us."""
STATE_FIELDS = ["state", "conversation_manager_state", "model_state"]


class StrandsTarget:
    """A factory `f(session_id) -> Agent` or `f() -> Agent`, sync or async."""

    opaque: bool = False
    exclusive = False
    external: bool = False

    def __init__(self, factory: Callable[..., Any], *, takes_session_id: bool, description: str) -> None:
        self._factory = factory
        self._takes_session_id = takes_session_id
        self._owned: WeakSet[Any] = WeakSet()
        self._said = False
        self.description = description

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Call the factory, sync ones in a thread, and put the session's conversation into what it returns."""
        return StrandsAgent(self._checked(await self._made(key.session_id)), record, progress)

    async def _made(self, session_id: SessionId) -> object:
        """Return what the user's factory returns. Raises `AgentFailed` if it raises."""
        args = (session_id,) if self._takes_session_id else ()
        try:
            if inspect.iscoroutinefunction(self._factory):
                made = await self._factory(*args)
            else:
                made = await asyncio.to_thread(self._factory, *args)
                if inspect.isawaitable(made):
                    made = await made
        except Exception as error:
            raise AgentFailed("the factory failed") from error
        return made

    def _checked(self, made: object) -> Agent:
        """Return an agent that can be served. Raises `AgentFailed` with the reason."""
        if not isinstance(made, Agent):
            raise AgentFailed(
                f"the factory returned {kind_of(made)}, not a strands.Agent: return `Agent(...)`, made anew in each"
                " call"
            )
        self._check_history(made)
        check_agent(made)
        self._own((made, "Agent"), (made.conversation_manager, "conversation manager"))
        self._silence(made)
        return made

    def _check_history(self, agent: Agent) -> None:
        if agent._session_manager is not None:
            raise AgentFailed(
                "the agent has a session manager, but Strandline keeps the history: leave `session_manager=` out, or"
                " have the session manager keep it, with the setting `history=external`"
            )

    def _own(self, *parts: tuple[object, str]) -> None:
        """Note what belongs to a session from now on. Raises `AgentFailed` if a part of it has one already."""
        for part, name in parts:
            if part in self._owned:
                raise AgentFailed(
                    f"the factory returned the same {name} for two sessions, so they would share what is said:"
                    " make it inside the factory, anew in each call"
                )
        self._owned.update(part for part, _ in parts)

    def _silence(self, agent: Agent) -> None:
        """Have an agent print nothing, and say so once."""
        if agent.callback_handler is not null_callback_handler:
            agent.callback_handler = null_callback_handler
            if not self._said:
                self._said = True
                _log.info("callback_handler is set to None: a server has no terminal to print answers to")


def check_agent(agent: Agent) -> None:
    """Raise `AgentFailed`, with the reason, if an agent's way of running is none that a server can give it."""
    if agent._checkpointing:
        raise AgentFailed("the agent is made with `checkpointing=True`, which ends runs in the middle: leave it out")
    if agent._background_tasks is not None:
        raise AgentFailed("the agent has `background_tasks`, which outlive their run: leave them out")


def invocation_state(context: RunContext) -> dict[str, Any]:
    """Return what tools and hooks are told of their run; a dict of its own for each run, since they may write to it."""
    return {
        "run_id": context.run_id,
        "session_id": context.session_id,
        "principal": context.principal,
        "attempt": context.attempt,
        "metadata": context.metadata,
        "workspace": context.workspace,
    }


class StrandsAgent:
    """The agent of one session."""

    def __init__(self, agent: Agent, record: AgentRecord, progress: Progress) -> None:
        self._agent = agent
        self._attempt: Attempt | None = None
        self._length = record.length
        self._window = record.window
        self._origins: dict[int, tuple[Message, object, int]] = {}
        self._packed: tuple[bytes, list[int | None]] | None = None
        primers = copy.deepcopy(agent.messages) if record.window == WHOLE_HISTORY else []
        agent.messages = [*primers, *cast("list[Any]", record.messages), *cast("list[Any]", progress.to_go_on())]
        for message, origin in zip(record.messages, record.origins, strict=True):
            if origin is not None:
                self._remember(message, origin)
        state = progress.state or record.state
        self._state = encode(record.state)
        if state is not None:
            _restore(agent, state)
        agent.add_hook(self._on_message, MessageAddedEvent, order=LAST)
        agent.add_hook(self._before_model, BeforeModelCallEvent, order=LAST)
        agent.add_hook(self._before_tools, BeforeToolsEvent, order=LAST)
        agent.add_hook(self._before_tool, BeforeToolCallEvent, order=LAST)
        agent.add_hook(self._after_tool, AfterToolCallEvent, order=LAST)

    async def run(self, attempt: Attempt) -> Finished:
        """Run the agent to its end."""
        agent = self._agent
        self._unpack()
        prompt = None if attempt.prompt is None else question(attempt.prompt)["content"]
        result: AgentResult | None = None
        self._attempt = attempt
        try:
            stream = agent.stream_async(
                cast(Any, prompt),
                invocation_state=invocation_state(attempt.context),
                cancel_signal=cast(threading.Event, attempt.signal),
            )
            async with aclosing(cast(Any, stream)) as events:
                async for event in events:
                    if "data" in event:
                        attempt.add_text(event["data"])
                    elif "result" in event:
                        result = event["result"]
        except EventLoopException as error:
            raise AgentFailed("the agent failed") from error.original_exception
        finally:
            self._attempt = None
        assert result is not None, "stream_async ended without a result"
        invocation = result.metrics.latest_agent_invocation
        usage = None if invocation is None else whole_numbers(dict(invocation.usage))
        agent.event_loop_metrics = EventLoopMetrics()  # else it grows by every message ever said
        ending = _ending(result, cancelled=attempt.signal.is_set())
        if not isinstance(ending, Succeeded):
            return Finished(ending=ending, usage=usage)
        window = self._changed_window(attempt.messages)
        state = self._changed_state()
        if window is not None and (faults := _window_faults(window, cast("list[Message]", agent.messages))):
            _log.warning("the agent's conversation is not one that a provider accepts (%s); rebuilt", "; ".join(faults))
            return Finished(ending=ending, usage=usage, state=state, keep=False)
        return Finished(ending=ending, usage=usage, window=window, state=state)

    def rest(self) -> None:
        """Keep the conversation as bytes: a tenth of what its dictionaries take."""
        if self._packed is None:
            messages = cast("list[Message]", self._agent.messages)
            indices = [self._index_of(message) for message in messages]
            self._packed = zlib.compress(encode_messages(messages), PACK_LEVEL), indices
            self._agent.messages = []
            self._origins = {}

    def _unpack(self) -> None:
        if self._packed is None:
            return
        (encoded, indices), self._packed = self._packed, None
        messages = _messages(zlib.decompress(encoded))
        self._agent.messages = cast("list[Any]", messages)
        for message, index in zip(messages, indices, strict=True):
            if index is not None:
                self._remember(message, index)

    # -- hooks -------------------------------------------------------------------------------------

    async def _on_message(self, event: MessageAddedEvent[Any]) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        message = cast(Message, event.message)
        if attempt.signal.is_set() and message["content"] == [{"text": CANCELLED_BY_USER}]:
            return
        if attempt.signal.is_set():
            message = _told_not_started(message)
        attempt.add(message)
        if message["role"] == "user" and any("toolResult" in block for block in message["content"]):
            await attempt.end_round(_state_of(self._agent))

    def _before_model(self, event: BeforeModelCallEvent) -> None:
        if (attempt := self._attempt) is not None:
            attempt.reset_text()
            attempt.enter("model")

    async def _before_tools(self, event: BeforeToolsEvent) -> None:
        if (attempt := self._attempt) is not None:
            await attempt.begin_round()

    def _before_tool(self, event: BeforeToolCallEvent[Any]) -> None:
        if (attempt := self._attempt) is not None:
            attempt.enter(f"tool {event.tool_use['name']}")

    async def _after_tool(self, event: AfterToolCallEvent[Any]) -> None:
        if (attempt := self._attempt) is not None and not event.retry:
            await attempt.end_tool(str(event.tool_use["toolUseId"]), cast("dict[str, Any]", event.result))

    # -- window and state --------------------------------------------------------------------------

    def _remember(self, message: Message, index: int) -> None:
        self._origins[id(message)] = (message, message["content"], index)

    def _changed_window(self, added: Sequence[Message]) -> Window | None:
        """Return the agent's messages as ranges of history, None if they are what they were, grown at the end.

        A message counts as the one of history only while it and its list of blocks are the same objects: managers
        that shorten a message put a new list into it.
        """
        for offset, message in enumerate(added):
            self._remember(message, self._length + offset)
        self._length += len(added)
        messages = cast("list[Message]", self._agent.messages)
        changed = _spans(messages, [self._index_of(message) for message in messages], self._length)
        if len(self._origins) > len(messages) + 8:
            kept = {id(message) for message in messages}
            self._origins = {key: origin for key, origin in self._origins.items() if key in kept}
        if changed == self._window:
            return None
        self._window = changed
        return changed

    def _index_of(self, message: Message) -> int | None:
        """Return the history index of a message, None if it is not in history as it is."""
        origin = self._origins.get(id(message))
        if origin is None or origin[0] is not message or origin[1] is not message["content"]:
            return None
        return origin[2]

    def _changed_state(self) -> StateRecord | None:
        state = _state_of(self._agent)
        encoded = encode(state)
        if encoded == self._state:
            return None
        self._state = encoded
        return state


def _spans(messages: Sequence[Message], indices: Sequence[int | None], length: int) -> Window:
    """Return messages at these indices of a history of `length` as a window that is open at its end."""
    window: list[Range | Inline] = []
    start: int | None = None
    end = 0
    for message, index in zip(messages, indices, strict=True):
        if start is not None:
            if index == end:
                end += 1
                continue
            window.append(Range(start, end))
        start = index
        if index is None:
            window.append(Inline(message))
        else:
            end = index + 1
    if start is not None and end < length:
        window.append(Range(start, end))
        start = None
    window.append(Range(length if start is None else start, None))
    return tuple(window)


def _window_faults(window: Window, messages: Sequence[Message]) -> list[str]:
    """Return what breaks the pairing in a changed window; history itself is well formed, so a mere end of it can only
    begin wrong."""
    if len(window) == 1 and isinstance(window[0], Range):
        return pairing_faults(messages[:1]) if messages and not _asks(messages[0]) else []
    return pairing_faults(messages)


def _asks(message: Message) -> bool:
    return any("toolUse" in block for block in message["content"])


def _told_not_started(message: Message) -> Message:
    """Say of tools that Strands did not start because of a cancel that nothing of them was done: the model of the
    run that goes on later can call them again."""
    content = [
        {"toolResult": {**block["toolResult"], "content": [{"text": NOT_STARTED}]}}
        if "toolResult" in block and block["toolResult"].get("content") == [{"text": TOOL_CANCELLED}]
        else block
        for block in message["content"]
    ]
    return message if content == message["content"] else {**message, "content": content}


def whole_numbers(usage: Mapping[str, object]) -> dict[str, int]:
    """Return the counts of a usage record; models of users' own may put anything into it."""
    return {str(name): int(count) for name, count in usage.items() if isinstance(count, int | float) and count < 2**53}


def _ending(result: AgentResult, *, cancelled: bool) -> Ending:
    """Return how a run ended that returned. A cancel that nobody asked for is the agent's own way to stop."""
    if result.stop_reason == "interrupt":
        names = ", ".join(interrupt.name for interrupt in result.interrupts or ())
        return Failed(
            ErrorCode.AGENT_ERROR,
            f"the agent asked for input ({names}), but input requests cannot be answered here yet",
        )
    if cancelled and result.stop_reason == "cancelled":
        return Failed(ErrorCode.STOPPED, "the run was cancelled")
    if result.structured_output is not None:
        return Succeeded(text=result.structured_output.model_dump_json())
    return Succeeded(limit=str(result.stop_reason).startswith("limit_"))


def _state_of(agent: Agent) -> StateRecord:
    """Return what a snapshot of these fields has, without the snapshot: it is taken after every run."""
    state = {"state": agent.state.get(), "conversation_manager_state": agent.conversation_manager.get_state()}
    if agent.model.stateful:
        state |= agent.take_snapshot(include=["model_state"]).data
    return state


def _restore(agent: Agent, state: StateRecord) -> None:
    snapshot = agent.take_snapshot(include=cast(Any, STATE_FIELDS))
    snapshot.data = copy.deepcopy(state)
    agent.load_snapshot(snapshot)


def kind_of(thing: object) -> str:
    """Return what a thing is, for people."""
    if thing is None:
        return "None"
    return f"an object of type {type(thing).__module__}.{type(thing).__qualname__}"
