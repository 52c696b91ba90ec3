"""Strands agents: one `strands.Agent` per session, made by the user's factory.

The agent's own list of messages is the window; `window.py` maps it to history, `strands_hooks.py` reports progress, and
`rounds.py` fails incomplete rounds. `factory`, `multi`, `nodes`, `singleton` and `self_managed` build on this module.
No module outside of this package imports `strands`.
"""

import asyncio
import copy
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, aclosing
from typing import Any, cast
from weakref import WeakSet

from msgspec import convert, to_builtins
from msgspec.structs import replace
from strands import Agent
from strands.agent.agent_result import AgentResult
from strands.handlers.callback_handler import null_callback_handler
from strands.telemetry.metrics import EventLoopMetrics
from strands.types.exceptions import EventLoopException

from strandline._agents.abnormal_exit import AbnormalExit, watch_exits
from strandline._agents.files import files_of
from strandline._agents.parameters import Parameters
from strandline._agents.port import Attempt, Finished, RunContext, RunStopped, SessionAgent
from strandline._agents.rounds import guard_all
from strandline._agents.strands_hooks import Reports
from strandline._agents.waiting import LiveWaiting, live_waiting
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
from strandline._history import Progress, close, prompt_message, unusable
from strandline._model import (
    OF_CLIENT,
    WHOLE_HISTORY,
    AgentRecord,
    ClientOptions,
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
    """A factory of agents, sync or async; `takes` are its arguments."""

    resumable: bool = True
    singleton = False
    self_managed: bool = False

    def __init__(self, factory: Callable[..., Any], *, takes: Parameters, description: str) -> None:
        guard_all()
        self._factory = factory
        self._takes = takes
        self._owned: WeakSet[Any] = WeakSet()
        self._logged_silence = False
        self.description = description

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Call the factory (a sync one in a thread) and load the session's conversation into its agent."""
        return StrandsAgent(self._checked(await self._made(key)), record, progress)

    async def _made(self, key: SessionKey) -> object:
        """Call the user's factory. Raises `AgentFailed` if it raises."""
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
        """Check the agent and return it. Raises `AgentFailed` with the reason."""
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
                " have the session manager keep it, with the setting `history=session_manager`"
            )

    def _own(self, *parts: tuple[object, str]) -> None:
        """Note that `parts` belong to one session. Raises `AgentFailed` if one already does."""
        for part, name in parts:
            if part in self._owned:
                raise AgentFailed(
                    f"the factory returned the same {name} for two sessions, which would mix their conversations:"
                    " make it inside the factory, anew in each call"
                )
        self._owned.update(part for part, _ in parts)

    def _silence(self, agent: Agent) -> None:
        """Make an agent print nothing, and log that once."""
        if agent.callback_handler is not null_callback_handler:
            agent.callback_handler = null_callback_handler
            if not self._logged_silence:
                self._logged_silence = True
                _log.info("callback_handler is set to None: a server has no terminal to print answers to")


def check_agent(agent: Agent) -> None:
    """Raise `AgentFailed`, with the reason, if the agent has options that cannot be served."""
    if is_checkpointing(agent):
        raise AgentFailed("the agent is made with `checkpointing=True`, which ends runs in the middle: leave it out")
    if has_background_tasks(agent):
        raise AgentFailed("the agent has `background_tasks`, which outlive their run: leave them out")


def invocation_state(context: RunContext, waiting: LiveWaiting | None = None) -> dict[str, Any]:
    """Return the facts of a run for tools and hooks, in a new dict that they may write to."""
    state: dict[str, Any] = {
        "run_id": context.run_id,
        "session_id": context.session_id,
        "principal": context.principal,
        "attempt": context.attempt,
        "metadata": context.metadata,
        "workspace": context.workspace,
        "files": context.files or {},
        "sender": None if (sender := context.said_by) is None else to_builtins(sender),
    }
    if waiting is not None:
        state["waiting"] = waiting.shown
    return state


