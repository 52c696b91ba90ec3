"""Agents: kept in memory between two runs of their session, so that they need not be rebuilt, or built.

An agent is in the pool only while no run of its session executes: a run takes it out, and only a run that ended well
puts it back, once its end is durable. Dropping an agent is therefore the rollback; the next run rebuilds it from the
journal. One whose loop is lost, or much busier than another one, is never given out.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct

from strandline import private
from strandline.agents.port import SessionAgent, Target
from strandline.clock import Clock
from strandline.engine.execution.attempt import LiveAttempt
from strandline.engine.execution.retry import until_kept
from strandline.engine.loops import Loops
from strandline.engine.options import Options
from strandline.journal.port import Journal
from strandline.model import WHOLE_HISTORY, AgentRecord, SessionKey

REST_AFTER_S = 1.0
"""After this long an idle agent is told to take as little memory as it can."""


class _Idle(Struct, frozen=True):
    """An idle agent, the loop that it was built on, and since when it is idle."""

    agent: SessionAgent
    loop: object
    since: float


class AgentPool:
    """At most `max_agents` idle agents, none idle for longer than `agent_idle_s`; the longest idle go first.

    Belongs to the serving loop, but for `build`. `workspace` names the folder of a session.
    """

    def __init__(
        self,
        journal: Journal,
        target: Target,
        loops: Loops,
        clock: Clock,
        options: Options,
        workspace: Callable[[SessionKey], str],
    ) -> None:
        self.workspace = workspace
        self._journal = journal
        self._target = target
        self._loops = loops
        self._clock = clock
        self._options = options
        self._agents: OrderedDict[SessionKey, _Idle] = OrderedDict()
        self._resting: OrderedDict[SessionKey, _Idle] = OrderedDict()
        self._unwanted: Counter[SessionKey] = Counter()
        self._used_loops: set[object] = set()
        """The loops of all that are here, and maybe some that no agent is on any more."""

    def __len__(self) -> int:
        return len(self._agents) + len(self._resting)

    def pop(self, key: SessionKey) -> SessionAgent | None:
        """Take out the agent of a session, if it is here and had better be used than one made anew."""
        entry = self._agents.pop(key, None) or self._resting.pop(key, None)
        if entry is None:
            return None
        if self._loops.accepts(entry.loop):
            return entry.agent
        self._loops.discard(entry.agent)
        return None

    async def build(self, attempt: LiveAttempt) -> SessionAgent:
        """Return an agent for a session, built on the agent loop from what the journal has of it."""
        attempt.enter("building the agent")
        workspace = Path(attempt.context.workspace)
        private.make_folder(workspace)
        private.tighten(workspace)  # (older versions made it laxer)
        key = attempt.claim.run.key
        record = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
        if not self._options.external:
            trouble = "run %s waits for its session's history"
            record = await until_kept(partial(self._journal.load, key), trouble, attempt.context.run_id)
        agent = await self._target.build(key, record, attempt.progress)
        attempt.enter("model")
        return agent

    @contextmanager
    def keeping_none(self, key: SessionKey) -> Iterator[None]:
        """Drop the agent of a session, and keep none that is put here meanwhile."""
        self.drop(key)
        self._unwanted[key] += 1
        try:
            yield
        finally:
            self._unwanted[key] -= 1
            if not self._unwanted[key]:
                del self._unwanted[key]

    def put(self, key: SessionKey, agent: SessionAgent, loop: object) -> None:
        """Keep an agent, which was built on the loop `loop`, until its session's next run."""
        self.drop(key)
        if key in self._unwanted:
            self._loops.discard(agent)
            return
        self._used_loops.add(loop)
        self._agents[key] = _Idle(agent, loop, self._clock.monotonic())
        if len(self) > self._options.max_agents:
            _, oldest = (self._resting or self._agents).popitem(last=False)
            self._loops.discard(oldest.agent)

    def drop(self, key: SessionKey) -> None:
        """Drop the agent of a session, if it is here."""
        if (agent := self.pop(key)) is not None:
            self._loops.discard(agent)

    def evict(self) -> None:
        """Drop the agents that have been idle for too long, and let those rest that have been idle for a while."""
        now = self._clock.monotonic()
        while (oldest := _oldest(self._agents)) is not None and oldest.since <= now - REST_AFTER_S:
            key, entry = self._agents.popitem(last=False)
            self._resting[key] = entry
            self._loops.post(entry.agent.rest)
        while (oldest := _oldest(self._resting)) is not None and oldest.since <= now - self._options.agent_idle_s:
            self._resting.popitem(last=False)
            self._loops.discard(oldest.agent)

    def drop_lost(self) -> None:
        """Drop the agents whose loops are lost; as long as none is, no agent is looked at."""
        lost = {loop for loop in self._used_loops if not self._loops.is_current(loop)}
        if not lost:
            return
        self._used_loops -= lost
        for key in [key for each in (self._agents, self._resting) for key, idle in each.items() if idle.loop in lost]:
            self.drop(key)


def _oldest(agents: OrderedDict[SessionKey, _Idle]) -> _Idle | None:
    return next(iter(agents.values()), None)
