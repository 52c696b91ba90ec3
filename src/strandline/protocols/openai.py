"""OpenAI's chat completions: `POST /v1/chat/completions` and `GET /v1/models`, through the same line as `/chat`.

The conversation is the server's: of the messages that a client sends, only the last is asked. The session is named by
a header (`X-Session-Id`, setting `session_header`), else by `metadata.session_id`, else by `user`. A client that names
none is refused: the programs that speak this protocol know no sessions, and their users would all talk in one.
"""

import re
from typing import Any, Final

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from strandline.clock import Clock
from strandline.engine.asked import Ticket
from strandline.engine.service import Service
from strandline.engine.stream import Later
from strandline.errors import Invalid, NotFound
from strandline.http import wire
from strandline.http.access_log import interrupted
from strandline.http.auth import session_header, session_of
from strandline.http.keys import REPLAYED, idempotency_key
from strandline.http.naming import Naming
from strandline.http.presence import while_present
from strandline.http.sse import EventResponse
from strandline.http.wishes import wished
from strandline.model import Outcome, RunStatus, SessionId, session_id
from strandline.protocols.openai_answer import NoAnswer, answer_of
from strandline.protocols.openai_body import BodyReader
from strandline.protocols.openai_stream import Chunks
from strandline.protocols.openai_wire import (
    ENDED,
    SEND_AGAIN,
    SEND_NO_MORE,
    Choice,
    Completion,
    CompletionBody,
    ErrorBody,
    ErrorDetail,
    Extension,
    Model,
    Models,
    Said,
    failed,
    failure,
    prompt_of,
    tokens,
)
from strandline.protocols.waiting import Waiting

_ROUTES: Final = (
    "assistants|audio|batches|completions|containers|conversations|embeddings|evals|files|fine_tuning|images|models|"
    "moderations|realtime|responses|threads|uploads|vector_stores|videos"
)
"""The first words of OpenAI's paths. Of most of them there is nothing here, which a client is to understand too."""
_BASE: Final = "/v1"
_PLACES: Final = re.compile(rf"((?:{_BASE})*)/(?:chat/completions|{_ROUTES})(?:/.*)?", re.DOTALL)


def is_spoken_at(path: str) -> bool:
    """Tell whether clients of this protocol ask at a path, and understand its errors only."""
    return _PLACES.fullmatch(path) is not None


def nothing_at(path: str) -> str:
    """Return what to tell a client of this protocol besides, that has asked at a path where there is nothing."""
    found = _PLACES.fullmatch(path)
    if found is not None and found[1] != _BASE:
        return f"; the base URL of OpenAI's clients ends in `{_BASE}`, once"
    return f"; of OpenAI's API there are {_BASE}/chat/completions and {_BASE}/models"


