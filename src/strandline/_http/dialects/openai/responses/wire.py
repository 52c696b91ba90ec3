"""OpenAI's responses on the wire: requests, and a run as a response. Values only.

Source: the API reference of OpenAI, "Responses". `strandline` is our own extension, as in chat completions.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from strandline._http.exchange.run_request import RunOptions
from strandline._journal.port import BY_LIST
from strandline._model import InputRequest, Outcome, RunError, RunId, RunStatus, SessionId
from strandline.errors import NotFound

READS: Final = "The body is an object with `input`, a text or a list that ends with a message of the user's"
PREFIX: Final = "resp_"
_CALL: Final = re.compile(r"call_(run_[0-9a-f]+):(.+)", re.DOTALL)
MARK: Final = "openai"
"""The key of a run's metadata for what its request said that later answers repeat."""
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

Questions = Literal["function_call", "mcp_approval_request", "text"]
"""As what a response shows questions to a person."""
_APPROVAL: Final = "mcp_approval_request"
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class ConversationRef(Struct, frozen=True):
    """A conversation, by its id: a session."""

    id: str


class WantedText(Struct, frozen=True):
    """What an answer should be like; other keys are ignored."""

    format: Annotated[
        dict[str, Any] | None,
        Meta(description="`text`, `json_object` or `json_schema`: the answer is then one JSON object of that schema"),
    ] = None


class ResponseRequest(RunOptions, frozen=True, kw_only=True):
    """A request for a response; other keys are ignored."""

    input: Annotated[
        str | list[dict[str, Any]],
        Meta(
            description="A text, or items of which the last are the user's messages, or results of the client's tools"
            " and answers to questions; the server has the earlier ones",
            examples=["Hello"],
        ),
    ]
    model: Annotated[str | None, Meta(description="Any name; there is one agent")] = None
    stream: bool | None = None
    background: Annotated[
        bool | None, Meta(description="Answer at once, with status `queued`: read the response until it has ended")
    ] = None
    conversation: Annotated[
        str | ConversationRef | None, Meta(description="The session; without any, the response begins a new one")
    ] = None
    previous_response_id: Annotated[
        str | None,
        Meta(
            description="The response after which the conversation continues. If it is not the last one of its session,"
            " what came later is superseded, as with `after`"
        ),
    ] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="Stored with the run, and passed to its tools")] = None
    questions: Annotated[
        Questions | None,
        Meta(description="As what items the agent's questions to a person come; default: `function_call`"),
    ] = None
    store: Annotated[bool | None, Meta(description="Not false: every run is stored")] = None
    tools: Annotated[
        list[dict[str, Any]] | None, Meta(description="Functions that the client executes, beside the agent's tools")
    ] = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: WantedText | None = None
    prompt: dict[str, Any] | None = None
    top_logprobs: float | None = None

    @property
    def conversation_id(self) -> str | None:
        """The id of the named conversation."""
        named = self.conversation
        return named.id if isinstance(named, ConversationRef) else named


class OutputText(Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """A text."""

    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class OutputMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message of the agent."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningText(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning_text"):
    """A text of the model's reasoning."""

    text: str


