"""OpenAI's chat completions on the wire: what is read, what is answered, and the form of errors. Values only.

Source: the API reference of OpenAI, "Chat", "Streaming" and "Errors". `reasoning_content` is what other servers of this
protocol call the model's reasoning; `strandline` is ours alone.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from strandline._encoding import encode
from strandline._http import wire
from strandline._http.exchange.run_request import Response as Answered
from strandline._http.exchange.run_request import Responses, RunOptions
from strandline._model import Block, Input, InputRequest, RunId, RunStatus, SessionId
from strandline.errors import Invalid, StorageFull

READS: Final = "The body is an object with `messages`, the last of them the user's"

_PARAM: Final = re.compile(r"at `\$\.([^`]+)`|missing required field `(\w+)`(?!.* at `\$)")
_DATA_URL: Final = re.compile(r"data:image/(png|jpeg|jpg|gif|webp);base64,(.*)", re.DOTALL)
INSTRUCTIONS: Final = frozenset({"system", "developer"})
"""Roles of messages that are not looked at: the agent has a system prompt of its own."""

_Metadata = Annotated[
    dict[str, Any] | None, Meta(description="Kept with the run, but for `session_id`, which names the session")
]
FinishReason = Literal["stop", "length"]
ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


# -- what is read -------------------------------------------------------------------------------------


class ChatMessage(Struct, frozen=True):
    """A message of the conversation, as the client has it."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(Struct, frozen=True):
    """What a stream is to tell besides."""

    include_usage: bool | None = None


class CompletionBody(RunOptions, frozen=True, kw_only=True):
    """What a completion is asked for with; further keys are ignored."""

    messages: Annotated[
        list[ChatMessage],
        Meta(
            description="The last one is the user's, and the input; the server has the others",
            examples=[[{"role": "user", "content": "Hello"}]],
        ),
    ]
    responses: Annotated[
        list[Answered] | None, Meta(description="With `messages` empty: answers to input requests")
    ] = None
    model: Annotated[str | None, Meta(description="Any name; there is one agent")] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, Meta(description="The session, if neither header nor metadata names one")] = None
    metadata: _Metadata = None
    n: float | None = None
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None


def prompt_of(body: CompletionBody, before: int = 0) -> Input | Responses:
    """Return what the agent is asked; `before` messages were left out. Raises `Invalid` if it cannot be asked so."""
    _refuse_what_is_not_there(body)
    if body.responses is not None:
        if body.messages:
            raise Invalid("messages and responses do not go together: answer first, then say what you like")
        return Responses(body.responses)
    said = [number for number, each in enumerate(body.messages) if each.role not in INSTRUCTIONS]
    if not said or body.messages[said[-1]].role != "user":
        raise Invalid(f"There is no message of the user at the end - at `$.messages`. {READS}")
    content, there = body.messages[said[-1]].content, f"$.messages[{before + said[-1]}].content"
    if isinstance(content, str):
        return content
    if not content:
        raise Invalid(f"A message needs content, a text or parts - at `{there}`")
    return [_block(part, f"{there}[{number}]") for number, part in enumerate(content)]


def _refuse_what_is_not_there(body: CompletionBody) -> None:
    """Raise `Invalid` for what would change the form of the answer; what only colours it is ignored."""
    unsupported = {
        "n": body.n not in (None, 1),
        "tools": bool(body.tools),
        "functions": bool(body.functions),
        "logprobs": bool(body.logprobs),
        "response_format": (body.response_format or {}).get("type", "text") != "text",
        "modalities": any(each != "text" for each in body.modalities or ()),
    }
    for name, is_set in unsupported.items():
        if is_set:
            raise Invalid(f"The agent gives one answer in text, with tools of its own; leave this out - at `$.{name}`")


