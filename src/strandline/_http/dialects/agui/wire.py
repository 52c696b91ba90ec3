"""AG-UI on the wire: requests, events and errors. Values only.

Source: the schema of AG-UI 1.0, with its packages `ag-ui-protocol` and `@ag-ui/client` 1.0.0. `strandline`, in
`forwardedProps` and in `metadata`, is our own extension.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from strandline._encoding import encode
from strandline._engine.events import RunFinished
from strandline._engine.requests import request_id_of
from strandline._files.kinds import SHOWN_AS
from strandline._http import wire
from strandline._http.dialects.base64_content import decoded
from strandline._http.exchange.idempotency import key_in_body
from strandline._http.exchange.run_request import Response as Answered
from strandline._http.exchange.run_request import Responses, RunOptions
from strandline._http.routes.runs import AgentStateThen, EffectBody
from strandline._model import Block, ClientOptions, ClientTool, Input, InputRequest, RunId, RunStatus, SessionId
from strandline.errors import Invalid

READS: Final = "The body is an AG-UI `RunAgentInput`: `threadId`, `runId` and `messages`"
_OURS: Final = "run_"
"""How the ids of messages begin that runs of this server have said."""


# -- requests -----------------------------------------------------------------------------------------


class ListedMessage(Struct, frozen=True, rename="camel"):
    """A message of the client's copy of the conversation."""

    id: str
    role: str
    content: str | list[dict[str, Any]] | dict[str, Any] | None = None
    tool_call_id: Annotated[str | None, Meta(description="With role `tool`: the call whose result this is")] = None
    error: Annotated[str | None, Meta(description="With role `tool`: why there is no other result")] = None


class Tool(Struct, frozen=True):
    """A tool of the client, which executes it; `parameters` is the JSON Schema of an object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ResumeEntry(Struct, frozen=True, rename="camel"):
    """The answer to a question of the agent."""

    interrupt_id: Annotated[str, Meta(description="The `id` of the interrupt")]
    status: Annotated[
        Literal["resolved", "cancelled"], Meta(description="Whether there is an answer; `cancelled` answers `false`")
    ]
    payload: Annotated[Any, Meta(description="The answer, any JSON but null")] = None


class ForwardedProps(Struct, frozen=True):
    """Values of the client's application, of which only these count."""

    strandline: Annotated[RunOptions | None, Meta(description="Options of the run")] = None


class RunAgentInput(Struct, frozen=True, rename="camel", kw_only=True):
    """A request to run the agent; other keys are ignored, also `state` and `context`."""

    thread_id: Annotated[str, Meta(description="The session")]
    run_id: Annotated[
        str,
        Meta(description="A request repeated with it is the same run; the header `Idempotency-Key` comes before it"),
    ]
    messages: Annotated[
        list[ListedMessage],
        Meta(
            description="The last one of the user's is the input, or the last ones are results of the client's tools;"
            " the server has the others"
        ),
    ]
    parent_run_id: str | None = None
    tools: Annotated[list[Tool] | None, Meta(description="Tools that the client executes, beside the agent's")] = None
    forwarded_props: ForwardedProps | None = None
    resume: Annotated[list[ResumeEntry] | None, Meta(description="Answers to the agent's questions")] = None


def options_of(body: RunAgentInput) -> RunOptions:
    """Return the options of the run."""
    props = body.forwarded_props
    return RunOptions() if props is None or props.strandline is None else props.strandline


def key_of(body: RunAgentInput, prompt: Input | Responses) -> str:
    """Return the idempotency key of a request.

    Answers have a key of their own, since some clients send them under the `runId` of the run that has asked.
    """
    if not isinstance(prompt, Responses):
        return body.run_id
    answered = encode([body.run_id, sorted(each.id for each in prompt.responses)])
    return f"answers-{hashlib.sha256(answered).hexdigest()}"


