"""Files of servers that share a database: what is where when a session's server is lost, and another one continues."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS
from acceptance.test_any_server import sessions_of, two
from acceptance.test_session_files import goes_on, kept, written


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.mark.parametrize("shared", [False, True], ids=["a folder each", "one folder"])
def test_a_session_that_has_moved_is_whole_in_the_files_of_its_next_server(
    shared: bool, at: Checkpoints, database: str, tmp_path: Path
) -> None:
    folders = [tmp_path / ("files" if shared else f"files-{number}") for number in range(2)]
    flags = [("--session-files", str(each)) for each in folders]
    with two(at, database, tmp_path, flags=flags) as (first, second):
        (session,) = sessions_of(second, first, most=1)
        first.chat("q1 a ~b+c", session)
        written(second)
        second.kill()
        assert first.chat("q2 d", session)["response"] == "q2: did d"
        written(first)
        assert kept(folders[0], session) == first.history(session)
        assert len(kept(folders[0], session)) == 12
        assert not list(tmp_path.glob("files*/found-*"))
    goes_on(folders[0], session)


def test_an_agent_with_a_session_manager_continues_at_the_next_server_if_both_reach_its_storage(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    flags = [("--history", "session_manager")] * 2
    with two(at, database, tmp_path, target=TARGETS / "external.py", flags=flags) as (first, second):
        (session,) = sessions_of(second, first, most=1)
        before = first.chat("again", session)["response"]
        second.kill()
        after = first.chat("again", session)["response"]
        assert (before, after) == ("hello again", "hello again again")
