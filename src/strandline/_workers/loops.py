"""Agent loops in worker processes: what `strandline._engine.loops.Loops` promises, with everything in reach of a kill.

What the engine has started here runs as a task of the serving loop, and is no user code: it stands for a call in a
worker. A call is alive as long as the worker says so. A worker that dies takes with it all that worked there, and
another one takes its place; so does one that is ended because its loop is blocked, or because something works on there
for which nobody waits any more.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, Protocol, TypeVar

from strandline._agents.port import Signal
from strandline._clock import Clock
from strandline._engine.loops import Call, Load, WorkerLoad
from strandline._workers.channel import Channel, Frames
from strandline._workers.client import WorkerClient
from strandline._workers.process import LEAVE_S
from strandline.errors import TargetError

T = TypeVar("T")
_log = logging.getLogger("strandline.workers")

YOUNG_S: Final = 10.0
"""A worker that dies sooner than this is replaced later each time."""
LONGEST_WAIT_S: Final = 30.0
"""But no later than this: what is served cannot be loaded, or dies of it."""
LONGEST_WAIT_READY_S: Final = 2.0
"""And no later than this after one that took calls: one caller whose run kills workers must not keep out all others."""
MOST_DOUBLINGS: Final = 10
"""After how many deaths in a row the wait does not double any more."""
SILENT_S: Final = 1.0
"""A worker that has been silent for so long is given nothing while another one is not."""
MOVE_AT: Final = 4
"""A session whose worker executes so many runs more than another one has its agent made anew there."""
NO_WORKER_S: Final = 5.0
"""For so long no worker may take calls: the longest wait for one after one that took calls, and time to load."""
SPAWN_AGAIN_S: Final = 1.0
"""How long to wait before a process that could not be started is tried again."""


class Process(Protocol):
    """A worker's process; see `strandline._workers.process`."""

    pid: int

    async def connect(self, channel: Channel) -> None:
        """Have the loop that runs listen to it."""
        ...

    def frames(self) -> Frames:
        """Return what has come before somebody listened."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    async def ended(self) -> str:
        """Wait until nothing of it is left; return how it ended."""
        ...

    def leave(self) -> None:
        """Tell it to leave."""
        ...

    def gone(self, within_s: float) -> None:
        """Return when it is gone."""
        ...


class ForwardedSignal:
    """A signal that others are told of."""

    __slots__ = ("_set", "_tell")

    def __init__(self) -> None:
        self._set = False
        self._tell: Callable[[], object] | None = None

    def is_set(self) -> bool:
        """Return whether it was set."""
        return self._set

    def set(self) -> None:
        """Set it."""
        if not self._set:
            self._set = True
            if self._tell is not None:
                self._tell()

    def follow(self, tell: Callable[[], object]) -> None:
        """Have `tell` called when it is set, or now."""
        self._tell = tell
        if self._set:
            tell()


class WorkerLoops:
    """Agent loops in worker processes. `spawn` starts a process; `processes` were started already, one for each.

    `resumable` says whether runs of their target are, until a worker reports it.
    """

    def __init__(
        self, processes: Sequence[Process], spawn: Callable[[], Process], clock: Clock, *, resumable: bool = False
    ) -> None:
        self._first = processes
        self._resumable = resumable
        self._spawn = spawn
        self._clock = clock
        self._workers: list[WorkerClient] = []
        """The workers in use, by their places."""
        self._processes: dict[WorkerClient, Process] = {}
        """All that are not known to be gone."""
        self._draining: list[WorkerClient] = []
        self._failures = [0] * len(processes)
        """How many times in a row the worker of a place has died young."""
        self._free: asyncio.Event = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._took_calls_at = clock.monotonic()
        """When a worker that takes calls was last seen."""
        self._given_up = 0
        self._lost = 0

    # -- workers -----------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Listen to the workers; return when each of them takes calls, or has failed to.

        Raises `TargetError` if one has found that what it serves cannot be served.
        """
        for place, process in enumerate(self._first):
            self._workers.append(self._attended(place, process))
        first = list(self._workers)  # (in the place of one that leaves there is soon another)
        await asyncio.wait([worker.ready for worker in first])
        if refused := next((worker.why for worker in first if worker.why), None):
            raise TargetError(refused)
        self._took_calls_at = self._clock.monotonic()

    async def free(self) -> WorkerClient:
        """Return the worker that has least to do, as soon as there is one."""
        while not (free := [worker for worker in self._workers if worker.is_free]):
            self._free.clear()
            await self._free.wait()
        return min(free, key=lambda worker: (worker.silent_s() >= SILENT_S, worker.running, worker.agents))

    @property
    def takes_calls(self) -> bool:
        """Whether a worker takes calls, or did a moment ago: for one that dies, another is there in seconds."""
        return (
            any(worker.is_free for worker in self._workers)
            or self._clock.monotonic() - self._took_calls_at < NO_WORKER_S
        )

    @property
    def resumable(self) -> bool:
        """Whether runs are resumable in every worker, as each or its predecessor reported."""
        known = [worker.resumable for worker in self._workers if worker.resumable is not None]
        return all(known) if known else self._resumable

    def _attended(self, place: int, process: Process, *, resumable: bool | None = None) -> WorkerClient:
        worker = WorkerClient(process.pid, self._clock, process.kill, resumable=resumable)
        self._processes[worker] = process
        worker.ready.add_done_callback(lambda _: self._free.set())
        self._do(self._attend(place, worker, process))
        return worker

    async def _attend(self, place: int, worker: WorkerClient, process: Process) -> None:
        """Listen to a worker until it is gone, and see to it that another one is in its place then."""
        began = self._clock.monotonic()
        await process.connect(worker.channel(process.frames()))
        how = await process.ended()
        await worker.last_words()
        was_dismissed, was_ready = worker.dismissed, worker.ready.done()
        worker.dead()
        del self._processes[worker]
        if worker in self._draining:
            self._draining.remove(worker)
        if self._closed or self._workers[place] is not worker:
            return
        if not was_dismissed:
            self._lost += 1
            what = f"cannot serve: {worker.why}" if worker.why else f"has died: {how}"
            _log.error("worker %d (process %d) %s", place, worker.pid, what)
        young = self._clock.monotonic() - began < YOUNG_S
        self._failures[place] = self._failures[place] + 1 if young else 0
        if young:
            doublings = min(self._failures[place] - 1, MOST_DOUBLINGS)  # (2.0 ** 1024 is more than a float can be)
            await asyncio.sleep(min(2.0**doublings - 1, LONGEST_WAIT_READY_S if was_ready else LONGEST_WAIT_S))
        self._replace(place, worker)

    def _replace(self, place: int, worker: WorkerClient) -> None:
        """Have another worker in the place of `worker`, unless there is one."""
        if self._closed or self._workers[place] is not worker:
            return
        try:
            process = self._spawn()
        except OSError as error:
            _log.error("no process can take the place of worker %d yet: %s", place, error)
            self._do(self._replace_later(place, worker))
            return
        self._workers[place] = self._attended(place, process, resumable=worker.resumable)
        _log.info("process %d takes the place of worker %d", process.pid, place)

    async def _replace_later(self, place: int, worker: WorkerClient) -> None:
        await asyncio.sleep(SPAWN_AGAIN_S)
        self._replace(place, worker)

    # -- what the engine asks for ------------------------------------------------------------------

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` as a task of the serving loop, in a copy of the caller's context."""
        call: Call[T] = Call(asyncio.get_running_loop().create_future(), self)
        call.begin(work, copy_context()).add_done_callback(call.end)
        return call

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once; where it waits for a worker, that is told."""
        if call.task is not None:
            call.task.cancel()

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` soon."""
        asyncio.get_running_loop().call_soon(work)

    def post_back(self, work: Callable[[], object]) -> None:
        """Call `work` soon."""
        asyncio.get_running_loop().call_soon(work)

    def discard(self, thing: object) -> None:
        """Do nothing: what stands for an agent has it dropped when it is gone itself."""

    def signal(self) -> Signal:
        """Return a signal that a worker is told of."""
        return ForwardedSignal()

    def beat(self) -> None:
        """Ask all workers for a sign of life."""
        if any(worker.is_free for worker in self._workers):
            self._took_calls_at = self._clock.monotonic()
        for worker in list(self._processes):
            worker.beat()
            worker.end_if_idle()

    def silent_s(self, call: Call[Any]) -> float:
        """Return for how long the call's worker has owed a sign of life; 0 for one that is being ended at once."""
        worker = call.loop
        return (
            worker.silent_s()
            if isinstance(worker, WorkerClient) and (worker in self._workers or worker in self._draining)
            else 0.0
        )

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether it is this call's code that had the thread of its worker's loop when last heard of."""
        return isinstance(call.loop, WorkerClient) and call.loop.blocks(call)

    def replace(self, call: Call[Any]) -> bool:
        """End the call's worker at once, and all that works there with it."""
        if isinstance(call.loop, WorkerClient) and call.loop in self._workers:
            self._given_up += 1
            call.loop.kill()
            self._replace(self._workers.index(call.loop), call.loop)
        elif isinstance(call.loop, WorkerClient) and call.loop in self._draining:
            self._draining.remove(call.loop)
            self._given_up += 1
            call.loop.kill()
        return True

    def drain(self, call: Call[Any]) -> bool:
        """Have the call's worker do to the end what others wait for, begin nothing more, and end.

        Of workers that are to end there are no more than workers, and one is left that takes calls, unless it is the
        only one: False as long as that would not be so.
        """
        worker = call.loop
        if not isinstance(worker, WorkerClient) or worker not in self._workers:
            return True
        others = [each for each in self._workers if each is not worker]
        if len(self._draining) >= len(self._workers) or (others and not any(each.is_free for each in others)):
            return False
        place = self._workers.index(worker)
        _log.warning("worker %d (process %d) ends: something works there that nobody waits for", place, worker.pid)
        self._replace(place, worker)
        self._draining.append(worker)
        worker.drain()
        return True

    def is_current(self, loop: object) -> bool:
        """Return whether calls may begin in a worker."""
        return isinstance(loop, WorkerClient) and loop.is_free

    def accepts(self, loop: object) -> bool:
        """Return whether a worker takes calls, and is neither blocked nor much busier while another one is not.

        After a death all sessions are with the others: without this they would stay there for as long as they talk.
        """
        if not isinstance(loop, WorkerClient) or not loop.is_free:
            return False
        others = [worker.running for worker in self._workers if worker.is_free and worker.silent_s() < SILENT_S]
        if not others:
            return True
        return loop.silent_s() < SILENT_S and loop.running < MOVE_AT + min(others)

    def load(self) -> Load:
        """Return how the workers are doing."""
        workers = [
            WorkerLoad(pid=worker.pid if worker.is_free else None, running=worker.running, silent_s=worker.silent_s())
            for worker in self._workers
        ]
        return Load(
            silent_s=max((each.silent_s for each in workers), default=0.0),
            backlog=sum(worker.backlog for worker in self._workers),
            given_up=self._given_up,
            workers=workers,
            workers_lost=self._lost,
        )

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return where the call's code is, as far as its worker tells."""
        if not isinstance(call.loop, WorkerClient):
            return ["waits for a worker"]
        return await call.loop.stack(call)

    def close(self) -> bool:
        """End all workers: nothing is left to work. Returns True."""
        if self._closed:
            return True
        self._closed = True
        processes = list(self._processes.values()) if self._workers else list(self._first)
        for process in processes:
            process.leave()
        until = time.monotonic() + LEAVE_S
        for process in processes:
            process.gone(until - time.monotonic())
        return True

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, context=Context())  # not that of the run for which a worker is replaced
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
