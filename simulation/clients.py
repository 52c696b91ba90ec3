"""Clients: they ask, wait, leave, come back after a restart and ask again. They record what they receive."""

import asyncio
from collections import deque

from msgspec import UnsetType
from msgspec.structs import replace

from judging.evidence import Gathering
from simulation.loop import EPOCH
from simulation.operations import cancel, edit, fork, fork_for_sure, move, pause, restore
from simulation.resolving import has_crashed, resolving
from simulation.script import draw
from simulation.server import Gone, Server
from simulation.town import Town, note_end, reachable, requested
from strandline._engine.admission import Ticket
from strandline._engine.requests import Replaced, Request
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._lifecycle import ENDED
from strandline._model import (
    DEFAULT_PRIORITY,
    INTERRUPTS,
    IfBusy,
    InputRequest,
    OnDisconnect,
    OnQuestion,
    Outcome,
    Resolution,
    RunId,
    SessionKey,
)
from strandline.errors import (
    AlreadyAnswered,
    CannotGoBack,
    Dismissed,
    Invalid,
    KeyReused,
    NotFound,
    NotResolvable,
    NotRunning,
    SessionBusy,
    StrandlineError,
    Unavailable,
)

POLICIES = (IfBusy.INTERRUPT, IfBusy.INTERRUPT, IfBusy.ROLLBACK, IfBusy.REJECT)

GOING_BACK = (IfBusy.ENQUEUE, IfBusy.ENQUEUE, IfBusy.INTERRUPT, IfBusy.ROLLBACK)

LIMITS = ("timeout_s", "queue_timeout_s")

TIMES = 5
"""How often people come back for a run until they know how it has ended, if they care."""

REFUSALS = (
    *(Unavailable, SessionBusy, NotRunning, AlreadyAnswered, Dismissed),
    *(CannotGoBack, NotResolvable, NotFound, Invalid),
)


async def send(town: Town) -> None:
    """Ask for one run, wherever a server can be reached, and see what becomes of it, as long as it is of interest."""
    chance = town.chance
    await asyncio.sleep(chance.random() ** 2 * 4)
    request = _drawn(town)
    if (task := asyncio.current_task()) is not None:
        task.set_name(_text_of(request))
    await _ask(town, request)


async def _ask(town: Town, request: Request) -> None:
    """Send a request, and see what becomes of the run."""
    chance, request = town.chance, town.habits.hooked(request)
    server = await reachable(town)
    if server is None:
        return
    _note_requested(town, request)
    twin = None
    if request.idempotency_key is not None:
        if request.answers is None:
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


async def send_alone(town: Town) -> None:
    """Ask for a run whose tools take their time, in a session in which hardly anything waits."""
    chance = town.habits.checks
    await asyncio.sleep(chance.random())
    await _say(town, chance.choice(town.alone))


async def _say(town: Town, key: SessionKey) -> None:
    chance = town.habits.checks
    text = town.new_text()
    script = draw(chance, replace(town.traits, tools=1.0, raises=0.0, hangs=0.0))
    slow = [[replace(tool, takes_s=chance.between(1.0, 4.0)) for tool in tools] for tools in script.rounds]
    town.scripts[text] = replace(script, rounds=tuple(map(tuple, slow)))
    await _ask(town, Request(key=key, input=text, metadata={"text": text}))