class StrandsAgent:
    """The agent of one session."""

    def __init__(self, agent: Agent, record: AgentRecord, progress: Progress) -> None:
        self._agent = agent
        self._packed: Packed | None = None
        self._shows_format = self._takes_tools = False
        """Whether the agent can give answers a form, and take tools of clients: it learns that when it has to."""
        question_state, self._inherited = _question_of(progress.question_state)
        self._carried = question_state is not None
        """Whether the first message of the current run is the open round of the run that requested input."""
        if self._carried:
            record = _without_last_message(record)
        self._origins = Origins(record)
        primers = copy.deepcopy(agent.messages) if record.window == WHOLE_HISTORY else []
        # Copies, since a manager may shorten the agent's messages, and the attempt has them too.
        begun: list[Message] = [{**message} for message in progress.messages_to_resume()]
        for offset, message in enumerate(begun):
            self._origins.remember(message, record.length + offset)
        agent.messages = [*primers, *cast("list[Any]", record.messages), *cast("list[Any]", begun)]
        self._state = encode(record.state)
        _restore(agent, record.state, progress.state)
        self._reopened = bool(progress.to_restart)
        if question_state is not None and progress.takes_answers:
            restore_interrupt(
                agent, copy.deepcopy(question_state), progress.ended_results() if self._reopened else None
            )
        elif self._reopened:
            resume_round(agent, agent.messages[-1], progress.ended_results())
        self._reports = Reports(agent, self._origins, _state_of, progress.not_done)

    async def run(self, attempt: Attempt) -> Finished:
        """Run the agent to its end."""
        with watch_exits(files_of(attempt.context)) as exits:
            return await self._run(attempt, exits)

    async def _run(self, attempt: Attempt, exits: AbnormalExit) -> Finished:
        if self._packed is not None:
            self._agent.messages = cast("list[Any]", self._origins.unpacked(self._packed))
            self._packed = None
        if attempt.context.shows_waiting:
            exits.waiting = await live_waiting(attempt)
        client = attempt.context.client or self._inherited
        form = None if client is None else self._wanted(client, exits)
        with ExitStack() as during:
            if client is not None and (unusable := self._offer_tools(client, exits, during)) is not None:
                return Finished(ending=unusable)
            result = await self._result(attempt, exits.waiting, form)
        ending = exits.ending(_ending(self._agent, result, client, cancelled=attempt.signal.is_set()))
        if isinstance(ending, Succeeded) and exits.given is not None:
            ending = Succeeded(text=encode(exits.given).decode())
        if self._reopened:
            self._reopened = False
            clear_interrupt(self._agent)
        invocation = result.metrics.latest_agent_invocation
        usage = None if invocation is None else whole_numbers(dict(invocation.usage))
        self._agent.event_loop_metrics = EventLoopMetrics()  # else it grows with every message
        if not isinstance(ending, Succeeded | NeedsInput):
            return Finished(ending=ending, usage=usage)
        window, keep, closed = self._window_after(attempt, ending)
        self._carried, self._inherited = False, None
        state = self._changed_state()
        return Finished(ending=ending, usage=usage, window=window, state=state, keep=keep, closed=closed)

    def compact(self) -> None:
        """Compress the conversation."""
        if self._packed is None:
            self._packed = self._origins.packed(cast("list[Message]", self._agent.messages))
            self._agent.messages = []

    def _offer_tools(self, client: ClientOptions, exits: AbnormalExit, during: ExitStack) -> Failed | None:
        """Give the agent the tools of the run's client; return why that cannot be."""
        pending = () if self._inherited is None else self._inherited.tools
        if not client.tools and not pending:
            return None
        from strandline._agents.client_tools import ClientTools, offer_tools

        tools = ClientTools(client, pending)
        if clashing := tools.clashing(self._agent):
            why = f"the agent has tools of these names itself: {', '.join(clashing)}; name yours otherwise"
            return Failed(ErrorCode.AGENT_ERROR, unusable(why))
        exits.tools = tools
        if not self._takes_tools:
            self._takes_tools = True
            offer_tools(self._agent)
        during.enter_context(tools.offered_to(self._agent))
        return None

    def _wanted(self, client: ClientOptions, exits: AbnormalExit) -> Any:
        """Return the output model of the run if its client wants an answer in a form; None: the agent's own."""
        if client.format is None:
            return None
        from strandline._agents.answer_format import FORM, WantedAnswer, show_format

        exits.wanted = WantedAnswer(client.format)
        if not self._shows_format:
            self._shows_format = True
            show_format(self._agent)
        return FORM

    async def _result(self, attempt: Attempt, waiting: LiveWaiting | None, form: Any) -> AgentResult:
        """Run the agent, report its progress, and return its result."""
        reports, should_end = self._reports, attempt.signal.is_set
        reports.begin(attempt)
        result: AgentResult | None = None
        stream = self._agent.stream_async(
            cast(Any, self._prompt(attempt)),
            invocation_state=invocation_state(attempt.context, waiting),
            cancel_signal=cast(threading.Event, attempt.signal),
            **({} if form is None else {"structured_output_model": form}),
        )
        try:
            async with aclosing(cast(Any, stream)) as events:
                async for event in events:
                    if should_end():
                        self._agent.cancel()  # at once: Strands checks the signal every 50 ms only
                    if "data" in event:
                        attempt.add_text(event["data"])
                        continue
                    attempt.touch()
                    if raw := event.get("event"):
                        if "contentBlockDelta" in raw:
                            continue  # its content follows as another event
                        if "redactContent" in raw:
                            reports.redacted()
                        if "metadata" in raw:
                            attempt.add_usage(whole_numbers(raw["metadata"].get("usage") or {}))
                    elif "result" in event:
                        result = event["result"]
                    elif (delta := event.get("reasoningText")) is not None:
                        attempt.add_reasoning(delta)
        except BaseException as error:
            await reports.report_returned()
            if not isinstance(error, EventLoopException):
                raise
            if isinstance(error.original_exception, RunStopped):
                raise error.original_exception from None
            raise AgentFailed("the agent failed") from error.original_exception
        finally:
            reports.attempt = None
        assert result is not None, "stream_async ended without a result"
        return result

    def _prompt(self, attempt: Attempt) -> object:
        """Return the input of the agent: None, or `[]` for an open round, if it resumes without one."""
        if attempt.prompt is not None:
            return attempt.prompt if self._carried else prompt_message(attempt.prompt)["content"]
        return [] if self._reopened else None

    # -- window and state --------------------------------------------------------------------------

    def _window_after(self, attempt: Attempt, ending: Succeeded | NeedsInput) -> tuple[Window | None, bool, bool]:
        """Return the window after a run that ended by itself (None if unchanged), whether the agent can be kept, and
        whether its reports are closed.

        The run's messages are closed here, so that the conversation in memory equals history. If they do not match
        message by message, the engine closes the reports, the window has the run as in history, and the agent is
        dropped.
        """
        reported = list(attempt.messages)
        if not self._carried and attempt.prompt is not None and (not reported or reported[0]["role"] != "user"):
            reported.insert(0, prompt_message(attempt.prompt, attempt.context.sender))
        closed = close(reported, {}, ending)
        messages = cast("list[Message]", self._agent.messages)
        alike = self._closed_alike(attempt, closed)
        before = messages if alike else self._origins.before_run(messages)
        window = self._origins.follow(before, len(closed), whole_run=len(before) < len(messages))
        self._origins.prune(messages)
        whole = before[:-1] if isinstance(ending, NeedsInput) and before is messages else before
        if window is not None and (faults := window_faults(window, whole)):
            _log.warning("no provider would accept the agent's conversation (%s); it is rebuilt", "; ".join(faults))
            return None, False, alike
        return window, alike, alike

    def _closed_alike(self, attempt: Attempt, closed: list[Message]) -> bool:
        """Replace the messages of the run by those of `closed`, in the agent too; False if they do not match."""
        reported = attempt.messages
        if [message["role"] for message in closed[: len(reported)]] != [message["role"] for message in reported]:
            return False
        if len(closed) > len(reported) + 1:
            return False
        messages = cast("list[Message]", self._agent.messages)
        for at, (message, as_closed) in enumerate(zip(reported, closed, strict=False)):
            if message is not as_closed:
                attempt.amend(at, as_closed["content"])
                index = self._origins.length + at
                for own in messages:
                    if self._origins.index_of(own) == index:
                        own["content"] = as_closed["content"]
                        self._origins.remember(own, index)
        if len(closed) > len(reported):
            answer: Message = {**closed[-1]}
            self._origins.remember(answer, self._origins.length + len(reported))
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
    """Return the counts of a usage record. Custom models may put anything into it."""
    return {str(name): int(count) for name, count in usage.items() if isinstance(count, int | float) and count < 2**53}


