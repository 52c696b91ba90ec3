"""Tokens, which web pages have instead of keys: valid for minutes, for a few sessions of one caller.

A token has the id of the key that made it, what it allows, and a MAC (HMAC-SHA256) under the journal's secret and that
key's hash. So it is valid at every server over the journal and after a restart, and dies with its key. Nothing is
stored. Nothing of a token is read before its MAC is checked. Pure.
"""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec
from msgspec import Struct

from strandline._access.keyring import PREFIX, ApiKey, Keyring
from strandline._model import RunId, Sender, SessionId

TOKEN_PREFIX: Final = f"{PREFIX}token_"
"""The prefix of every token, which no key has."""
LONGEST: Final = 8192
"""How long a token may be, in characters: shorter than the headers that a server reads."""
EVENTS_S: Final = 60.0
"""How long a token for the events of one run is valid: it stands in a URL."""
_MAC_BYTES: Final = 32
_ID_BYTES: Final = 4
_PURPOSE: Final = b"strandline token 1\0"


class Token(Struct, frozen=True, array_like=True):
    """What a token allows, and until when."""

    expires_at: float
    """In seconds since the epoch."""
    sessions: tuple[SessionId, ...] = ()
    routes: tuple[str, ...] = ()
    """Such as `POST /chat`; none: all that a token can be for."""
    origin: str | None = None
    """The origin of the web pages that may use it; None: programs, too."""
    run_id: RunId | None = None
    """Of a token for the events of one run, and for nothing else."""
    sender: Sender | None = None
    """Who sends all that is sent with it; None: the caller."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Token).decode


def signed(secret: bytes, key: ApiKey, token: Token) -> str:
    """Return a token as its holder shows it. `secret` is the journal's."""
    content = bytes.fromhex(key.id) + _encode(token)
    shown = urlsafe_b64encode(content + _mac(secret, key, content)).rstrip(b"=")
    return TOKEN_PREFIX + shown.decode()


def opened(secret: bytes, ring: Keyring, shown: bytes) -> tuple[ApiKey, Token] | None:
    """Return the valid key of a token, and what it allows, though that may be over; None if it is none of ours."""
    encoded = shown.removeprefix(TOKEN_PREFIX.encode())
    try:
        whole = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        return None
    content, mac = whole[:-_MAC_BYTES], whole[-_MAC_BYTES:]
    key_id = content[:_ID_BYTES].hex()
    for key in ring.keys:
        if key.id == key_id and hmac.compare_digest(mac, _mac(secret, key, content)):
            try:
                return key, _decode(content[_ID_BYTES:])
            except msgspec.DecodeError:  # (of another version)
                return None
    return None


def _mac(secret: bytes, key: ApiKey, content: bytes) -> bytes:
    return hmac.digest(hmac.digest(secret, _PURPOSE + key.digest, "sha256"), content, "sha256")
