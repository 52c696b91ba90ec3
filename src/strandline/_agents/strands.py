"""Strands agents: one `strands.Agent` per session, made by the user's factory.

The agent's own list of messages is the window; `window.py` knows where in history they stand, `strands_hooks.py`
reports what goes on, `rounds.py` has no round go on that was broken off. What else is served of Strands builds on this
room: `factory` (which kind does a factory make), `multi`, `nodes`, `shared`, `self_managed`. No other room imports
`strands`.
"""

import asyncio
import copy
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, cast
from weakref import WeakSet

from msgspec.structs import replace
from strands import Agent
from strands.agent.agent_result import AgentResult
from strands.handlers.callback_handler import null_callback_handler
from strands.telemetry.metrics import EventLoopMetrics
from strands.types.exceptions import EventLoopException

from strandline._agents.abnormal_exit import AbnormalExit, watch_exits
from strandline._agents.parameters import Parameters
from strandline._agents.port import Attempt, Finished, RunContext, SessionAgent
from strandline._agents.rounds import guard_all
from strandline._agents.strands_hooks import Reports
from strandline._agents.window import Origins, Packed, window_faults
from strandline._compat.strands import (
    clear_interrupt,
    has_background_tasks,
    has_session_manager,
    interrupted_round,
    is_checkpointing,
    load,
    restore_interrupt,
    resume_round,
    with_sub_agents,
)
from strandline._encoding import encode
from strandline._history import Progress, close, prompt_message
from strandline._model import (
    WHOLE_HISTORY,
    AgentRecord,
    Ending,
    ErrorCode,
    Failed,
    InputRequest,
    Message,
    NeedsInput,
    SessionKey,
    StateRecord,
    Succeeded,
    Window,
)
from strandline._printable import Private
from strandline.errors import AgentFailed

_log = logging.getLogger("strandline.agents")

MANAGER_STATE = "conversation_manager_state"


