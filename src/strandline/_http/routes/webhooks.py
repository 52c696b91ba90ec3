"""The webhook API: what waits to be sent or is dead, sending it again, and sending a test."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder
from strandline._engine.service import Service
from strandline._engine.webhooks import DeliveryView
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import principal_of
from strandline._http.forwardable import only_once
from strandline._model import RunId, SessionId
from strandline._settings import AppSettings
from strandline.errors import Invalid

READS: Final = "The body is an object with `url`"
DeliveryStatus = Literal["waiting", "dead"]


class DeliveryBody(Struct, frozen=True, kw_only=True):
    """An event that waits to be sent, or is dead."""

    id: Annotated[str, Meta(description="The `webhook-id` under which it is sent")]
    type: str
    status: DeliveryStatus
    run_id: RunId | None
    session_id: SessionId
    url: Annotated[str | None, Meta(description="Where it goes, without its query; null: the server's webhook")]
    created_at: wire.Timestamp | None
    next_at: Annotated[wire.Timestamp | None, Meta(description="When it is sent next; null: it is dead")]
    attempts: int
    error: Annotated[str | None, Meta(description="Why the last attempt failed")]


class DeliveriesBody(Struct, frozen=True, kw_only=True):
    """A page of events."""

    webhooks: list[DeliveryBody]
    next_cursor: str | None


class WebhookTestBody(Struct, frozen=True):
    """Where to send a test."""

    url: Annotated[str, Meta(description="As in a request for a run", max_length=2048)]


class WebhookTestedBody(Struct, frozen=True, kw_only=True):
    """What became of a test."""

    id: Annotated[str, Meta(description="Its `webhook-id`")]
    received: Annotated[bool, Meta(description="Whether it was answered with a status from 200 to 299")]
    detail: str


class WebhookRoutes:
    """The routes of webhooks."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        self._service = service
        self._settings = settings
        self._decode = decoder(WebhookTestBody)

    async def all(self, request: Request) -> Response:
        """Return the caller's events that wait to be sent or are dead, by id."""
        query = request.query_params
        status, cursor, limit = query.get("status"), query.get("cursor"), wire.page_limit(request)
        if status not in (None, "waiting", "dead"):
            raise Invalid("status must be waiting or dead")
        if cursor is not None and not (cursor.isascii() and cursor.isprintable() and len(cursor) <= 128):
            raise Invalid("cursor must be the `next_cursor` of a page of this list")
        page = await self._service.webhooks.page(
            principal_of(request), dead=None if status is None else status == "dead", after=cursor, limit=limit
        )
        return wire.answer(DeliveriesBody(webhooks=[_body(each) for each in page.deliveries], next_cursor=page.after))

    async def resend(self, request: Request) -> Response:
        """Send an event again at once, as often as a new one."""
        only_once(request)
        event_id = request.path_params["webhook_id"]
        await self._service.webhooks.resend(principal_of(request), event_id)
        changed(request, f"sent event {event_id} again")
        return Response(status_code=wire.NO_CONTENT)

    async def test(self, request: Request) -> Response:
        """Send an event `webhook.test` once, and return whether it was received."""
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode, READS)
        only_once(request)
        tested = await self._service.webhooks.test(principal_of(request), body.url)
        return wire.answer(
            WebhookTestedBody(id=tested.id, received=tested.result.received, detail=tested.result.detail)
        )


def _body(event: DeliveryView) -> DeliveryBody:
    return DeliveryBody(
        id=event.id,
        type=event.type,
        status="dead" if event.next_at is None else "waiting",
        run_id=event.run_id,
        session_id=event.session_id,
        url=event.url,
        created_at=wire.timestamp(event.created_at),
        next_at=wire.timestamp(event.next_at),
        attempts=event.attempts,
        error=event.error,
    )
