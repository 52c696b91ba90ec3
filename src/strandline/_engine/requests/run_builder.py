"""From a request to the run that the journal accepts: checks, limits, lane and key. Values only."""

import hashlib
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, to_builtins

from strandline._agents.port import Target
from strandline._clock import Clock
from strandline._encoding import encode, encode_messages
from strandline._engine.options import Options
from strandline._engine.requests.client_options import (
    check_client_options,
    client_options_in,
    with_client_options,
    without_client_options,
)
from strandline._engine.requests.content import check_content
from strandline._engine.requests.request import Replaced, Request, RunEdit
from strandline._engine.requests.webhook import DEFAULT_EVENTS, check_webhook
from strandline._model import (
    HIGHEST_PRIORITY,
    INTERRUPTS,
    LEAST_COLLECTED,
    LOWEST_PRIORITY,
    MOST_COLLECTED,
    OF_CLIENT,
    RUN_OPTIONS,
    Carrier,
    ClientOptions,
    Collect,
    CollectOptions,
    GoBack,
    IfBusy,
    Keyed,
    Lane,
    NewRun,
    OnQuestion,
    Principal,
    Resolution,
    RunDefaults,
    RunId,
    RunWebhook,
    Sender,
    SessionKey,
    ToolDone,
    Webhook,
    collect_by,
    responses,
)
from strandline.errors import Invalid, NotResolvable

DEEPEST: Final = 100
"""How deep metadata and content blocks may be nested, themselves counted. Code that copies or prints them calls
itself for each level, and Python's stack ends after some hundreds."""
_IDENTITY: Final = frozenset({"key", "idempotency_key", "fingerprint"})
"""The fields of a request that its idempotency key stands for, or belongs to."""
_LATER: Final = {
    "not_before": None, "after": UNSET, "webhook": None, "sender": None, "collect": None, "expected_run_id": None,
    "client": None,
}  # fmt: skip
"""Fields that earlier versions did not know, with their values if they are not used: keys outlive an upgrade."""
LONGEST_SENDER: Final = 256
"""Characters of a sender's id, and of its name."""
_OPTIONS: Final = (
    ("if_busy", "if_busy"),
    ("on_question", "on_question"),
    ("priority", "priority"),
    ("timeout_s", "timeout"),
    ("queue_timeout_s", "queue_timeout"),
    ("on_disconnect", "on_disconnect"),
    ("sender", "sender"),
    ("webhook", "webhook"),
    ("collect", "collect"),
)
"""The fields of a request that are run options, with their names. Metadata is merged, name by name."""
_values_of_options: Final = attrgetter(*(field for field, _ in _OPTIONS))
_NONE: Final[frozenset[str]] = frozenset()
_SENDER: Final = frozenset({"sender"})
_NESTS: Final = (dict, list, tuple)


