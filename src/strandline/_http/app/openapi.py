"""`/openapi.json` and `/docs`: the routes as a document, from the very types that requests are decoded with.

`OPERATIONS` says in words what each route is for; a test compares it with the routes that there are, and real answers
with the document.
"""

import re
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from strandline import __version__, errors
from strandline._http import wire
from strandline._http.app import content_schemas, event_schemas
from strandline._http.app.docs_page import POLICY, page
from strandline._http.dialects.agentcore import wire as agentcore_wire
from strandline._http.dialects.agentcore.wire import Invocation, InvocationAnswer, InvocationFailure, PingBody
from strandline._http.dialects.chat import ChatAnswer, ChatBody, HistoryAnswer
from strandline._http.dialects.openai.wire import Completion, CompletionBody, ErrorBody, Model, Models
from strandline._http.dialects.runs import NewRunBody
from strandline._http.exchange.sse import MEDIA_TYPE
from strandline._http.routes.events import TYPES
from strandline._http.routes.health import HealthBody, HealthWord, ProbeBody
from strandline._http.routes.runs import CancelBody, MoveBody, RunBody, RunsBody
from strandline._http.routes.sessions import (
    CancelledBody,
    CancelSessionBody,
    HistoryBody,
    SessionBody,
    SessionsBody,
)
from strandline._model import INTERRUPTS, OnQuestion, RunStatus

SESSION_HEADER: Final = "X-Session-Id"
_JSON: Final = "application/json"
_TEXT: Final = "text/plain"
_SESSION_ID: Final = {"type": "string", "pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._:@-]{1,256}$"}
HOST: Final = "127.0.0.1:8080"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
"""What may stand in a command that people copy; whatever else a `Host` is, the examples name the usual address."""
_NEXT: Final = "The `next_cursor` of the page before"
_RUNS_CURSOR: Final = r"^(w[0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,18}|r|h[0-9]{1,18})$"
_KEY_HEADER: Final = (
    r"^(?:[!#-~](?:[ -~]{0,253}[!-~])?"  # bare, where spaces around it are none of it
    r'|"(?:[ !#-\[\]-~]|\\["\\]){1,255}")$'  # quoted, as RFC 8941 has it
)
_SESSIONS_CURSOR: Final = r"^(?!(.+/)?\.{1,2}$)(.+/)?[A-Za-z0-9._:@-]{1,256}$"


def _nothing_of(*names: str) -> dict[str, Any]:
    """Return the schema of an object that has none of these, or null in their place."""
    return {"properties": {name: {"type": "null"} for name in names}}


