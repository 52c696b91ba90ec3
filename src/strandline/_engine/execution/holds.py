"""Holds: claims that are kept after their runs have ended, because a thread or task of theirs still works.

A held session takes nothing, so that what still works there is never joined by a second run. A hold ends when nothing
of its run works any more, or at `limit_s` or because somebody wants it: then it is given up.

A run that has ended counts as a *leftover* for as long as anything of it works, whether its hold was given up or not.
Too many leftovers exhaust the process; `begin` tells so, once. One principal alone does not exhaust it: beyond
`per_principal` its leftovers do not count (the queues let no more of it start then), unless they have all the threads
that there are for sync tools.

Where leftovers can be ended by force, with their worker process, that is asked for at `limit_s` after the end of their
run and no sooner, however their hold has ended: somebody who forces holds must not replace workers as fast as that.
"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any, Final

from msgspec import Struct

from strandline._clock import Clock
from strandline._engine.execution.retry import until_stored
from strandline._engine.loops import Call, Loops
from strandline._engine.options import Options
from strandline._journal.errors import ClaimLost
from strandline._journal.port import Journal
from strandline._model import Claim, Principal, RunId, SessionKey

_log = logging.getLogger("strandline.holds")

CHECK_EVERY_S: Final = 0.02


class Hold(Struct):
    """A claim that is kept, what works for it, what its run did last, and since when, on the monotonic clock."""

    claim: Claim
    call: Call[Any]
    phase: str
    since: float = 0.0

    @property
    def principal(self) -> Principal:
        """Whose it is."""
        return self.claim.run.key.principal


class Holds(Struct, eq=False):
    """Belongs to the serving loop. `keep` is run as a task for each hold."""

    _journal: Journal
    _loops: Loops
    _clock: Clock
    _options: Options
    per_principal: int | None
    _held: dict[RunId, Hold] = {}
    _given_up: list[Hold] = []
    _forced: dict[RunId, asyncio.Event] = {}
    """Runs whose hold is not wanted (some may not have ended yet), and what is set when it is over."""
    _full: bool = False
    begun: int = 0
    """How many holds there have been."""
    given_up: int = 0
    """How many of them have ended although something still worked."""

    def __len__(self) -> int:
        return len(self._held)

    def all(self) -> list[Hold]:
        """Return all holds."""
        return list(self._held.values())

    def of(self, key: SessionKey) -> Hold | None:
        """Return what holds a session, None if nothing does. There are few holds at any time."""
        return next((hold for hold in self._held.values() if hold.claim.run.key == key), None)

    def lingering_calls(self) -> list[Call[Any]]:
        """Return the calls whose runs have ended and that still work: those held, and those whose hold was given up."""
        given_up = [each.call for each in self._given_up if each.call.is_alive]
        return [hold.call for hold in self._held.values()] + given_up

    def begin(self, hold: Hold) -> bool:
        """Note a hold; `keep` follows. Return whether the process is exhausted by it."""
        self.begun += 1
        hold.since = self._clock.monotonic()
        self._held[hold.claim.run.run_id] = hold
        if self._full:
            return False
        if self._count() >= self._options.max_holds:
            why = f"{self._options.max_holds} runs have ended and still work (setting max_holds)"
        elif (threads := sum(len(each.threads) for each in self.lingering_calls())) >= self._options.executor_threads:
            why = f"{threads} threads of runs that have ended still work (setting executor_threads)"
        else:
            return False
        self._full = True
        _log.error("%s: the server stops", why)
        return True

    def _count(self) -> int:
        """Return how many leftovers count for the process: of each principal as many as it may have."""
        principals = Counter(each.principal for each in (*self._held.values(), *self._given_up))
        most = self._options.max_holds if self.per_principal is None else self.per_principal
        return sum(min(count, most) for count in principals.values())

    def tick(self) -> list[Principal]:
        """Have what is due ended; return of whom those are that were given up and work no more, each once."""
        over = [each for each in self._given_up if not each.call.is_alive]
        self._given_up = [each for each in self._given_up if each.call.is_alive]
        for each in self._given_up:
            if self._left_s(each) <= 0:
                self._loops.drain(each.call)
        return [each.principal for each in over]

    def _left_s(self, hold: Hold) -> float:
        """Return for how many seconds a hold may last yet."""
        return hold.since + self._options.hold_limit_s - self._clock.monotonic()

    def force(self, run_id: RunId) -> asyncio.Event:
        """Have the hold of a run end at once, now or as soon as there is one; what is returned is set then."""
        return self._forced.setdefault(run_id, asyncio.Event())

    def forget(self, run_id: RunId) -> None:
        """Note that a run has ended without a hold."""
        self._forced.pop(run_id, None)

    async def end(self, run_id: RunId, timeout_s: float) -> None:
        """End the hold of a run, if there is one; return when the journal knows it, or after `timeout_s` seconds."""
        if run_id in self._held:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.force(run_id).wait(), timeout_s)

    async def keep(self, hold: Hold) -> bool:
        """Say in the log what works on, and return when the hold is over and the journal knows it.

        Return whether nothing works any more; else `tick` tells when that is so.
        """
        claim, call, limit_s = hold.claim, hold.call, self._options.hold_limit_s
        run_id = claim.run.run_id
        where = "\n".join(f"    {line}" for line in await self._loops.stack(call))
        _log.warning(
            "run %s of session %s has ended (in %s), but something of it still works; its session waits for that, at"
            " most %g s:\n%s",
            run_id, claim.run.key.session_id, hold.phase, limit_s, where,
        )  # fmt: skip
        while call.is_alive and (left_s := self._left_s(hold)) > 0 and run_id not in self._forced:  # noqa: ASYNC110
            await asyncio.sleep(min(CHECK_EVERY_S, left_s))  # (threads of user code tell nobody that they end)
        if call.is_alive and run_id in self._forced:
            _log.warning("run %s still works; its session goes on without it, as somebody wanted", run_id)
        elif call.is_alive:
            _log.warning("run %s still works after %g s; its session goes on without it", run_id, limit_s)
        else:
            _log.info("nothing of run %s works any more; its session goes on", run_id)
        with suppress(ClaimLost):
            release = partial(self._journal.release, claim.token, counted=True)
            await until_stored(release, "the hold of run %s cannot be ended yet", run_id, log=_log)
        del self._held[run_id]
        if (over := self._forced.pop(run_id, None)) is not None:
            over.set()
        if not call.is_alive:
            return True
        self.given_up += 1
        self._given_up.append(hold)
        return False
