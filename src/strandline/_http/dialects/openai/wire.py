"""OpenAI's chat completions on the wire: requests, answers and errors. Values only.

Source: the API reference of OpenAI, "Chat", "Streaming" and "Errors". Other servers of this protocol
also send the model's reasoning as `reasoning_content`; `strandline` is our own extension.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from strandline._encoding import encode
from strandline._http import wire
from strandline._http.dialects.base64_content import decoded
from strandline._http.dialects.client_history import INSTRUCTIONS
from strandline._http.dialects.openai import client_options
from strandline._http.dialects.openai.results import text_in
from strandline._http.exchange.run_request import Response as Answered
from strandline._http.exchange.run_request import Responses, RunOptions
from strandline._http.routes.runs import AgentStateThen, EffectBody
from strandline._model import Block, ClientOptions, Input, InputRequest, RunId, RunStatus, SessionId
from strandline.errors import Invalid, StorageFull

READS: Final = "The body is an object with `messages`, the last of them the user's"

_PARAM: Final = re.compile(r"at `\$\.([^`]+)`|missing required field `(\w+)`(?!.* at `\$)")
_DATA_URL: Final = re.compile(r"data:image/(png|jpeg|jpg|gif|webp);base64,(.*)", re.DOTALL)

_Metadata = Annotated[
    dict[str, Any] | None, Meta(description="Stored with the run, except `session_id`, which names the session")
]
FinishReason = Literal["stop", "length", "tool_calls"]
ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


# -- requests -----------------------------------------------------------------------------------------


class ChatMessage(Struct, frozen=True):
    """A message of the client's copy of the conversation."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_call_id: Annotated[str | None, Meta(description="With role `tool`: the call whose result this is")] = None


class StreamOptions(Struct, frozen=True):
    """Options of a stream."""

    include_usage: bool | None = None


class CompletionBody(RunOptions, frozen=True, kw_only=True):
    """A request for a completion; other keys are ignored."""

    messages: Annotated[
        list[ChatMessage],
        Meta(
            description="The last one must be the user's and is the input, or the last ones are the results of the"
            " client's tools that the run before has called; the server has the others",
            examples=[[{"role": "user", "content": "Hello"}]],
        ),
    ]
    responses: Annotated[
        list[Answered] | None,
        Meta(description="Answers to input requests; `messages` must be empty, or end with results of tools"),
    ] = None
    model: Annotated[str | None, Meta(description="Any name; there is one agent")] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, Meta(description="The session, if neither the header nor `metadata` names one")] = None
    metadata: _Metadata = None
    n: float | None = None
    tools: Annotated[
        list[dict[str, Any]] | None, Meta(description="Functions that the client executes, beside the agent's tools")
    ] = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    logprobs: bool | None = None
    response_format: Annotated[
        dict[str, Any] | None,
        Meta(description="`text`, `json_object` or `json_schema`: the answer is then one JSON object of that schema"),
    ] = None
    modalities: list[str] | None = None


def prompt_of(body: CompletionBody, before: int = 0) -> Input | Responses:
    """Return the input; `before` earlier messages were discarded. Raises `Invalid`."""
    _refuse_what_is_not_there(body)
    results = _results_of(body.messages, before)
    if body.responses is not None:
        if body.messages and not results:
            raise Invalid("messages and responses do not go together: answer first, then send a message")
        return Responses([*body.responses, *results])
    if results:
        return Responses(results)
    said = [number for number, each in enumerate(body.messages) if each.role not in INSTRUCTIONS]
    if not said or body.messages[said[-1]].role != "user":
        raise Invalid(f"The last message must be the user's - at `$.messages`. {READS}")
    content, there = body.messages[said[-1]].content, f"$.messages[{before + said[-1]}].content"
    if isinstance(content, str):
        return content
    if not content:
        raise Invalid(f"A message needs content: a text, or a list of parts - at `{there}`")
    return [_block(part, f"{there}[{number}]") for number, part in enumerate(content)]


