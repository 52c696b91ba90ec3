"""What an agent learns of the messages that wait: bounded, with who sent each and how it waits."""

from typing import Any

from strandline._history import waiting_of
from strandline._history.waiting import MOST_MESSAGES, MOST_SENDERS, MOST_TEXT, MOST_TEXTS
from strandline._model import (
    ANONYMOUS,
    IfBusy,
    Input,
    JoinState,
    Lane,
    Principal,
    RunId,
    RunStatus,
    RunSummary,
    Sender,
    SessionId,
    SessionKey,
)

ADA, BOB = Sender("u1", "Ada"), Sender("u2", "Bob")


def run(number: int = 0, principal: Principal = ANONYMOUS, **fields: Any) -> RunSummary:
    given: dict[str, Any] = {"lane": Lane.NORMAL, "attempt": 0, **fields}
    return RunSummary(
        run_id=RunId(f"r{number}"),
        key=SessionKey(principal, SessionId("s")),
        priority=3,
        resumable=True,
        metadata={},
        sequence=number,
        status=RunStatus.QUEUED,
        created_at=0.0,
        **given,
    )


def texts(given: list[Input | None]) -> list[tuple[str, bool]]:
    """Return what is shown of some inputs, and whether it is cut."""
    found = waiting_of(len(given), [run(number) for number in range(len(given))], given, ANONYMOUS)
    return [(each.text, each.cut) for each in found.messages]


def test_a_message_says_how_it_waits() -> None:
    runs = [
        run(if_busy=IfBusy.STEER, join=JoinState.PENDING),
        run(if_busy=IfBusy.STEER, join=JoinState.BECAME_NEXT_RUN),
        run(if_busy=IfBusy.COLLECT),
        run(if_busy=IfBusy.COLLECT, lane=Lane.FRONT),
        run(if_busy=IfBusy.COLLECT, attempt=1),
        run(if_busy=IfBusy.INTERRUPT),
    ]
    found = waiting_of(6, runs, ["hi"] * 6, ANONYMOUS)
    assert [each.how for each in found.messages] == ["steer", "queue", "collect", "queue", "queue", "queue"]


def test_senders_are_named_once_in_order_and_the_key_stands_for_who_was_not_named() -> None:
    bot = Principal("bot")
    runs = [run(1, bot, sender=BOB), run(2, bot), run(3, bot, sender=ADA), run(4, bot, sender=BOB)]
    found = waiting_of(9, runs, ["hi"], bot)
    assert (found.count, found.senders) == (9, [BOB, Sender("bot", "bot"), ADA])
    assert [(each.run_id, each.sender) for each in found.messages] == [("r1", BOB)], "as many as inputs are given"
    assert waiting_of(1, [run()], ["hi"], ANONYMOUS).senders == []
    many = [run(number, sender=Sender(str(number), "x")) for number in range(MOST_SENDERS + 5)]
    assert [each.id for each in waiting_of(25, many, [], ANONYMOUS).senders] == [str(n) for n in range(MOST_SENDERS)]


def test_texts_are_joined_and_other_content_is_named() -> None:
    blocks: Input = [{"text": "look"}, {"image": {}}, {"text": "here"}, {"file": {"id": "f"}}, {"image": {}}]
    (message,) = waiting_of(1, [run()], [blocks], ANONYMOUS).messages
    assert (message.text, message.attachments, message.cut) == ("look\nhere", ["image", "file"], False)


def test_many_and_large_messages_are_cut_and_the_rest_is_counted() -> None:
    assert texts(["x" * MOST_TEXT]) == [("x" * MOST_TEXT, False)]
    assert texts(["x" * (MOST_TEXT + 1)]) == [("x" * MOST_TEXT, True)]
    assert texts(["ä" * MOST_TEXT]) == [("ä" * (MOST_TEXT // 2), True)]
    assert texts(["xä" * MOST_TEXT]) == [("xä" * (MOST_TEXT // 3) + "x", True)], "no character is cut in two"
    shown = texts(["x" * MOST_TEXT] * MOST_MESSAGES)
    assert len(shown) * MOST_TEXT == MOST_TEXTS
    left = texts([*["x" * MOST_TEXT] * 3, "y" * (MOST_TEXT - 1), "zz", "more", ""])
    assert left[4:] == [("z", True)], "the rest is counted"


def test_an_input_that_was_not_read_is_an_empty_text_that_is_cut() -> None:
    assert texts([None, "hi", ""]) == [("", True), ("hi", False), ("", False)]
