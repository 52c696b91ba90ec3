"""Clients: they ask, wait, leave, come back after a restart and ask again. They write down what they were told."""

import asyncio
from typing import Protocol

from msgspec.structs import replace

from simulation.loop import Chance
from simulation.script import Script, Traits, draw
from simulation.server import Gone, Server
from strandline.engine.asked import Request, Ticket
from strandline.engine.stream import Later
from strandline.errors import AlreadyEnded, KeyReused, NotFound, SessionBusy, StrandlineError, TooLate, Unavailable
from strandline.lifecycle import ENDED
from strandline.model import DEFAULT_PRIORITY, IfBusy, OnDisconnect, Outcome, RunId, SessionKey

POLICIES = (IfBusy.INTERRUPT, IfBusy.INTERRUPT, IfBusy.ROLLBACK, IfBusy.REJECT)

LIMITS = ("timeout_s", "queue_timeout_s")


class Town(Protocol):
    """Where clients live."""

    chance: Chance
    scripts: dict[str, Script]
    traits: Traits
    sessions: list[SessionKey]
    server: Server | None
    request_limits: list[dict[str, float]]
    keyed: list[Request]
    resends: bool
    """Whether a key lives longer than anybody is interested in its run."""

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
    request = _drawn(town)
    if (task := asyncio.current_task()) is not None:
        task.set_name(str(request.input))
    server = await _reachable(town)
    if server is None:
        return
    _note_asked(town, request)
    twin = None
    if request.idempotency_key is not None:
        town.keyed.append(request)
        if town.resends and chance.happens(0.3):
            twin = asyncio.ensure_future(_twin(town, request))
    answer = await _submit(town, server, request)
    if answer is None:
        answer = await _send_again(town, request)
    if answer is not None:
        await _follow(town, *answer, request)
    if twin is not None:
        await twin


def _drawn(town: Town) -> Request:
    """Return a request with a text of its own; its key may be one that somebody else has used for another."""
    chance = town.chance
    key = chance.choice(town.sessions)
    text = town.new_text()
    town.scripts[text] = draw(chance, town.traits)
    limits = chance.choice(town.request_limits)
    if_busy = chance.choice(POLICIES) if chance.happens(town.traits.interrupts) else IfBusy.ENQUEUE
    request = Request(key=key, input=text, if_busy=if_busy, **limits)  # type: ignore[arg-type]
    if chance.happens(town.traits.priorities):
        request = replace(request, priority=1 + chance.up_to(4))
    if chance.happens(town.traits.attached):
        request = replace(request, on_disconnect=chance.choice((OnDisconnect.CANCEL, OnDisconnect.CANCEL_IF_QUEUED)))
    if chance.happens(town.traits.keys):
        request = replace(request, idempotency_key=f"k-{text}", fingerprint=text.encode())
        if town.keyed and chance.happens(0.15):
            other = chance.choice(town.keyed)
            request = replace(request, key=other.key, idempotency_key=other.idempotency_key)
    return request


def _note_asked(town: Town, request: Request) -> None:
    town.note(
        "asked",
        str(request.input),
        session=request.key,
        if_busy=request.if_busy,
        priority=DEFAULT_PRIORITY if request.priority is None else request.priority,
        key=request.idempotency_key,
        on_disconnect=request.on_disconnect or OnDisconnect.CONTINUE,
        limits={
            name: seconds
            for name in ("timeout_s", "queue_timeout_s")
            if (seconds := getattr(request, name)) is not None
        },
    )


async def _reachable(town: Town) -> Server | None:
    for _ in range(3):
        server = town.server
        if server is not None and server.ready:
            return server
        await asyncio.sleep(1.0)
    return None


async def _submit(town: Town, server: Server, request: Request) -> tuple[Server, Ticket] | None:
    """Send a request and return what it is answered by; None if it is refused, or nobody knows."""
    text = str(request.input)
    try:
        ticket = await server.ask(server.service.submit(request))
    except Gone:
        town.note("unsure", text)
    except KeyReused:
        town.note("reused", text)
    except (Unavailable, SessionBusy) as error:
        town.note("refused", text, code=error.code)
    else:
        town.note(
            "accepted",
            ticket.run_id,
            text=text,
            session=request.key,
            position=ticket.position,
            replayed=ticket.replayed,
            process=server.number,
        )
        return server, ticket
    return None


async def _follow(town: Town, server: Server, ticket: Ticket, request: Request) -> None:
    """Wait for a run, cancel it, come back for it."""
    chance, key, run = town.chance, request.key, ticket.run_id
    others: list[asyncio.Task[None]] = []
    for doing, how_likely in (
        (_cancel, town.traits.cancels),
        (_pause, town.traits.pauses_session),
        (_move, town.traits.moves),
    ):
        if chance.happens(how_likely):
            others.append(asyncio.ensure_future(doing(town, key, run)))
    told = await _wait(town, server, ticket, chance.between(0.1, 20.0))
    if told is not None:
        _note_end(town, run, told)
    if others:
        await asyncio.wait(others)
        for other in others:
            other.result()
    if chance.happens(0.5):
        await asyncio.sleep(chance.between(0.0, 10.0))
        await _come_back(town, key, run)
        if chance.happens(0.5):
            await _send_again(town, request)


