"""The audit log: who changed what, with which key, from where."""

import logging

from starlette.requests import Request
from starlette.types import Scope

from strandline._engine.admission import Ticket
from strandline._http.caller import caller_of

_log = logging.getLogger("strandline.access")


def changed(request: Request, what: str) -> None:
    """Log a change by the caller: `what` describes it, such as `cancelled run run_1`."""
    caller = caller_of(request)
    key = "no key" if caller.key is None else f"{'' if caller.token is None else 'a token of '}key {caller.key.id}"
    _log.info("%s (%s, from %s) %s", caller.principal, key, address_of(request.scope), what)


def interrupted(request: Request, ticket: Ticket) -> None:
    """Log the runs that a new run has interrupted, if any."""
    if ticket.stopped:
        stopped = ", ".join(ticket.stopped)
        changed(request, f"cancelled {stopped} of session {ticket.key.session_id}, for {ticket.run_id}")


def address_of(scope: Scope) -> str:
    """Return the address that a request came from: the client's, or that of the proxy before us."""
    client = scope.get("client")
    return str(client[0]) if client else "an unknown address"
