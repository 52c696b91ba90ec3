"""A2A on the wire: JSON-RPC requests, tasks, and errors, in versions 0.3 and 1.0. Values only.

Source: the packages `a2a-sdk` 0.3.26 (JSON Schema of 0.3) and 1.3.0 (protobuf of 1.0, as ProtoJSON). The versions
differ in names of methods, states and roles; 0.3 has `kind` in each object, 1.0 an object around it in its place.
`strandline`, in `metadata`, is our own extension.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import encode
from strandline._http import wire
from strandline._model import InputRequest, RunId, RunStatus
from strandline.errors import (
    AlreadyAnswered,
    AlreadyEnded,
    Dismissed,
    Invalid,
    KeyReused,
    NotFound,
    StrandlineError,
)

READS: Final = 'The body is a JSON-RPC request: `{"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {...}}`'
VERSION: Final = "a2a-version"
"""The header with the version that a client speaks; without it, its method says so."""

State = Literal["submitted", "working", "input-required", "completed", "canceled", "failed"]


# -- requests -----------------------------------------------------------------------------------------


class RpcRequest(Struct, frozen=True, kw_only=True):
    """A request of JSON-RPC 2.0."""

    jsonrpc: Literal["2.0"]
    method: Annotated[str, Meta(description="Such as `SendMessage` (1.0) or `message/send` (0.3)")]
    id: Annotated[str | int | float | None, Meta(description="Repeated in the response")] = None
    params: Annotated[dict[str, Any] | None, Meta(description="What the method takes")] = None


class SentMessage(Struct, frozen=True, rename="camel", kw_only=True):
    """A message of the client's. Other keys are ignored."""

    message_id: str
    parts: list[dict[str, Any]]
    role: str = "user"
    context_id: str | None = None
    task_id: str | None = None
    metadata: dict[str, Any] | None = None


class Configuration(Struct, frozen=True, rename="camel", kw_only=True):
    """How a message is to be answered. `blocking` is of 0.3, `return_immediately` of 1.0."""

    blocking: bool | None = None
    return_immediately: bool | None = None
    history_length: Annotated[int, Meta(ge=0)] | None = None
    push_notification_config: dict[str, Any] | None = None
    task_push_notification_config: dict[str, Any] | None = None


class SendParams(Struct, frozen=True, kw_only=True):
    """What `SendMessage` and `SendStreamingMessage` take."""

    message: SentMessage
    configuration: Configuration | None = None
    metadata: dict[str, Any] | None = None


class TaskParams(Struct, frozen=True, rename="camel", kw_only=True):
    """What the methods about one task take."""

    id: str
    history_length: Annotated[int, Meta(ge=0)] | None = None


# -- values -------------------------------------------------------------------------------------------


class Part(Struct, frozen=True):
    """A part of a message: text, or data."""

    kind: Literal["text", "data"] | UnsetType = UNSET
    text: str | UnsetType = UNSET
    data: Any = UNSET


class Message(Struct, frozen=True, rename="camel", kw_only=True):
    """A message of a task."""

    kind: Literal["message"] | UnsetType = UNSET
    role: str
    parts: list[Part]
    message_id: str
    context_id: str
    task_id: str


class Status(Struct, frozen=True):
    """Where a task stands."""

    state: str
    message: Message | UnsetType = UNSET
    timestamp: wire.Timestamp | UnsetType = UNSET


class Artifact(Struct, frozen=True, rename="camel"):
    """What a run of the task has said last."""

    artifact_id: str
    name: str
    parts: list[Part]


class Metadata(Struct, frozen=True, omit_defaults=True):
    """What a client cannot know otherwise: the run that the task has come to, for the run API."""

    run_id: RunId
    position: int | UnsetType = UNSET
    """The place in the queue, 1 for the next to start."""
    estimated_wait_s: float | UnsetType | None = UNSET
    code: str | UnsetType = UNSET
    """Why there is no answer."""
    usage: dict[str, int] | UnsetType = UNSET


