"""MCP on the wire: JSON-RPC messages, results and errors. Values only.

Source: the schemas of the protocol's versions 2025-11-25 and 2026-07-28, with the packages `mcp` 2 and
`@modelcontextprotocol/client` 2. What is ours in a result is its `structuredContent`, in a request `strandline/options`
in `_meta`.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.responses import Response

from strandline import __version__
from strandline._encoding import encode, encode_messages
from strandline._http import wire
from strandline._model import InputRequest, RunId, RunStatus, SessionId

READS: Final = "The body is one JSON-RPC message of MCP"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
NO_METHOD: Final = -32601
INVALID_PARAMS: Final = -32602
DEFECT: Final = -32603
REFUSED: Final = -32010
"""Our own: the server did not take the request. The protocol leaves -32000 to -32019 to servers."""
HEADER_DIFFERS: Final = -32020
VERSION_UNKNOWN: Final = -32022

RequestId = str | int


# -- requests -----------------------------------------------------------------------------------------


class McpRequest(Struct, frozen=True, kw_only=True):
    """A message of MCP: a request, or without `id` a notification."""

    jsonrpc: Literal["2.0"]
    method: Annotated[
        str, Meta(description="`server/discover` or `initialize`, `ping`, `tools/list`, `tools/call`, notifications")
    ]
    id: RequestId | UnsetType = UNSET
    params: Annotated[dict[str, Any], Meta(description="As the method says")] = {}

    @property
    def meta(self) -> dict[str, Any]:
        """What the request says beside its parameters."""
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else {}

    @property
    def progress_token(self) -> RequestId | None:
        """What progress is reported with; None: not at all."""
        token = self.meta.get("progressToken")
        return token if isinstance(token, str | int) and not isinstance(token, bool) else None


class Call(Struct, frozen=True):
    """The parameters of `tools/call`."""

    name: str
    arguments: dict[str, Any] | None = None


# -- results ------------------------------------------------------------------------------------------


class Implementation(Struct, frozen=True, omit_defaults=True):
    """Who we are."""

    name: str
    version: str
    title: str | UnsetType = UNSET


class Text(Struct, frozen=True):
    """Content of a result."""

    text: str
    type: Literal["text"] = "text"


class Failure(Struct, frozen=True):
    """Why there is no answer: one of our codes, and its text."""

    code: str
    detail: str


class RunResult(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A run, for programs: the `structuredContent` of every tool's result."""

    session: SessionId | UnsetType = UNSET
    run_id: RunId | UnsetType = UNSET
    status: RunStatus | UnsetType = UNSET
    output: str | UnsetType = UNSET
    position: int | UnsetType = UNSET
    """Its place in the queue while it waits, or the one that it would have had if the queue was full."""
    estimated_wait_s: float | UnsetType | None = UNSET
    questions: list[InputRequest] | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
    retry_after_s: float | UnsetType = UNSET


class ToolResult(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """The result of a tool: text for models, and the same as values for programs."""

    content: list[Text]
    structured_content: RunResult
    is_error: bool = False
    result_type: Literal["complete"] | UnsetType = UNSET
    meta: Any = msgspec.field(default=UNSET, name="_meta")


def text_result(text: str, run: RunResult, *, is_error: bool = False) -> ToolResult:
    """Return a result of one text."""
    return ToolResult(content=[Text(text)], structured_content=run, is_error=is_error)


class RpcError(Struct, frozen=True, omit_defaults=True):
    """A JSON-RPC error."""

    code: int
    message: str
    data: Any = UNSET


class McpAnswer(Struct, frozen=True):
    """The answer to a request: a result, or an error. `id` is null if it is not known."""

    id: RequestId | None
    result: Any = UNSET
    error: RpcError | UnsetType = UNSET
    jsonrpc: Literal["2.0"] = "2.0"


class Reply(Struct, frozen=True):
    """How a request is answered: its id, and what the current version wants of every result."""

    request_id: RequestId
    meta: Any = None
    """What goes with every result; None: nothing, in the version before."""

    def of(self, result: ToolResult) -> McpAnswer:
        """Return the answer with the result of a tool."""
        if self.meta is not None:
            result = replace(result, result_type="complete", meta=self.meta)
        return McpAnswer(self.request_id, result)


class Progress(Struct, frozen=True, rename="camel"):
    """How far a call is: `progress` only rises."""

    progress_token: RequestId
    progress: int
    message: str


class Notification(Struct, frozen=True):
    """A message that wants no answer."""

    method: str
    params: Any
    jsonrpc: Literal["2.0"] = "2.0"


class RpcFailure(Exception):
    """A request that is answered by a JSON-RPC error."""

    def __init__(self, code: int, message: str, status: int = wire.OK, data: Any = UNSET) -> None:
        super().__init__(message)
        self.error = RpcError(code, message, data)
        self.status = status


def failed(failure: RpcFailure, request_id: RequestId | None) -> Response:
    """Return the answer to a request that has failed."""
    return wire.answer(McpAnswer(request_id, error=failure.error), failure.status)


def framed(message: Struct, event_id: str = "") -> bytes:
    """Return a message as a server-sent event."""
    before = b"id: %b\n" % event_id.encode() if event_id else b""
    return before + b"data: %b\n\n" % encode_messages(message)


def implementation(agent: str) -> Implementation:
    """Return who we are; `agent` is the name of the agent."""
    return Implementation("strandline", __version__, agent)


# -- errors -------------------------------------------------------------------------------------------


def refused(problem: Response) -> ToolResult:
    """Return a problem document as the result of a tool, for a model that may correct itself or try again."""
    ours = msgspec.json.decode(problem.body, type=wire.Problem)
    after = problem.headers.get("retry-after")
    text = ours.detail if after is None else f"{ours.detail} (try again in {after} s)"
    run = RunResult(
        error=Failure(ours.code, ours.detail),
        position=ours.position,
        estimated_wait_s=ours.estimated_wait_s,
        retry_after_s=UNSET if after is None else float(after),
    )
    return text_result(text, run, is_error=True)


def refusal(problem: Response) -> Response:
    """Return a problem document as a JSON-RPC error, for requests that no tool has got."""
    ours = msgspec.json.decode(problem.body, type=wire.Problem)
    status = wire.without_422(ours.status)
    code = DEFECT if status == wire.BROKEN else REFUSED
    if status == wire.BAD_REQUEST:
        code = PARSE_ERROR if ours.code == wire.Malformed.code else INVALID_REQUEST
    body = McpAnswer(None, error=RpcError(code, ours.detail, {"code": ours.code}))
    return Response(encode(body) + b"\n", status, wire.headers_beside(problem), media_type="application/json")
