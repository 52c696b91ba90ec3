"""OpenAI's chat completions: `POST /v1/chat/completions` and `GET /v1/models`, on the same queues as `/chat`.

The server stores the conversation: of the messages that a client sends, only the last is used. The others are compared
with it if the header `X-Client-History` or the setting `client_history` says so. The session is named by
a header (`X-Session-Id`, setting `session_header`), else by `metadata.session_id`, else by `user`. A request without
one is refused, because programs of this protocol know no sessions, and all their users would share one.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from strandline._clock import Clock
from strandline._engine.requests import ListedMessages
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.caller import session_header, session_of
from strandline._http.dialects.client_history import client_history, went_back
from strandline._http.dialects.openai.answer import NoAnswer, answer_of
from strandline._http.dialects.openai.body import BodyReader
from strandline._http.dialects.openai.results import implied_key
from strandline._http.dialects.openai.stream import Chunks
from strandline._http.dialects.openai.wire import (
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
    client_options_of,
    failed,
    failure,
    prompt_of,
    tokens,
)
from strandline._http.dialects.waiting import Waiting
from strandline._http.exchange.exchange import Accepted, Dialect, Frames
from strandline._http.exchange.run_request import Responses, RunRequest
from strandline._http.exchange.session_naming import SessionNaming
from strandline._model import Outcome, RunStatus, SessionId, session_id
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotFound

_ROUTES: Final = (
    "assistants|audio|batches|completions|containers|conversations|embeddings|evals|files|fine_tuning|images|models|"
    "moderations|realtime|responses|threads|uploads|vector_stores|videos"
)
"""The first segments of OpenAI's paths. Most do not exist here; their 404 has OpenAI's format too."""
_BASE: Final = "/v1"
_PLACES: Final = re.compile(rf"((?:{_BASE})*)/(?:chat/completions|{_ROUTES})(?:/.*)?", re.DOTALL)


def is_spoken_at(path: str) -> bool:
    """Return whether a path belongs to this protocol, so that its errors need this protocol's format."""
    return _PLACES.fullmatch(path) is not None


def nothing_at(path: str) -> str:
    """Return a hint for a path of this protocol that does not exist."""
    found = _PLACES.fullmatch(path)
    if found is not None and found[1] != _BASE:
        return f"; the base URL of an OpenAI client must end in `{_BASE}`, once"
    return (
        f"; of OpenAI's API this server has {_BASE}/responses, {_BASE}/conversations, {_BASE}/chat/completions and"
        f" {_BASE}/models"
    )


class OpenAI(Dialect):
    """The dialect of chat completions, and the routes of models."""

    def __init__(self, clock: Clock, naming: SessionNaming, settings: AppSettings) -> None:
        self._clock = clock
        self._naming = naming
        self._settings = settings
        self._bodies = BodyReader(max_body_bytes=settings.max_body_bytes, max_chat_body_bytes=settings.chat_body_bytes)
        self._model = Model(id=settings.agent_id, created=int(clock.now()))

    async def models(self, request: Request) -> Response:
        """Return the agent as the only model."""
        return wire.answer(Models(data=[self._model]))

    async def model(self, request: Request) -> Response:
        """Return the agent as a model."""
        if (model := request.path_params["model"]) != self._model.id:
            raise NotFound(f"there is no model {model}; the agent is {self._model.id}")
        return wire.answer(self._model)

    async def parse(self, request: Request) -> RunRequest:
        """Read the last message of a conversation, or answers to input requests, as which results of tools count."""
        how = client_history(request, self._settings.client_history)
        received = await self._bodies.read(request, lists=how != "ignore")
        body = received.body
        listed: ListedMessages | None = None
        prompt = prompt_of(body, received.before)
        if how != "ignore" and not isinstance(prompt, Responses) and body.after is UNSET:
            listed = ListedMessages(received.earlier, received.is_cut, how)
        metadata = {name: value for name, value in (body.metadata or {}).items() if name != "session_id"}
        return RunRequest(
            input=prompt,
            key=session_of(request, self._named(request, body)),
            options=replace(body, metadata=metadata),
            body=received.sent,
            as_events=bool(body.stream),
            listed=listed,
            client=client_options_of(body),
            key_in_body=implied_key(prompt, received.sent) if body.responses is None else None,
        )

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return a completion or an error."""
        if isinstance(end, Later):
            return self._later(run)
        answer = answer_of(end, run.ticket.run_id)
        if isinstance(answer, NoAnswer):
            return failure(answer.error, answer.status, {**run.replayed, **SEND_NO_MORE})
        # (What a model says before it calls a tool is not of the form that the client reads.)
        content = answer.question if answer.calls and _wants_form(run) else answer.content
        said = Said(
            content=content or (None if answer.calls else ""),
            reasoning_content=answer.reasoning,
            tool_calls=answer.calls or UNSET,
        )
        completion = Completion(
            id=run.ticket.run_id,
            created=int(self._clock.now()),
            model=self._model.id,
            choices=[Choice(message=said, finish_reason=answer.finish_reason)],
            usage=tokens(end.usage),
            strandline=Extension(run.ticket.key.session_id, end.status, end.input_requests, **went_back(run.ticket)),
        )
        return wire.answer(completion, headers=run.replayed)

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return the events of a run as chunks."""
        body = run.run_request.options
        assert isinstance(body, CompletionBody)
        chunks = Chunks(
            run.ticket.run_id,
            run.ticket.key.session_id,
            model=self._model.id,
            created=int(self._clock.now()),
            with_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
            waiting=Waiting(run.request.scope, run.ticket.key.session_id),
            later=_continues(run),
            went_back=went_back(run.ticket),
            as_whole=_wants_form(run),
        )
        return chunks, run.replayed

    def _named(self, request: Request, body: CompletionBody) -> str:
        header = self._settings.session_header
        name = named_session(header, session_header(request.headers, header), body)
        return self._naming.named(name, f"in the header {header}, as `metadata.session_id` or as `user`")

    def _later(self, run: Accepted) -> Response:
        """Return the answer for a run that continues after a restart.

        With a key, a retry gets the run's answer, so a 503 makes clients retry. Without one, a retry would be another
        run, so the status is 202, which no client retries.
        """
        error = _continues(run)
        headers = run.come_back(self._settings.retry_after_s)
        if run.keyed:
            return failure(error, wire.UNAVAILABLE, headers | SEND_AGAIN)
        body: dict[str, Any] = {
            "id": run.ticket.run_id,
            "object": "chat.completion",
            "created": int(self._clock.now()),
            "model": self._model.id,
            "choices": [],
            "strandline": Extension(run.ticket.key.session_id, RunStatus.QUEUED, [], **went_back(run.ticket)),
        }
        return wire.answer({**body, "error": ErrorBody(error).error}, wire.ACCEPTED, headers)


def _wants_form(run: Accepted) -> bool:
    client = run.run_request.client
    return client is not None and client.format is not None


def named_session(header: str, value: str | None, body: CompletionBody) -> SessionId | None:
    """Return the session that a completion names. Raises `Invalid` for an invalid name."""
    sources = {
        f"the header {header}": value,
        "`$.metadata.session_id`": (body.metadata or {}).get("session_id"),
        "`$.user`": body.user,
    }
    for source, name in sources.items():
        if name is not None:
            try:
                return session_id(name if isinstance(name, str) else "")
            except Invalid as error:
                raise Invalid(f"{error} - at {source}") from None
    return None


def _continues(run: Accepted) -> ErrorDetail:
    text = f"the server is stopping; the run continues after its restart, see {run.location}"
    return failed(text, "goes_on_later", run.ticket.run_id, again=run.keyed)
