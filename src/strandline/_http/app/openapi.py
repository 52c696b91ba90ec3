"""`/openapi.json` and `/docs`: the OpenAPI document, generated from the types that decode requests.

`OPERATIONS` describes each route. A test compares it with the real routes, and real answers with the document.
"""

import re
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from strandline import __version__, errors
from strandline._engine.requests import MOST_TOOLS, TOOL_NAME
from strandline._http import wire
from strandline._http.app import content_schemas, event_schemas
from strandline._http.app.console import FrontBody
from strandline._http.app.docs_page import POLICY, page
from strandline._http.dialects.a2a.card import AgentCard
from strandline._http.dialects.a2a.wire import RpcRequest, RpcResponse
from strandline._http.dialects.agentcore import wire as agentcore_wire
from strandline._http.dialects.agentcore.wire import Invocation, InvocationAnswer, InvocationFailure, PingBody
from strandline._http.dialects.agui.wire import RunAgentInput, RunErrorEvent
from strandline._http.dialects.chat import ChatAnswer, ChatBody, HistoryAnswer
from strandline._http.dialects.client_history import HEADER as CLIENT_HISTORY
from strandline._http.dialects.mcp.wire import McpAnswer, McpRequest
from strandline._http.dialects.openai.responses.items import DEFAULT_ITEMS, ITEM_ID, MOST_ITEMS, ItemList
from strandline._http.dialects.openai.responses.wire import (
    ConversationChange,
    ConversationDeleted,
    ConversationObject,
    ConversationRequest,
    ResponseObject,
    ResponseRequest,
)
from strandline._http.dialects.openai.wire import Completion, CompletionBody, ErrorBody, Model, Models
from strandline._http.dialects.runs import AgainBody, NewRunBody, ResolveBody
from strandline._http.exchange.sse import MEDIA_TYPE
from strandline._http.middleware.auth import CARDS
from strandline._http.middleware.token_scope import ROUTES
from strandline._http.routes.events import TYPES
from strandline._http.routes.files import FileBody, FilesBody
from strandline._http.routes.forks import ForkBody, ForkedBody
from strandline._http.routes.health import HealthBody, HealthWord, ProbeBody
from strandline._http.routes.runs import CancelBody, EditBody, MoveBody, RestoredBody, RunBody, RunsBody, UnresolvedBody
from strandline._http.routes.schedules import ChangeScheduleBody, NewScheduleBody, ScheduleBody, SchedulesBody
from strandline._http.routes.sessions import (
    CancelledBody,
    CancelSessionBody,
    HistoryBody,
    SessionBody,
    SessionChangeBody,
    SessionsBody,
)
from strandline._http.routes.tokens import ORIGIN, TokenBody, TokenRequest
from strandline._http.routes.tree import TreeBody
from strandline._http.routes.webhooks import DeliveriesBody, WebhookTestBody, WebhookTestedBody
from strandline._model import INTERRUPTS, IfBusy, OnQuestion, RunStatus

SESSION_HEADER: Final = "X-Session-Id"
_JSON: Final = "application/json"
_TEXT: Final = "text/plain"
_BINARY: Final = "application/octet-stream"
_SESSION_ID: Final = {"type": "string", "pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._:@-]{1,256}$"}
HOST: Final = "127.0.0.1:8080"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
"""A `Host` that is safe in a command that people copy; for any other, the examples use the default address."""
_NEXT: Final = "The `next_cursor` of the previous page"
_RUNS_CURSOR: Final = r"^(w[0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,18}|r|h[0-9]{1,18})$"
_KEY_HEADER: Final = (
    r"^(?:[!#-~](?:[ -~]{0,253}[!-~])?"  # bare, without surrounding spaces
    r'|"(?:[ !#-\[\]-~]|\\["\\]){1,255}")$'  # quoted (RFC 8941)
)
_RUN_ID: Final = "^[ -~]{1,255}$"
_SESSIONS_CURSOR: Final = r"^(?!(.+/)?\.{1,2}$)(.+/)?[A-Za-z0-9._:@-]{1,256}$"


def _nothing_of(*names: str) -> dict[str, Any]:
    """Return the schema of an object without these fields, or with null in them."""
    return {"properties": {name: {"type": "null"} for name in names}}


