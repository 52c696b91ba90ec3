"""The default options of a session's runs: stored, changed, and given to each run whose request sets none. Pure."""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

from msgspec.structs import replace

from strandline._encoding import decoder, encode_messages
from strandline._journal.changes import Body, SessionRef
from strandline._journal.checksums import options_owner, read_checked, with_checksum
from strandline._model import (
    INTERRUPTS,
    NO_DEFAULTS,
    IfBusy,
    Lane,
    NewRun,
    OnQuestion,
    RunDefaults,
    RunWebhook,
    collect_by,
    waits_since,
)
from strandline.errors import Invalid

_decoded: Final[Callable[[bytes], RunDefaults]] = decoder(RunDefaults)


def options_of(session: SessionRef, stored: bytes | None) -> RunDefaults:
    """Return the stored options of a session. Raises `RecordDamaged`."""
    if stored is None:
        return NO_DEFAULTS
    what = f"the options of session {session.key.session_id}"
    return read_checked(_decoded, stored, what, options_owner(session.crc), is_new=True)


def stored_options(session: SessionRef, options: RunDefaults) -> bytes | None:
    """Return the options of a session as they are stored; None for none."""
    if options == NO_DEFAULTS:
        return None
    return bytes(with_checksum(encode_messages(options), options_owner(session.crc)))


def changed_options(options: RunDefaults, given: Mapping[str, Any]) -> RunDefaults:
    """Return the options of a session after a change, of which None removes one. Raises `Invalid` for options that
    exclude each other."""
    changed = replace(options, **given)
    if changed.on_question is OnQuestion.ANSWER and changed.if_busy in INTERRUPTS:
        raise Invalid(
            f"on_question cannot be answer with if_busy {changed.if_busy}: that dismisses the question. Remove one of"
            " them"
        )
    return changed


def with_defaults(new: NewRun, body: Body, options: RunDefaults) -> tuple[NewRun, Body]:
    """Return a run, and its encoded request, with the options of its session where its request sets none.

    No run takes or waits longer than the service lets it.
    """

    def of(name: str) -> Any:
        return None if name in new.own_options else getattr(options, name)

    if_busy, lane, on_question = _policies(new, of("if_busy"), of("on_question"))
    timeout_s, queue_deadline = new.timeout_s, new.queue_deadline
    if (seconds := of("timeout")) is not None:
        timeout_s = min(seconds, inf if timeout_s is None else timeout_s)
    if (seconds := of("queue_timeout")) is not None:
        queue_deadline = min(
            waits_since(new.created_at, new.not_before) + seconds, inf if queue_deadline is None else queue_deadline
        )
    merged = replace(
        new,
        if_busy=if_busy,
        lane=lane,
        on_question=on_question,
        priority=of("priority") or new.priority,
        timeout_s=timeout_s,
        queue_deadline=queue_deadline,
        metadata={**(options.metadata or {}), **new.metadata},
        sender=of("sender") or new.sender,
        webhook=new.webhook if (webhook := of("webhook")) is None else RunWebhook(webhook.url, webhook.events).of_run(),
    )
    if (given := of("collect")) is not None and merged.collect is not None:
        merged = replace(merged, collect=collect_by(given, merged.collect))
    metadata = encode_messages(merged.metadata) if merged.metadata else None
    sender = None if merged.sender is None else encode_messages(merged.sender)
    encoded = None if merged.webhook is None else encode_messages(merged.webhook)
    return merged, replace(body, metadata=metadata, sender=sender, webhook=encoded)


def _policies(new: NewRun, if_busy: IfBusy | None, on_question: OnQuestion | None) -> tuple[IfBusy, int, OnQuestion]:
    """Return what a run does if its session is busy or waits for input, and its lane.

    An answer goes before all others anyway, a delayed run queues when it is due, and a schedule's run queues behind
    the others. A request that is to be the answer to a question does not dismiss it, and one of content blocks cannot
    be one.
    """
    if new.lane == Lane.ANSWER or new.not_before is not None or new.fires is not None:
        return new.if_busy, new.lane, new.on_question
    if if_busy in INTERRUPTS and "on_question" in new.own_options and new.on_question is OnQuestion.ANSWER:
        if_busy = None
    if on_question is OnQuestion.ANSWER and not isinstance(new.input, str):
        on_question = OnQuestion.WAIT
    lane = Lane.FRONT if if_busy in INTERRUPTS else new.lane
    return if_busy or new.if_busy, lane, on_question or new.on_question
