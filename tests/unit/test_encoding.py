"""What goes into a journal comes out as it was, and nothing that an agent can build makes it fail."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given

from strandline.encoding import decoder, encode, encode_messages
from strandline.model import (
    Fact,
    Inline,
    Message,
    Outcome,
    Range,
    RoundDone,
    RoundStarted,
    RunStatus,
    ToolDone,
    Window,
)

_any: Callable[[bytes], Any] = decoder(Any)

plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.binary(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    ),
    max_leaves=20,
)


@given(plain)
def test_plain_values_with_bytes_anywhere_come_out_as_they_went_in(value: object) -> None:
    assert _any(encode_messages(value)) == value


@given(st.dictionaries(st.text(), st.one_of(plain, st.text(), st.floats()), max_size=4))
def test_no_text_and_no_number_makes_it_fail(value: object) -> None:
    _any(encode_messages(value))


def test_messages_come_out_as_they_went_in() -> None:
    message: Message = {
        "role": "user",
        "content": [{"image": {"format": "png", "source": {"bytes": b"\x00\xff"}}}, {"text": "ü"}],
        "tracking_id": "x",
    }
    assert decoder(Message)(encode_messages(message)) == message
    assert decoder(list[Message])(encode_messages([message, message])) == [message, message]


@pytest.mark.parametrize("blob", [b"", b"\xff"])
def test_records_come_out_as_they_went_in(blob: bytes) -> None:
    """The same with bytes and without: structs by tag, in arrays, nested in structs."""
    message: Message = {"role": "user", "content": [{"x": blob or "text"}]}
    facts: list[Fact] = [
        RoundStarted([message]),
        ToolDone("t", {"content": [{"y": blob or 1}]}),
        RoundDone([message], {"z": blob or None}),
    ]
    read: Any = decoder(Fact)
    assert [read(encode_messages(fact)) for fact in facts] == facts
    window: Window = (Range(0, 3), Inline(message), Range(5, None))
    assert decoder(Window)(encode_messages(window)) == window
    outcome = Outcome(status=RunStatus.SUCCEEDED, output="a", message=message, usage={"n": 1})
    assert decoder(Outcome)(encode_messages(outcome)) == outcome


def test_bytes_are_kept_in_the_form_of_strands_session_files() -> None:
    assert encode_messages({"a": b"hi"}) == b'{"a":{"__bytes_encoded__":true,"data":"aGk="}}'
    assert encode_messages([bytearray(b"hi")]) == encode_messages([b"hi"])


def test_a_text_that_looks_like_the_mark_is_a_text() -> None:
    for value in ({"__bytes_encoded__": False, "data": "x"}, {"text": '"__bytes_encoded__"'}, ["__bytes_encoded__"]):
        assert _any(encode_messages(value)) == value


@pytest.mark.parametrize("blob", [None, b"\xff"])
def test_lone_surrogates_become_question_marks(blob: bytes | None) -> None:
    """They come from models that were cut off in the middle of an emoji, and from file names."""
    value = {"role": "assistant", "content": [{"text": "cut \ud83d", "blob": blob}], "k\udc00": 1}
    expected = {"role": "assistant", "content": [{"text": "cut ?", "blob": blob}], "k?": 1}
    assert _any(encode_messages(value)) == expected
    started = RoundStarted([{"role": "user", "content": [{"text": "\udfff", "blob": blob}]}])
    assert decoder(RoundStarted)(encode_messages(started)) == RoundStarted(
        [{"role": "user", "content": [{"text": "?", "blob": blob}]}]
    )


class _Thing:
    def __str__(self) -> str:
        return "a thing"


class _Mute:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("blob", [None, b"\xff"])
def test_what_json_cannot_hold_becomes_text(blob: bytes | None) -> None:
    value = {
        "thing": _Thing(),
        "day": date(2026, 1, 2),
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "id": UUID(int=1),
        "set": {1},
        "tuple": (1, "a"),
        "complex": 1j,
        "blob": blob,
        "class": int,
    }
    assert _any(encode_messages(value)) == {
        "thing": "a thing",
        "day": "2026-01-02",
        "at": "2026-01-02T00:00:00Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "set": [1],
        "tuple": [1, "a"],
        "complex": "1j",
        "blob": blob,
        "class": "<class 'int'>",
    }


@pytest.mark.parametrize("blob", [None, b"\xff"])
def test_numbers_that_json_cannot_hold_do_not_fail(blob: bytes | None) -> None:
    value = {"nan": math.nan, "inf": -math.inf, "big": 2**70, "blob": blob}
    read = _any(encode_messages(value))
    assert (read["nan"], read["inf"], read["blob"]) == (None, None, blob)
    assert int(read["big"]) == 2**70


@pytest.mark.parametrize("blob", [None, b"\xff"])
def test_keys_that_are_no_text_become_text(blob: bytes | None) -> None:
    value = {1: "int", 2.5: "float", None: "none", _Thing(): "thing", ("a", 1): "tuple", "blob": blob}
    read = _any(encode_messages(value))
    assert read["1"] == "int"
    assert read["a thing"] == "thing"
    assert read["blob"] == blob
    assert set(read.values()) - {blob} == {"int", "float", "none", "thing", "tuple"}


def test_what_cannot_even_be_told_is_told_by_its_type() -> None:
    read = _any(encode_messages({"mute": _Mute(), "ok": 1}))
    assert read["ok"] == 1
    assert "_Mute" in read["mute"]


def test_a_value_without_end_does_not_fail() -> None:
    endless: list[object] = []
    endless.append({"again": endless})
    encode_messages({"endless": endless, "blob": b"x"})
    deep: object = "end"
    for _ in range(100_000):
        deep = [deep]
    encode_messages(deep)


def test_encode_is_json() -> None:
    assert encode({"a": [1, "b", None]}) == b'{"a":[1,"b",null]}'
