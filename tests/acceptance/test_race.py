"""The race test, which shows on unprotected servers what it is worth, passes here."""

from pathlib import Path

import pytest

from acceptance.checkpoints import checkpoints
from acceptance.race import judge, race
from acceptance.server import TARGETS, TESTS, serving


@pytest.mark.parametrize("journal", ["sqlite:journal.db", "memory:"])
def test_requests_to_one_session_do_not_race(tmp_path: Path, journal: str) -> None:
    """Five at once: all answered, each with its own answer, in order, with a history that is well formed."""
    agent = TESTS / "alternatives" / "agent.py"
    with serving(agent, folder=tmp_path, variables={"ANSWER_S": "0.1"}, journal=journal) as server:
        verdict = race(server.url)
    assert verdict.good, verdict
    assert verdict.seen_processing
    assert verdict.most_waiting >= 1


def test_twenty_requests_that_are_all_inside(tmp_path: Path) -> None:
    """Held until all have arrived, so every one of them could race."""
    with (
        checkpoints() as at,
        serving(TARGETS / "held.py", folder=tmp_path, variables=at.environment) as server,
    ):
        at.hold("asked")
        verdict = race(server.url, n=20, all_inside=at.release)
        assert verdict.good, verdict
        assert verdict.most_waiting == 19
        assert at.steps == ["asked"] * 20
        assert judge(server.history("nobody")) == []