def _some(name: str) -> dict[str, Any]:
    """Return the schema of an object with this field, not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _with(name: str, form: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with this field, which is an object of a form."""
    return {"required": [name], "properties": {name: {"type": "object", **form}}}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the form of an answer, which has its own JSON Schema as `schema` says."""
    kind = {"properties": {"type": {"enum": ["text", "json_object", "json_schema"]}}}
    return {**kind, "if": {"required": ["type"], "properties": {"type": {"const": "json_schema"}}}, "then": schema}


_FUNCTION: Final[dict[str, Any]] = {
    "required": ["name"],
    "properties": {"name": {"type": "string", "pattern": f"^{TOOL_NAME}$"}},
}
_TOOL: Final[dict[str, Any]] = {
    "required": ["type"],
    "properties": {"type": {"const": "function"}},
    "anyOf": [_with("function", _FUNCTION), _FUNCTION],
}
"""A tool of a client, as OpenAI's clients send it: with its fields in `function` in chat completions."""
_ANSWERS: Final = {
    "if_busy": {"enum": ["enqueue", None]},
    "expected_run_id": {"type": "null"},
    "on_question": {"type": "null"},
    "not_before": {"type": "null"},
}
"""Run options of a body that answers input requests: an answer precedes all queued runs anyway."""
_JOINS: Final = [IfBusy.COLLECT.value, IfBusy.STEER.value]
"""Policies of runs that are no turn of their own."""
_BACK: Final[dict[str, Any]] = {"required": ["after"]}
"""A run that goes back; null is a place, too."""
_ANSWERS_IN: Final[dict[str, Any]] = {
    "required": ["responses"],
    "properties": {"responses": {"type": "array", "minItems": 1}, **_ANSWERS},
    "not": _BACK,
}
_ALONE: Final = {"responses": {"type": "null"}}
_AT_ODDS: Final = {
    "not": {
        "anyOf": [
            {
                "required": ["if_busy", "on_question"],
                "properties": {
                    "if_busy": {"enum": sorted(each.value for each in INTERRUPTS)},
                    "on_question": {"const": OnQuestion.ANSWER.value},
                },
            },
            {
                "required": ["if_busy", "not_before"],
                "properties": {
                    "if_busy": {"enum": sorted(each.value for each in IfBusy if each is not IfBusy.ENQUEUE)},
                    "not_before": {"type": "string"},
                },
            },
            {
                "required": ["on_question", "not_before"],
                "properties": {
                    "on_question": {"enum": [OnQuestion.ANSWER.value, OnQuestion.DISMISS.value]},
                    "not_before": {"type": "string"},
                },
            },
            {
                **_BACK,
                "anyOf": [
                    {"required": ["if_busy"], "properties": {"if_busy": {"enum": _JOINS}}},
                    {"required": ["on_question"], "properties": {"on_question": {"const": OnQuestion.ANSWER.value}}},
                    _some("not_before"),
                ],
            },
        ]
    },
    "if": _some("expected_run_id"),
    "then": {"required": ["if_busy"], "properties": {"if_busy": {"const": IfBusy.STEER.value}}},
}
"""Run options that exclude each other: an interrupt dismisses the question that `answer` would answer, a delayed run
does nothing to a session until it queues, one that goes back neither answers nor joins nor is delayed, and only a run
that steers expects another."""
BODIES: Final[dict[str, dict[str, Any]]] = {
    "DefaultOptions": {"not": _AT_ODDS["not"]["anyOf"][0]},
    "ChatBody": {
        **_AT_ODDS,
        "anyOf": [
            {"required": ["message"], **_nothing_of("responses")},
            {**_ANSWERS_IN, "not": {"anyOf": [{"required": ["message"]}, _BACK]}},
        ],
    },
    "CompletionBody": {
        **_AT_ODDS,
        "anyOf": [
            {"properties": {"messages": {"minItems": 1}, **_ALONE}},
            {**_ANSWERS_IN, "properties": {**_ANSWERS_IN["properties"], "messages": {"maxItems": 0}}},
        ],
        "properties": {
            "tools": {"maxItems": MOST_TOOLS, "items": _TOOL},
            "functions": {"maxItems": 0},
            "logprobs": {"enum": [False, None]},
            "response_format": _form(_with("json_schema", _with("schema", {}))),
            "modalities": {"items": {"const": "text"}},
        },
    },
    "ResponseRequest": {
        **_AT_ODDS,
        "not": {
            "anyOf": [*_AT_ODDS["not"]["anyOf"], {"allOf": [_some("conversation"), _some("previous_response_id")]}]
        },
        "properties": {
            "input": {"minItems": 1},
            "tools": {"maxItems": MOST_TOOLS, "items": _TOOL},
            "text": {"properties": {"format": _form(_with("schema", {}))}},
            "prompt": {"type": "null"},
            "top_logprobs": {"enum": [0, None]},
            "store": {"enum": [True, None]},
        },
    },
    "ConversationRequest": {"properties": {"items": {"maxItems": 0}, "metadata": {"maxProperties": 0}}},
    "Invocation": {
        **_AT_ODDS,
        "anyOf": [
            *({**_some(each), "allOf": [_nothing_of("responses")]} for each in ("prompt", "message", "input")),
            {**_ANSWERS_IN, "allOf": [_nothing_of("prompt", "message", "input")]},
        ],
    },
    "RunOptions": _AT_ODDS,
    "RunAgentInput": {
        "anyOf": [
            {
                "properties": {
                    "messages": {"contains": {"properties": {"role": {"const": "user"}}}},
                    "resume": {"anyOf": [{"type": "null"}, {"maxItems": 0}]},
                }
            },
            {
                "required": ["resume"],
                "properties": {
                    "resume": {"type": "array", "minItems": 1},
                    "forwardedProps": {"properties": {"strandline": {"properties": _ANSWERS, "not": _BACK}}},
                },
            },
        ],
        "properties": {
            "threadId": _SESSION_ID,
            "runId": {"pattern": _RUN_ID},
            "tools": {"maxItems": MOST_TOOLS, "items": _FUNCTION},
        },
    },
    "ResumeEntry": {"if": {"properties": {"status": {"const": "resolved"}}}, "then": _some("payload")},
    "NewRunBody": {
        **_AT_ODDS,
        "anyOf": [
            {"properties": {"input": {"type": ["string", "array"], "minItems": 1}}},
            {"properties": {"input": {"type": "object"}, **_ANSWERS}, "not": _BACK},
        ],
    },
    "AgainBody": {"properties": {"if_busy": {"not": {"enum": _JOINS}}}},
    "EditBody": {
        "anyOf": [_some(each) for each in ("input", "metadata", "priority")],
        "properties": {"input": {"minItems": 1}},
    },
    "MoveBody": {
        "oneOf": [
            {**_some("priority"), "allOf": [{"properties": {"front": {"const": False}}}]},
            {"required": ["front"], "properties": {"front": {"const": True}, "priority": {"type": "null"}}},
        ]
    },
    "TokenRequest": {
        "anyOf": [
            {
                "required": ["sessions"],
                "properties": {"sessions": {"type": "array", "items": _SESSION_ID}, "run_id": {"type": "null"}},
            },
            {
                "required": ["run_id"],
                "properties": {"run_id": {"type": "string"}, "sessions": {"type": "null"}, "routes": {"type": "null"}},
            },
        ],
        "properties": {
            "origin": {"anyOf": [{"type": "string", "pattern": ORIGIN}, {"type": "null"}]},
            "routes": {"items": {"enum": list(ROUTES)}, "minItems": 1},
        },
    },
    "ForkBody": {"properties": {"session_id": {"anyOf": [_SESSION_ID, {"type": "null"}]}}},
    "NewScheduleBody": {
        "oneOf": [
            {**_some("cron"), "allOf": [_nothing_of("every", "at")]},
            {**_some("every"), "allOf": [_nothing_of("cron", "at", "timezone")]},
            {**_some("at"), "allOf": [_nothing_of("cron", "every", "timezone")]},
        ],
        "properties": {"input": {"minItems": 1}},
    },
    "ChangeScheduleBody": {
        "not": {
            "anyOf": [
                {"required": ["cron", "every"]},
                {"required": ["cron", "at"]},
                {"required": ["every", "at"]},
                {"required": ["timezone", "every"]},
                {"required": ["timezone", "at"]},
            ]
        },
        "properties": {"input": {"minItems": 1}},
    },
    "Responses": {"properties": {"responses": {"minItems": 1}}},
    "Response": {"properties": {"response": {"not": {"type": "null"}}}},
}
"""Which fields of a body go together, which types cannot express."""


