"""What `strands-agents` keeps private: facts about an agent, its open round, its stream, what it writes into spans.

A part that is gone raises `AttributeError` where it is used, and never passes for one that is unset: an agent that is
served otherwise than it was made would mix conversations. Only what saves time (`skip_unrecorded_spans`) does without.
"""

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from strands import Agent
from strands.telemetry.tracer import Tracer

CANCELLED_BY_USER: Final = "Cancelled by user"
"""What Strands puts into the conversation in place of a model's answer that was cut off by a cancel."""
TOOL_CANCELLED: Final = "Tool execution cancelled"
"""What Strands gives as the result of a tool that it did not start because of a cancel."""
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
_NOTHING_ASKED: Final[dict[str, Any]] = {"interrupts": {}, "context": {}, "activated": False}
_SPAN_WRITERS: Final = ("_add_event_messages", "_add_system_prompt_event")
"""Methods of Strands' tracer that take a span first, and do nothing but add events to it."""

Stream = Callable[..., AsyncIterator[Any]]
Message = Mapping[str, Any]


# -- how an agent was made ------------------------------------------------------------------------------


def has_session_manager(agent: Agent) -> bool:
    """Return whether an agent keeps its conversation itself."""
    return agent._session_manager is not None


def is_checkpointing(agent: Agent) -> bool:
    """Return whether an agent ends its runs in the middle."""
    return bool(agent._checkpointing)


def has_background_tasks(agent: Agent) -> bool:
    """Return whether an agent was given tasks that outlive their run."""
    return agent._background_tasks is not None


def with_sub_agents(agent: Agent) -> list[Agent]:
    """Return the agent and the agents that are its tools, and theirs, each once."""
    found = [agent]
    for each in found:
        used = [getattr(tool, "agent", None) for tool in each.tool_registry.registry.values()]
        found += [other for other in used if isinstance(other, Agent) and all(other is not known for known in found)]
    return found


def changed_by_runs(agent: Agent) -> Iterator[object]:
    """Yield the objects of one agent that a run changes, the agent itself first; its messages are in its fields."""
    yield agent
    yield from (part for name in _PARTS if hasattr(part := getattr(agent, name), "__dict__"))
    if type(config := getattr(agent.model, "config", None)) is dict:
        yield config


# -- its conversation -------------------------------------------------------------------------------------


async def append_messages(agent: Agent, messages: Sequence[Message]) -> None:
    """Put messages at the end of an agent's conversation, and of that which its session manager keeps."""
    await agent._append_messages(*cast("list[Any]", messages))


def load(agent: Agent, fields: dict[str, Any]) -> None:
    """Give an agent these fields of a snapshot, and leave all others as they are."""
    snapshot = agent.take_snapshot(include=["state"])
    snapshot.data = fields
    agent.load_snapshot(snapshot)


# -- a round that is open -----------------------------------------------------------------------------------


def interrupted_round(agent: Agent) -> dict[str, Any] | None:
    """Return the fields of a snapshot with which an agent can go on with what it asks; None if no round of it asks."""
    fields = _asking(agent)
    return fields if fields["interrupt_state"].get("pending_tool_execution") else None


def is_interrupted(agent: Agent) -> bool:
    """Return whether an agent takes nothing but answers."""
    return bool(_asking(agent)["interrupt_state"]["activated"])


def completed_results(agent: Agent) -> list[dict[str, Any]]:
    """Return the results of those tools of the round that asks which have ended."""
    round_ = _asking(agent)["interrupt_state"].get("pending_tool_execution") or {}
    return list(round_.get("completed_tool_results") or ())


def restore_interrupt(agent: Agent, fields: dict[str, Any], results: Sequence[Message] | None = None) -> None:
    """Have an agent wait for the answers to what `fields` ask, with these results of its round if they are given.

    `fields` are those of `interrupted_round`, and are the agent's own from now on.
    """
    if results is not None:
        fields["interrupt_state"]["pending_tool_execution"]["completed_tool_results"] = list(results)
    load(agent, fields)


def resume_round(agent: Agent, message: object, results: Sequence[Message]) -> None:
    """Have an agent start the tools of its last message that have no result yet, and go on from there.

    To Strands it is a round that was interrupted, and is answered with nothing.
    """
    round_ = {"assistant_message": message, "completed_tool_results": list(results)}
    load(agent, {"interrupt_state": {**_NOTHING_ASKED, "activated": True, "pending_tool_execution": round_}})


def clear_interrupt(agent: Agent) -> None:
    """Have the agent take messages again; after a round that was cancelled it would still wait for answers."""
    load(agent, {"interrupt_state": _NOTHING_ASKED})


def _asking(agent: Agent) -> dict[str, Any]:
    return agent.take_snapshot(include=["interrupt_state"]).data


# -- where all agents pass ----------------------------------------------------------------------------------

original_stream: Final = cast(Stream, Agent.stream_async)
"""`Agent.stream_async` as Strands has it."""


def patch_stream(stream: Stream) -> None:
    """Have every agent stream by `stream`, whoever has made it and when; it is called with the agent first."""
    Agent.stream_async = functools.wraps(original_stream)(stream)  # type: ignore[method-assign]


# -- what is written into spans -------------------------------------------------------------------------------


def skip_unrecorded_spans() -> None:
    """Have nothing of a conversation written for a span that is not recorded, from now on.

    Before each call of a model Strands writes the whole conversation as JSON, twice, and adds it to spans. It does so
    without an SDK of OpenTelemetry too, or where a trace is not sampled, and such a span drops it. With a window of 40
    short messages that was a quarter of what an agent took, and it grows with what the messages hold. A version that
    has other methods keeps its own.
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
