"""Factories: a function that makes the agent, Graph or Swarm of a session, and how it is known which of them.

Whether the tools of a run can be seen is stored when the run is accepted, so it has to be known before the first
request what a factory makes. It is known, in this order: from its return annotation or, if it is a class, from that;
from calling it once at the start, on the loop that it is always called on, with a session id and a principal of our
own, and dropping what it made once a session has an agent; else, if it failed there, it counts as one whose tools
cannot be seen until it has made an agent: the safe side, since such a run is never gone on with after a crash.
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

TRIED_WITH: Final = SessionId("strandline-start")
"""The session id with which a factory is called at the start."""
TRIED_AS: Final = SessionKey(Principal(TRIED_WITH), TRIED_WITH)
"""Whose session it is then: nobody's, so that nothing of a real principal is touched."""
TRIED_FOR_S: Final = 10.0
"""How long the start waits for a factory to show what it makes."""


class FactoryTarget(StrandsTarget):
    """A factory, sync or async, of an `Agent`, a `Graph` or a `Swarm`."""

    def __init__(
        self, factory: Callable[..., Any], *, takes: Parameters, description: str, self_managed: bool = False
    ) -> None:
        super().__init__(factory, takes=takes, description=description)
        self.self_managed = self_managed
        made = None if self_managed else announced(factory)
        self._unknown = made is None and not self_managed
        self._tried: object | None = None
        """What the trial has made, until a session has an agent: the last to go closes connections that they share."""
        self.resumable = made == {Agent}

    async def probe(self) -> None:
        """Call the factory once, unless it is known what it makes. A factory that fails is told of, no more.

        It may fail (or return None) for a session that does not exist, or because something that it needs is not up
        yet. Raises `TargetError` if it returns something else that is no agent: it will for every session.
        """
        if not self._unknown:
            return
        trial = asyncio.create_task(self._try())
        await asyncio.wait({trial}, timeout=TRIED_FOR_S)
        if not trial.done():
            trial.cancel()
            _log.warning("tried at the start, the factory did not return within %g s", TRIED_FOR_S)
            return
        match trial.result():
            case Agent() | Graph() | Swarm() as made:
                self._learn(made)
                self._tried = made
                _log.info("the factory, tried with the session id %r, makes %s", TRIED_WITH, kind_of(made))
            case AgentFailed() as failed:
                _log.warning(
                    "tried at the start, %s; it is called again for each session", Private(_told(failed), "it failed")
                )
            case None:
                _log.warning("tried at the start, the factory returned None, not a strands.Agent")
            case other:
                raise TargetError(
                    f"the factory, tried with the session id {TRIED_WITH!r}, returned {kind_of(other)}, not a"
                    " strands.Agent: return `Agent(...)`, made anew in each call"
                )

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Call the factory and put the session's conversation into what it returns, unless that has it already."""
        agent = await self._built(key, record, progress)
        if self._tried is not None:
            self._drop_tried()
        return agent

    async def _built(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        made = await self._made(key)
        if self.self_managed:
            keeper = self._checked_external(made)
            await withdraw_questions(keeper)
            return SelfManagedAgent(keeper)
        if isinstance(made, Graph | Swarm):
            if self.resumable:
                raise AgentFailed(
                    f"the factory returned a {type(made).__name__}, but was taken for one that makes agents only. What"
                    " it makes has to be known before a run is accepted: give it the return annotation"
                    " `-> Agent | Graph | Swarm`"
                )
            return MultiAgent(self._checked_multi(made), record.state)
        agent = self._checked(made)
        self._learn(agent)
        return StrandsAgent(agent, record, progress)

    async def _try(self) -> object:
        try:
            return await self._made(TRIED_AS)
        except BaseException as error:
            return error if isinstance(error, AgentFailed) else AgentFailed(f"the factory failed: {error!r}")

    def _drop_tried(self) -> None:
        """Let go of it, in a thread that works for no run: connections of its own may take long to close."""
        box, self._tried = [self._tried], None
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

    def _checked_external(self, made: object) -> Agent:
        if isinstance(made, Graph | Swarm):
            raise AgentFailed(
                f"the factory returned a {type(made).__name__}. With history=external an agent's own session manager"
                f" keeps the conversation, and that of a {type(made).__name__} keeps none: leave `history` as it is"
            )
        if isinstance(made, Agent) and not has_session_manager(made):
            raise AgentFailed(
                "with history=external the conversation is the agent's own to keep, but the factory returned an agent"
                " without a session manager: give it one (`session_manager=FileSessionManager(session_id=session_id)`),"
                " or leave `history` as it is"
            )
        return self._checked(made)

    def _check_history(self, agent: Agent) -> None:
        if not self.self_managed:
            super()._check_history(agent)


def announced(factory: Callable[..., Any]) -> set[type] | None:
    """Return which of `Agent`, `Graph` and `Swarm` a factory makes, by its annotation; None if that does not say."""
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
    """Yield what a union is made of, and what an awaitable gives; `None` in a union makes nothing."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            if each is not type(None):
                yield from _parts(each)
    elif isinstance(origin, type) and issubclass(origin, typing.Awaitable):
        yield from _parts(typing.get_args(annotation)[-1])
    else:
        yield annotation


def _told(failed: AgentFailed) -> str:
    return f"{failed}: {failed.__cause__!r}" if failed.__cause__ is not None else str(failed)