_CHANGES: Final = frozenset({"AgainBody", "ChangeScheduleBody", "ConversationRequest", "ForkBody"})
"""Those of which each field may be left out, and so the body."""
EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "NewRunBody": {"input": "Hello"},
    "MoveBody": {"front": True},
    "EditBody": {"input": "Hello again"},
    "SessionChangeBody": {"options": {"priority": 2}},
    "NewScheduleBody": {"session_id": "my-session", "input": "Hello", "cron": "0 9 * * MON-FRI"},
    "TokenRequest": {"sessions": ["my-session"], "origin": "https://app.example.com"},
    "WebhookTestBody": {"url": "https://example.com/hook"},
    "ConversationChange": {"metadata": {"topic": "weather"}},
    "ResolveBody": {"tools": [{"tool_use_id": "call_1", "outcome": "done", "result": "booked"}]},
    "ChatBody": {"session_id": "my-session", "message": "Hello"},
    "CompletionBody": {"user": "my-session", "messages": [{"role": "user", "content": "Hello"}]},
    "ResponseRequest": {"conversation": "my-session", "input": "Hello"},
    "Invocation": {"prompt": "Hello"},
    "RpcRequest": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "SendMessage",
        "params": {"message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "Hello"}]}},
    },
    "RunAgentInput": {
        "threadId": "my-session",
        "runId": "1",
        "messages": [{"id": "m1", "role": "user", "content": "Hello"}],
    },
    "McpRequest": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "ask", "arguments": {"message": "Hello", "session": "my-session"}},
    },
}
"""A complete example of each required body."""
_NAMED: Final = {**dict.fromkeys(("session", "of", "runtime_session"), "my-session"), "last_of_a_call": "EVENT_ID"}
"""Example values of parameters, of those that name a session and of what only the reader knows."""
_NAMING: Final = frozenset({"of", "runtime_session"})
"""Parameters that name a session, which only some servers require."""


class Refusals(Struct, frozen=True):
    """The format of a route's errors: its media type, its body, and its status for one of ours."""

    media_type: str
    form: type[Struct]
    status_of: Callable[[int], int] = int


_PROBLEMS: Final = Refusals("application/problem+json", wire.Problem)
_OPENAI: Final = Refusals(_JSON, ErrorBody, wire.without_422)
_AGUI: Final = Refusals(_JSON, RunErrorEvent)
_MCP: Final = Refusals(_JSON, McpAnswer, wire.without_422)
_A2A: Final = Refusals(_JSON, RpcResponse)
_AGENTCORE: Final = Refusals(_JSON, InvocationFailure, wire.without_422)


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one path: its body, its answers by status, and its errors."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    tag: str
    summary: str
    body: type[Struct] | None = None
    answers: dict[int, type[Struct] | type[str] | None]
    events: str | None = None
    """The schema of the events, if it can answer (200) with a stream of ours."""
    brief: type[Struct] | None = None
    """The answer to a request whose `Host` is not this server."""
    streams: str | None = None
    """The description of the events, if it can answer (200) with a stream of another protocol."""
    refused: tuple[type[errors.StrandlineError], ...] = ()
    takes: tuple[str, ...] = ()
    """Names of `PARAMETERS`."""
    refusals: Refusals = _PROBLEMS
    uploads: bool = False
    """Whether its body is a file."""
    downloads: bool = False
    """Whether it answers with a file, or a part of one."""
    exports: bool = False
    """Whether it answers with a zip."""


