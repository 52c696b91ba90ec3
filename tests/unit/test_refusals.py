"""Refusals: their words, and a full queue that is hammered: it refuses without the journal, and takes runs again as
soon as there is room.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from engine_support import Played, key, send, serving
from strandline._agents.port import Attempt
from strandline._engine.admission import Refusals
from strandline._engine.options import Options
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import AcceptAnswer, Bounds, Refused, Reused, Unanswerable
from strandline._model import ANONYMOUS, IfBusy, Keyed, NewRun, RunId
from strandline.errors import (
    AlreadyAnswered,
    DiskLow,
    Dismissed,
    HoldsFull,
    Invalid,
    KeyReused,
    NotFound,
    PrincipalFull,
    QueueFull,
    ServerFull,
    SessionBusy,
    StorageFull,
    StrandlineError,
)
from strandline.testing._virtual import VirtualClock, run_virtual


class Requested(MemoryJournal):
    """A journal that counts what it has to refuse."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.refused = 0

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        answer = await super().accept(new, bounds, claim_next=claim_next)
        self.refused += isinstance(answer, Refused)
        return answer


async def slow(attempt: Attempt) -> str:
    await asyncio.sleep(10)
    return "done"


async def refused_at(service: Service, priority: int | None = None) -> int:
    with pytest.raises(QueueFull) as full:
        await send(service, "x", priority=priority)
    return full.value.position


def test_a_full_queue_that_is_hammered_costs_the_journal_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Requested(clock)
        async with serving(clock, Played(slow), journal, max_queued_per_session=2) as service:
            for _ in range(3):
                await send(service, "x")
            assert [await refused_at(service) for _ in range(50)] == [3] * 50
            assert [await refused_at(service, priority=1) for _ in range(50)] == [1] * 50, "it would go first"
            assert journal.refused == 0

    run_virtual(main)


def test_a_queue_is_not_full_any_more_when_a_run_has_begun_or_was_cancelled() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=2) as service:
            first, *_ = [await send(service, "x") for _ in range(3)]
            assert await refused_at(service) == 3
            await first.stream.outcome()
            await asyncio.sleep(0.1)
            last = await send(service, "x")
            assert await refused_at(service) == 3
            await service.cancel(ANONYMOUS, last.run_id)
            assert (await send(service, "x")).position == 2
            assert await refused_at(service) == 3
            await service.cancel_session(key())
            assert (await send(service, "x")).position == 1

    run_virtual(main)


def test_a_queue_is_not_full_any_more_when_a_run_has_waited_too_long() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=1) as service:
            await send(service, "x")
            await send(service, "x", queue_timeout_s=2)
            assert await refused_at(service) == 2
            await asyncio.sleep(3)
            assert (await send(service, "x")).position == 1

    run_virtual(main)


def test_a_refusal_has_the_position_after_a_run_was_moved() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=3) as service:
            await send(service, "x")
            moved = await send(service, "x", priority=5)
            await send(service, "x")
            await send(service, "x")
            assert await refused_at(service) == 3
            await service.move(ANONYMOUS, moved.run_id, 1)
            assert await refused_at(service) == 4

    run_virtual(main)


def test_a_session_in_which_nothing_may_wait_is_free_when_its_run_has_ended() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=0) as service:
            ticket = await send(service, "x")
            assert await refused_at(service) == 1
            await ticket.stream.outcome()
            await asyncio.sleep(0.1)
            assert (await send(service, "x")).position == 0

    run_virtual(main)


def test_what_a_full_queue_refuses_by_key_or_policy_is_decided_by_the_journal() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=1) as service:
            running = await send(service, "x", idempotency_key="k", fingerprint=bytes(32))
            await send(service, "x")
            assert await refused_at(service) == 2
            again = await send(service, "x", idempotency_key="k", fingerprint=bytes(32))
            assert again.run_id == running.run_id
            with pytest.raises(SessionBusy):
                await send(service, "x", if_busy=IfBusy.REJECT)

    run_virtual(main)


# -- what each one says -------------------------------------------------------------------------------


