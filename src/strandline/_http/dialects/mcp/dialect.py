"""MCP by streamable HTTP: `POST /mcp`, on the same queues as `/chat`.

The agent is a tool, `ask`, whose call is a run. Its session is what the call names, or a header; else that of the
client's MCP session, or in the current version, which has none, a new one. Nothing is stored for MCP: its session ids
say all that is needed.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import replace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import encode
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import principal_of, session_header, session_of
from strandline._http.dialects.mcp import sessions
from strandline._http.dialects.mcp.places import Place, place_of
from strandline._http.dialects.mcp.results import cancelled, continues_later, ended, executes, seen, waits
from strandline._http.dialects.mcp.sessions import McpSession
from strandline._http.dialects.mcp.stream import CallEvents
from strandline._http.dialects.mcp.tools import (
    KINDS,
    TOOLS,
    AnswerArguments,
    AskArguments,
    CancelArguments,
    StatusArguments,
    arguments_of,
    options_of,
)
from strandline._http.dialects.mcp.versions import (
    SERVER_INFO,
    SUPPORTED,
    Client,
    can_elicit,
    client_of,
    negotiated,
)
from strandline._http.dialects.mcp.wire import (
    INVALID_PARAMS,
    NO_METHOD,
    READS,
    Call,
    McpAnswer,
    McpRequest,
    Reply,
    RequestId,
    RpcFailure,
    ToolResult,
    failed,
    implementation,
    refused,
)
from strandline._http.exchange.exchange import Accepted, Dialect, Exchange, Frames
from strandline._http.exchange.idempotency import KEY, key_in_body
from strandline._http.exchange.run_request import UNTIL_IT_ENDS, Responses, RunOptions, RunRequest
from strandline._http.exchange.run_request import Response as Answered
from strandline._http.exchange.session_naming import new_session
from strandline._http.exchange.sse import MEDIA_TYPE
from strandline._http.forwardable import counts_client, forwardable
from strandline._model import OnDisconnect, Outcome, RunId, RunStatus, SessionKey
from strandline._settings import AppSettings
from strandline.errors import AlreadyEnded, Invalid, InvariantBroken, NotFound, StrandlineError

PLACE: Final = "/mcp"
MARK: Final = "mcp"
"""The key of a run's metadata for the call that it is."""
_UNENDED: Final = (RunStatus.QUEUED, RunStatus.RUNNING)
MADE: Final = "mcp_"
_CACHED: Final[dict[str, Any]] = {"ttlMs": 300_000, "cacheScope": "public"}
"""How long a client of the current version may keep what it has learnt of the server."""
_INSTRUCTIONS: Final = "ask talks to the agent, one message after the other in each conversation."