def prompt_of(body: RunAgentInput) -> Input | Responses:
    """Return the input. Raises `Invalid`."""
    key_in_body(body.run_id, "$.runId")
    answers = [_answer(entry, f"$.resume[{at}]") for at, entry in enumerate(body.resume or ())]
    answers += [_result(body.messages[at], f"$.messages[{at}]") for at in results_in(body)]
    if answers:
        return Responses(answers)
    said = last_said(body.messages)
    if said is None:
        raise Invalid(f"One message must be the user's - at `$.messages`. {READS}")
    content, there = body.messages[said].content, f"$.messages[{said}].content"
    if isinstance(content, str):
        return content
    if not content or not isinstance(content, list):
        raise Invalid(f"A message needs content: a text, or a list of parts - at `{there}`")
    return [_block(part, f"{there}[{at}]") for at, part in enumerate(content)]


def last_said(messages: Sequence[ListedMessage]) -> int | None:
    """Return the index of the user's last message; None: there is none."""
    return next((at for at in range(len(messages) - 1, -1, -1) if messages[at].role == "user"), None)


def results_in(body: RunAgentInput) -> list[int]:
    """Return the indices of results of the client's tools with which its list ends.

    Results that the server has sent are no news, and neither are messages of the agent at the end: a client that
    repeats its request may list them. With answers to questions there is none of these, since the agent asked last.
    """
    found: list[int] = []
    for at in range(len(body.messages) - 1, -1, -1):
        message = body.messages[at]
        if message.role == "user" or (message.role == "assistant" and (found or body.resume)):
            break
        if message.role == "tool" and not message.id.startswith(_OURS):
            found.append(at)
    return found[::-1]


def client_options_of(body: RunAgentInput) -> ClientOptions | None:
    """Return what the client wants of the agent: its tools."""
    if not body.tools:
        return None
    return ClientOptions(
        tools=tuple(
            ClientTool(name=each.name, description=each.description or "", json_schema=each.parameters or {})
            for each in body.tools
        )
    )


def _result(message: ListedMessage, there: str) -> Answered:
    if not message.tool_call_id:
        raise Invalid(f"The result of a tool needs the id of its call - at `{there}.toolCallId`")
    text = message.content or message.error or ""
    if not isinstance(text, str):
        raise Invalid(f"The result of a tool must be a text - at `{there}.content`")
    return Answered(request_id_of(message.tool_call_id), text)


def _answer(entry: ResumeEntry, there: str) -> Answered:
    if entry.status == "cancelled":
        return Answered(entry.interrupt_id, False)
    if entry.payload is None:
        raise Invalid(f"A resolved interrupt needs a `payload`, any JSON but null - at `{there}`")
    return Answered(entry.interrupt_id, entry.payload)


def _block(part: dict[str, Any], there: str) -> Block:
    """Return a part of a message as a block of Strands. Raises `Invalid`."""
    match part:
        case {"type": "text", "text": str(text)}:
            return {"text": text}
        case {"type": "image" | "document", "source": {"type": "data", "value": str(data), "mimeType": str(kind)}}:
            return _media(kind, data, part, there)
        case {"type": "binary", "mimeType": str(kind), "data": str(data)}:  # (of clients before 1.0)
            return _media(kind, data, part, there)
    raise Invalid(
        "A part must be a `text`, or an `image` or `document` whose source is `data` (base64, with a `mimeType`);"
        f" no URL is fetched - at `{there}`"
    )


def _media(kind: str, data: str, part: dict[str, Any], there: str) -> Block:
    shown = SHOWN_AS.get("image/jpeg" if kind == "image/jpg" else kind.partition(";")[0].strip().lower())
    if shown is None:
        raise Invalid(f"The type must be one of {', '.join(sorted(SHOWN_AS))} - at `{there}`")
    source = {"bytes": decoded(data, "content", there)}
    block, form = shown
    if block == "image":
        return {block: {"format": form, "source": source}}
    about = part.get("metadata")
    names = (part.get("filename"), *((about.get("filename"), about.get("name")) if isinstance(about, dict) else ()))
    name = next((each for each in names if isinstance(each, str) and each.strip()), block)
    return {block: {"format": form, "name": name, "source": source}}


