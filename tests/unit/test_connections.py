"""Who is let go of many connections, and when: on virtual time, without sockets."""

import asyncio
import resource
from typing import cast

import pytest

from strandline.errors import StrandlineError
from strandline.http.connections import FOR_PROBES, Connection, Crowd, allowed
from strandline.testing.virtual import VirtualClock, run_virtual


class Seen:
    """A connection that writes down what becomes of it."""

    def __init__(self, crowd: Crowd, *, comes_back: bool = False) -> None:
        self.crowd = crowd
        self.comes_back = comes_back
        self.probes_only = False
        self.told: list[object] = []
        self.crowd.came(self.itself)

    @property
    def itself(self) -> Connection:
        return cast("Connection", self)

    def took_too_long(self, patience_s: float) -> None:
        self.told.append(asyncio.get_running_loop().time())
        if self.comes_back:
            self.crowd.owes(self.itself)

    def cut(self) -> None:
        self.told.append("cut")

    def take_probes_only(self, most: int) -> None:
        self.probes_only = True

    def refuse(self, error: StrandlineError) -> None:
        self.told.append(error.code)


def test_each_has_its_own_time_from_its_own_beginning_and_one_timer_serves_all() -> None:
    async def life(clock: VirtualClock) -> None:
        loop = asyncio.get_running_loop()
        crowd = Crowd(most=100, patience_s=10)
        began = loop.time()
        first, again, owed, stays = (Seen(crowd, comes_back=n == 3) for n in range(4))
        await asyncio.sleep(4)
        crowd.owes(again.itself)
        crowd.is_owed(owed.itself)
        timers = []
        for _ in range(5):
            await asyncio.sleep(10)
            timers.append(sum(not each.cancelled() for each in loop._scheduled))  # type: ignore[attr-defined]

        assert first.told == [pytest.approx(began + 10, abs=0.1)]
        assert again.told == [pytest.approx(began + 14, abs=0.1)]
        assert owed.told == []
        assert len(stays.told) == 5
        assert timers == [1] * 5

    run_virtual(life)


def test_of_too_many_the_one_goes_that_has_owed_for_longest_and_none_that_is_owed() -> None:
    async def life(clock: VirtualClock) -> None:
        crowd = Crowd(most=3, patience_s=10)
        owed, first, second = (Seen(crowd) for _ in range(3))
        crowd.is_owed(owed.itself)
        crowd.owes(first.itself)  # (it has been answered: its time begins anew)
        third = Seen(crowd)
        assert [each.told for each in (owed, first, second, third)] == [[], [], ["cut"], []]

        for each in (first, third):
            crowd.is_owed(each.itself)
        late = [Seen(crowd) for _ in range(FOR_PROBES)]
        assert all(each.probes_only and not each.told for each in late)
        assert Seen(crowd).told == ["no_connection_left"]
        crowd.left(late[0].itself)
        assert Seen(crowd).probes_only

    run_virtual(life)


def test_connections_get_three_quarters_of_the_files_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.__setitem__(slice(None), new))
    assert allowed(600) == 600
    assert limits == [1024, 4096]
    assert allowed(1_000) == 1_000
    assert limits == [1467, 4096]
    assert allowed(12_000) == 4096 * 3 // 4 - FOR_PROBES
    assert limits == [4096, 4096]
