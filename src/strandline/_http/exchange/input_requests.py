"""How a session's input requests are answered: told to those whose runs wait until they are."""

from typing import Any, Final

from msgspec import Struct
from starlette.types import Scope

from strandline._engine.events import Event, RunPosition, RunQueued
from strandline._http import wire
from strandline._model import InputRequest, SessionId

_OF_WAITING: Final = (RunQueued, RunPosition)


class HowToAnswer(Struct, frozen=True):
    """The request that answers; each `response` in its body is null, to be filled in: any JSON that is not."""

    method: str
    path: str
    body: dict[str, Any]


def open_requests(event: Event) -> list[InputRequest]:
    """Return what has to be answered before the run of an event can start."""
    return event.input_requests if isinstance(event, _OF_WAITING) else []


def how_to_answer(scope: Scope, session: SessionId, requests: list[InputRequest]) -> HowToAnswer:
    """Return how the client of a request answers what a session asks."""
    responses = [{"id": each.id, "response": None} for each in requests]
    path = wire.place(scope, f"/v1/sessions/{session}/runs")
    return HowToAnswer("POST", path, {"input": {"responses": responses}})
