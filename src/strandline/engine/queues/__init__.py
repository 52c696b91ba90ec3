"""Queues: the sessions in which something waits or is claimed, and which of them goes next."""

from strandline.engine.queues.dispatcher import Dispatcher, Obstacle, Share
from strandline.engine.queues.estimates import Estimates, RunTimes
from strandline.engine.queues.inputs import Inputs
from strandline.engine.queues.queue_limits import QueueLimits
from strandline.engine.queues.refusals import Refusals

__all__ = ["Dispatcher", "Estimates", "Inputs", "Obstacle", "QueueLimits", "Refusals", "RunTimes", "Share"]
