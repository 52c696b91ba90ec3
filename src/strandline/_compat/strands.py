"""Private parts of `strands-agents`: an agent's options, its open round, its stream, its spans.

A missing part raises `AttributeError` and never counts as unset: an agent served with the wrong options would mix
conversations. Only `skip_unrecorded_spans`, which just saves time, tolerates it.
"""

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from strands import Agent
from strands.telemetry.tracer import Tracer

CANCELLED_BY_USER: Final = "Cancelled by user"
"""The text that Strands adds in place of a cancelled model's answer."""
TOOL_CANCELLED: Final = "Tool execution cancelled"
"""The result that Strands adds for a tool that a cancel kept from starting."""
_PARTS: Final = (
    "conversation_manager",
    "hooks",
    "state",
    "tool_registry",
    "_interrupt_state",
    "_middleware_registry",
    "_plugin_registry",
    "_retry_strategy",
)
_NO_INTERRUPTS: Final[dict[str, Any]] = {"interrupts": {}, "context": {}, "activated": False}
_SPAN_WRITERS: Final = ("_add_event_messages", "_add_system_prompt_event")
"""Methods of Strands' tracer whose first argument is a span, and that only add events to it."""

Stream = Callable[..., AsyncIterator[Any]]
Message = Mapping[str, Any]


# -- how an agent was made ------------------------------------------------------------------------------


def has_session_manager(agent: Agent) -> bool:
    """Return whether an agent has a session manager."""
    return agent._session_manager is not None


def is_checkpointing(agent: Agent) -> bool:
    """Return whether an agent is made with `checkpointing=True`."""
    return bool(agent._checkpointing)


def has_background_tasks(agent: Agent) -> bool:
    """Return whether an agent has tasks that outlive their run."""
    return agent._background_tasks is not None


def with_sub_agents(agent: Agent) -> list[Agent]:
    """Return the agent, the agents that are its tools, and theirs, each once."""
    found = [agent]
    for each in found:
        used = [getattr(tool, "agent", None) for tool in each.tool_registry.registry.values()]
        found += [other for other in used if isinstance(other, Agent) and all(other is not known for known in found)]
    return found


def changed_by_runs(agent: Agent) -> Iterator[object]:
    """Yield the objects of an agent that a run changes, the agent itself first."""
    yield agent
    yield from (part for name in _PARTS if hasattr(part := getattr(agent, name), "__dict__"))
    if type(config := getattr(agent.model, "config", None)) is dict:
        yield config


# -- its conversation -------------------------------------------------------------------------------------


async def append_messages(agent: Agent, messages: Sequence[Message]) -> None:
    """Append messages to an agent's conversation and to its session manager's."""
    await agent._append_messages(*cast("list[Any]", messages))


def load(agent: Agent, fields: dict[str, Any]) -> None:
    """Load these fields of a snapshot into an agent, and leave all others unchanged."""
    snapshot = agent.take_snapshot(include=["state"])
    snapshot.data = fields
    agent.load_snapshot(snapshot)


# -- a round that is open -----------------------------------------------------------------------------------


def interrupted_round(agent: Agent) -> dict[str, Any] | None:
    """Return the snapshot fields that resume an interrupted round; None if no round is interrupted."""
    fields = _interrupts(agent)
    return fields if fields["interrupt_state"].get("pending_tool_execution") else None


def is_interrupted(agent: Agent) -> bool:
    """Return whether an agent accepts only answers to its interrupts."""
    return bool(_interrupts(agent)["interrupt_state"]["activated"])


def completed_results(agent: Agent) -> list[dict[str, Any]]:
    """Return the results of the ended tools of the interrupted round."""
    round_ = _interrupts(agent)["interrupt_state"].get("pending_tool_execution") or {}
    return list(round_.get("completed_tool_results") or ())


def restore_interrupt(agent: Agent, fields: dict[str, Any], results: Sequence[Message] | None = None) -> None:
    """Make an agent wait for the answers to the interrupts in `fields`, with `results` of its round if given.

    `fields` come from `interrupted_round`, and belong to the agent from now on.
    """
    if results is not None:
        fields["interrupt_state"]["pending_tool_execution"]["completed_tool_results"] = list(results)
    load(agent, fields)


def resume_round(agent: Agent, message: object, results: Sequence[Message]) -> None:
    """Make an agent start the tools of its last message that have no result yet, and continue from there.

    To Strands this is an interrupted round that is answered with nothing.
    """
    round_ = {"assistant_message": message, "completed_tool_results": list(results)}
    load(agent, {"interrupt_state": {**_NO_INTERRUPTS, "activated": True, "pending_tool_execution": round_}})


def clear_interrupt(agent: Agent) -> None:
    """Make the agent accept messages again; after a cancelled round it would still wait for answers."""
    load(agent, {"interrupt_state": _NO_INTERRUPTS})


def _interrupts(agent: Agent) -> dict[str, Any]:
    return agent.take_snapshot(include=["interrupt_state"]).data


# -- its stream ---------------------------------------------------------------------------------------------

original_stream: Final = cast(Stream, Agent.stream_async)
"""The original `Agent.stream_async`."""


def patch_stream(stream: Stream) -> None:
    """Replace `Agent.stream_async` of all agents by `stream`, whose first argument is the agent."""
    Agent.stream_async = functools.wraps(original_stream)(stream)  # type: ignore[method-assign]


# -- its spans ------------------------------------------------------------------------------------------------


def skip_unrecorded_spans() -> None:
    """Write no conversations into spans that are not recorded, from now on.

    Before each model call Strands encodes the whole conversation as JSON, twice, and adds it to spans, even to spans
    that drop it: without an OpenTelemetry SDK, or in an unsampled trace. With a window of 40 short messages that was a
    quarter of an agent's processor time. Versions with other methods are left unchanged.
    """
    for name in _SPAN_WRITERS:
        write = getattr(Tracer, name, None)
        if write is not None and not hasattr(write, "__wrapped__"):
            setattr(Tracer, name, _if_recorded(write))


def _if_recorded(write: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(write)
    def write_if_recorded(tracer: Tracer, span: Any, *args: Any, **named: Any) -> None:
        if span.is_recording():
            write(tracer, span, *args, **named)

    return write_if_recorded