def _results_of(messages: list[ChatMessage], before: int) -> list[Answered]:
    """Return the results of tools with which a conversation ends. Raises `Invalid`."""
    results: list[Answered] = []
    for number in range(len(messages) - 1, -1, -1):
        message, there = messages[number], f"$.messages[{before + number}]"
        if message.role in INSTRUCTIONS:
            continue
        if message.role != "tool":
            break
        if not message.tool_call_id:
            raise Invalid(f"The result of a tool needs the id of its call - at `{there}.tool_call_id`")
        results.append(Answered(message.tool_call_id, text_in(message.content or "", "text", f"{there}.content")))
    return results[::-1]


def client_options_of(body: CompletionBody) -> ClientOptions | None:
    """Return what the client wants of the agent. Raises `Invalid`."""
    form = client_options.format_of(body.response_format, "$.response_format")
    return client_options.client_options_of(form, body.tools, body.tool_choice, body.parallel_tool_calls)


def _refuse_what_is_not_there(body: CompletionBody) -> None:
    """Raise `Invalid` for options that change the format of the answer. Others, such as temperature, are ignored."""
    unsupported = {
        "n": body.n not in (None, 1),
        "functions": bool(body.functions),
        "logprobs": bool(body.logprobs),
        "modalities": any(each != "text" for each in body.modalities or ()),
    }
    for name, is_set in unsupported.items():
        if is_set:
            hint = "send `tools`" if name == "functions" else "the agent gives one answer, of text"
            raise Invalid(f"Leave this out: {hint} - at `$.{name}`")


def _block(part: dict[str, Any], there: str) -> Block:
    """Return a part of a message as a block of Strands. Raises `Invalid`."""
    if part.get("type") == "text" and isinstance(part.get("text"), str):
        return {"text": part["text"]}
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if part.get("type") == "image_url" and isinstance(url, str):
        return image_of(url, there)
    raise Invalid(f"A part must be of type text or image_url, with a field of that name - at `{there}`")


def image_of(url: str, there: str) -> Block:
    """Return the block of an image that was sent as a data: URL. Raises `Invalid`."""
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise Invalid(
            f"An image must be a data: URL (base64 of png, jpeg, gif or webp); no URL is fetched - at `{there}`"
        )
    data = decoded(found[2], "image", there)
    return {"image": {"format": "jpeg" if found[1] == "jpg" else found[1], "source": {"bytes": data}}}


# -- answers ------------------------------------------------------------------------------------------


class Tokens(Struct, frozen=True, omit_defaults=True):
    """The tokens of the whole run, over all its model calls."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | UnsetType = UNSET


class Extension(Struct, frozen=True):
    """Fields that this protocol lacks: the session, the run's status, and its questions to a person."""

    session_id: SessionId
    status: RunStatus
    input_requests: list[InputRequest]
    after: Annotated[
        RunId | UnsetType | None,
        Meta(
            description="If the request's messages differ: the run after which history continued; null: its beginning"
        ),
    ] = UNSET
    superseded: Annotated[list[RunId] | UnsetType, Meta(description="The runs that are superseded thereby")] = UNSET
    effects: Annotated[
        list[EffectBody] | UnsetType | None,
        Meta(description="Their tools that have acted, or perhaps; null: they cannot be seen"),
    ] = UNSET
    agent_state: AgentStateThen | UnsetType = UNSET


class CalledFunction(Struct, frozen=True, kw_only=True):
    """What is called; `arguments` are JSON, as the model gave them."""

    name: str
    arguments: str


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call of a tool of the client's; `id` is that of the input request that it is."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Said(Struct, frozen=True, kw_only=True):
    """The answer; `content` is null if it only calls tools."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(Struct, frozen=True, kw_only=True):
    """The only choice."""

    index: Literal[0] = 0
    message: Said
    logprobs: None = None
    finish_reason: FinishReason


class Completion(Struct, frozen=True, kw_only=True):
    """A whole answer; `id` is the run's. With `stream` it is sent in pieces, as server-sent events."""

    id: RunId
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Tokens | UnsetType = UNSET
    strandline: Extension


