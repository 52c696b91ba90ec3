"""How the body of a completion is read: whole or, if it is larger than others may be, without its earlier messages.

A client of this protocol sends the whole conversation each time, with every image that was ever in it, and only the
last message counts. So a body may be larger than others (`max_chat_body_bytes`), and takes no more memory: the messages
before the last one are checked as they come, one at a time, and forgotten. `max_body_bytes` bounds the last one, and
all that is not a message.
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
from strandline._http.dialects.openai.json_scanner import Event, JsonScanner, Mark, NotJson
from strandline._http.dialects.openai.wire import INSTRUCTIONS, READS, ChatMessage, CompletionBody
from strandline._http.exchange.idempotency import fingerprint
from strandline.errors import Invalid

PIECE_BYTES: Final = 4 * 1024
"""What is looked at before others have their turn."""

_decode: Final = msgspec.json.Decoder(CompletionBody).decode
_decode_messages: Final = msgspec.json.Decoder(list[ChatMessage]).decode
_decode_key: Final = msgspec.json.Decoder(str).decode
_BRACKET: Final = ord("[")


class Received(Struct, frozen=True, gc=False):
    """A completion as it was asked for."""

    body: CompletionBody
    sent: bytes
    """What stands for all that was sent: JSON, the same for the same request."""
    before: int = 0
    """How many messages came before those of the body, and were left out."""


class BodyReader:
    """Reads bodies within their bounds."""

    def __init__(self, *, max_body_bytes: int, max_chat_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_chat_body_bytes = max_chat_body_bytes
        self._whole = min(max_body_bytes, max_chat_body_bytes)
        """How large a body may be that is read whole."""
        self._looking = asyncio.Lock()
        """Held while a piece is looked at, and until all others have had a turn: one piece, of whichever long body."""

    async def read(self, request: Request, *, is_keyed: bool) -> Received:
        """Return what was sent; `is_keyed`: with a key, under which it may be sent again.

        Raises `BodyTooLarge`, `NotJson`, `Malformed`, `Invalid`, and `ClientDisconnect` if the client leaves.
        """
        announced = wire.announced(request)
        if announced > self._whole:
            self._bound(announced)
        pieces, size, more = await wire.begin_body(request, self._whole if announced <= self._whole else 0)
        if size <= self._whole and not more:
            return Received(*wire.as_json(request, b"".join(pieces), _decode, READS))
        wire.must_be_json(request)
        long = LongBody(self._max_body_bytes, is_keyed=is_keyed)
        came = size
        while True:
            self._bound(came)
            for piece in pieces:
                for at in range(0, len(piece), PIECE_BYTES):
                    async with self._looking:
                        long.feed(piece[at : at + PIECE_BYTES])
                        await asyncio.sleep(0)
            if not more:
                return long.end()
            pieces, size, more = await wire.begin_body(request, 0)
            came += size

    def _bound(self, size: int) -> None:
        if size > self._max_chat_body_bytes:
            raise wire.too_large("the body", self._max_chat_body_bytes, "max_chat_body_bytes")


class _Part(Enum):
    """Of a body."""

    REST = auto()
    BETWEEN = auto()
    """Messages, or before the first or behind the last one."""
    MESSAGE = auto()


class LongBody:
    """A body that comes in pieces, and what counts of it."""

    def __init__(self, most: int, *, is_keyed: bool) -> None:
        self._most = most
        self._is_keyed = is_keyed
        self._scanner = JsonScanner()
        self._part = _Part.REST
        self._rest = bytearray()
        """The body without its messages."""
        self._key_at = 0
        """Where the latest of its keys begins."""
        self._is_messages = False
        """Whether that is `messages`."""
        self._messages_at = 0
        """Where they stood."""
        self._messages = Messages(most, is_keyed=is_keyed)

    def feed(self, piece: bytes) -> None:
        """Take in the next piece. Raises `BodyTooLarge`, `Malformed`, `Invalid`."""
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
        """Return what the body was. Raises as `feed`."""
        try:
            self._scanner.close()
        except NotJson as error:
            raise _malformed(error) from None
        body = wire.decoded(bytes(self._rest), _decode, READS)
        if self._is_keyed:
            self._rest[self._messages_at : self._messages_at] = b'"%b"' % self._messages.digest()
        return Received(replace(body, messages=self._messages.kept()), bytes(self._rest), self._messages.before)

    def _in_rest(self, mark: Mark, piece: bytes, done: int) -> int:
        """Look at a key or value of the body itself; return up to where the piece was taken in."""
        if mark.event is Event.VALUE_ENDS:
            return done
        begins = self._is_messages and mark.event is Event.VALUE_BEGINS and piece[mark.at] == _BRACKET
        end = mark.at + begins
        self._take(piece[done:end])
        if begins:
            self._messages, self._messages_at = Messages(self._most, is_keyed=self._is_keyed), len(self._rest)
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
                raise wire.too_large("all that is not a message", self._most)


class Messages:
    """The messages of a body, one after another: the last one that is looked at is kept."""

    def __init__(self, most: int, *, is_keyed: bool) -> None:
        self._most = most
        self._count = 0
        self._coming = bytearray()
        """The message that is coming, as far as it was not too large to be kept."""
        self._is_dropped = False
        """Whether the message that is coming is too large."""
        self._hash = hashlib.sha256()
        """Of what was dropped of it."""
        self._kept: list[ChatMessage] = []
        self._is_too_large = False
        """Whether the one to keep was."""
        self.before = 0
        """How many came before the one that is kept."""
        self._all = hashlib.sha256() if is_keyed else None

    def take(self, data: bytes) -> None:
        """Take in a part of a message."""
        self._coming += data
        if self._is_dropped or len(self._coming) > self._most:
            self._is_dropped = True
            if self._all is not None:
                self._hash.update(self._coming)
            self._coming = bytearray()

    def end_one(self) -> None:
        """End a message. Raises `Malformed`, `Invalid`.

        Of one that is too large nobody knows whose it is: it counts, unless one that does comes behind it.
        """
        message = None if self._is_dropped else self._read()
        if self._all is not None:
            self._all.update(self._hash.digest() if message is None else fingerprint(bytes(self._coming)))
        if message is None or message.role not in INSTRUCTIONS or not (self._kept or self._is_too_large):
            self._kept = [] if message is None else [message]
            self._is_too_large = message is None
            self.before = self._count
        self._count += 1
        self._coming, self._is_dropped, self._hash = bytearray(), False, hashlib.sha256()

    def kept(self) -> list[ChatMessage]:
        """Return the last message that is looked at, if there is one; else any. Raises `BodyTooLarge`."""
        if self._is_too_large:
            raise wire.too_large("the last message", self._most)
        return self._kept

    def digest(self) -> bytes:
        """Return what stands for all of them, in letters."""
        return b"" if self._all is None else self._all.hexdigest().encode()

    def _read(self) -> ChatMessage:
        try:
            return wire.decoded(b"[%b]" % bytes(self._coming), _decode_messages, READS)[0]
        except Invalid as error:
            raise Invalid(str(error).replace("`$[0]", f"`$.messages[{self._count}]", 1)) from None


def _malformed(error: NotJson) -> wire.Malformed:
    return wire.Malformed(f"the body is not JSON: {error}")