class RunBuilder(Struct, eq=False):
    """Builds runs from requests."""

    _target: Target
    _options: Options
    _clock: Clock
    _new_run_id: Callable[[SessionKey], RunId]
    _can_sign: Callable[[Principal], bool] | None = None
    """Whether events of a principal can be signed; None: nothing is sent."""
    _collects: Collect = MOST_COLLECTED
    """How runs collect whose requests do not say."""
    server_webhook: RunWebhook | None = None
    """The webhook of the settings."""
    _of_server: RunWebhook | None = None
    """The same, with its events of runs."""

    def __post_init__(self) -> None:
        options = self._options
        self._collects = Collect(
            quiet=options.collect_quiet_s,
            max_wait=options.collect_max_wait_s,
            max_items=options.collect_max_items,
            max_bytes=options.collect_max_bytes,
        )
        if options.webhook is not None and self._can_sign is not None:
            events = tuple(options.webhook_events) or DEFAULT_EVENTS
            self.server_webhook = RunWebhook(options.webhook, events, by_server=True)
            self._of_server = self.server_webhook.of_run()

    def build(
        self,
        request: Request,
        trace: Carrier | None,
        run_id: RunId | None = None,
        resolution: Resolution | None = None,
        again: Replaced | None = None,
    ) -> NewRun:
        """Return the requested run, nothing of it stored yet; with a new id unless one is given.

        With a `resolution` it continues a crashed run, with the same input; run `again` it replaces. Raises `Invalid`,
        `NotResolvable`.
        """
        goes_back = again is not None or request.after is not UNSET
        client = None if request.client is None and OF_CLIENT not in request.metadata else self._client(request)
        if request.if_busy is IfBusy.ROLLBACK and self._options.self_managed:
            raise Invalid("if_busy cannot be rollback: these agents keep their history themselves")
        timeout_s = _within("timeout", request.timeout_s, self._options.timeout_s)
        queue_timeout_s = _within("queue_timeout", request.queue_timeout_s, self._options.queue_timeout_s)
        lane = Lane.FRONT if request.if_busy in INTERRUPTS else Lane.NORMAL
        if resolution is not None:
            lane = Lane.REQUEUED
            self._check_resolution(resolution)  # (all else is the crashed run's, as it was accepted)
        elif request.answers is not None:
            lane = Lane.ANSWER
            _check_answers(request)
        else:
            _check_policies(request)
            check_content(request.input, self._options.allowed_content)
        if resolution is None:
            self._check_size(request)
        if request.sender is not None:
            check_sender(request.sender, trusted=self._options.trusted_senders)
        now = self._clock.now()
        begins = now if request.not_before is None else max(now, request.not_before)
        return NewRun(
            run_id=run_id or self._new_run_id(request.key),
            key=request.key,
            input=request.input if request.answers is None else responses(request.answers),
            if_busy=request.if_busy or IfBusy.ENQUEUE,
            expected_run_id=None if request.expected_run_id is None else RunId(request.expected_run_id),
            on_question=self._on_question(request),
            lane=lane,
            priority=checked_priority(self._options.priority if request.priority is None else request.priority),
            resumable=self._target.resumable,
            timeout_s=timeout_s,
            queue_deadline=None if resolution is not None else begins + queue_timeout_s,
            metadata=request.metadata if client is None else with_client_options(request.metadata, client),
            created_at=now,
            keyed=None if request.idempotency_key is None else self._keyed(request.idempotency_key, request, now),
            trace=trace,
            not_before=request.not_before,
            sender=request.sender,
            joins_any=self._options.join_senders == "any",
            collect=self._collects if request.collect is None else self._collect(request.collect),
            own_options=self._own_options(request) if resolution is None else RUN_OPTIONS,
            resolution=resolution,
            back=self._back(request, again) if goes_back else None,
            expected_joined=None if again is None else again.joined,
            webhook=(
                self._of_server
                if request.webhook is None
                else self._webhook(request, request.webhook, is_kept=resolution is not None or again is not None)
            ),
        )

    def _client(self, request: Request) -> ClientOptions | None:
        """Return what a request's client wants of the agent. Raises `Invalid`."""
        client = request.client or client_options_in(request.metadata)
        if client is not None:
            check_client_options(client, self._options.max_client_options_bytes)
        return client

    def _webhook(self, request: Request, webhook: Webhook, *, is_kept: bool) -> RunWebhook | None:
        """Return where events of a request's run are sent that names a webhook. Raises `Invalid`.

        A run that replaces or continues another one `is_kept` to the webhook of that, unless no run may have it now.
        """
        allow_private = self._options.webhook_allow_private
        try:
            check_webhook(webhook, request.key.principal, self._can_sign, allow_private=allow_private)
        except Invalid:
            if not is_kept:
                raise
            return self._of_server
        return RunWebhook(webhook.url, webhook.events)

    def _collect(self, given: CollectOptions) -> Collect:
        """Return how a run collects. Raises `Invalid` for numbers beyond the limits."""
        for name in given.__struct_fields__:
            value, least, most = getattr(given, name), getattr(LEAST_COLLECTED, name), getattr(MOST_COLLECTED, name)
            if value is not None and not least <= value <= most:  # (also NaN)
                raise Invalid(f"collect.{name} must be {least:g} to {most:g}")
        return collect_by(given, self._collects)

    def _back(self, request: Request, again: Replaced | None) -> GoBack:
        """Return where history continues with the run of a request that goes back. Raises `Invalid` if it asks for what
        excludes that."""
        if self._options.self_managed:
            raise Invalid("a run cannot go back: these agents keep their history themselves")
        option = "after" if again is None else "again"
        if request.answers is not None:
            raise Invalid("after does not go with responses: an answer continues the run that has asked")
        if request.not_before is not None:
            raise Invalid("after does not go with not_before: nobody knows what is said by then")
        if request.if_busy is IfBusy.STEER:
            raise Invalid(f"{option} does not go with if_busy steer: that joins the run that executes")
        if request.if_busy is IfBusy.COLLECT:
            raise Invalid(f"{option} does not go with if_busy collect: it is a turn of its own")
        if request.collect is not None:
            raise Invalid(f"{option} does not go with collect: it is a turn of its own")
        if request.on_question is OnQuestion.ANSWER:
            raise Invalid("after does not go with on_question answer: an answer continues the run that has asked")
        after = None if request.after is UNSET or request.after is None else RunId(request.after)
        return GoBack(after=after, again=None if again is None else again.run_id)

    def check_defaults(self, key: SessionKey, options: RunDefaults) -> None:
        """Check the default options of a session as those of a request. Raises `Invalid`."""
        if OF_CLIENT in (options.metadata or {}):  # (each run would have it, whatever its client wants)
            raise Invalid(f"metadata.{OF_CLIENT} is the server's own; leave it out")
        self.build(
            Request(
                key=key,
                input="-",
                if_busy=options.if_busy,
                on_question=options.on_question,
                priority=options.priority,
                timeout_s=options.timeout,
                queue_timeout_s=options.queue_timeout,
                on_disconnect=options.on_disconnect,
                metadata=options.metadata or {},
                sender=options.sender,
            ),
            None,
        )
        if options.webhook is not None:
            allow_private = self._options.webhook_allow_private
            check_webhook(options.webhook, key.principal, self._can_sign, allow_private=allow_private, of_session=True)
        if options.collect is not None:
            self._collect(options.collect)

    def check_edit(self, key: SessionKey, edit: RunEdit) -> None:
        """Check what is to replace parts of a run as if it were requested. Raises `Invalid`."""
        if edit.input is None and edit.metadata is None and edit.priority is None:
            raise Invalid("an edit needs one of input, metadata and priority")
        if edit.input is not None:
            check_content(edit.input, self._options.allowed_content)
        self._check_size(Request(key=key, input=edit.input or "-", metadata=edit.metadata or {}))
        if edit.priority is not None:
            checked_priority(edit.priority)

    def _check_resolution(self, resolution: Resolution) -> None:
        """Raise an error if no run can continue with a resolution."""
        if not self._target.resumable:
            raise NotResolvable("the tools of this server's agent cannot be seen, so it cannot continue a run")
        for each in resolution.tools:
            if isinstance(each, ToolDone) and _is_deeper(each.result["content"], DEEPEST):
                raise Invalid(f"the result of {each.tool_use_id} must be nested at most {DEEPEST} levels deep")

    def _check_size(self, request: Request) -> None:
        """Raise `Invalid` if metadata is too large, since lists show it with its run, or nested too deep.

        A content block of a kind that only `allowed_content` knows can be nested too deep as well.
        """
        if request.metadata:
            metadata = without_client_options(request.metadata)
            if metadata and len(encode(metadata)) > (most := self._options.max_metadata_bytes):
                raise Invalid(f"metadata must have at most {most} bytes as JSON (setting max_metadata_bytes)")
            _check_depth("metadata", request.metadata)
        if not isinstance(request.input, str):
            _check_depth("input", request.input)
        if request.client is not None:
            _check_depth("tools and response_format", to_builtins(request.client))

    def _on_question(self, request: Request) -> OnQuestion:
        """Return what a run does to a question. A run of content blocks waits whatever the policy: it cannot answer
        one. So does a delayed run, which cannot know what is asked by then."""
        if request.not_before is not None:
            return OnQuestion.WAIT
        on_question = request.on_question or self._options.on_question
        if on_question is OnQuestion.ANSWER and not isinstance(request.input, str):
            return OnQuestion.WAIT
        return on_question

    def _own_options(self, request: Request) -> frozenset[str]:
        """Return the names of the options that a request sets, and of those that no session may set (any more)."""
        least = _NONE if self._options.trusted_senders else _SENDER
        values = _values_of_options(request)
        given = [option for (_, option), value in zip(_OPTIONS, values, strict=True) if value is not None]
        return least.union(given) if given else least

    def _keyed(self, key: str, request: Request, now: float) -> Keyed:
        ended_before = now - self._options.idempotency_retention_s
        return Keyed(key, request.fingerprint or fingerprint_of(request), ended_before)


