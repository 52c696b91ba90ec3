"""What callers do with their events that wait to be sent or are dead, whether or not this server sends any."""

import secrets

from msgspec import Struct

from strandline._engine.requests import NO_SECRETS, check_webhook
from strandline._engine.webhooks.outbox import DeliveryPage, Outbox
from strandline._engine.webhooks.port import SendResult
from strandline._model import Principal, Webhook
from strandline.errors import NotFound


class Tested(Struct, frozen=True):
    """A test, under the `webhook-id` that it was sent with."""

    id: str
    result: SendResult


class Webhooks(Struct, frozen=True):
    """The events of callers; `outbox` is None where nothing is sent."""

    outbox: Outbox | None
    allow_private: bool

    async def page(self, principal: Principal, *, dead: bool | None, after: str | None, limit: int) -> DeliveryPage:
        """Return a page of a caller's events, in the order of their ids: all, or those that are dead, or wait.

        `after` is that of the page before.
        """
        if self.outbox is None:
            return DeliveryPage([], None)
        return await self.outbox.page(principal, dead=dead, after=after or "", limit=limit)

    async def resend(self, principal: Principal, event_id: str) -> None:
        """Have an event be sent at once, as often as a new one. Raises `NotFound`, also for one of another caller, and
        for one that was received."""
        if self.outbox is None:
            raise NotFound(f"there is no event {event_id} that this server sends: it sends nothing to webhooks")
        await self.outbox.resend(principal, event_id)

    async def test(self, principal: Principal, url: str) -> Tested:
        """Send a test to a webhook once; return whether it was received. Raises `Invalid`."""
        event_id = f"test_{secrets.token_hex(12)}"
        if self.outbox is None:
            return Tested(event_id, SendResult(received=False, detail=NO_SECRETS))
        check_webhook(Webhook(url), principal, self.outbox.can_sign, allow_private=self.allow_private)
        return Tested(event_id, await self.outbox.test(principal, event_id, url))
