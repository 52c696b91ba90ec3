"""The files of sessions: where they are, what stands in them, and that nothing but time is lost when writing fails."""

import asyncio
import glob
import itertools
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager, SummarizingConversationManager
from strands.session import FileSessionManager

from strandline._agents.function import FunctionTarget
from strandline._clock import SystemClock
from strandline._config import resolve
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Changed, Delete
from strandline._model import (
    Completion,
    ErrorCode,
    InputRequest,
    Lane,
    Message,
    Outcome,
    Principal,
    Question,
    Range,
    Resolution,
    RoundStarted,
    RunError,
    RunStatus,
    SessionId,
    SessionKey,
    ToolNotDone,
    Window,
)
from strandline._session_files import files, projection
from strandline._session_files.paths import SessionPaths
from strandline._session_files.projection import SessionFiles
from strandline.errors import JournalUnavailable, SettingsError
from strandline.testing import ScriptedModel
from strandline.testing._desk import Desk, StillClock, done, key, said
from target_support import ask, run, serving

NUMBERS = itertools.count()
DEADLINE_S = 30.0


# -- where --------------------------------------------------------------------------------------------


def test_a_session_is_where_the_manager_of_strands_has_it(tmp_path: Path) -> None:
    manager = FileSessionManager("ada.1:x@y", storage_dir=str(tmp_path))
    assert SessionPaths(str(tmp_path)).folder(key("ada.1:x@y")) == Path(manager._get_session_path("ada.1:x@y"))


def test_names_are_exchanged_both_ways_so_that_two_sessions_never_share_files(tmp_path: Path) -> None:
    place = SessionPaths(str(tmp_path), ["default=agent"])
    names = [place.folder(key(each)).name for each in ("default", "agent", "other")]
    assert names == ["session_agent", "session_default", "session_other"]


