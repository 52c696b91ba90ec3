"""Factories: functions that make the agent, Graph or Swarm of a session, and the detection of which one.

Whether a run is resumable is stored when it is accepted, so it must be known before the first request what a factory
makes. In this order: from its return annotation or class; from calling it once at the start, on the agent loop, with a
session id and principal of our own (the result is dropped once a session has an agent); if that fails, its runs count
as not resumable until it has made an agent: the safe side, since such a run never resumes after a crash.
"""

import asyncio
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any, Final

from strands import Agent
from strands.multiagent.graph import Graph
from strands.multiagent.swarm import Swarm

from strandline._agents.multi import MultiAgent, agents_in, check_multi
from strandline._agents.parameters import Parameters
from strandline._agents.port import SessionAgent
from strandline._agents.self_managed import SelfManagedAgent, withdraw_questions
from strandline._agents.strands import StrandsAgent, StrandsTarget, kind_of
from strandline._compat.strands import has_session_manager
from strandline._history import Progress
from strandline._model import AgentRecord, Principal, SessionId, SessionKey
from strandline._printable import Private
from strandline.errors import AgentFailed, TargetError

_log = logging.getLogger("strandline.agents")

PROBE_SESSION: Final = SessionId("strandline-start")
"""The session id of the call at the start."""
PROBE_KEY: Final = SessionKey(Principal(PROBE_SESSION), PROBE_SESSION)
"""Its key: the principal is nobody, so that the call touches nothing of a real one."""
PROBE_TIMEOUT_S: Final = 10.0
"""How long the start waits for the factory."""


class FactoryTarget(StrandsTarget):
    """A factory, sync or async, of an `Agent`, a `Graph` or a `Swarm`."""

    def __init__(
        self, factory: Callable[..., Any], *, takes: Parameters, description: str, self_managed: bool = False
    ) -> None:
        super().__init__(factory, takes=takes, description=description)
        self.self_managed = self_managed
        made = None if self_managed else announced(factory)
        self._unknown = made is None and not self_managed
        self._probed: object | None = None
        """The result of the probe, kept until a session has an agent, so that shared connections stay open."""
        self.resumable = made == {Agent}

    async def probe(self) -> None:
        """Call the factory once, unless its product is known. A failure is only logged.

        The factory may fail or return None for a session that does not exist, or because a dependency is not up yet.
        Raises `TargetError` if it returns anything else that is no agent, as it would for every session.
        """
        if not self._unknown:
            return
        probe = asyncio.create_task(self._probe())
        await asyncio.wait({probe}, timeout=PROBE_TIMEOUT_S)
        if not probe.done():
            probe.cancel()
            _log.warning("tried at the start, the factory did not return within %g s", PROBE_TIMEOUT_S)
            return
        match probe.result():
            case Agent() | Graph() | Swarm() as made:
                self._learn(made)
                self._probed = made
                _log.info("the factory, tried with the session id %r, makes %s", PROBE_SESSION, kind_of(made))
            case AgentFailed() as failed:
                _log.warning(
                    "tried at the start, %s; it is called again for each session", Private(_reason(failed), "it failed")
                )
            case None:
                _log.warning("tried at the start, the factory returned None, not a strands.Agent")
            case other:
                raise TargetError(
                    f"the factory, tried with the session id {PROBE_SESSION!r}, returned {kind_of(other)}, not a"
                    " strands.Agent: return `Agent(...)`, made anew in each call"
                )

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Call the factory and load the session's conversation into its agent, unless it is self-managed."""
        agent = await self._built(key, record, progress)
        if self._probed is not None:
            self._drop_probed()
        return agent

    async def _built(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        made = await self._made(key)
        if self.self_managed:
            keeper = self._checked_self_managed(made)
            await withdraw_questions(keeper)
            return SelfManagedAgent(keeper)
        if isinstance(made, Graph | Swarm):
            if self.resumable:
                raise AgentFailed(
                    f"the factory returned a {type(made).__name__}, but was expected to make agents only. Its kind"
                    " must be known before a run is accepted: add the return annotation `-> Agent | Graph | Swarm`"
                )
            return MultiAgent(self._checked_multi(made), record.state)
        agent = self._checked(made)
        self._learn(agent)
        return StrandsAgent(agent, record, progress)

    async def _probe(self) -> object:
        try:
            return await self._made(PROBE_KEY)
        except BaseException as error:
            return error if isinstance(error, AgentFailed) else AgentFailed(f"the factory failed: {error!r}")

    def _drop_probed(self) -> None:
        """Release it in a thread outside of any run: closing its connections may take long."""
        box, self._probed = [self._probed], None
        Context().run(asyncio.get_running_loop().run_in_executor, None, box.clear)

    def _learn(self, made: object) -> None:
        if self._unknown:
            self._unknown = False
            self.resumable = isinstance(made, Agent)

    def _checked_multi(self, made: Graph | Swarm) -> Graph | Swarm:
        check_multi(made)
        agents = list(agents_in(made))
        self._own(
            (made, type(made).__name__),
            *((agent, "Agent") for agent in agents),
            *((agent.conversation_manager, "conversation manager") for agent in agents),
        )
        for agent in agents:
            self._silence(agent)
        return made

    def _checked_self_managed(self, made: object) -> Agent:
        if isinstance(made, Graph | Swarm):
            raise AgentFailed(
                f"the factory returned a {type(made).__name__}. With history=session_manager an agent's own session"
                f" manager keeps the conversation, and a {type(made).__name__} has none: leave `history` as it is"
            )
        if isinstance(made, Agent) and not has_session_manager(made):
            raise AgentFailed(
                "with history=session_manager the agent keeps its own conversation, but the factory returned an agent"
                " without a session manager: give it one (`session_manager=FileSessionManager(session_id=session_id)`),"
                " or leave `history` as it is"
            )
        return self._checked(made)

    def _check_history(self, agent: Agent) -> None:
        if not self.self_managed:
            super()._check_history(agent)


def announced(factory: Callable[..., Any]) -> set[type] | None:
    """Return which of `Agent`, `Graph` and `Swarm` a factory makes by its annotation, None if that is unknown."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    if isinstance(factory, type):
        returned: Any = factory
    else:
        code = factory if inspect.isroutine(factory) else type(factory).__call__
        try:
            returned = typing.get_type_hints(code).get("return")
        except Exception:  # an annotation may name anything
            return None
    made: set[type] = set()
    for each in _parts(returned):
        kinds = {kind for kind in (Agent, Graph, Swarm) if isinstance(each, type) and issubclass(each, kind)}
        if not kinds:
            return None
        made |= kinds
    return made


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, except None, and the result of an awaitable."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            if each is not type(None):
                yield from _parts(each)
    elif isinstance(origin, type) and issubclass(origin, typing.Awaitable):
        yield from _parts(typing.get_args(annotation)[-1])
    else:
        yield annotation


def _reason(failed: AgentFailed) -> str:
    return f"{failed}: {failed.__cause__!r}" if failed.__cause__ is not None else str(failed)
