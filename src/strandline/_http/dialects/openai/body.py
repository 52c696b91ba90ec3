"""Reads the body of a completion: whole, or without its earlier messages if it exceeds `max_body_bytes`.

Clients of this protocol send the whole conversation each time, with all its images, although only the last message
counts. So a body may be larger than others (`max_chat_body_bytes`) but needs no more memory: earlier messages are
checked one at a time as they arrive, and discarded. `max_body_bytes` limits the last one, and everything that is not a
message.
"""

import asyncio
import hashlib
from enum import Enum, auto
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request

from strandline._http import wire
from strandline._http.dialects.client_history import INSTRUCTIONS, Earlier
from strandline._http.dialects.openai.json_scanner import Event, JsonScanner, Mark, NotJson
from strandline._http.dialects.openai.wire import READS, ChatMessage, CompletionBody
from strandline._http.exchange.idempotency import fingerprint
from strandline._http.forwardable import admitted
from strandline.errors import Invalid

PIECE_BYTES: Final = 4 * 1024
"""How much is scanned before other requests have their turn."""

_decode: Final = msgspec.json.Decoder(CompletionBody).decode
_decode_messages: Final = msgspec.json.Decoder(list[ChatMessage]).decode
_decode_key: Final = msgspec.json.Decoder(str).decode
_BRACKET: Final = ord("[")


class Received(Struct, frozen=True, gc=False):
    """A request for a completion."""

    body: CompletionBody
    sent: bytes
    """JSON that represents the whole request: the same for a repeated one."""
    before: int = 0
    """How many messages before those of the body were discarded."""
    earlier: tuple[str, ...] = ()
    """With `lists`: what the user's messages before the last one say."""
    is_cut: bool = False
    """Whether some before these are not in the list, or too large to be compared."""


