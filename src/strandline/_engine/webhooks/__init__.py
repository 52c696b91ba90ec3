"""Sends events of runs and sessions to webhooks: each at least once, as the journal has it."""

from strandline._engine.webhooks.callers import Tested, Webhooks
from strandline._engine.webhooks.outbox import DeliveryPage, DeliveryView, Outbox, WebhookVitals
from strandline._engine.webhooks.port import Sender, SendResult, ToSend

__all__ = [
    "DeliveryPage",
    "DeliveryView",
    "Outbox",
    "SendResult",
    "Sender",
    "Tested",
    "ToSend",
    "WebhookVitals",
    "Webhooks",
]
