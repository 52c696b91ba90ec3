"""Agents that keep their own conversation, with a session manager of Strands (`history=session_manager`).

The agent reads its own storage when it is made and writes to it as it runs. Its messages are published, so that the
caller gets the answer, but the journal stores no checkpoints, window or state. Whether the conversation is well formed
after a failure is up to the session manager; but no question stays open in it.
"""

from collections.abc import Callable, Sequence
from typing import Final, cast

from strands import Agent

from strandline._agents.port import Attempt, Finished, RunContext, RunStopped, Signal
from strandline._agents.strands import StrandsAgent
from strandline._compat.strands import append_messages, clear_interrupt, completed_results, is_interrupted
from strandline._history import Progress, close_answer
from strandline._model import (
    WHOLE_HISTORY,
    AgentRecord,
    Block,
    ErrorCode,
    Failed,
    Input,
    Message,
    NeedsInput,
    StateRecord,
    ToolResult,
)

NOTHING: Final = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
UNANSWERED: Final = Failed(ErrorCode.AGENT_ERROR, "the agent requested input, which cannot be answered")
NOT_BEGUN: Final = Progress(messages=[], results={})


async def withdraw_questions(agent: Agent) -> None:
    """Close an open question that the session manager has restored: it cannot be answered here.

    The round is closed with its existing results, in the agent's conversation and in the session manager's.
    """
    if not is_interrupted(agent):
        return
    ended = completed_results(agent)
    clear_interrupt(agent)
    if agent.messages:
        last = cast(Message, agent.messages[-1])
        results = {str(each["toolUseId"]): each for each in ended}
        await append_messages(agent, close_answer([last], results, UNANSWERED, begun=False))


class SelfManagedAgent:
    """An agent with the conversation from its session manager."""

    def __init__(self, agent: Agent) -> None:
        self._agent = StrandsAgent(agent, NOTHING, NOT_BEGUN)

    async def run(self, attempt: Attempt) -> Finished:
        """Run the agent to its end."""
        finished = await self._agent.run(_WithoutCheckpoints(attempt))
        if isinstance(finished.ending, NeedsInput):
            names = ", ".join(each.name for each in finished.ending.requests)
            detail = f"the agent requested input ({names}), which cannot be answered with `history=session_manager`"
            return Finished(ending=Failed(ErrorCode.AGENT_ERROR, detail), usage=finished.usage)
        return Finished(ending=finished.ending, usage=finished.usage, keep=finished.keep)

    def compact(self) -> None:
        """Do nothing: the session manager uses the messages in memory too."""


class _WithoutCheckpoints:
    """An attempt that publishes all reports and stores no checkpoints."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.add = attempt.add
        self.amend = attempt.amend
        self.add_text = attempt.add_text
        self.add_reasoning = attempt.add_reasoning
        self.reset_text = attempt.reset_text
        self.begin_model = attempt.begin_model
        self.add_usage = attempt.add_usage
        self.enter = attempt.enter
        self.begin_tool = attempt.begin_tool
        self.publish_tool_end = attempt.publish_tool_end
        self.touch = attempt.touch
        self.read_waiting = attempt.read_waiting

    @property
    def has_joins(self) -> bool:
        return False

    def forward_joins(self, on_joins: Callable[[], object]) -> None:
        return

    async def take_joins(self) -> list[Block]:
        return []

    @property
    def context(self) -> RunContext:
        return self._attempt.context

    @property
    def prompt(self) -> Input | None:
        return self._attempt.prompt

    @property
    def messages(self) -> Sequence[Message]:
        return self._attempt.messages

    @property
    def signal(self) -> Signal:
        return self._attempt.signal

    async def begin_round(self) -> None:
        self.touch()
        if self.signal.is_set():
            raise RunStopped

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        self.publish_tool_end(tool_use_id, result)
        self.touch()

    async def end_round(self, state: StateRecord | None) -> None:
        self.enter("model")
