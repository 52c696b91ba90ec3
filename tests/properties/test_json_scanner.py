"""What is read of JSON in pieces is what is read of it whole: the same texts are taken, and the same things found."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from strandline._http.dialects.openai import json_scanner
from strandline._http.dialects.openai.json_scanner import Event, JsonScanner, NotJson

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40)
SPACES = st.text(" \t\r\n", max_size=3)
PUNCTUATION = [*'{}[]:,"\\ \n\t', "true", "false", "null", "nul", "-", "0", "01", "1.", ".5", "1e", "1E+7", "-0", "+1"]
ODD = [
    "NaN",
    "Infinity",
    "\\u12",
    "\\uD83D\\uDE00",
    "\\ud800",
    "\\udc00",
    "\\x",
    "é",
    "\u2028",
    "\x01",
    "\x7f",
    '"a"',
    '"k":',
]
SOUP = st.lists(st.sampled_from(PUNCTUATION + ODD), max_size=14).map("".join)


@st.composite
def written(draw: st.DrawFn) -> str:
    """Draw a JSON text with space wherever there may be some, keys that come twice, and escapes."""

    def write(value: Any) -> str:
        if isinstance(value, dict):
            members = [f"{write(key)}{draw(SPACES)}:{write(item)}" for key, item in value.items()]
            members += draw(st.sampled_from([[], members[:1]]))
            return f"{{{draw(SPACES)}{','.join(members)}}}{draw(SPACES)}"
        if isinstance(value, list):
            return f"[{draw(SPACES)}{','.join(map(write, value))}]{draw(SPACES)}"
        return f"{draw(SPACES)}{json.dumps(value, ensure_ascii=draw(st.booleans()))}{draw(SPACES)}"

    return write(draw(st.lists(VALUES) | st.dictionaries(st.text(), VALUES)))


def cut(draw: st.DrawFn, text: bytes) -> list[bytes]:
    places = draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    return [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def pieces(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> list[bytes]:
    """Draw a text in pieces: in a few, or byte by byte."""
    text = draw(texts)
    return [text[at : at + 1] for at in range(len(text))] if draw(st.booleans()) else cut(draw, text)


def scanned(parts: list[bytes]) -> list[tuple[Event, int, int]]:
    scanner, found, before = JsonScanner(), [], 0
    for part in parts:
        for mark in scanner.feed(part):
            assert 0 <= mark.at <= len(part)
            found.append((mark.event, mark.depth, before + mark.at))
        before += len(part)
    scanner.close()
    return found


def no_constant(name: str) -> None:
    raise ValueError(name)


def is_json(text: bytes) -> bool:
    """Return the members by `json.loads`, which also takes NaN and lone surrogates."""
    try:
        value = json.loads(text.decode(), parse_constant=no_constant, object_pairs_hook=Pairs)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(pieces(written().map(str.encode)))
def test_json_is_taken_however_it_is_cut_and_its_outer_values_are_found(parts: list[bytes]) -> None:
    text = b"".join(parts)
    assert is_json(text)
    found = scanned(parts)
    assert found == scanned([text]), "it depends on how it was cut"
    begins: list[int] = []
    seen: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for event, depth, at in found:
        if event in (Event.KEY_BEGINS, Event.VALUE_BEGINS):
            begins.append(at)
        else:
            value = json.loads(text[begins.pop() : at])
            if event is Event.VALUE_ENDS:
                seen[depth].append(value)
    assert not begins
    whole = json.loads(text, object_pairs_hook=Pairs)
    assert [plain(each) for each in seen[0]] == [plain(whole)]
    assert seen[1] == [plain(each) for each in inner(whole)]
    assert seen[2] == [plain(each) for outer in inner(whole) for each in inner(outer)]


class Pairs(list[Any]):
    """An object with all of its members, those too whose key comes again."""


def inner(value: Any) -> list[Any]:
    return [item for _, item in value] if isinstance(value, Pairs) else value if isinstance(value, list) else []


def plain(value: Any) -> Any:
    if isinstance(value, Pairs):
        return {key: plain(item) for key, item in value}
    return [plain(each) for each in value] if isinstance(value, list) else value


@settings(max_examples=300, deadline=None)
@given(pieces(SOUP.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example([b'{"a":1', b",}"])
@example([b"1", b"2", b" ", b"3"])
@example([b'"\\ud83d', b"\\ude0", b'0"'])
@example([b'"\\ud83d"'])
@example([b'{"a":"\\udc00","a":1}'])
@example([b'["\xe2\x82', b'\xac"]'])
@example([b'["\xe2\x82', b'"]'])
@example([b'["\xed\xa0\x80"]'])
@example([b"\xef\xbb\xbf[]"])
@example([b"[[[1 2]]]"])
@example([b'[[{"a":1 "b":2}]]'])
@example([b"[[[1,]]]"])
@example([b'[[{"a":1,}]]'])
@example([b"[[[[[01]]]]]"])
@example([b"[]", b"", b"]"])
@example([b"[\x0b]"])
@example([b""])
def test_what_is_no_json_is_refused_however_it_is_cut(parts: list[bytes]) -> None:
    if is_json(b"".join(parts)):
        scanned(parts)
    else:
        with pytest.raises(NotJson):
            scanned(parts)


@settings(max_examples=100, deadline=None)
@given(st.data(), written(), st.sampled_from(PUNCTUATION + ODD))
def test_json_that_is_broken_in_one_place_is_refused_however_it_is_cut(
    data: st.DataObject, text: str, broken: str
) -> None:
    """Deep inside too, where most is skipped in bulk."""
    at = data.draw(st.integers(0, len(text)))
    made = f"[[{text[:at]}{broken}{text[at:]}]]".encode()
    parts = data.draw(pieces(st.just(made)))
    if is_json(made):
        scanned(parts)
    else:
        with pytest.raises(NotJson):
            scanned(parts)


@pytest.mark.parametrize("text", [rb'["\ud83d"]', rb'["\udc00"]', rb'[[[{"a":"\uDBFFx"}]]]', rb'{"\ud83d\u0061":1}'])
def test_half_of_a_surrogate_pair_is_called_by_its_name(text: bytes) -> None:
    for parts in ([text], [text[at : at + 1] for at in range(len(text))]):
        with pytest.raises(NotJson, match="a lone surrogate"):
            scanned(parts)


def test_so_many_levels_and_no_more() -> None:
    most = json_scanner.MOST_NESTED
    scanned([b"[" * most + b"]" * most])
    with pytest.raises(NotJson, match="levels"):
        scanned([b"[" * (most + 1) + b"]" * (most + 1)])


def test_a_number_has_so_many_characters_and_no_more_however_it_comes() -> None:
    most = json_scanner.MOST_OF_A_NUMBER
    scanned([b"[", b"1" * most, b"]"])
    for parts in ([b"1" * (most + 1)], [b"1"] * (most + 1), [b"[[[", b"1" * most, b"1", b"]]]"]):
        with pytest.raises(NotJson, match="a number of more than"):
            scanned(parts)


def test_a_number_that_does_not_end_is_refused_before_more_of_it_comes() -> None:
    scanner, piece = JsonScanner(), b"1" * (json_scanner.MOST_OF_A_NUMBER // 4)
    for _ in range(4):
        list(scanner.feed(piece))
    with pytest.raises(NotJson, match="a number of more than"):
        list(scanner.feed(piece))


@pytest.mark.parametrize("size", [1, 3, 4, 100])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xed\xa0\x80", b"\xe2\x82"])
def test_the_place_of_invalid_utf_8_is_found_however_the_text_is_cut(wrong: bytes, size: int) -> None:
    text = b'["\\n\xe2\x82\xac' + wrong + b'"]'
    with pytest.raises(NotJson, match=r"it is not UTF-8 \(byte 7\)"):
        scanned([text[at : at + size] for at in range(0, len(text), size)])


def test_what_is_nested_deep_again_and_again_ends_after_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_scanner, "MOST_STEPS", 10_000)
    scanned([b"[[[" + b"[[[1]]]," * 10_000 + b"1]]]"])
    scanned([b'[["' + b"x" * 100_000 + b'"]]'])
    deep = b"[" * 100 + b"]" * 100
    with pytest.raises(NotJson, match="too much structure"):
        scanned([b"[[" + (deep + b",") * 100 + b"1]]"])
