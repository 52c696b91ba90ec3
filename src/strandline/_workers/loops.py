"""Agent loops in worker processes: implements `strandline._engine.loops.Loops`.

A call started here is a task of the serving loop that waits for a call in a worker; it runs no user code. It is alive
until the worker reports its end. A worker that dies ends all its calls and is replaced; so is one that is killed
because its loop is blocked, or because a tool works on there after its run has ended.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, Protocol, TypeVar

from strandline._agents.port import Signal
from strandline._backoff import Backoff
from strandline._clock import Clock
from strandline._engine.loops import Call, Load, WorkerLoad
from strandline._workers import messages as m
from strandline._workers.channel import Channel, Frames
from strandline._workers.client import WorkerClient
from strandline._workers.process import EXIT_S
from strandline.errors import TargetError

T = TypeVar("T")
_log = logging.getLogger("strandline.workers")

SILENT_S: Final = 1.0
"""A worker that has been silent for this long gets no calls while another one responds."""
MOVE_AT: Final = 4
"""A session moves to another worker if its own executes this many runs more."""
NO_WORKER_S: Final = 5.0
"""How long the server stays ready without a ready worker: the longest wait for a replacement, and time to load."""
SPAWN_AGAIN_S: Final = 1.0
"""How long to wait after a process could not be started."""


class Process(Protocol):
    """A worker's process; see `strandline._workers.process`."""

    pid: int

    async def connect(self, channel: Channel) -> None:
        """Connect it to the running loop."""
        ...

    def frames(self) -> Frames:
        """Return the frames that arrived before it was connected."""
        ...

    def kill(self) -> None:
        """Kill it."""
        ...

    async def ended(self) -> str:
        """Wait until it is gone; return how it ended."""
        ...

    def request_exit(self) -> None:
        """Ask it to exit."""
        ...

    def wait(self, within_s: float) -> None:
        """Wait until it is gone; kill it after `within_s` seconds."""
        ...


class ForwardedSignal:
    """A signal that calls back when it is set."""

    __slots__ = ("_on_set", "_set")

    def __init__(self) -> None:
        self._set = False
        self._on_set: Callable[[], object] | None = None

    def is_set(self) -> bool:
        """Return whether it was set."""
        return self._set

    def set(self) -> None:
        """Set it."""
        if not self._set:
            self._set = True
            if self._on_set is not None:
                self._on_set()

    def forward(self, on_set: Callable[[], object]) -> None:
        """Call `on_set` when the signal is set, or now if it is."""
        self._on_set = on_set
        if self._set:
            on_set()


