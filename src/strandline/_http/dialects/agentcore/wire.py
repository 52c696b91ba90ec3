"""AgentCore Runtime's HTTP contract on the wire: what is read, what is answered, and the form of errors. Values only.

Source: the developer guide of AgentCore, "HTTP protocol contract", and what `BedrockAgentCoreApp` (bedrock-agentcore
1.25) answers. What is in a body is there each agent's own affair; `prompt` and `result` are what its examples use.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.datastructures import Headers
from starlette.responses import Response

from strandline._encoding import encode
from strandline._http import wire
from strandline._http.caller import session_header
from strandline._http.exchange.run_request import Response as Answered
from strandline._http.exchange.run_request import Responses, RunOptions
from strandline._http.exchange.session_naming import SessionNaming
from strandline._model import (
    InputRequest,
    RunId,
    RunStatus,
    SessionId,
    session_id,
)
from strandline.errors import Invalid

SESSION: Final = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
REQUEST_ID: Final = "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id"
RUNTIME_HEADERS: Final = {
    "request_id": REQUEST_ID,
    "trace_id": "X-Amzn-Trace-Id",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
    "baggage": "baggage",
}
"""Headers that are kept with the run, each under its name in the run's metadata."""
LONGEST: Final = 512
"""Characters of a header that is kept: what is longer is left out, since metadata is shown in lists."""
READS: Final = "The body is an object with `prompt`, a string"


# -- what is read -------------------------------------------------------------------------------------


class Invocation(RunOptions, frozen=True, kw_only=True):
    """What an invocation reads; further keys are ignored."""

    prompt: Annotated[str | None, Meta(description="What the agent is asked", examples=["Hello"])] = None
    message: Annotated[str | None, Meta(description="The same, if there is no `prompt`")] = None
    input: Annotated[str | None, Meta(description="The same, if there is neither")] = None
    responses: Annotated[
        list[Answered] | None, Meta(description="In place of all of them: answers to input requests")
    ] = None


def prompt_of(body: Invocation) -> str | Responses:
    """Return what the agent is asked, or the answers that stand in its place. Raises `Invalid`."""
    prompt = next((text for text in (body.prompt, body.message, body.input) if text is not None), None)
    if body.responses is not None:
        if prompt is not None:
            raise Invalid("prompt and responses do not go together: answer first, then ask what you like")
        return Responses(body.responses)
    if prompt is None:
        raise Invalid(f"Object missing required field `prompt`. {READS}")
    return prompt


def named_session(headers: Headers, naming: SessionNaming) -> SessionId:
    """Return the session of an invocation. Raises `Invalid` for a name that no session can have, and for two."""
    name = naming.named(session_header(headers, SESSION), f"in the header {SESSION}")
    try:
        return session_id(name)
    except Invalid as error:
        raise Invalid(f"{error} - in the header {SESSION}") from None


def runtime_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what AgentCore tells of a request, for the metadata of its run."""
    found = {name: headers.get(header, "") for name, header in RUNTIME_HEADERS.items()}
    return {name: value for name, value in found.items() if 0 < len(value) <= LONGEST}


# -- what is answered ---------------------------------------------------------------------------------


class InvocationAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer. `status` is `succeeded`, `needs_input`, or `queued` if the run goes on after a restart."""

    result: str
    run_id: RunId
    session_id: SessionId
    status: RunStatus
    input_requests: list[InputRequest] = []


class InputNeeded(Struct, frozen=True, kw_only=True):
    """The last event of a stream whose run waits for a person."""

    run_id: RunId
    session_id: SessionId
    status: RunStatus
    input_requests: list[InputRequest]


class InvocationFailure(Struct, frozen=True, kw_only=True):
    """Why there is no answer: `error` is a stable code, `details` says more. With `run_id` if a run was accepted."""

    error: str
    details: str
    run_id: RunId | UnsetType = UNSET
    session_id: SessionId | UnsetType = UNSET
    status: RunStatus | UnsetType = UNSET
    position: int | UnsetType = UNSET
    """Where the run would have stood, if a queue was full."""
    estimated_wait_s: float | UnsetType | None = UNSET


class StreamFailure(Struct, frozen=True, kw_only=True):
    """The same as the last event of a stream, by the names that it has there: `error` is the text."""

    error: str
    error_type: str
    message: str
    run_id: RunId
    session_id: SessionId
    status: RunStatus


class PingBody(Struct, frozen=True):
    """Whether anything runs or waits, and since when that is so, in seconds since the epoch."""

    status: Literal["Healthy", "HealthyBusy"]
    time_of_last_update: int


# -- errors -------------------------------------------------------------------------------------------


def refusal(problem: Response) -> Response:
    """Return a problem document in the form of this contract."""
    ours = msgspec.json.decode(problem.body, type=wire.Problem)
    failure = InvocationFailure(
        error=ours.code, details=ours.detail, position=ours.position, estimated_wait_s=ours.estimated_wait_s
    )
    return failed(failure, wire.without_422(ours.status), wire.headers_beside(problem))


def failed(failure: InvocationFailure, status: int, headers: Mapping[str, str]) -> Response:
    """Return an error as a response."""
    return Response(encode(failure) + b"\n", status, headers, media_type="application/json")
