"""One process of a world: a service with its journal, loops and agents, and the way that requests take to it.

It dies at once, or it is drained. From its death on nothing of it has any effect: its journal, its agents and its
answers see that it is dead before they do anything.
"""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVar

from simulation.agents import Phase
from simulation.firing import Firings
from simulation.gate import GATE, Gate
from simulation.loop import Chance, SeededLoops, UnsteadyClock
from simulation.perils import Perils
from simulation.record import Record
from simulation.script import Script
from simulation.workers import WorkerPool
from strandline._engine.loops import Call
from strandline._engine.options import Options
from strandline._engine.service import Service
from strandline._engine.webhooks import Sender
from strandline._journal.port import Change, ChangeAnswer, Changed, Delete, Journal
from strandline._model import RunId, SessionKey
from strandline._workers import messages as m
from strandline._workers.target import WorkersTarget

T = TypeVar("T")
WAKES_S = 0.3
"""How long a thread of a process that wakes may wait for the processor."""
WORKSPACE = tempfile.gettempdir()


class Gone(Exception):
    """The connection broke: the process died before it answered."""


class GatedLoops(SeededLoops):
    """Agent loops of a process that may be frozen: when it wakes, their threads may run before that of the serving
    loop, or after it."""

    def __init__(self, chance: Chance, gate: Gate) -> None:
        super().__init__(chance)
        self._gate = gate

    def _begin(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        GATE.set(self._gate)  # (in the context of this very callback)
        super()._begin(call, work)


class Server:
    """A process, from its start to its end."""

    def __init__(
        self,
        number: int,
        *,
        chance: Chance,
        record: Record,
        scripts: dict[str, Script],
        clock: UnsteadyClock,
        gate: Gate | None = None,
    ) -> None:
        self.number = number
        self.alive = True
        self.fenced = False
        """Whether another process has taken over its journal; it does not know that, and continues."""
        self.ready = False
        self.chance = chance
        self.record = record
        self.scripts = scripts
        self.clock = clock
        self.gate = gate
        """What keeps all of it from running on while it is frozen; None: it never is."""
        self.agents = None if gate is None else Gate()
        """The same for its agent loops."""
        self._replies: dict[asyncio.Future[Any], None] = {}
        self._at_death: list[Callable[[], object]] = []
        self.sender: Sender | None = None
        """What sends events to webhooks."""
        self.supervisor: asyncio.Future[None] | None = None
        """Waits until the process asks to be replaced."""
        self.service: Service

    def make(
        self,
        journal: Journal,
        options: Options,
        new_run_id: Callable[[SessionKey], RunId],
        perils: Perils,
        firings: Firings,
        *,
        resumable: bool,
    ) -> None:
        """Make the service; it does not start yet."""
        self._loops: SeededLoops | WorkerPool = (
            SeededLoops(self.chance) if self.agents is None else GatedLoops(self.chance, self.agents)
        )
        self._target: Phase | WorkersTarget = Phase(self, resumable=resumable)
        if perils.workers:
            self._loops = WorkerPool(self, perils, self.clock, resumable=resumable)
            loaded = m.Loaded(resumable=resumable, singleton=False, self_managed=False, description="an actor")
            self._target = WorkersTarget(loaded, self._loops, lambda: None)
            self.at_death(self._loops.close)
        self._note_expiry(journal)
        firings.write_down(journal, self.clock.monotonic)
        self.service = Service(
            journal=journal,
            target=self._target,
            loops=self._loops,
            clock=self.clock,
            new_run_id=new_run_id,
            new_schedule_id=firings.new_id,
            workspace=lambda key: WORKSPACE,
            options=options,
            owner=f"process {self.number}",
            sender=self.sender,
        )
        firings.write_down_refusals(self.service, self.clock.monotonic)

    def _note_expiry(self, journal: Journal) -> None:
        """Write down which sessions are forgotten because they are at rest, and which are found to be busy then."""
        changes, numbers = journal.change, count(1)

        async def change(change: Change) -> ChangeAnswer:
            if not isinstance(change, Delete) or change.ended_before is None:
                return await changes(change)
            name = f"f{self.number}.{next(numbers)}"
            self.note("expiring", name, session=change.key)
            answer = await changes(change)
            self.note("forgot", name, existed=answer == Changed(existed=True))
            return answer

        journal.change = change  # type: ignore[method-assign]

    async def start(self) -> None:
        """Start it, as `strandline._composition.start` does."""
        if isinstance(self._target, WorkersTarget):
            await self._loops.start(self._target.probe).done
        await self.service.start()

    def kill_workers(self) -> None:
        """Have some of its workers die, if it has any."""
        if isinstance(self._loops, WorkerPool):
            self._loops.kill_some(self.chance)

    def note(self, what: str, run: str = "", **details: Any) -> None:
        """Write down an event of this process."""
        self.record.note(self.clock.monotonic(), what, run, process=self.number, **details)

    def context(self) -> Context:
        """Return a context for what runs in it and is not the engine's."""
        context = Context()
        if self.agents is not None:
            context.run(GATE.set, self.agents)
        return context

    def task(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Have it do something."""
        context = copy_context() if self.gate is None else Context()
        if self.gate is not None:
            context.run(GATE.set, self.gate)
        return asyncio.get_running_loop().create_task(work, context=context)

    async def stand_still(self, seconds: float) -> None:
        """Freeze it for some time. It wakes thread by thread."""
        gates = [gate for gate in (self.gate, self.agents) if gate is not None]
        for gate in gates:
            gate.shut()
        await asyncio.sleep(seconds)
        if self.chance.happens(0.7):
            gates.reverse()
        if self.alive:
            self.note("woken")
        for gate in gates:
            gate.open()
            await asyncio.sleep(WAKES_S * self.chance.random() ** 2)

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self.gate is not None and self.gate.is_shut

    def at_death(self, call: Callable[[], object]) -> None:
        """Have `call` called when the process dies."""
        self._at_death.append(call)

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Send a request and return its answer. Raises `Gone` if the process dies first."""
        if not self.ready:
            work.close()
            raise Gone
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self.task(work)
        self._replies[reply] = None

        def answer(task: asyncio.Task[T]) -> None:
            self._replies.pop(reply, None)
            error = None if task.cancelled() else task.exception()
            if reply.done():
                return
            if task.cancelled():
                reply.set_exception(Gone())
            elif error is not None:
                reply.set_exception(error)
            else:
                reply.set_result(task.result())

        task.add_done_callback(answer)
        try:
            return await reply
        finally:
            if not task.done():
                task.cancel()

    def be_replaced(self) -> None:
        """Work on out of reach of clients; the next process takes the journal when it opens it, not before."""
        self.ready = False
        self._break_connections()

    async def die(self) -> None:
        """End at this very moment."""
        self.is_dead()
        await self.service.abort()

    async def request_exit(self) -> None:
        """End after a drain: whatever user code still works ends with the process."""
        self.is_dead()
        self._loops.close()

    def is_dead(self) -> None:
        """Have nothing of it run any more."""
        self.alive = self.ready = False
        for gate in (self.gate, self.agents):
            if gate is not None:
                gate.die()
        for call in self._at_death:
            call()
        if self.supervisor is not None and self.supervisor is not asyncio.current_task():
            self.supervisor.cancel()
        self._break_connections()

    def _break_connections(self) -> None:
        replies, self._replies = self._replies, {}
        for reply in replies:
            if not reply.done():
                reply.set_exception(Gone())

    def is_quiet(self) -> bool:
        """Return whether nothing executes, is held, waits or is on its way, and it would continue if something came."""
        health = self.service.health()
        rests = not (health.processing or health.queue_depth or self.service._queues.expects_claims())
        return self.ready and health.ready and rests

    async def unsent(self) -> int:
        """Return how many events wait to be sent to webhooks, or are dead."""
        outbox = self.service.outbox
        vitals = None if outbox is None else await outbox.vitals()
        return 0 if vitals is None else vitals.waiting + vitals.dead

    def is_choked(self) -> bool:
        """Return whether runs wait since too many ended ones of their principal still work."""
        queues = self.service._queues
        return any(share.waiting and queues.is_full(name) for name, share in self.service.shares().items())

    def survivors(self) -> list[str]:
        """Return what a service that has nothing to do still holds."""
        service: Any = self.service
        health = service.health()
        found = {
            "runs that execute": health.running,
            "runs that wait": health.queue_depth,
            "holds": health.held,
            "accepts under way": len(service._claims._accepting),
            "tasks that execute": len(service._claims._executing),
            "live attempts": len(service._runner._live),
            "streams": len(service._streams),
            "sessions with a slot, or in line for one": len(service._queues),
            "slots in use": service.options.max_running - service._queues.slots.free,
            "claims that may come": int(service._queues.expects_claims()),
            "limits of runs that wait": len(service._journal.sessions._deadlines),
        }
        there = self._loops.survivors() if isinstance(self._loops, WorkerPool) else []
        return [f"{number} {what}" for what, number in found.items() if number] + there
