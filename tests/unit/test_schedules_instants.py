"""The times of schedules: cron expressions where clocks change, intervals, single times, and what is none of them."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from strandline._engine.schedules import When
from strandline.errors import Invalid

BERLIN = "Europe/Berlin"


def at(text: str) -> float:
    """Return a time in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def shown(times: list[float]) -> list[str]:
    return [datetime.fromtimestamp(each, UTC).strftime("%m-%d %H:%M:%S") for each in times]


def of(since: str, **when: object) -> list[str]:
    """Return the first four times of a schedule that is made then, in UTC."""
    made = When(since=at(since), **when)  # type: ignore[arg-type]
    made.check()
    return shown(made.upcoming(made.first, 4))


def test_a_time_that_the_clock_leaves_out_comes_right_after_the_change() -> None:
    """On 29 March 2026 02:00 to 03:00 is left out in Berlin."""
    assert of("2026-03-28T12:00:00Z", cron="30 2 * * *", timezone=BERLIN) == [
        "03-29 01:00:00", "03-30 00:30:00", "03-31 00:30:00", "04-01 00:30:00",
    ]  # fmt: skip


def test_a_time_that_comes_twice_fires_once() -> None:
    """On 25 October 2026 02:00 to 03:00 comes twice in Berlin."""
    assert of("2026-10-24T12:00:00Z", cron="30 2 * * *", timezone=BERLIN) == [
        "10-25 00:30:00", "10-26 01:30:00", "10-27 01:30:00", "10-28 01:30:00",
    ]  # fmt: skip


def test_every_half_hour_follows_the_time_that_passes() -> None:
    assert of("2026-10-25T00:10:00Z", cron="*/30 * * * *", timezone=BERLIN) == [
        "10-25 00:30:00", "10-25 01:00:00", "10-25 01:30:00", "10-25 02:00:00",
    ]  # fmt: skip


def test_a_time_zone_is_that_of_the_expression() -> None:
    assert of("2026-07-01T00:00:00Z", cron="0 9 * * MON-FRI", timezone="America/New_York")[0] == "07-01 13:00:00"
    assert of("2026-07-01T00:00:00Z", cron="0 9 * * *")[0] == "07-01 09:00:00"


def test_an_interval_counts_from_when_it_was_made() -> None:
    when = When(since=100.0, every_s=30.0)
    assert (when.first, when.after(130.0), when.after(129.9), when.after(1_000.0)) == (130.0, 160.0, 130.0, 1_030.0)


@pytest.mark.parametrize("every_s", [1.0, 1.1, 3.3, 60.0, 86_400.7])
def test_no_time_of_an_interval_comes_twice_or_is_left_out(every_s: float) -> None:
    """Although its times are rounded: most have no exact float."""
    for made in range(40):
        when = When(since=1_796_190_000.1 + made * 12.345678, every_s=every_s)
        times = when.upcoming(when.first, 100)
        assert [late - early for early, late in pairwise(times)] == pytest.approx([every_s] * 99, abs=1e-5)


def test_a_single_time_comes_once() -> None:
    when = When(since=100.0, at=200.0)
    assert (when.first, when.after(199.0), when.after(200.0)) == (200.0, 200.0, None)
    assert when.upcoming(200.0, 5) == [200.0]


@pytest.mark.parametrize(
    "when",
    [
        {},
        {"cron": "* * * * *", "every_s": 60.0},
        {"every_s": 60.0, "at": 1.0},
        {"every_s": 0.9},
        {"every_s": float("nan")},
        {"every_s": float("inf")},
        {"every_s": 60.0, "timezone": BERLIN},
        {"cron": "every day"},
        {"cron": "61 * * * *"},
        {"cron": "0 0 31 2 *"},
        {"cron": "0 " + "1," * 60 + "1 * * *"},
        {"cron": "* * * * *", "timezone": "Mars/Olympus"},
        {"cron": "* * * * *", "timezone": "../../etc/passwd"},
        {"cron": "* * * * *", "timezone": "x" * 5_000},
        {"cron": "* * * * *", "timezone": ""},
    ],
)
def test_what_never_fires_is_refused(when: dict[str, object]) -> None:
    with pytest.raises(Invalid, match=r"schedule|cron|every|timezone"):
        When(since=0.0, **when).check()  # type: ignore[arg-type]
