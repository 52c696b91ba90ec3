"""How long a process is waited for that replaces one which has ended."""

from strandline._backoff import LONGEST_WAIT_READY_S, LONGEST_WAIT_S, YOUNG_S, Backoff


def test_the_first_one_is_replaced_at_once_and_each_further_one_that_dies_young_later() -> None:
    backoff = Backoff()
    assert [backoff.ended(0.0, was_ready=False) for _ in range(7)] == [0, 1, 3, 7, 15, LONGEST_WAIT_S, LONGEST_WAIT_S]


def test_one_that_was_ready_is_soon_replaced() -> None:
    backoff = Backoff()
    assert [backoff.ended(1.0, was_ready=True) for _ in range(4)] == [0, 1, LONGEST_WAIT_READY_S, LONGEST_WAIT_READY_S]


def test_one_that_has_lived_for_a_while_ends_the_series() -> None:
    backoff = Backoff()
    waits = [backoff.ended(lived_s, was_ready=True) for lived_s in (1.0, 1.0, YOUNG_S, 1.0, 1.0)]
    assert waits == [0, 1, 0, 0, 1]


def test_thousands_of_deaths_in_a_row_are_no_number_that_is_too_large() -> None:
    backoff = Backoff()
    assert max(backoff.ended(0.0, was_ready=False) for _ in range(3000)) == LONGEST_WAIT_S
