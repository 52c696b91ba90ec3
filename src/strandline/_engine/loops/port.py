"""Agent loops, a port: where user code runs. Knows nothing of threads or processes.

The loop that serves HTTP never runs a factory, an agent or a hook. A call is started from the serving loop and its
result comes back there. User code can block its loop for good: such a loop is replaced.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from strandline._agents.port import Signal
from strandline._engine.loops.calls import Call

T = TypeVar("T")


class WorkerLoad(Struct, frozen=True, kw_only=True):
    """How a worker process is doing: it has owed a sign of life for `silent_s` seconds; `pid` None: it is starting."""

    pid: int | None
    running: int
    silent_s: float


class Load(Struct, frozen=True, kw_only=True):
    """How the agent loop in use is doing, or all of those in use."""

    silent_s: float = 0.0
    """For how many seconds it has owed a sign of life; of several, the one that has for longest."""
    backlog: int = 0
    """How many sync tools wait for a thread."""
    given_up: int = 0
    """How many loops before it were left alone."""
    workers: list[WorkerLoad] = []
    """The worker processes, if agents are in such."""
    workers_lost: int = 0
    """How many worker processes have ended that nobody had told to."""


class Loops(Protocol):
    """Where user code runs."""

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` on the agent loop, in a copy of the caller's context; it turns every failure into a value."""
        ...

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once, like `task.cancel()`; the task may swallow it."""
        ...

    def post(self, work: Callable[[], object]) -> None:
        """Have `work` called on the agent loop, after whatever was started there before."""
        ...

    def post_back(self, work: Callable[[], object]) -> None:
        """Have `work` called on the loop that serves, before the end of whatever call told it; from the agent loop."""
        ...

    def discard(self, thing: object) -> None:
        """Drop a reference to user objects over there, since dropping may run their code."""
        ...

    def signal(self) -> Signal:
        """Return a new signal."""
        ...

    def beat(self) -> None:
        """Ask the agent loop for a sign of life; to be called every second or so."""
        ...

    def silent_s(self, call: Call[Any]) -> float:
        """Return for how many seconds the call's loop has owed a sign of life; 0 if it owes none."""
        ...

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether it is this call's code that has the loop's thread at this moment."""
        ...

    def replace(self, call: Call[Any]) -> bool:
        """Leave the call's loop alone for good and use a fresh one. Should it come back, its tasks are cancelled.

        True if all that works there ends with it, and its calls say so themselves.
        """
        ...

    def drain(self, call: Call[Any]) -> bool:
        """Have what still works for a call end, for which nobody waits any more, as soon as that harms no other.

        False if it cannot be seen to now: to be asked for again. Once it is seen to, asking again does nothing.
        """
        ...

    @property
    def takes_calls(self) -> bool:
        """Whether what is started begins, at once or in a moment."""
        ...

    def is_current(self, loop: object) -> bool:
        """Return whether an agent that was built on the loop `loop` can still be used."""
        ...

    def accepts(self, loop: object) -> bool:
        """Return whether a run had better begin on `loop`, where its agent is, than elsewhere with one made anew."""
        ...

    def load(self) -> Load:
        """Return how the loop in use is doing."""
        ...

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return where the call's threads and tasks are, one line of text each, for people; in bounded time."""
        ...

    def close(self) -> bool:
        """Stop. Return False if a thread of user code still works: the process cannot leave by itself."""
        ...


@runtime_checkable
class HasLoops(Protocol):
    """A target whose agents live on loops of its own."""

    @property
    def loops(self) -> Loops:
        """They."""
        ...