def _ending(agent: Agent, result: AgentResult, client: ClientOptions | None, *, cancelled: bool) -> Ending:
    """Return the ending of a run whose agent returned. An unrequested cancel is the agent's own way to stop."""
    if result.stop_reason == "interrupt":
        requests = {each.id: _request_of(each, client) for each in result.interrupts or ()}
        if requests and (state := interrupted_round(agent)) is not None:
            if client is not None:
                state[OF_CLIENT] = to_builtins(replace(client, must_call=None))
            return NeedsInput(list(requests.values()), state)
        names = ", ".join(each.name for each in requests.values())
        return Failed(
            ErrorCode.AGENT_ERROR,
            f"the agent requested input ({names}) outside of a round of tools, where it cannot be answered",
        )
    if cancelled and result.stop_reason == "cancelled":
        return Failed(ErrorCode.STOPPED, "the run was cancelled")
    if result.structured_output is not None:
        return Succeeded(text=result.structured_output.model_dump_json())
    return Succeeded(limit=str(result.stop_reason).startswith("limit_"))


def _request_of(interrupt: Any, client: ClientOptions | None) -> InputRequest:
    if client is not None:
        from strandline._agents.client_tools import current_tools

        if (tools := current_tools()) is not None and (request := tools.question(interrupt)) is not None:
            return request
    return InputRequest(interrupt.id, interrupt.name, interrupt.reason)


