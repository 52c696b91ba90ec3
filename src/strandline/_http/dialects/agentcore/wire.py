"""AgentCore Runtime's HTTP contract on the wire: requests, answers and errors. Values only.

Source: the developer guide of AgentCore, "HTTP protocol contract", and `BedrockAgentCoreApp` (bedrock-agentcore 1.25).
AgentCore leaves the content of bodies to each agent; `prompt` and `result` are the names in its examples.
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
"""Headers that are stored with the run, by their names in its metadata."""
LONGEST: Final = 512
"""Maximum length of a stored header in characters; longer ones are dropped, since lists show metadata."""
READS: Final = "The body is an object with `prompt`, a string"


# -- requests -----------------------------------------------------------------------------------------


class Invocation(RunOptions, frozen=True, kw_only=True):
    """An invocation; other keys are ignored."""

    prompt: Annotated[str | None, Meta(description="The prompt for the agent", examples=["Hello"])] = None
    message: Annotated[str | None, Meta(description="The prompt, if there is no `prompt`")] = None
    input: Annotated[str | None, Meta(description="The prompt, if there is neither")] = None
    responses: Annotated[list[Answered] | None, Meta(description="Answers to input requests, instead of a prompt")] = (
        None
    )


def prompt_of(body: Invocation) -> str | Responses:
    """Return the prompt, or the answers. Raises `Invalid` unless exactly one of them is given."""
    prompt = next((text for text in (body.prompt, body.message, body.input) if text is not None), None)
    if body.responses is not None:
        if prompt is not None:
            raise Invalid("prompt and responses do not go together: answer first, then send a prompt")
        return Responses(body.responses)
    if prompt is None:
        raise Invalid(f"Object missing required field `prompt`. {READS}")
    return prompt


def named_session(headers: Headers, naming: SessionNaming) -> SessionId:
    """Return the session of an invocation. Raises `Invalid` for an invalid name or two names."""
    name = naming.named(session_header(headers, SESSION), f"in the header {SESSION}")
    try:
        return session_id(name)
    except Invalid as error:
        raise Invalid(f"{error} - in the header {SESSION}") from None


def runtime_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """Return AgentCore's headers for the metadata of a run."""
    found = {name: headers.get(header, "") for name, header in RUNTIME_HEADERS.items()}
    return {name: value for name, value in found.items() if 0 < len(value) <= LONGEST}


# -- answers ------------------------------------------------------------------------------------------


class InvocationAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer. `status` is `succeeded`, `needs_input`, or `queued` if the run continues after a restart."""

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
    """Why there is no answer: `error` is a stable code, `details` the text. Has `run_id` if a run was accepted."""

    error: str
    details: str
    run_id: RunId | UnsetType = UNSET
    session_id: SessionId | UnsetType = UNSET
    status: RunStatus | UnsetType = UNSET
    position: int | UnsetType = UNSET
    """The place that the run would have had, if a queue was full."""
    estimated_wait_s: float | UnsetType | None = UNSET


class StreamFailure(Struct, frozen=True, kw_only=True):
    """The same as the last event of a stream, which has other field names: `error` is the text."""

    error: str
    error_type: str
    message: str
    run_id: RunId
    session_id: SessionId
    status: RunStatus


class PingBody(Struct, frozen=True):
    """Whether any run executes or waits, and since when, in seconds since the epoch."""

    status: Literal["Healthy", "HealthyBusy"]
    time_of_last_update: int


# -- errors -------------------------------------------------------------------------------------------


def refusal(problem: Response) -> Response:
    """Return a problem document in the format of this contract."""
    ours = msgspec.json.decode(problem.body, type=wire.Problem)
    failure = InvocationFailure(
        error=ours.code, details=ours.detail, position=ours.position, estimated_wait_s=ours.estimated_wait_s
    )
    return failed(failure, wire.without_422(ours.status), wire.headers_beside(problem))


def failed(failure: InvocationFailure, status: int, headers: Mapping[str, str]) -> Response:
    """Return an error as a response."""
    return Response(encode(failure) + b"\n", status, headers, media_type="application/json")
