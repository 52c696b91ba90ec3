"""A request for a run. Values only."""

from typing import Any

from msgspec import Struct, field

from strandline._model import (
    IfBusy,
    Input,
    OnDisconnect,
    OnQuestion,
    SessionKey,
)
from strandline.errors import Invalid


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
        if (key := self.idempotency_key) is not None and not _can_be_kept(key):
            raise Invalid(f"idempotency_key is {key!a}; it must be text of whole characters")


def check_key(key: object) -> None:
    """Raise `Invalid` for what is no session's key: its name alone would be kept as another one's, or not be found."""
    if not isinstance(key, SessionKey):
        raise Invalid(f"the key of the session is {key!r}; make one with strandline.session_key(...)")
    if not all(map(_can_be_kept, key)):
        raise Invalid(f"the key of the session is {key!a}; its parts must be text of whole characters")


def _can_be_kept(name: object) -> bool:
    """Return whether a journal can hold a name: text that has no half of a character in it."""
    if not isinstance(name, str):
        return False
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False
