"""What a client has been sent of a text, where nothing can be withdrawn: all that counts, and nothing twice."""

from hypothesis import given
from hypothesis import strategies as st

from strandline._http.dialects.sent_text import BREAK, SentText


def test_pieces_are_sent_as_they_come_and_the_whole_message_adds_nothing() -> None:
    spoken = SentText()
    assert [spoken.piece("It "), spoken.piece("rains."), spoken.whole("It rains."), spoken.end("It rains.")] == [
        "It ",
        "rains.",
        "",
        "",
    ]


def test_messages_have_a_blank_line_between_them() -> None:
    spoken = SentText()
    assert spoken.piece("Let me look.") + spoken.whole("Let me look.") + spoken.piece("It rains.") == (
        f"Let me look.{BREAK}It rains."
    )
    assert spoken.whole("It rains.") == ""


def test_a_message_without_pieces_is_sent_whole() -> None:
    spoken = SentText()
    assert spoken.whole("one") == "one"
    assert spoken.whole("") == ""
    assert spoken.whole("two") == f"{BREAK}two"
    assert spoken.end("two") == ""


def test_a_text_that_was_withdrawn_is_not_sent_again_when_it_is_the_same() -> None:
    spoken = SentText()
    assert spoken.piece("It ra") == "It ra"
    spoken.withdrawn()
    assert [spoken.piece("It"), spoken.piece(" rai"), spoken.piece("ns.")] == ["", "i", "ns."]
    assert spoken.whole("It rains.") == ""


def test_another_text_than_the_one_that_was_withdrawn_follows_whole_after_a_blank_line() -> None:
    spoken = SentText()
    spoken.piece("It rains")
    spoken.withdrawn()
    assert [spoken.piece("It "), spoken.piece("snows"), spoken.piece(".")] == ["", f"{BREAK}It snows", "."]
    assert spoken.whole("It snows.") == ""


def test_a_text_shorter_than_the_withdrawn_one_is_sent_once_it_is_whole() -> None:
    spoken = SentText()
    spoken.piece("It rains, and")
    spoken.withdrawn()
    assert spoken.piece("It rains") == ""
    assert spoken.whole("It rains") == f"{BREAK}It rains"


def test_withdrawn_twice() -> None:
    spoken = SentText()
    spoken.piece("It ra")
    spoken.withdrawn()
    spoken.piece("It")
    spoken.withdrawn()
    assert spoken.piece("It rains") == "ins"
    spoken.withdrawn()
    assert spoken.piece("Rain") == f"{BREAK}Rain"


def test_after_a_gap_nothing_is_sent_before_the_message_is_whole() -> None:
    spoken = SentText()
    spoken.piece("It ")
    spoken.gap()
    assert spoken.piece("heavily.") == ""
    assert spoken.whole("It rains heavily.") == "rains heavily."
    assert spoken.piece("Bye") == f"{BREAK}Bye"


def test_the_ending_may_be_longer_than_the_sent_text() -> None:
    spoken = SentText()
    spoken.piece("It rains.")
    spoken.whole("It rains.")
    assert spoken.end("It rains.\n(The end.)") == "\n(The end.)"


def test_what_is_kept_of_a_run_that_starts_again_is_sent_to_those_who_have_heard_nothing() -> None:
    new = SentText()
    assert new.resumed(["one", "", "two"]) == f"one{BREAK}two"
    there = SentText()
    there.piece("one")
    there.whole("one")
    there.piece("tw")
    assert there.resumed(["one"]) == ""
    assert there.piece("two") == "o"


@given(st.lists(st.tuples(st.text("ab ", max_size=4), st.booleans()), max_size=8))
def test_whatever_comes_the_last_text_stands_at_the_end(steps: list[tuple[str, bool]]) -> None:
    spoken, sent, text = SentText(), "", ""
    for piece, withdraw in steps:
        if withdraw:
            spoken.withdrawn()
            text = ""
        sent += spoken.piece(piece)
        text += piece
    sent += spoken.whole(text)
    assert "".join(sent.split()).endswith("".join(text.split()))
