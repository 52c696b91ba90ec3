"""Recovery of runs that were gained while clients are served: what clients were answered meanwhile holds."""

import asyncio

import pytest

from engine_support import key
from strandline._clock import SystemClock
from strandline._engine.execution.recovery import recover
from strandline._engine.options import Options
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Bounds, Cancel, Ended, Stopped
from strandline._model import ANONYMOUS, NewRun, Principal, RunId, RunStatus

WIDE = Bounds(per_session=10, per_principal=10, total=10)


@pytest.mark.parametrize("max_attempts", [3, 1])
def test_a_cancel_that_is_accepted_before_a_gained_run_is_recovered_ends_it_as_cancelled(max_attempts: int) -> None:
    """Whether it would have been requeued, or have ended as crashed."""

    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        await journal.open("test", max_attempts=3)
        new = NewRun(run_id=RunId("a"), key=key(), input="ask", created_at=1.0)
        await journal.accept(new, WIDE, claim_next=True)
        await journal.close()
        (orphan,) = await journal.open("test", max_attempts=3)
        cancelling = await journal.change(Cancel(Principal(ANONYMOUS), RunId("a")))
        assert cancelling == Stopped(ended={}, cancelling=[RunId("a")])

        left = await recover(journal, orphan, Options(max_attempts=max_attempts), 2.0)

        assert left is not None
        assert left.outcome.status is RunStatus.CANCELLED
        assert isinstance(await journal.change(Cancel(Principal(ANONYMOUS), RunId("a"))), Ended)
        await journal.close()

    asyncio.run(main())
