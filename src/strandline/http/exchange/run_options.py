"""What a request may ask for besides its message: how urgent it is, how long it may take and wait."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from strandline.model import IfBusy, OnDisconnect, OnQuestion

OF_AGENTCORE: Final = "agentcore"
"""The key of metadata under which stands what AgentCore Runtime says of a request."""


Priority = Annotated[int, Meta(ge=1, le=5)] | Annotated[float, Meta(ge=1, le=5, multiple_of=1)]
"""A whole number, in every form in which JSON may have it: `2`, `2.0`, `2e0`. `whole_number` makes an int of it."""


class RunOptions(Struct, frozen=True, kw_only=True):
    """The part of a body that all routes have in common which ask for a run. Null is as good as left out."""

    if_busy: Annotated[
        IfBusy | None,
        Meta(
            description="What becomes of the run, or of others, if the session has runs that wait or execute; it waits"
            " by default (`enqueue`)"
        ),
    ] = None
    on_question: Annotated[
        OnQuestion | None,
        Meta(
            description="What the run does if the session waits for a person's answer: it waits for that too (`wait`),"
            " is the answer, if it is a text and exactly one input request is open (`answer`), or ends the question"
            " (`dismiss`); the setting `on_question` by default"
        ),
    ] = None
    priority: Annotated[Priority | None, Meta(description="Place in the queue, 1 first")] = None
    timeout: Annotated[float | None, Meta(description="Seconds that the run may take")] = None
    queue_timeout: Annotated[float | None, Meta(description="Seconds that the run may wait for its turn")] = None
    on_disconnect: Annotated[
        OnDisconnect | None, Meta(description="What becomes of the run if its clients are lost")
    ] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="Kept with the run, and handed to its tools")] = None


class Response(Struct, frozen=True):
    """The answer to one input request."""

    id: Annotated[str, Meta(description="The `id` of the input request")]
    response: Annotated[Any, Meta(description="Whatever the tool that asks makes something of; not null")]


class Responses(Struct, frozen=True):
    """In place of a text: the answers to all input requests that are open in the session."""

    responses: list[Response]


def whole_number(given: float | None) -> int | None:
    """Return a number that was checked to be whole as an int."""
    return None if given is None else int(given)


def kept_with(metadata: dict[str, Any], told: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a run: the client's own, and what AgentCore tells, which no client can make up."""
    if not told and OF_AGENTCORE not in metadata:
        return metadata
    own = {name: value for name, value in metadata.items() if name != OF_AGENTCORE}
    return {**own, OF_AGENTCORE: dict(told)} if told else own
