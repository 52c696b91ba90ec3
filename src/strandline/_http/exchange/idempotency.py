"""The `Idempotency-Key` header, or what a protocol has in its place: a request repeated under it is the same run."""

import hashlib
import re
from typing import Final

import msgspec
from starlette.requests import Request

from strandline._http import wire
from strandline.errors import Invalid

KEY: Final = "idempotency-key"
REPLAYED: Final = {"Idempotency-Replayed": "true"}
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")


def idempotency_key(request: Request) -> str | None:
    """Return the key, sent bare or quoted (RFC 8941); None without one. Raises `Invalid`."""
    values = request.headers.getlist(KEY)
    if not values:
        return None
    text = values[0].strip()
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        text = re.sub(r"\\(.)", r"\1", quoted.group(1))
    if len(values) > 1 or _KEY.fullmatch(text) is None or (quoted is None and text.startswith('"')):
        raise Invalid("Idempotency-Key must be one key of 1 to 255 printable ASCII characters, bare or quoted")
    return text


def key_in_body(text: str, there: str) -> str:
    """Return the key of a protocol that has one in its bodies, at `there`. Raises `Invalid`."""
    if _KEY.fullmatch(text) is None:
        raise Invalid(f"This is the key of the request: 1 to 255 printable ASCII characters - at `{there}`")
    return text


def fingerprint(body: bytes) -> bytes:
    """Return the SHA-256 of a JSON body, independent of key order and whitespace. Raises `Malformed`."""
    try:
        canonical = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wire.Malformed(f"the body is not JSON: {error}") from None
    return hashlib.sha256(canonical).digest()