PARAMETERS: Final[dict[str, tuple[str, str, dict[str, Any], str]]] = {
    "run_id": ("run_id", "path", {"type": "string"}, "The id of a run"),
    "response_id": ("response_id", "path", {"type": "string"}, "The id of a response: `resp_` and the id of its run"),
    "conversation_id": ("conversation_id", "path", _SESSION_ID, "The id of a conversation: a session"),
    "stream": ("stream", "query", {"type": "boolean"}, "Whether to stream its events"),
    "starting_after": (
        "starting_after",
        "query",
        {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1},
        "With `stream`: the `sequence_number` of the last event that the client has",
    ),
    "items_limit": (
        "limit",
        "query",
        {"type": "integer", "minimum": 1, "maximum": MOST_ITEMS, "default": DEFAULT_ITEMS},
        "How many items",
    ),
    "order": ("order", "query", {"enum": ["asc", "desc"], "default": "desc"}, "Whether the latest items come last"),
    "after_item": ("after", "query", {"type": "string", "pattern": ITEM_ID}, "The `last_id` of the previous page"),
    "after_input": ("after", "query", {"type": "string"}, "The `last_id` of the previous page"),
    "schedule_id": ("schedule_id", "path", {"type": "string"}, "The id of a schedule"),
    "file_id": ("file_id", "path", content_schemas.FILE_ID, "The id of a file"),
    "files_cursor": ("cursor", "query", content_schemas.FILE_ID, _NEXT),
    "file_name": ("name", "query", {"type": "string"}, "The name of the file"),
    "disposition": (
        "Content-Disposition",
        "header",
        {"type": "string"},
        'The name of the file, if the query has none, as in `attachment; filename="a.pdf"`',
    ),
    "range": (
        "Range",
        "header",
        {"type": "string"},
        "The part to send, such as `bytes=0-1023` (206)",
    ),
    "in_session": ("session_id", "query", _SESSION_ID, "Only those of this session"),
    "webhook_id": ("webhook_id", "path", {"type": "string"}, "The `webhook-id` of an event"),
    "delivery_status": ("status", "query", {"enum": ["waiting", "dead"]}, "Only those that wait, or are dead"),
    "webhooks_cursor": ("cursor", "query", {"type": "string", "pattern": "^[ -~]{0,128}$"}, _NEXT),
    "schedules_cursor": ("cursor", "query", {"type": "string", "pattern": "^[ -~]{0,64}$"}, _NEXT),
    "session": (
        "session_id",
        "path",
        _SESSION_ID,
        "The id of a session: 1 to 256 characters of A-Z a-z 0-9 . _ : @ -",
    ),
    "model": ("model", "path", {"type": "string"}, "The name of the agent"),
    "named": (
        SESSION_HEADER,
        "header",
        _SESSION_ID,
        "The session, before `metadata.session_id` and `user` in the body; one is required, unless sessions are shared",
    ),
    "client_history": (
        CLIENT_HISTORY,
        "header",
        {"type": "string", "enum": ["ignore", "follow", "refuse"]},
        "What earlier messages do that differ from history; default: the setting `client_history`",
    ),
    "a2a_version": (
        "A2A-Version",
        "header",
        {"type": "string", "enum": ["0.3", "1.0"]},
        "The version of the protocol; without it, the method says so",
    ),
    "runtime_session": (
        agentcore_wire.SESSION,
        "header",
        _SESSION_ID,
        "The session; default: `default`",
    ),
    "request_id": (agentcore_wire.REQUEST_ID, "header", {"type": "string"}, "Stored in the metadata of the run"),
    "key": (
        "Idempotency-Key",
        "header",
        {"type": "string", "pattern": _KEY_HEADER},
        "A request repeated under the same key is the same run",
    ),
    "runs_cursor": ("cursor", "query", {"type": "string", "pattern": _RUNS_CURSOR}, _NEXT),
    "sessions_cursor": ("cursor", "query", {"type": "string", "pattern": _SESSIONS_CURSOR}, _NEXT),
    "number_cursor": ("cursor", "query", {"type": "string", "pattern": "^[0-9]{1,15}$"}, _NEXT),
    "prefer": (
        "Prefer",
        "header",
        {"type": "string"},
        "`wait=N`: wait up to N seconds (at most 300) for the end of the run",
    ),
    "if_match": (
        "If-Match",
        "header",
        {"type": "string"},
        "The `ETag` that the run must still have, as an earlier answer gave it; else 412",
    ),
    "last": (
        "Last-Event-ID",
        "header",
        {"type": "string", "pattern": "^[0-9]{0,16}$"},
        "Resume after the event with this `id`",
    ),
    "last_of_a_run": (
        "Last-Event-ID",
        "header",
        {"type": "string"},
        "For a request repeated under its `Idempotency-Key`: resume after the event with this `id`",
    ),
    "last_of_a_call": (
        "Last-Event-ID",
        "header",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
        "Resume after the event with this `id`. Without it nothing is sent (405)",
    ),
    "sessions": (
        "session_id",
        "query",
        {"type": "array", "items": _SESSION_ID},
        "Only events of this session; may be repeated",
    ),
    "types": (
        "type",
        "query",
        {"type": "array", "items": {"enum": sorted(TYPES)}},
        "Only events of these types; may be repeated, or be a list with commas",
    ),
    "status": (
        "status",
        "query",
        {"type": "array", "items": {"enum": [str(each) for each in RunStatus]}},
        "Only runs of these statuses; may be repeated, or be a list with commas",
    ),
    "limit": (
        "limit",
        "query",
        {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        "Maximum number of entries on a page",
    ),
    "discarded": ("discarded", "query", {"type": "boolean", "default": False}, "Include hidden messages"),
    "superseded": ("superseded", "query", {"type": "boolean", "default": False}, "Include superseded messages"),
    "of": ("session_id", "query", {**_SESSION_ID, "default": "default"}, "The id of a session"),
    "count": (
        "count",
        "query",
        {"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 1},
        "Number of messages; 0: all",
    ),
    "tools": (
        "include_tool_messages",
        "query",
        {"type": "boolean", "default": False},
        "Include messages that have only tool blocks",
    ),
}

_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made with `strandline keys new NAME`; required only by servers that have keys",
}

HEADERS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "Location": ({"type": "string"}, "The path of the run, or of what was made"),
    "Retry-After": ({"type": "integer", "minimum": 1}, "Seconds after which to try again"),
    "Preference-Applied": ({"type": "string"}, "`wait=N`, if the request preferred to wait"),
    "Content-Range": ({"type": "string"}, "`bytes */SIZE`: how many bytes the file has"),
    "WWW-Authenticate": ({"type": "string"}, "`Bearer`: a valid API key is required"),
    "Idempotency-Replayed": ({"const": "true"}, "The run had already ended, under the same `Idempotency-Key`"),
}
"""Response headers: schema and description. `_headers` says which answer has which."""

_GUARDED: Final = (wire.Foreign, wire.Unauthorized, wire.TokenForbidden)
_READING: Final = (*_GUARDED, errors.NotReady, errors.NotOwner, errors.JournalUnavailable)
_BODY: Final = (wire.Malformed, wire.BodyTooLarge, errors.Invalid)
_UNNAMED: Final = (*_BODY, errors.NoSession)
_ANSWERED: Final = (errors.NotFound, errors.AlreadyAnswered, errors.Dismissed)
_RUNS: Final = (
    errors.KeyReused,
    errors.SessionBusy,
    errors.CannotGoBack,
    *_ANSWERED,
    errors.QueueFull,
    errors.PrincipalFull,
    errors.StorageFull,
    errors.WebhooksFull,
    errors.DiskLow,
    errors.HoldsFull,
    errors.ServerFull,
    errors.Draining,
    errors.NoWorker,
    errors.OlderServer,
)
_CONTINUED: Final = (
    errors.NotResolvable,
    *(each for each in _RUNS if each not in (errors.SessionBusy, errors.CannotGoBack, *_ANSWERED)),
    errors.NotFound,
)
_AGAIN: Final = tuple(each for each in _RUNS if each not in (errors.AlreadyAnswered, errors.Dismissed))
_V1: Final = (*_BODY, wire.NotJson, *_READING)

