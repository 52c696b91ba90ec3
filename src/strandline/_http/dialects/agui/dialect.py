"""AG-UI: `POST /agui`, on the same queues as `/chat`.

A thread is a session and its `runId` an idempotency key. The server stores the conversation: of the messages that a
client sends, only the user's last one is used. The others are compared with it if the header `X-Client-History` or the
setting `client_history` says so. The answer is always a stream.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import encode
from strandline._engine.requests import ListedMessages as Listed
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.caller import session_of
from strandline._http.dialects.agui.stream import AgUiEvents
from strandline._http.dialects.agui.transcript import ListedMessages, is_said_by
from strandline._http.dialects.agui.wire import (
    READS,
    RunAgentInput,
    client_options_of,
    key_of,
    last_said,
    options_of,
    prompt_of,
)
from strandline._http.dialects.client_history import Earlier, client_history, went_back
from strandline._http.exchange.exchange import Accepted, Dialect, Frames
from strandline._http.exchange.run_request import Responses, RunRequest
from strandline._model import Outcome, RunId, SessionKey
from strandline._settings import AppSettings
from strandline.errors import Invalid, InvariantBroken

PLACE: Final = "/agui"


class _Request(RunRequest, frozen=True, kw_only=True):
    """A request with the protocol's own fields."""

    read: RunAgentInput
    sent: bytes


class AgUi(Dialect):
    """The dialect of `POST /agui`."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        self._service = service
        self._settings = settings
        self._decode = msgspec.json.Decoder(RunAgentInput).decode

    async def parse(self, request: Request) -> RunRequest:
        """Read the user's last message, or answers to input requests, as which results of tools count."""
        body, sent = await wire.read_json(request, self._settings.max_body_bytes, self._decode, READS)
        prompt = prompt_of(body)
        try:
            key = session_of(request, body.thread_id)
        except Invalid as error:
            raise Invalid(f"{error} - at `$.threadId`") from None
        return _Request(
            key=key,
            listed=None if isinstance(prompt, Responses) else self._listed(request, body),
            client=client_options_of(body),
            input=prompt,
            options=options_of(body),
            body=_counting(body, prompt),
            key_in_body=key_of(body, prompt),
            as_events=True,
            read=body,
            sent=sent,
        )

    async def _shown_state(self, key: SessionKey) -> dict[str, Any]:
        """Return what clients get of the state of a session's agent."""
        state = await self._service.agent_state(key)
        return {name: state[name] for name in self._settings.agui_state if name in state}

    def _listed(self, request: Request, body: RunAgentInput) -> Listed | None:
        """Return what a client lists of the conversation before its message, if that counts."""
        how = client_history(request, self._settings.client_history)
        said = last_said(body.messages)
        if how == "ignore" or said is None or options_of(body).after is not UNSET:
            return None
        earlier = Earlier()
        for message in body.messages[: said + 1]:
            earlier.add(message.role, message.content if isinstance(message.content, str | list) else None)
        return Listed(earlier.texts, earlier.is_cut, how)

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Never called: all answers are streams."""
        raise InvariantBroken("AG-UI answers with streams only")

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return the events of a run as AG-UI's."""
        body = run.run_request
        assert isinstance(body, _Request)
        ours = run.ticket.run_id
        has_some = any(is_said_by(ours, each.id) for each in body.read.messages)
        frames = AgUiEvents(
            ours,
            run.ticket.key.session_id,
            thread_id=body.read.thread_id,
            run_id=body.read.run_id,
            parent_run_id=body.read.parent_run_id,
            listed=ListedMessages(body.sent, ours, has_some, _results_listed(body.read, ours)),
            answers=isinstance(body.input, Responses),
            tools=frozenset(each.name for each in body.read.tools or ()),
            went_back=went_back(run.ticket),
            state=partial(self._shown_state, run.ticket.key) if self._settings.agui_state else None,
            later=f"the server is stopping; the run continues after its restart, see {run.location}",
        )
        return frames, {"Location": run.location, **run.replayed}


def _counting(body: RunAgentInput, prompt: object) -> bytes:
    """Return what of a request counts: one that is repeated may list what its client has got meanwhile."""
    said = last_said(body.messages)
    given: object = None if said is None else body.messages[said].content
    if isinstance(prompt, Responses):
        given = body.resume or [(each.id, each.response) for each in prompt.responses]
    return encode([body.thread_id, given, options_of(body)])


def _results_listed(body: RunAgentInput, ours: RunId) -> frozenset[str]:
    """Return the calls whose results the client has before the run, of the round that it answers."""
    found: set[str] = set()
    for message in reversed(body.messages):
        if is_said_by(ours, message.id):
            continue
        if message.role == "assistant":
            break
        if message.role == "tool" and message.tool_call_id:
            found.add(message.tool_call_id)
    return frozenset(found)
