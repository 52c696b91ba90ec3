"""The original contract: `POST /chat` and `GET /history`, for clients of the original runner."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette import responses
from starlette.requests import Request

from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.caller import session_of
from strandline._http.dialects.endings import reason_of
from strandline._http.exchange.exchange import Accepted, Dialect, Frames
from strandline._http.exchange.run_request import Response, Responses, RunOptions, RunRequest
from strandline._http.exchange.session_naming import SessionNaming
from strandline._http.exchange.sse import RunEvents, resumed_after, wants_events
from strandline._model import (
    Block,
    InputRequest,
    Outcome,
    RunStatus,
    SessionId,
)
from strandline._settings import AppSettings
from strandline.errors import Invalid

READS: Final = "The body is an object with `message`, a string, and optionally `session_id`"
MISSING: Final = f"Object missing required field `message`. {READS}"


class ChatBody(RunOptions, frozen=True, kw_only=True):
    """The body of `/chat`; other keys are ignored."""

    message: str | UnsetType = UNSET
    responses: list[Response] | None = None
    session_id: str | None = None


class ShownMessage(Struct, frozen=True):
    """A message in `/history`."""

    role: str
    content: list[Block]


class HistoryAnswer(Struct, frozen=True):
    """The answer of `/history`."""

    status: str
    messages: list[ShownMessage]


class ChatAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of `/chat`."""

    status: str
    response: str
    agent_id: str
    session_id: SessionId
    run_id: str
    error_code: str | None = None
    input_requests: list[InputRequest] = []


class Chat(Dialect):
    """The dialect of `POST /chat`, and `GET /history`."""

    def __init__(self, service: Service, naming: SessionNaming, settings: AppSettings) -> None:
        self._service = service
        self._naming = naming
        self._settings = settings
        self._decode = msgspec.json.Decoder(ChatBody).decode

    async def parse(self, request: Request) -> RunRequest:
        """Read a message, or answers to input requests."""
        as_events = wants_events(request)
        sent = await wire.read_body(request, self._settings.max_body_bytes)
        body = wire.decoded(sent, self._decode, READS)
        return RunRequest(
            key=session_of(request, self._naming.named(body.session_id, "`session_id` in the body")),
            input=_prompt(body),
            options=body,
            body=sent,
            as_events=as_events,
            after=resumed_after(request) if as_events else 0,
        )

    async def answer(self, run: Accepted, end: Outcome | Later) -> responses.Response:
        """Return the text of the agent's last message, or an error."""
        if isinstance(end, Later):
            later = self._body(run, RunStatus.QUEUED, "")
            return wire.answer(later, wire.ACCEPTED, run.come_back(self._settings.retry_after_s))
        if (reason := reason_of(end)) is not None:
            code, text = reason
            body = self._body(run, "error", text, code)
        else:
            status = "success" if end.status is RunStatus.SUCCEEDED else "needs_input"
            body = self._body(run, status, end.output, input_requests=end.input_requests)
        return wire.answer(body, headers=run.replayed)

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return events in our own format."""
        return RunEvents(run.ticket.stream, run.request.scope), {"Location": run.location, **run.replayed}

    async def history(self, request: Request) -> responses.Response:
        """Return the last messages of a session."""
        query = request.query_params
        key = session_of(request, self._naming.named(query.get("session_id"), "`session_id` in the query"))
        count = _count(query.get("count", "1"))
        with_tools = wire.flag("include_tool_messages", query.get("include_tool_messages", "false"))
        messages = await self._service.history(key, count=count, include_tool_messages=with_tools)
        shown = [ShownMessage(message["role"], message["content"]) for message in messages]
        return wire.answer(HistoryAnswer("success", shown))

    def _body(
        self,
        run: Accepted,
        status: str,
        text: str,
        code: str | None = None,
        input_requests: Sequence[InputRequest] = (),
    ) -> ChatAnswer:
        return ChatAnswer(
            status=status,
            response=text,
            agent_id=self._settings.agent_id,
            session_id=run.ticket.key.session_id,
            run_id=run.ticket.run_id,
            error_code=code,
            input_requests=list(input_requests),
        )


def _prompt(body: ChatBody) -> str | Responses:
    """Return the message, or the answers. Raises `Invalid` unless exactly one of them is given."""
    if body.responses is not None:
        if body.message is not UNSET:
            raise Invalid("message and responses do not go together: answer first, then send a message")
        return Responses(body.responses)
    if body.message is UNSET:
        raise Invalid(MISSING)
    return body.message


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise Invalid("count must be a whole number; 0 is all messages")
    return int(text)
