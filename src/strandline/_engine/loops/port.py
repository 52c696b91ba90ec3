"""Agent loops, a port: where user code runs. Knows nothing of threads or processes.

The loop that serves HTTP never runs a factory, an agent or a hook. A call starts from the serving loop and its result
comes back there. User code can block its loop for good: such a loop is replaced.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from strandline._agents.port import Signal
from strandline._engine.loops.calls import Call

T = TypeVar("T")


class WorkerLoad(Struct, frozen=True, kw_only=True):
    """A worker process's load: its heartbeat is overdue for `silent_s` seconds; `pid` None: it is starting."""

    pid: int | None
    running: int
    silent_s: float


class Load(Struct, frozen=True, kw_only=True):
    """The load of the current agent loop, or of all current ones."""

    silent_s: float = 0.0
    """For how many seconds its heartbeat is overdue; of several, the longest."""
    backlog: int = 0
    """How many sync tools wait for a thread."""
    given_up: int = 0
    """How many earlier loops were given up."""
    workers: list[WorkerLoad] = []
    """The worker processes, if agents run in some."""
    workers_lost: int = 0
    """How many worker processes have ended unexpectedly."""


class Loops(Protocol):
    """Where user code runs."""

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` on the agent loop, in a copy of the caller's context; it turns every failure into a value."""
        ...

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once, like `task.cancel()`; the task may swallow it."""
        ...

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` on the agent loop, after everything that was started there before."""
        ...

    def post_back(self, work: Callable[[], object]) -> None:
        """Call `work` on the serving loop, from the agent loop, before the end of the call that posts it."""
        ...

    def discard(self, thing: object) -> None:
        """Drop a reference to user objects over there, since dropping may run their code."""
        ...

    def signal(self) -> Signal:
        """Return a new signal."""
        ...

    def beat(self) -> None:
        """Request a heartbeat of the agent loop; to be called every second or so."""
        ...

    def owned_until(self, until: float | None) -> None:
        """Let user code start until then, by `boottime`, where the journal cannot be asked; None: without limit. To be
        called every second or so.
        """
        ...

    def silent_s(self, call: Call[Any]) -> float:
        """Return for how many seconds the heartbeat of the call's loop is overdue; 0 if it is not."""
        ...

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether this call's code has the loop's thread at this moment."""
        ...

    def replace(self, call: Call[Any]) -> bool:
        """Give up the call's loop for good and use a fresh one. Should it come back, its tasks are cancelled.

        True if everything there ends with it, and its calls report that themselves.
        """
        ...

    def drain(self, call: Call[Any]) -> bool:
        """End a call that nobody waits for any more, as soon as that harms no other.

        False if that is not possible now: call it again later. Calling it again after True does nothing.
        """
        ...

    @property
    def accepts_calls(self) -> bool:
        """Whether calls start, at once or in a moment."""
        ...

    def is_current(self, loop: object) -> bool:
        """Return whether an agent that was built on the loop `loop` can still be used."""
        ...

    def accepts(self, loop: object) -> bool:
        """Return whether a run should begin on `loop`, where its agent is, rather than elsewhere with a new one."""
        ...

    def load(self) -> Load:
        """Return the load of the current loop."""
        ...

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return where the call's threads and tasks are, one line of text each, for people; in bounded time."""
        ...

    def close(self) -> bool:
        """Stop. Return False if a thread of user code still executes: the process cannot exit by itself."""
        ...


@runtime_checkable
class HasLoops(Protocol):
    """A target whose agents run on loops of its own."""

    @property
    def loops(self) -> Loops:
        """The target's loops."""
        ...
