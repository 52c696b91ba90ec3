"""AgentCore Runtime's HTTP contract: `POST /invocations` and `GET /ping`, through the same line as `/chat`.

The session is named by a header, which AgentCore sends with every request. What AgentCore
tells of a request besides (its id, the trace that it belongs to) is kept with the run.
"""

import logging
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from strandline.clock import Clock
from strandline.engine.asked import Ticket
from strandline.engine.service import Service
from strandline.engine.stream import Later
from strandline.http import wire
from strandline.http.access_log import interrupted
from strandline.http.auth import session_of
from strandline.http.keys import REPLAYED, idempotency_key
from strandline.http.naming import Naming
from strandline.http.presence import while_present
from strandline.http.sse import EventResponse, wants_events
from strandline.http.wishes import wished
from strandline.model import Outcome, RunStatus
from strandline.protocols.agentcore_stream import ACCEPTED, Pieces
from strandline.protocols.agentcore_wire import (
    READS,
    SESSION,
    Invocation,
    InvocationAnswer,
    InvocationFailure,
    PingBody,
    failed,
    named_session,
    prompt_of,
    reason_of,
    told_by,
)
from strandline.protocols.waiting import Waiting

_log = logging.getLogger("strandline.agentcore")

PLACE: Final = "/invocations"


class AgentCore:
    """The routes of the contract."""

    def __init__(
        self, service: Service, clock: Clock, naming: Naming, *, max_body_bytes: int, retry_after_s: float
    ) -> None:
        self._service = service
        self._clock = clock
        self._naming = naming
        self._max_body_bytes = max_body_bytes
        self._retry_after_s = retry_after_s
        self._decode = msgspec.json.Decoder(Invocation).decode
        self._is_busy = False
        self._changed_at = clock.now()

    async def invoke(self, request: Request) -> Response:
        """Accept a prompt, wait its turn and its answer, whole or piece by piece. Any content type will do."""
        sent = await wire.read_body(request, self._max_body_bytes)
        body = wire.decoded(sent, self._decode, READS)
        key = session_of(request, named_session(request.headers, self._naming))
        told = told_by(request.headers)
        ticket = await self._service.submit(wished(key, prompt_of(body), body, idempotency_key(request), sent, told))
        interrupted(request, ticket)
        self._look()
        if "request_id" in told:
            _log.debug("run %s is what request %s of AgentCore asks for", ticket.run_id, told["request_id"])
        if wants_events(request):
            return self._events(request, ticket)
        end = await while_present(request, self._service, ticket.run_id, ticket.stream.waiter())
        if isinstance(end, Later):
            return self._later(request, ticket)
        return _answer(ticket, end)

    async def ping(self, request: Request) -> Response:
        """Tell whether anything runs or waits: AgentCore ends a machine that has been idle for long, by the time."""
        self._look()
        return wire.answer(PingBody("HealthyBusy" if self._is_busy else "Healthy", int(self._changed_at)))

    def _look(self) -> None:
        """Take the time if the status has changed: AgentCore looks every few seconds, and invocations look, too.

        So a run that comes and goes between two looks of AgentCore's is no time in which nothing happened.
        """
        health = self._service.health()
        is_busy = health.running + health.queue_depth > 0
        if is_busy is not self._is_busy:
            self._is_busy, self._changed_at = is_busy, self._clock.now()

    def _events(self, request: Request, ticket: Ticket) -> Response:
        run_id, session = ticket.run_id, ticket.key.session_id
        later = f"the server stops; the run goes on after its restart, see {_place(request, ticket)}"
        pieces = Pieces(run_id, session, waiting=Waiting(request.scope, session), later=later)
        headers = {"Location": _place(request, ticket), SESSION: session}
        self._service.joined(run_id)
        return EventResponse(
            ticket.stream.subscribe(),
            pieces.of,
            lambda lost: self._service.left(run_id, lost=lost),
            headers | (REPLAYED if ticket.replayed else {}),
            opening=ACCEPTED,
            closing=pieces.closing,
        )

    def _later(self, request: Request, ticket: Ticket) -> Response:
        """Tell that a run goes on after a restart, as `/chat` does.

        Never as an error: nothing in this contract makes a client send the same again as the same run, and AWS's own
        clients send again what got one.
        """
        answer = InvocationAnswer(
            result="", run_id=ticket.run_id, session_id=ticket.key.session_id, status=RunStatus.QUEUED
        )
        headers = {"Location": _place(request, ticket), **wire.retry_after(self._retry_after_s)}
        return wire.answer(answer, wire.ACCEPTED, headers | {SESSION: ticket.key.session_id})


def _answer(ticket: Ticket, end: Outcome) -> Response:
    run_id, session = ticket.run_id, ticket.key.session_id
    headers = {SESSION: session, **(REPLAYED if ticket.replayed else {})}
    if (reason := reason_of(end)) is not None:
        code, text = reason
        failure = InvocationFailure(error=code, details=text, run_id=run_id, session_id=session, status=end.status)
        return failed(failure, wire.BROKEN, headers)
    answer = InvocationAnswer(
        result=end.output,
        run_id=run_id,
        session_id=session,
        status=end.status,
        input_requests=end.input_requests,
    )
    return wire.answer(answer, headers=headers)


def _place(request: Request, ticket: Ticket) -> str:
    return wire.place(request.scope, f"/v1/runs/{ticket.run_id}")
