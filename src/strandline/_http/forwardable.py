"""What the application and the server's forwarding show each other about one request, in its scope.

With several servers over one journal, a request may be for a session of another one: the application raises `NotOwner`
before it has changed anything, and the request is sent to the owner. Without a record in the scope the server is alone,
and such an error is an answer like any other.
"""

import sys
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.types import Scope

from strandline._model import RunId
from strandline.errors import Draining, NotOwner, NotReady

FORWARDABLE: Final = "strandline.forwardable"
"""The key of a request's `Forwardable` in its scope."""


class Forwardable(Struct):
    """A request that may be answered by another server. The application sets all fields that it does not only read."""

    forwarded: bool = False
    """Whether another server has sent it here, for a client of its own."""
    run_id: RunId | None = None
    """The id of the run that it requests: the same one wherever and however often it is sent."""
    again: bool = False
    """Whether its run may have been accepted already: it was sent before."""
    accepted: bool = False
    """Whether its run has been accepted, here or at another server."""
    waited_s: float = 0.0
    """For how long its client has waited already, when it is sent again."""
    once: bool = False
    """Whether it must not be sent again if its answer was lost."""
    counts_client: bool = False
    """Whether a run may end because its client disconnects, so that the server that has the run by then must know."""
    resumable: bool = False
    """Whether its answer is a stream of events that can be resumed after the id of one, and ends with the last of all
    ids."""
    last_id: int = 0
    """The id of the last event that its stream has sent."""
    feed_after: int | None = None
    """The number after which the feed begins that is its answer."""
    is_leaving: bool = False
    """Whether the server of its client stops, so that it has to be answered now, as a server does that stops."""
    on_leave: Callable[[], object] | None = None
    """Called when that begins."""

    def leave(self) -> None:
        """Have it answered now: the server of its client stops."""
        self.is_leaving = True
        if self.on_leave is not None:
            self.on_leave()

    def passes(self, error: Exception) -> bool:
        """Return whether an error is no answer, but sends the request to another server.

        A server that starts or stops has nothing to say to the clients of others: its sessions move.
        """
        return isinstance(error, NotOwner) or (self.forwarded and isinstance(error, Draining | NotReady))


def forwardable(scope: Scope) -> Forwardable | None:
    """Return the record of a request; None: no other server could answer it."""
    found: Forwardable | None = scope.get(FORWARDABLE)
    return found


def admitted(request: Request, most_bytes: int) -> int:
    """Return how large a body may be: of a client of another server, as large as that one has let it be."""
    found = forwardable(request.scope)
    return sys.maxsize if found is not None and found.forwarded else most_bytes


def left_of(request: Request, wait_s: float) -> float:
    """Return how many seconds are left of those that a client is ready to wait, at all servers together."""
    found = forwardable(request.scope)
    return wait_s if found is None else max(0.0, wait_s - found.waited_s)


def only_once(request: Request) -> None:
    """Note that a request must not be sent again if its answer was lost."""
    if (found := forwardable(request.scope)) is not None:
        found.once = True


def counts_client(request: Request) -> None:
    """Note that the server of a run must know if the client of a request disconnects."""
    if (found := forwardable(request.scope)) is not None:
        found.counts_client = True