class StrandsTarget:
    """A factory of agents, sync or async, that takes the session's id, its principal, both or nothing."""

    resumable: bool = True
    singleton = False
    self_managed: bool = False

    def __init__(self, factory: Callable[..., Any], *, takes: Parameters, description: str) -> None:
        guard_all()
        self._factory = factory
        self._takes = takes
        self._owned: WeakSet[Any] = WeakSet()
        self._said = False
        self.description = description

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Call the factory, sync ones in a thread, and put the session's conversation into what it returns."""
        return StrandsAgent(self._checked(await self._made(key)), record, progress)

    async def _made(self, key: SessionKey) -> object:
        """Return what the user's factory returns. Raises `AgentFailed` if it raises."""
        args, named = self._takes.given(key)
        try:
            if inspect.iscoroutinefunction(self._factory):
                made = await self._factory(*args, **named)
            else:
                made = await asyncio.to_thread(self._factory, *args, **named)
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
        agents = with_sub_agents(made)
        self._own(
            (made, "Agent"),
            *((agent, f"sub-agent {agent.name!r}") for agent in agents[1:]),
            *((agent.conversation_manager, "conversation manager") for agent in agents),
        )
        for agent in agents:
            self._silence(agent)
        return made

    def _check_history(self, agent: Agent) -> None:
        if has_session_manager(agent):
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
    if is_checkpointing(agent):
        raise AgentFailed("the agent is made with `checkpointing=True`, which ends runs in the middle: leave it out")
    if has_background_tasks(agent):
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
        self._packed: Packed | None = None
        self._carried = progress.question_state is not None
        """Whether the first message of the run under way is the open one of the run that asked for input."""
        if self._carried:
            record = _without_the_last(record)
        self._origins = Origins(record)
        primers = copy.deepcopy(agent.messages) if record.window == WHOLE_HISTORY else []
        # Copies, since the attempt tells these messages too, and a manager may shorten those of the agent.
        begun: list[Message] = [{**message} for message in progress.messages_to_resume()]
        for offset, message in enumerate(begun):
            self._origins.remember(message, record.length + offset)
        agent.messages = [*primers, *cast("list[Any]", record.messages), *cast("list[Any]", begun)]
        self._state = encode(record.state)
        _restore(agent, record.state, progress.state)
        self._reopened = bool(progress.to_restart)
        if progress.question_state is not None and progress.takes_answers:
            restore_interrupt(
                agent, copy.deepcopy(progress.question_state), progress.ended_results() if self._reopened else None
            )
        elif self._reopened:
            resume_round(agent, agent.messages[-1], progress.ended_results())
        self._reports = Reports(agent, self._origins, _state_of)

    async def run(self, attempt: Attempt) -> Finished:
        """Run the agent to its end."""
        with watch_exits() as broken:
            return await self._run(attempt, broken)

    async def _run(self, attempt: Attempt, broken: AbnormalExit) -> Finished:
        if self._packed is not None:
            self._agent.messages = cast("list[Any]", self._origins.unpacked(self._packed))
            self._packed = None
        result = await self._result(attempt)
        ending = broken.ending(_ending(self._agent, result, cancelled=attempt.signal.is_set()))
        if self._reopened:
            self._reopened = False
            clear_interrupt(self._agent)
        invocation = result.metrics.latest_agent_invocation
        usage = None if invocation is None else whole_numbers(dict(invocation.usage))
        self._agent.event_loop_metrics = EventLoopMetrics()  # else it grows by every message ever said
        if not isinstance(ending, Succeeded | NeedsInput):
            return Finished(ending=ending, usage=usage)
        window, keep, closed = self._window_after(attempt, ending)
        self._carried = False
        state = self._changed_state()
        return Finished(ending=ending, usage=usage, window=window, state=state, keep=keep, closed=closed)

    def compact(self) -> None:
        """Keep the conversation as bytes."""
        if self._packed is None:
            self._packed = self._origins.packed(cast("list[Message]", self._agent.messages))
            self._agent.messages = []

    async def _result(self, attempt: Attempt) -> AgentResult:
        """Run the agent and report what it does; return what it returns."""
        reports, is_to_end = self._reports, attempt.signal.is_set
        reports.begin(attempt)
        result: AgentResult | None = None
        stream = self._agent.stream_async(
            cast(Any, self._prompt(attempt)),
            invocation_state=invocation_state(attempt.context),
            cancel_signal=cast(threading.Event, attempt.signal),
        )
        try:
            async with aclosing(cast(Any, stream)) as events:
                async for event in events:
                    if is_to_end():
                        self._agent.cancel()  # at once: Strands looks at the signal of others every 50 ms only
                    if "data" in event:
                        attempt.add_text(event["data"])
                        continue
                    attempt.touch()
                    if raw := event.get("event"):
                        if "contentBlockDelta" in raw:
                            continue  # what is in it comes next, as an event of its own
                        if "redactContent" in raw:
                            reports.redacted()
                        if "metadata" in raw:
                            attempt.add_usage(whole_numbers(raw["metadata"].get("usage") or {}))
                    elif "result" in event:
                        result = event["result"]
                    elif (delta := event.get("reasoningText")) is not None:
                        attempt.add_reasoning(delta)
        except BaseException as error:
            await reports.tell_returned()
            if isinstance(error, EventLoopException):
                raise AgentFailed("the agent failed") from error.original_exception
            raise
        finally:
            reports.attempt = None
        assert result is not None, "stream_async ended without a result"
        return result

    def _prompt(self, attempt: Attempt) -> object:
        """Return what the agent is asked: nothing, or no answers to its open round, where it goes on by itself."""
        if attempt.prompt is not None:
            return attempt.prompt if self._carried else prompt_message(attempt.prompt)["content"]
        return [] if self._reopened else None

    # -- window and state --------------------------------------------------------------------------

    def _window_after(self, attempt: Attempt, ending: Succeeded | NeedsInput) -> tuple[Window | None, bool, bool]:
        """Return the window after a run that came to an end of its own, None if it has not changed, whether the agent
        can stay, and whether what it has reported is closed.

        What the run leaves is closed here, so that the conversation in memory is the one that history has; where the
        two cannot be told apart message by message, the engine closes what was reported, the window has the run as
        history has it, and the agent goes.
        """
        told = list(attempt.messages)
        if not self._carried and attempt.prompt is not None and (not told or told[0]["role"] != "user"):
            told.insert(0, prompt_message(attempt.prompt))
        closed = close(told, {}, ending)
        messages = cast("list[Message]", self._agent.messages)
        alike = self._closed_alike(attempt, closed)
        before = messages if alike else self._origins.before_run(messages)
        window = self._origins.follow(before, len(closed), whole_run=len(before) < len(messages))
        self._origins.forget_all_but(messages)
        whole = before[:-1] if isinstance(ending, NeedsInput) and before is messages else before
        if window is not None and (faults := window_faults(window, whole)):
            _log.warning("the agent's conversation is not one that a provider accepts (%s); rebuilt", "; ".join(faults))
            return None, False, alike
        return window, alike, alike

    def _closed_alike(self, attempt: Attempt, closed: list[Message]) -> bool:
        """Make the messages of the run those of `closed`, in the agent too; False if they do not go together."""
        told = attempt.messages
        if [message["role"] for message in closed[: len(told)]] != [message["role"] for message in told]:
            return False
        if len(closed) > len(told) + 1:
            return False
        messages = cast("list[Message]", self._agent.messages)
        for at, (message, as_closed) in enumerate(zip(told, closed, strict=False)):
            if message is not as_closed:
                attempt.amend(at, as_closed["content"])
                index = self._origins.length + at
                for own in messages:
                    if self._origins.index_of(own) == index:
                        own["content"] = as_closed["content"]
                        self._origins.remember(own, index)
        if len(closed) > len(told):
            answer: Message = {**closed[-1]}
            self._origins.remember(answer, self._origins.length + len(told))
            attempt.add(closed[-1])
            if messages and messages[-1]["role"] == "user":
                messages.append(answer)
        return True

    def _changed_state(self) -> StateRecord | None:
        state = _state_of(self._agent)
        encoded = encode(state)
        if encoded == self._state:
            return None
        self._state = encoded
        return state


