"""Sessions that are at rest for long enough are forgotten, as if a client had deleted them, and no others."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from engine_support import Played, echo, history, key, outcome, send, serving, texts
from strandline._config import resolve
from strandline._engine.events import SessionDeleted
from strandline._engine.maintenance.background import DELETED_AT_ONCE
from strandline._engine.observers import Unprojected
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Change, ChangeAnswer, Delete, RestingQuery
from strandline._model import ANONYMOUS, SessionKey
from strandline.errors import JournalUnavailable, NotFound, SettingsError
from strandline.testing._virtual import VirtualClock, run_virtual

HOUR: dict[str, Any] = {"run_retention_s": 600.0, "history_retention_s": 3600.0}


class Followed(Unprojected):
    """A projection that records its calls."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, SessionKey]] = []

    async def deleting(self, key: SessionKey) -> None:
        self.shown.append(("deleting", key))

    async def deleted(self, key: SessionKey, *, done: bool) -> None:
        self.shown.append((f"deleted {done}", key))


async def is_there(service: Service, session: str) -> bool:
    try:
        await service.session(key(session))
    except NotFound:
        return False
    return True


def test_a_session_at_rest_for_longer_than_the_retention_is_forgotten_as_if_a_client_had_deleted_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(clock: VirtualClock) -> None:
        followed, target = Followed(), Played(echo)
        async with serving(
            clock, target, projection=followed, agent_idle_s=1e9, stream_retention_s=1e9, **HOUR
        ) as service:
            changes = service.changes(ANONYMOUS, types=["session.deleted"])
            ticket = await send(service, "x", "old", idempotency_key="k", fingerprint=b"f")
            await outcome(ticket)
            await asyncio.sleep(1800)
            await outcome(await send(service, "y", "new"))
            await asyncio.sleep(1799)
            assert await is_there(service, "old")
            assert service.health().agents_in_memory == 2
            await asyncio.sleep(70)
            assert not await is_there(service, "old")
            assert await is_there(service, "new")
            assert service.health().agents_in_memory == 1
            assert followed.shown == [("deleting", key("old")), ("deleted True", key("old"))]
            assert [(each.event, each.session_id) for each in changes.ready()] == [(SessionDeleted(), "old")]
            await outcome(await send(service, "z", "old"))
            assert texts(await history(service, "old")) == ["z", "echo z"]
            assert target.built[-1][1].messages == []

    with caplog.at_level(logging.INFO, "strandline.upkeep"):
        run_virtual(main)
    assert [each.getMessage() for each in caplog.records if each.name == "strandline.upkeep"] == [
        "deleted 1 sessions that were idle for longer than history_retention"
    ]


def test_without_a_retention_and_while_something_is_open_sessions_stay() -> None:
    async def main(clock: VirtualClock) -> None:
        for options, kept in ((HOUR, ["paused", "used"]), ({"run_retention_s": 600.0}, ["paused", "rests", "used"])):
            async with serving(clock, Played(echo), **options) as service:
                for session in ("rests", "paused", "used"):
                    await outcome(await send(service, "x", session))
                await service.pause(key("paused"))
                for _ in range(4):
                    await asyncio.sleep(3000)
                    await outcome(await send(service, "again", "used"))
                assert [each for each in ("paused", "rests", "used") if await is_there(service, each)] == kept

    run_virtual(main)


class Slow(MemoryJournal):
    """Has somebody ask in each session between the moment in which it is found at rest and its deletion."""

    service: Service | None = None

    async def change(self, change: Change) -> ChangeAnswer:
        if isinstance(change, Delete) and self.service is not None:
            await outcome(await send(self.service, "just in time", change.key.session_id))
        return await super().change(change)


def test_a_session_with_a_new_request_before_its_deletion_stays() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Slow(clock)
        async with serving(clock, Played(echo), journal, **HOUR) as service:
            await outcome(await send(service, "x"))
            journal.service = service
            await asyncio.sleep(3700)
            assert texts(await history(service)) == ["x", "echo x", "just in time", "echo just in time"]

    run_virtual(main)


class Damaged(MemoryJournal):
    """Cannot forget one of its sessions, and counts how often anybody looks."""

    queries = 0

    async def change(self, change: Change) -> ChangeAnswer:
        if isinstance(change, Delete) and change.key == key("damaged"):
            raise JournalUnavailable("the history of session damaged is damaged")
        return await super().change(change)

    async def read(self, query: Any) -> Any:
        self.queries += isinstance(query, RestingQuery)
        return await super().read(query)