class Mcp:
    """The route of MCP."""

    def __init__(self, service: Service, exchange: Exchange, settings: AppSettings) -> None:
        self._service = service
        self._exchange = exchange
        self._settings = settings
        self._decode = msgspec.json.Decoder(McpRequest).decode
        self._us = implementation(settings.agent_id)
        self._meta = {SERVER_INFO: self._us}

    async def post(self, request: Request) -> Response:
        """Answer a message."""
        sent, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode, READS)
        request_id = None if sent.id is UNSET else sent.id
        try:
            client = client_of(sent, request.headers)
            session = None if client.is_current else self._session(request)
            if request_id is None:
                if sent.method == "notifications/cancelled" and session is not None:
                    await self._cancel_call(request, session, sent.params.get("requestId"))
                return Response(status_code=wire.ACCEPTED)
            if sent.method == "tools/call":
                return await self._call(request, sent, request_id, client, session)
            return self._answer(request, sent, request_id, client)
        except RpcFailure as failure:
            return failed(failure, request_id)

    async def get(self, request: Request) -> Response:
        """Resume the stream of a call after `Last-Event-ID`. Nothing else is sent to a client of its own accord."""
        self._session(request)
        given = request.headers.get("last-event-id")
        if given is None:
            raise HTTPException(wire.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})
        place = place_of(given)
        counts_client(request)
        stream = await self._service.stream(principal_of(request), place.run_id)
        frames = CallEvents(stream.key.session_id, place, Reply(place.request_id), resumes=True)
        # (An id that its client has made up may say that the end was read, which has no id.)
        after = 0 if stream.is_read(place.number) else place.number
        return self._exchange.stream(stream, frames, {}, after=after)

    def _session(self, request: Request) -> McpSession | None:
        """Return the client's session; None: it names none. Raises `NotFound`, after which clients shake hands anew."""
        given = request.headers.get(sessions.HEADER)
        if given is None:
            return None
        if (session := sessions.session_with(given, principal_of(request))) is None:
            raise NotFound("there is no such MCP session; begin another one with `initialize`")
        return session

    # -- methods --------------------------------------------------------------------------------------

    def _answer(self, request: Request, sent: McpRequest, request_id: RequestId, client: Client) -> Response:
        """Answer what needs no run."""
        about = {"capabilities": {"tools": {}}, "instructions": _INSTRUCTIONS}
        headers = None
        result: dict[str, Any]
        match sent.method:
            case "initialize" if not client.is_current:
                capabilities = sent.params.get("capabilities")
                elicits = isinstance(capabilities, dict) and can_elicit(capabilities)
                headers = {sessions.HEADER: sessions.new_session(elicits=elicits).id_for(principal_of(request))}
                version = negotiated(sent.params.get("protocolVersion"))
                result = {**about, "protocolVersion": version, "serverInfo": self._us}
            case "server/discover" if client.is_current:
                result = {**about, "supportedVersions": SUPPORTED, **_CACHED}
            case "tools/list":
                result = {"tools": TOOLS, **(_CACHED if client.is_current else {})}
            case "ping":
                result = {}
            case _:
                status = wire.NOT_FOUND if client.is_current else wire.OK
                raise RpcFailure(NO_METHOD, f"There is no method {sent.method}", status)
        if client.is_current:
            result |= {"resultType": "complete", "_meta": self._meta}
        return wire.answer(McpAnswer(request_id, result), headers=headers)

    async def _call(
        self, request: Request, sent: McpRequest, request_id: RequestId, client: Client, session: McpSession | None
    ) -> Response:
        """Call a tool. What it refuses is its result, which the model gets that has called it."""
        call = _call_of(sent, client)
        reply = Reply(request_id, self._meta if client.is_current else None)
        try:
            arguments = arguments_of(call.name, call.arguments or {})
            if isinstance(arguments, StatusArguments):
                return wire.answer(reply.of(await self._status(request, arguments)))
            if isinstance(arguments, CancelArguments):
                return wire.answer(reply.of(await self._cancel(request, arguments)))
            if isinstance(arguments, AnswerArguments):
                run = await self._answers(request, sent, arguments)
            else:
                run = await self._message(request, sent, client, session, arguments, waits=call.name == "ask")
            if session is not None and run.wait_s is not None:
                mark = {MARK: _mark(session, request_id)}
                run = replace(run, options=replace(run.options, metadata={**(run.options.metadata or {}), **mark}))
            token = sent.progress_token
            return await self._exchange.handle(_RunCall(self._service, run, reply, token, client), request)
        except StrandlineError as error:
            passed = forwardable(request.scope)
            if isinstance(error, InvariantBroken) or (passed is not None and passed.passes(error)):
                raise
            return wire.answer(reply.of(refused(wire.error_response(error))))

    # -- tools ----------------------------------------------------------------------------------------

    async def _message(
        self,
        request: Request,
        sent: McpRequest,
        client: Client,
        session: McpSession | None,
        given: AskArguments,
        *,
        waits: bool,
    ) -> RunRequest:
        """Return the run of a message to the agent."""
        key = given.idempotency_key
        if key is not None:
            key_in_body(key, "$.params.arguments.idempotency_key")
        options = options_of(sent)
        if waits:
            options = _ending_with(client, options, keyed=key is not None or KEY in request.headers)
        session_key = await self._session_of(request, session, given)
        body = encode([session_key.session_id, given.message, options])
        return _run(request, session_key, given.message, options, body, key, waits=waits)

    async def _session_of(self, request: Request, session: McpSession | None, given: AskArguments) -> SessionKey:
        """Return the session of a message. Raises `Invalid`."""
        header = session_header(request.headers, self._settings.session_header)
        if header is not None and given.session is not None and header != given.session:
            raise Invalid(f"session must be {header}, which a header names, or be left out")
        if (name := header if given.session is None else given.session) is not None:
            return session_of(request, name)
        if session is not None:
            return SessionKey(principal_of(request), session.name)
        return await new_session(self._service, request, MADE, given.idempotency_key)

    async def _answers(self, request: Request, sent: McpRequest, given: AnswerArguments) -> RunRequest:
        """Return the run of an answer to the questions of another one. An equal one is the same."""
        view = await self._service.run(principal_of(request), RunId(given.run_id))
        end = view.run.outcome
        if end is None or end.status is not RunStatus.NEEDS_INPUT:
            raise Invalid(f"run {given.run_id} has asked nothing")
        ids = [each.id for each in end.input_requests]
        answers = given.answers
        if (answers is UNSET) is (given.answer is UNSET):
            raise Invalid("give one of answer and answers")
        if answers is UNSET:
            if len(ids) > 1:
                raise Invalid(f"run {given.run_id} has asked several questions: give answers, with {', '.join(ids)}")
            answers = {ids[0]: given.answer}
        if answers.keys() != set(ids) or None in answers.values():
            raise Invalid(f"answers must have {', '.join(ids)}, each any JSON but null")
        options = options_of(sent)
        responses = Responses([Answered(name, response) for name, response in answers.items()])
        body = encode([given.run_id, answers, options])
        key = f"answer:{hashlib.sha256(encode([given.run_id, sorted(answers.items())])).hexdigest()[:32]}"
        return _run(request, view.run.key, responses, options, body, key, waits=True)

    async def _cancel_call(self, request: Request, session: McpSession, request_id: object) -> None:
        """Cancel the run of a call of a client's, if there is one that has not ended."""
        principal, mark = principal_of(request), _mark(session, request_id)
        cursor: str | None = None
        while True:
            page = await self._service.runs_of(principal, statuses=_UNENDED, cursor=cursor)
            found = next((each.run for each in page.runs if each.run.metadata.get(MARK) == mark), None)
            if found is not None:
                with suppress(AlreadyEnded):
                    await self._cancel(request, CancelArguments(run_id=found.run_id))
                return
            if (cursor := page.after) is None:
                return

    async def _status(self, request: Request, given: StatusArguments) -> ToolResult:
        wait_s = given.wait or None
        return seen(await self._exchange.run(request, RunId(given.run_id), wait_s))

    async def _cancel(self, request: Request, given: CancelArguments) -> ToolResult:
        run_id, passed = RunId(given.run_id), forwardable(request.scope)
        again = passed is not None and passed.again
        view = await self._service.cancel(principal_of(request), run_id, force=False, again=again)
        changed(request, f"cancelled run {run_id} of session {view.run.key.session_id}")
        return cancelled(view)


