"""Background tasks of a running server: ticks every second, and the deletion of expired runs and sessions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from strandline._clock import Clock
from strandline._journal.port import Journal, RestingQuery
from strandline._model import SessionKey
from strandline.errors import NotOwner, SessionBusy, StrandlineError

_log = logging.getLogger("strandline.upkeep")

EVERY_S: Final = 1.0
PRUNE_EVERY_S: Final = 60.0
PRUNE_PAUSE_S: Final = 0.05
PRUNED_AT_ONCE: Final = 200
"""How many runs one commit deletes: few, so that no run waits long behind it."""
DELETED_AT_ONCE: Final = 100
"""How many sessions are deleted without a pause, one after the other, each in its own commit."""

Delete = Callable[[SessionKey, float], Awaitable[bool]]
"""Deletes a session if its last run ended before a moment; False if there is none. Raises `SessionBusy`, and others."""


async def every_second(*ticks: Callable[[], object]) -> None:
    """Call each tick every second, in order, until cancelled; a failing tick does not affect the others."""
    while True:
        await asyncio.sleep(EVERY_S)
        for tick in ticks:
            try:
                done = tick()
                if isinstance(done, Awaitable):
                    await done
            except Exception:
                _log.exception("a task of every second failed; retrying in a second")


async def measure_lag(clock: Clock, report: Callable[[float], object]) -> None:
    """Report every second by how many seconds this loop was late, until cancelled."""
    while True:
        due = clock.monotonic() + EVERY_S
        await asyncio.sleep(EVERY_S)
        report(max(0.0, clock.monotonic() - due))


async def every_minute(work: Callable[[], Awaitable[object]], trouble: str) -> None:
    """Call `work` every minute until cancelled; a failure is logged as `trouble` and retried the next minute."""
    await asyncio.sleep(EVERY_S)
    while True:
        try:
            await work()
        except Exception as error:
            _log.warning("%s: %s", trouble, _text(error))
        await asyncio.sleep(PRUNE_EVERY_S)


async def prune_runs(journal: Journal, clock: Clock, *, run_retention_s: float) -> None:
    """Delete the runs that ended before the retention, unless nothing can be stored at the moment."""
    if journal.trouble is not None:
        return
    while await journal.prune(clock.now() - run_retention_s, PRUNED_AT_ONCE) == PRUNED_AT_ONCE:  # noqa: ASYNC110
        await asyncio.sleep(PRUNE_PAUSE_S)


async def delete_idle_sessions(journal: Journal, clock: Clock, delete: Delete, *, history_retention_s: float) -> None:
    """Delete the sessions that have been idle for longer than the retention.

    A session that is busy again stays; one that cannot be deleted now is left for the next time.
    """
    before = clock.now() - history_retention_s
    deleted, failed = 0, dict[SessionKey, Exception]()
    cursor: int | None = 0
    try:
        while cursor is not None and journal.trouble is None:
            page = await journal.read(RestingQuery(before, cursor, DELETED_AT_ONCE))
            for key in page.keys:
                try:
                    deleted += await delete(key, before)
                except (SessionBusy, NotOwner):
                    pass  # (each server deletes its own)
                except Exception as error:
                    failed[key] = error
            cursor = page.after
            await asyncio.sleep(PRUNE_PAUSE_S)
    finally:
        if deleted:
            _log.info("deleted %d sessions that were idle for longer than history_retention", deleted)
        if failed:
            key, reason = next(iter(failed.items()))
            _log.warning(
                "%d sessions past their retention could not be deleted yet; %s of %s: %s",
                len(failed), key.session_id, key.principal, _text(reason),
            )  # fmt: skip


def _text(error: Exception) -> str:
    """Return an error's text for the log: other libraries' errors often say little without their name."""
    return str(error) if isinstance(error, StrandlineError) else repr(error)
