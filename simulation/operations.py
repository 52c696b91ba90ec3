"""What clients want of runs and sessions that are there: cancels, pauses, moves, edits, forks, options, deletions."""

import asyncio
from functools import partial
from typing import Any

from simulation.loop import EPOCH
from simulation.record import REWORDED
from simulation.server import Gone
from simulation.town import Town, note_end, requested
from strandline._engine.admission.forks import ForkRequest
from strandline._engine.requests import RunEdit
from strandline._engine.service import Service
from strandline._model import RunId, RunStatus, SessionKey
from strandline.errors import (
    AlreadyEnded,
    CannotGoBack,
    ChangedMeanwhile,
    NotFound,
    SessionBusy,
    StrandlineError,
    TooLate,
    Unavailable,
)


async def cancel(town: Town, key: SessionKey, run: RunId) -> None:
    """Cancel a run, after a while, wherever a server can be reached."""
    await asyncio.sleep(town.chance.random() ** 2 * 6)
    server = town.reached()
    if server is None or not server.ready:
        return
    force = town.chance.happens(0.3)
    town.note("cancelling", run, force=force)
    try:
        server, view = await requested(town, server, lambda service: service.cancel(key.principal, run, force=force))
    except (AlreadyEnded, TooLate):
        town.note("too_late", run)
    except (Gone, StrandlineError):
        return
    else:
        # (One that has asked has ended, and its cancel takes back the question.)
        withdrawn = view.run.status is RunStatus.NEEDS_INPUT
        town.note("withdrawn" if withdrawn else "cancelled", run, process=server.number)
        if view.run.outcome is not None:
            note_end(town, run, view.run.outcome)


async def sweep(town: Town) -> None:
    """Cancel all that waits in a session, maybe what executes there too."""
    chance = town.chance
    await asyncio.sleep(chance.random() ** 2 * 6)
    server = town.reached()
    if server is None or not server.ready:
        return
    key, running, force = chance.choice(town.sessions), chance.happens(0.5), chance.happens(0.2)
    name = town.new_text()
    town.note("sweeping", name, session=key, running=running, force=force)
    try:
        _, stopped = await requested(
            town, server, lambda service: service.cancel_session(key, running=running, force=force)
        )
    except NotFound:
        town.note("swept", name, ended=[], requested=[])
    except (Gone, StrandlineError):
        return
    else:
        town.note("swept", name, ended=sorted(stopped.ended), requested=stopped.cancelling)
        for run, outcome in stopped.ended.items():
            note_end(town, run, outcome)


async def wipe(town: Town) -> None:
    """Delete a session, unless it has something to do."""
    chance = town.chance
    await asyncio.sleep(chance.random() * 10)
    server = town.reached()
    if server is None or not server.ready:
        return
    key, name = chance.choice(town.sessions), town.new_text()
    town.note("deleting", name, session=key)
    try:
        _, existed = await requested(town, server, lambda service: service.delete(key))
    except SessionBusy:
        town.note("undeleted", name)
    except (Gone, StrandlineError):
        return
    else:
        town.note("deleted", name, existed=existed)


async def pause(town: Town, key: SessionKey, run: RunId) -> None:
    """Pause a session for a while; see to it that it continues."""
    await asyncio.sleep(town.chance.random() ** 2 * 4)
    server = town.reached()
    if server is None or not server.ready:
        return
    town.note("pausing", run, session=key)
    try:
        await requested(town, server, lambda service: service.pause(key))
    except NotFound:
        return
    except (Gone, StrandlineError):
        pass
    else:
        town.note("paused", run, session=key)
        await asyncio.sleep(town.chance.between(0.0, 6.0))
    while True:  # also if nobody knows whether it was paused
        if (server := town.reached()) is not None and server.ready:
            town.note("resuming", "", session=key)
            try:
                await requested(town, server, lambda service: service.resume(key))
            except (Gone, Unavailable):
                town.note("resumed", "", session=key)
            except NotFound:  # it was deleted meanwhile
                town.note("resumed", "", session=key)
                return
            else:
                town.note("resumed", "", session=key)
                return
        await asyncio.sleep(town.chance.between(0.1, 1.0))


async def restore(town: Town, key: SessionKey, run: RunId) -> None:
    """Have superseded messages back, if nothing of the session executes or waits."""
    await asyncio.sleep(town.habits.edits.random() ** 2 * 8)
    server = town.reached()
    if server is None or not server.ready:
        return
    name = town.new_text()
    town.note("restoring", name, session=key, named=run)
    try:
        _, view = await requested(town, server, lambda service: service.restore(key.principal, run))
    except (SessionBusy, CannotGoBack, NotFound) as error:
        town.note("unrestored", name, code=error.code)
    except (Gone, StrandlineError):
        return
    else:
        town.note("restored", name, changed=view.changed)


async def fork(town: Town, key: SessionKey, run: RunId) -> ForkRequest | None:
    """Have a new session begin with the history up to a run; return the request for it, or None if it was refused."""
    chance, name = town.habits.forking, town.new_text()
    await asyncio.sleep(chance.random() ** 2 * 4)
    request = ForkRequest(source=key, to=f"fork-{name}", after=run, token=f"key {name}", fingerprint=name.encode())
    town.forked.append(request.key)
    town.note("forking", name, session=request.key, source=key, after=run)
    return request if await fork_for_sure(town, name, request) else None