class _RunCall(Dialect):
    """A call of a tool that is a run."""

    def __init__(
        self, service: Service, run: RunRequest, reply: Reply, token: RequestId | None, client: Client
    ) -> None:
        self._service = service
        self._run = run
        self._reply = reply
        self._token = token
        self._resumes = client.resumes

    async def parse(self, request: Request) -> RunRequest:
        """Return the run, which has been read."""
        return self._run

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return the result, for a client that takes no stream, or the run as it was accepted."""
        ticket = run.ticket
        session_id, run_id = ticket.key.session_id, ticket.run_id
        if isinstance(end, Outcome):
            result = ended(session_id, run_id, end)
        elif run.run_request.wait_s is not None:
            result = continues_later(session_id, run_id)
        elif ticket.attached:  # (sent again: it may have begun, or ended)
            result = seen(await self._service.run(ticket.key.principal, run_id))
        elif ticket.position or ticket.joined is not None:
            result = waits(session_id, run_id, ticket.position, ticket.estimated_wait_s)
        else:
            result = executes(session_id, run_id)
        return wire.answer(self._reply.of(result), headers=run.replayed)

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return the events of a run as progress and a result."""
        ticket = run.ticket
        place = Place(ticket.run_id, 0, 0, self._reply.request_id, self._token)
        return CallEvents(ticket.key.session_id, place, self._reply, resumes=self._resumes), run.replayed


def _mark(session: McpSession, request_id: object) -> dict[str, object]:
    """Return what a run's metadata says of the call that it is, by which its client can cancel it."""
    return {"session": session.drawn, "request": request_id}


def _call_of(sent: McpRequest, client: Client) -> Call:
    """Return the parameters of a call. Raises `RpcFailure`."""
    status = wire.BAD_REQUEST if client.is_current else wire.OK
    try:
        call = msgspec.convert(sent.params, Call)
    except msgspec.ValidationError as error:
        raise RpcFailure(INVALID_PARAMS, f"{error} (in params)", status) from None
    if call.name not in KINDS:
        raise RpcFailure(INVALID_PARAMS, f"There is no tool {call.name}; there are {', '.join(KINDS)}", status)
    return call


def _ending_with(client: Client, options: RunOptions, *, keyed: bool) -> RunOptions:
    """Return the options of a call whose client may end it.

    In the current version a client cancels by closing the stream, and cannot come back to it, unless it repeats the
    call under a key.
    """
    if not client.is_current or keyed or options.on_disconnect is not None:
        return options
    return replace(options, on_disconnect=OnDisconnect.CANCEL)


def _run(
    request: Request,
    key: SessionKey,
    prompt: str | Responses,
    options: RunOptions,
    body: bytes,
    idempotency_key: str | None,
    *,
    waits: bool,
) -> RunRequest:
    return RunRequest(
        key=key,
        input=prompt,
        options=options,
        body=body,
        key_in_body=idempotency_key,
        as_events=waits and MEDIA_TYPE in request.headers.get("accept", ""),
        wait_s=UNTIL_IT_ENDS if waits else None,
    )
