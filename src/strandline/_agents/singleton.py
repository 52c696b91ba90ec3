"""One `Agent` object for all sessions, from a user's module.

Before each run the agent is reset to its state at load time and gets the session's conversation. The engine executes
one run at a time over all sessions, and none while a thread of an ended run works. All sessions share the state of the
user's own objects (tools, plugins, hooks); a factory is the better target.
"""

from typing import Any

from strands import Agent
from strands.handlers.callback_handler import null_callback_handler
from strands.telemetry.metrics import EventLoopMetrics

from strandline._agents.port import SessionAgent
from strandline._agents.rounds import guard, guard_all
from strandline._agents.strands import StrandsAgent, check_agent
from strandline._compat.strands import changed_by_runs, has_session_manager, with_sub_agents
from strandline._history import Progress
from strandline._model import AgentRecord, SessionKey
from strandline.errors import AgentFailed, TargetError


class SingletonTarget:
    """An `Agent` that all sessions share, one run at a time."""

    resumable = True
    singleton = True
    self_managed = False

    def __init__(self, agent: Agent, *, description: str) -> None:
        """Remember the agent's current state. Raises `TargetError` if it cannot be served."""
        if has_session_manager(agent):
            raise TargetError(
                f"{description} has a session manager, which keeps one conversation for all sessions."
                " Leave `session_manager=` out, or write a factory that gives each session one of its own, and serve it"
                " with `--history session_manager`:\n\ndef make_agent(session_id):\n"
                "    return Agent(session_manager=FileSessionManager(session_id=session_id))"
            )
        try:
            check_agent(agent)
        except AgentFailed as failed:
            raise TargetError(f"{description} cannot be served: {failed}") from None
        agent.callback_handler = null_callback_handler
        self.description = (
            f"{description}, one Agent for all sessions and so one run at a time (a factory `make_agent(session_id)`"
            " would let sessions run side by side)"
        )
        guard_all()
        self._agent = agent
        for each in with_sub_agents(agent):
            guard(each)  # (hooks added later are removed again)
        self._pristine = [_Remembered(part) for each in with_sub_agents(agent) for part in changed_by_runs(each)]

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Reset the agent to its state at load time, and load the session's conversation into it."""
        for remembered in self._pristine:
            remembered.restore()
        for agent in with_sub_agents(self._agent):
            agent.cancel_signal.clear()
            agent.event_loop_metrics = EventLoopMetrics()
        return StrandsAgent(self._agent, record, progress)


class _Remembered:
    """A snapshot of an object's fields. Dicts, lists and sets are copied deeply; other values are shared."""

    def __init__(self, thing: object) -> None:
        self._fields: dict[str, Any] = thing if type(thing) is dict else vars(thing)
        self._values = _copied(self._fields)

    def restore(self) -> None:
        for name in self._fields.keys() - self._values.keys():
            del self._fields[name]
        self._fields.update(_copied(self._values))


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is list or kind is set or kind is tuple:
        return kind(_copied(item) for item in value)
    return value