def _some(name: str) -> dict[str, Any]:
    """Return the schema of an object that has this, and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


_ANSWERS: Final = {"if_busy": {"enum": ["enqueue", None]}, "on_question": {"type": "null"}}
"""RunOptions of a body that answers input requests: an answer goes before all others anyway."""
_ANSWERS_IN: Final[dict[str, Any]] = {
    "required": ["responses"],
    "properties": {"responses": {"type": "array", "minItems": 1}, **_ANSWERS},
}
_ALONE: Final = {"responses": {"type": "null"}}
_AT_ODDS: Final = {
    "not": {
        "required": ["if_busy", "on_question"],
        "properties": {
            "if_busy": {"enum": sorted(each.value for each in INTERRUPTS)},
            "on_question": {"const": OnQuestion.ANSWER.value},
        },
    }
}
"""RunOptions of which one excludes the other: an interrupt dismisses the question that the other one is to answer."""
BODIES: Final[dict[str, dict[str, Any]]] = {
    "ChatBody": {
        **_AT_ODDS,
        "anyOf": [
            {"required": ["message"], **_nothing_of("responses")},
            {**_ANSWERS_IN, "not": {"required": ["message"]}},
        ],
    },
    "CompletionBody": {
        **_AT_ODDS,
        "anyOf": [
            {"properties": {"messages": {"minItems": 1}, **_ALONE}},
            {**_ANSWERS_IN, "properties": {**_ANSWERS_IN["properties"], "messages": {"maxItems": 0}}},
        ],
        "properties": {
            "tools": {"maxItems": 0},
            "functions": {"maxItems": 0},
            "logprobs": {"enum": [False, None]},
            "response_format": {"properties": {"type": {"const": "text"}}},
            "modalities": {"items": {"const": "text"}},
        },
    },
    "Invocation": {
        **_AT_ODDS,
        "anyOf": [
            *({**_some(each), "allOf": [_nothing_of("responses")]} for each in ("prompt", "message", "input")),
            {**_ANSWERS_IN, "allOf": [_nothing_of("prompt", "message", "input")]},
        ],
    },
    "NewRunBody": {
        **_AT_ODDS,
        "anyOf": [
            {"properties": {"input": {"type": ["string", "array"], "minItems": 1}}},
            {"properties": {"input": {"type": "object"}, **_ANSWERS}},
        ],
    },
    "MoveBody": {
        "oneOf": [
            {**_some("priority"), "allOf": [{"properties": {"front": {"const": False}}}]},
            {"required": ["front"], "properties": {"front": {"const": True}, "priority": {"type": "null"}}},
        ]
    },
    "Responses": {"properties": {"responses": {"minItems": 1}}},
    "Response": {"properties": {"response": {"not": {"type": "null"}}}},
}
"""What types cannot say of bodies: which of their fields go together."""


EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "NewRunBody": {"input": "Hello"},
    "MoveBody": {"front": True},
    "ChatBody": {"session_id": "my-session", "message": "Hello"},
    "CompletionBody": {"user": "my-session", "messages": [{"role": "user", "content": "Hello"}]},
    "Invocation": {"prompt": "Hello"},
}
"""A body of each kind that is taken as it stands, with keys too; bodies that may be left out have none."""
_NAMED: Final = dict.fromkeys(("session", "of", "runtime_session"), "my-session")
"""What the examples have for parameters, so that they name their session."""
_NAMING: Final = frozenset({"of", "runtime_session"})
"""Parameters by which a session is named, that some servers want and others do without."""


class Refusals(Struct, frozen=True):
    """The form in which a route is refused: its media type, what it holds, and the status that it has for ours."""

    media_type: str
    form: type[Struct]
    status_of: Callable[[int], int] = int


_PROBLEMS: Final = Refusals("application/problem+json", wire.Problem)
_OPENAI: Final = Refusals(_JSON, ErrorBody, wire.without_422)
_AGENTCORE: Final = Refusals(_JSON, InvocationFailure, wire.without_422)


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one path: what it reads, what it answers by status, and what it may be refused with."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    tag: str
    summary: str
    body: type[Struct] | None = None
    answers: dict[int, type[Struct] | type[str] | None]
    events: str | None = None
    """The schema of events that may be its answer (200)."""
    brief: type[Struct] | None = None
    """What is answered in place of all that to those who ask by a name that is not the server's."""
    streams: str | None = None
    """What the events are about that another protocol has for its answer (200), if they are asked for."""
    refused: tuple[type[errors.StrandlineError], ...] = ()
    takes: tuple[str, ...] = ()
    """Names of `PARAMETERS`."""
    refusals: Refusals = _PROBLEMS


