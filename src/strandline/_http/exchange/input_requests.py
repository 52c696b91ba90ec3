"""How to answer a session's input requests, for clients whose runs wait for the answer."""

from typing import Any, Final

from msgspec import Struct
from starlette.types import Scope

from strandline._engine.events import Event, RunPosition, RunQueued
from strandline._http import wire
from strandline._model import InputRequest, SessionId

_OF_WAITING: Final = (RunQueued, RunPosition)


class HowToAnswer(Struct, frozen=True):
    """The request that answers. Replace each null `response` in its body by the answer, any JSON but null."""

    method: str
    path: str
    body: dict[str, Any]


def open_requests(event: Event) -> list[InputRequest]:
    """Return the input requests that an event's run waits for."""
    return event.input_requests if isinstance(event, _OF_WAITING) else []


def how_to_answer(scope: Scope, session: SessionId, requests: list[InputRequest]) -> HowToAnswer:
    """Return how the client of a request answers the input requests of a session."""
    responses = [{"id": each.id, "response": None} for each in requests]
    path = wire.client_path(scope, f"/v1/sessions/{session}/runs")
    return HowToAnswer("POST", path, {"input": {"responses": responses}})