class WorkerLoops:
    """Agent loops in worker processes. `spawn` starts a process; `processes` are the first ones, one per worker.

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
        """The current workers."""
        self._processes: dict[WorkerClient, Process] = {}
        """All processes that are not known to be gone."""
        self._draining: list[WorkerClient] = []
        self._backoffs = [Backoff() for _ in processes]
        """For each place in `_workers`, how long to wait before a worker there is replaced."""
        self._free: asyncio.Event = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._accepted_at = clock.monotonic()
        """When a worker was last known to accept calls."""
        self._given_up = 0
        self._lost = 0
        self._owned_until: float | None = None

    # -- workers -----------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Connect the workers; return when each one is ready or has failed.

        Raises `TargetError` if a worker reports that the target cannot be served.
        """
        for number, process in enumerate(self._first):
            self._workers.append(self._connected(number, process))
        first = list(self._workers)  # (a worker that exits is soon replaced in the list)
        await asyncio.wait([worker.ready for worker in first])
        if failed := next((worker.why for worker in first if worker.why), None):
            raise TargetError(failed)
        self._accepted_at = self._clock.monotonic()

    async def free(self) -> WorkerClient:
        """Return the least busy worker, as soon as one accepts calls."""
        while not (free := [worker for worker in self._workers if worker.is_free]):
            self._free.clear()
            await self._free.wait()
        return min(free, key=lambda worker: (worker.silent_s() >= SILENT_S, worker.running, worker.agents))

    @property
    def accepts_calls(self) -> bool:
        """Whether a worker accepts calls, or did within `NO_WORKER_S`: a dead one is replaced in seconds."""
        return (
            any(worker.is_free for worker in self._workers) or self._clock.monotonic() - self._accepted_at < NO_WORKER_S
        )

    @property
    def resumable(self) -> bool:
        """Whether runs are resumable in every worker, as each or its predecessor reported."""
        known = [worker.resumable for worker in self._workers if worker.resumable is not None]
        return all(known) if known else self._resumable

    def _connected(self, number: int, process: Process, *, resumable: bool | None = None) -> WorkerClient:
        worker = WorkerClient(process.pid, self._clock, process.kill, resumable=resumable)
        worker.owned_until = self._owned_until
        self._processes[worker] = process
        worker.ready.add_done_callback(lambda _: self._free.set())
        self._do(self._serve_worker(number, worker, process))
        return worker

    async def _serve_worker(self, number: int, worker: WorkerClient, process: Process) -> None:
        """Serve a worker's connection until it is gone, then replace it."""
        began = self._clock.monotonic()
        await process.connect(worker.channel(process.frames()))
        how = await process.ended()
        await worker.read_rest()
        was_dismissed, was_ready = worker.dismissed, worker.ready.done()
        worker.dead()
        del self._processes[worker]
        if worker in self._draining:
            self._draining.remove(worker)
        if self._closed or self._workers[number] is not worker:
            return
        if not was_dismissed:
            self._lost += 1
            what = f"cannot serve: {worker.why}" if worker.why else f"has died: {how}"
            _log.error("worker %d (process %d) %s", number, worker.pid, what)
        await asyncio.sleep(self._backoffs[number].ended(self._clock.monotonic() - began, was_ready=was_ready))
        self._replace(number, worker)

    def _replace(self, number: int, worker: WorkerClient) -> None:
        """Replace `worker`, unless it has been replaced."""
        if self._closed or self._workers[number] is not worker:
            return
        try:
            process = self._spawn()
        except OSError as error:
            _log.error("worker %d cannot be replaced yet: %s", number, error)
            self._do(self._replace_later(number, worker))
            return
        self._workers[number] = self._connected(number, process, resumable=worker.resumable)
        _log.info("process %d replaces worker %d", process.pid, number)

    async def _replace_later(self, number: int, worker: WorkerClient) -> None:
        await asyncio.sleep(SPAWN_AGAIN_S)
        self._replace(number, worker)

    # -- the interface of Loops --------------------------------------------------------------------

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` as a task of the serving loop, in a copy of the caller's context."""
        call: Call[T] = Call(asyncio.get_running_loop().create_future(), self)
        call.begin(work, copy_context()).add_done_callback(call.end)
        return call

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once; if it waits for a worker, the worker cancels the call."""
        if call.task is not None:
            call.task.cancel()

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` soon."""
        asyncio.get_running_loop().call_soon(work)

    def post_back(self, work: Callable[[], object]) -> None:
        """Call `work` soon."""
        asyncio.get_running_loop().call_soon(work)

    def discard(self, thing: object) -> None:
        """Do nothing: a proxy drops its agent when it is garbage-collected."""

    def signal(self) -> Signal:
        """Return a signal that is forwarded to a worker."""
        return ForwardedSignal()

    def owned_until(self, until: float | None) -> None:
        """Send all workers until when user code may start."""
        self._owned_until = until
        if until is not None:
            for worker in self._processes:
                worker.owned_until = until
                worker.send(m.OwnedUntil(until))

    def beat(self) -> None:
        """Ping all workers."""
        if any(worker.is_free for worker in self._workers):
            self._accepted_at = self._clock.monotonic()
        for worker in list(self._processes):
            worker.beat()
            worker.end_if_idle()

    def silent_s(self, call: Call[Any]) -> float:
        """Return how long the call's worker has been silent; 0 if it is being killed."""
        worker = call.loop
        return (
            worker.silent_s()
            if isinstance(worker, WorkerClient) and (worker in self._workers or worker in self._draining)
            else 0.0
        )

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether this call occupied its worker's loop at the last heartbeat."""
        return isinstance(call.loop, WorkerClient) and call.loop.blocks(call)

    def replace(self, call: Call[Any]) -> bool:
        """Kill the call's worker with all its calls."""
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
        """Let the call's worker finish its other calls, start no more, and exit. It is replaced at once.

        Return False, and do nothing, while too many workers drain, or while no other worker accepts calls.
        """
        worker = call.loop
        if not isinstance(worker, WorkerClient) or worker not in self._workers:
            return True
        others = [each for each in self._workers if each is not worker]
        if len(self._draining) >= len(self._workers) or (others and not any(each.is_free for each in others)):
            return False
        number = self._workers.index(worker)
        _log.warning("worker %d (process %d) is replaced: a tool of an ended run still works there", number, worker.pid)
        self._replace(number, worker)
        self._draining.append(worker)
        worker.drain()
        return True

    def is_current(self, loop: object) -> bool:
        """Return whether calls may start in a worker."""
        return isinstance(loop, WorkerClient) and loop.is_free

    def accepts(self, loop: object) -> bool:
        """Return whether a worker accepts calls and is neither blocked nor much busier than another one.

        After a death all sessions are in the other workers; this moves them back.
        """
        if not isinstance(loop, WorkerClient) or not loop.is_free:
            return False
        others = [worker.running for worker in self._workers if worker.is_free and worker.silent_s() < SILENT_S]
        if not others:
            return True
        return loop.silent_s() < SILENT_S and loop.running < MOVE_AT + min(others)

    def load(self) -> Load:
        """Return the load of the workers."""
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
        """Return the stack of the call in its worker."""
        if not isinstance(call.loop, WorkerClient):
            return ["waits for a worker"]
        return await call.loop.stack(call)

    def close(self) -> bool:
        """End all workers. Returns True: nothing works on."""
        if self._closed:
            return True
        self._closed = True
        processes = list(self._processes.values()) if self._workers else list(self._first)
        for process in processes:
            process.request_exit()
        until = time.monotonic() + EXIT_S
        for process in processes:
            process.wait(until - time.monotonic())
        return True

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, context=Context())  # not the context of the run that caused the replacement
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