class Task(Struct, frozen=True, rename="camel", kw_only=True):
    """A run, and those that answer its questions."""

    kind: Literal["task"] | UnsetType = UNSET
    id: RunId
    context_id: str
    status: Status
    artifacts: list[Artifact] | UnsetType = UNSET
    history: list[Message] | UnsetType = UNSET
    metadata: dict[str, Metadata]


class StatusUpdate(Struct, frozen=True, rename="camel", kw_only=True):
    """A task stands elsewhere. `final`, of 0.3: the stream ends with this."""

    kind: Literal["status-update"] | UnsetType = UNSET
    task_id: RunId
    context_id: str
    status: Status
    final: bool | UnsetType = UNSET
    metadata: dict[str, Metadata]


class ArtifactUpdate(Struct, frozen=True, rename="camel", kw_only=True):
    """A piece of what a run says, added to the artifact, or in place of it unless `append`."""

    kind: Literal["artifact-update"] | UnsetType = UNSET
    task_id: RunId
    context_id: str
    artifact: Artifact
    append: bool


class Version(Struct, frozen=True, kw_only=True):
    """How one version writes what both have."""

    number: str
    has_kinds: bool

    def state(self, state: State) -> str:
        """Return a state of a task."""
        return state if self.has_kinds else f"TASK_STATE_{state.upper().replace('-', '_')}"

    def role(self, role: Literal["user", "agent"]) -> str:
        """Return who has said a message."""
        return role if self.has_kinds else f"ROLE_{role.upper()}"

    def text(self, text: str) -> Part:
        """Return a part of text."""
        return Part("text" if self.has_kinds else UNSET, text)

    def data(self, data: Any) -> Part:
        """Return a part of data."""
        return Part("data" if self.has_kinds else UNSET, data=data)

    def sent(
        self, name: Literal["task", "statusUpdate", "artifactUpdate"], value: Task | StatusUpdate | ArtifactUpdate
    ) -> object:
        """Return an object where it may be one of several kinds."""
        return value if self.has_kinds else {name: value}


V0_3: Final = Version(number="0.3", has_kinds=True)
V1_0: Final = Version(number="1.0", has_kinds=False)


def state_of(status: RunStatus, *, dismissed: bool = False) -> State:
    """Return the state of a task whose last run has a status; `dismissed`: its question is."""
    match status:
        case RunStatus.QUEUED:
            return "submitted"
        case RunStatus.RUNNING:
            return "working"
        case RunStatus.SUCCEEDED:
            return "completed"
        case RunStatus.FAILED:
            return "failed"
        case RunStatus.CANCELLED:
            return "canceled"
    return "canceled" if dismissed else "input-required"


def about_requests(requests: list[InputRequest]) -> dict[str, Any]:
    """Return the questions of a run as data."""
    return {"input_requests": requests}


# -- errors -------------------------------------------------------------------------------------------

