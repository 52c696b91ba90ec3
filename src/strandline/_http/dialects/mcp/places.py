"""A client's place in the stream of a call: the id of an event, which says all that is needed to resume after it.

So a stream is resumed at each server, and after a restart. It grants nothing: whose run it is, is checked.
"""

import base64
import binascii
from typing import Final

import msgspec
from msgspec import Struct

from strandline._http.dialects.mcp.wire import RequestId
from strandline._model import RunId
from strandline.errors import NotFound

_MOST: Final = 2**53


class Place(Struct, frozen=True, array_like=True):
    """After event `number` of a run's, and `count` messages of progress, in answer to a request."""

    run_id: RunId
    number: int
    count: int
    request_id: RequestId
    token: RequestId | None

    def encoded(self) -> str:
        """Return it as the id of an event."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def place_of(event_id: str) -> Place:
    """Return the place that an event's id says. Raises `NotFound`."""
    try:
        padded = event_id.encode() + b"=" * (-len(event_id) % 4)
        place = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=Place)
    except (msgspec.DecodeError, binascii.Error, UnicodeError, ValueError):
        raise NotFound("Last-Event-ID must be the id of an event, as sent with it") from None
    if not (0 <= place.number < _MOST and 0 <= place.count < _MOST):
        raise NotFound("Last-Event-ID must be the id of an event, as sent with it")
    return place