def _drawn(town: Town) -> Request:
    """Return a request with a text of its own; its key may be one that somebody else has used for another."""
    chance = town.chance
    key = chance.choice(town.sessions)
    text = town.new_text()
    town.scripts[text] = draw(chance, town.traits)
    limits = chance.choice(town.request_limits)
    if_busy = chance.choice(POLICIES) if chance.happens(town.traits.interrupts) else IfBusy.ENQUEUE
    request = Request(key=key, input=text, if_busy=if_busy, metadata={"text": text}, **limits)  # type: ignore[arg-type]
    if chance.happens(town.traits.priorities):
        request = replace(request, priority=1 + chance.up_to(4))
    if chance.happens(town.traits.attached):
        request = replace(request, on_disconnect=chance.choice((OnDisconnect.CANCEL, OnDisconnect.CANCEL_IF_QUEUED)))
    if town.traits.on_questions and chance.happens(town.traits.on_questions):
        wanted = chance.choice((OnQuestion.ANSWER, OnQuestion.ANSWER, OnQuestion.DISMISS))
        if not (wanted is OnQuestion.ANSWER and if_busy in INTERRUPTS):  # which contradict each other
            request = replace(request, on_question=wanted)
    if chance.happens(town.traits.keys):
        request = replace(request, idempotency_key=f"k-{text}", fingerprint=text.encode())
        if town.keyed and chance.happens(0.15):
            other = chance.choice(town.keyed)
            request = replace(request, key=other.key, idempotency_key=other.idempotency_key)
    return town.habits.applied_to(request, town.last_accepted.get(request.key, ()), town.clock.now())


def _text_of(request: Request) -> str:
    """Return the text that a run goes by: what it asks, or what it answers to all requests of a question."""
    return str(request.metadata["text"])


def _note_requested(town: Town, request: Request) -> None:
    town.note(
        "requested",
        _text_of(request),
        session=request.key,
        if_busy=request.if_busy or IfBusy.ENQUEUE,
        priority=DEFAULT_PRIORITY if request.priority is None else request.priority,
        key=request.idempotency_key,
        on_disconnect=request.on_disconnect or OnDisconnect.CONTINUE,
        on_question=request.on_question or OnQuestion.WAIT,
        answers=tuple(request.answers or ()),
        expected=request.expected_run_id,
        after=None if isinstance(request.after, UnsetType) else request.after or "",
        again=town.replaced.get(_text_of(request)),
        resolves=None if (found := town.resolutions.get(_text_of(request))) is None else found.run_id,
        not_before_s=None if request.not_before is None else request.not_before - EPOCH,
        sender=None if request.sender is None else request.sender.name,
        **_gathering(request),
        limits={
            name: seconds
            for name in ("timeout_s", "queue_timeout_s")
            if (seconds := getattr(request, name)) is not None
        },
    )


def _gathering(request: Request) -> dict[str, Gathering]:
    """Return how a request collects, if it does."""
    given = request.collect
    if given is None:
        return {}
    assert given.quiet is not None
    assert given.max_wait is not None
    assert given.max_items is not None
    return {"gathers": Gathering(quiet_s=given.quiet, max_wait_s=given.max_wait, max_items=given.max_items)}


async def _submit(town: Town, server: Server, request: Request) -> tuple[Server, Ticket] | None:
    """Send a request and return what it is answered by; None if it is refused, or nobody knows."""
    text = _text_of(request)
    replaced = town.replaced.get(text)
    try:
        server, ticket = await requested(
            town, server, lambda service: _submitted(service, request, replaced, town.resolutions.get(text))
        )
    except Gone:
        town.note("unsure", text)
    except KeyReused:
        town.note("reused", text)
    except REFUSALS as error:
        town.note("refused", text, code=error.code)
    else:
        town.note(
            "accepted",
            ticket.run_id,
            text=text,
            session=request.key,
            position=ticket.position,
            joins=ticket.joined,
            attached=ticket.attached,
            replayed=ticket.replayed,
            process=server.number,
        )
        town.last_accepted.setdefault(request.key, deque(maxlen=2)).append(ticket.run_id)
        return server, ticket
    return None


async def _submitted(
    service: Service, request: Request, replaced: RunId | None, resolution: Resolution | None
) -> Ticket:
    """Submit a request; one that replaces a run, if that can be, or continues a crashed one."""
    if replaced is not None:
        await service.repeatable(request.key.principal, replaced)
    again = None if replaced is None else Replaced(run_id=replaced)
    return await service.submit(request, again=again, resolution=resolution)


