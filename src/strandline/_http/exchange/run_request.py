"""The record that every dialect reads a request into: the requested run, and how to answer."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, convert
from msgspec.structs import replace
from starlette.requests import Request as HttpRequest

from strandline._engine.requests import (
    END_OF_TIME_S,
    Kept,
    ListedMessages,
    Replaced,
    Request,
    without_client_options,
)
from strandline._http.caller import caller_of, check_no_token
from strandline._http.exchange.idempotency import fingerprint
from strandline._http.wire import Timestamp
from strandline._model import (
    ClientOptions,
    CollectOptions,
    IfBusy,
    Input,
    OnDisconnect,
    OnQuestion,
    Resolution,
    RunWebhook,
    Sender,
    SessionKey,
    Webhook,
)
from strandline.errors import Invalid

UNTIL_IT_ENDS: Final = math.inf
OF_AGENTCORE: Final = "agentcore"
"""The key of a run's metadata for the headers of AgentCore Runtime."""


Priority = Annotated[int, Meta(ge=1, le=5)] | Annotated[float, Meta(ge=1, le=5, multiple_of=1)]
"""A whole number in any JSON form: `2`, `2.0`, `2e0`. `whole_number` converts it to an int."""


class SenderBody(Struct, frozen=True):
    """The person or program that sent the input, for callers that speak for several."""

    id: Annotated[str, Meta(description="For programs: whom it names", min_length=1, max_length=256)]
    name: Annotated[str | None, Meta(description="For people; default: the `id`")] = None

    def named(self) -> Sender:
        """Return it with a name."""
        return Sender(self.id, self.name or self.id)


class WebhookBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Where events are sent, signed as Standard Webhooks says."""

    url: Annotated[str, Meta(description="An `https` URL without a user name, password or fragment", max_length=2048)]
    events: Annotated[
        tuple[
            Literal[
                "run.queued",
                "run.started",
                "run.joined",
                "run.finished",
                "session.paused",
                "session.resumed",
                "session.deleted",
            ],
            ...,
        ],
        Meta(
            description="The events that are sent; those of sessions only in the options of a session",
            min_length=1,
            max_length=7,
        ),
    ] = ("run.finished",)

    def named(self) -> Webhook:
        """Return it as the service takes it."""
        return Webhook(self.url, tuple(dict.fromkeys(self.events)))

    @classmethod
    def of(cls, webhook: Webhook | None) -> "WebhookBody | None":
        """Return where events of a run are sent, if its caller may see it."""
        by_server = isinstance(webhook, RunWebhook) and webhook.by_server
        return None if webhook is None or by_server else convert(webhook, cls, from_attributes=True)


class CollectBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long a run waits for others of its turn, and for how many."""

    quiet: Annotated[
        Annotated[float, Meta(ge=0, le=60)] | None,
        Meta(description="Seconds without a further one after which they start"),
    ] = None
    max_wait: Annotated[
        Annotated[float, Meta(ge=0, le=600)] | None, Meta(description="Seconds that the first of them waits at most")
    ] = None
    max_items: Annotated[
        Annotated[int, Meta(ge=1, le=100)] | Annotated[float, Meta(ge=1, le=100, multiple_of=1)] | None,
        Meta(description="How many start together at most"),
    ] = None
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=1048576)] | Annotated[float, Meta(ge=1, le=1048576, multiple_of=1)] | None,
        Meta(description="How many bytes of input start together at most"),
    ] = None

    def named(self) -> CollectOptions:
        """Return it as the service takes it."""
        return CollectOptions(
            quiet=self.quiet,
            max_wait=self.max_wait,
            max_items=whole_number(self.max_items),
            max_bytes=whole_number(self.max_bytes),
        )


class RunOptions(Struct, frozen=True, kw_only=True):
    """The fields that all bodies which submit a run share. Null means absent, but of `after`."""

    if_busy: Annotated[
        IfBusy | None,
        Meta(
            description="What happens if the session has queued or executing runs; by default the run waits"
            " (`enqueue`). `steer`: its message reaches the agent that executes before its next model call, and it ends"
            " with that run; if no call comes any more, or nothing executes, it is the next run. `collect`: it waits a"
            " moment for further ones, and those next to each other in the queue start together, as one turn"
        ),
    ] = None
    collect: Annotated[
        CollectBody | None,
        Meta(
            description="With `if_busy` `collect`, which its session may say; default: the settings `collect_quiet`,"
            " `collect_max_wait`, ..."
        ),
    ] = None
    expected_run_id: Annotated[
        str | None,
        Meta(description="With `if_busy` `steer`: the run to join; 409 `not_running` unless that executes"),
    ] = None
    after: Annotated[
        str | UnsetType | None,
        Meta(
            description="The run after which the conversation continues with this one; null: it begins anew. What came"
            " later is superseded once this run starts: kept, and hidden from the agent. 409 `session_busy` unless the"
            " session is at rest, or `if_busy` is `interrupt` or `rollback`"
        ),
    ] = UNSET
    on_question: Annotated[
        OnQuestion | None,
        Meta(
            description="What happens if the session waits for a person's answer: the run waits too (`wait`), is the"
            " answer, if it is a text and exactly one input request is open (`answer`), or dismisses the question"
            " (`dismiss`); default: the setting `on_question`"
        ),
    ] = None
    priority: Annotated[Priority | None, Meta(description="Priority in the queue, 1 to 5, 1 first")] = None
    timeout: Annotated[float | None, Meta(description="Seconds that the run may take")] = None
    queue_timeout: Annotated[float | None, Meta(description="Seconds that the run may wait for its turn")] = None
    not_before: Annotated[
        Timestamp | None,
        Meta(description="The time before which the run does not start: until then it waits beside the queue"),
    ] = None
    on_disconnect: Annotated[
        OnDisconnect | None, Meta(description="What happens to the run if all its clients disconnect")
    ] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="Stored with the run, and passed to its tools")] = None
    sender: Annotated[
        SenderBody | None,
        Meta(description="Who sent the input; only where the setting `trusted_senders` is on. Default: the API key"),
    ] = None
    webhook: Annotated[
        WebhookBody | None, Meta(description="Where events of the run are sent; default: as its session says")
    ] = None


