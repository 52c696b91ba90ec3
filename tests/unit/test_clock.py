"""A clock that follows another one shows its time, and never runs backwards."""

import pytest

from strandline._clock import FollowingClock


class Machine:
    """A machine with a wall clock that anybody sets, and ticks that nobody does."""

    def __init__(self, ahead_s: float) -> None:
        self.ticks = 100.0
        self.ahead_s = ahead_s
        self.true = 1_000_000.0
        self.clock = FollowingClock(self, self.tick)

    def now(self) -> float:
        return self.true + self.ahead_s

    def monotonic(self) -> float:
        return self.ticks

    def boottime(self) -> float:
        raise NotImplementedError

    def tick(self) -> float:
        return self.ticks

    def passes(self, seconds: float) -> None:
        self.ticks += seconds
        self.true += seconds

    def measure(self, round_trip_s: float = 0.002, *, late_s: float = 0.0) -> None:
        """Ask the other clock; its answer is right at the middle of the round trip, or later than that."""
        sent_at = self.ticks
        self.passes(round_trip_s / 2)
        shown = self.true + late_s
        self.passes(round_trip_s / 2)
        self.clock.measured(sent_at, self.ticks, shown)


@pytest.mark.parametrize("ahead_s", [0.0, 60.0, -60.0])
def test_it_shows_the_other_clock_whatever_its_own_machine_says(ahead_s: float) -> None:
    machine = Machine(ahead_s)
    assert machine.clock.now() == machine.now()
    machine.measure()
    machine.passes(3600.0)
    assert machine.clock.now() == pytest.approx(machine.true)
    machine.ahead_s += 1000.0  # (somebody sets it)
    assert machine.clock.now() == pytest.approx(machine.true)
    assert machine.clock.monotonic() == machine.ticks


def test_an_answer_that_came_slowly_does_not_spoil_what_is_known_better() -> None:
    machine = Machine(5.0)
    machine.measure(0.002)
    machine.measure(4.0, late_s=1.9)
    assert machine.clock.now() == pytest.approx(machine.true)
    machine.measure(0.002, late_s=0.3)
    assert machine.clock.now() == pytest.approx(machine.true + 0.3, abs=0.002)


def test_it_never_runs_backwards_and_catches_up_when_the_other_one_is_set_back() -> None:
    machine = Machine(0.0)
    machine.measure()
    before = machine.clock.now()
    for _ in range(30):
        machine.passes(1.0)
        machine.measure(late_s=-10.0)
        assert machine.clock.now() >= before
        before = machine.clock.now()
    assert machine.clock.now() == pytest.approx(machine.true - 10.0, abs=0.01)


def test_a_clock_that_is_wrong_is_logged_once_until_it_is_right(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(61.0)
    for _ in range(3):
        machine.measure()
    assert [each.getMessage().split(":")[0] for each in caplog.records] == [
        "this machine's clock is 61.0 s ahead of the database's"
    ]
    assert machine.clock.off_s == pytest.approx(61.0)
    machine.ahead_s = 0.2
    machine.measure()
    machine.ahead_s = -2.0
    machine.measure()
    assert [each.getMessage().split(":")[0] for each in caplog.records[1:]] == [
        "this machine's clock is 2.0 s behind the database's"
    ]
