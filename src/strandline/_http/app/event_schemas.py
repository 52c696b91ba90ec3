"""The OpenAPI schemas of events, generated from the records that are published.

OpenAPI 3.1 cannot describe one event of a stream (3.2 can, with `itemSchema`). Like most documents of 3.1, ours uses
`schema` for each event; its description says so.
"""

from collections.abc import Sequence
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from strandline._engine.events import RunEvent, RunPosition, RunQueued, SessionEvent, StreamGap
from strandline._engine.streams import NOT_IN_FEED
from strandline._http.exchange.input_requests import HowToAnswer

REFS: Final = "#/components/schemas/{name}"
OF_A_RUN: Final = "RunEvents"
OF_ALL: Final = "Changes"
RUN_EVENTS: Final[tuple[type[Struct], ...]] = get_args(RunEvent)
SESSION_EVENTS: Final[tuple[type[Struct], ...]] = get_args(SessionEvent)
ALL_EVENTS: Final = tuple(each for each in (*RUN_EVENTS, *SESSION_EVENTS) if each not in NOT_IN_FEED)

_AT: Final = {"type": "string", "format": "date-time", "description": "When it happened"}
_RUN_ID: Final = {"type": "string", "description": "The event's run"}
_SESSION_ID: Final = {"type": "string", "description": "The event's session; only in `/v1/events`"}
_ANSWER: Final = {
    "$ref": REFS.format(name=HowToAnswer.__name__),
    "description": "How to answer `input_requests`, if there are some",
}
_DESCRIBED: Final = (
    "One event of the stream, as `itemSchema` of OpenAPI 3.2 describes it. `data` is one line of JSON. An event"
    " without `id` cannot be resumed after. A comment is sent after 15 silent seconds."
)


def schemas() -> dict[str, Any]:
    """Return the components: one for each type of event, and their parts."""
    kinds = [*RUN_EVENTS, *SESSION_EVENTS, HowToAnswer]
    _, found = msgspec.json.schema_components(kinds, ref_template=REFS)
    for kind in (*RUN_EVENTS, *SESSION_EVENTS):
        _complete(found[kind.__name__], kind)
    found[OF_A_RUN] = {**_one_of(RUN_EVENTS), "required": ["run_id"], "description": "The data of an event of a run"}
    found[OF_ALL] = {**_one_of(ALL_EVENTS), "description": "The data of an event of `/v1/events`"}
    return found


def media_type(name: str) -> dict[str, Any]:
    """Return the media type of a stream of events; `name` is the schema of their data."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"$ref": REFS.format(name=name)}}
    return {
        "schema": {
            "description": _DESCRIBED,
            "type": "object",
            "required": ["event", "data"],
            "properties": {
                "id": {
                    "type": "string",
                    "pattern": "^[0-9]+$" if name == OF_A_RUN else r"^[0-9]+(\.[0-9]+)*$",
                    "description": "Its number, for `Last-Event-ID`",
                },
                "event": {"type": "string", "description": "Its type"},
                "data": data,
            },
        }
    }


def stream_of(what: str) -> dict[str, Any]:
    """Return the media type of another protocol's stream, whose events have only data."""
    return {"schema": {"description": what, "type": "object", "properties": {"data": {"type": "string"}}}}


def _complete(schema: dict[str, Any], kind: type[Struct]) -> None:
    """Add the fields that the wire format adds to a record."""
    schema["properties"]["at"] = _AT
    schema["required"] = [*schema["required"], "at"]
    if kind in (RunQueued, RunPosition):
        schema["properties"]["answer"] = _ANSWER
    if kind in RUN_EVENTS:
        schema["properties"]["run_id"] = _RUN_ID
    if kind is StreamGap:  # in `/v1/events` it belongs to no session
        return
    if kind in ALL_EVENTS:
        schema["properties"]["session_id"] = _SESSION_ID
    if kind in RUN_EVENTS:
        schema["required"].append("run_id")
    if kind in SESSION_EVENTS:
        schema["required"].append("session_id")


def _one_of(kinds: Sequence[type[Struct]]) -> dict[str, Any]:
    named = {str(kind.__struct_config__.tag): REFS.format(name=kind.__name__) for kind in kinds}
    return {
        "oneOf": [{"$ref": each} for each in named.values()],
        "discriminator": {"propertyName": "type", "mapping": named},
    }