def whole_numbers(usage: Mapping[str, object]) -> dict[str, int]:
    """Return the counts of a usage record; models of users' own may put anything into it."""
    return {str(name): int(count) for name, count in usage.items() if isinstance(count, int | float) and count < 2**53}


def _ending(agent: Agent, result: AgentResult, *, cancelled: bool) -> Ending:
    """Return how a run ended that returned. A cancel that nobody asked for is the agent's own way to stop."""
    if result.stop_reason == "interrupt":
        asked = {each.id: InputRequest(each.id, each.name, each.reason) for each in result.interrupts or ()}
        if asked and (state := interrupted_round(agent)) is not None:
            return NeedsInput(list(asked.values()), state)
        names = ", ".join(each.name for each in asked.values())
        return Failed(
            ErrorCode.AGENT_ERROR,
            f"the agent asked for input ({names}) outside of a round of tools, and cannot be answered there",
        )
    if cancelled and result.stop_reason == "cancelled":
        return Failed(ErrorCode.STOPPED, "the run was cancelled")
    if result.structured_output is not None:
        return Succeeded(text=result.structured_output.model_dump_json())
    return Succeeded(limit=str(result.stop_reason).startswith("limit_"))


def _state_of(agent: Agent) -> StateRecord:
    """Return what a snapshot of these fields has, without the snapshot: it is taken after every run."""
    state = {"state": agent.state.get(), MANAGER_STATE: agent.conversation_manager.get_state()}
    if agent.model.stateful:
        state |= agent.take_snapshot(include=["model_state"]).data
    return state


def _restore(agent: Agent, record: StateRecord | None, progress: StateRecord | None) -> None:
    """Give the agent its state: that of the last closed round, but its manager that which belongs to the window.

    Messages that a manager wants before all others are put there, as Strands' session managers do, unless the window
    has them already: it is what the agent had, a summary too.
    """
    latest = progress or record
    if latest is None:
        return
    fields = {key: copy.deepcopy(value) for key, value in latest.items() if key != MANAGER_STATE}
    load(agent, fields)
    if record is None or MANAGER_STATE not in record:
        return
    try:
        first = agent.conversation_manager.restore_from_session(copy.deepcopy(record[MANAGER_STATE]))
    except Exception as error:
        told = Private(str(error), type(error).__name__)
        _log.warning("the conversation manager starts anew, it does not take its former state: %s", told)
        return
    if first:
        said = [(message["role"], message["content"]) for message in agent.messages]
        agent.messages[:0] = [each for each in cast(Any, first) if (each["role"], each["content"]) not in said]


def _without_the_last(record: AgentRecord) -> AgentRecord:
    """Return the record without the last message, which counts as one of the run that goes on from it."""
    return replace(record, messages=record.messages[:-1], origins=record.origins[:-1], length=record.length - 1)


def kind_of(thing: object) -> str:
    """Return what a thing is, for people."""
    if thing is None:
        return "None"
    return f"an object of type {type(thing).__module__}.{type(thing).__qualname__}"