async def _go_back(town: Town, key: SessionKey, run: RunId) -> None:
    """Have the conversation continue from where a run was, once or twice, or from an earlier place."""
    chance = town.habits.edits
    await asyncio.sleep(chance.random() ** 2 * 6)
    text = town.new_text()
    town.scripts[text] = draw(town.chance, town.traits)
    if_busy = chance.choice((*GOING_BACK, IfBusy.ENQUEUE))
    named = chance.choice((run, run, *town.last_accepted.get(key, ())))
    request = Request(key=key, input=text, if_busy=if_busy, metadata={"text": text})
    if chance.random() < 0.4:
        town.replaced[text] = named
    else:
        request = replace(request, after=None if chance.random() < 0.15 else named)
    if chance.random() < town.traits.keys:
        request = replace(request, idempotency_key=f"k-{text}", fingerprint=text.encode())
    await _ask(town, request)


async def _resolve(town: Town, key: SessionKey, run: RunId) -> None:
    """Find out what the tools of a crashed run have done, and have it continue: one person, or two who do not know of
    each other."""
    await asyncio.gather(*(_take_up(town, key, run) for _ in range(town.habits.resolves)))


async def _take_up(town: Town, key: SessionKey, run: RunId) -> None:
    request = await resolving(town, key, run)
    if request is not None and town.habits.checks.random() < 0.4:  # somebody else does not wait for that
        await asyncio.gather(_say(town, key), _ask(town, request))
    elif request is not None:
        await _ask(town, request)


async def _fork(town: Town, key: SessionKey, run: RunId) -> None:
    """Try another way from where a run has ended, in a session of its own; now and then ask for it once more."""
    chance = town.habits.forking
    if (request := await fork(town, key, run)) is None:
        return
    for _ in range(chance.choice((0, 1, 1, 2))):
        text = town.new_text()
        town.scripts[text] = draw(chance, town.traits)
        await _ask(town, Request(key=request.key, input=text, metadata={"text": text}))
    if chance.random() < 0.3:
        await fork_for_sure(town, request.token.removeprefix("key "), request)


async def _follow(town: Town, server: Server, ticket: Ticket, request: Request) -> None:
    """Wait for a run, cancel it, come back for it."""
    chance, key, run = town.chance, request.key, ticket.run_id
    others: list[asyncio.Task[None]] = []
    for doing, how_likely in (
        (cancel, town.traits.cancels),
        (pause, town.traits.pauses_session),
        (move, town.traits.moves),
    ):
        if chance.happens(how_likely):
            others.append(asyncio.ensure_future(doing(town, key, run)))
    others += [asyncio.ensure_future(edit(town, key, run, request.metadata)) for _ in range(town.habits.edits_run)]
    received = await _wait(town, server, ticket, chance.between(0.1, 20.0))
    if received is not None:
        note_end(town, run, received)
        if isinstance(received, Outcome) and received.input_requests:
            others += _people(town, key, received.input_requests)
        if isinstance(received, Outcome) and has_crashed(received):
            others.append(asyncio.ensure_future(_resolve(town, key, run)))
    if others:
        await asyncio.wait(others)
        for other in others:
            other.result()
    if received is None and key in town.alone:  # somebody cares for what its tools have done
        for _ in range(TIMES):
            await asyncio.sleep(town.habits.checks.between(0.5, 3.0))
            if await _come_back(town, key, run):
                break
    elif chance.happens(0.5):
        await asyncio.sleep(chance.between(0.0, 10.0))
        await _come_back(town, key, run)
        if chance.happens(0.5):
            await _send_again(town, request)
    if isinstance(received, Outcome) and town.habits.goes_back:
        await _go_back(town, key, run)
        if town.habits.restores:
            await restore(town, key, run)
    if isinstance(received, Outcome) and not town.forgets and town.habits.forks:
        await _fork(town, key, run)


def _people(town: Town, key: SessionKey, requests: list[InputRequest]) -> list[asyncio.Task[None]]:
    """Have people answer what a run has asked: mostly one, sometimes two who do not know of each other, or nobody."""
    chance = town.chance
    if chance.happens(0.3):
        return []
    return [asyncio.ensure_future(_answer(town, key, requests)) for _ in range(1 + chance.happens(0.3))]