class Response(Struct, frozen=True):
    """The answer to one input request."""

    id: Annotated[str, Meta(description="The `id` of the input request")]
    response: Annotated[Any, Meta(description="The answer, any JSON but null")]


class Responses(Struct, frozen=True):
    """Answers to all open input requests of the session, instead of a text."""

    responses: list[Response]


class RunRequest(Struct, frozen=True, kw_only=True):
    """A run requested by a client. `options` are the fields that all dialects share."""

    key: SessionKey
    input: Input | Responses
    options: RunOptions
    body: bytes
    """The body as JSON, or a digest of it: the same for a repeated request."""
    key_in_body: str | None = None
    """The idempotency key of a protocol that has one in its bodies; a header comes before it."""
    runtime: Mapping[str, str] = {}
    """The headers of AgentCore Runtime."""
    as_events: bool = False
    """Whether to answer with a stream of the run's events."""
    after: int = 0
    """The event after which a stream resumes."""
    resolution: Resolution | None = None
    """What a person found out about a crashed run, which this one continues."""
    again: Replaced | None = None
    """The run that this one replaces."""
    kept: Kept | None = None
    """What it has of the run that it replaces or continues, in place of its `options`."""
    client: ClientOptions | None = None
    """What the client wants of the agent."""
    listed: ListedMessages | None = None
    """What its client lists of the conversation before it, if that counts."""
    unless_last: bool = False
    """Whether it goes back to `options.after` only if a later run of its session was accepted."""
    wait_s: float | None = UNTIL_IT_ENDS
    """How long the answer waits for the run's end; None: not at all."""

    def for_service(self, idempotency_key: str | None) -> Request:
        """Return the request to the service. Raises `Invalid`."""
        answers: dict[str, Any] | None = None
        prompt = self.input
        if isinstance(prompt, Responses):
            answers = {each.id: each.response for each in prompt.responses}
            if len(answers) < len(prompt.responses):
                raise Invalid("responses must answer each input request once")
            prompt = ""
        options, kept = self.options, self.kept
        if kept is None:
            sender = None if options.sender is None else options.sender.named()
            webhook = None if options.webhook is None else options.webhook.named()
            kept = Kept(without_client_options(options.metadata or {}), sender, webhook, self.client)
        return Request(
            key=self.key,
            input=prompt,
            answers=answers,
            if_busy=options.if_busy,
            expected_run_id=options.expected_run_id,
            collect=None if options.collect is None else options.collect.named(),
            after=options.after,
            on_question=options.on_question,
            priority=whole_number(options.priority),
            timeout_s=options.timeout,
            queue_timeout_s=options.queue_timeout,
            not_before=seconds(options.not_before),
            on_disconnect=options.on_disconnect,
            metadata=kept_with(kept.metadata, self.runtime),
            client=kept.client,
            sender=kept.sender,
            webhook=kept.webhook,
            idempotency_key=idempotency_key,
            fingerprint=b"" if idempotency_key is None else fingerprint(self.body),
        )


def under_token(request: HttpRequest, run_request: RunRequest) -> RunRequest:
    """Return a request for a run with the sender of its token. Raises `TokenForbidden` for what only keys may want."""
    token = caller_of(request).token
    if token is None:
        return run_request
    options = run_request.options
    for given, what in (
        (options.webhook, "name a webhook"),
        (options.not_before, "send a run for a later time"),
        (options.sender, "name a sender: the token has it"),
    ):
        if given is not None:
            check_no_token(request, what)
    if token.sender is None:
        return run_request
    return replace(run_request, options=replace(options, sender=SenderBody(token.sender.id, token.sender.name)))


def seconds(time: datetime | None) -> float | None:
    """Return a time in seconds since the epoch, at least 0 and in the year 9999 at the latest."""
    return None if time is None else min(max(0.0, time.timestamp()), END_OF_TIME_S - 1)


def whole_number(given: float | None) -> int | None:
    """Return a number, already checked to be whole, as an int."""
    return None if given is None else int(given)


def kept_with(metadata: dict[str, Any], runtime: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a run: the client's, and AgentCore's headers, which a client's cannot replace."""
    if not runtime and OF_AGENTCORE not in metadata:
        return metadata
    own = {name: value for name, value in metadata.items() if name != OF_AGENTCORE}
    return {**own, OF_AGENTCORE: dict(runtime)} if runtime else own