def test_no_two_sessions_of_any_principals_share_a_folder_and_none_leaves_the_place(tmp_path: Path) -> None:
    principals = ["anonymous", ".", "..", "", "%", "%2E", "a/b", "a%2Fb", "../x", "a", "A", "ä", "\udc80", "p" * 300]
    sessions = ["a", "b", "...", "..a", "s" * 256, "s" * 255 + "t", "agent", "default", "{principal}"[1:-1]]
    for template in (
        "{principal}",
        "{principal}/{session_id}",
        "x-{principal}{session_id}",
        "{session_id}/{principal}/y",
    ):
        place = SessionPaths(str(tmp_path / template), ["default=agent"])
        keys = [SessionKey(Principal(p), SessionId(s)) for p in principals for s in sessions]
        folders = [place.folder(each) for each in keys]
        assert len(set(folders)) == len(keys)
        for each in folders:
            assert Path(os.path.normpath(each)) == each
            assert each.is_relative_to(tmp_path)
            assert max(len(os.fsencode(part)) for part in each.parts) <= 255
            each.mkdir(parents=True)
            (each / "found").touch()
        found = {Path(each).parent for each in glob.glob(place.pattern("found"), include_hidden=True)}
        assert found == set(folders)
        shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"session_files": "/x/{id}"}, "{id} is no placeholder"),
        ({"session_files": "/x/{session_id"}, "{ is no placeholder"),
        ({"session_files": "/x", "history": "session_manager"}, "history=session_manager"),
        ({"session_files": "/x", "api_keys_file": "keys"}, "/x/{caller}"),
        ({"session_files": "/x", "session_files_names": "default"}, "SESSION=NAME"),
        ({"session_files": "/x", "session_files_names": "default=a/b"}, "SESSION=NAME"),
        ({"session_files": "/x", "session_files_names": "a=a"}, "may appear once only"),
        ({"session_files": "/x", "session_files_names": "a=b,b=c"}, "may appear once only"),
        ({"session_files_names": "a=b"}, "session_files is not"),
        ({"session_files": ""}, "session_files is ''"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as refusal:
        resolve(settings, {}, folder=tmp_path)
    assert said in str(refusal.value)


def test_with_keys_each_principal_has_a_folder_of_its_own(tmp_path: Path) -> None:
    settings = {"session_files": "/x/{caller}", "api_keys_file": "keys", "session_files_names": "default=agent"}
    assert resolve(settings, {}, folder=tmp_path).settings.session_files == "/x/{caller}"


# -- what ---------------------------------------------------------------------------------------------


class World:
    """A journal whose runs a test writes, and the files that follow it."""

    def __init__(self, folder: Path, desk: Desk) -> None:
        self.folder = folder
        self.desk = desk
        self.keeper = self.new_keeper()

    def new_keeper(self, template: str = "") -> SessionFiles:
        """Return what a server that starts now makes."""
        return SessionFiles(SessionPaths(template or str(self.folder)), self.desk.journal, self.desk.clock)

    async def restart(self) -> None:
        """End what keeps the files, and start it again."""
        await self.keeper.finish(DEADLINE_S)
        self.keeper = self.new_keeper()
        self.keeper.start()
        await caught_up(self.keeper)

    async def ran(self, *texts: str, at: SessionKey | None = None, reported: bool = True, **finished: Any) -> None:
        """Let a run end that leaves `texts`."""
        await self.finished(done(*texts, **finished), at=at, reported=reported)

    async def finished(self, completion: Completion, *, at: SessionKey | None = None, reported: bool = True) -> None:
        """Let a run end."""
        claim = await self.desk.start(f"r{next(NUMBERS)}", at or key())
        await self.desk.finish(claim, completion)
        if reported:
            self.keeper.changed(at or key())
            await up_to_date(self.keeper)

    def read(self, session: str = "s", **options: Any) -> Agent:
        """Return an agent that Strands makes from the files."""
        manager = FileSessionManager(session, storage_dir=str(self.folder))
        return Agent(
            model=ScriptedModel(lambda messages: "and on"), session_manager=manager, callback_handler=None, **options
        )

    def texts(self, session: str = "s") -> list[str]:
        """Return the texts of the files, in order."""
        folder = self.folder / f"session_{session}/agents/agent_default/messages"
        numbers = sorted(int(file.stem.partition("_")[2]) for file in folder.glob("message_*.json"))
        assert numbers == list(range(len(numbers)))
        records = [json.loads((folder / f"message_{number}.json").read_text()) for number in numbers]
        assert [record["message_id"] for record in records] == numbers
        return ["".join(block.get("text", "") for block in record["message"]["content"]) for record in records]


async def up_to_date(keeper: SessionFiles) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await keeper._at_rest.wait()


async def caught_up(keeper: SessionFiles) -> None:
    """Return when everything that an earlier server has left undone is done."""
    async with asyncio.timeout(DEADLINE_S):
        await keeper.caught_up.wait()
    await up_to_date(keeper)


@asynccontextmanager
async def world(folder: Path, make: Callable[[StillClock], MemoryJournal] = MemoryJournal) -> AsyncIterator[World]:
    clock = StillClock()
    journal = make(clock)

    async def reopened() -> MemoryJournal:
        return journal

    desk = Desk(journal, clock, reopened)
    await desk.open()
    made = World(folder, desk)
    made.keeper.start()
    try:
        yield made
    finally:
        await made.keeper.finish(DEADLINE_S)
        await desk.close_down()


def played(play: Callable[[World], Awaitable[None]], folder: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), world(folder) as made:
            await play(made)

    asyncio.run(main())


def test_a_session_counts_as_behind_until_its_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(world: World) -> None:
        behind: list[int] = []
        write = files.write

        def watched(folder: Path, records: list[tuple[str, bytes]]) -> None:
            behind.append(world.keeper.behind)
            write(folder, records)

        monkeypatch.setattr(files, "write", watched)
        await world.ran("one", "two")
        assert behind == [1, 1]
        assert world.keeper.behind == 0
        assert world.texts() == ["one", "two"]

    played(play, tmp_path)


def test_a_real_manager_reads_what_was_written_and_an_agent_goes_on_with_it(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        image: Message = {
            "role": "user",
            "content": [{"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00"}}}],
        }
        answer = said("", "seen")[1]
        outcome = Outcome(status=RunStatus.SUCCEEDED, output="seen")
        await world.ran("one", "two", state={"state": {"mood": "good"}})
        await world.finished(Completion(outcome=outcome, messages=[image, answer]))
        assert world.texts() == ["one", "two", "", "seen"]

        agent = world.read()
        assert agent.state.get("mood") == "good"
        assert [each["content"] for each in agent.messages] == [
            [{"text": "one"}],
            [{"text": "two"}],
            image["content"],
            [{"text": "seen"}],
        ]
        assert str(await agent.invoke_async("three")).strip() == "and on"
        assert world.texts() == ["one", "two", "", "seen", "three", "and on"]

        session = json.loads((world.folder / "session_s/session.json").read_text())
        ours = session.pop("strandline")
        (world.folder / "other").mkdir()
        FileSessionManager("s", storage_dir=str(world.folder / "other"))
        theirs = json.loads((world.folder / "other/session_s/session.json").read_text())
        assert session.keys() == theirs.keys()
        assert ours["length"] == 4

    played(play, tmp_path / "files")