class BodyReader:
    """Reads bodies within their limits."""

    def __init__(self, *, max_body_bytes: int, max_chat_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_chat_body_bytes = max_chat_body_bytes
        self._whole = min(max_body_bytes, max_chat_body_bytes)
        """Maximum size of a body that is read whole."""
        self._turn = asyncio.Lock()
        """Held while a piece of any long body is scanned, and until all other requests have had a turn."""

    async def read(self, request: Request, *, lists: bool = False) -> Received:
        """Return the request; `lists`: with what its earlier messages say.

        Raises `BodyTooLarge`, `NotJson`, `Malformed`, `Invalid`, and `ClientDisconnect` if the client disconnects.
        """
        announced = wire.announced(request)
        most_bytes = admitted(request, self._max_chat_body_bytes)
        if announced > self._whole:
            _bound(announced, most_bytes)
        pieces, size, more = await wire.begin_body(request, self._whole if announced <= self._whole else 0)
        if size <= self._whole and not more:
            received = Received(*wire.as_json(request, b"".join(pieces), _decode, READS))
            return _with_earlier(received) if lists else received
        wire.must_be_json(request)
        long = LongBody(admitted(request, self._max_body_bytes), lists=lists)
        came = size
        while True:
            _bound(came, most_bytes)
            for piece in pieces:
                for at in range(0, len(piece), PIECE_BYTES):
                    async with self._turn:
                        long.feed(piece[at : at + PIECE_BYTES])
                        await asyncio.sleep(0)
            if not more:
                return long.end()
            pieces, size, more = await wire.begin_body(request, 0)
            came += size


def _with_earlier(received: Received) -> Received:
    earlier = Earlier()
    for message in received.body.messages:
        earlier.add(message.role, message.content)
    return _beside(earlier, received)


def _beside(earlier: Earlier, received: Received) -> Received:
    return replace(received, earlier=earlier.texts, is_cut=earlier.is_cut)


class _Part(Enum):
    """A part of a body."""

    REST = auto()
    BETWEEN = auto()
    """Between messages, before the first or after the last one."""
    MESSAGE = auto()


class LongBody:
    """A body that arrives in pieces, reduced to what counts."""

    def __init__(self, most: int, *, lists: bool = False) -> None:
        self._most = most
        self._lists = lists
        self._scanner = JsonScanner()
        self._part = _Part.REST
        self._rest = bytearray()
        """The body without its messages."""
        self._key_at = 0
        """Where its latest key begins."""
        self._is_messages = False
        """Whether that key is `messages`."""
        self._messages_at = 0
        """Where they were."""
        self._messages = Messages(most, lists=lists)

    def feed(self, piece: bytes) -> None:
        """Process the next piece. Raises `BodyTooLarge`, `Malformed`, `Invalid`."""
        done = 0
        try:
            for mark in self._scanner.feed(piece):
                if self._part is _Part.REST:
                    if mark.depth == 1:
                        done = self._in_rest(mark, piece, done)
                elif self._part is _Part.MESSAGE:
                    self._messages.take(piece[done : mark.at])
                    self._messages.end_one()
                    done, self._part = mark.at, _Part.BETWEEN
                elif mark.event is Event.VALUE_BEGINS:
                    done, self._part = mark.at, _Part.MESSAGE
                else:
                    done, self._part = mark.at - 1, _Part.REST
        except NotJson as error:
            raise _malformed(error) from None
        self._take(piece[done:])

    def end(self) -> Received:
        """Return the request. Raises as `feed`."""
        try:
            self._scanner.close()
        except NotJson as error:
            raise _malformed(error) from None
        body = wire.decoded(bytes(self._rest), _decode, READS)
        self._rest[self._messages_at : self._messages_at] = b'"%b"' % self._messages.digest()
        received = Received(replace(body, messages=self._messages.last()), bytes(self._rest), self._messages.before)
        return received if (earlier := self._messages.earlier) is None else _beside(earlier, received)

    def _in_rest(self, mark: Mark, piece: bytes, done: int) -> int:
        """Process a key or value of the body itself; return the offset up to which the piece is consumed."""
        if mark.event is Event.VALUE_ENDS:
            return done
        begins = self._is_messages and mark.event is Event.VALUE_BEGINS and piece[mark.at] == _BRACKET
        end = mark.at + begins
        self._take(piece[done:end])
        if begins:
            self._messages = Messages(self._most, lists=self._lists)
            self._messages_at = len(self._rest)
            self._part = _Part.BETWEEN
        elif mark.event is Event.KEY_BEGINS:
            self._key_at = len(self._rest)
        elif mark.event is Event.KEY_ENDS:
            self._is_messages = _decode_key(self._rest[self._key_at :]) == "messages"
        return end

    def _take(self, data: bytes) -> None:
        if self._part is _Part.MESSAGE:
            self._messages.take(data)
        elif self._part is _Part.REST:
            self._rest += data
            if len(self._rest) > self._most:
                raise wire.too_large("everything that is not a message", self._most)


class Messages:
    """The messages of a body, one after another: only the last one that counts is kept."""

    def __init__(self, most: int, *, lists: bool = False) -> None:
        self._most = most
        self.earlier = Earlier() if lists else None
        """What they say, if that is compared."""
        self._count = 0
        self._coming = bytearray()
        """The bytes of the current message, unless it is too large."""
        self._is_dropped = False
        """Whether the current message is too large."""
        self._hash = hashlib.sha256()
        """The hash of its discarded bytes."""
        self._last: list[ChatMessage] = []
        self._last_bytes = 0
        """The bytes of the messages to keep."""
        self._is_too_large = False
        """Whether they are too large."""
        self.before = 0
        """How many messages precede the kept one."""
        self._all = hashlib.sha256()

    def take(self, data: bytes) -> None:
        """Process a part of a message."""
        self._coming += data
        if self._is_dropped or len(self._coming) > self._most:
            self._is_dropped = True
            self._hash.update(self._coming)
            self._coming = bytearray()

    def end_one(self) -> None:
        """End a message. Raises `Malformed`, `Invalid`.

        The role of a message that is too large is unknown: it counts unless a later one does.
        """
        message = None if self._is_dropped else self._read()
        if self.earlier is not None and message is not None:
            self.earlier.add(message.role, message.content)
        elif self.earlier is not None:
            self.earlier.add_unread()
        self._all.update(self._hash.digest() if message is None else fingerprint(bytes(self._coming)))
        is_among_results = message is not None and (message.role == "tool" or message.role in INSTRUCTIONS)
        if message is not None and is_among_results and self._last and self._last[0].role == "tool":
            self._last.append(message)  # (all results of tools at the end count)
            self._last_bytes += len(self._coming)
            self._is_too_large = self._is_too_large or self._last_bytes > self._most
        elif message is None or message.role not in INSTRUCTIONS or not (self._last or self._is_too_large):
            self._last = [] if message is None else [message]
            self._last_bytes = len(self._coming)
            self._is_too_large = message is None
            self.before = self._count
        self._count += 1
        self._coming, self._is_dropped, self._hash = bytearray(), False, hashlib.sha256()

    def last(self) -> list[ChatMessage]:
        """Return the last message that counts, if there is one, else any; or all results of tools at the end.

        Raises `BodyTooLarge`.
        """
        if self._is_too_large:
            what = "the results of tools at the end" if len(self._last) > 1 else "the last message"
            raise wire.too_large(what, self._most)
        return self._last

    def digest(self) -> bytes:
        """Return a digest of all messages, as hex digits."""
        return self._all.hexdigest().encode()

    def _read(self) -> ChatMessage:
        try:
            return wire.decoded(b"[%b]" % bytes(self._coming), _decode_messages, READS)[0]
        except Invalid as error:
            raise Invalid(str(error).replace("`$[0]", f"`$.messages[{self._count}]", 1)) from None


def _bound(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise wire.too_large("the body", most_bytes, "max_chat_body_bytes")


def _malformed(error: NotJson) -> wire.Malformed:
    return wire.Malformed(f"the body is not JSON: {error}")