class Model(Struct, frozen=True, kw_only=True):
    """The agent, as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["strandline"] = "strandline"


class Models(Struct, frozen=True, kw_only=True):
    """The list of models, which has one."""

    object: Literal["list"] = "list"
    data: list[Model]


def calls_in(requests: list[InputRequest]) -> list[ToolCall]:
    """Return the calls of the client's tools among input requests."""
    return [
        ToolCall(
            id=each.id,
            function=CalledFunction(
                name=each.name, arguments=encode({} if each.reason is None else each.reason).decode()
            ),
        )
        for each in requests
        if each.client_tool is True
    ]


def tokens(usage: dict[str, int] | None) -> Tokens | UnsetType:
    """Return the token usage in the format of this protocol; UNSET if it is unknown."""
    if usage is None:
        return UNSET
    given, said = usage.get("inputTokens", 0), usage.get("outputTokens", 0)
    cached = usage.get("cacheReadInputTokens")
    return Tokens(
        given,
        said,
        usage.get("totalTokens", given + said),
        UNSET if cached is None else {"cached_tokens": cached},
    )


# -- errors -------------------------------------------------------------------------------------------


class ErrorDetail(Struct, frozen=True, kw_only=True):
    """Why there is no answer; `param` is the wrong field of the request, `code` is our stable code."""

    message: str
    type: ErrorType
    param: str | None
    code: str
    run_id: RunId | UnsetType = UNSET
    """The accepted run without an answer (yet)."""
    position: int | UnsetType = UNSET
    estimated_wait_s: float | UnsetType | None = UNSET


class ErrorBody(Struct, frozen=True):
    """An error in OpenAI's format."""

    error: ErrorDetail


def refusal(problem: Response, *, keyed: bool = False) -> Response:
    """Return a problem document in OpenAI's format. `keyed`: a repeated request is the same run.

    Its clients retry 409, 429 and 5xx by themselves. A header stops them where a retry does not help: after 409 the
    request did not want to wait or is too late, after a defect its effects are unknown, and full storage stays full
    until sessions are deleted; and where it would be another run, since the answer of a server was lost.
    """
    ours = msgspec.json.decode(problem.body, type=wire.Problem)
    status = wire.without_422(ours.status)
    found = _PARAM.search(ours.detail)
    error = ErrorDetail(
        message=ours.detail,
        type=_type_of(status),
        param=found and (found[1] or found[2]),
        code=ours.code,
        position=ours.position,
        estimated_wait_s=ours.estimated_wait_s,
    )
    headers = wire.headers_beside(problem)
    lasts = status in (wire.CONFLICT, wire.BROKEN) or ours.code == StorageFull.code
    lasts = lasts and not (status == wire.CONFLICT and "retry-after" in headers)
    again = SEND_NO_MORE if lasts or (ours.code == wire.AnswerLost.code and not keyed) else {}
    return failure(error, status, headers | again)


def failure(error: ErrorDetail, status: int, headers: Mapping[str, str]) -> Response:
    """Return an error as a response."""
    return Response(encode(ErrorBody(error)) + b"\n", status, headers, media_type="application/json")


def failed(message: str, code: str, run_id: RunId, *, again: bool = False) -> ErrorDetail:
    """Return the error of an accepted run; `again`: a repeated request gets its answer later.

    Clients retry a `server_error`, even in a stream, where an error has no status: Vercel's checks the type until the
    first text arrives. An error that must not be retried has the type `invalid_request_error`.
    """
    kind: ErrorType = "server_error" if again else "invalid_request_error"
    return ErrorDetail(message=message, type=kind, param=None, code=code, run_id=run_id)


ENDED: Final = wire.UNPROCESSABLE
"""The status of a run that ended without an answer: clients do not retry it, as they do 408, 409, 429 and 5xx. No other
answer of this protocol has it (`wire.without_422`)."""
SEND_NO_MORE: Final = {"X-Should-Retry": "false"}
"""OpenAI's own clients obey it. Otherwise they retry 409 and 5xx, which would be another run."""
SEND_AGAIN: Final = {"X-Should-Retry": "true"}


def _type_of(status: int) -> ErrorType:
    if status == wire.TOO_MANY:
        return "rate_limit_error"
    return "server_error" if status >= wire.BROKEN else "invalid_request_error"