def fingerprint_of(request: Request) -> bytes:
    """Return the SHA-256 of all that a caller requests in a session, independent of the order of keys."""
    requested = {name: getattr(request, name) for name in request.__struct_fields__ if name not in _IDENTITY}
    requested["if_busy"] = request.if_busy or IfBusy.ENQUEUE
    for name, absent in _LATER.items():
        if requested[name] is absent:
            del requested[name]
    plain = msgspec.json.decode(encode_messages(requested))
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).digest()


def _check_depth(name: str, value: object) -> None:
    if _is_deeper(value, DEEPEST):
        raise Invalid(
            f"{name} must be nested at most {DEEPEST} levels deep; make it flatter, or send what is deep as JSON in a"
            " string"
        )


def _is_deeper(value: object, levels: int) -> bool:
    """Return whether a value's objects and lists are nested more than so many levels deep, without recursion."""
    nested = [value] if isinstance(value, _NESTS) else []
    for _ in range(levels):
        if not nested:  # (nearly all runs end here, in the first round)
            return False
        nested = [inner for each in nested for inner in _inner(each) if isinstance(inner, _NESTS)]
    return bool(nested)


def _inner(nest: dict[Any, object] | list[object] | tuple[object, ...]) -> Iterable[object]:
    return nest.values() if isinstance(nest, dict) else nest


