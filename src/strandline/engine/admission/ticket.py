"""What a caller gets for an accepted run."""

from msgspec import Struct

from strandline.engine.streams import Later, RunStream
from strandline.model import Outcome, RunId, SessionKey


class Ticket(Struct, frozen=True, kw_only=True):
    """An accepted run: durable from here on. `position` is 0 if it executes, else 1 for the next to start.

    `attached`: it was accepted before under the same key; `replayed`: it has ended, too, and `stream` has its end
    already. `heeds`: it is of importance for the run whether whoever waits for it is still there; see `Service.joined`.
    `stopped`: the runs that it has cancelled, since it interrupts.
    """

    run_id: RunId
    key: SessionKey
    position: int
    estimated_wait_s: float | None
    stream: RunStream
    attached: bool = False
    replayed: bool = False
    heeds: bool = False
    stopped: tuple[RunId, ...] = ()

    async def outcome(self) -> Outcome | Later:
        """Wait for the end of the run. `Later`: it goes on after a restart. Cancelling this changes nothing for it."""
        return await self.stream.outcome()