Reason = Literal[
    "PARSE_ERROR",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "INVALID_PARAMS",
    "REFUSED",
    "TASK_NOT_FOUND",
    "TASK_NOT_CANCELABLE",
    "PUSH_NOTIFICATION_NOT_SUPPORTED",
    "UNSUPPORTED_OPERATION",
    "CONTENT_TYPE_NOT_SUPPORTED",
    "EXTENDED_AGENT_CARD_NOT_CONFIGURED",
    "VERSION_NOT_SUPPORTED",
]
CODES: Final[Mapping[Reason, int]] = {
    "PARSE_ERROR": -32700,
    "INVALID_REQUEST": -32600,
    "METHOD_NOT_FOUND": -32601,
    "INVALID_PARAMS": -32602,
    "REFUSED": -32000,
    "TASK_NOT_FOUND": -32001,
    "TASK_NOT_CANCELABLE": -32002,
    "PUSH_NOTIFICATION_NOT_SUPPORTED": -32003,
    "UNSUPPORTED_OPERATION": -32004,
    "CONTENT_TYPE_NOT_SUPPORTED": -32005,
    "EXTENDED_AGENT_CARD_NOT_CONFIGURED": -32007,
    "VERSION_NOT_SUPPORTED": -32009,
}
"""The codes of both versions; `REFUSED`, which is ours, is for what no code of theirs says, such as a full queue."""
_REASONS: Final[tuple[tuple[type[StrandlineError], Reason], ...]] = (
    (NotFound, "TASK_NOT_FOUND"),
    (AlreadyEnded, "TASK_NOT_CANCELABLE"),
    (AlreadyAnswered, "UNSUPPORTED_OPERATION"),
    (Dismissed, "UNSUPPORTED_OPERATION"),
    (Invalid, "INVALID_PARAMS"),
    (KeyReused, "INVALID_PARAMS"),
)
_DOMAIN: Final = "a2a-protocol.org"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"


class Fault(Exception):
    """An error that only this protocol has; its text is for the client."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class RpcError(Struct, frozen=True):
    """Why a request has no result. `data` is an object in 0.3, and a list of one in 1.0, as `google.rpc.ErrorInfo`."""

    code: int
    message: str
    data: Any = UNSET


class RpcResponse(Struct, frozen=True, kw_only=True):
    """The response to a request of JSON-RPC 2.0."""

    jsonrpc: Literal["2.0"] = "2.0"
    id: str | int | float | None
    result: Annotated[Any, Meta(description="What the method returns")] = UNSET
    error: RpcError | UnsetType = UNSET


def error_of(error: Fault | StrandlineError, version: Version) -> tuple[RpcError, dict[str, str]]:
    """Return an error in the form of a version, and the headers that go with it."""
    if isinstance(error, Fault):
        return RpcError(CODES[error.reason], str(error), _info(version, error.reason, {})), {}
    problem = wire.error_response(error)
    reason: Reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "REFUSED")
    said = msgspec.json.decode(problem.body, type=wire.Problem)
    return _error_of_problem(said, reason, version), wire.headers_beside(problem)


def refusal(problem: Response) -> Response:
    """Return a problem document, of a request that was refused before it was read, as an error of this protocol."""
    said = msgspec.json.decode(problem.body, type=wire.Problem)
    response = RpcResponse(id=None, error=_error_of_problem(said, "REFUSED", V1_0))
    return Response(
        rpc_body(response), problem.status_code, wire.headers_beside(problem), media_type="application/json"
    )


def rpc_body(response: RpcResponse) -> bytes:
    """Return the body of a response."""
    return encode(response) + b"\n"


def _error_of_problem(said: wire.Problem, reason: Reason, version: Version) -> RpcError:
    more: dict[str, object] = {"code": said.code, "status": said.status}
    if said.position is not UNSET:
        more["position"] = said.position
    if isinstance(said.estimated_wait_s, float):
        more["estimated_wait_s"] = said.estimated_wait_s
    return RpcError(CODES[reason], said.detail, _info(version, reason, more))


def _info(version: Version, reason: Reason, more: Mapping[str, object]) -> Any:
    if version.has_kinds:
        return {"reason": reason, **more}
    metadata = {name: str(value) for name, value in more.items()}
    return [{"@type": _ERROR_INFO, "reason": reason, "domain": _DOMAIN, "metadata": metadata}]


def version_of(request: Request) -> Version | None:
    """Return the version that a header names; None without one. Raises `Fault`."""
    named = request.headers.get(VERSION, "").strip()
    if not named:
        return None
    major_minor = ".".join(named.split(".")[:2])
    for version in (V0_3, V1_0):
        if version.number == major_minor:
            return version
    raise Fault("VERSION_NOT_SUPPORTED", f"This server speaks A2A 0.3 and 1.0, not {named} - at header A2A-Version")