async def _twin(town: Town, request: Request) -> None:
    """Send a request as well, at about the same time: a client that has two connections, or no patience."""
    await asyncio.sleep(town.chance.random() ** 3 * 2)
    server = town.server
    if server is None or not server.ready:
        return
    if (answer := await _submit(town, server, request)) is not None:
        _, ticket = answer
        told = await _wait(town, server, ticket, town.chance.between(0.1, 20.0))
        if told is not None:
            _note_end(town, ticket.run_id, told)


async def _send_again(town: Town, request: Request) -> tuple[Server, Ticket] | None:
    """Send a request with a key again: of which nobody knows anything, that was refused, or that has ended."""
    if request.idempotency_key is None or not town.resends:
        return None
    for _ in range(3):
        await asyncio.sleep(town.chance.between(0.0, 2.0))
        server = town.server
        if server is None or not server.ready:
            continue
        if (answer := await _submit(town, server, request)) is not None:
            _, ticket = answer
            if ticket.replayed:
                _note_end(town, ticket.run_id, await ticket.outcome())
            return answer
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


async def sweep(town: Town) -> None:
    """Cancel all that waits in a session, maybe what executes there too."""
    chance = town.chance
    await asyncio.sleep(chance.random() ** 2 * 6)
    server = town.server
    if server is None or not server.ready:
        return
    key, running, force = chance.choice(town.sessions), chance.happens(0.5), chance.happens(0.2)
    name = town.new_text()
    town.note("sweeping", name, session=key, running=running, force=force)
    try:
        stopped = await server.ask(server.service.cancel_session(key, running=running, force=force))
    except NotFound:
        town.note("swept", name, ended=[], asked=[])
    except (Gone, StrandlineError):
        return
    else:
        town.note("swept", name, ended=sorted(stopped.ended), asked=stopped.asked)
        for run, outcome in stopped.ended.items():
            _note_end(town, run, outcome)


async def wipe(town: Town) -> None:
    """Delete a session, unless it has something to do."""
    chance = town.chance
    await asyncio.sleep(chance.random() * 10)
    server = town.server
    if server is None or not server.ready:
        return
    key, name = chance.choice(town.sessions), town.new_text()
    town.note("deleting", name, session=key)
    try:
        existed = await server.ask(server.service.delete(key))
    except SessionBusy:
        town.note("undeleted", name)
    except (Gone, StrandlineError):
        return
    else:
        town.note("deleted", name, existed=existed)


async def _pause(town: Town, key: SessionKey, run: RunId) -> None:
    """Pause a session for a while; see to it that it goes on."""
    await asyncio.sleep(town.chance.random() ** 2 * 4)
    server = town.server
    if server is None or not server.ready:
        return
    town.note("pausing", run, session=key)
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
            try:
                await server.ask(server.service.resume(key))
            except (Gone, Unavailable):
                town.note("resumed", "", session=key)
            except NotFound:  # it was deleted meanwhile
                town.note("resumed", "", session=key)
                return
            else:
                town.note("resumed", "", session=key)
                return
        await asyncio.sleep(town.chance.between(0.1, 1.0))


async def _move(town: Town, key: SessionKey, run: RunId) -> None:
    """Move a run, if it still waits then."""
    await asyncio.sleep(town.chance.random() ** 2 * 4)
    server = town.server
    if server is None or not server.ready:
        return
    priority = town.chance.choice((None, None, 1, 5))
    town.note("moving", run, priority=priority)
    try:
        await server.ask(server.service.move(key.principal, run, priority))
    except (AlreadyEnded, NotFound, TooLate) as error:
        town.note("unmoved", run, code=error.code)
    except (Gone, StrandlineError):
        return
    else:
        town.note("moved", run)


async def _wait(town: Town, server: Server, ticket: Ticket, patience_s: float) -> Outcome | Later | None:
    """Wait for the end, or leave after a while; None if there was none."""
    try:
        wait = server.ask(_present(town, server, ticket))
        if ticket.heeds:  # it is of interest what becomes of it without a client
            patience_s /= 5
        leaves = town.chance.happens(0.7 if ticket.heeds else 0.3)
        return await (asyncio.wait_for(wait, patience_s) if leaves else wait)
    except (Gone, TimeoutError):
        return None


async def _present(town: Town, server: Server, ticket: Ticket) -> Outcome | Later:
    """Wait for the end of a run, and have the server know whether somebody does."""
    service, run = server.service, ticket.run_id
    service.joined(run)
    lost = True
    try:
        told = await ticket.outcome()
        lost = False
        return told
    finally:
        if server.alive:
            if lost:
                town.note("hung_up", run)
            service.left(run, lost=lost)


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