def _block(part: dict[str, Any], there: str) -> Block:
    """Return a part of a message in the form of Strands. Raises `Invalid`."""
    if part.get("type") == "text" and isinstance(part.get("text"), str):
        return {"text": part["text"]}
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if part.get("type") == "image_url" and isinstance(url, str):
        found = _DATA_URL.fullmatch(url)
        if found is None:
            raise Invalid(
                f"An image must be a data: URL, base64 of png, jpeg, gif or webp; none is fetched - at `{there}`"
            )
        try:
            data = base64.b64decode(found[2], validate=True)
        except binascii.Error as error:
            raise Invalid(f"The image is not base64: {error} - at `{there}`") from None
        return {"image": {"format": "jpeg" if found[1] == "jpg" else found[1], "source": {"bytes": data}}}
    raise Invalid(f"A part must be of type text or image_url, and have that - at `{there}`")


# -- what is answered ---------------------------------------------------------------------------------


class Tokens(Struct, frozen=True, omit_defaults=True):
    """What the whole run has used, over all its calls of the model."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | UnsetType = UNSET


class Extension(Struct, frozen=True):
    """What this protocol has no words for: where it was said, how the run has ended, and what it asks a person."""

    session_id: SessionId
    status: RunStatus
    input_requests: list[InputRequest]


class Said(Struct, frozen=True, kw_only=True):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET


class Choice(Struct, frozen=True, kw_only=True):
    """The one choice there is."""

    index: Literal[0] = 0
    message: Said
    logprobs: None = None
    finish_reason: FinishReason


class Completion(Struct, frozen=True, kw_only=True):
    """A whole answer; `id` is that of its run. With `stream` the same comes in pieces, as server-sent events."""

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
    """All there are: one."""

    object: Literal["list"] = "list"
    data: list[Model]


def tokens(usage: dict[str, int] | None) -> Tokens | UnsetType:
    """Return a usage record of Strands in the words of this protocol; nothing if nobody has counted."""
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
    """Why there is no answer; `param` is what of the request is wrong, `code` is ours and stable."""

    message: str
    type: ErrorType
    param: str | None
    code: str
    run_id: RunId | UnsetType = UNSET
    """The run that was accepted, and has no answer (yet)."""
    position: int | UnsetType = UNSET
    estimated_wait_s: float | UnsetType | None = UNSET


class ErrorBody(Struct, frozen=True):
    """An error in OpenAI's form."""

    error: ErrorDetail


def refusal(problem: Response) -> Response:
    """Return a problem document in OpenAI's form.

    Its clients send again by themselves what gets 409, 429 or 500, which they are told not to do where it is no use:
    with 409 they wanted no waiting, or are too late for good, nobody knows what was done before a defect, and storage
    is full until somebody deletes.
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
    lasts = status in (wire.CONFLICT, wire.BROKEN) or ours.code == StorageFull.code
    again = SEND_NO_MORE if lasts else {}
    return failure(error, status, wire.headers_beside(problem) | again)


def failure(error: ErrorDetail, status: int, headers: Mapping[str, str]) -> Response:
    """Return an error as a response."""
    return Response(encode(ErrorBody(error)) + b"\n", status, headers, media_type="application/json")


def failed(message: str, code: str, run_id: RunId, *, again: bool = False) -> ErrorDetail:
    """Return the error of a run that was accepted; `again`: the same request gets its answer later.

    Clients take `server_error` for "send it again", also in a stream, where an error has no status: Vercel's looks at
    the type until the first text has come. What is not to be sent again has the type of all that is the client's to
    change.
    """
    kind: ErrorType = "server_error" if again else "invalid_request_error"
    return ErrorDetail(message=message, type=kind, param=None, code=code, run_id=run_id)


ENDED: Final = wire.UNPROCESSABLE
"""The status of a run that has ended without an answer: no client tries that again, as they do 408, 409, 429 and 5xx.
Nothing else has it in this protocol (`wire.without_422`)."""
SEND_NO_MORE: Final = {"X-Should-Retry": "false"}
"""Heeded by OpenAI's own clients, which otherwise send the same again after 409 and 5xx: as another run."""
SEND_AGAIN: Final = {"X-Should-Retry": "true"}


def _type_of(status: int) -> ErrorType:
    if status == wire.TOO_MANY:
        return "rate_limit_error"
    return "server_error" if status >= wire.BROKEN else "invalid_request_error"
