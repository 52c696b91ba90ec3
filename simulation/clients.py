"""Clients: they ask, wait, leave, come back after a restart and ask again. They write down what they were told."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol

from msgspec.structs import replace

from simulation.loop import Chance
from simulation.script import Script, Traits, draw
from simulation.server import Gone, Server
from strandline.engine.service import Request, Ticket
from strandline.engine.stream import Later
from strandline.errors import AlreadyEnded, NotFound, SessionBusy, StrandlineError, Unavailable
from strandline.lifecycle import ENDED
from strandline.model import IfBusy, Outcome, RunId, SessionKey

POLICIES = (IfBusy.INTERRUPT, IfBusy.INTERRUPT, IfBusy.ROLLBACK, IfBusy.REJECT)


class Town(Protocol):
    """Where clients live."""

    chance: Chance
    scripts: dict[str, Script]
    traits: Traits
    sessions: list[SessionKey]
    server: Server | None
    request_limits: list[dict[str, float]]

    def note(self, what: str, run: str = "", **facts: object) -> None:
        """Write down an event."""
        ...

    def new_text(self) -> str:
        """Return a text that nobody has sent yet."""
        ...


async def send(town: Town) -> None:
    """Ask for one run, wherever a server can be reached, and see what becomes of it, as long as it is of interest."""
    chance = town.chance
    await asyncio.sleep(chance.random() ** 2 * 4)
    key = chance.choice(town.sessions)
    text = town.new_text()
    town.scripts[text] = draw(chance, town.traits)
    if (task := asyncio.current_task()) is not None:
        task.set_name(text)
    limits = chance.choice(town.request_limits)
    for _ in range(3):
        server = town.server
        if server is not None and server.ready:
            break
        await asyncio.sleep(1.0)
    else:
        return
    if_busy = chance.choice(POLICIES) if chance.happens(town.traits.interrupts) else IfBusy.ENQUEUE
    town.note("asked", text, session=key, if_busy=if_busy, **limits)
    request = Request(key=key, input=text, if_busy=if_busy, **limits)  # type: ignore[arg-type]
    if chance.happens(town.traits.keys):
        request = replace(request, idempotency_key=text, fingerprint=text.encode())
    try:
        ticket = await server.ask(server.service.submit(request))
    except Gone:
        town.note("unsure", text)
        if request.idempotency_key is None or (again := await _send_again(town, request)) is None:
            return
        server, ticket = again
    except (Unavailable, SessionBusy) as error:
        town.note("refused", text, code=error.code)
        return
    run = ticket.run_id
    town.note("accepted", run, text=text, session=key, position=ticket.position, process=server.number)
    others: list[asyncio.Task[None]] = []
    for doing, how_likely in (
        (_cancel, town.traits.cancels),
        (_pause, town.traits.pauses_session),
        (_move, town.traits.moves),
    ):
        if chance.happens(how_likely):
            others.append(asyncio.ensure_future(doing(town, key, run)))
    told = await _wait(town, server, ticket.stream.outcome(), chance.between(0.1, 20.0))
    if told is not None:
        _note_end(town, run, told)
    if others:
        await asyncio.wait(others)
        for other in others:
            other.result()
    if chance.happens(0.5):
        await asyncio.sleep(chance.between(0.0, 10.0))
        await _come_back(town, key, run)


async def _send_again(town: Town, request: Request) -> tuple[Server, Ticket] | None:
    """Send a request again of which nobody knows whether it was accepted."""
    for _ in range(5):
        await asyncio.sleep(town.chance.between(0.0, 2.0))
        server = town.server
        if server is not None and server.ready:
            with suppress(Gone, StrandlineError):
                return server, await server.ask(server.service.submit(request))
    return None


async def _cancel(town: Town, key: SessionKey, run: RunId) -> None:
    """Cancel a run, after a while, wherever a server can be reached."""
    await asyncio.sleep(town.chance.random() ** 2 * 6)
    server = town.server
    if server is None or not server.ready:
        return
    force = town.chance.happens(0.3)
    town.note("cancelling", run, force=force)
    try:
        view = await server.ask(server.service.cancel(key.principal, run, force=force))
    except AlreadyEnded:
        town.note("too_late", run)
    except (Gone, StrandlineError):
        return
    else:
        town.note("cancelled", run, process=server.number)
        if view.run.outcome is not None:
            _note_end(town, run, view.run.outcome)


async def _pause(town: Town, key: SessionKey, run: RunId) -> None:
    """Pause a session for a while; see to it that it goes on."""
    await asyncio.sleep(town.chance.random() ** 2 * 4)
    server = town.server
    if server is None or not server.ready:
        return
    town.note("pausing", run)
    try:
        await server.ask(server.service.pause(key))
    except NotFound:
        return
    except (Gone, StrandlineError):
        pass
    else:
        town.note("paused", run, session=key)
        await asyncio.sleep(town.chance.between(0.0, 6.0))
    while True:  # also if nobody knows whether it was paused
        if (server := town.server) is not None and server.ready:
            town.note("resuming", "", session=key)
            with suppress(Gone, Unavailable):
                await server.ask(server.service.resume(key))
                return
        await asyncio.sleep(town.chance.between(0.1, 1.0))


async def _move(town: Town, key: SessionKey, run: RunId) -> None:
    """Move a run, if it still waits then."""
    await asyncio.sleep(town.chance.random() ** 2 * 4)
    server = town.server
    if server is not None and server.ready:
        town.note("moving", run)
        priority = town.chance.choice((None, None, 1, 5))
        with suppress(Gone, StrandlineError):
            await server.ask(server.service.move(key.principal, run, priority))


async def _wait(
    town: Town, server: Server, end: Coroutine[Any, Any, Outcome | Later], patience_s: float
) -> Outcome | Later | None:
    """Wait for the end, or leave after a while; None if there was none."""
    try:
        wait = server.ask(end)
        return await (asyncio.wait_for(wait, patience_s) if town.chance.happens(0.3) else wait)
    except (Gone, TimeoutError):
        return None


async def _come_back(town: Town, key: SessionKey, run: RunId) -> None:
    server = town.server
    if server is None or not server.ready:
        return
    try:
        if town.chance.happens(0.3):
            messages = await server.ask(server.service.history(key, count=0, include_tool_messages=True))
            town.note("history", "", session=key, messages=messages)
        view = await server.ask(server.service.wait(key.principal, run, town.chance.between(0.0, 30.0)))
    except NotFound:
        town.note("missing", run)
    except (Gone, StrandlineError):
        return
    else:
        if view.run.status in ENDED:
            assert view.run.outcome is not None
            _note_end(town, run, view.run.outcome)


def _note_end(town: Town, run: str, told: Outcome | Later) -> None:
    if isinstance(told, Later):
        town.note("later", run)
    else:
        code = told.error.code.value if told.error else ""
        town.note("outcome", run, status=told.status.value, code=code, output=told.output)