OPERATIONS: Final = (
    Operation(method="POST", path="/v1/sessions/{session_id}/runs", tag="runs",
              takes=("session", "key", "prefer", "last_of_a_run"), summary="Accept a run", body=NewRunBody,
              answers={202: RunBody, 200: RunBody, 204: None}, events=event_schemas.OF_A_RUN, refused=(*_V1, *_RUNS)),
    Operation(method="GET", path="/v1/runs", tag="runs", takes=("status", "limit", "number_cursor"),
              summary="List the runs of all sessions", answers={200: RunsBody}, refused=(errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/runs/{run_id}", tag="runs", takes=("run_id", "prefer"),
              summary="Read a run, or wait for its end", answers={200: RunBody}, refused=(errors.NotFound, *_READING)),
    Operation(method="GET", path="/v1/runs/{run_id}/events", tag="runs", takes=("run_id", "last"),
              summary="Stream the events of a run", answers={204: None},
              events=event_schemas.OF_A_RUN, refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/runs/{run_id}/cancel", tag="runs", takes=("run_id",), summary="Cancel a run",
              body=CancelBody, answers={200: RunBody, 202: RunBody},
              refused=(errors.NotFound, errors.AlreadyEnded, *_V1)),
    Operation(method="POST", path="/v1/runs/{run_id}/move", tag="runs", takes=("run_id",),
              summary="Move a queued run", body=MoveBody, answers={200: RunBody},
              refused=(errors.NotFound, errors.AlreadyEnded, errors.TooLate, wire.AnswerLost, *_V1)),
    Operation(method="PATCH", path="/v1/runs/{run_id}", tag="runs", takes=("run_id", "if_match"),
              summary="Edit a queued run", body=EditBody, answers={200: RunBody},
              refused=(errors.NotFound, errors.AlreadyEnded, errors.TooLate, errors.ChangedMeanwhile,
                       errors.StorageFull, wire.AnswerLost, *_V1)),
    Operation(method="GET", path="/v1/schedules", tag="schedules", takes=("in_session", "limit", "schedules_cursor"),
              summary="List schedules", answers={200: SchedulesBody}, refused=(errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/schedules", tag="schedules", summary="Make a schedule", body=NewScheduleBody,
              answers={201: ScheduleBody},
              refused=(errors.TooManySchedules, errors.OlderServer, errors.Draining, wire.AnswerLost, *_V1)),
    Operation(method="GET", path="/v1/schedules/{schedule_id}", tag="schedules", takes=("schedule_id",),
              summary="Read a schedule", answers={200: ScheduleBody}, refused=(errors.NotFound, *_READING)),
    Operation(method="PATCH", path="/v1/schedules/{schedule_id}", tag="schedules", takes=("schedule_id",),
              summary="Change, pause or resume a schedule", body=ChangeScheduleBody, answers={200: ScheduleBody},
              refused=(errors.NotFound, errors.Draining, wire.AnswerLost, *_V1)),
    Operation(method="DELETE", path="/v1/schedules/{schedule_id}", tag="schedules", takes=("schedule_id",),
              summary="Delete a schedule", answers={204: None},
              refused=(errors.NotFound, errors.Draining, wire.AnswerLost, *_READING)),
    Operation(method="POST", path="/v1/schedules/{schedule_id}/run", tag="schedules", takes=("schedule_id",),
              summary="Run a schedule now", answers={202: RunBody},
              refused=(errors.NotFound, errors.QueueFull, errors.PrincipalFull, errors.StorageFull,
                       errors.WebhooksFull, errors.DiskLow, errors.HoldsFull, errors.ServerFull, errors.Draining,
                       errors.NoWorker, wire.AnswerLost, *_READING)),
    Operation(method="GET", path="/v1/webhooks", tag="webhooks", takes=("delivery_status", "limit", "webhooks_cursor"),
              summary="List events that wait to be sent, or are dead", answers={200: DeliveriesBody},
              refused=(errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/webhooks/{webhook_id}/resend", tag="webhooks", takes=("webhook_id",),
              summary="Send an event again", answers={204: None},
              refused=(errors.Invalid, errors.NotFound, errors.Draining, *_READING)),
    Operation(method="POST", path="/v1/webhooks/test", tag="webhooks", summary="Send a test to a webhook",
              body=WebhookTestBody, answers={200: WebhookTestedBody}, refused=_V1),
    Operation(method="POST", path="/v1/tokens", tag="tokens", summary="Make a token for web pages",
              body=TokenRequest, answers={200: TokenBody}, refused=(errors.NotFound, *_V1)),
    Operation(method="GET", path="/v1/runs/{run_id}/resolve", tag="runs", takes=("run_id",),
              summary="Read which tools of a crashed run have an unknown outcome", answers={200: UnresolvedBody},
              refused=(errors.NotFound, errors.NotResolvable, *_READING)),
    Operation(method="POST", path="/v1/runs/{run_id}/resolve", tag="runs",
              takes=("run_id", "key", "prefer", "last_of_a_run"),
              summary="Continue a crashed run, with what its tools have done", body=ResolveBody,
              answers={202: RunBody, 200: RunBody, 204: None}, events=event_schemas.OF_A_RUN,
              refused=(*_V1, *_CONTINUED)),
    Operation(method="POST", path="/v1/runs/{run_id}/again", tag="runs",
              takes=("run_id", "key", "prefer", "last_of_a_run"),
              summary="Replace a run by one with the same input", body=AgainBody,
              answers={202: RunBody, 200: RunBody, 204: None}, events=event_schemas.OF_A_RUN,
              refused=(*_V1, *_AGAIN)),
    Operation(method="POST", path="/v1/runs/{run_id}/restore", tag="runs", takes=("run_id",),
              summary="Continue with what was superseded", answers={200: RestoredBody},
              refused=(errors.NotFound, errors.OlderServer, errors.SessionBusy, errors.CannotGoBack, errors.Invalid,
                       *_READING)),
    Operation(method="GET", path="/v1/sessions", tag="sessions", takes=("limit", "sessions_cursor"),
              summary="List all sessions", answers={200: SessionsBody}, refused=(errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}", tag="sessions", takes=("session",),
              summary="Read a session", answers={200: SessionBody},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="PATCH", path="/v1/sessions/{session_id}", tag="sessions", takes=("session",),
              summary="Set default options of a session's runs", body=SessionChangeBody, answers={200: SessionBody},
              refused=(errors.NotFound, errors.StorageFull, errors.OlderServer, *_V1)),
    Operation(method="DELETE", path="/v1/sessions/{session_id}", tag="sessions", takes=("session",),
              summary="Delete a session, its history, state and ended runs", answers={204: None},
              refused=(errors.NotFound, errors.SessionBusy, errors.Invalid, errors.Draining, wire.AnswerLost,
                       *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}/tree", tag="sessions", takes=("session",),
              summary="Read the branches of a session and its forks", answers={200: TreeBody},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/sessions/{session_id}/fork", tag="sessions", takes=("session", "key"),
              summary="Make a session that begins with the history of this one", body=ForkBody,
              answers={201: ForkedBody},
              refused=(errors.NotFound, errors.SessionExists, errors.CannotGoBack, errors.KeyReused,
                       errors.StorageFull, errors.DiskLow, errors.OlderServer, errors.Draining, wire.AnswerLost,
                       *_V1)),
    Operation(method="GET", path="/v1/sessions/{session_id}/runs", tag="sessions",
              takes=("session", "limit", "runs_cursor"),
              summary="List the runs of a session", answers={200: RunsBody},
              refused=(errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}/history", tag="sessions",
              takes=("session", "limit", "number_cursor", "discarded", "superseded"),
              summary="Read the messages of a session", answers={200: HistoryBody},
              refused=(errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}/export", tag="sessions", takes=("session",), exports=True,
              summary="Export a session, its history, its runs and its files as one zip", answers={},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}/files", tag="files",
              takes=("session", "limit", "files_cursor"),
              summary="List the files of a session", answers={200: FilesBody}, refused=(errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/sessions/{session_id}/files", tag="files",
              takes=("session", "file_name", "disposition"), summary="Upload a file into a session", uploads=True,
              answers={201: FileBody},
              refused=(errors.FileTooLarge, errors.StorageFull, errors.DiskLow, errors.OlderServer, errors.Draining,
                       errors.Invalid, wire.AnswerLost, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}/files/{file_id}", tag="files",
              takes=("session", "file_id", "range"), summary="Download a file, or a part of it", downloads=True,
              answers={}, refused=(errors.NotFound, errors.Invalid, wire.NotInRange, *_READING)),
    Operation(method="DELETE", path="/v1/sessions/{session_id}/files/{file_id}", tag="files",
              takes=("session", "file_id"), summary="Delete a file", answers={204: None},
              refused=(errors.NotFound, errors.Invalid, errors.Draining, wire.AnswerLost, *_READING)),
    Operation(method="POST", path="/v1/sessions/{session_id}/cancel", tag="sessions", takes=("session",),
              summary="Cancel the queued runs of a session, and optionally the executing one", body=CancelSessionBody,
              answers={200: CancelledBody, 202: CancelledBody}, refused=(errors.NotFound, *_V1)),
    Operation(method="POST", path="/v1/sessions/{session_id}/pause", tag="sessions", takes=("session",),
              summary="Pause a session: accept runs, start none", answers={200: SessionBody},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/sessions/{session_id}/resume", tag="sessions", takes=("session",),
              summary="Resume a paused session", answers={200: SessionBody},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/events", tag="sessions", takes=("sessions", "types", "last"),
              summary="Stream the events of all your sessions", answers={}, events=event_schemas.OF_ALL,
              refused=(errors.Invalid, *_GUARDED, errors.NotReady)),
    Operation(method="POST", path="/chat", tag="chat", takes=("key", "last_of_a_run"),
              summary="Send a message and wait for its answer", body=ChatBody,
              answers={200: ChatAnswer, 202: ChatAnswer, 204: None},
              events=event_schemas.OF_A_RUN, refused=(*_UNNAMED, *_READING, *_RUNS)),
    Operation(method="GET", path="/history", tag="chat", takes=("of", "count", "tools"),
              summary="Read the last messages of a session", answers={200: HistoryAnswer},
              refused=(errors.Invalid, errors.NoSession, *_READING)),
    Operation(method="POST", path="/v1/chat/completions", tag="openai", takes=("named", "client_history", "key"),
              summary="Create a chat completion", body=CompletionBody,
              answers={200: Completion, 202: ErrorBody, 422: ErrorBody}, refusals=_OPENAI,
              streams="With `stream`: `data` is a `chat.completion.chunk` or an error, finally `[DONE]`",
              refused=(*_V1, errors.NoSession, errors.ConversationDiffers, *_RUNS)),
    Operation(method="POST", path="/v1/responses", tag="openai", takes=("named", "client_history", "key"),
              summary="Create a response", body=ResponseRequest,
              answers={200: ResponseObject, 202: ResponseObject}, refusals=_OPENAI,
              streams="With `stream`: `data` is an event of OpenAI's Responses API",
              refused=(*_V1, errors.NotFound, errors.ConversationDiffers, *_RUNS)),
    Operation(method="GET", path="/v1/responses/{response_id}", tag="openai",
              takes=("response_id", "stream", "starting_after"), summary="Read a response, or stream its events",
              answers={200: ResponseObject}, refusals=_OPENAI,
              streams="With `stream`: `data` is an event of OpenAI's Responses API",
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/responses/{response_id}/cancel", tag="openai", takes=("response_id",),
              summary="Cancel a response", answers={200: ResponseObject}, refusals=_OPENAI,
              refused=(errors.NotFound, errors.AlreadyEnded, *_READING)),
    Operation(method="GET", path="/v1/responses/{response_id}/input_items", tag="openai",
              takes=("response_id", "items_limit", "order", "after_input"), summary="Read the input of a response",
              answers={200: ItemList}, refusals=_OPENAI, refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/conversations", tag="openai", takes=("key",), summary="Name a new conversation",
              body=ConversationRequest, answers={200: ConversationObject}, refusals=_OPENAI, refused=_V1),
    Operation(method="GET", path="/v1/conversations/{conversation_id}", tag="openai", takes=("conversation_id",),
              summary="Read a conversation", answers={200: ConversationObject}, refusals=_OPENAI,
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/conversations/{conversation_id}", tag="openai", takes=("conversation_id",),
              summary="Set the metadata of a conversation", body=ConversationChange, answers={200: ConversationObject},
              refusals=_OPENAI, refused=(errors.NotFound, errors.StorageFull, errors.OlderServer, *_V1)),
    Operation(method="GET", path="/v1/conversations/{conversation_id}/items", tag="openai",
              takes=("conversation_id", "items_limit", "order", "after_item"),
              summary="Read the messages of a conversation", answers={200: ItemList}, refusals=_OPENAI,
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="DELETE", path="/v1/conversations/{conversation_id}", tag="openai", takes=("conversation_id",),
              summary="Delete a conversation and its history", answers={200: ConversationDeleted}, refusals=_OPENAI,
              refused=(errors.NotFound, errors.SessionBusy, errors.Invalid, errors.Draining, wire.AnswerLost,
                       *_READING)),
    Operation(method="GET", path="/v1/models", tag="openai", summary="List the agent as a model",
              answers={200: Models}, refused=_GUARDED, refusals=_OPENAI),
    Operation(method="GET", path="/v1/models/{model}", tag="openai", takes=("model",),
              summary="Read the agent as a model", answers={200: Model}, refused=(errors.NotFound, *_GUARDED),
              refusals=_OPENAI),
    Operation(method="POST", path="/agui", tag="ag-ui", takes=("client_history", "key"),
              summary="Run the agent, for clients of AG-UI", body=RunAgentInput, answers={},
              streams="`data` is an event of AG-UI", refusals=_AGUI,
              refused=(*_V1, errors.ConversationDiffers, *_RUNS)),
    Operation(method="POST", path="/mcp", tag="mcp", summary="Call the agent as a tool, for clients of MCP",
              body=McpRequest, answers={200: McpAnswer, 202: None},
              streams="With `Accept: text/event-stream`, of a call that waits: `data` is a JSON-RPC message",
              refusals=_MCP, refused=(*_V1, errors.NotFound)),
    Operation(method="GET", path="/mcp", tag="mcp", takes=("last_of_a_call",), summary="Resume the stream of a call",
              answers={204: None, 405: McpAnswer}, refusals=_MCP, streams="`data` is a JSON-RPC message",
              refused=(errors.NotFound, *_READING)),
    Operation(method="POST", path="/a2a", tag="a2a", takes=("a2a_version",),
              summary="Call the agent, for clients of A2A", body=RpcRequest,
              answers={200: RpcResponse}, streams="Of `SendStreamingMessage`: `data` is a response",
              refusals=_A2A, refused=_V1),
    *(Operation(method="GET", path=path, tag="a2a", summary="Read the agent's card", answers={200: AgentCard},
                refused=(wire.Foreign,))
      for path in CARDS),
    Operation(method="POST", path="/invocations", tag="agentcore", takes=("runtime_session", "request_id", "key"),
              summary="Invoke the agent, as AgentCore Runtime does", body=Invocation,
              answers={200: InvocationAnswer, 202: InvocationAnswer, 500: InvocationFailure},
              streams="With `Accept: text/event-stream`: `data` is a piece of the answer, or an object at the end",
              refusals=_AGENTCORE, refused=(*_UNNAMED, *_READING, *_RUNS)),
    Operation(method="GET", path="/ping", tag="agentcore", summary="Show whether any run executes or waits",
              answers={200: PingBody}),
    Operation(method="GET", path="/", tag="probes", summary="Show where to continue; browsers get the console",
              answers={200: FrontBody}, refused=(wire.Foreign,)),
    Operation(method="GET", path="/health", tag="probes", summary="Show the state of the server in numbers",
              answers={200: HealthBody, 503: HealthBody}, brief=HealthWord),
    Operation(method="GET", path="/livez", tag="probes", summary="Check that the process responds",
              answers={200: ProbeBody}),
    Operation(method="GET", path="/readyz", tag="probes", summary="Check that runs are accepted",
              answers={200: ProbeBody, 503: ProbeBody}),
    Operation(method="GET", path="/metrics", tag="probes", summary="Read all metrics, for Prometheus",
              answers={200: str}, refused=(*_GUARDED, wire.OperatorsOnly)),
)  # fmt: skip


class Described(Struct, frozen=True, kw_only=True):
    """The settings that change a server's document."""

    keys: bool = False
    """Whether it requires them."""
    names_session: bool = False
    """Whether a request must name its session, which is optional in the original contract and AgentCore's."""
    session_header: str = SESSION_HEADER
    """The header that names the session of a completion."""
    allowed_content: frozenset[str] = frozenset()
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    trusted_senders: bool = True
    """Whether a request may name its sender."""
    webhooks: bool = True
    """Whether anything is sent to webhooks."""


class OpenApi:
    """The routes of the document, which is built once."""

    def __init__(self, described: Described) -> None:
        self._document = document(described)

    async def json(self, request: Request) -> Response:
        """Return the OpenAPI document (3.1) of this server."""
        return wire.answer({**self._document, "servers": [{"url": request.scope.get("root_path") or "/"}]})

    async def docs(self, request: Request) -> Response:
        """Return the document as a page that needs no network."""
        root = request.scope.get("root_path", "")
        shown = page(self._document, root, f"{_url_of(request)}{root}")
        return Response(shown, media_type="text/html", headers={"Content-Security-Policy": POLICY})


def _url_of(request: Request) -> str:
    """Return the address that a request was sent to, for the examples."""
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host if _HOST.fullmatch(host) else HOST}"


def document(server: Described | None = None) -> dict[str, Any]:
    """Return the OpenAPI document, without the address of a server."""
    server = server or Described()
    types = sorted(
        {
            kind
            for each in OPERATIONS
            for kind in (each.body, each.brief, each.refusals.form, *each.answers.values())
            if kind not in (None, str)
        },
        key=lambda kind: kind.__name__,  # (a stable order)
    )
    _, components = msgspec.json.schema_components([*types, wire.Problem], ref_template=event_schemas.REFS)
    components |= event_schemas.schemas()
    for name, more in BODIES.items():
        components[name] = {**components[name], "allOf": [more]}
    for name in (
        *("ChatBody", "CompletionBody", "ResponseRequest", "Invocation", "NewRunBody", "AgainBody", "ResolveBody"),
        *("RunOptions", "TokenRequest"),
    ):
        _bounded(components[name]["properties"], server)
    _bounded(components["DefaultOptions"]["properties"], server)
    components |= content_schemas.schemas(server.allowed_content)
    components["NewRunBody"]["properties"]["input"]["anyOf"][1]["items"] = content_schemas.BLOCK
    if server.names_session:
        _needed(components["ChatBody"], "session_id")
    _as_integer(components["MoveBody"]["properties"]["priority"])
    _as_integer(components["EditBody"]["properties"]["priority"])
    for name in ("NewScheduleBody", "ChangeScheduleBody"):
        _bounded(components[name]["properties"], server)
    for name in ("NewScheduleBody", "ChangeScheduleBody", "EditBody"):
        components[name]["properties"]["input"]["anyOf"][1]["items"] = content_schemas.BLOCK
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, server)
    for path in ("/v1/chat/completions", "/v1/responses"):
        for parameter in paths[path]["post"]["parameters"]:
            if parameter["name"] == SESSION_HEADER:
                parameter["name"] = server.session_header
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Strandline",
            "version": __version__,
            "description": "Runs of a stateful agent: durable, in order, and one at a time in each session.",
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in OPERATIONS)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": _KEY}},
    }


