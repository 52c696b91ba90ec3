"""The one record that every dialect reads a request into: the run that its client asks for, and how it is answered."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from strandline._engine.requests import Request
from strandline._http.exchange.idempotency import fingerprint
from strandline._model import IfBusy, Input, OnDisconnect, OnQuestion, SessionKey
from strandline.errors import Invalid

UNTIL_IT_ENDS: Final = math.inf
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


class RunRequest(Struct, frozen=True, kw_only=True):
    """A run that a client asks for. `options` are those that every dialect has in common."""

    key: SessionKey
    input: Input | Responses
    options: RunOptions
    body: bytes
    """What was sent, as JSON, or what stands for it: the same for a request that is sent again."""
    runtime: Mapping[str, str] = {}
    """What AgentCore Runtime says of the request."""
    as_events: bool = False
    """Whether the answer is a stream of the run's events, else it is one answer."""
    after: int = 0
    """The event after which a client goes on that comes back to a stream."""
    wait_s: float | None = UNTIL_IT_ENDS
    """How long the one answer waits for the run's end; None: not at all."""

    def for_service(self, idempotency_key: str | None) -> Request:
        """Return what the service is asked. Raises `Invalid`."""
        answers: dict[str, Any] | None = None
        prompt = self.input
        if isinstance(prompt, Responses):
            answers = {each.id: each.response for each in prompt.responses}
            if len(answers) < len(prompt.responses):
                raise Invalid("responses must answer each input request once")
            prompt = ""
        options = self.options
        return Request(
            key=self.key,
            input=prompt,
            answers=answers,
            if_busy=options.if_busy or IfBusy.ENQUEUE,
            on_question=options.on_question,
            priority=whole_number(options.priority),
            timeout_s=options.timeout,
            queue_timeout_s=options.queue_timeout,
            on_disconnect=options.on_disconnect,
            metadata=kept_with(options.metadata or {}, self.runtime),
            idempotency_key=idempotency_key,
            fingerprint=b"" if idempotency_key is None else fingerprint(self.body),
        )


def whole_number(given: float | None) -> int | None:
    """Return a number that was checked to be whole as an int."""
    return None if given is None else int(given)


def kept_with(metadata: dict[str, Any], runtime: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a run: the client's own, and what AgentCore tells, which no client can make up."""
    if not runtime and OF_AGENTCORE not in metadata:
        return metadata
    own = {name: value for name, value in metadata.items() if name != OF_AGENTCORE}
    return {**own, OF_AGENTCORE: dict(runtime)} if runtime else own