PARAMETERS: Final[dict[str, tuple[str, str, dict[str, Any], str]]] = {
    "run_id": ("run_id", "path", {"type": "string"}, "The id of a run"),
    "session": (
        "session_id",
        "path",
        _SESSION_ID,
        "The id of a session: 1 to 256 of A-Z a-z 0-9 . _ : @ -",
    ),
    "model": ("model", "path", {"type": "string"}, "The name of the agent"),
    "named": (
        SESSION_HEADER,
        "header",
        _SESSION_ID,
        "The session, before `metadata.session_id` and `user` in the body; one of them is needed, unless all share one",
    ),
    "runtime_session": (
        agentcore_wire.SESSION,
        "header",
        _SESSION_ID,
        "The session; `default` if it is left out",
    ),
    "request_id": (agentcore_wire.REQUEST_ID, "header", {"type": "string"}, "Kept in the metadata of the run"),
    "key": (
        "Idempotency-Key",
        "header",
        {"type": "string", "pattern": _KEY_HEADER},
        "The same request under the same key is the same run",
    ),
    "runs_cursor": ("cursor", "query", {"type": "string", "pattern": _RUNS_CURSOR}, _NEXT),
    "sessions_cursor": ("cursor", "query", {"type": "string", "pattern": _SESSIONS_CURSOR}, _NEXT),
    "number_cursor": ("cursor", "query", {"type": "string", "pattern": "^[0-9]{1,15}$"}, _NEXT),
    "prefer": ("Prefer", "header", {"type": "string"}, "`wait=N`: wait up to N seconds (at most 300) for the end"),
    "last": (
        "Last-Event-ID",
        "header",
        {"type": "string", "pattern": "^[0-9]{0,16}$"},
        "The `id` of the last event that you have had, to go on after it",
    ),
    "last_of_a_run": (
        "Last-Event-ID",
        "header",
        {"type": "string"},
        "Where the same run is asked for again under its key: the `id` of its last event that you have had",
    ),
    "sessions": (
        "session_id",
        "query",
        {"type": "array", "items": _SESSION_ID},
        "Tell of these sessions only; may be given more than once",
    ),
    "types": (
        "type",
        "query",
        {"type": "array", "items": {"enum": sorted(TYPES)}},
        "Tell events of these types only; may be given more than once, or as a list with commas",
    ),
    "status": (
        "status",
        "query",
        {"type": "array", "items": {"enum": [str(each) for each in RunStatus]}},
        "Runs of these statuses only; may be given more than once, or as a list with commas",
    ),
    "limit": (
        "limit",
        "query",
        {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        "Entries on a page",
    ),
    "discarded": ("discarded", "query", {"type": "boolean", "default": False}, "Show messages that are hidden, too"),
    "of": ("session_id", "query", {**_SESSION_ID, "default": "default"}, "The id of a session"),
    "count": (
        "count",
        "query",
        {"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 1},
        "How many messages; 0 is all",
    ),
    "tools": (
        "include_tool_messages",
        "query",
        {"type": "boolean", "default": False},
        "Show messages that hold nothing but tool blocks, too",
    ),
}

_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made with `strandline keys new NAME`; wanted only by servers that have keys",
}

HEADERS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "Location": ({"type": "string"}, "Where the run is read"),
    "Retry-After": ({"type": "integer", "minimum": 1}, "Seconds after which it is worth coming back"),
    "Preference-Applied": ({"type": "string"}, "`wait=N`, if that was preferred"),
    "WWW-Authenticate": ({"type": "string"}, "`Bearer`: a key is wanted, or another one"),
    "Idempotency-Replayed": ({"const": "true"}, "The run had ended before, under the same key"),
}
"""Headers of answers: what they look like and mean. Which answer has which: `_headers`."""