def _bounded(properties: dict[str, Any], server: Described) -> None:
    """Add the limits of the fields in a body that submits a run."""
    limits = {"timeout": server.timeout_s, "queue_timeout": server.queue_timeout_s}
    for name, most in ((name, most) for name, most in limits.items() if name in properties):
        number, null = properties[name]["anyOf"]
        bound = {} if most is None else {"maximum": most}
        properties[name]["anyOf"] = [{**number, "exclusiveMinimum": 0, **bound}, null]
    if not server.trusted_senders and "sender" in properties:
        properties["sender"] = {"type": "null", "default": None, "description": "Not taken by this server"}
    if not server.webhooks and "webhook" in properties:
        properties["webhook"] = {"type": "null", "default": None, "description": "Not taken by this server"}
    if "n" in properties:
        properties["n"] = {"enum": [1, None], "default": None}
    if "priority" in properties:
        _as_integer(properties["priority"])
    if "session_id" in properties:
        properties["session_id"]["anyOf"] = [_SESSION_ID, {"type": "null"}]


def _needed(body: dict[str, Any], name: str) -> None:
    """Make an optional field required."""
    described = body["properties"][name]
    (body["properties"][name],) = [each for each in described["anyOf"] if each != {"type": "null"}]
    body["required"] = [*body.get("required", ()), name]