class Reasoning(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """Reasoning of the agent's model."""

    id: str
    status: ItemStatus
    summary: list[Any] = []
    content: list[ReasoningText]


class FunctionCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A call of a tool of the client's, or a question to a person: a `function_call_output` with its `call_id` is the
    result, or the answer, any JSON."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus = "completed"


class ApprovalRequest(Struct, frozen=True, kw_only=True, tag_field="type", tag="mcp_approval_request"):
    """A question to a person: answer it by an `mcp_approval_response` with its `id`, yes or no."""

    id: str
    server_label: str
    name: str
    arguments: str


Item = OutputMessage | Reasoning | FunctionCall | ApprovalRequest


class CachedTokens(Struct, frozen=True, kw_only=True):
    """Tokens of the input that the provider had, or keeps from now on."""

    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(Struct, frozen=True, kw_only=True):
    """Tokens of reasoning, which are not counted apart."""

    reasoning_tokens: int = 0


class ResponseUsage(Struct, frozen=True, kw_only=True):
    """The tokens of the whole run, over all its model calls."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseError(Struct, frozen=True, kw_only=True):
    """Why there is no answer. `code` is one of OpenAI's, since clients check that; that of the run is in `strandline`.

    Vercel's client sends a request again that has failed with any other code before the first text, which would be
    another run; it needs `type` as well.
    """

    code: Literal["invalid_prompt"] = "invalid_prompt"
    message: str
    type: Literal["invalid_request_error"] = "invalid_request_error"
    param: None = None


class IncompleteDetails(Struct, frozen=True, kw_only=True):
    """Why the answer was cut off."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseExtension(Struct, frozen=True, kw_only=True):
    """Fields that this protocol lacks: the session, the run's status, its questions to a person, and its error."""

    session_id: SessionId
    status: RunStatus
    input_requests: list[InputRequest] = []
    error: RunError | None = None


class TextFormat(Struct, frozen=True, tag_field="type", tag="text"):
    """Plain text."""


class TextConfig(Struct, frozen=True):
    """The format of the answer."""

    format: TextFormat = TextFormat()


class ResponseObject(Struct, frozen=True, kw_only=True):
    """A run as a response. `output` is the last message, empty until the run has ended."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    conversation: ConversationRef
    previous_response_id: str | None
    instructions: None = None
    max_output_tokens: None = None
    metadata: dict[str, Any]
    model: str
    output: list[Item] = []
    parallel_tool_calls: bool = True
    store: Literal[True] = True
    temperature: None = None
    text: Annotated[TextConfig | None, Meta(description="Null if the request wanted a format")] = TextConfig()
    tool_choice: Literal["auto"] = "auto"
    tools: list[Any] = []
    top_p: None = None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    strandline: ResponseExtension


class ConversationRequest(Struct, frozen=True, kw_only=True):
    """A request for a conversation; other keys are ignored."""

    items: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] | None = None


class ConversationChange(Struct, frozen=True, kw_only=True):
    """What to change of a conversation; other keys are ignored."""

    metadata: Annotated[
        dict[str, Any] | None,
        Meta(description="Stored with each later response, beside its own `metadata`, whose names win; null: none"),
    ]


class ConversationObject(Struct, frozen=True, kw_only=True):
    """A session as a conversation. `created_at` is 0 if it has got its name otherwise."""

    id: SessionId
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, Any] = {}


class ConversationDeleted(Struct, frozen=True, kw_only=True):
    """A conversation that is deleted, with its history."""

    id: SessionId
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


class AboutRun(Struct, frozen=True, kw_only=True):
    """What all answers about one run have in common."""

    run_id: RunId
    session_id: SessionId
    created_at: float
    model: str
    metadata: dict[str, Any]
    """As it is stored, with the mark."""

    @property
    def mark(self) -> dict[str, Any]:
        """What its request said that later answers repeat."""
        found = self.metadata.get(MARK)
        return found if isinstance(found, dict) else {}

    @property
    def is_background(self) -> bool:
        """Whether its client does not wait for it."""
        return self.mark.get("background") is True

    @property
    def has_format(self) -> bool:
        """Whether its answer has a format, so that no other text may be sent."""
        return self.mark.get("has_format") is True

    @property
    def questions(self) -> Questions:
        """As what its questions come."""
        how = self.mark.get("questions")
        return "text" if how == "text" else _APPROVAL if how == _APPROVAL else "function_call"


def response_id(run_id: RunId) -> str:
    """Return the id of a run's response."""
    return PREFIX + run_id


def run_id_of(response: str) -> RunId:
    """Return the run of a response. Raises `NotFound` for what cannot be the id of one."""
    if not response.startswith(PREFIX):
        raise NotFound(f"there is no response {response}: the ids of responses begin with {PREFIX}")
    return RunId(response.removeprefix(PREFIX))


def call_id_of(run_id: RunId, request_id: str) -> str:
    """Return the id of a call of a client's tool. It names the run as well, since providers may repeat their ids."""
    return f"call_{run_id}:{request_id}"


def called(call_id: str) -> str | None:
    """Return the input request that is a call of a client's tool; None for the id of any other."""
    found = _CALL.fullmatch(call_id)
    return None if found is None else found[2]


def marked(metadata: Mapping[str, Any] | None, body: ResponseRequest, *, has_format: bool) -> dict[str, Any]:
    """Return the metadata of a run that are a request's, with what later answers repeat of it; `has_format`: its answer
    is not any text."""
    given = {name: value for name, value in (metadata or {}).items() if name != MARK}
    mark: dict[str, Any] = {}
    if body.background:
        mark["background"] = True
    if has_format:
        mark["has_format"] = True
    if body.questions is not None:
        mark["questions"] = body.questions
    if body.previous_response_id is not None:
        mark["previous_response_id"] = body.previous_response_id
    return {**given, MARK: mark} if mark else given


def response_of(
    run: AboutRun,
    status: ResponseStatus,
    *,
    run_status: RunStatus,
    output: list[Item] | None = None,
    end: Outcome | None = None,
    error: str | None = None,
    waits_for: list[InputRequest] | None = None,
) -> ResponseObject:
    """Return a run as a response; `end` is its outcome, `error` why it has no answer. `waits_for` are the questions of
    its session that it waits for."""
    said = run.mark
    previous = said.get("previous_response_id")
    return ResponseObject(
        id=response_id(run.run_id),
        created_at=int(run.created_at),
        status=status,
        background=run.is_background,
        error=None if error is None else ResponseError(message=error),
        incomplete_details=IncompleteDetails() if status == "incomplete" else None,
        conversation=ConversationRef(run.session_id),
        previous_response_id=previous if isinstance(previous, str) else None,
        metadata={name: value for name, value in run.metadata.items() if name not in (MARK, BY_LIST)},
        model=run.model,
        output=output or [],
        text=None if run.has_format else TextConfig(),
        usage=None if end is None else usage_of(end.usage),
        strandline=ResponseExtension(
            session_id=run.session_id,
            status=run_status,
            input_requests=(waits_for or []) if end is None else end.input_requests,
            error=None if end is None else end.error,
        ),
    )


def usage_of(usage: dict[str, int] | None) -> ResponseUsage | None:
    """Return the token usage in the format of this protocol; None if it is unknown."""
    if usage is None:
        return None
    given, said = usage.get("inputTokens", 0), usage.get("outputTokens", 0)
    details = CachedTokens(
        cached_tokens=usage.get("cacheReadInputTokens", 0), cache_write_tokens=usage.get("cacheWriteInputTokens", 0)
    )
    return ResponseUsage(
        input_tokens=given,
        input_tokens_details=details,
        output_tokens=said,
        output_tokens_details=ReasoningTokens(),
        total_tokens=usage.get("totalTokens", given + said),
    )
