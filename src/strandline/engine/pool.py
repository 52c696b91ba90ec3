"""Agents that are kept in memory between two runs of their session, so that they need not be rebuilt.

An agent is in the pool only while no run of its session executes: a run takes it out, and only a run that ended well
puts it back. Dropping an agent is therefore the rollback; the next run rebuilds it from the journal.
"""

from collections import OrderedDict
from collections.abc import Callable

from strandline.agents.port import SessionAgent
from strandline.clock import Clock
from strandline.model import SessionKey


class AgentPool:
    """At most `max_agents` idle agents, none idle for longer than `agent_idle_s`; the longest idle go first."""

    def __init__(
        self, *, max_agents: int, agent_idle_s: float, clock: Clock, discard: Callable[[object], None]
    ) -> None:
        self._max_agents = max_agents
        self._agent_idle_s = agent_idle_s
        self._clock = clock
        self._discard = discard
        self._agents: OrderedDict[SessionKey, tuple[SessionAgent, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._agents)

    def pop(self, key: SessionKey) -> SessionAgent | None:
        """Take out the agent of a session, if it is here."""
        entry = self._agents.pop(key, None)
        return entry[0] if entry is not None else None

    def put(self, key: SessionKey, agent: SessionAgent) -> None:
        """Keep an agent until its session's next run."""
        self.drop(key)
        self._agents[key] = (agent, self._clock.monotonic())
        if len(self._agents) > self._max_agents:
            _, (oldest, _) = self._agents.popitem(last=False)
            self._discard(oldest)

    def drop(self, key: SessionKey) -> None:
        """Drop the agent of a session, if it is here."""
        if (agent := self.pop(key)) is not None:
            self._discard(agent)

    def evict(self) -> None:
        """Drop the agents that have been idle for too long."""
        deadline = self._clock.monotonic() - self._agent_idle_s
        while self._agents:
            key, (agent, since) = next(iter(self._agents.items()))
            if since > deadline:
                return
            del self._agents[key]
            self._discard(agent)
