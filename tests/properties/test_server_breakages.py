"""Each kind of defect of several servers over one journal is found by the simulation, in its worlds with several.

A breakage is made by a small patch of the code under test; the first worlds have to show it. Without it nothing is
found in them (`test_simulation.py`).
"""

from collections.abc import Callable, Collection

import pytest

from breakage_support import SEEDS, is_noticed
from simulation.trial import POSTGRES
from strandline._engine.execution import Handover, attempt
from strandline._journal.numbers import Clocked
from strandline._journal.port import Gained
from strandline._journal.postgres import ownership, transactions
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.lease import Lease
from strandline._journal.postgres.schema import BEGIN
from strandline._journal.postgres.transactions import PostgresTransactions
from strandline._journal.postgres.wire import ConnectionLost
from strandline._journal.table import SessionTable

Break = Callable[[pytest.MonkeyPatch], None]


def start_after_the_lease(patch: pytest.MonkeyPatch) -> None:
    """A server that wakes goes on with what was durable before it was frozen."""
    patch.setattr(attempt, "is_over", lambda until, clock: False)


def go_on_without_a_lease(patch: pytest.MonkeyPatch) -> None:
    """A server that is cut off executes on when its lease is over."""

    async def watch(journal: PostgresJournal, lease: Lease) -> None:
        return

    patch.setattr(PostgresJournal, "_watch_lease", watch)


def end_those_that_live(patch: pytest.MonkeyPatch) -> None:
    """A server that ends one whose lease is over ends all others with it."""
    patch.setattr(ownership, "_END", "UPDATE servers SET alive = false WHERE alive AND id <> ?")


def write_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    """A batch is written whoever owns what."""

    def begin(self: PostgresTransactions) -> None:
        self._is_open = True
        self._number += 1
        self.batch.write(BEGIN)

    patch.setattr(PostgresTransactions, "begin", begin)


def believe_in_every_commit(patch: pytest.MonkeyPatch) -> None:
    """A commit of which nobody knows whether it was made counts as made."""
    was_kept = PostgresTransactions._was_kept

    def believed(self: PostgresTransactions, error: ConnectionLost) -> bool:
        was_kept(self, error)
        return True

    patch.setattr(PostgresTransactions, "_was_kept", believed)


def believe_in_no_commit(patch: pytest.MonkeyPatch) -> None:
    """A commit of which nobody knows whether it was made counts as not made."""
    was_kept = PostgresTransactions._was_kept

    def believed(self: PostgresTransactions, error: ConnectionLost) -> bool:
        was_kept(self, error)
        return False

    patch.setattr(PostgresTransactions, "_was_kept", believed)


def let_late_packets_pass(patch: pytest.MonkeyPatch) -> None:
    """A connection that takes the place of another one does not shut that out."""
    patch.setattr(
        transactions, "_RENUMBER", "UPDATE servers SET conn = conn WHERE id = ? AND alive RETURNING conn, batch"
    )


def cede_what_executes(patch: pytest.MonkeyPatch) -> None:
    """A session is handed over while a run of it executes."""

    def at_rest(table: SessionTable, partitions: Collection[int]) -> set[int]:
        return set(partitions) & table._epochs.keys()

    patch.setattr(SessionTable, "at_rest", at_rest)


def keep_what_was_ceded(patch: pytest.MonkeyPatch) -> None:
    """Agents and clients of a session that is handed over stay, and the agent is used when the session comes back."""
    patch.setattr(Handover, "_ceded", lambda handover, ceded: None)


def forget_what_was_gained(patch: pytest.MonkeyPatch) -> None:
    """What executed at a server that was lost is taken over, and nobody recovers it."""

    async def gained(handover: Handover, gained: Gained) -> None:
        return

    patch.setattr(Handover, "_gained", gained)


def number_by_the_clock_alone(patch: pytest.MonkeyPatch) -> None:
    """A new owner whose clock is behind numbers runs below those of the owner before."""

    def begin(numbers: Clocked, epoch: int, top: int) -> None:
        return

    patch.setattr(Clocked, "begin", begin)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a lease that nothing asks for before it starts": (start_after_the_lease, 2234, "was started by process"),
    "a server that goes on without its lease": (go_on_without_a_lease, 2333, "executed at once|was started by process"),
    "a server that is ended while it lives": (end_those_that_live, 2276, "executed at once|was started by process"),
    "a batch without a fence": (write_without_a_fence, 2128, "."),
    "a commit that is believed in": (believe_in_every_commit, 2122, "is lost|in more than one way"),
    "a commit that is not believed in": (believe_in_no_commit, 2333, "waits for good|was refused, and ran"),
    "a packet that comes late": (let_late_packets_pass, 2437, "."),
    "a session that is ceded while it executes": (cede_what_executes, 2109, "executed at once|was started by process"),
    "a session that is ceded and kept": (keep_what_was_ceded, 2156, r"the agent of run|waits for good|has \d+ streams"),
    "a run that nobody recovers": (forget_what_was_gained, 2112, "executes although all was drained"),
    "a number below an earlier one": (number_by_the_clock_alone, 2101, "is damaged|executed before|executed after"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, POSTGRES), f"{name} stays unnoticed in {SEEDS} worlds"