_DOOR: Final = (wire.Foreign, wire.Unauthorized)
_READING: Final = (*_DOOR, errors.NotReady, errors.JournalUnavailable)
_BODY: Final = (wire.Malformed, wire.BodyTooLarge, errors.Invalid)
_UNNAMED: Final = (*_BODY, errors.NoSession)
_ANSWERED: Final = (errors.NotFound, errors.AlreadyAnswered, errors.Dismissed)
_RUNS: Final = (
    errors.KeyReused,
    errors.SessionBusy,
    *_ANSWERED,
    errors.QueueFull,
    errors.PrincipalFull,
    errors.StorageFull,
    errors.DiskLow,
    errors.HoldsFull,
    errors.ServerFull,
    errors.Draining,
    errors.NoWorker,
)
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
              summary="Follow a run, from its place in the queue to its end", answers={204: None},
              events=event_schemas.OF_A_RUN, refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/runs/{run_id}/cancel", tag="runs", takes=("run_id",), summary="Cancel a run",
              body=CancelBody, answers={200: RunBody, 202: RunBody},
              refused=(errors.NotFound, errors.AlreadyEnded, *_V1)),
    Operation(method="POST", path="/v1/runs/{run_id}/move", tag="runs", takes=("run_id",),
              summary="Move a run that waits", body=MoveBody, answers={200: RunBody},
              refused=(errors.NotFound, errors.AlreadyEnded, errors.TooLate, *_V1)),
    Operation(method="GET", path="/v1/sessions", tag="sessions", takes=("limit", "sessions_cursor"),
              summary="List all sessions", answers={200: SessionsBody}, refused=(errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}", tag="sessions", takes=("session",),
              summary="Read a session", answers={200: SessionBody},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="DELETE", path="/v1/sessions/{session_id}", tag="sessions", takes=("session",),
              summary="Forget a session, its history, state and ended runs", answers={204: None},
              refused=(errors.NotFound, errors.SessionBusy, errors.Invalid, errors.Draining, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}/runs", tag="sessions",
              takes=("session", "limit", "runs_cursor"),
              summary="List the runs of a session", answers={200: RunsBody},
              refused=(errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/sessions/{session_id}/history", tag="sessions",
              takes=("session", "limit", "number_cursor", "discarded"), summary="Read the messages of a session",
              answers={200: HistoryBody}, refused=(errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/sessions/{session_id}/cancel", tag="sessions", takes=("session",),
              summary="Cancel what waits in a session, and what executes if that is wanted", body=CancelSessionBody,
              answers={200: CancelledBody, 202: CancelledBody}, refused=(errors.NotFound, *_V1)),
    Operation(method="POST", path="/v1/sessions/{session_id}/pause", tag="sessions", takes=("session",),
              summary="Let nothing more of a session start", answers={200: SessionBody},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="POST", path="/v1/sessions/{session_id}/resume", tag="sessions", takes=("session",),
              summary="Let a paused session go on", answers={200: SessionBody},
              refused=(errors.NotFound, errors.Invalid, *_READING)),
    Operation(method="GET", path="/v1/events", tag="sessions", takes=("sessions", "types", "last"),
              summary="Follow what changes anywhere", answers={}, events=event_schemas.OF_ALL,
              refused=(errors.Invalid, *_DOOR, errors.NotReady)),
    Operation(method="POST", path="/chat", tag="chat", takes=("key", "last_of_a_run"),
              summary="Accept a message, wait its turn and its answer", body=ChatBody,
              answers={200: ChatAnswer, 202: ChatAnswer, 204: None},
              events=event_schemas.OF_A_RUN, refused=(*_UNNAMED, *_READING, *_RUNS)),
    Operation(method="GET", path="/history", tag="chat", takes=("of", "count", "tools"),
              summary="Read the last messages of a session", answers={200: HistoryAnswer},
              refused=(errors.Invalid, errors.NoSession, *_READING)),
    Operation(method="POST", path="/v1/chat/completions", tag="openai", takes=("named", "key"),
              summary="Ask in the form of chat completions", body=CompletionBody,
              answers={200: Completion, 202: ErrorBody, 422: ErrorBody}, refusals=_OPENAI,
              streams="With `stream`: `data` is a `chat.completion.chunk` or an error, at last `[DONE]`",
              refused=(*_V1, errors.NoSession, *_RUNS)),
    Operation(method="GET", path="/v1/models", tag="openai", summary="List the agent as a model",
              answers={200: Models}, refused=_DOOR, refusals=_OPENAI),
    Operation(method="GET", path="/v1/models/{model}", tag="openai", takes=("model",),
              summary="Read the agent as a model", answers={200: Model}, refused=(errors.NotFound, *_DOOR),
              refusals=_OPENAI),
    Operation(method="POST", path="/invocations", tag="agentcore", takes=("runtime_session", "request_id", "key"),
              summary="Ask as AgentCore Runtime asks", body=Invocation,
              answers={200: InvocationAnswer, 202: InvocationAnswer, 500: InvocationFailure},
              streams="To whoever accepts them: `data` is a piece of the answer's text, or an object at the end",
              refusals=_AGENTCORE, refused=(*_UNNAMED, *_READING, *_RUNS)),
    Operation(method="GET", path="/ping", tag="agentcore", summary="See whether anything runs or waits",
              answers={200: PingBody}),
    Operation(method="GET", path="/health", tag="probes", summary="See what goes on, in numbers",
              answers={200: HealthBody, 503: HealthBody}, brief=HealthWord),
    Operation(method="GET", path="/livez", tag="probes", summary="See whether the process can answer",
              answers={200: ProbeBody}),
    Operation(method="GET", path="/readyz", tag="probes", summary="See whether runs are accepted",
              answers={200: ProbeBody, 503: ProbeBody}),
    Operation(method="GET", path="/metrics", tag="probes", summary="Read all metrics, in the form of Prometheus",
              answers={200: str}, refused=(*_DOOR, wire.OperatorsOnly)),
)  # fmt: skip


class Described(Struct, frozen=True, kw_only=True):
    """What a server's settings make of its document."""

    keys: bool = False
    """Whether it wants them."""
    names_session: bool = False
    """Whether a request has to name its session where the original contract, and AgentCore's, leave that open."""
    session_header: str = SESSION_HEADER
    """By which a completion names its session."""
    allowed_content: frozenset[str] = frozenset()
    timeout_s: float | None = None
    queue_timeout_s: float | None = None


class OpenApi:
    """The routes of the document, made once."""

    def __init__(self, described: Described) -> None:
        self._document = document(described)

    async def json(self, request: Request) -> Response:
        """Return the OpenAPI document (3.1) of this server."""
        return wire.answer({**self._document, "servers": [{"url": request.scope.get("root_path") or "/"}]})

    async def docs(self, request: Request) -> Response:
        """Return the document as a page that needs no network."""
        root = request.scope.get("root_path", "")
        shown = page(self._document, root, f"{_asked_at(request)}{root}")
        return Response(shown, media_type="text/html", headers={"Content-Security-Policy": POLICY})


def _asked_at(request: Request) -> str:
    """Return the address at which a server was asked, for examples that lead to it."""
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host if _HOST.fullmatch(host) else HOST}"