def _as_integer(described: dict[str, Any]) -> None:
    """Describe a whole number as `integer`, which covers all its JSON forms."""
    described["anyOf"] = [each for each in described["anyOf"] if each["type"] != "number"]


def _described(operation: Operation, server: Described) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": _id_of(operation),
        "responses": _responses(operation),
    }
    if server.keys and wire.Unauthorized in operation.refused:
        described["security"] = [{"key": []}]
    if operation.takes:
        described["parameters"] = [_parameter(each, server) for each in operation.takes]
    if operation.body is not None:
        needed = operation.body.__name__ in BODIES.keys() - _CHANGES or any(
            field.required for field in msgspec.structs.fields(operation.body)
        )
        content: dict[str, Any] = {"schema": _ref(operation.body)}
        if (example := EXAMPLES.get(operation.body.__name__)) is not None:
            content["example"] = example
        described["requestBody"] = {"required": needed, "content": {_JSON: content}}
    if operation.uploads:
        described["requestBody"] = {
            "required": True,
            "content": {_BINARY: {"schema": {"type": "string", "format": "binary", "minLength": 1}}},
        }
    return described


def _parameter(key: str, server: Described) -> dict[str, Any]:
    name, where, schema, what = PARAMETERS[key]
    needed = where == "path"
    if key in _NAMING and server.names_session:
        needed, schema = True, {each: schema[each] for each in schema if each != "default"}
        what = what.partition(";")[0]
    described = {"name": name, "in": where, "required": needed, "schema": schema, "description": what}
    return described if (example := _NAMED.get(key)) is None else {**described, "example": example}


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in operation.answers.items():
        if kind is None:
            response: dict[str, Any] = {"description": "No content."}
        elif issubclass(kind, str):
            response = {"description": "Text.", "content": {_TEXT: {"schema": {"type": "string"}}}}
        else:
            text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
            schema = _ref(kind) if operation.brief is None else {"anyOf": [_ref(kind), _ref(operation.brief)]}
            response = {"description": text, "content": {_JSON: {"schema": schema}}}
        responses[str(status)] = response
        if names := _headers(operation, status):
            responses[str(status)]["headers"] = _shown(names)
    if operation.events is not None:
        response = responses.setdefault("200", {"description": "", "content": {}})
        response["description"] = f"{response['description']} Events, with `Accept: text/event-stream`.".lstrip()
        response["content"][MEDIA_TYPE] = event_schemas.media_type(operation.events)
    if operation.streams is not None:
        streamed = {"description": "Events.", "content": {}, "headers": _shown(_headers(operation, wire.OK))}
        response = responses.setdefault("200", streamed)
        response["content"][MEDIA_TYPE] = event_schemas.stream_of(operation.streams)
    if operation.exports:
        responses[str(wire.OK)] = {"description": "A zip.", "content": {"application/zip": {}}}
    if operation.downloads:
        for status, what in ((wire.OK, "The file."), (wire.PARTIAL, "A part of it.")):
            responses[str(status)] = {"description": what, "content": {"*/*": {}}}
    refusals: dict[int, list[str]] = {}
    for error in operation.refused:
        refusals.setdefault(operation.refusals.status_of(wire.STATUS[error]), []).append(error.code)
    for code, names in sorted(refusals.items()):
        refused = {
            "description": ", ".join(f"`{name}`" for name in names),
            "content": {operation.refusals.media_type: {"schema": _ref(operation.refusals.form)}},
        }
        if code in (wire.TOO_MANY, wire.UNAVAILABLE):
            refused["headers"] = _shown(["Retry-After"])
        if code == wire.UNAUTHORIZED:
            refused["headers"] = _shown(["WWW-Authenticate"])
        if code == wire.NOT_IN_RANGE:
            refused["headers"] = _shown(["Content-Range"])
        responses.setdefault(str(code), refused)
    return dict(sorted(responses.items()))