def test_the_files_have_the_keys_that_strands_writes(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        agent = Agent(
            model=ScriptedModel(lambda messages: "two"),
            session_manager=FileSessionManager("theirs", storage_dir=str(world.folder)),
            callback_handler=None,
        )
        await agent.invoke_async("one")
        for file in ("agents/agent_default/agent.json", "agents/agent_default/messages/message_0.json"):
            ours, theirs = (
                json.loads((world.folder / f"session_{each}" / file).read_text()) for each in ("s", "theirs")
            )
            assert ours.keys() == theirs.keys()
            for name in ("conversation_manager_state", "_internal_state"):
                if name in theirs:
                    assert ours[name].keys() == theirs[name].keys()

    played(play, tmp_path)


def test_only_what_is_new_is_written_and_what_was_written_stays_as_it_is(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        folder = world.folder / "session_s/agents/agent_default/messages"
        before = {each.name: each.stat().st_ino for each in folder.iterdir()}
        await world.ran("three", "four")
        after = {each.name: each.stat().st_ino for each in folder.iterdir()}
        assert before.items() < after.items()
        assert sorted(after) == [f"message_{number}.json" for number in range(4)]

    played(play, tmp_path)


def test_discarded_messages_are_left_out_and_the_others_are_numbered_without_a_gap(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        await world.ran("gone", "gone too", discarded=True)
        await world.ran("three", "four", window=(Range(4, None),))
        assert world.texts() == ["one", "two", "three", "four"]
        agent = world.read()
        assert agent.conversation_manager.removed_message_count == 2
        assert [each["content"][0]["text"] for each in agent.messages] == ["three", "four"]

    played(play, tmp_path)


def test_superseded_messages_leave_the_files_when_the_run_ends_that_goes_on_from_before_them(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        claim = await world.desk.start("crashes")
        call: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "n", "input": {}}}]}
        await world.desk.journal.checkpoint(claim.token, RoundStarted([*said("gone"), call]))
        outcome = Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.CRASHED, "it died"))
        left = Completion(outcome=outcome, messages=said("gone", "gone too"), unresolved=True)
        await world.desk.finish(claim, left)
        world.keeper.changed(key())
        await up_to_date(world.keeper)
        assert world.texts() == ["one", "two", "gone", "gone too"]
        resolution = Resolution(run_id=claim.run.run_id, tools=(ToolNotDone("t", "ada"),))
        again = await world.desk.start("again", lane=Lane.REQUEUED, resolution=resolution)
        await world.desk.finish(again, done("three", "four"))
        world.keeper.changed(key())
        await up_to_date(world.keeper)
        assert world.texts() == ["one", "two", "three", "four"]

    played(play, tmp_path)