def _question_of(state: StateRecord | None) -> tuple[StateRecord | None, ClientOptions | None]:
    """Return the state with which an agent resumes, and what the client wanted of the run that has asked."""
    if state is None or OF_CLIENT not in state:
        return state, None
    return {name: value for name, value in state.items() if name != OF_CLIENT}, convert(state[OF_CLIENT], ClientOptions)


def _state_of(agent: Agent) -> StateRecord:
    """Return the fields of a snapshot without taking one, since this is done after every run."""
    state = {"state": agent.state.get(), MANAGER_STATE: agent.conversation_manager.get_state()}
    if agent.model.stateful:
        state |= agent.take_snapshot(include=["model_state"]).data
    return state


def _restore(agent: Agent, record: StateRecord | None, progress: StateRecord | None) -> None:
    """Restore the agent's state of the last closed round, and its conversation manager's state of the window.

    Messages that the manager puts first are added, as Strands' session managers do, unless the window has them.
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
        reason = Private(str(error), type(error).__name__)
        _log.warning("the conversation manager rejects its former state and starts anew: %s", reason)
        return
    if first:
        present = [(message["role"], message["content"]) for message in agent.messages]
        agent.messages[:0] = [each for each in cast(Any, first) if (each["role"], each["content"]) not in present]


def _without_last_message(record: AgentRecord) -> AgentRecord:
    """Return the record without its last message, which becomes the first one of the resumed run."""
    return replace(record, messages=record.messages[:-1], origins=record.origins[:-1], length=record.length - 1)


def kind_of(thing: object) -> str:
    """Return the kind of a thing, for people."""
    if thing is None:
        return "None"
    return f"an object of type {type(thing).__module__}.{type(thing).__qualname__}"
