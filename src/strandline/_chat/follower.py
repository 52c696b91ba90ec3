"""`Follower`: follows one run for a person. Ctrl-C cancels the run, a second one detaches from it."""

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final

from strandline._chat.conversation import Conversation
from strandline._chat.progress import RunProgress
from strandline._chat.screen import Screen
from strandline._remote.errors import RemoteError, why
from strandline.client._errors import ClientError, NotNow, StreamEnded
from strandline.client._events import Event

TICK_S: Final = 0.1
"""How often the changing part is drawn."""


class Detached(Exception):
    """The person has detached: the run, if accepted, continues."""


class GivenUp(Exception):
    """The person gave up before a run was accepted."""


class Follower:
    """Follows one run at a time, and draws its events. The client calls `paused` before it waits."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._progress = RunProgress("")
        self._task: asyncio.Task[RunProgress] | None = None
        self._cancel: Callable[[str], Coroutine[Any, Any, None]] | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._wants_end = False
        self._left = False
        self._refused = False
        """Whether the server refused the message, and no retry was sent yet."""
        self._last_error: type[ClientError] | None = None

    def follow(self, runner: asyncio.Runner, conversation: Conversation, events: AsyncIterator[Event]) -> RunProgress:
        """Follow a run to its end. Raises `RemoteError`, `Detached` and `GivenUp`."""
        with self._interrupts(runner.get_loop()):
            try:
                return runner.run(self._follow(conversation, events))
            except asyncio.CancelledError:
                raise (Detached if self._left else GivenUp) from None
            finally:
                self._screen.clear_line()

    @property
    def run_id(self) -> str | None:
        """The id of the followed run, once known."""
        return self._progress.run_id

    @property
    def has_cancelled(self) -> bool:
        """Whether the person has cancelled the run."""
        return self._wants_end

    def paused(self, error: ClientError, seconds: float) -> None:
        """Show why the client waits, once for the same reason."""
        again = self._last_error is type(error)
        self._last_error = type(error)
        run_id = self._progress.run_id
        self._refused = isinstance(error, NotNow) and run_id is None
        if isinstance(error, NotNow):
            what = "" if run_id else " Nothing was accepted;"
            if again:
                self._screen.status(f"{why(error)}; trying again in {seconds:g} s")
            else:
                self._screen.note(f"Not now: {why(error)}.{what} trying again in {seconds:g} s (Ctrl-C gives up)")
        elif not again and isinstance(error, StreamEnded):
            known = f" ({run_id})" if run_id else ""
            self._screen.note(
                f"The server is stopping or reloading; this run{known} is stored, and continues when it is back"
            )
        elif not again:
            self._screen.note("The connection broke; reconnecting")

    # -- one run -----------------------------------------------------------------------------------

    async def _follow(self, conversation: Conversation, events: AsyncIterator[Event]) -> RunProgress:
        progress = self._progress = RunProgress(conversation.session)
        self._task = asyncio.current_task()
        self._cancel = conversation.cancel
        self._wants_end = self._left = self._refused = False
        self._last_error = None
        clock = asyncio.get_running_loop().time
        begun = drawn = clock()
        try:
            async with aclosing(_paced(events)) as paced:
                async for event in paced:
                    if event is not None:
                        self._take(event)
                    if clock() - drawn >= TICK_S and not self._refused:
                        drawn = clock()
                        self._screen.live(progress.text, progress.status(drawn - begun), drawn - begun)
        finally:
            if self._cancelling is not None:
                self._cancelling.cancel()
                self._cancelling = None
        return progress

    def _take(self, event: Event) -> None:
        self._refused, self._last_error = False, None
        for each in self._progress.apply(event):
            self._screen.show(each)
        if self._wants_end:
            self._end_run()

    def _interrupted(self) -> None:
        if self._task is None:
            return
        if self._wants_end or self._refused:
            self._left = not self._refused
            self._task.cancel()
            return
        self._wants_end = True
        self._screen.note("Cancelling the run (Ctrl-C again exits)")
        self._end_run()

    def _end_run(self) -> None:
        """Cancel the run, if its id is known."""
        if self._progress.run_id is not None and self._cancelling is None and self._cancel is not None:
            self._cancelling = asyncio.ensure_future(self._cancelled(self._cancel(self._progress.run_id)))

    async def _cancelled(self, cancel: Coroutine[Any, Any, None]) -> None:
        with suppress(RemoteError):  # it had ended: its end will arrive
            await cancel

    @contextmanager
    def _interrupts(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Handle Ctrl-C in the block."""
        before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(self._interrupted))
        try:
            yield
        finally:
            self._task = None
            signal.signal(signal.SIGINT, before)


async def _paced(events: AsyncIterator[Event]) -> AsyncGenerator[Event | None, None]:
    """Yield events as they arrive, and None after each `TICK_S` without one."""

    async def following() -> Event | None:
        return await anext(events, None)

    coming: asyncio.Task[Event | None] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(following())
            if not (await asyncio.wait({coming}, timeout=TICK_S))[0]:
                yield None
                continue
            event, coming = coming.result(), None
            if event is None:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