@pytest.mark.parametrize("end", ["answered", "dismissed"])
def test_an_open_round_is_omitted_until_it_is_closed(end: str, tmp_path: Path) -> None:
    async def play(world: World) -> None:
        asks: Message = {
            "role": "assistant",
            "content": [{"text": "may I?"}, {"toolUse": {"toolUseId": "t", "name": "ask", "input": {}}}],
        }
        question = Question(requests=[InputRequest("q", "sure")], message=asks, results={}, state={})
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=question.requests)
        messages = [*said("go"), asks]
        left = Completion(outcome=outcome, messages=messages, question=question, answer_within_s=60)
        await world.ran("one", "two")
        await world.finished(left)
        assert world.texts() == ["one", "two", "go"]
        await world.restart()
        assert world.texts() == ["one", "two", "go"]
        assert [each["role"] for each in world.read().messages] == ["user", "assistant", "user"]
        if end == "dismissed":
            await world.desk.cancel_all(running=True)
            world.keeper.changed(key())
            await up_to_date(world.keeper)
            assert world.texts()[:4] == ["one", "two", "go", "may I?"]
            assert len(world.texts()) == 6
        else:
            answer = [{"interruptResponse": {"interruptId": "q", "response": "yes"}}]
            await world.desk.accept("answer", lane=Lane.ANSWER, input=answer)
            claim = await world.desk.claim(of="answer")
            result: Message = {
                "role": "user",
                "content": [{"toolResult": {"toolUseId": "t", "status": "success", "content": [{"text": "y"}]}}],
            }
            ended = Outcome(status=RunStatus.SUCCEEDED, output="done")
            await world.desk.finish(claim, Completion(outcome=ended, messages=[result, said("", "done")[1]]))
            world.keeper.changed(key())
            await up_to_date(world.keeper)
            assert world.texts() == ["one", "two", "go", "may I?", "", "done"]

    played(play, tmp_path)


@pytest.mark.parametrize(
    ("manager", "window", "state", "expected"),
    [
        (SlidingWindowConversationManager, (Range(2, None),), {}, ["three", "four"]),
        (SummarizingConversationManager, (Range(2, None),), {"summary_message": said("", "summary")[1]}, None),
    ],
)
def test_what_a_conversation_manager_has_removed_stays_removed(
    manager: Any, window: Window, state: dict[str, Any], expected: list[str] | None, tmp_path: Path
) -> None:
    async def play(world: World) -> None:
        kept = {"conversation_manager_state": {**manager().get_state(), **state, "removed_message_count": 77}}
        await world.ran("one", "two", "three", "four", window=window, state=kept)
        assert world.texts() == ["one", "two", "three", "four"]
        agent = world.read(conversation_manager=manager())
        texts = [each["content"][0]["text"] for each in agent.messages]
        assert texts == (expected or ["summary", "three", "four"])

    played(play, tmp_path)


def test_a_long_history_is_written_in_portions_however_large_its_messages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strandline._session_files.projection.PAGE", 7)
    monkeypatch.setattr("strandline._session_files.projection.PAGE_BYTES", 1000)

    async def play(world: World) -> None:
        texts = [f"{number} {'x' * (number % 5 * 400)}" for number in range(50)]
        await world.ran(*texts, reported=False)
        await world.restart()
        assert world.texts() == texts

    played(play, tmp_path)