async def fork_for_sure(town: Town, name: str, request: ForkRequest) -> bool:
    """Send a request for a fork until it is answered, perhaps again; return whether it was made."""
    while True:
        server = town.reached()
        if server is not None and server.ready:
            try:
                _, forked = await requested(town, server, lambda service: service.fork(request))
            except (CannotGoBack, NotFound) as error:
                town.note("unforked", name, code=error.code)
                return False
            except (Gone, Unavailable):
                pass
            else:
                town.note("forked", name, messages=forked.messages, forgotten=forked.forgotten)
                return True
        await asyncio.sleep(town.habits.forking.between(0.1, 1.0))


async def set_options(town: Town) -> None:
    """Have the default options of a session mark its runs, or (None) no longer, now and then once more."""
    chance = town.habits.settings
    for _ in range(chance.choice((1, 2, 3))):
        await asyncio.sleep(chance.random() ** 2 * 6)
        server = town.reached()
        if server is None or not server.ready:
            continue
        key, name = chance.choice((*town.sessions, *town.forked)), town.new_text()
        mark = name if chance.random() < 0.75 else ""
        options = {"metadata": {"mark": mark}} if mark else chance.choice((None, {"metadata": None}))
        town.note("setting", name, session=key, mark=mark)
        try:
            await requested(town, server, partial(_set, key, options))
        except NotFound:
            town.note("unset", name)
        except (Gone, StrandlineError):
            continue
        else:
            town.note("set", name)


async def _set(key: SessionKey, options: dict[str, Any] | None, service: Service) -> None:
    await service.set_options(key, options)


async def schedule(town: Town) -> None:
    """Have something happen again and again in a session, for a while."""
    habits, times = town.habits, town.habits.times
    await asyncio.sleep(times.between(0.0, 6.0))
    key, text = times.choice(town.sessions), f"s{town.new_schedule()}"
    request = habits.schedule(key, text)
    server = town.reached()
    if server is not None and server.ready:
        try:
            _, made = await requested(town, server, lambda service: service.schedules.create(request))
        except (Gone, StrandlineError):
            pass  # it may be there all the same
        else:
            assert made.next_at is not None
            town.note(
                "scheduled",
                text,
                session=key,
                first_s=made.next_at - EPOCH,
                every_s=request.every_s,
                overlap=request.overlap.value,
                missed=request.missed.value,
            )
            await asyncio.sleep(times.between(0.0, 40.0))
    town.note("unscheduling", text)
    while not await _unscheduled(town, key, text):  # noqa: ASYNC110 - servers come and go
        await asyncio.sleep(times.between(0.0, 1.0))


async def _unscheduled(town: Town, key: SessionKey, text: str) -> bool:
    """Delete a schedule, if it is there; return whether it is not there any more."""
    server = town.reached()
    if server is None or not server.ready:
        return False
    principal = key.principal

    async def delete(service: Service) -> None:
        page = await service.schedules.page(principal, session=key.session_id, after=None, limit=100)
        for each in page.schedules:
            if each.spec.input == text:
                await service.schedules.delete(principal, each.schedule_id)

    try:
        await requested(town, server, delete)
    except (Gone, StrandlineError):
        return False
    return True


async def move(town: Town, key: SessionKey, run: RunId) -> None:
    """Move a run, if it still waits then."""
    await asyncio.sleep(town.chance.random() ** 2 * 4)
    server = town.reached()
    if server is None or not server.ready:
        return
    priority = town.chance.choice((None, None, 1, 5))
    town.note("moving", run, priority=priority)
    try:
        await requested(town, server, lambda service: service.move(key.principal, run, priority))
    except (AlreadyEnded, NotFound, TooLate) as error:
        town.note("unmoved", run, code=error.code)
    except (Gone, StrandlineError):
        return
    else:
        town.note("moved", run)


async def edit(town: Town, key: SessionKey, run: RunId, metadata: dict[str, Any]) -> None:
    """Edit a run, if it still waits then; now and then only if it is as when somebody looked at it.

    Its metadata names the edit, so that each is another one, and so does what it has the run say, if it does.
    """
    chance, name = town.habits.changes, town.new_text()
    await asyncio.sleep(chance.random() ** 2 * 4)
    server = town.reached()
    if server is None or not server.ready:
        return
    expected: frozenset[str] = frozenset()
    if chance.random() < 0.5:
        try:
            server, view = await requested(town, server, lambda service: service.run(key.principal, run))
        except (Gone, StrandlineError):
            return
        expected = frozenset({view.edition} if view.edition is not None else ())
        await asyncio.sleep(chance.random() ** 2 * 2)
        if not server.ready:
            return
    text = f"{metadata['text']}{REWORDED}{name}" if town.habits.rewords else None
    wanted = RunEdit(
        input=text,
        metadata={**metadata, "edited": name},
        priority=chance.choice((None, None, 1, 5)),
        expected=expected or None,
    )
    given = {"priority": wanted.priority, "rewords": text is not None, "expected": sorted(expected)}
    town.note("editing", run, name=name, **given)
    try:
        await requested(town, server, lambda service: service.edit(key.principal, run, wanted))
    except (AlreadyEnded, TooLate, NotFound, ChangedMeanwhile) as error:
        town.note("unedited", run, name=name, code=error.code)
    except (Gone, StrandlineError):
        return
    else:
        town.note("edited", run, name=name)
