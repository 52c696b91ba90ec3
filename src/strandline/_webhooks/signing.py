"""Signs what is sent as Standard Webhooks says: HMAC-SHA256 over id, time and body. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final

PREFIX: Final = "whsec_"
"""The prefix of every secret."""
SECRET_BYTES: Final = 32
LEAST_BYTES: Final = 24
MOST_BYTES: Final = 64
"""How long a secret may be."""


def new_secret() -> str:
    """Return a new secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secret_of(text: str) -> bytes | None:
    """Return the bytes of a secret, None if the text is none."""
    if not text.startswith(PREFIX):
        return None
    try:
        found = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        return None
    return found if LEAST_BYTES <= len(found) <= MOST_BYTES else None


def headers(event_id: str, at: int, payload: bytes, signed_by: Iterable[bytes]) -> dict[str, str]:
    """Return the headers that sign a payload sent at a time (seconds since the epoch), by each of some secrets."""
    content = b"%s.%d.%s" % (event_id.encode(), at, payload)
    signatures = (base64.b64encode(hmac.new(each, content, hashlib.sha256).digest()).decode() for each in signed_by)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }
