"""Our own dialect: `POST /v1/sessions/{session_id}/runs` accepts a run and answers with it."""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.caller import session_of
from strandline._http.exchange.exchange import Accepted, Dialect, Frames
from strandline._http.exchange.run_request import Responses, RunOptions, RunRequest
from strandline._http.exchange.sse import RunEvents, resumed_after, wants_events
from strandline._http.routes.runs import preferred_wait_s, run_body
from strandline._model import Block, Outcome
from strandline._settings import AppSettings
from strandline.errors import JournalUnavailable

READS: Final = 'The body is an object with `input`, a text or content blocks such as `[{"text": "hello"}]`'


class NewRunBody(RunOptions, frozen=True, kw_only=True):
    """A new run; other keys are ignored."""

    input: Annotated[
        str | list[Block] | Responses,
        Meta(description="A text, content blocks in the format of Strands, or answers to input requests"),
    ]


class SessionRuns(Dialect):
    """Answers 202 at once, or with `Prefer: wait=N` 200 if the run ends within N seconds; a replay is 200."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        self._service = service
        self._settings = settings
        self._decode = decoder(NewRunBody)

    async def parse(self, request: Request) -> RunRequest:
        """Read an input, or answers to input requests."""
        key = session_of(request, request.path_params["session_id"])
        wait_s = preferred_wait_s(request)
        as_events = wants_events(request)
        body, sent = await wire.read_json(request, self._settings.max_body_bytes, self._decode, READS)
        return RunRequest(
            key=key,
            input=body.input,
            options=body,
            body=sent,
            as_events=as_events,
            after=resumed_after(request) if as_events else 0,
            wait_s=wait_s,
        )

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return the run as it is now, or as it was accepted if it cannot be read."""
        try:
            view = await self._service.run(run.ticket.key.principal, run.ticket.run_id, end=end)
        except JournalUnavailable:
            if (accepted := run.ticket.view(end)) is None:
                raise  # (a repeated request: it can be sent again)
            view = accepted
        headers = {"Location": run.location, **run.replayed}
        wait_s = run.run_request.wait_s
        if wait_s is not None:
            headers["Preference-Applied"] = f"wait={wait_s:g}"
        if view.run.outcome is not None and (run.ticket.replayed or wait_s is not None):
            return wire.answer(run_body(view), wire.OK, headers)
        if self._service.health().draining:
            headers |= wire.retry_after(self._settings.retry_after_s)
        return wire.answer(run_body(view), wire.ACCEPTED, headers)

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return events in our own format."""
        return RunEvents(run.ticket.stream, run.request.scope), {"Location": run.location, **run.replayed}
