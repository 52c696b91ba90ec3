"""Deletes old runs by hand, in a database that no server owns."""

from collections.abc import Callable
from typing import Final

from strandline._clock import Clock
from strandline._journal import deletion
from strandline._journal.postgres.maintenance import connected, have_alone
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.schema import check_current

BATCH: Final = 500
"""How many runs one transaction deletes."""
_ADVICE: Final = (
    "A server deletes old runs by itself: its setting `run_retention` says after how long. This command is for a"
    " database without a server."
)


def prune(address: str, clock: Clock, older_than_s: float, on_step: Callable[[int], None]) -> int:
    """Delete all runs that ended more than `older_than_s` seconds ago; return how many. Their messages stay in history.

    `on_step` gets the number of deleted runs so far. Raises a `JournalError` that says what to do. A server that starts
    meanwhile ends it; what was deleted so far is deleted then.
    """
    before = clock.now() - older_than_s
    deleted, after = 0, -1
    with connected(address, "journal prune") as wire:
        check_current(wire)
        batch = Batch(wire)
        while True:
            have_alone(wire, advice=_ADVICE)
            count, following = deletion.prune(batch, before, BATCH, after, clock.now())
            batch.execute("COMMIT")
            deleted += count
            if count:
                on_step(deleted)
            if following is None and count < BATCH:
                return deleted
            after = after if following is None else following