def test_a_session_that_cannot_be_forgotten_keeps_no_other_and_is_tried_again_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Damaged(clock)
        async with serving(clock, Played(echo), journal, **HOUR) as service:
            for session in ("damaged", *(f"s{n}" for n in range(250))):
                await outcome(await send(service, "x", session))
            queries = journal.queries
            await asyncio.sleep(3700)
            assert await is_there(service, "damaged")
            assert not await is_there(service, "s0")
            assert not await is_there(service, "s249"), "page after page"
            assert journal.queries - queries < 3700 / 60 + 10

    run_virtual(main)
    shown = [each.getMessage() for each in caplog.records if "could not be deleted" in each.getMessage()]
    assert 1 <= len(shown) <= 3
    assert "damaged of anonymous: the history" in shown[0]


class Full(MemoryJournal):
    """Can forget nothing: its disk is full, which it knows once it has tried. Counts how often it was asked to."""

    tries = 0

    @property
    def trouble(self) -> str | None:
        return "the disk is full" if self.tries else None

    async def change(self, change: Change) -> ChangeAnswer:
        if isinstance(change, Delete):
            self.tries += 1
            raise JournalUnavailable("the disk is full")
        return await super().change(change)


def test_while_the_disk_is_full_nobody_goes_on_to_the_next_page_of_sessions() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Full(clock)
        async with serving(clock, Played(echo), journal, **HOUR) as service:
            for n in range(DELETED_AT_ONCE + 50):
                await outcome(await send(service, "x", f"s{n}"))
            await asyncio.sleep(4000)
            assert 1 <= journal.tries <= DELETED_AT_ONCE

    run_virtual(main)


class Threadless(Unprojected):
    """Keeps a copy that cannot be looked at for one of the sessions, at first: there is no thread to be had."""

    fails = 1

    async def deleting(self, key: SessionKey) -> None:
        if key.session_id == "s0" and self.fails:
            self.fails -= 1
            raise RuntimeError("can't start new thread")


def test_whatever_keeps_a_session_from_being_forgotten_the_next_ones_are_and_it_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), projection=Threadless(), **HOUR) as service:
            for session in ("s0", "s1"):
                await outcome(await send(service, "x", session))
            await asyncio.sleep(3600 + 62)
            assert await is_there(service, "s0")
            assert not await is_there(service, "s1")
            await asyncio.sleep(62)
            assert not await is_there(service, "s0")

    run_virtual(main)
    shown = [each for each in caplog.records if "could not be deleted" in each.getMessage()]
    assert len(shown) == 1
    assert "can't start new thread" in shown[0].getMessage()


class Lost(MemoryJournal):
    """Has no thread for what is looked for in it, at first."""

    fails = 1

    async def read(self, query: Any) -> Any:
        if isinstance(query, RestingQuery) and self.fails:
            self.fails -= 1
            raise RuntimeError("can't start new thread")
        return await super().read(query)

    async def prune(self, before: float, limit: int) -> int:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("can't start new thread")
        return await super().prune(before, limit)


@pytest.mark.parametrize("first", [1, 2])
def test_what_cannot_be_looked_for_now_is_looked_for_a_minute_later(first: int) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Lost(clock)
        journal.fails = first
        async with serving(clock, Played(echo), journal, **HOUR) as service:
            ticket = await send(service, "x", "s0")
            await outcome(ticket)
            await asyncio.sleep(700)
            with pytest.raises(NotFound):
                await service.run(ANONYMOUS, ticket.run_id)
            await asyncio.sleep(3600)
            assert not await is_there(service, "s0")

    run_virtual(main)


def test_a_retention_of_sessions_below_that_of_runs_would_lose_keys_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"history_retention is 3600 \(--history-retention\).*run_retention"):
        resolve({"history_retention": "3600"}, {}, folder=tmp_path)
    for name, value in (("history_retention", "59"), ("history_retention", "nan")):
        with pytest.raises(SettingsError, match=name):
            resolve({name: value}, {}, folder=tmp_path)
    settings = resolve({"history_retention": "2592000"}, {}, folder=tmp_path).settings
    assert settings.history_retention_s == settings.run_retention_s
    assert resolve({}, {}, folder=tmp_path).settings.history_retention_s is None
