"""A long chat: read in pieces, it asks the same as read whole, and takes no more than its last message does."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from starlette.requests import ClientDisconnect, Request

from strandline._http import wire
from strandline._http.dialects.openai.body import PIECE_BYTES, BodyReader, LongBody, Received
from strandline._http.dialects.openai.wire import prompt_of
from strandline._http.exchange.idempotency import fingerprint
from strandline.errors import StrandlineError

MOST = 1000
CHAT = 20_000
LAST = {"role": "user", "content": "the last"}
INSTRUCTIONS = [{"role": role, "content": "be brief"} for role in ("system", "developer")]
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

roles = st.sampled_from(["user", "assistant", "system", "developer", "tool"])
contents = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.lists(st.sampled_from([{"type": "text", "text": 'é\n"\\'}, PIXEL, {}]), max_size=2),
)
odd: st.SearchStrategy[Any] = st.sampled_from([{}, {"role": 5}, {"role": "user", "content": [7]}, 5, None, [], "user"])
messages = st.lists(
    st.builds(
        lambda role, content, more: {**more, "role": role, "content": content},
        roles,
        contents,
        st.sampled_from([{}, {"name": "x", "tool_calls": [{"function": {"arguments": "{}"}}]}]),
    ),
    max_size=5,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(max_size=3),
        "user": st.just("ada"),
        "n": st.sampled_from([1, 2]),
        "metadata": st.just({"a": {"messages": [1, {"b": []}]}}),
        "priority": st.just(1),
        "temperature": st.floats(0, 1),
        "responses": st.just([{"id": "q", "response": True}]),
        "x": st.just({"messages": [LAST]}),
    },
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw a body: its keys in any order, `messages` perhaps twice, and one fault (of two, either may be reported)."""
    said: Any = draw(messages)
    fault = draw(st.sampled_from(["", "", "", "message", "messages", "twice", "wish", "cut off"]))
    if fault == "message":
        said.insert(draw(st.integers(0, len(said))), draw(odd))
    values = [draw(st.sampled_from([None, "x", {"a": [LAST]}])) if fault == "messages" else said]
    values += [7] if fault == "twice" else draw(st.sampled_from([[], [], [[LAST]], [[]]]))
    members = [*draw(options).items(), *(("messages", value) for value in values)]
    members += [("priority", draw(st.sampled_from([9, "x"])))] if fault == "wish" else []
    space = draw(st.sampled_from(["", " ", "\n\t "]))
    escaped = {'"messages"': draw(st.sampled_from(['"messages"', '"mess\\u0061ges"']))}
    written = [
        f"{escaped.get(json.dumps(key), json.dumps(key))}{space}:{space}{json.dumps(value)}"
        for key, value in draw(st.permutations(members))
    ]
    text = f"{space}{{{space}{f'{space},{space}'.join(written)}{space}}}{space}".encode()
    return text[: draw(st.integers(0, len(text)))] if fault == "cut off" else text


HEADERS = [(b"content-type", b"application/json")]


