"""Runs whose clients are lost: they continue, unless their caller wants otherwise and no client reconnects in time."""

import asyncio
from typing import Any

import pytest

from engine_support import Played, outcome, prompt_of, send, serving, until_idle
from strandline._agents.port import Attempt
from strandline._engine.admission import Ticket
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Change, ChangeAnswer
from strandline._model import ANONYMOUS, OnDisconnect, RunId, RunStatus
from strandline.errors import JournalUnavailable
from strandline.testing._virtual import VirtualClock, run_virtual


class Gated:
    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.target = Played(self.behaviour)

    async def behaviour(self, attempt: Attempt) -> str:
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
            if attempt.signal.is_set():
                raise RuntimeError("told to end")
        return f"answer to {prompt_of(attempt)}"


async def ask(service: Service, text: str, on_disconnect: str, **more: Any) -> Ticket:
    ticket = await send(service, text, on_disconnect=OnDisconnect(on_disconnect), **more)
    service.joined(ticket.run_id)
    return ticket


async def status(service: Service, run_id: RunId) -> RunStatus:
    return (await service.run(ANONYMOUS, run_id)).run.status


@pytest.mark.parametrize(
    ("on_disconnect", "executing", "waiting"),
    [
        ("continue", RunStatus.SUCCEEDED, RunStatus.SUCCEEDED),
        ("cancel", RunStatus.CANCELLED, RunStatus.CANCELLED),
        ("cancel_if_queued", RunStatus.SUCCEEDED, RunStatus.CANCELLED),
    ],
)
def test_what_becomes_of_a_run_whose_client_is_lost(
    on_disconnect: str, executing: RunStatus, waiting: RunStatus
) -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            first, second = await ask(service, "a", on_disconnect), await ask(service, "b", on_disconnect)
            for ticket in (first, second):
                service.left(ticket.run_id, lost=True)
            await asyncio.sleep(1.9)
            assert service.health().queue_depth == 1
            assert not (await service.run(ANONYMOUS, first.run_id)).run.cancel_requested
            await asyncio.sleep(0.2)
            assert (await service.run(ANONYMOUS, second.run_id)).run.started_at is None
            gated.go_on.set()
            await until_idle(service)
            assert [await status(service, each.run_id) for each in (first, second)] == [executing, waiting]
            assert service.health().lost_clients == 2
            assert len(service._streams) == 0

    run_virtual(main)


def test_a_client_that_comes_back_in_time_finds_its_run() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            ticket = await ask(service, "a", "cancel", idempotency_key="k", fingerprint=b"a")
            service.left(ticket.run_id, lost=True)
            await asyncio.sleep(1.5)
            again = await ask(service, "a", "cancel", idempotency_key="k", fingerprint=b"a")
            assert (again.run_id, again.counts_clients) == (ticket.run_id, True)
            await asyncio.sleep(10)
            assert await status(service, ticket.run_id) is RunStatus.RUNNING
            service.left(ticket.run_id, lost=True)
            assert (await outcome(again)).status is RunStatus.CANCELLED

    run_virtual(main)


def test_a_run_is_left_alone_only_when_the_last_of_its_clients_is_lost() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            ticket = await ask(service, "a", "cancel")
            service.joined(ticket.run_id)
            service.left(ticket.run_id, lost=True)
            await asyncio.sleep(10)
            assert await status(service, ticket.run_id) is RunStatus.RUNNING
            service.left(ticket.run_id, lost=False)
            await asyncio.sleep(10)
            assert await status(service, ticket.run_id) is RunStatus.RUNNING, "who was answered is not lost"
            service.joined(ticket.run_id)
            service.left(ticket.run_id, lost=True)
            assert (await outcome(ticket)).status is RunStatus.CANCELLED

    run_virtual(main)


def test_a_run_that_ends_while_it_is_alone_ends_as_it_does() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            ticket = await ask(service, "a", "cancel")
            service.left(ticket.run_id, lost=True)
            await asyncio.sleep(1)
            gated.go_on.set()
            assert (await outcome(ticket)).status is RunStatus.SUCCEEDED
            await asyncio.sleep(10)
            assert len(service._streams) == 0
            service.left(ticket.run_id, lost=True)
            assert len(service._streams) == 0

    run_virtual(main)


def test_the_service_has_a_default() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target, on_disconnect=OnDisconnect.CANCEL) as service:
            first, second = await send(service, "a"), await ask(service, "b", "continue")
            assert (first.counts_clients, second.counts_clients) == (True, False)
            service.joined(first.run_id)
            for ticket in (first, second):
                service.left(ticket.run_id, lost=True)
            assert (await outcome(first)).status is RunStatus.CANCELLED
            gated.go_on.set()
            assert (await outcome(second)).status is RunStatus.SUCCEEDED

    run_virtual(main)


def test_a_full_disk_delays_the_end_of_a_run_that_is_left_alone() -> None:
    class Failing(MemoryJournal):
        fails = True

        async def change(self, change: Change) -> ChangeAnswer:
            if self.fails:
                raise JournalUnavailable("no room")
            return await super().change(change)

    async def main(clock: VirtualClock) -> None:
        journal, gated = Failing(clock), Gated()
        async with serving(clock, gated.target, journal) as service:
            ticket = await ask(service, "a", "cancel")
            service.left(ticket.run_id, lost=True)
            await asyncio.sleep(10)
            assert await status(service, ticket.run_id) is RunStatus.RUNNING
            journal.fails = False
            assert (await outcome(ticket)).status is RunStatus.CANCELLED

    run_virtual(main)


def test_nobody_is_missed_while_the_server_stops() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target, drain_grace_s=10) as service:
            ticket = await ask(service, "a", "cancel")
            draining = asyncio.ensure_future(service.drain())
            await asyncio.sleep(1)
            service.left(ticket.run_id, lost=True)
            await asyncio.sleep(5)
            gated.go_on.set()
            assert (await outcome(ticket)).status is RunStatus.SUCCEEDED
            await draining

    run_virtual(main)


def test_a_run_ends_with_its_clients_if_its_session_says_so_and_its_request_does_not() -> None:
    """Also one whose request is sent again, since its answer was lost."""

    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            first = await send(service, "first")
            await service.set_options(first.key, {"on_disconnect": OnDisconnect.CANCEL})
            own = await send(service, "own", on_disconnect=OnDisconnect.CONTINUE)
            request = Request(key=first.key, input="hi")
            ticket = first
            for again in (False, True):
                ticket = await service.submit(request, run_id=RunId("mine"), sent_before_s=0.0 if again else None)
                assert ticket.counts_clients
                assert ticket.stream.on_disconnect is OnDisconnect.CANCEL
            assert (own.counts_clients, own.stream.on_disconnect) == (False, OnDisconnect.CONTINUE)
            service.joined(ticket.run_id)
            service.left(ticket.run_id, lost=True)
            gated.go_on.set()
            await until_idle(service)
            assert await status(service, own.run_id) is RunStatus.SUCCEEDED

    run_virtual(main)