def _check_answers(request: Request) -> None:
    """Raise `Invalid` if a request's answers can never be valid."""
    if not request.answers:
        raise Invalid("responses must answer at least one input request")
    if any(given is None for given in request.answers.values()):
        raise Invalid("a response must not be null, which is no answer to the agent")
    if request.if_busy not in (None, IfBusy.ENQUEUE):
        raise Invalid("if_busy does not go with responses: an answer goes before all others anyway")
    if request.collect is not None:
        raise Invalid("collect does not go with responses: an answer is a turn of its own")
    if request.expected_run_id is not None:
        raise Invalid("expected_run_id does not go with responses: they name what they answer")
    if request.on_question is not None:
        raise Invalid("on_question does not go with responses: they name what they answer")
    if request.not_before is not None:
        raise Invalid("not_before does not go with responses: the session waits for them now")


def _check_policies(request: Request) -> None:
    """Raise `Invalid` if a request's policies exclude each other."""
    if request.on_question is OnQuestion.ANSWER and request.if_busy in INTERRUPTS:
        raise Invalid(
            f"on_question cannot be answer with if_busy {request.if_busy}: that dismisses the question. Leave one out"
        )
    if request.not_before is not None:
        if request.if_busy not in (None, IfBusy.ENQUEUE):
            raise Invalid(f"if_busy cannot be {request.if_busy} with not_before: a delayed run queues when it is due")
        if request.on_question not in (None, OnQuestion.WAIT):
            raise Invalid(
                f"on_question cannot be {request.on_question} with not_before: nobody knows what is asked by then"
            )
    if request.collect is not None:
        if request.if_busy not in (None, IfBusy.COLLECT):  # (None: its session may say it)
            raise Invalid("collect goes with if_busy collect only: it says for how long, and for how much")
        if request.not_before is not None:
            raise Invalid("collect does not go with not_before: a delayed run queues when it is due")
    if request.expected_run_id is not None and request.if_busy is not IfBusy.STEER:
        raise Invalid("expected_run_id goes with if_busy steer only: it names the run to join")


def _within(name: str, requested_s: float | None, most_s: float) -> float:
    """Return how many seconds a run gets. Raises `Invalid` unless it is more than 0 and at most the server's limit."""
    if requested_s is None:
        return most_s
    if not 0 < requested_s <= most_s:  # (also NaN)
        raise Invalid(f"{name} must be more than 0 and at most {most_s:g} seconds, which is what this server allows")
    return requested_s


def check_sender(sender: Sender, *, trusted: bool) -> None:
    """Raise `Invalid` if a request may not name its sender, or names one that no line of text can show."""
    if not trusted:
        raise Invalid(
            "sender may be named only where the setting trusted_senders is on (STRANDLINE_TRUSTED_SENDERS=true);"
            " leave it out, and the sender is the name of the API key"
        )
    for name, text in (("id", sender.id), ("name", sender.name)):
        if not (0 < len(text) <= LONGEST_SENDER and text.isprintable() and not text.isspace()):
            raise Invalid(
                f"sender.{name} must be 1 to {LONGEST_SENDER} characters that can be shown, without line breaks"
            )


def checked_priority(priority: int) -> int:
    """Return a priority. Raises `Invalid` unless it is a whole number in the range."""
    if priority not in range(HIGHEST_PRIORITY, LOWEST_PRIORITY + 1):
        raise Invalid(f"priority must be {HIGHEST_PRIORITY} to {LOWEST_PRIORITY}, {HIGHEST_PRIORITY} first")
    return int(priority)
