"""Holds: claims that are kept after their runs have ended, because a thread or task of theirs still executes.

A locked session starts no run, so that no second run joins the code that is still executing. A hold ends when its run's
code has stopped, or, given up, at `limit_s` or by a forced cancel.

A run that has ended counts as *lingering* for as long as any of its code executes, whether its hold was given up or
not. Too many lingering runs exhaust the process; `begin` reports that, once. One principal alone does not exhaust it:
beyond `per_principal` its lingering runs do not count (the queues start no more of its runs then), unless they have all
the threads for sync tools.

Lingering code that can be ended by force, with its worker process, is ended at `limit_s` after the end of its run and
no sooner, however its hold ended: callers who force holds must not replace workers as fast as they like.
"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any, Final

from msgspec import Struct

from strandline._clock import Clock
from strandline._engine.execution.retry import Retries
from strandline._engine.loops import Call, Loops
from strandline._engine.options import Options
from strandline._journal.errors import ClaimLost
from strandline._journal.port import Journal
from strandline._model import Claim, Principal, RunId, SessionKey

_log = logging.getLogger("strandline.holds")

CHECK_EVERY_S: Final = 0.02


class Hold(Struct):
    """A claim that is kept, its lingering call, its run's last phase, and since when, on the monotonic clock."""

    claim: Claim
    call: Call[Any]
    phase: str
    since: float = 0.0

    @property
    def principal(self) -> Principal:
        """The session's owner."""
        return self.claim.run.key.principal


class Holds(Struct, eq=False):
    """Belongs to the serving loop. `keep` runs as a task for each hold."""

    _journal: Journal
    _loops: Loops
    _clock: Clock
    _options: Options
    _retries: Retries
    per_principal: int | None
    _held: dict[RunId, Hold] = {}
    _given_up: list[Hold] = []
    _forced: dict[RunId, asyncio.Event] = {}
    """Runs whose hold is to end (some may not have ended yet), and the event that is set when it has."""
    _full: bool = False
    begun: int = 0
    """How many holds there have been."""
    given_up: int = 0
    """How many of them ended although code still executed."""

    def __len__(self) -> int:
        return len(self._held)

    def all(self) -> list[Hold]:
        """Return all holds."""
        return list(self._held.values())

    def of(self, key: SessionKey) -> Hold | None:
        """Return what holds a session, None if nothing does. There are few holds at any time."""
        return next((hold for hold in self._held.values() if hold.claim.run.key == key), None)

    def lingering_calls(self) -> list[Call[Any]]:
        """Return the calls of ended runs that still execute: with a hold, and with a hold that was given up."""
        given_up = [each.call for each in self._given_up if each.call.is_alive]
        return [hold.call for hold in self._held.values()] + given_up

    def begin(self, hold: Hold) -> bool:
        """Note a hold; `keep` follows. Return whether it exhausts the process."""
        self.begun += 1
        hold.since = self._clock.monotonic()
        self._held[hold.claim.run.run_id] = hold
        if self._full:
            return False
        if self._count() >= self._options.max_holds:
            why = f"{self._options.max_holds} ended runs are still executing (setting max_still_working)"
        elif (threads := sum(len(each.threads) for each in self.lingering_calls())) >= self._options.executor_threads:
            why = f"{threads} threads of ended runs are still executing (setting executor_threads)"
        else:
            return False
        self._full = True
        _log.error("%s: the server stops", why)
        return True

    def _count(self) -> int:
        """Return how many lingering runs count for the process: of each principal at most as many as it may have."""
        principals = Counter(each.principal for each in (*self._held.values(), *self._given_up))
        most = self._options.max_holds if self.per_principal is None else self.per_principal
        return sum(min(count, most) for count in principals.values())

    def tick(self) -> list[Principal]:
        """End what is due; return the principal of each given-up run that has stopped executing."""
        over = [each for each in self._given_up if not each.call.is_alive]
        self._given_up = [each for each in self._given_up if each.call.is_alive]
        for each in self._given_up:
            if self._left_s(each) <= 0:
                self._loops.drain(each.call)
        return [each.principal for each in over]

    def _left_s(self, hold: Hold) -> float:
        """Return for how many seconds a hold may still last."""
        return hold.since + self._options.hold_limit_s - self._clock.monotonic()

    def force(self, run_id: RunId) -> asyncio.Event:
        """End the hold of a run at once, now or as soon as there is one; the returned event is set then."""
        return self._forced.setdefault(run_id, asyncio.Event())

    def forget(self, run_id: RunId) -> None:
        """Note that a run has ended without a hold."""
        self._forced.pop(run_id, None)

    async def end(self, run_id: RunId, timeout_s: float) -> None:
        """End the hold of a run, if there is one; return when that is durable, or after `timeout_s` seconds."""
        if run_id in self._held:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.force(run_id).wait(), timeout_s)

    async def keep(self, hold: Hold) -> bool:
        """Log what is still executing, and return when the hold is over and the journal has that.

        Return whether all has stopped executing; otherwise `tick` reports it later.
        """
        claim, call, limit_s = hold.claim, hold.call, self._options.hold_limit_s
        run_id = claim.run.run_id
        where = "\n".join(f"    {line}" for line in await self._loops.stack(call))
        _log.warning(
            "run %s of session %s has ended (in %s), but its code is still executing; it locks its session, at most"
            " %g s:\n%s",
            run_id, claim.run.key.session_id, hold.phase, limit_s, where,
        )  # fmt: skip
        while call.is_alive and (left_s := self._left_s(hold)) > 0 and run_id not in self._forced:  # noqa: ASYNC110
            await asyncio.sleep(min(CHECK_EVERY_S, left_s))  # (threads of user code do not report their end)
        if call.is_alive and run_id in self._forced:
            _log.warning("run %s is still executing; its session continues without it, after a forced cancel", run_id)
        elif call.is_alive:
            _log.warning("run %s is still executing after %g s; its session continues without it", run_id, limit_s)
        else:
            _log.info("run %s has stopped executing; its session continues", run_id)
        with suppress(ClaimLost):
            release = partial(self._journal.release, claim.token, counted=True)
            await self._retries.until_stored(release, "the session of run %s cannot be unlocked yet", run_id, log=_log)
        del self._held[run_id]
        if (over := self._forced.pop(run_id, None)) is not None:
            over.set()
        if not call.is_alive:
            return True
        self.given_up += 1
        self._given_up.append(hold)
        return False