async def _answer(town: Town, key: SessionKey, requests: list[InputRequest]) -> None:
    """Answer after a while, now and then what was not asked, or not all of it."""
    chance = town.chance
    await asyncio.sleep(chance.random() ** 2 * 30)
    text = town.new_text()
    town.scripts[text] = draw(chance, town.traits, answers=True)
    requested = [each.id for each in requests]
    if chance.happens(0.1):
        requested = [*requested[1:], f"i:{text}.0.0:0"] if chance.happens(0.5) else requested[:-1] or ["nobody's"]
    request = Request(key=key, answers=dict.fromkeys(requested, text), metadata={"text": text})
    if chance.happens(town.traits.on_questions):  # they do not know how to name what they answer
        request = replace(request, answers=None, input=text, on_question=OnQuestion.ANSWER)
    if chance.happens(town.traits.keys):
        request = replace(request, idempotency_key=f"k-{text}", fingerprint=text.encode())
    await _ask(town, request)


async def _twin(town: Town, request: Request) -> None:
    """Send a request as well, at about the same time: a client that has two connections, or no patience."""
    await asyncio.sleep(town.chance.random() ** 3 * 2)
    server = town.reached()
    if server is None or not server.ready:
        return
    if (answer := await _submit(town, server, request)) is not None:
        owner, ticket = answer
        received = await _wait(town, owner, ticket, town.chance.between(0.1, 20.0))
        if received is not None:
            note_end(town, ticket.run_id, received)


async def _send_again(town: Town, request: Request) -> tuple[Server, Ticket] | None:
    """Send a request with a key again: of which nobody knows anything, that was refused, or that has ended."""
    if request.idempotency_key is None or not town.resends:
        return None
    for _ in range(3):
        await asyncio.sleep(town.chance.between(0.0, 2.0))
        server = town.reached()
        if server is None or not server.ready:
            continue
        if (answer := await _submit(town, server, request)) is not None:
            _, ticket = answer
            if ticket.replayed:
                note_end(town, ticket.run_id, await ticket.outcome())
            return answer
    return None


async def _wait(town: Town, server: Server, ticket: Ticket, patience_s: float) -> Outcome | Later | None:
    """Wait for the end, or leave after a while; None if there was none."""
    try:
        wait = server.ask(_present(town, server, ticket))
        if ticket.counts_clients:  # it is of interest what becomes of it without a client
            patience_s /= 5
        leaves = town.chance.happens(0.7 if ticket.counts_clients else 0.3)
        return await (asyncio.wait_for(wait, patience_s) if leaves else wait)
    except (Gone, TimeoutError):
        return None


async def _present(town: Town, server: Server, ticket: Ticket) -> Outcome | Later:
    """Wait for the end of a run, and have the server know whether somebody does."""
    service, run = server.service, ticket.run_id
    service.joined(run)
    lost = True
    try:
        received = await ticket.outcome()
        lost = False
        return received
    finally:
        if server.alive:
            if lost:
                town.note("hung_up", run)
            service.left(run, lost=lost)


async def _come_back(town: Town, key: SessionKey, run: RunId) -> bool:
    """Wait for a run again, and return whether it has ended, or is not there."""
    server = town.reached()
    if server is None or not server.ready:
        return False
    try:
        if town.chance.happens(0.3):
            town.note("reading_history", run)
            page = await server.ask(server.service.history_page(key, limit=1000))
            town.note("history", run, session=key, messages=page.messages, pending=page.pending)
        patience_s = town.chance.between(0.0, 30.0)
        _, view = await requested(town, server, lambda service: service.wait(key.principal, run, patience_s))
    except NotFound:
        town.note("missing", run)
    except (Gone, StrandlineError):
        return False
    else:
        if view.run.status not in ENDED:
            return False
        assert view.run.outcome is not None
        note_end(town, run, view.run.outcome)
        for each in _people(town, key, view.run.outcome.input_requests) if view.run.outcome.input_requests else ():
            await each
        if has_crashed(view.run.outcome):
            await _resolve(town, key, run)
    return True
