"""Checks where events of a run are to be sent. Pure.

Whether an address may be reached is found out when something is sent: a name may have another address by then.
"""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from strandline._model import Principal, Webhook
from strandline.errors import Invalid

EVENTS: Final = ("run.queued", "run.started", "run.joined", "run.finished")
"""The events of runs that can be sent."""
SESSION_EVENTS: Final = ("session.paused", "session.resumed", "session.deleted")
"""Those of sessions: to the webhook of a session, or of the server."""
DEFAULT_EVENTS: Final = ("run.finished",)
LONGEST_URL: Final = 2048
NO_SECRETS: Final = (
    "this server sends nothing to webhooks, since it has no secrets to sign with; its operator sets webhook_secrets to"
    " a file of lines that `strandline keys webhook NAME` prints"
)


def check_webhook(
    webhook: Webhook,
    principal: Principal,
    can_sign: Callable[[Principal], bool] | None,
    *,
    allow_private: bool,
    of_session: bool = False,
) -> None:
    """Raise `Invalid` unless events of a principal can be sent to a webhook, those of runs or (`of_session`) all."""
    if can_sign is None:
        raise Invalid(f"webhook: {NO_SECRETS}")
    check_url(webhook.url, allow_private=allow_private)
    events = (*EVENTS, *SESSION_EVENTS) if of_session else EVENTS
    if unknown := sorted(set(webhook.events) - set(events)):
        of_sessions = "; events of a session are sent to the webhook of its options, or of the settings"
        hint = of_sessions if set(unknown) & set(SESSION_EVENTS) else ""
        raise Invalid(f"webhook.events cannot have {', '.join(unknown)}; it may have {', '.join(events)}{hint}")
    if not webhook.events:
        raise Invalid(f"webhook.events must have at least one of {', '.join(events)}")
    if not can_sign(principal):
        raise Invalid(
            f"webhook: {principal} has no secret that signs what is sent; its operator adds the line that `strandline"
            f" keys webhook {principal}` prints to the file of the setting webhook_secrets"
        )


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise `Invalid` unless this is a URL that a webhook can have."""
    schemes = ("https", "http") if allow_private else ("https",)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Invalid("webhook.url is not a URL") from None
    if parts.scheme not in schemes:
        raise Invalid(f"webhook.url must begin with {' or '.join(f'{each}://' for each in schemes)}")
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > LONGEST_URL:
        raise Invalid(f"webhook.url must be at most {LONGEST_URL} ASCII characters, without spaces")
    if not host or port == 0:
        raise Invalid("webhook.url must name a host")
    if parts.username is not None or parts.password is not None:
        raise Invalid("webhook.url must not have a user name or a password: what is sent is signed instead")
    if "#" in url:
        raise Invalid("webhook.url must not have a fragment (`#`), which is never sent")