def document(server: Described | None = None) -> dict[str, Any]:
    """Return the OpenAPI document, without the address of a server."""
    server = server or Described()
    types = sorted(
        {
            kind
            for each in OPERATIONS
            for kind in (each.body, each.brief, *each.answers.values())
            if kind not in (None, str)
        },
        key=lambda kind: kind.__name__,  # (wherever they are declared)
    )
    _, components = msgspec.json.schema_components([*types, wire.Problem], ref_template=event_schemas.REFS)
    components |= event_schemas.schemas()
    for name, more in BODIES.items():
        components[name] = {**components[name], "allOf": [more]}
    for name in ("ChatBody", "CompletionBody", "Invocation", "NewRunBody"):
        _bounded(components[name]["properties"], server)
    components |= content_schemas.schemas(server.allowed_content)
    components["NewRunBody"]["properties"]["input"]["anyOf"][1]["items"] = content_schemas.BLOCK
    if server.names_session:
        _needed(components["ChatBody"], "session_id")
    _as_integer(components["MoveBody"]["properties"]["priority"])
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, server)
    for parameter in paths["/v1/chat/completions"]["post"]["parameters"]:
        if parameter["name"] == SESSION_HEADER:
            parameter["name"] = server.session_header
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Strandline",
            "version": __version__,
            "description": "Runs of a stateful agent: accepted, in line, strictly one at a time in each session.",
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in OPERATIONS)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": _KEY}},
    }


