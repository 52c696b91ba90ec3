"""A request for a run, and the checks of what may be asked for. Values only."""

from typing import Any

from msgspec import Struct, field

from strandline.errors import Invalid
from strandline.model import (
    HIGHEST_PRIORITY,
    INTERRUPTS,
    LOWEST_PRIORITY,
    IfBusy,
    Input,
    OnDisconnect,
    OnQuestion,
    SessionKey,
)


class Request(Struct, frozen=True, kw_only=True):
    """A run that somebody asks for. Raises `Invalid` for what could be kept and never be run."""

    key: SessionKey
    input: Input = ""
    answers: dict[str, Any] | None = None
    """In place of an input: what is answered to each of the input requests that are open in the session, by id."""
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    """How long it may take, and wait; None: what the service allows. More than that is refused."""
    if_busy: IfBusy = IfBusy.ENQUEUE
    """What becomes of it, or of the others, if the session has runs that wait or execute."""
    on_question: OnQuestion | None = None
    """What it does to the question that its session waits to be answered; None: what the service has as its default."""
    priority: int | None = None
    """Of 1 to 5, 1 first; None: what the service has as its default."""
    on_disconnect: OnDisconnect | None = None
    """What becomes of it if its clients are lost; None: what the service has as its default."""
    metadata: dict[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    """With a key: the SHA-256 of all that is asked for. The same under the same key is the same run."""

    def __post_init__(self) -> None:
        check_key(self.key)
        text = isinstance(self.input, str)
        if not text and not (isinstance(self.input, list) and all(isinstance(each, dict) for each in self.input)):
            raise Invalid(f"input is {self.input!r}; it must be text, or a list of content blocks")
        if not isinstance(self.metadata, dict):
            raise Invalid(f"metadata is {self.metadata!r}; it must be a dict")


def check_key(key: object) -> None:
    """Raise `Invalid` for what is no session's key: its name alone would be kept as another one's, or not be found."""
    if not isinstance(key, SessionKey):
        raise Invalid(f"the key of the session is {key!r}; make one with strandline.session_key(...)")


def check_answers(request: Request) -> None:
    """Raise `Invalid` if a request answers in a way that nobody can."""
    if not request.answers:
        raise Invalid("responses must answer at least one input request")
    if any(given is None for given in request.answers.values()):
        raise Invalid("a response must not be null: to the agent that is no answer")
    if request.if_busy is not IfBusy.ENQUEUE:
        raise Invalid("if_busy does not go with responses: an answer goes before all others anyway")
    if request.on_question is not None:
        raise Invalid("on_question does not go with responses: they name what they answer")


def check_policies(request: Request) -> None:
    """Raise `Invalid` if a request wants two things of which one excludes the other."""
    if request.on_question is OnQuestion.ANSWER and request.if_busy in INTERRUPTS:
        raise Invalid(
            f"on_question cannot be answer with if_busy {request.if_busy}: that dismisses the question. Leave one out"
        )


def within(name: str, asked_s: float | None, most_s: float) -> float:
    """Return how many seconds a run gets. Raises `Invalid` unless it is more than 0 and at most what is allowed."""
    if asked_s is None:
        return most_s
    if not 0 < asked_s <= most_s:  # (also NaN)
        raise Invalid(f"{name} must be more than 0 and at most {most_s:g} seconds, which is what this server allows")
    return asked_s


def in_range(priority: int) -> int:
    """Return a priority. Raises `Invalid` unless it is one."""
    if not HIGHEST_PRIORITY <= priority <= LOWEST_PRIORITY:
        raise Invalid(f"priority must be {HIGHEST_PRIORITY} to {LOWEST_PRIORITY}, {HIGHEST_PRIORITY} first")
    return priority
