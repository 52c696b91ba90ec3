"""Which of many connections are closed, and when: on virtual time, without sockets."""

import asyncio

import pytest

from strandline._http.middleware.connection_limiter import FOR_PROBES, ConnectionLimiter
from strandline.errors import Draining, StrandlineError
from strandline.testing._virtual import VirtualClock, run_virtual


class Seen:
    """A connection that writes down what becomes of it."""

    def __init__(self, limiter: ConnectionLimiter, *, comes_back: bool = False) -> None:
        self.limiter = limiter
        self.comes_back = comes_back
        self.probes_only = False
        self.calls: list[object] = []
        self.limiter.came(self)

    def close_after_response(self) -> None:
        self.calls.append("answers last")

    def took_too_long(self, reason: StrandlineError) -> None:
        self.calls.append(asyncio.get_running_loop().time())
        if self.comes_back:
            self.limiter.expects_request(self)

    def took_too_little(self) -> None:
        self.calls.append("took too little")

    def cut(self) -> None:
        self.calls.append("cut")

    def take_probes_only(self, most: int) -> None:
        self.probes_only = True

    def refuse(self, error: StrandlineError) -> None:
        self.calls.append(error.code)


def test_each_has_its_own_time_from_its_own_beginning_and_one_timer_serves_all() -> None:
    async def life(clock: VirtualClock) -> None:
        loop = asyncio.get_running_loop()
        limiter = ConnectionLimiter(most=100, patience_s=10)
        began = loop.time()
        first, again, answered, stays = (Seen(limiter, comes_back=n == 3) for n in range(4))
        await asyncio.sleep(4)
        limiter.expects_request(again)
        limiter.has_request(answered)
        timers = []
        for _ in range(5):
            await asyncio.sleep(10)
            timers.append(sum(not each.cancelled() for each in loop._scheduled))  # type: ignore[attr-defined]

        assert first.calls == [pytest.approx(began + 10, abs=0.1)]
        assert again.calls == [pytest.approx(began + 14, abs=0.1)]
        assert answered.calls == []
        assert len(stays.calls) == 5
        assert timers == [1] * 5

    run_virtual(life)


def test_a_server_that_stops_waits_for_no_request_longer_than_it_would_have() -> None:
    async def life(clock: VirtualClock) -> None:
        limiter = ConnectionLimiter(most=100, patience_s=1)
        limiter.stop(Draining("the server is stopping", retry_after_s=7), 5)
        began = asyncio.get_running_loop().time()
        late = Seen(limiter)
        await asyncio.sleep(10)
        assert late.calls == [pytest.approx(began + 1, abs=0.1)]

    run_virtual(life)


def test_at_the_limit_the_longest_idle_connection_is_closed_and_none_that_waits_for_us() -> None:
    async def life(clock: VirtualClock) -> None:
        limiter = ConnectionLimiter(most=3, patience_s=10)
        answered, first, second = (Seen(limiter) for _ in range(3))
        limiter.has_request(answered)
        limiter.expects_request(first)  # (it has been answered: its time begins anew)
        third = Seen(limiter)
        assert [each.calls for each in (answered, first, second, third)] == [[], [], ["cut"], []]

        for each in (first, third):
            limiter.has_request(each)
        late = [Seen(limiter) for _ in range(FOR_PROBES)]
        assert all(each.probes_only and not each.calls for each in late)
        assert Seen(limiter).calls == ["no_connection_left"]
        limiter.left(late[0])
        assert Seen(limiter).probes_only

    run_virtual(life)
