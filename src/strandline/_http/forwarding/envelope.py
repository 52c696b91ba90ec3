"""What one server sends another, and how the other one knows that it may believe it.

A message is an envelope (MessagePack) with a MAC (HMAC-SHA256) under the secret that the journal keeps for the cluster.
A request's body follows, and the envelope has its digest. So nobody else can send one, alter it, or send it once more:
it names its sender, its receiver, its number and its time, and counts once. Pure.
"""

import functools
import hmac
import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from strandline._access.tokens import Token

MAC_BYTES: Final = 32
HEAD_BYTES: Final = 4 + MAC_BYTES
"""The length of the envelope, and its MAC."""
MAX_BYTES: Final = 64 * 1024
"""Of an envelope: it has the request's headers, which a server limits to 16 KiB."""
LATE_S: Final = 30.0
"""How old a message may be."""
EARLY_S: Final = 5.0
"""How far the sender's clock may be ahead."""
REMEMBERED: Final = 20_000
"""How many numbers of a sender are remembered; half of them are forgotten then, and what is older is refused."""
MOST_SENDERS: Final = 64
"""Of how many senders, the latest ones, numbers are remembered; of others the largest, and all up to it is refused."""
_LENGTH: Final = struct.Struct(">I")
_PURPOSE: Final = b"strandline forwards 1\0"
_CLOCK: Final = b"strandline clock 1\0"
_ANSWER: Final = b"strandline answers 1\0"
_PARTIES: Final = struct.Struct(">qqq")


class Forward(Struct, frozen=True, tag=1, array_like=True):
    """A request of a client, as its server has checked it: who sent it, what it is, and the run that it requests."""

    sender: int
    receiver: int
    number: int
    """Unique among all that its sender ever sends, and rising."""
    at: float
    """In seconds since the epoch, by the sender's clock, or the receiver's if it has said how that differs."""
    method: str
    path: bytes
    """As the client sent it, percent-encoded."""
    query: bytes
    headers: list[tuple[bytes, bytes]]
    size: int
    digest: bytes
    """SHA-256 of the body."""
    client: str
    """The address that it came from."""
    principal: str
    operator: bool
    key_id: bytes
    """The beginning of the hash of the caller's key; empty without one."""
    run_id: str | None
    again: bool = False
    """Whether that run may have been accepted already."""
    waited_s: float = 0.0
    """For how long the client has waited already."""


class Left(Struct, frozen=True, tag=2, array_like=True):
    """The client of an earlier request has disconnected. With `answer`, its server stops: it is to be answered now."""

    sender: int
    receiver: int
    number: int
    at: float
    of: int
    """The number of that request."""
    answer: bool = False


class ForwardOfToken(Struct, frozen=True, tag=3, array_like=True):
    """A request under a token. An older server, which would let it do all that its key may, cannot read it."""

    sender: int
    receiver: int
    number: int
    at: float
    token: Token
    request: Forward


Envelope = Forward | Left | ForwardOfToken
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Envelope).decode


class Untrusted(Exception):
    """A message is not of a server of the cluster, was altered, or has been received before."""


class Mistimed(Exception):
    """A message is of a server of the cluster, but too old or too new by our clock."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def signed(secret: bytes, envelope: Envelope) -> bytes:
    """Return an envelope with its length and MAC; the body follows."""
    encoded = _encode(envelope)
    return b"%b%b%b" % (_LENGTH.pack(len(encoded)), _mac(secret, encoded), encoded)


def length_of(head: bytes) -> int:
    """Return how long an envelope is, from its first `HEAD_BYTES`. Raises `Untrusted` if it is too long."""
    (length,) = _LENGTH.unpack_from(head)
    if length > MAX_BYTES:
        raise Untrusted
    return int(length)


def digest_of(body: bytes) -> bytes:
    """Return the digest of a body."""
    return sha256(body).digest()


def clock_shown(secret: bytes, number: int, now: float) -> str:
    """Return our time for the sender of a mistimed message, signed for it alone."""
    return f"{now!r} {_clock_mac(secret, number, repr(now))}"


def clock_read(secret: bytes, number: int, shown: str) -> float | None:
    """Return the time that the receiver of our message has shown; None if it is not its."""
    text, _, mac = shown.partition(" ")
    if not hmac.compare_digest(mac.encode(), _clock_mac(secret, number, text).encode()):
        return None
    return float(text)


def proof(secret: bytes, sender: int, receiver: int, number: int) -> bytes:
    """Return what shows the sender of a message that its answer is the receiver's, and not of something else at its
    address."""
    return hmac.digest(secret, _ANSWER + _PARTIES.pack(sender, receiver, number), "sha256").hex().encode()


class Inbox:
    """Opens the envelopes of one server. `me` is its id, `now` its clock."""

    def __init__(self, secret: bytes, me: int, now: Callable[[], float]) -> None:
        self._secret = secret
        self._me = me
        self._now = now
        self._seen: dict[int, tuple[int, set[int]]] = {}
        """For each sender, latest last, up to which number all count as received, and the received ones above it."""
        self._over: dict[int, int] = {}
        """That number of each earlier sender."""

    def open(self, mac: bytes, encoded: bytes) -> Envelope:
        """Return an envelope that may be believed. Raises `Untrusted`, `Mistimed`."""
        if not hmac.compare_digest(mac, _mac(self._secret, encoded)):
            raise Untrusted
        try:
            envelope: Envelope = _decode(encoded)
        except msgspec.DecodeError:  # (a server of another version)
            raise Untrusted from None
        if envelope.receiver != self._me:
            raise Untrusted
        if not -EARLY_S <= self._now() - envelope.at <= LATE_S:
            raise Mistimed(envelope.number)
        self._note(envelope.sender, envelope.number)
        return envelope

    def _note(self, sender: int, number: int) -> None:
        floor, seen = self._seen.get(sender) or (self._over.get(sender, -1), set[int]())
        if number <= floor or number in seen:
            raise Untrusted
        seen.add(number)
        if len(seen) > REMEMBERED:
            floor = sorted(seen)[REMEMBERED // 2]
            seen = {each for each in seen if each > floor}
        self._seen.pop(sender, None)
        self._seen[sender] = floor, seen
        if len(self._seen) > MOST_SENDERS:  # (most are over: each server that starts is another sender)
            earliest = next(iter(self._seen))
            floor, seen = self._seen.pop(earliest)
            self._over[earliest] = max(floor, max(seen))


@functools.lru_cache(maxsize=16)
def _keyed(secret: bytes) -> hmac.HMAC:
    return hmac.new(secret, _PURPOSE, sha256)


def _mac(secret: bytes, encoded: bytes) -> bytes:
    mac = _keyed(secret).copy()  # (half the time of a new one)
    mac.update(encoded)
    return mac.digest()


def _clock_mac(secret: bytes, number: int, text: str) -> str:
    return hmac.new(secret, _CLOCK + f"{number} {text}".encode(), sha256).hexdigest()
