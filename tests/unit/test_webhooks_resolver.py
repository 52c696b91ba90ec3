"""Name servers that hang or fail: each caller's look-ups are bounded, and addresses found before are used meanwhile."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from strandline._model import Principal
from strandline._webhooks import resolver
from strandline._webhooks.failures import NotSent
from strandline._webhooks.resolver import HUNG_SHARE, LOOK_UPS, Resolver

DEADLINE_S = 30.0
EVE, ADA = Principal("eve"), Principal("ada")
AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Names:
    """A system's look-up: names that begin with `slow` hang until `release` is set; `fails` has what others raise."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()
        self.fails: dict[str, Exception] = {}

    def look_up(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host.startswith("slow"):
            assert self.release.wait(DEADLINE_S)
        if host in self.fails:
            raise self.fails[host]
        return ["192.0.2.1"]

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.asked) < count:
                await asyncio.sleep(0.001)


@contextmanager
def names() -> Iterator[Names]:
    made = Names()
    try:
        yield made
    finally:
        made.release.set()


def asking(work: Coroutine[Any, Any, list[str]]) -> "asyncio.Task[list[str]]":
    return asyncio.get_running_loop().create_task(work)


def test_names_of_one_caller_that_hang_leave_look_ups_to_all_others() -> None:
    async def scene(known: Names) -> None:
        at = Resolver(known.look_up)
        hanging = [asking(at.addresses(f"slow-{number}", 443, EVE)) for number in range(3 * LOOK_UPS)]
        await known.until_asked(LOOK_UPS // 2)
        async with asyncio.timeout(DEADLINE_S):
            assert await at.addresses("quick", 443, ADA) == ["192.0.2.1"]
            for number in range(20):
                other = Principal(f"other-{number}")
                hanging.append(asking(at.addresses(f"slow-{number}-of-other", 443, other)))
                assert await at.addresses(f"quick-{number}", 443, Principal(f"quick-{number}")) == ["192.0.2.1"]
            assert sum(each.startswith("slow-") and not each.endswith("other") for each in known.asked) == LOOK_UPS // 2
            known.release.set()
            await asyncio.gather(*hanging)

    with names() as known:
        asyncio.run(scene(known))


def test_names_that_have_hung_leave_look_ups_to_others_of_the_same_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(known: Names) -> None:
        at = Resolver(known.look_up)
        monkeypatch.setattr(resolver, "HANGS_S", 0.0)
        async with asyncio.timeout(DEADLINE_S):
            known.release.set()
            known.fails = {f"slow-{number}": AGAIN for number in range(LOOK_UPS)}
            first = [at.addresses(name, 443, EVE) for name in known.fails]
            assert all(isinstance(each, NotSent) for each in await asyncio.gather(*first, return_exceptions=True))
            known.release.clear()
            hanging = [asking(at.addresses(name, 443, EVE)) for name in known.fails]
            few = LOOK_UPS // (HUNG_SHARE + 1) + 1
            await known.until_asked(LOOK_UPS + few)
            for number in range(LOOK_UPS):
                assert await at.addresses(f"quick-{number}", 443, EVE) == ["192.0.2.1"]
            assert len(known.asked) == LOOK_UPS + few + LOOK_UPS
            known.release.set()
            await asyncio.gather(*hanging, return_exceptions=True)

    with names() as known:
        asyncio.run(scene(known))


def test_all_that_ask_for_a_name_share_a_look_up() -> None:
    async def scene(known: Names) -> None:
        at = Resolver(known.look_up)
        both = [asking(at.addresses("slow", 443, each)) for each in (EVE, ADA)]
        await known.until_asked(1)
        both[0].cancel()
        known.release.set()
        async with asyncio.timeout(DEADLINE_S):
            assert await both[1] == await at.addresses("slow", 443, EVE) == ["192.0.2.1"]
            assert await at.addresses("::1", 443, EVE) == ["::1"]
        assert known.asked == ["slow"]

    with names() as known:
        asyncio.run(scene(known))


def test_addresses_found_before_are_used_while_a_name_server_hangs_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it says that there is no such name any more, or an hour has passed."""

    async def scene(known: Names) -> None:
        at = Resolver(known.look_up)
        known.release.set()
        async with asyncio.timeout(DEADLINE_S):
            await at.addresses("slow", 443, EVE)
            monkeypatch.setattr(resolver, "FRESH_S", -1.0)
            monkeypatch.setattr(resolver, "PATIENCE_S", 0.01)
            known.release.clear()
            assert await at.addresses("slow", 443, EVE) == ["192.0.2.1"]
            assert len(known.asked) == 2
            known.fails["slow"] = AGAIN
            known.release.set()
            assert await at.addresses("slow", 443, EVE) == ["192.0.2.1"]
            with monkeypatch.context() as later:
                later.setattr(resolver, "STALE_S", -1.0)
                with pytest.raises(NotSent, match="the look-up of its host failed: Temporary failure"):
                    await at.addresses("slow", 443, EVE)
            monkeypatch.setattr(resolver, "PATIENCE_S", DEADLINE_S)
            known.fails["slow"] = NO_NAME
            for _ in range(2):
                with pytest.raises(NotSent, match="its host was not found"):
                    await at.addresses("slow", 443, EVE)

    with names() as known:
        asyncio.run(scene(known))


def test_addresses_found_before_are_used_while_too_many_look_ups_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(known: Names) -> None:
        at = Resolver(known.look_up)
        async with asyncio.timeout(DEADLINE_S):
            await at.addresses("quick", 443, EVE)
            hanging = [asking(at.addresses(f"slow-{number}", 443, EVE)) for number in range(LOOK_UPS)]
            await known.until_asked(1 + LOOK_UPS // 2)
            monkeypatch.setattr(resolver, "FRESH_S", -1.0)
            assert await at.addresses("quick", 443, EVE) == ["192.0.2.1"]
            assert len(known.asked) == 1 + LOOK_UPS // 2
            known.release.set()
            await asyncio.gather(*hanging)

    with names() as known:
        asyncio.run(scene(known))


def test_without_a_thread_an_event_is_not_sent_and_the_next_look_up_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(known: Names) -> None:
        at = Resolver(known.look_up)

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            for _ in range(2 * LOOK_UPS):
                with pytest.raises(NotSent, match="no thread can be started"):
                    await at.addresses("quick", 443, EVE)
        assert await at.addresses("quick", 443, EVE) == ["192.0.2.1"]

    with names() as known:
        asyncio.run(scene(known))


def test_only_the_latest_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(known: Names) -> None:
        monkeypatch.setattr(resolver, "MOST_KNOWN", 2)
        at = Resolver(known.look_up)
        for name in ("a", "b", "a", "c", "c", "b", "a"):
            await at.addresses(name, 443, EVE)
        assert known.asked == ["a", "b", "c", "a"]

    with names() as known:
        asyncio.run(scene(known))
