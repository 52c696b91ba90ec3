"""What goes on in the background while a server runs: a look every second; what is long past is forgotten.

That is runs, and sessions at rest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from strandline.clock import Clock
from strandline.errors import SessionBusy, StrandlineError
from strandline.journal.port import Journal, RestingQuery
from strandline.model import SessionKey

_log = logging.getLogger("strandline.upkeep")

EVERY_S: Final = 1.0
PRUNE_EVERY_S: Final = 60.0
PRUNE_PAUSE_S: Final = 0.05
PRUNED_AT_ONCE: Final = 200
"""How many runs one commit forgets: few, so that no run waits long behind it."""
FORGOTTEN_AT_ONCE: Final = 100
"""How many sessions are forgotten without a pause, one after the other, each in a commit of its own."""

Forget = Callable[[SessionKey, float], Awaitable[bool]]
"""Deletes a session if its last run ended before a moment; False if there is none. Raises `SessionBusy`, others."""


async def look_after(*chores: Callable[[], object]) -> None:
    """Do each chore every second, until cancelled: what executes, waits, is idle and is over is looked after."""
    while True:
        await asyncio.sleep(EVERY_S)
        for chore in chores:
            try:
                done = chore()
                if isinstance(done, Awaitable):
                    await done
            except Exception:
                _log.exception("what is looked after every second could not be; it is tried again")


async def feel_lag(clock: Clock, tell: Callable[[float], object]) -> None:
    """Tell every second by how many seconds this loop was late for it, until cancelled."""
    while True:
        due = clock.monotonic() + EVERY_S
        await asyncio.sleep(EVERY_S)
        tell(max(0.0, clock.monotonic() - due))


async def prune(journal: Journal, clock: Clock, *, run_retention_s: float) -> None:
    """Forget the runs that ended before the retention, until cancelled; what cannot be forgotten now is later.

    Whatever keeps it from that must not end it, which nobody would notice before the disk is full.
    """
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            more = True
            while more:
                more = await journal.prune(clock.now() - run_retention_s, PRUNED_AT_ONCE) == PRUNED_AT_ONCE
                await asyncio.sleep(PRUNE_PAUSE_S)
        except Exception as error:
            _log.warning("runs past their retention could not be forgotten yet: %s", _told(error))
        await asyncio.sleep(PRUNE_EVERY_S)


async def forget_sessions(journal: Journal, clock: Clock, forget: Forget, *, history_retention_s: float) -> None:
    """Forget the sessions that have been at rest for longer than the retention, until cancelled.

    One that is busy again stays, and one that cannot be forgotten now is tried again later. Whatever keeps it from that
    must not end it.
    """
    while True:
        await asyncio.sleep(EVERY_S)
        before = clock.now() - history_retention_s
        forgotten, failed = 0, dict[SessionKey, Exception]()
        cursor: int | None = 0
        try:
            while cursor is not None and journal.trouble is None:
                page = await journal.read(RestingQuery(before, cursor, FORGOTTEN_AT_ONCE))
                for key in page.keys:
                    try:
                        forgotten += await forget(key, before)
                    except SessionBusy:
                        pass
                    except Exception as error:
                        failed[key] = error
                cursor = page.after
                await asyncio.sleep(PRUNE_PAUSE_S)
        except Exception as error:
            _log.warning("sessions past their retention could not be listed yet: %s", _told(error))
        if forgotten:
            _log.info("forgot %d sessions that were at rest for longer than history_retention", forgotten)
        if failed:
            key, reason = next(iter(failed.items()))
            _log.warning(
                "%d sessions past their retention could not be forgotten yet; %s of %s: %s",
                len(failed), key.session_id, key.principal, _told(reason),
            )  # fmt: skip
        await asyncio.sleep(PRUNE_EVERY_S)


def _told(error: Exception) -> str:
    """Return what is said of an error: those that are not ours often say little without their name."""
    return str(error) if isinstance(error, StrandlineError) else repr(error)
