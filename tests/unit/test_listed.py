"""Texts of messages are compared as people read them."""

import pytest

from strandline._history import Listed, input_text, kept, plain_text, said_in
from strandline._history.listed import LONGEST
from strandline._history.texts import SAID_MEANWHILE
from strandline._model import Message, responses


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ("  a\tb \r\n\n c ", "a b\nc"),
        ("cafe\u0301", "caf\u00e9"),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}, {"text": "b"}], "a\nb"),
        ([{"image": {"format": "png", "source": {"bytes": b"x"}}}], ""),
        ([{"type": "text", "text": 7}], ""),
    ],
)
def test_space_form_and_everything_but_text_make_no_difference(content: object, text: str) -> None:
    assert plain_text(content) == text  # type: ignore[arg-type]


def test_an_answer_of_one_text_is_that_text_and_any_other_is_not_listed() -> None:
    assert input_text("a  b") == "a b"
    assert input_text([{"text": "a"}]) == "a"
    assert input_text(responses({"r": "yes "})) == "yes"
    assert input_text(responses({"r": {"ok": True}})) is None
    assert input_text(responses({"r": "yes", "s": "no"})) is None


def test_a_text_is_like_all_that_are_equal_to_it() -> None:
    listed = Listed(["a", "b", "a", ""])
    assert (listed.like("a"), listed.like("b"), listed.like("c"), listed.like("")) == ((0, 2), (1,), (), (3,))
    assert listed.like(None) == ()


def test_a_text_is_like_the_longest_that_it_has_line_by_line() -> None:
    listed = Listed(["ask", "ask\nthis", "Use", "context"])
    assert listed.like("Use this:\n<context>\nask\nthis\nnow\n</context>") == (1,)
    assert listed.like("Use this:\nask\nthat") == (0,)
    assert listed.like("Use this context to ask") == (), "a part of a line is not what somebody said"
    assert listed.like("a\nb") == ()
    assert Listed([""]).like("a") == ()


def test_long_texts_are_compared_by_their_digests() -> None:
    long, other = "x" * (LONGEST + 1), "x" * (LONGEST + 2)
    assert kept("x" * LONGEST) == "x" * LONGEST
    assert len(kept(long)) < 100
    listed = Listed([kept(long), kept(other), "a"])
    assert (listed.like(long), listed.like(other), listed.like(long + "\na")) == ((0,), (1,), (2,))
    assert kept("\ud83d" * (LONGEST + 1)) != kept("\ud83e" * (LONGEST + 1))


def test_what_people_said_in_messages_is_found_without_results_and_marks() -> None:
    result = {"toolResult": {"toolUseId": "t", "status": "success", "content": [{"text": "did"}]}}
    messages: list[Message] = [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "Yes"}]},
        {"role": "user", "content": [result, {"text": SAID_MEANWHILE}, {"text": "c"}]},
        {"role": "assistant", "content": [{"text": "Yes"}]},
    ]
    assert said_in(messages) == ["a\nb", "c"]
    assert said_in([{"role": "user", "content": [{"text": "(empty message)"}]}]) == [""]