def refusals(**settings: Any) -> Refusals:
    """Return the refusals of a server on which a run at `position` waits 10 s for each before it."""
    estimates = SimpleNamespace(wait_s=lambda session, position: 10.0 * position, retry_after_s=lambda session: 7.0)
    queues = SimpleNamespace(is_full=lambda principal: principal == "full", lingering=lambda principal: 4)
    readiness = SimpleNamespace(admit_run=lambda: None)
    parts: tuple[Any, Any, Any] = (readiness, queues, estimates)
    return Refusals(*parts, Options(retry_after_s=3, **settings))


def new(**fields: Any) -> NewRun:
    return NewRun(run_id=RunId("r"), key=key(), input="x", created_at=1.0, **fields)


@pytest.mark.parametrize(
    ("reason", "settings", "kind", "said", "retry_after_s"),
    [
        ("queue_full", {"max_queued_per_session": 2}, QueueFull, "2 runs of session s wait already", 7),
        (
            "principal_full",
            {"max_queued_per_principal": 5},
            PrincipalFull,
            "5 runs of anonymous wait already, in all its sessions",
            3,
        ),
        ("server_full", {"max_queued": 9}, ServerFull, "9 runs wait already, in all sessions", 3),
    ],
)
def test_a_full_queue_says_which_one_and_how_long_the_run_would_have_waited(
    reason: Any, settings: dict[str, Any], kind: type[QueueFull], said: str, retry_after_s: float
) -> None:
    error = refusals(**settings).error(new(), Refused(reason, 4))

    assert type(error) is kind
    assert isinstance(error, QueueFull)
    assert (str(error), error.position, error.estimated_wait_s) == (said, 4, 40)
    assert error.retry_after_s == retry_after_s


def test_full_storage_says_what_to_delete_and_when_to_come_back() -> None:
    error = refusals(max_stored_bytes_per_principal=1000).error(new(), Refused("storage_full", 1))

    assert isinstance(error, StorageFull)
    assert str(error) == (
        "1000 bytes may be kept for anonymous, in all its sessions (setting max_stored_bytes_per_caller), and"
        " this run would be more; delete sessions that are not needed any more"
    )
    assert error.retry_after_s == 60, "what has expired is deleted once a minute"


def test_a_disk_without_room_names_its_setting() -> None:
    error = refusals().error(new(), Refused("disk_low", 1))

    assert isinstance(error, DiskLow)
    assert str(error) == (
        "the server's disk is nearly full, and the rest is reserved for accepted runs (setting"
        " disk_reserve_bytes); new ones are refused until there is more"
    )
    assert error.retry_after_s == 3


def test_a_principal_with_too_many_lingering_runs_hears_how_many() -> None:
    run = replace(new(), key=key("s", "full"))
    with pytest.raises(HoldsFull) as refusal:
        refusals().admit(run)
    assert str(refusal.value) == (
        "4 ended runs of full are still executing (setting max_still_working_per_caller); its requests are refused"
        " until one of them stops"
    )
    assert refusal.value.retry_after_s == 3


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            Refused("session_busy", 1),
            SessionBusy,
            "session s has runs that execute or wait, and this one is not to wait",
        ),
        (Reused(), KeyReused, "the idempotency key k was used for another request in this session"),
        (
            Unanswerable("answered", ["i", "j"]),
            AlreadyAnswered,
            "input request i, j of session s was answered before",
        ),
        (Unanswerable("dismissed", ["i"]), Dismissed, "input request i of session s was dismissed: it is too late"),
        (
            Unanswerable("incomplete", ["i", "j"]),
            Invalid,
            "all input requests that are open must be answered together; missing: i, j",
        ),
        (Unanswerable("unknown", ["i"]), NotFound, "there is no input request i in session s"),
    ],
)
def test_each_answer_of_the_journal_is_one_error(answer: Any, kind: type[StrandlineError], said: str) -> None:
    error = refusals().error(new(keyed=Keyed("k", b"f", 0.0)), answer)

    assert (type(error), str(error)) == (kind, said)
