"""Requests that are derived from a run that there is: to replace it, or to continue it after a crash. Pure.

`kept_of` says for all callers what such a run keeps of the other one, besides its input; the rest is what a program
requests.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from strandline._encoding import encode_messages
from strandline._engine.requests.checked_tools import CheckedTool, ToolOutcome
from strandline._engine.requests.client_options import client_options_in, without_client_options
from strandline._engine.requests.request import Request, is_storable
from strandline._model import ClientOptions, IfBusy, Run, Sender, Webhook
from strandline.errors import Invalid


class Kept(Struct, frozen=True):
    """What a run that replaces or continues another one has of it."""

    metadata: dict[str, Any]
    sender: Sender | None
    webhook: Webhook | None
    client: ClientOptions | None = None


def kept_of(run: Run, *, trusts_senders: bool, metadata: dict[str, Any] | None = None) -> Kept:
    """Return what is kept of a run, with other `metadata` if there is some.

    Its sender, where requests may name theirs; where its events are sent, unless the server's settings say that.
    """
    webhook = run.webhook
    kept = None if webhook is None or webhook.by_server else Webhook(webhook.url, webhook.events)
    sender = run.sender if trusts_senders else None
    client = client_options_in(run.metadata)
    return Kept(without_client_options(run.metadata if metadata is None else metadata), sender, kept, client)


def again_request(
    run: Run,
    run_id: str,
    *,
    trusts_senders: bool,
    if_busy: IfBusy | None,
    priority: int | None,
    timeout_s: float | None,
    queue_timeout_s: float | None,
    metadata: dict[str, Any] | None,
    idempotency_key: str | None,
) -> Request:
    """Return the request to replace a run, which has its input; `run_id` is the id by which a program named it."""
    options = [if_busy, priority, timeout_s, queue_timeout_s, metadata]
    kept = kept_of(run, trusts_senders=trusts_senders, metadata=metadata)
    return Request(
        key=run.key,
        input=run.input,
        if_busy=if_busy,
        priority=priority,
        timeout_s=timeout_s,
        queue_timeout_s=queue_timeout_s,
        metadata=kept.metadata,
        client=kept.client,
        sender=kept.sender,
        webhook=kept.webhook,
        idempotency_key=idempotency_key,
        fingerprint=_fingerprint(idempotency_key, ["again", run_id, options]),
    )


def resolve_request(
    run: Run,
    tools: Sequence[CheckedTool],
    *,
    trusts_senders: bool,
    timeout_s: float | None,
    idempotency_key: str | None,
) -> Request:
    """Return the request to continue a crashed run. Raises `Invalid`."""
    if not all(isinstance(getattr(each, "outcome", None), ToolOutcome) for each in tools):
        raise Invalid("tools must be a list of strandline.CheckedTool, whose outcome is a strandline.ToolOutcome")
    found = [[each.tool_use_id, each.outcome, *([] if each.result is UNSET else [each.result])] for each in tools]
    kept = kept_of(run, trusts_senders=trusts_senders)
    return Request(
        key=run.key,
        input=run.input,
        timeout_s=timeout_s,
        metadata=kept.metadata,
        client=kept.client,
        sender=kept.sender,
        webhook=kept.webhook,
        idempotency_key=idempotency_key,
        fingerprint=_fingerprint(idempotency_key, ["resolve", run.run_id, found, timeout_s]),
    )


def _fingerprint(idempotency_key: str | None, requested: object) -> bytes:
    """Return the SHA-256 of what a program requests under a key: it may say so again when its run has changed."""
    if idempotency_key is None or not is_storable(idempotency_key):  # (`Request` refuses that)
        return b""
    plain = msgspec.json.decode(encode_messages(requested))
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).digest()
