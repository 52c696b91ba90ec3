"""Sends events of runs to webhooks: each at least once, as the journal has it."""

from strandline._engine.webhooks.outbox import DeliveryPage, DeliveryView, Outbox, WebhookVitals
from strandline._engine.webhooks.port import Sender, SendResult, ToSend

__all__ = ["DeliveryPage", "DeliveryView", "Outbox", "SendResult", "Sender", "ToSend", "WebhookVitals"]
