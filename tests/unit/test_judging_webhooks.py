"""The common rules about webhooks: each end is received, under one id, with one content, signed, and true."""

from typing import Any

import pytest
from msgspec.structs import replace

from judging.evidence import Delivery, End
from judging_stories import ADA, BOB, Story, deletion


def end_of(name: str, **changes: Any) -> Delivery:
    """Return the end of a run as it is received."""
    true = Delivery(
        id=f"{name}_finished",
        kind="run.finished",
        run_id=name,
        session=ADA,
        content=name.encode(),
        status="succeeded",
        end=End("succeeded", "done"),
    )
    return replace(true, **changes)


def story(*more: Delivery, without: str = "") -> Story:
    """Return a story in which all ends were received, but one, and some more events."""
    made = Story()
    made.seen["deliveries"] = [*(end_of(name) for name in made.runs if name != without), *more]
    made.seen["hooked"] = frozenset(made.runs)
    return made


def test_ends_that_came_are_no_fault() -> None:
    begun = end_of("two", id="two_started_1", kind="run.started", content=b"begun", status="running", end=None)
    assert story(end_of("one"), end_of("one"), begun).judged() == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (story(without="two"), "the end of run two (two) was to be sent to a webhook, and was not received"),
        (story(end_of("one", kind="run.started"), without="one"), "the end of run one (one) was to be sent"),
        (story(end_of("one", content=b"another")), "event one_finished came with 2 contents"),
        (story(end_of("one", id="other")), "the end of run one came as ['one_finished', 'other']"),
        (story(end_of("one", is_signed=False)), "event one_finished of run one came with a wrong signature"),
        (story(end_of("four")), "event four_finished came of run four, which is not stored"),
        (story(end_of("two", session=BOB)), "came as one of bob"),
        (story(end_of("two", end=End("crashed", "the server died"), status="failed")), "and its end came as End("),
        (story(end_of("two", status="cancelled")), "(cancelled)"),
    ],
)
def test_what_is_wrong_is_found(wrong: Story, said: str) -> None:
    faults = wrong.judged()
    assert any(said in fault for fault in faults), faults


def test_the_end_of_a_run_that_has_not_ended_is_not_awaited() -> None:
    waits = story(without="two")
    waits.be("two", status="queued", end=None)
    assert not any("webhook" in fault for fault in waits.judged())


def test_events_of_a_deleted_session_may_have_come() -> None:
    gone = story(end_of("four"))
    gone.saw(deletions=deletion(sent=60, answered=-1))
    assert not any("four" in fault for fault in gone.judged())
    elsewhere = story(end_of("four"))
    elsewhere.saw(deletions=deletion(session=BOB))
    assert any("four" in fault for fault in elsewhere.judged())
