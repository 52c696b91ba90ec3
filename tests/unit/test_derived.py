"""What a run that replaces or continues another one keeps of it, whoever asks for it."""

from typing import Any

import pytest

from strandline._engine.requests import Kept, again_request, kept_of, resolve_request
from strandline._model import (
    ANONYMOUS,
    Lane,
    Run,
    RunId,
    RunStatus,
    RunWebhook,
    Sender,
    SessionId,
    SessionKey,
    Webhook,
)

ADA = Sender("ada", "Ada")
OWN = RunWebhook("https://example.com/", ("run.finished", "run.started"))
KEPT = Webhook(OWN.url, OWN.events)


def run(**fields: Any) -> Run:
    return Run(
        run_id=RunId("r"),
        key=SessionKey(ANONYMOUS, SessionId("s")),
        input="hello",
        priority=3,
        resumable=True,
        metadata={"n": 1},
        sequence=1,
        status=RunStatus.FAILED,
        created_at=0.0,
        lane=Lane.NORMAL,
        attempt=1,
        **{"sender": ADA, "webhook": OWN, **fields},
    )


def test_metadata_sender_and_webhook_are_kept() -> None:
    assert kept_of(run(), trusts_senders=True) == Kept({"n": 1}, ADA, KEPT)
    assert kept_of(run(), trusts_senders=True, metadata={}) == Kept({}, ADA, KEPT)


def test_a_sender_is_kept_only_where_requests_may_name_theirs() -> None:
    assert kept_of(run(), trusts_senders=False).sender is None


def test_a_webhook_of_the_servers_settings_is_not_kept() -> None:
    """The settings name it again, or another one by now."""
    for webhook in (None, RunWebhook(OWN.url, OWN.events, by_server=True)):
        assert kept_of(run(webhook=webhook), trusts_senders=True).webhook is None


@pytest.mark.parametrize("trusts", [True, False])
def test_programs_request_what_is_kept(trusts: bool) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ["if_busy", "priority", "timeout_s", "queue_timeout_s", "metadata", "idempotency_key"]
    )
    again = again_request(run(), "r", trusts_senders=trusts, **nothing)
    resolves = resolve_request(run(), [], trusts_senders=trusts, timeout_s=None, idempotency_key=None)
    for request in (again, resolves):
        assert Kept(request.metadata, request.sender, request.webhook) == kept_of(run(), trusts_senders=trusts)
        assert (request.key, request.input) == (run().key, "hello")
    given = {**nothing, "metadata": {"m": 2}}
    assert again_request(run(), "r", trusts_senders=trusts, **given).metadata == {"m": 2}