class Client:
    """A client that sends a body in pieces."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        *,
        size: int | None = None,
        kind: bytes = b"application/json",
        leaves: bool = False,
    ) -> None:
        self.pieces = list(pieces)
        self._leaves = leaves
        self._headers = [(b"content-type", kind)]
        if size is not None:
            self._headers.append((b"content-length", str(size).encode()))

    async def receive(self) -> dict[str, Any]:
        if not self.pieces and self._leaves:
            return {"type": "http.disconnect"}
        piece = self.pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or self._leaves}

    def read(self, *, most: int = MOST, chat: int = CHAT) -> Received:
        return asyncio.run(self.reading(most=most, chat=chat))

    async def reading(self, *, most: int = MOST, chat: int = CHAT) -> Received:
        request = Request({"type": "http", "headers": self._headers}, self.receive)
        reader = BodyReader(max_body_bytes=most, max_chat_body_bytes=chat)
        return await reader.read(request)


def whole(text: bytes) -> Received:
    return Client([text]).read(most=100_000, chat=100_000)


def long(pieces: Sequence[bytes]) -> Received:
    body = LongBody(MOST * 10)
    for piece in pieces:
        body.feed(piece)
    return body.end()


def prompt(received: Received) -> tuple[Any, Any]:
    return prompt_of(received.body, received.before), replace(received.body, messages=[])


def refusal(read: Any, argument: Any) -> Any:
    """Return the input, or how it is refused; the two parsers have different messages for what is not JSON."""
    try:
        return prompt(read(argument))
    except wire.Malformed as error:
        return error.code
    except StrandlineError as error:
        return error.code, str(error)


def chat(*said: Any, **more: Any) -> bytes:
    return json.dumps({"messages": said, **more}).encode()


def cut(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text), size)]


# -- the same -------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(bodies(), st.integers(1, 60))
def test_a_long_body_is_parsed_and_refused_as_if_it_were_read_whole(text: bytes, size: int) -> None:
    if text:
        assert refusal(long, cut(text, size)) == refusal(whole, text)


def test_messages_before_the_last_one_may_be_larger_than_it_and_only_the_last_is_kept() -> None:
    old = [
        {"role": "user", "content": [PIXEL, {"type": "text", "text": "x" * 3 * MOST}]},
        {"role": "assistant", "content": "hm"},
    ]
    text = chat(*old, *old, LAST, *INSTRUCTIONS, user="ada")
    for pieces in ([text], cut(text, 100), cut(text, 1)):
        received = Client(pieces).read()
        assert prompt_of(received.body, received.before) == "the last"
        assert (len(received.body.messages), received.before, received.body.user) == (1, 4, "ada")


def test_errors_name_the_place_of_a_message_in_the_sent_body() -> None:
    old = {"role": "user", "content": "x" * 2 * MOST}
    for last, place in (
        ({"role": 5}, "messages[2].role"),
        ({"role": "user", "content": [{}]}, "messages[2].content[0]"),
        (7, "messages[2]"),
    ):
        assert f"`$.{place}`" in refusal(lambda text: Client(cut(text, 99)).read(), chat(old, old, last))[1]


# -- bounds ---------------------------------------------------------------------------------------------


def refused_for(text: bytes, *, most: int = MOST, chat: int = CHAT) -> str:
    with pytest.raises(wire.BodyTooLarge) as refused:
        Client(cut(text, 100)).read(most=most, chat=chat)
    return str(refused.value)


def test_the_last_message_is_as_large_as_a_body_may_be_and_no_larger() -> None:
    old = {"role": "user", "content": "x" * 2 * MOST}
    around = len(json.dumps({"role": "user", "content": ""}))
    largest, larger = ({"role": "user", "content": "x" * (MOST - around + more)} for more in (0, 1))
    received = Client(cut(chat(old, largest), 100)).read()
    assert prompt_of(received.body) == largest["content"]
    assert f"the last message may have at most {MOST} bytes (setting max_body_bytes)" in refused_for(chat(old, larger))
    behind = refused_for(chat(old, larger, {"role": "system", "content": "be brief"}))
    assert "the last message" in behind
    assert prompt_of(Client([chat(old, larger, LAST)]).read().body) == "the last"


@pytest.mark.parametrize("place", ["before", "behind", "space", "messages"])
def test_what_is_no_message_is_bounded_as_a_body_is_wherever_it_stands(place: str) -> None:
    text = {
        "before": b'{"x":"%b","messages":[]}' % (b"x" * MOST),
        "behind": chat(LAST, x=["x"] * MOST),
        "space": b'{"messages":[%b]%b}' % (b" " * MOST, b" " * MOST),
        "messages": b'{"messages":{"a":"%b"}}' % (b"x" * MOST),
    }[place]
    assert f"everything that is not a message may have at most {MOST} bytes (setting max_body_bytes)" in refused_for(
        text
    )


def test_space_between_messages_is_passed_over() -> None:
    text = b'{"messages":[ %b %b %b ]}' % (json.dumps(LAST).encode(), b"\n" * MOST + b",", json.dumps(LAST).encode())
    assert Client(cut(text, 100)).read().before == 1


def test_a_body_is_refused_as_soon_as_more_is_announced_or_has_come_than_a_chat_may_have() -> None:
    text = chat({"role": "user", "content": "x" * CHAT}, LAST)
    client = Client(cut(text, 100))
    with pytest.raises(
        wire.BodyTooLarge, match=rf"the body may have at most {CHAT} bytes \(setting max_chat_body_bytes\)"
    ):
        client.read()
    assert len(client.pieces) == (len(text) - 1) // 100 - CHAT // 100
    announcing = Client([b""], size=CHAT + 1)
    with pytest.raises(wire.BodyTooLarge, match="max_chat_body_bytes"):
        announcing.read()
    assert announcing.pieces
    assert "max_chat_body_bytes" in refused_for(chat(LAST, x="x" * 200), chat=100), "below max_body_bytes, too"


def test_a_long_body_has_to_be_announced_as_json_and_its_client_has_to_stay() -> None:
    text = chat({"role": "user", "content": "x" * MOST}, LAST)
    with pytest.raises(wire.NotJson):
        Client([text], kind=b"text/plain").read()
    with pytest.raises(ClientDisconnect):
        Client(cut(text, 100)[:-1], leaves=True).read()


def test_others_have_their_turn_between_the_pieces_of_a_body_that_came_at_once() -> None:
    async def turns() -> int:
        count, client = 0, Client([chat({"role": "user", "content": "x" * 100 * PIECE_BYTES}, LAST)])
        reading = asyncio.ensure_future(client.reading(chat=200 * PIECE_BYTES))
        while not reading.done():
            count += 1
            await asyncio.sleep(0)
        assert prompt_of((await reading).body) == "the last"
        return count

    assert asyncio.run(turns()) > 100


def test_between_two_pieces_of_whichever_bodies_all_others_have_a_turn() -> None:
    """So that a server with ten long bodies under way answers as soon as with one."""
    bodies, size = 10, 30

    async def turns() -> int:
        count, reader = 0, BodyReader(max_body_bytes=MOST, max_chat_body_bytes=200 * PIECE_BYTES)
        text = chat({"role": "user", "content": "x" * size * PIECE_BYTES}, LAST)
        requests = [Request({"type": "http", "headers": HEADERS}, Client([text]).receive) for _ in range(bodies)]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(reader.read(each)) for each in requests]
            while not all(each.done() for each in reading):
                count += 1
                await asyncio.sleep(0)
        assert {prompt_of(each.result().body) for each in reading} == {"the last"}
        return count

    assert asyncio.run(turns()) > bodies * size


# -- again ----------------------------------------------------------------------------------------------


def test_a_long_body_that_is_sent_again_is_known_whatever_the_order_of_its_keys_and_the_space_in_it() -> None:
    old = {"role": "user", "content": "x" * 2 * MOST}

    def of(*said: Any, indent: int | None = None, **more: Any) -> bytes:
        text = json.dumps({"messages": said, **more}, indent=indent).encode()
        received = Client(cut(text, 77)).read(most=5 * MOST // 2, chat=CHAT)
        assert len(text) > 5 * MOST // 2, "not long"
        return fingerprint(received.sent)

    turned = {name: old[name] for name in reversed(old)}
    first = of(old, old, LAST, user="ada", model="any")
    assert of(turned, old, LAST, model="any", user="ada", indent=3) == first
    others = [
        of(old, {**old, "content": "y" * 2 * MOST}, LAST, user="ada", model="any"),
        of(old, old, {**LAST, "content": "another"}, user="ada", model="any"),
        of(old, old, old, LAST, user="ada", model="any"),
        of(old, old, LAST, user="bob", model="any"),
        of(LAST, old, old, user="ada", model="any"),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_an_early_message_that_is_too_large_to_be_kept_counts_as_it_was_sent() -> None:
    def of(text: str, size: int) -> bytes:
        pieces = cut(chat({"role": "user", "content": text}, LAST), size)
        return fingerprint(Client(pieces).read().sent)

    first = of("x" * 3 * MOST, 100)
    assert of("x" * 3 * MOST, 7) == first
    assert of("x" * 3 * MOST + "y", 100) != first
    assert of("y" + "x" * 3 * MOST, 100) != first


def test_a_body_within_its_bound_is_known_as_it_was_before() -> None:
    text = chat(LAST)
    assert Client(cut(text, 10)).read().sent == text
