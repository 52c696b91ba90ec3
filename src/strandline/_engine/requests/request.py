"""A request for a run. Values only."""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType, field

from strandline._journal.cluster import Feature
from strandline._model import (
    ClientOptions,
    CollectOptions,
    IfBusy,
    Input,
    OnDisconnect,
    OnQuestion,
    RunId,
    Sender,
    SessionKey,
    Webhook,
)
from strandline.errors import Invalid

END_OF_TIME_S: Final = 253_402_300_800.0
"""The year 10,000, which no timestamp can show."""


class Request(Struct, frozen=True, kw_only=True):
    """A request for a run. Raises `Invalid` for what could be stored and never run."""

    key: SessionKey
    input: Input = ""
    answers: dict[str, Any] | None = None
    """In place of an input: the response to each of the session's open input requests, by id."""
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    """How long it may take, and wait; None: the service's limit. More than that is refused."""
    if_busy: IfBusy | None = None
    """What happens to it, or to the others, if runs wait or execute in the session; None: it waits."""
    expected_run_id: str | None = None
    """With `IfBusy.STEER`: the run that it is to join; refused if that does not execute."""
    collect: CollectOptions | None = None
    """With `IfBusy.COLLECT`, its own or its session's: for how long it waits for others, and for how many; None: the
    service's defaults."""
    on_question: OnQuestion | None = None
    """What it does to the session's open question; None: the service's default."""
    after: str | UnsetType | None = UNSET
    """The run after which history continues with it, None for its beginning; UNSET: at its end. What came later is
    superseded."""
    priority: int | None = None
    """1 to 5, 1 first; None: the service's default."""
    not_before: float | None = None
    """In seconds since the epoch: until then it waits beside the queue and blocks no other; None: it queues at once."""
    on_disconnect: OnDisconnect | None = None
    """What happens to it if its clients disconnect; None: the service's default."""
    metadata: dict[str, Any] = field(default_factory=dict)
    client: ClientOptions | None = None
    """What its client wants of the agent; None: nothing, or what the run wanted that it replaces or continues."""
    sender: Sender | None = None
    """Who sent it, where the setting `trusted_senders` lets callers say so; None: the principal."""
    webhook: Webhook | None = None
    """Where events of it are sent; None: where its session, or the service, says."""
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    """With a key: the SHA-256 of the request, as its protocol compares two; b"": of all fields above. Equal requests
    under one key are one run."""

    def __post_init__(self) -> None:
        check_key(self.key)
        self._check_options()
        text = isinstance(self.input, str)
        if not text and not (isinstance(self.input, list) and all(isinstance(each, dict) for each in self.input)):
            raise Invalid(f"input is {self.input!r}; it must be text, or a list of content blocks")
        if not isinstance(self.metadata, dict):
            raise Invalid(f"metadata is {self.metadata!r}; it must be a dict")
        if (key := self.idempotency_key) is not None and not is_storable(key):
            raise Invalid(f"idempotency_key is {key!a}; it must be text of whole characters")

    def _check_options(self) -> None:
        """Raise `Invalid` for an option of another type: its text would count as the default, or fail in a journal."""
        if self.if_busy is not None and not isinstance(self.if_busy, IfBusy):
            raise Invalid(f"if_busy is {self.if_busy!r}; it must be a strandline.IfBusy, or None")
        if self.expected_run_id is not None and not is_storable(self.expected_run_id):
            raise Invalid(f"expected_run_id is {self.expected_run_id!a}; it must be the id of a run, or None")
        if self.collect is not None and not isinstance(self.collect, CollectOptions):
            raise Invalid(f"collect is {self.collect!r}; it must be a strandline.CollectOptions, or None")
        if self.after is not UNSET and self.after is not None and not is_storable(self.after):
            raise Invalid(f"after is {self.after!a}; it must be the id of a run, or None for the beginning")
        if self.on_question is not None and not isinstance(self.on_question, OnQuestion):
            raise Invalid(f"on_question is {self.on_question!r}; it must be a strandline.OnQuestion, or None")
        if self.on_disconnect is not None and not isinstance(self.on_disconnect, OnDisconnect):
            raise Invalid(f"on_disconnect is {self.on_disconnect!r}; it must be a strandline.OnDisconnect, or None")
        for name, seconds in (("timeout_s", self.timeout_s), ("queue_timeout_s", self.queue_timeout_s)):
            if seconds is not None and not isinstance(seconds, float | int):
                raise Invalid(f"{name} is {seconds!r}; it must be a number of seconds, or None")
        if self.not_before is not None and not _is_time(self.not_before):
            raise Invalid(f"not_before is {self.not_before!r}; it must be a number of seconds since the epoch, or None")
        if self.answers is not None and not isinstance(self.answers, dict):
            raise Invalid(f"answers is {self.answers!r}; it must be a dict, or None")
        if self.sender is not None and not isinstance(self.sender, Sender):
            raise Invalid(f"sender is {self.sender!r}; it must be a strandline.Sender, or None")
        if self.webhook is not None and not isinstance(self.webhook, Webhook):
            raise Invalid(f"webhook is {self.webhook!r}; it must be a strandline.Webhook, or None")
        if self.client is not None and not isinstance(self.client, ClientOptions):
            raise Invalid(f"client is {self.client!r}; it must be a strandline.ClientOptions, or None")
        if not isinstance(self.fingerprint, bytes):
            raise Invalid(f"fingerprint is {self.fingerprint!r}; it must be bytes")


def check_key(key: object) -> None:
    """Raise `Invalid` unless this is a session's key: a mere string could be stored as that of another session."""
    if not isinstance(key, SessionKey):
        raise Invalid(f"the key of the session is {key!r}; make one with strandline.session_key(...)")
    if not all(map(is_storable, key)):
        raise Invalid(f"the key of the session is {key!a}; its parts must be text of whole characters")


def _is_time(at: object) -> bool:
    return isinstance(at, float | int) and 0 <= at < END_OF_TIME_S


def is_storable(name: object) -> bool:
    """Return whether a journal can store a name: text without half a character."""
    if not isinstance(name, str):
        return False
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


class Replaced(Struct, frozen=True, kw_only=True):
    """The run that the run of a request replaces.

    `joined`: how many runs have joined it whose inputs are in that of the request, which is made anew if these are not
    all of them; None: the request has an input of its own.
    """

    run_id: RunId
    joined: int | None = None


class RunEdit(Struct, frozen=True, kw_only=True):
    """What is to replace parts of a waiting run; None stays. `metadata` is replaced as a whole.

    `expected` are the editions of the run (`RunView.edition`) that it may have; None: any.
    """

    input: Input | None = None
    metadata: dict[str, Any] | None = None
    priority: int | None = None
    expected: frozenset[str] | None = None


def newer_of(request: Request, *, is_resolved: bool, replaces: bool) -> Iterator[Feature]:
    """Yield what a request needs that servers of an earlier version do not know; `replaces`: its run replaces one."""
    needs: tuple[tuple[Feature, bool], ...] = (
        ("not_before", request.not_before is not None),
        ("sender", request.sender is not None),
        ("steer", request.if_busy is IfBusy.STEER),
        ("collect", request.if_busy is IfBusy.COLLECT or request.collect is not None),
        ("resolve", is_resolved),
        ("webhook", request.webhook is not None),
        ("tools", request.client is not None and bool(request.client.tools)),
        ("response_format", request.client is not None and request.client.format is not None),
        ("after", replaces or not isinstance(request.after, UnsetType)),
    )
    yield from (feature for feature, is_needed in needs if is_needed)
