"""Our own dialect: `POST /v1/sessions/{session_id}/runs` accepts a run and answers with it, and so does `POST
/v1/runs/{run_id}/resolve` for a crashed run that continues, and `POST /v1/runs/{run_id}/again` for one that is
replaced."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder, encode
from strandline._engine.requests import CheckedTool, ToolOutcome, kept_of, resolution
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import principal_of, session_of
from strandline._http.exchange.exchange import Accepted, Dialect, Frames
from strandline._http.exchange.run_request import (
    OF_AGENTCORE,
    Priority,
    Responses,
    RunOptions,
    RunRequest,
)
from strandline._http.exchange.sse import RunEvents, resumed_after, wants_events
from strandline._http.routes.runs import preferred_wait_s, run_body
from strandline._model import Block, IfBusy, OnDisconnect, Outcome, RunId
from strandline._settings import AppSettings
from strandline.errors import JournalUnavailable

AGAIN_READS: Final = "The body is empty, or an object with options such as `if_busy`"
RESOLVE_READS: Final = "`tools` is a list of objects with `tool_use_id` and `outcome`, `done` or `not_done`"
READS: Final = 'The body is an object with `input`, a text or content blocks such as `[{"text": "hello"}]`'


class NewRunBody(RunOptions, frozen=True, kw_only=True):
    """A new run; other keys are ignored."""

    input: Annotated[
        str | list[Block] | Responses,
        Meta(description="A text, content blocks in the format of Strands, or answers to input requests"),
    ]


class ToolBody(Struct, frozen=True, kw_only=True):
    """A tool call of a crashed run, and what it has done."""

    tool_use_id: str
    outcome: Annotated[
        ToolOutcome, Meta(description="`done`: it has taken effect; `not_done`: it has done nothing, and starts again")
    ]
    result: Annotated[
        Any, Meta(description="What it returned, if it is `done` and that is known: a text, or any JSON")
    ] = UNSET


class ResolveBody(Struct, frozen=True, kw_only=True):
    """What became of all tools of a crashed run whose outcome is unknown."""

    tools: list[ToolBody]
    timeout: Annotated[float | None, Meta(description="Seconds that the run may take from now on")] = None
    on_disconnect: Annotated[
        OnDisconnect | None, Meta(description="What happens to the run if all its clients disconnect")
    ] = None


class AgainBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a run that replaces another one. It has that one's input, and its metadata unless it names some."""

    if_busy: Annotated[
        IfBusy | None,
        Meta(
            description="`interrupt` or `rollback`: the runs that have begun end first; else 409 `session_busy` unless"
            " the session is at rest"
        ),
    ] = None
    priority: Annotated[Priority | None, Meta(description="Priority in the queue, 1 to 5, 1 first")] = None
    timeout: Annotated[float | None, Meta(description="Seconds that the run may take")] = None
    queue_timeout: Annotated[float | None, Meta(description="Seconds that the run may wait for its turn")] = None
    on_disconnect: Annotated[
        OnDisconnect | None, Meta(description="What happens to the run if all its clients disconnect")
    ] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="Stored with the run, and passed to its tools")] = None


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


class ResolvedRuns(SessionRuns):
    """Continues a crashed run, answered like a new run."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        super().__init__(service, settings)
        self._decode_resolve = decoder(ResolveBody)

    async def parse(self, request: Request) -> RunRequest:
        """Read what a person found out. The run continues with the input and metadata that it had."""
        run_id, caller = RunId(request.path_params["run_id"]), principal_of(request)
        wait_s, as_events = preferred_wait_s(request), wants_events(request)
        body, raw = await wire.read_json(request, self._settings.max_body_bytes, self._decode_resolve, RESOLVE_READS)
        run = await self._service.crashed(caller, run_id)
        tools = [CheckedTool(each.tool_use_id, each.outcome, each.result) for each in body.tools]
        return RunRequest(
            key=run.key,
            input=run.input,
            options=RunOptions(timeout=body.timeout, on_disconnect=body.on_disconnect),
            kept=kept_of(run, trusts_senders=self._service.options.trusted_senders),
            runtime=run.metadata.get(OF_AGENTCORE, {}),
            body=b'{"resolves":' + encode(run_id) + b',"body":' + (raw or b"{}") + b"}",
            as_events=as_events,
            after=resumed_after(request) if as_events else 0,
            wait_s=wait_s,
            resolution=resolution(run_id, tools, by=caller),
        )

    def accepted(self, run: Accepted) -> None:
        """Log who resolved which run."""
        resolved = run.run_request.resolution
        if resolved is not None and not run.ticket.attached:
            session_id = run.ticket.key.session_id
            changed(run.request, f"resolved run {resolved.run_id} of session {session_id}, as {run.ticket.run_id}")


class RunsAgain(SessionRuns):
    """Replaces a run by one with the same input, answered like a new run."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        super().__init__(service, settings)
        self._decode_again = decoder(AgainBody)

    async def parse(self, request: Request) -> RunRequest:
        """Read the options. The run has the input of the one that it replaces, and of those that joined that."""
        run_id, caller = RunId(request.path_params["run_id"]), principal_of(request)
        wait_s, as_events = preferred_wait_s(request), wants_events(request)
        body, raw = await wire.read_json(request, self._settings.max_body_bytes, self._decode_again, AGAIN_READS)
        run, replaced = await self._service.repeatable(caller, run_id)
        options = RunOptions(
            if_busy=body.if_busy,
            priority=body.priority,
            timeout=body.timeout,
            queue_timeout=body.queue_timeout,
            on_disconnect=body.on_disconnect,
        )
        return RunRequest(
            key=run.key,
            input=run.input,
            options=options,
            kept=kept_of(run, trusts_senders=self._service.options.trusted_senders, metadata=body.metadata),
            runtime=run.metadata.get(OF_AGENTCORE, {}),
            body=b'{"again":' + encode(run_id) + b',"body":' + (raw or b"{}") + b"}",
            as_events=as_events,
            after=resumed_after(request) if as_events else 0,
            wait_s=wait_s,
            again=replaced,
        )

    def accepted(self, run: Accepted) -> None:
        """Log which run replaces which."""
        if (again := run.run_request.again) is not None and not run.ticket.attached:
            session_id = run.ticket.key.session_id
            changed(run.request, f"replaces run {again.run_id} of session {session_id} by {run.ticket.run_id}")