# -- events -------------------------------------------------------------------------------------------


class Metadata(Struct, frozen=True, omit_defaults=True):
    """What a client cannot know otherwise of a run."""

    run_id: RunId | UnsetType = UNSET
    """Our id of it, for the run API."""
    session_id: SessionId | UnsetType = UNSET
    position: int | UnsetType = UNSET
    """The place that the run would have had, if a queue was full."""
    estimated_wait_s: float | UnsetType | None = UNSET
    after: RunId | UnsetType | None = UNSET
    """If the request's messages differ: the run after which history continued; None: its beginning."""
    superseded: list[RunId] | UnsetType = UNSET
    """The runs that are superseded thereby."""
    effects: list[EffectBody] | UnsetType | None = UNSET
    """Their tools that have acted, or perhaps; None: they cannot be seen."""
    agent_state: AgentStateThen | UnsetType = UNSET


class Event(Struct, frozen=True, tag_field="type", rename="camel", kw_only=True):
    """An event of AG-UI."""


class RunStartedEvent(Event, frozen=True, tag="RUN_STARTED", kw_only=True):
    """The run is accepted."""

    thread_id: str
    run_id: str
    parent_run_id: str | UnsetType = UNSET
    metadata: dict[str, Metadata]


class Tokens(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The tokens of the whole run, over all its model calls."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_input_tokens: int | UnsetType = UNSET


class Interrupt(Struct, frozen=True):
    """A question of the agent."""

    id: str
    reason: str
    message: str
    metadata: dict[str, InputRequest]


class Success(Struct, frozen=True, tag_field="type", tag="success"):
    """The run has an answer."""


class Interrupted(Struct, frozen=True, tag_field="type", tag="interrupt"):
    """The run waits for answers."""

    interrupts: list[Interrupt]


class Cancelled(Struct, frozen=True, tag_field="type", tag="cancelled"):
    """Somebody has stopped the run."""


class RunFinishedEvent(Event, frozen=True, tag="RUN_FINISHED", kw_only=True):
    """The run has ended without an error."""

    thread_id: str
    run_id: str
    outcome: Success | Interrupted | Cancelled
    usage: list[Tokens] | UnsetType = UNSET


class RunErrorEvent(Event, frozen=True, tag="RUN_ERROR", kw_only=True):
    """Why there is no answer; `code` is our stable code. Also the body of a refused request."""

    message: str
    code: str
    metadata: dict[str, Metadata] | UnsetType = UNSET


class TextStart(Event, frozen=True, tag="TEXT_MESSAGE_START", kw_only=True):
    """A message begins."""

    message_id: str
    role: Literal["assistant"] = "assistant"


class TextContent(Event, frozen=True, tag="TEXT_MESSAGE_CONTENT", kw_only=True):
    """A piece of its text."""

    message_id: str
    delta: str


class TextEnd(Event, frozen=True, tag="TEXT_MESSAGE_END", kw_only=True):
    """It ends."""

    message_id: str


class ReasoningStart(Event, frozen=True, tag="REASONING_START", kw_only=True):
    """The model begins to reason."""

    message_id: str


class ReasoningMessageStart(Event, frozen=True, tag="REASONING_MESSAGE_START", kw_only=True):
    """A message of its reasoning begins."""

    message_id: str
    role: Literal["reasoning"] = "reasoning"


class ReasoningContent(Event, frozen=True, tag="REASONING_MESSAGE_CONTENT", kw_only=True):
    """A piece of it."""

    message_id: str
    delta: str


class ReasoningMessageEnd(Event, frozen=True, tag="REASONING_MESSAGE_END", kw_only=True):
    """It ends."""

    message_id: str


class ReasoningEnd(Event, frozen=True, tag="REASONING_END", kw_only=True):
    """The model has reasoned."""

    message_id: str


class CallStart(Event, frozen=True, tag="TOOL_CALL_START", kw_only=True):
    """A tool starts."""

    tool_call_id: str
    tool_call_name: str
    parent_message_id: str


class CallArgs(Event, frozen=True, tag="TOOL_CALL_ARGS", kw_only=True):
    """All its arguments, as JSON."""

    tool_call_id: str
    delta: str


class CallEnd(Event, frozen=True, tag="TOOL_CALL_END", kw_only=True):
    """They are complete."""

    tool_call_id: str


class CallResult(Event, frozen=True, tag="TOOL_CALL_RESULT", kw_only=True):
    """Its result, as text."""

    message_id: str
    tool_call_id: str
    content: str
    role: Literal["tool"] = "tool"


class Snapshot(Event, frozen=True, tag="MESSAGES_SNAPSHOT", kw_only=True):
    """All messages of the conversation, instead of those that were sent before."""

    messages: list[Any]


class StateSnapshot(Event, frozen=True, tag="STATE_SNAPSHOT", kw_only=True):
    """What the client gets of the agent's state."""

    snapshot: Mapping[str, Any]


class Custom(Event, frozen=True, tag="CUSTOM", kw_only=True):
    """An event of ours that AG-UI has none for: its name is `strandline.` and its type."""

    name: str
    value: Any


# -- messages in a snapshot ---------------------------------------------------------------------------


class Function(Struct, frozen=True):
    """A tool, and its arguments as JSON."""

    name: str
    arguments: str


class Call(Struct, frozen=True):
    """A call of a tool."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class Said(Struct, frozen=True, rename="camel"):
    """A message of the agent."""

    id: str
    content: str
    tool_calls: list[Call] | UnsetType = UNSET
    role: Literal["assistant"] = "assistant"


class Reasoned(Struct, frozen=True):
    """Its reasoning."""

    id: str
    content: str
    role: Literal["reasoning"] = "reasoning"


class Result(Struct, frozen=True, rename="camel"):
    """The result of a tool."""

    id: str
    tool_call_id: str
    content: str
    role: Literal["tool"] = "tool"


def tokens(usage: dict[str, int] | None) -> list[Tokens] | UnsetType:
    """Return the token usage in the format of this protocol; UNSET if it is unknown."""
    if usage is None:
        return UNSET
    given, said = usage.get("inputTokens", 0), usage.get("outputTokens", 0)
    return [Tokens(given, said, given + said, usage.get("cacheReadInputTokens", UNSET))]


def outcome_of(end: RunFinished) -> Success | Interrupted | Cancelled | None:
    """Return the outcome of a run; None: it has failed. Calls of the client's tools are a success: it executes them."""
    match end.status:
        case RunStatus.SUCCEEDED:
            return Success()
        case RunStatus.CANCELLED:
            return Cancelled()
        case RunStatus.NEEDS_INPUT:
            requests = [each for each in end.input_requests if each.client_tool is not True]
            if not requests:
                return Success()
            return Interrupted(
                [Interrupt(each.id, each.name, _prompt_to_people(each), {"strandline": each}) for each in requests]
            )
    return None


def arguments_of(given: Any) -> str:
    """Return the arguments of a tool as JSON; those that are too large for an event are left out."""
    return "{}" if given is None else encode(given).decode()


def _prompt_to_people(request: InputRequest) -> str:
    if isinstance(request.reason, str):
        return request.reason
    return request.name if request.reason is None else encode(request.reason).decode()


# -- errors -------------------------------------------------------------------------------------------


def refusal(problem: Response) -> Response:
    """Return a problem document as an error of this protocol, whose clients show its text."""
    ours = msgspec.json.decode(problem.body, type=wire.Problem)
    metadata = Metadata(position=ours.position, estimated_wait_s=ours.estimated_wait_s)
    more = UNSET if metadata == Metadata() else {"strandline": metadata}
    error = RunErrorEvent(message=ours.detail, code=ours.code, metadata=more)
    return Response(
        encode(error) + b"\n", problem.status_code, wire.headers_beside(problem), media_type="application/json"
    )
