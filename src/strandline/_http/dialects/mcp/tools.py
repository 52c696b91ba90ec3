"""The tools, as clients list them, and their arguments."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from strandline._http.dialects.mcp.wire import McpRequest
from strandline._http.exchange.run_request import RunOptions
from strandline.errors import Invalid

LONGEST_WAIT_S: Final = 300
OPTIONS: Final = "strandline/options"
"""The key in `_meta` for all options of a run."""


class AskArguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to the agent."""

    message: str
    session: Annotated[str | None, Meta(description="The conversation; default: the client's, or a new one")] = None
    idempotency_key: Annotated[
        str | None, Meta(description="A call that is repeated with it is the same one, and gets the same answer")
    ] = None


class AnswerArguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers to the questions of a run."""

    run_id: str
    answer: Any = UNSET
    answers: dict[str, Any] | UnsetType = UNSET


class StatusArguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which run."""

    run_id: str
    wait: Annotated[float, Meta(ge=0, le=LONGEST_WAIT_S)] = 0


class CancelArguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which run."""

    run_id: str


Arguments = AskArguments | AnswerArguments | StatusArguments | CancelArguments


class Tool(Struct, frozen=True, rename="camel"):
    """A tool, as clients list it."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    annotations: dict[str, bool]


_ANY: Final = [{"type": kind} for kind in ("string", "boolean", "number", "object")] + [{"type": "array", "items": {}}]
_MESSAGE: Final = {"type": "string", "description": "What to say to the agent"}
_SESSION: Final = {
    "type": "string",
    "description": "The conversation: 1 to 256 characters of A-Za-z0-9._:@- (default: one of your own)",
}
_KEY: Final = {
    "type": "string",
    "description": "A call that is repeated with the same key is the same call, and gets the same answer",
}
_RUN: Final = {"type": "string", "description": "The id of a run, as ask and queue return it"}
_ACTS: Final = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}
_READS: Final = {"readOnlyHint": True, "openWorldHint": False}
_STOPS: Final = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True, "openWorldHint": False}


def _schema(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TOOLS: Final = (
    Tool(
        "ask",
        "Ask the agent",
        "Say something to the agent, and wait for its answer. Messages of one conversation are answered one after the"
        " other. If the agent asks a question first, answer it with the tool answer.",
        _schema(["message"], message=_MESSAGE, session=_SESSION, idempotency_key=_KEY),
        _ACTS,
    ),
    Tool(
        "queue",
        "Leave a message for the agent",
        "Say something to the agent without waiting for its answer: status has it later.",
        _schema(["message"], message=_MESSAGE, session=_SESSION, idempotency_key=_KEY),
        _ACTS,
    ),
    Tool(
        "answer",
        "Answer the agent's question",
        "Answer what the agent has asked in a run, and wait for what it says then.",
        _schema(
            ["run_id"],
            run_id={"type": "string", "description": "The id of the run that has asked"},
            answer={"description": "The answer, such as yes", "anyOf": _ANY},
            answers={
                "type": "object",
                "description": "If the run has asked several questions: the answer to each, by the question's id",
            },
        ),
        _ACTS,
    ),
    Tool(
        "status",
        "Look after a run",
        "Return what a run does, its place in the queue, or its answer.",
        _schema(
            ["run_id"],
            run_id=_RUN,
            wait={
                "type": "number",
                "minimum": 0,
                "maximum": LONGEST_WAIT_S,
                "description": "Seconds to wait for its answer",
            },
        ),
        _READS,
    ),
    Tool("cancel", "Cancel a run", "Stop a run that waits or executes.", _schema(["run_id"], run_id=_RUN), _STOPS),
)
KINDS: Final[dict[str, type[Arguments]]] = {
    "ask": AskArguments,
    "queue": AskArguments,
    "answer": AnswerArguments,
    "status": StatusArguments,
    "cancel": CancelArguments,
}


def arguments_of(name: str, given: dict[str, Any]) -> Arguments:
    """Return the arguments of a tool's call. Raises `Invalid`."""
    try:
        arguments: Arguments = msgspec.convert(given, KINDS[name])
    except msgspec.ValidationError as error:
        raise Invalid(f"{error} (arguments of {name})") from None
    return arguments


def options_of(request: McpRequest) -> RunOptions:
    """Return the options of a run that a program sets beside the arguments, which models write. Raises `Invalid`."""
    try:
        return msgspec.convert(request.meta.get(OPTIONS) or {}, RunOptions)
    except msgspec.ValidationError as error:
        raise Invalid(f"{error} (`{OPTIONS}` in `_meta`)") from None
