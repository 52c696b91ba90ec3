"""Requests that a program derives from a run that there is: to replace it, or to continue it after a crash. Pure."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from strandline._encoding import encode_messages
from strandline._engine.requests.checked_tools import CheckedTool, ToolOutcome
from strandline._engine.requests.request import Request, is_storable
from strandline._model import IfBusy, Run, Webhook
from strandline.errors import Invalid


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
    return Request(
        key=run.key,
        input=run.input,
        if_busy=if_busy,
        priority=priority,
        timeout_s=timeout_s,
        queue_timeout_s=queue_timeout_s,
        metadata=run.metadata if metadata is None else metadata,
        sender=run.sender if trusts_senders else None,
        webhook=_webhook(run),
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
    return Request(
        key=run.key,
        input=run.input,
        timeout_s=timeout_s,
        metadata=run.metadata,
        sender=run.sender if trusts_senders else None,
        webhook=_webhook(run),
        idempotency_key=idempotency_key,
        fingerprint=_fingerprint(idempotency_key, ["resolve", run.run_id, found, timeout_s]),
    )


def _webhook(run: Run) -> Webhook | None:
    """Return where events of a run are sent, unless the server's settings say that."""
    if run.webhook is None or run.webhook.by_server:
        return None
    return Webhook(run.webhook.url, run.webhook.events)


def _fingerprint(idempotency_key: str | None, requested: object) -> bytes:
    """Return the SHA-256 of what a program requests under a key: it may say so again when its run has changed."""
    if idempotency_key is None or not is_storable(idempotency_key):  # (`Request` refuses that)
        return b""
    plain = msgspec.json.decode(encode_messages(requested))
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).digest()
