"""Each defect of forks is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from breakage_support import SEEDS, is_noticed
from strandline._journal import forking, forks
from strandline._journal.changes import StoreAgent
from strandline._journal.port import Forked
from strandline._journal.records import ForkSource

Break = Callable[[pytest.MonkeyPatch], None]


def forget_the_state(patch: pytest.MonkeyPatch) -> None:
    """A fork has the messages of its source, and its agent begins anew."""
    patch.setattr(forking, "StoreAgent", lambda ref, agent, window, state: StoreAgent(ref, agent, window, None))


def copy_to_the_end(patch: pytest.MonkeyPatch) -> None:
    """A fork has what came after its run, too."""
    end = forks._end
    patch.setattr(forks, "_end", lambda turns, connection, session, after: end(turns, connection, session, None))


def copy_no_branches(patch: pytest.MonkeyPatch) -> None:
    """What was superseded is in the conversation of a fork."""
    source_of = forks.source_of

    def without(*given: Any) -> Any:
        source = source_of(*given)
        return source._replace(branches=[]) if isinstance(source, ForkSource) else source

    patch.setattr(forks, "source_of", without)


def count_again(patch: pytest.MonkeyPatch) -> None:
    """A request that is sent again is answered as the fork is by then."""
    made_before = forking.Forking._made_before

    def counted(table: Any, session: Any, change: Any) -> Any:
        answer = made_before(table, session, change)
        return replace(answer, messages=session.end.length) if isinstance(answer, Forked) else answer

    patch.setattr(forking.Forking, "_made_before", counted)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a fork that forgets the state": (forget_the_state, 1010, "had the state of"),
    "a fork of more than was wanted": (copy_to_the_end, 1044, "the session had"),
    "a fork without branches": (copy_no_branches, 1393, "the session had|last branch continues|does not hide"),
    "a fork that is counted again": (count_again, 1024, "when it was sent again"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
