"""The one record that every dialect reads a request into: the run that its client asks for, and how it is answered."""

import math
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from strandline.engine.asked import Request
from strandline.errors import Invalid
from strandline.http.exchange.idempotency import fingerprint
from strandline.http.exchange.run_options import Responses, RunOptions, kept_with, whole_number
from strandline.model import IfBusy, Input, SessionKey

UNTIL_IT_ENDS: Final = math.inf


class RunRequest(Struct, frozen=True, kw_only=True):
    """A run that a client asks for. `options` are those that every dialect has in common."""

    key: SessionKey
    input: Input | Responses
    options: RunOptions
    body: bytes
    """What was sent, as JSON, or what stands for it: the same for a request that is sent again."""
    runtime: Mapping[str, str] = {}
    """What AgentCore Runtime says of the request."""
    as_events: bool = False
    """Whether the answer is a stream of the run's events, else it is one answer."""
    after: int = 0
    """The event after which a client goes on that comes back to a stream."""
    wait_s: float | None = UNTIL_IT_ENDS
    """How long the one answer waits for the run's end; None: not at all."""

    def for_service(self, idempotency_key: str | None) -> Request:
        """Return what the service is asked. Raises `Invalid`."""
        answers: dict[str, Any] | None = None
        prompt = self.input
        if isinstance(prompt, Responses):
            answers = {each.id: each.response for each in prompt.responses}
            if len(answers) < len(prompt.responses):
                raise Invalid("responses must answer each input request once")
            prompt = ""
        options = self.options
        return Request(
            key=self.key,
            input=prompt,
            answers=answers,
            if_busy=options.if_busy or IfBusy.ENQUEUE,
            on_question=options.on_question,
            priority=whole_number(options.priority),
            timeout_s=options.timeout,
            queue_timeout_s=options.queue_timeout,
            on_disconnect=options.on_disconnect,
            metadata=kept_with(options.metadata or {}, self.runtime),
            idempotency_key=idempotency_key,
            fingerprint=b"" if idempotency_key is None else fingerprint(self.body),
        )