@pytest.mark.parametrize("plant", ["pipe", "hard link", "link"])
def test_what_a_tool_has_put_in_the_way_is_neither_written_through_nor_waited_for(plant: str, tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        precious = tmp_path / "journal"
        precious.write_text("precious")
        session = world.folder / "session_s"
        for file in (session / "agents/agent_default/messages/.message_2.json.tmp", session / ".session.json.tmp"):
            match plant:
                case "pipe":
                    os.mkfifo(file)
                case "hard link":
                    os.link(precious, file)
                case _:
                    file.symlink_to(precious)
        await world.ran("three", "four")
        assert world.texts() == ["one", "two", "three", "four"]
        assert precious.read_text() == "precious"
        assert world.keeper.failures == 0

        (session / "session.json").unlink()
        os.mkfifo(session / "session.json")
        await world.ran("five", "six")  # the folder is none of ours now: it is moved aside, and written anew
        assert world.texts() == ["one", "two", "three", "four", "five", "six"]

    played(play, tmp_path / "files")


def test_a_link_in_the_place_of_a_sessions_folder_is_moved_aside_and_leads_nowhere(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        session, elsewhere = world.folder / "session_s", tmp_path / "elsewhere"
        session.rename(elsewhere)
        session.symlink_to(elsewhere)
        before = sorted(each.name for each in elsewhere.rglob("*"))
        await world.ran("three", "four")
        assert world.texts() == ["one", "two", "three", "four"]
        assert not session.is_symlink()
        assert sorted(each.name for each in elsewhere.rglob("*")) == before

    played(play, tmp_path / "files")


# -- when ---------------------------------------------------------------------------------------------


def test_what_a_crash_has_left_unwritten_is_caught_up_with_at_the_start(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        await world.ran("three", "four", reported=False)
        await world.ran("other", "too", at=key("t"), reported=False)
        assert world.texts() == ["one", "two"]
        await world.restart()
        assert world.texts() == ["one", "two", "three", "four"]
        assert world.texts("t") == ["other", "too"]

    played(play, tmp_path)


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_a_last_message_that_a_power_cut_has_taken_is_written_again(how: str, tmp_path: Path) -> None:
    """Files are not synced: `session.json` may say more than there is."""

    async def play(world: World) -> None:
        await world.ran("one", "two")
        (last,) = tmp_path.rglob("message_1.json")
        if how == "empty":
            last.write_bytes(b"")
        else:
            last.unlink()
        await world.restart()
        assert world.texts() == ["one", "two"]

    played(play, tmp_path)


def test_a_crash_in_the_middle_of_writing_is_mended_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file it is that was written last, and whether the session had files before or not."""

    async def play(world: World) -> None:
        whole = os.replace
        left = 0

        def replace(*arguments: Any) -> None:
            nonlocal left
            if left == 0:
                raise SystemError("killed")
            left -= 1
            whole(*arguments)

        monkeypatch.setattr(os, "replace", replace)
        expected: list[str] = []
        for round_, crash_at in enumerate((0, 1, 2, 3, 0, 1, 2, 3)):
            session = "s" if round_ > 3 else f"new{round_}"
            expected = [*expected, f"q{round_}", f"a{round_}"] if round_ > 3 else [f"q{round_}", f"a{round_}"]
            if round_ == 4:
                expected = ["q4", "a4"]
            left = crash_at
            await world.ran(*expected[-2:], at=key(session))
            assert world.keeper.behind == 1
            left = 1000
            await world.restart()
            assert world.texts(session) == expected
            assert world.keeper.behind == 0

    played(play, tmp_path)


def test_files_that_cannot_be_written_are_tried_again_and_cost_no_run_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(world: World) -> None:
        world.folder.write_text("a file where a folder should be")
        await world.ran("one", "two")
        assert (world.keeper.behind, world.keeper.failures) == (1, 1)
        await world.ran("three", "four")
        assert (world.keeper.behind, world.keeper.failures) == (1, 2)
        world.folder.unlink()
        await world.ran("other", "too", at=key("t"))
        assert world.texts("t") == ["other", "too"]
        assert world.keeper.behind == 1
        world.desk.clock.at += 60
        world.keeper.changed(key("t"))
        async with asyncio.timeout(DEADLINE_S):
            while world.keeper.behind:
                await asyncio.sleep(0)
        assert world.texts() == ["one", "two", "three", "four"]

    with caplog.at_level(logging.WARNING):
        played(play, tmp_path / "files")
    assert "the files of session s could not be written" in caplog.text
    assert "Traceback" not in caplog.text


class Cramped(MemoryJournal):
    """A journal on a disk that is as large for others as a test says, and has their files."""

    def __init__(self, clock: StillClock, file: Path) -> None:
        super().__init__(clock)
        self.file = file
        self.size = 0
        self.requested: list[int] = []
        self.is_broken = False

    @property
    def room(self) -> int:
        used = 0
        for folder, _, names in os.walk(self.file):
            for name in names:
                with suppress(FileNotFoundError):  # (it is removed meanwhile)
                    used += files.room_of([(name, Path(folder, name).read_bytes())])
        return self.size - used

    @property
    def low_disk(self) -> str | None:
        return None if self.room > 0 else "it is full"

    async def grant_room(self, size: int) -> bool:
        if self.is_broken:
            raise JournalUnavailable("it is full to the last byte")
        self.requested.append(size)
        return size <= self.room


def cramped(play: Callable[[World, Cramped], Awaitable[None]], folder: Path) -> None:
    """Play with files on the disk of such a journal."""
    journals = []

    def make(clock: StillClock) -> Cramped:
        journals.append(Cramped(clock, folder))
        return journals[0]

    async def main() -> None:
        async with asyncio.timeout(60), world(folder, make) as made:
            await play(made, journals[0])

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


def under(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


def test_files_leave_the_last_of_the_journals_disk_to_runs_and_are_caught_up_with_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged once, counted as no failure, and deletions continue meanwhile."""
    monkeypatch.setattr("strandline._session_files.projection.CHECK_DISK_S", 0)

    async def play(world: World, journal: Cramped) -> None:
        journal.size = 1 << 20
        await world.ran("one", "two", at=key("before"))
        assert journal.requested == [2 * files.BLOCK] * 2, "two messages, then what says how far they go"
        journal.size = 0
        await world.ran("three", "four", at=key("before"))
        for number in range(20):
            await world.ran("one", "two", at=key(f"t{number}"), reported=False)
            world.keeper.changed(key(f"t{number}"))
        requested = len(journal.requested)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(journal.requested) == requested, "nothing is tried while the disk has no room at all"
        assert world.texts("before") == ["one", "two"]
        assert [each.name for each in tmp_path.iterdir()] == ["session_before"]
        assert (world.keeper.behind, world.keeper.failures) == (21, 0)
        await world.keeper.deleting(key("before"))
        await world.keeper.deleted(key("before"), done=True)
        assert under(tmp_path) == []

        journal.size = 1 << 20
        await until(lambda: world.keeper.behind == 0)
        assert all(world.texts(f"t{number}") == ["one", "two"] for number in range(20))
        assert world.texts("before") == ["one", "two", "three", "four"], "(the journal has it still)"

    with caplog.at_level(logging.INFO):
        cramped(play, tmp_path)
    assert caplog.text.count("the rest of the journal's disk is reserved for accepted runs") == 1
    assert caplog.text.count("has room again: the files of all sessions are up to date") == 1
    assert "could not be written" not in caplog.text


def test_what_was_begun_of_files_for_which_there_is_no_room_is_removed_and_smaller_ones_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strandline._session_files.projection.PAGE", 2)

    async def play(world: World, journal: Cramped) -> None:
        journal.size = 6 * files.BLOCK
        await world.ran(*(f"{number}" for number in range(8)), at=key("large"))
        await until(lambda: world.keeper.behind == 1)
        assert under(tmp_path) == []
        assert journal.requested == [2 * files.BLOCK] * 4
        await world.ran("one", "two", at=key("small"))
        assert world.texts("small") == ["one", "two"]
        assert (world.keeper.behind, world.keeper.failures) == (1, 0)
        journal.size = 1 << 20
        world.desk.clock.at += 60
        world.keeper.changed(key("small"))
        await until(lambda: world.keeper.behind == 0)
        assert world.texts("large") == [f"{number}" for number in range(8)]

    cramped(play, tmp_path)


def test_while_the_journal_can_keep_nothing_files_wait_too(tmp_path: Path) -> None:
    async def play(world: World, journal: Cramped) -> None:
        journal.size, journal.is_broken = 1 << 20, True
        await world.ran("one", "two")
        assert (world.keeper.behind, world.keeper.failures, under(tmp_path)) == (1, 0, [])
        journal.is_broken = False
        world.keeper.changed(key())
        await until(lambda: world.keeper.behind == 0)

    cramped(play, tmp_path)


def test_files_on_another_disk_than_the_journals_need_no_room_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever folders are there already; a journal whose file cannot be found may be anywhere."""
    devices = {tmp_path: 1, tmp_path / "other": 2}
    (tmp_path / "other").mkdir()
    whole = os.stat

    def stat(path: Any, **options: Any) -> Any:
        found = whole(path, **options)
        return os.stat_result((*found[:2], devices[path], *found[3:])) if path in devices else found

    monkeypatch.setattr(os, "stat", stat)
    assert files.share_a_disk(tmp_path / "a" / "b", tmp_path)
    assert not files.share_a_disk(tmp_path / "other" / "a" / "b", tmp_path)
    assert files.share_a_disk(tmp_path / "other", tmp_path / "nowhere")

    async def play(world: World, journal: Cramped) -> None:
        await world.ran("one", "two")
        assert (world.keeper.behind, journal.requested) == (1, [2 * files.BLOCK])
        world.folder = tmp_path / "other"
        await world.restart()
        assert world.texts() == ["one", "two"]
        assert len(journal.requested) == 1

    cramped(play, tmp_path)


def test_a_session_that_was_deleted_has_no_files_and_its_successor_has_its_own(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two", "three", "four")
        await world.ran("other", "too", at=key("t"))
        await world.keeper.deleting(key())
        assert await world.desk.journal.change(Delete(key())) == Changed(existed=True)
        await world.keeper.deleted(key(), done=True)
        assert [each.name for each in world.folder.iterdir()] == ["session_t"]
        await world.ran("new", "again")
        assert world.texts() == ["new", "again"]

    played(play, tmp_path)


def test_no_folder_keeps_the_name_of_a_session_that_was_deleted(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.keeper.finish(DEADLINE_S)
        world.keeper = world.new_keeper(f"{world.folder}/kept/x-{{principal}}/{{session_id}}")
        world.keeper.start()
        for session in ("s", "t"):
            await world.ran("one", "two", at=key(session))
        for session, left in (("s", ["t"]), ("t", [])):
            await world.keeper.deleting(key(session))
            await world.desk.journal.change(Delete(key(session)))
            await world.keeper.deleted(key(session), done=True)
            assert [each.name for each in world.folder.glob("kept/*/*")] == left
        assert list(world.folder.iterdir()) == [world.folder / "kept"]

    played(play, tmp_path)


def test_a_deletion_that_a_crash_has_cut_off_is_finished_or_undone_as_the_journal_says(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        await world.ran("other", "too", at=key("t"))
        await world.keeper.deleting(key())
        await world.keeper.deleting(key("t"))
        await world.desk.journal.change(Delete(key()))
        await world.restart()
        assert [each.name for each in world.folder.iterdir()] == ["session_t"]
        assert not files.is_to_be_removed(world.folder / "session_t")

    played(play, tmp_path)


def test_without_a_thread_a_session_is_deleted_all_the_same_and_its_files_soon_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def threadless(work: object) -> None:
        raise RuntimeError("can't start new thread")

    async def play(world: World) -> None:
        await world.ran("one", "two")
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "to_thread", threadless)
            await world.keeper.deleting(key())
            await world.desk.journal.change(Delete(key()))
            await world.keeper.deleted(key(), done=True)
        assert world.texts() == ["one", "two"]
        world.desk.clock.at += 60
        world.keeper.changed(key("t"))
        async with asyncio.timeout(DEADLINE_S):
            while world.keeper.behind:
                await asyncio.sleep(0)
        assert list(world.folder.iterdir()) == []

    played(play, tmp_path)


def test_without_a_thread_at_the_start_the_files_are_brought_up_to_date_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_thread, wanted = asyncio.to_thread, itertools.count()

    async def threadless_at_first(work: Any, *given: Any) -> object:
        if next(wanted) == 0:
            raise RuntimeError("can't start new thread")
        return await to_thread(work, *given)

    async def play(world: World) -> None:
        await world.keeper.finish(DEADLINE_S)
        await world.finished(done("one", "two"), reported=False)
        monkeypatch.setattr(projection, "RETRY_S", (0.0,))
        monkeypatch.setattr(asyncio, "to_thread", threadless_at_first)
        await world.restart()
        assert world.texts() == ["one", "two"]

    played(play, tmp_path)


def test_a_session_that_was_to_be_deleted_and_cannot_be_read_keeps_no_other_from_its_files(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        await world.keeper.deleting(key())
        (tmp_path / "session_s" / "session.json").unlink()
        (tmp_path / "session_s" / "session.json").mkdir()
        await world.ran("three", at=key("t"), reported=False)
        await world.restart()
        assert world.texts("t") == ["three"]

    played(play, tmp_path)


def test_a_refused_deletion_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        await world.keeper.deleting(key())
        await world.keeper.deleted(key(), done=False)
        await up_to_date(world.keeper)
        assert world.texts() == ["one", "two"]
        assert not files.is_to_be_removed(world.folder / "session_s")

    played(play, tmp_path)


def test_files_that_go_further_than_the_journal_are_written_anew(tmp_path: Path) -> None:
    """As when an older journal was put back."""

    async def play(world: World) -> None:
        await world.ran("one", "two", "three", "four")
        await world.desk.journal.change(Delete(key()))
        await world.ran("one", "two", reported=False)
        await world.restart()
        assert world.texts() == ["one", "two"]

    played(play, tmp_path)


def test_a_session_of_the_same_name_and_length_differs_from_the_one_before(tmp_path: Path) -> None:
    """As after a crash between a deletion and the removal of the files, or when an older journal was put back."""

    async def play(world: World) -> None:
        await world.ran("one", "two")
        await world.desk.journal.change(Delete(key()))
        await world.ran("new", "again", reported=False)
        await world.restart()
        assert world.texts() == ["new", "again"]

    played(play, tmp_path)


def test_what_somebody_else_has_written_is_moved_aside_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(world: World) -> None:
        agent = world.read()
        await agent.invoke_async("of the original")
        await world.ran("one", "two")
        assert world.texts() == ["one", "two"]
        (aside,) = world.folder.glob("found-*")
        assert "of the original" in (aside / "agents/agent_default/messages/message_0.json").read_text()
        await world.ran("three", "four")
        assert len(list(world.folder.iterdir())) == 2

    with caplog.at_level(logging.WARNING):
        played(play, tmp_path)
    assert "found-1_session_s" in caplog.text


def test_files_of_another_session_are_never_overwritten(tmp_path: Path) -> None:
    """Where a file system takes two names for one, for instance."""

    async def play(world: World) -> None:
        await world.ran("one", "two")
        os.rename(world.folder / "session_s", world.folder / "session_S")
        await world.ran("three", "four", at=key("S"))
        assert world.keeper.failures == 1
        assert world.texts("S") == ["one", "two"]
        await world.keeper.deleting(key("S"))
        await world.keeper.deleted(key("S"), done=True)
        assert world.texts("S") == ["one", "two"]

    played(play, tmp_path)


def test_the_files_are_for_nobody_else(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.ran("one", "two")
        for each in (world.folder / "session_s").rglob("*"):
            assert each.stat().st_mode & 0o077 == 0, each

    played(play, tmp_path / "made" / "files")


def test_a_service_that_stops_has_everything_written_before_its_journal_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        keeper = SessionFiles(SessionPaths(str(tmp_path / "files")), journal, SystemClock())
        target = FunctionTarget(answer, description="test")
        async with serving(target, tmp_path / "work", journal, projection=keeper) as service:
            async with keeper._files:  # writing takes long
                await ask(service, "one", "s")
                stop = asyncio.create_task(service.drain())
                while not service.health().draining:
                    await asyncio.sleep(0)
                assert keeper.behind == 1
            await stop
        assert len(list((tmp_path / "files/session_s/agents/agent_default/messages").iterdir())) == 2

    run(main)


async def answer(message: str, session: object) -> str:
    return message