class OpenAI:
    """The routes of the protocol."""

    def __init__(
        self,
        service: Service,
        clock: Clock,
        naming: Naming,
        *,
        agent_id: str,
        session_header: str,
        max_body_bytes: int,
        max_chat_body_bytes: int,
        retry_after_s: float,
    ) -> None:
        self._service = service
        self._clock = clock
        self._naming = naming
        self._session_header = session_header
        self._agent_id = agent_id
        self._bodies = BodyReader(max_body_bytes=max_body_bytes, max_chat_body_bytes=max_chat_body_bytes)
        self._retry_after_s = retry_after_s
        self._model = Model(id=agent_id, created=int(clock.now()))

    async def models(self, request: Request) -> Response:
        """Return the agent as the one model that there is."""
        return wire.answer(Models(data=[self._model]))

    async def model(self, request: Request) -> Response:
        """Return the agent as a model."""
        if (asked := request.path_params["model"]) != self._agent_id:
            raise NotFound(f"there is no model {asked}; the agent is {self._agent_id}")
        return wire.answer(self._model)

    async def complete(self, request: Request) -> Response:
        """Accept a message, wait its turn and its answer, whole or piece by piece."""
        again = idempotency_key(request)
        received = await self._bodies.read(request, is_keyed=again is not None)
        body, sent = received.body, received.sent
        prompt = prompt_of(body, received.before)
        key = session_of(request, self._named(request, body))
        kept = {name: value for name, value in (body.metadata or {}).items() if name != "session_id"}
        ticket = await self._service.submit(wished(key, prompt, replace(body, metadata=kept), again, sent))
        interrupted(request, ticket)
        headers = dict(REPLAYED) if ticket.replayed else {}
        if body.stream:
            options = body.stream_options
            with_usage = options is not None and bool(options.include_usage)
            later = _goes_on(request, ticket, again=again is not None)
            return self._events(request, ticket, headers, with_usage=with_usage, later=later)
        end = await while_present(request, self._service, ticket.run_id, ticket.stream.waiter())
        if isinstance(end, Later):
            return self._later(request, ticket, is_keyed=again is not None)
        return self._answer(ticket, end, headers)

    def _named(self, request: Request, body: CompletionBody) -> str:
        header = self._session_header
        name = named_session(header, session_header(request.headers, header), body)
        return self._naming.named(name, f"in the header {header}, as `metadata.session_id` or as `user`")

    def _answer(self, ticket: Ticket, end: Outcome, headers: dict[str, str]) -> Response:
        answer = answer_of(end, ticket.run_id)
        if isinstance(answer, NoAnswer):
            return failure(answer.error, ENDED, headers | SEND_NO_MORE)
        said = Said(content=answer.content, reasoning_content=answer.reasoning)
        completion = Completion(
            id=ticket.run_id,
            created=int(self._clock.now()),
            model=self._agent_id,
            choices=[Choice(message=said, finish_reason=answer.finish_reason)],
            usage=tokens(end.usage),
            strandline=Extension(ticket.key.session_id, end.status, end.input_requests),
        )
        return wire.answer(completion, headers=headers)

    def _events(
        self, request: Request, ticket: Ticket, headers: dict[str, str], *, with_usage: bool, later: ErrorDetail
    ) -> Response:
        run_id = ticket.run_id
        chunks = Chunks(
            run_id,
            ticket.key.session_id,
            model=self._agent_id,
            created=int(self._clock.now()),
            with_usage=with_usage,
            waiting=Waiting(request.scope, ticket.key.session_id),
            later=later,
        )
        self._service.joined(run_id)
        return EventResponse(
            ticket.stream.subscribe(),
            chunks.of,
            lambda lost: self._service.left(run_id, lost=lost),
            headers,
            opening=chunks.opening(),
            closing=chunks.closing,
        )

    def _later(self, request: Request, ticket: Ticket, *, is_keyed: bool) -> Response:
        """Tell that a run goes on after a restart.

        Sent again under its key, the request gets the answer, which clients do by themselves if they are told to.
        Without a key it would be another run: then no status may say "again", and 202 is no error to any client.
        """
        error = _goes_on(request, ticket, again=is_keyed)
        headers = {
            "Location": _place(request, ticket),
            **wire.retry_after(self._retry_after_s),
        }
        if is_keyed:
            return failure(error, wire.UNAVAILABLE, headers | SEND_AGAIN)
        extension = Extension(ticket.key.session_id, RunStatus.QUEUED, [])
        told: dict[str, Any] = {
            "id": ticket.run_id,
            "object": "chat.completion",
            "created": int(self._clock.now()),
            "model": self._agent_id,
            "choices": [],
            "strandline": extension,
        }
        return wire.answer({**told, "error": ErrorBody(error).error}, wire.ACCEPTED, headers)


def named_session(header: str, value: str | None, body: CompletionBody) -> SessionId | None:
    """Return the session that a completion names. Raises `Invalid` for a name that no session can have."""
    places = {
        f"the header {header}": value,
        "`$.metadata.session_id`": (body.metadata or {}).get("session_id"),
        "`$.user`": body.user,
    }
    for place, name in places.items():
        if name is not None:
            try:
                return session_id(name if isinstance(name, str) else "")
            except Invalid as error:
                raise Invalid(f"{error} - at {place}") from None
    return None


def _goes_on(request: Request, ticket: Ticket, *, again: bool) -> ErrorDetail:
    text = f"the server stops; the run goes on after its restart, see {_place(request, ticket)}"
    return failed(text, "goes_on_later", ticket.run_id, again=again)


def _place(request: Request, ticket: Ticket) -> str:
    return wire.place(request.scope, f"/v1/runs/{ticket.run_id}")