def _bounded(properties: dict[str, Any], server: Described) -> None:
    """Add what the fields of a body that asks for a run have to be besides their type."""
    for name, most in (("timeout", server.timeout_s), ("queue_timeout", server.queue_timeout_s)):
        number, null = properties[name]["anyOf"]
        bound = {} if most is None else {"maximum": most}
        properties[name]["anyOf"] = [{**number, "exclusiveMinimum": 0, **bound}, null]
    if "n" in properties:
        properties["n"] = {"enum": [1, None], "default": None}
    _as_integer(properties["priority"])
    if "session_id" in properties:
        properties["session_id"]["anyOf"] = [_SESSION_ID, {"type": "null"}]


def _needed(body: dict[str, Any], name: str) -> None:
    """Describe a field that may be left out, or null, as one that may not."""
    described = body["properties"][name]
    (body["properties"][name],) = [each for each in described["anyOf"] if each != {"type": "null"}]
    body["required"] = [*body.get("required", ()), name]


def _as_integer(described: dict[str, Any]) -> None:
    """Describe a whole number by the one type that a schema has for all its forms."""
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
        needed = operation.body.__name__ in BODIES or any(
            field.required for field in msgspec.structs.fields(operation.body)
        )
        content: dict[str, Any] = {"schema": _ref(operation.body)}
        if (example := EXAMPLES.get(operation.body.__name__)) is not None:
            content["example"] = example
        described["requestBody"] = {"required": needed, "content": {_JSON: content}}
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
            told: dict[str, Any] = {"description": "Nothing is left to tell."}
        elif issubclass(kind, str):
            told = {"description": "Text.", "content": {_TEXT: {"schema": {"type": "string"}}}}
        else:
            text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
            schema = _ref(kind) if operation.brief is None else {"anyOf": [_ref(kind), _ref(operation.brief)]}
            told = {"description": text, "content": {_JSON: {"schema": schema}}}
        responses[str(status)] = told
        if names := _headers(operation, status):
            responses[str(status)]["headers"] = _shown(names)
    if operation.events is not None:
        told = responses.setdefault("200", {"description": "", "content": {}})
        told["description"] = f"{told['description']} Events, to whoever accepts `text/event-stream`.".lstrip()
        told["content"][MEDIA_TYPE] = event_schemas.media_type(operation.events)
    if operation.streams is not None:
        responses["200"]["content"][MEDIA_TYPE] = event_schemas.stream_of(operation.streams)
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
        responses.setdefault(str(code), refused)
    return dict(sorted(responses.items()))


def _headers(operation: Operation, status: int) -> list[str]:
    """Return the names of the headers that an answer may have. A stop is why one may be told to come back."""
    names = ["Preference-Applied"] if "prefer" in operation.takes else []
    if "key" in operation.takes:
        replayed = ["Idempotency-Replayed"]
        told = {
            wire.OK: replayed,
            wire.BROKEN: replayed,
            wire.UNPROCESSABLE: replayed,
            wire.ACCEPTED: ["Location", "Retry-After"],
            wire.NO_CONTENT: [*replayed, "Location"],
        }
        names += told.get(status, [])
        if operation.events is not None and status == wire.OK:
            names.append("Location")
    if status == wire.UNAVAILABLE:
        names.append("Retry-After")
    return names


def _shown(names: list[str]) -> dict[str, Any]:
    return {name: {"schema": HEADERS[name][0], "description": HEADERS[name][1]} for name in names}


def _id_of(operation: Operation) -> str:
    """Return a name for those who generate clients."""
    words = [word.strip("{}") for word in operation.path.split("/") if word not in ("", "v1")]
    return "_".join([operation.method.lower(), *words])


def _ref(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": event_schemas.REFS.format(name=kind.__name__)}
