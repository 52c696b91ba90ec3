"""OpenAI's Responses API: `/v1/responses`, on the same queues as `/chat`.

A response is a run, and its id names it. A conversation is a session: `conversation` or a header names it, or the
response before (`previous_response_id`). A request that names none begins a new one.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder
from strandline._engine.reading import RunView
from strandline._engine.requests import ListedMessages, without_client_options
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import principal_of, session_header, session_of
from strandline._http.dialects.client_history import client_history
from strandline._http.dialects.openai.responses.conversations import MADE
from strandline._http.dialects.openai.responses.ending import ending_of, whole_items
from strandline._http.dialects.openai.responses.given import (
    check_supported,
    client_options_of,
    has_results,
    listed_in,
    prompt_of,
)
from strandline._http.dialects.openai.responses.items import items_of, of_run, page_of
from strandline._http.dialects.openai.responses.stream import NOTHING, ResponseEvents
from strandline._http.dialects.openai.responses.wire import (
    READS,
    AboutRun,
    ResponseObject,
    ResponseRequest,
    ResponseStatus,
    marked,
    response_id,
    response_of,
    run_id_of,
)
from strandline._http.dialects.openai.results import implied_key
from strandline._http.dialects.openai.wire import SEND_AGAIN, ErrorDetail, failed, failure
from strandline._http.exchange.exchange import Accepted, Dialect, Exchange, Frames
from strandline._http.exchange.run_request import UNTIL_IT_ENDS, RunRequest
from strandline._http.exchange.run_request import Responses as Answers
from strandline._http.exchange.session_naming import new_session
from strandline._http.forwardable import counts_client, forwardable
from strandline._model import Outcome, RunId, RunStatus, SessionKey
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotFound

_LARGEST: Final = 2**53 - 1


class Responses(Dialect):
    """The dialect of responses, and the other routes about one."""

    def __init__(self, service: Service, exchange: Exchange, settings: AppSettings) -> None:
        self._service = service
        self._exchange = exchange
        self._settings = settings
        self._decode = decoder(ResponseRequest)

    # -- new responses --------------------------------------------------------------------------------

    async def parse(self, request: Request) -> RunRequest:
        """Read the new messages of a conversation."""
        body, sent = await wire.read_json(request, self._settings.max_body_bytes, self._decode, READS)
        check_supported(body)
        header = session_header(request.headers, self._settings.session_header)
        prompt = prompt_of(body, lists_all=header is not None)
        how = client_history(request, self._settings.client_history)
        key, previous = await self._session(request, body, header, answers=isinstance(prompt, Answers))
        listed: ListedMessages | None = None
        lists_all = header is not None and body.conversation is None and previous is None and body.after is UNSET
        if how != "ignore" and lists_all and not isinstance(prompt, Answers):
            listed = listed_in(body, how)
        client = client_options_of(body)
        options = replace(
            body, metadata=marked(body.metadata, body, has_format=client is not None and client.format is not None)
        )
        if isinstance(prompt, Answers):
            previous = None  # (they name what they answer)
        elif previous is not None:
            options = replace(options, after=previous)
        return RunRequest(
            input=prompt,
            key=key,
            options=options,
            body=sent,
            as_events=bool(body.stream),
            client=client,
            listed=listed,
            key_in_body=implied_key(prompt, sent) if has_results(body) else None,
            unless_last=previous is not None,
            wait_s=None if body.background else UNTIL_IT_ENDS,
        )

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return a response, ended or not."""
        about = self._about_accepted(run)
        if isinstance(end, Outcome):
            return wire.answer(_ended(about, end), headers=run.replayed)
        if run.run_request.wait_s is None and run.ticket.attached:  # (sent again: it may have begun, or ended)
            view = await self._service.run(run.ticket.key.principal, run.ticket.run_id)
            if view.run.outcome is not None:
                return wire.answer(self._response(view), headers=run.replayed)
            return wire.answer(self._response(view), wire.ACCEPTED, run.come_back(self._settings.retry_after_s))
        headers = run.come_back(self._settings.retry_after_s)
        headers["Location"] = wire.client_path(run.request.scope, f"/v1/responses/{response_id(run.ticket.run_id)}")
        if run.run_request.wait_s is None:
            waits = run.ticket.position > 0 or run.ticket.joined is not None
            return wire.answer(
                _going_on(about, RunStatus.QUEUED if waits else RunStatus.RUNNING), wire.ACCEPTED, headers
            )
        if run.keyed:
            return failure(self._later(about, again=True), wire.UNAVAILABLE, headers | SEND_AGAIN)
        return wire.answer(_going_on(about, RunStatus.QUEUED), wire.ACCEPTED, headers)

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return the events of a run as those of a response."""
        about = self._about_accepted(run)
        return ResponseEvents(about, run.ticket.stream, later=self._later(about, again=run.keyed)), run.replayed

    def _about_accepted(self, run: Accepted) -> AboutRun:
        return AboutRun(
            run_id=run.ticket.run_id,
            session_id=run.ticket.key.session_id,
            created_at=run.ticket.created_at,
            model=self._settings.agent_id,
            metadata=run.run_request.options.metadata or {},
        )

    async def _session(
        self, request: Request, body: ResponseRequest, header: str | None, *, answers: bool
    ) -> tuple[SessionKey, RunId | None]:
        """Return the session of a request, and the run after which it continues. Raises `Invalid`, `NotFound`."""
        named = body.conversation_id
        if named is not None and header is not None and named != header:
            raise Invalid("The header and `conversation` name two sessions - at `$.conversation`")
        name = header if named is None else named
        if body.previous_response_id is None:
            if name is None and answers:
                raise Invalid("Name the response that has asked - at `$.previous_response_id`")
            return (
                await new_session(self._service, request, MADE) if name is None else session_of(request, name)
            ), None
        previous = run_id_of(body.previous_response_id)
        if name is not None:
            return session_of(request, name), previous
        try:
            view = await self._service.run(principal_of(request), previous)
        except NotFound:
            raise NotFound(f"there is no response {body.previous_response_id} - at `$.previous_response_id`") from None
        return view.run.key, previous

    # -- responses that exist -------------------------------------------------------------------------

    async def read(self, request: Request) -> Response:
        """Return a response as it is now; with `stream` its events after `starting_after`."""
        query = request.query_params
        run_id, principal = run_id_of(request.path_params["response_id"]), principal_of(request)
        is_stream = wire.flag("stream", query.get("stream", "false"))
        after = _starting_after(query.get("starting_after"))
        if not is_stream:
            return wire.answer(self._response(await self._service.run(principal, run_id)))
        counts_client(request)
        view = await self._service.run(principal, run_id)
        stream = await self._service.stream(principal, run_id)
        about = self._about(view)
        frames = ResponseEvents(about, stream, after=after, later=self._later(about, again=True))
        return self._exchange.stream(stream, frames, {}, after=0)

    async def input_items(self, request: Request) -> Response:
        """Return the input of a response as items."""
        page, run_id = page_of(request), run_id_of(request.path_params["response_id"])
        run = await self._service.stored_run(principal_of(request), run_id)
        found = items_of("user", run.input, of_run(run.run_id))
        return wire.answer(page.of(found if page.is_ascending else found[::-1]))

    async def cancel(self, request: Request) -> Response:
        """Cancel a response; one that has ended stays as it is."""
        run_id, principal = run_id_of(request.path_params["response_id"]), principal_of(request)
        view = await self._service.run(principal, run_id)
        if view.run.outcome is None:
            passed = forwardable(request.scope)
            again = passed is not None and passed.again
            view = await self._service.cancel(principal, run_id, force=False, again=again)
            changed(request, f"cancelled run {run_id} of session {view.run.key.session_id}")
        return wire.answer(self._response(view))

    def _response(self, view: RunView) -> ResponseObject:
        about, run = self._about(view), view.run
        return _going_on(about, run.status) if run.outcome is None else _ended(about, run.outcome)

    def _about(self, view: RunView) -> AboutRun:
        run = view.run
        return AboutRun(
            run_id=run.run_id,
            session_id=run.key.session_id,
            created_at=run.created_at,
            model=self._settings.agent_id,
            metadata=without_client_options(run.metadata),
        )

    def _later(self, run: AboutRun, *, again: bool = False) -> ErrorDetail:
        text = (
            f"the server is stopping; the run continues after its restart, see /v1/responses/{response_id(run.run_id)}"
        )
        return failed(text, "goes_on_later", run.run_id, again=again)


def _going_on(run: AboutRun, status: RunStatus) -> ResponseObject:
    said: ResponseStatus = "in_progress" if status is RunStatus.RUNNING else "queued"
    return response_of(run, said, run_status=status)


def _ended(run: AboutRun, end: Outcome) -> ResponseObject:
    ending = ending_of(end, run)
    output = whole_items(ending, run)
    return response_of(run, ending.status, run_status=end.status, output=output, end=end, error=ending.error)


def _starting_after(text: str | None) -> int:
    """Return the number after which a stream resumes. Raises `Invalid`."""
    if text is None:
        return NOTHING
    if text.isascii() and text.isdecimal() and len(text) < 17 and int(text) <= _LARGEST:
        return int(text)
    raise Invalid("starting_after must be the `sequence_number` of an event")