def _headers(operation: Operation, status: int) -> list[str]:
    """Return the names of the headers that an answer may have."""
    names = ["Preference-Applied"] if "prefer" in operation.takes else []
    if "key" in operation.takes:
        replayed = ["Idempotency-Replayed"]
        response = {
            wire.OK: replayed,
            wire.BROKEN: replayed,
            wire.UNPROCESSABLE: replayed,
            wire.ACCEPTED: ["Location", "Retry-After"],
            wire.NO_CONTENT: [*replayed, "Location"],
        }
        names += response.get(status, [])
        only_streams = operation.streams is not None and wire.OK not in operation.answers
        if (operation.events is not None or only_streams) and status == wire.OK:
            names.append("Location")
    if status == wire.CREATED:
        names.append("Location")
    if status == wire.UNAVAILABLE:
        names.append("Retry-After")
    return names


def _shown(names: list[str]) -> dict[str, Any]:
    return {name: {"schema": HEADERS[name][0], "description": HEADERS[name][1]} for name in names}


def _id_of(operation: Operation) -> str:
    """Return an operation's id, for generated clients."""
    words = [word.strip("{}") for word in operation.path.split("/") if word not in ("", "v1")]
    return "_".join([operation.method.lower(), *words])


def _ref(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": event_schemas.REFS.format(name=kind.__name__)}
