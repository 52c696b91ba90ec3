"""AgentCore Runtime's HTTP contract: `POST /invocations` and `GET /ping`, on the same queues as `/chat`.

A header that AgentCore sends with every request names the session. Its other headers (request id, trace) are stored
with the run.
"""

import logging
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from strandline._clock import Clock
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.caller import session_of
from strandline._http.dialects.agentcore.stream import Pieces
from strandline._http.dialects.agentcore.wire import (
    READS,
    SESSION,
    Invocation,
    InvocationAnswer,
    InvocationFailure,
    PingBody,
    failed,
    named_session,
    prompt_of,
    runtime_metadata,
)
from strandline._http.dialects.endings import reason_of
from strandline._http.dialects.waiting import Waiting
from strandline._http.exchange.exchange import Accepted, Dialect, Frames
from strandline._http.exchange.run_request import RunRequest
from strandline._http.exchange.session_naming import SessionNaming
from strandline._http.exchange.sse import wants_events
from strandline._model import Outcome, RunStatus
from strandline._settings import AppSettings

_log = logging.getLogger("strandline.agentcore")

PLACE: Final = "/invocations"


class AgentCore(Dialect):
    """The dialect of `POST /invocations`, and `GET /ping`."""

    def __init__(self, service: Service, clock: Clock, naming: SessionNaming, settings: AppSettings) -> None:
        self._service = service
        self._clock = clock
        self._naming = naming
        self._settings = settings
        self._decode = msgspec.json.Decoder(Invocation).decode
        self._is_busy = False
        self._changed_at = clock.now()

    async def parse(self, request: Request) -> RunRequest:
        """Read a prompt, or answers to input requests. Any content type is accepted."""
        as_events = wants_events(request)
        sent = await wire.read_body(request, self._settings.max_body_bytes)
        body = wire.decoded(sent, self._decode, READS)
        return RunRequest(
            key=session_of(request, named_session(request.headers, self._naming)),
            input=prompt_of(body),
            options=body,
            body=sent,
            runtime=runtime_metadata(request.headers),
            as_events=as_events,
        )

    def accepted(self, run: Accepted) -> None:
        """Update the status of `/ping`."""
        self._update()
        if (request_id := run.run_request.runtime.get("request_id")) is not None:
            _log.debug("run %s is for request %s of AgentCore", run.ticket.run_id, request_id)

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return the text of the agent's last message, or an error.

        A run that continues after a restart is not an error: AWS's clients retry errors, and without an idempotency key
        a retry is another run.
        """
        run_id, session = run.ticket.run_id, run.ticket.key.session_id
        if isinstance(end, Later):
            later = InvocationAnswer(result="", run_id=run_id, session_id=session, status=RunStatus.QUEUED)
            where = run.come_back(self._settings.retry_after_s)
            return wire.answer(later, wire.ACCEPTED, {**where, SESSION: session})
        headers = {SESSION: session, **run.replayed}
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

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return the events of a run as pieces of text."""
        session = run.ticket.key.session_id
        later = f"the server is stopping; the run continues after its restart, see {run.location}"
        pieces = Pieces(run.ticket.run_id, session, waiting=Waiting(run.request.scope, session), later=later)
        return pieces, {"Location": run.location, SESSION: session, **run.replayed}

    async def ping(self, request: Request) -> Response:
        """Return whether any run executes or waits, and since when. AgentCore stops a machine that is idle for long."""
        self._update()
        return wire.answer(PingBody("HealthyBusy" if self._is_busy else "Healthy", int(self._changed_at)))

    def _update(self) -> None:
        """Note the time if the status has changed. Called at each ping and each invocation.

        So a run that starts and ends between two pings counts as activity too.
        """
        health = self._service.health()
        is_busy = health.running + health.queue_depth > 0
        if is_busy is not self._is_busy:
            self._is_busy, self._changed_at = is_busy, self._clock.now()
