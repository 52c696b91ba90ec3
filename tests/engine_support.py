"""An engine on virtual time with a target whose every step a test controls."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from strandline._agents.port import Attempt, Finished, SessionAgent, Target
from strandline._clock import Clock
from strandline._engine.admission import Ticket
from strandline._engine.events import Event
from strandline._engine.loops import CURRENT, Call, LiveThread, Loops
from strandline._engine.observers import UNOBSERVED, UNPROJECTED, Observer, Projection
from strandline._engine.options import Options
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._engine.streams import EventRecorder, RunStream
from strandline._history import Progress, prompt_message
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Journal
from strandline._model import (
    ANONYMOUS,
    AgentRecord,
    Message,
    Outcome,
    Principal,
    RunId,
    SessionId,
    SessionKey,
    Succeeded,
)
from strandline.testing._virtual import InlineLoops, VirtualClock

NUMBERS = count()
Behaviour = Callable[[Attempt], Awaitable[str]]


def publish_all(stream: RunStream, events: Iterable[tuple[float, Event]]) -> None:
    """Publish many events."""
    for at, event in events:
        stream.publish(at, event)


def key(session: str = "s", principal: str = ANONYMOUS) -> SessionKey:
    return SessionKey(Principal(principal), SessionId(session))


def silent_recorder(clock: Clock) -> EventRecorder:
    """Return a recorder without subscribers."""
    return EventRecorder(RunStream(RunId("r"), key()), lambda arrive: None, clock, cut=1000)


class Played:
    """A target that plays `behaviour(attempt)` and answers with the text that it returns."""

    def __init__(self, behaviour: Behaviour, *, resumable: bool = True) -> None:
        self.behaviour = behaviour
        self.resumable = resumable
        self.singleton = False
        self.self_managed = False
        self.description = "played"
        self.rested = 0
        self.built: list[tuple[SessionKey, AgentRecord, Progress]] = []

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        self.built.append((key, record, progress))
        return PlayedAgent(self)


class PlayedAgent:
    def __init__(self, target: Played) -> None:
        self._target = target

    async def run(self, attempt: Attempt) -> Finished:
        if attempt.prompt is not None:
            attempt.add(prompt_message(attempt.prompt))
        text = await self._target.behaviour(attempt)
        attempt.add({"role": "assistant", "content": [{"text": text}]})
        return Finished(ending=Succeeded())

    def compact(self) -> None:
        self._target.rested += 1


async def echo(attempt: Attempt) -> str:
    return f"echo {prompt_of(attempt)}"


def prompt_of(attempt: Attempt) -> str:
    return str(attempt.messages[0]["content"][0]["text"])


def tool_round(name: str, tool_use_id: str) -> Message:
    return {"role": "assistant", "content": [{"toolUse": {"toolUseId": tool_use_id, "name": name, "input": {}}}]}


def tool_result(tool_use_id: str, text: str = "done") -> dict[str, Any]:
    return {"toolUseId": tool_use_id, "status": "success", "content": [{"text": text}]}


async def play_round(attempt: Attempt, tool_use_id: str, tool: Callable[[], Awaitable[str]]) -> None:
    """Do one round with one tool as a session agent does it."""
    attempt.add(tool_round("tool", tool_use_id))
    await attempt.begin_round()
    result = tool_result(tool_use_id, await tool())
    await attempt.end_tool(tool_use_id, result)
    attempt.add({"role": "user", "content": [{"toolResult": result}]})
    await attempt.end_round(None)


@asynccontextmanager
async def serving(
    clock: VirtualClock,
    target: Target,
    journal: Journal | None = None,
    *,
    loops: Loops | None = None,
    observer: Observer = UNOBSERVED,
    projection: Projection = UNPROJECTED,
    **options: Any,
) -> AsyncIterator[Service]:
    """Serve a target; what still runs at the end of the block is left as a killed process leaves it."""
    service = Service(
        journal=journal or MemoryJournal(clock),
        target=target,
        loops=loops or InlineLoops(),
        clock=clock,
        new_run_id=lambda key: RunId(f"run_{next(NUMBERS)}"),
        workspace=lambda key: tempfile.gettempdir(),
        options=Options(**options),
        observer=observer,
        projection=projection,
    )
    await service.start()
    try:
        yield service
    finally:
        await service.abort()


async def send(service: Service, text: str, session: str = "s", principal: str = ANONYMOUS, **more: Any) -> Ticket:
    return await service.submit(Request(key=key(session, principal), input=text, **more))


async def outcome(ticket: Ticket) -> Outcome:
    """Wait for the outcome of a run that ends in this process."""
    end = await ticket.stream.outcome()
    assert isinstance(end, Outcome), end
    return end


async def until_idle(service: Service) -> None:
    """Return when nothing runs or waits."""
    while service.health().processing or service.health().queue_depth:
        await asyncio.sleep(0.01)


async def history(service: Service, session: str = "s") -> list[Message]:
    return await service.history(key(session), count=0, include_tool_messages=True)


def texts(messages: Sequence[Message]) -> list[str]:
    return [block["text"] for message in messages for block in message["content"] if "text" in block]


def tool_texts(messages: Sequence[Message]) -> list[str]:
    """Return the texts of all tool results, in order."""
    results = [b["toolResult"] for m in messages for b in m["content"] if "toolResult" in b]
    return ["".join(part["text"] for part in result["content"]) for result in results]


class Stubborn:
    """Work of a run that nobody can stop, as a thread is: begun by `leave`, over when `end` is called."""

    def __init__(self) -> None:
        self._works: list[tuple[Call[Any], LiveThread]] = []

    def leave(self) -> None:
        call = CURRENT.get()
        assert call is not None
        thread = LiveThread("stubborn")
        call.enter(thread)
        self._works.append((call, thread))

    def end(self) -> None:
        for call, thread in self._works:
            call.leave(thread)
        self._works.clear()
