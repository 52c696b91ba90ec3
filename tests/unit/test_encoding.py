"""What goes into a journal comes out as it was, and nothing that an agent can build makes it fail."""

import math
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from strandline._encoding import decoder, encode, encode_messages
from strandline._model import (
    Checkpoint,
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


def _marked(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """What looks like our bytes: with all of the mark or a part, base64 or not, our own escape."""
    mark = st.one_of(st.booleans(), st.booleans(), inner)
    data = st.one_of(st.sampled_from(["aGk=", "aGk", "", "a", "aGl=", "ü", "a b=", "\n"]), inner)
    return st.one_of(
        st.fixed_dictionaries({"__bytes_encoded__": mark, "data": data}),
        st.fixed_dictionaries({"__bytes_encoded__": mark}, optional={"data": data, "more": inner}),
    )


marked = st.recursive(
    st.one_of(plain, _marked(st.none())),
    lambda inner: st.one_of(
        _marked(inner), _marked(inner), st.lists(inner, max_size=3), st.dictionaries(st.just("x"), inner)
    ),
    max_leaves=12,
)


@given(marked)
def test_a_dict_that_resembles_encoded_bytes_comes_out_as_it_went_in(value: object) -> None:
    read = _any(encode_messages(value))

    assert read == value
    assert encode_messages(read) == encode_messages(value)  # True is not 1
    assert decoder(ToolDone)(encode_messages(ToolDone("t", {"x": value}))) == ToolDone("t", {"x": value})
    assert _any(encode_messages({"cut": "\ud83d", "x": value})) == {"cut": "?", "x": value}


@pytest.mark.parametrize("data", ["not base64!", "a", "ü"])
def test_what_was_written_before_is_read_as_bytes_only_if_it_is(data: str) -> None:
    assert _any(b'[{"__bytes_encoded__":true,"data":"aGk="}]') == [b"hi"]
    wrapped = {"__bytes_encoded__": True, "data": data}
    assert _any(msgspec.json.encode([wrapped])) == [wrapped]


@pytest.mark.parametrize("leaf", [b"\xff", {"__bytes_encoded__": True}])
def test_what_is_nested_deep_comes_out_as_it_went_in(leaf: object) -> None:
    """Read with less of the stack left than it was written with."""
    value: object = leaf
    for _ in range(sys.getrecursionlimit() // 4):
        value = {"a": value}
    data = encode_messages(value)

    def deeper(levels: int) -> Any:
        return deeper(levels - 1) if levels else _any(data)

    assert encode_messages(deeper(sys.getrecursionlimit() // 2)) == data


class _Sparse(msgspec.Struct, omit_defaults=True, rename="camel", tag="sparse", kw_only=True):
    first_name: Any
    error_code: str | None = None
    items: list[Any] = msgspec.field(default_factory=list)
    made: dict[str, Any] = msgspec.field(default_factory=lambda: {"a": 1})
    unset: Any = msgspec.UNSET
    number: int = 7


@pytest.mark.parametrize(
    "record",
    [
        _Sparse(first_name=None),
        _Sparse(first_name=1, error_code="x", items=[1], made={}, unset=1, number=8),
        _Sparse(first_name=[], items=[], number=7),
    ],
)
def test_the_slow_path_leaves_out_what_the_fast_one_does(record: _Sparse) -> None:
    fast = msgspec.json.decode(msgspec.json.encode([record]))
    for slow, decoded in ((b"\xff", b"\xff"), ("\ud83d", "?"), ({"__bytes_encoded__": 1}, {"__bytes_encoded__": 1})):
        assert _any(encode_messages([record, slow])) == [*fast, decoded]


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
    checkpoints: list[Checkpoint] = [
        RoundStarted([message]),
        ToolDone("t", {"content": [{"y": blob or 1}]}),
        RoundDone([message], {"z": blob or None}),
    ]
    read: Any = decoder(Checkpoint)
    assert [read(encode_messages(checkpoint)) for checkpoint in checkpoints] == checkpoints
    window: Window = (Range(0, 3), Inline(message), Range(5, None))
    assert decoder(Window)(encode_messages(window)) == window
    outcome = Outcome(status=RunStatus.SUCCEEDED, output="a", message=message, usage={"n": 1})
    assert decoder(Outcome)(encode_messages(outcome)) == outcome


def test_bytes_are_kept_in_the_form_of_strands_session_files() -> None:
    assert encode_messages({"a": b"hi"}) == b'{"a":{"__bytes_encoded__":true,"data":"aGk="}}'
    assert encode_messages([bytearray(b"hi")]) == encode_messages([b"hi"])


def test_a_text_that_equals_the_mark_is_a_text() -> None:
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


def test_a_value_without_a_repr_is_encoded_as_its_type() -> None:
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
