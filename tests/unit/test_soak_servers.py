"""The soak keeps its servers alive, and knows those that cannot start from those that it has killed."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from soak.nursery import Newborn, Nursery
from soak.server import MOST_FAILED, NotReady, Process, Relay, Server

DEADLINE_S = 20.0


class Forks(Nursery):
    """A nursery of processes that there are none of: a signal ends each."""

    def __init__(self, folder: Path) -> None:
        super().__init__({}, folder)
        self.born_now: dict[int, Newborn] = {}

    def send(self, command: dict[str, int], *fds: int) -> None:
        assert not fds
        newborn = self.born_now.pop(command["number"], None)
        if newborn is not None:
            end(newborn, -command["signal"])


def end(newborn: Newborn, code: int) -> None:
    newborn.stderr.feed_eof()
    newborn.ended(code)


class Played(Relay):
    """Servers that log and end as a test says."""

    def __init__(self, folder: Path) -> None:
        super().__init__("target.py", [], folder)
        self._nursery = None
        self.forks = Forks(folder)

    async def _started(self, server: Server) -> Process:
        newborn = self.forks.born_now[server.number] = Newborn(self.forks, server.number, asyncio.StreamReader())
        self._changed.notify()
        return newborn

    async def born(self, number: int) -> Newborn:
        while number not in self.forks.born_now:
            await self._changed.wait()
        return self.forks.born_now[number]


def played(play: Callable[[Played], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Play a test with servers."""

    @wraps(play)
    def test(tmp_path: Path) -> None:
        async def run() -> None:
            relay = Played(tmp_path)
            async with asyncio.timeout(DEADLINE_S), relay:
                await play(relay)

        asyncio.run(run())

    del test.__wrapped__  # (pytest would see its signature)
    return test


async def kill_first(relay: Played, count: int) -> None:
    for number in range(1, count + 1):
        await relay.born(number)
        (server,) = [each for each in relay.alive if each.number == number]
        server.send("KILL")
        await relay.ended(server)


@played
async def test_servers_that_the_soak_kills_as_they_start_are_no_reason_to_give_up(relay: Played) -> None:
    waiting = asyncio.create_task(relay.ready())
    await kill_first(relay, 2 * MOST_FAILED)
    newborn = await relay.born(2 * MOST_FAILED + 1)
    newborn.stderr.feed_data(b"serving at http://127.0.0.1:4711\n")
    assert (await waiting).port == 4711
    assert [each.code for each in relay.exits] == [-signal.SIGKILL] * 2 * MOST_FAILED


@played
async def test_servers_that_end_by_themselves_before_one_is_ready_are(relay: Played) -> None:
    waiting = asyncio.create_task(relay.ready())
    await kill_first(relay, 1)
    for number in range(2, MOST_FAILED + 2):
        assert not waiting.done()
        end(await relay.born(number), 1)
    with pytest.raises(NotReady, match=f"before {MOST_FAILED} had ended by themselves: .*ended with 1"):
        await waiting


@played
async def test_once_one_was_ready_no_number_of_ends_is(relay: Played) -> None:
    (await relay.born(1)).stderr.feed_data(b"serving at http://127.0.0.1:4711\n")
    await relay.ready()
    for number in range(1, 3 * MOST_FAILED):
        (server,) = [each for each in relay.alive if each.number == number]
        end(await relay.born(number), 1)
        await relay.ended(server)
    (await relay.born(3 * MOST_FAILED)).stderr.feed_data(b"serving at http://127.0.0.1:4712\n")
    assert (await relay.ready()).port == 4712


@played
async def test_a_server_that_has_no_process_yet_is_killed_as_soon_as_it_has_one(relay: Played) -> None:
    (first, *_) = relay.alive
    assert first.number not in relay.forks.born_now
    first.send("STOP")
    assert not first.is_frozen, "nothing would thaw it in time"
    first.send("KILL")
    await relay.ended(first)
    assert (first.signals, first.code) == (["KILL"], -signal.SIGKILL)
