"""Agents in memory between two runs of their session, so that they need not be rebuilt; and their building.

An agent is in the pool only while no run of its session executes: a run takes it out, and only a run that ended well
puts it back, once its end is durable. Dropping an agent is therefore the rollback; the next run rebuilds it from the
journal. The pool never returns an agent whose loop is lost, or much busier than another one.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct, field

from strandline import _private as private
from strandline._agents.port import SessionAgent, Target
from strandline._clock import Clock
from strandline._engine.execution.attempt import LiveAttempt
from strandline._engine.execution.retry import Retries
from strandline._engine.loops import Loops
from strandline._engine.options import Options
from strandline._journal.port import Journal
from strandline._model import WHOLE_HISTORY, AgentRecord, SessionKey

REST_AFTER_S = 1.0
"""How long an agent is idle before it frees what memory it can."""


class _Idle(Struct):
    """An idle agent, the loop that it was built on, since when it is idle, and whether it rests."""

    agent: SessionAgent
    loop: object
    since: float
    rests: bool = False


class AgentPool(Struct, eq=False):
    """At most `max_agents` idle agents, none idle for longer than `agent_idle_s`; the longest idle go first.

    Belongs to the serving loop, except for `build`. `workspace` names the folder of a session.
    """

    _journal: Journal
    _target: Target
    _loops: Loops
    _clock: Clock
    _options: Options
    workspace: Callable[[SessionKey], str]
    _retries: Retries
    files_root: str | None = None
    """The folder that files are read from."""
    _idle: OrderedDict[SessionKey, _Idle] = field(default_factory=OrderedDict)
    """In the order in which they became idle: resting ones first."""
    _unwanted: Counter[SessionKey] = field(default_factory=Counter)
    _used_loops: set[object] = set()
    """The loops of all pooled agents, and maybe some that no agent uses any more."""

    def __len__(self) -> int:
        return len(self._idle)

    def pop(self, key: SessionKey) -> SessionAgent | None:
        """Take out the agent of a session, if it is here and better than a new one."""
        idle = self._idle.pop(key, None)
        if idle is None:
            return None
        if self._loops.accepts(idle.loop):
            return idle.agent
        self._loops.discard(idle.agent)
        return None

    async def build(self, attempt: LiveAttempt) -> SessionAgent:
        """Return an agent for a session, built on the agent loop from the session's record in the journal."""
        attempt.enter("building the agent")
        workspace = Path(attempt.context.workspace)
        private.make_folder(workspace)
        private.tighten(workspace)  # (older versions made it laxer)
        key = attempt.claim.run.key
        record = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
        if not self._options.self_managed:
            trouble = "run %s waits for its session's history"
            record = await self._retries.until_stored(partial(self._journal.load, key), trouble, attempt.context.run_id)
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
        self._idle[key] = _Idle(agent, loop, self._clock.monotonic())
        if len(self) > self._options.max_agents:
            self._drop_oldest()

    def drop(self, key: SessionKey) -> None:
        """Drop the agent of a session, if it is here."""
        if (idle := self._idle.pop(key, None)) is not None:
            self._loops.discard(idle.agent)

    def drop_all(self, unwanted: Callable[[SessionKey], bool]) -> None:
        """Drop the agents of all sessions that are unwanted."""
        for key in [key for key in self._idle if unwanted(key)]:
            self.drop(key)

    def evict(self) -> None:
        """Drop the agents that have been idle for too long, and have those rest that have been idle for a while."""
        now = self._clock.monotonic()
        for idle in reversed(self._idle.values()):
            if idle.rests:
                break
            if idle.since <= now - REST_AFTER_S:
                idle.rests = True
                self._loops.post(idle.agent.compact)
        while self._idle and next(iter(self._idle.values())).since <= now - self._options.agent_idle_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._idle.popitem(last=False)
        self._loops.discard(oldest.agent)

    def drop_lost(self) -> None:
        """Drop the agents whose loops are lost; while none is, agents are not examined."""
        lost = {loop for loop in self._used_loops if not self._loops.is_current(loop)}
        if not lost:
            return
        self._used_loops -= lost
        for key in [key for key, idle in self._idle.items() if idle.loop in lost]:
            self.drop(key)
