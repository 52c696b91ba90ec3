"""Conversations of Strands' own session folders come into a journal whole, well formed, and with nothing left out."""

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import strands_sessions
from strandline._clock import SystemClock
from strandline._history import NO_ANSWER, UNKNOWN_OUTCOME, history_faults, pairing_faults
from strandline._journal.importing import Imported, Unusable, import_sessions, read_session, sessions_in
from strandline._journal.locks import try_lock
from strandline._journal.port import HistoryQuery
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.verify import verify
from strandline._model import AgentRecord, Message
from strandline.errors import JournalError, JournalLocked
from strandline.testing._desk import WIDE, done, key, said

from .test_damage import new


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions")
    asyncio.run(strands_sessions.write(folder))
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def imported(folder: Path, path: Path, **options: Any) -> dict[str, Imported]:
    given: dict[str, Any] = {"prefix": "", "principal": "anonymous", "skip_existing": False, "dry_run": False} | options
    results = asyncio.run(import_sessions(folder, path, SystemClock(), on_step=lambda done, total: None, **given))
    return {each.session_id: each for each in results}


def loaded(path: Path, *sessions: str) -> Iterator[tuple[AgentRecord, list[Message]]]:
    async def load() -> list[tuple[AgentRecord, list[Message]]]:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        found = []
        for session in sessions:
            page = await journal.read(HistoryQuery(key(session), limit=1000))
            found.append((await journal.load(key(session)), page.messages))
        await journal.close()
        return found

    return iter(asyncio.run(load()))


def texts(messages: list[Message]) -> list[str]:
    return [block["text"] for message in messages for block in message["content"] if "text" in block]


def test_every_conversation_becomes_one_that_can_go_on_and_nothing_is_left_out(written: Path, path: Path) -> None:
    results = imported(written, path)
    names = [name for name, each in results.items() if each.result == "imported"]
    assert names == ["cut", "empty", "failed", "sound", "summarized", "went-on", "windowed"]
    assert verify(path).faults == []
    for name, (record, history) in zip(names, loaded(path, *names), strict=True):
        assert history_faults(history) == []
        assert pairing_faults(record.messages) == []
        shown = texts(history)
        for file in (written / f"session_{name}").rglob("message_*.json"):
            for block in json.loads(file.read_text())["message"]["content"]:
                assert "text" not in block or block["text"] in shown
                assert "toolUse" not in block or block in [each for m in history for each in m["content"]]


def test_after_an_import_the_journal_is_one_file(written: Path, path: Path) -> None:
    for prefix in ("a.", "b."):
        imported(written, path, prefix=prefix)
        assert sorted(each.name for each in path.parent.iterdir()) == ["journal.db", "journal.db.lock"]


def test_a_sound_session_is_as_it_was(written: Path, path: Path) -> None:
    assert imported(written / "session_sound", path)["sound"].repairs == []
    ((record, history),) = loaded(path, "sound")
    assert record.state is not None
    assert record.state["state"] == {"mood": {"is": "good"}}
    assert record.state["conversation_manager_state"]["__name__"] == "SlidingWindowConversationManager"
    assert history[-2]["content"] == [{"text": "three"}, strands_sessions.IMAGE]
    assert record.messages == history


def test_open_ends_are_closed_and_reported(written: Path, path: Path) -> None:
    results = imported(written, path)
    (_, cut), (_, failed), (_, went_on) = loaded(path, "cut", "failed", "went-on")
    assert [str(block) for block in cut[-2]["content"] if UNKNOWN_OUTCOME in str(block)]
    assert [text for text in texts(failed) if text != "Let me see. "] == [
        "one fail", NO_ANSWER, "two", "answer to two", "tool three fail", NO_ANSWER, "four fail", NO_ANSWER,
        "five fail", NO_ANSWER,
    ]  # fmt: skip
    assert texts(went_on)[-2:] == ["two", "answer to two"]
    assert results["cut"].repairs == ["the run from message 2 on did not come to its end: it was closed"]
    assert len(results["failed"].repairs) == 4


def test_the_window_is_what_the_agent_worked_with(written: Path, path: Path) -> None:
    imported(written, path)
    (windowed, _), (summarized, history) = loaded(path, "windowed", "summarized")
    assert texts(windowed.messages) == ["e", "answer to e", "f", "answer to f"]
    assert (summarized.origins, len(history)) == ([None, *range(2, 14)], 14)
    assert texts(summarized.messages)[0] == "answer to Please summarize this conversation."


def test_a_session_of_several_agents_is_refused_with_their_names(written: Path, path: Path) -> None:
    refused = imported(written, path)["two"]
    assert (refused.result, "2 agents (first, second)" in refused.reason) == ("refused", True)


def test_a_session_that_is_there_is_refused_or_skipped_and_stays_as_it_is(written: Path, path: Path) -> None:
    async def before() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        await journal.accept(new("a", "sound"), WIDE, claim_next=True)
        await journal.finish((await anext(journal.claims())).token, done("here", "first"), claim_next=False)
        await journal.close()

    asyncio.run(before())
    assert imported(written, path)["sound"].result == "refused"
    again = imported(written, path, skip_existing=True)
    assert {each.result for name, each in again.items() if name != "two"} == {"skipped"}
    assert imported(written / "session_sound", path, prefix="old.")["old.sound"].result == "imported"
    assert imported(written / "session_sound", path, principal="somebody")["sound"].result == "imported"
    (here, _), (old, _) = loaded(path, "sound", "old.sound")
    assert (here.messages, len(old.messages)) == (said("here", "first"), 8)
    assert verify(path).faults == []


def test_the_only_session_of_a_folder_can_be_called_something_else(written: Path, path: Path) -> None:
    assert imported(written / "session_sound", path, named="default").keys() == {"default"}
    ((record, _),) = loaded(path, "default")
    assert len(record.messages) == 8
    with pytest.raises(JournalError, match="only one can be called"):
        imported(written, path, named="default")
    assert imported(written / "session_sound", path, named="not an id")["not an id"].result == "refused"


def test_a_dry_run_reports_the_same_and_writes_nothing(written: Path, path: Path) -> None:
    reported = imported(written, path, dry_run=True)
    assert list(path.parent.iterdir()) == []
    assert imported(written, path) == reported
    before = path.read_bytes()
    assert imported(written, path, prefix="x", dry_run=True)["xsound"].result == "imported"
    assert path.read_bytes() == before


def test_a_session_that_cannot_be_read_is_refused_and_leaves_nothing(written: Path, tmp_path: Path, path: Path) -> None:
    folder = tmp_path / "copy"
    for name in ("broken", "not a name", "numberless", "shapeless"):
        shutil.copytree(written / "session_sound", folder / f"session_{name}")
    messages = {
        name: folder / f"session_{name}" / "agents" / "agent_default" / "messages" for name in ("broken", "numberless")
    }
    (messages["broken"] / "message_3.json").write_text('{"message": {"role":')
    (messages["numberless"] / "message_x.json").write_text("{}")
    (folder / "session_shapeless" / "agents" / "agent_default" / "agent.json").write_text('{"state": []}')
    shutil.copytree(written / "session_sound", folder / "session_ok")
    results = imported(folder, path)
    assert [name for name, each in results.items() if each.result == "imported"] == ["ok"]
    assert "message_3.json is not what it should be" in results["broken"].reason
    assert "agent.json is not what it should be" in results["shapeless"].reason
    assert "session_id must be" in results["not a name"].reason
    assert verify(path).sessions == 1


def _folder(at: Path, *messages: dict[str, Any]) -> Path:
    agent = at / "session_made" / "agents" / "agent_a"
    (agent / "messages").mkdir(parents=True)
    (agent / "agent.json").write_text(json.dumps({"agent_id": "a", "state": {}, "conversation_manager_state": {}}))
    for number, message in enumerate(messages):
        (agent / "messages" / f"message_{number}.json").write_text(json.dumps({"message": message}))
    return at / "session_made"


def _result(named: str) -> dict[str, Any]:
    return {"toolResult": {"toolUseId": named, "status": "success", "content": [{"text": f"result {named}"}]}}


def _use(named: str) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": named, "name": "t", "input": {}}}


def test_tool_blocks_that_belong_to_nothing_stay_as_text(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path,
        {"role": "assistant", "content": [{"text": "hello"}]},
        {"role": "user", "content": [{"text": "q"}, _use("u")]},
        {"role": "assistant", "content": [_use("a"), _use("b")]},
        {"role": "user", "content": [_result("b"), _result("b"), _result("x")]},
        {"role": "user", "content": [_result("a")]},
        {"role": "assistant", "content": [{"text": "done"}]},
        {"role": "assistant", "content": [{"text": "really"}, _result("y")]},
    )
    conversation = read_session(folder)
    history = [message for run in conversation.runs for message in run]
    assert history_faults(history) == []
    everything = json.dumps(history)
    for text in ("hello", "'toolUseId': 'u'", "result a", "result b", "'toolUseId': 'x'", "done", "really", "'y'"):
        assert text in everything, text
    assert UNKNOWN_OUTCOME not in everything
    assert len(conversation.repairs) == 6


def test_missing_messages_are_reported_and_redactions_are_honoured(tmp_path: Path) -> None:
    folder = _folder(tmp_path, *map(dict, said("secret", "1", "2", "3")))
    messages = folder / "agents" / "agent_a" / "messages"
    (messages / "message_1.json").unlink()
    redacted = {"message": said("secret")[0], "redact_message": said("(redacted)")[0]}
    (messages / "message_0.json").write_text(json.dumps(redacted))
    conversation = read_session(folder)
    assert [texts(run) for run in conversation.runs] == [["(redacted)", NO_ANSWER], ["2", "3"]]
    assert conversation.repairs[0] == "messages are missing in the folder: 1"


def test_a_failure_in_the_middle_of_a_session_keeps_nothing_of_it(
    written: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strandline._journal import importing

    calls = 0

    def fail(value: object) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return json.dumps(value).encode()

    with monkeypatch.context() as patch:
        patch.setattr(importing, "encode_messages", fail)
        with pytest.raises(KeyboardInterrupt):
            imported(written / "session_failed", path)
    assert verify(path).sessions == 0
    assert imported(written / "session_failed", path)["failed"].result == "imported"


def test_a_journal_in_use_and_a_folder_without_sessions_are_refused(written: Path, path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        with pytest.raises(JournalLocked, match="Import while no server runs"):
            await asyncio.to_thread(imported, written, path)
        await journal.close()

    asyncio.run(main())
    with pytest.raises(JournalError, match="There are no sessions in"):
        sessions_in(tmp_path)
    with pytest.raises(JournalError, match="cannot be read"):
        sessions_in(tmp_path / "none")


def test_a_journal_that_no_server_would_open_is_refused_and_left_as_it_is(
    written: Path, path: Path, tmp_path: Path
) -> None:
    log = path.with_name("journal.db-wal")
    log.write_bytes(b"what was kept last")
    with pytest.raises(JournalError, match=r"journal\.db-wal has what was kept in it last"):
        imported(written, path)
    assert log.read_bytes() == b"what was kept last"
    assert not path.exists()
    log.unlink()
    imported(written, path)
    (tmp_path / "second.db").hardlink_to(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="2 names"):
        imported(written, path, principal="another")
    assert path.read_bytes() == before


def test_a_session_of_the_journal_that_is_damaged_is_no_obstacle_to_others(written: Path, path: Path) -> None:
    """It is there, which is all that has to be known of it."""
    imported(written / "session_sound", path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE history SET messages = NULL WHERE no = (SELECT last FROM sessions)")
    again = imported(written, path, skip_existing=True)
    assert again.pop("sound").result == "skipped"
    assert "imported" in {each.result for each in again.values()}


def test_an_import_locks_the_journals_own_file_and_leaves_it_to_its_owner_alone(written: Path, path: Path) -> None:
    """Whether the file was there, or the import has made it."""
    others: list[BinaryIO] = []

    def look(done: int, total: int) -> None:
        others.append(path.open("rb"))  # (left open: to close one would take the locks of SQLite away)
        assert not try_lock(others[-1].fileno())

    for prefix in ("first-", "second-"):
        given = {"prefix": prefix, "principal": "anonymous", "skip_existing": False, "dry_run": False}
        asyncio.run(import_sessions(written, path, SystemClock(), on_step=look, **given))  # type: ignore[arg-type]
        assert path.stat().st_mode & 0o777 == 0o600
        assert others
        assert try_lock(others[0].fileno())
        while others:
            others.pop().close()
        path.chmod(0o644)


def test_messages_that_cannot_be_listed_are_never_taken_for_none(tmp_path: Path, path: Path) -> None:
    messages = _folder(tmp_path, *map(dict, said("a", "b"))) / "agents" / "agent_a" / "messages"
    shutil.rmtree(messages)
    assert "messages cannot be read" in imported(tmp_path, path)["made"].reason
    messages.write_text("a file")
    assert "messages cannot be read" in imported(tmp_path, path)["made"].reason


def test_two_files_with_one_number_are_refused_and_a_number_far_off_is_reported_at_once(tmp_path: Path) -> None:
    folder = _folder(tmp_path, *map(dict, said("a", "b")))
    messages = folder / "agents" / "agent_a" / "messages"
    (messages / "message_1.json").rename(messages / "message_1000000000000.json")
    assert read_session(folder).repairs == ["messages are missing in the folder: 1 to 999999999999"]
    shutil.copy(messages / "message_0.json", messages / "message_00.json")
    with pytest.raises(Unusable, match="has no number"):
        read_session(folder)


def test_an_import_that_is_interrupted_keeps_the_lock_until_it_writes_no_more(written: Path, path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun, go_on = asyncio.Event(), threading.Event()

        def step(done: int, total: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(30)

        work = asyncio.create_task(
            import_sessions(
                written, path, SystemClock(), prefix="", principal="anonymous", skip_existing=False, dry_run=False,
                on_step=step,
            )
        )  # fmt: skip
        await asyncio.wait_for(begun.wait(), 30)
        work.cancel()
        await asyncio.sleep(0)  # cancelled now, before its thread continues
        with pytest.raises(JournalLocked):
            await SqliteJournal(path, SystemClock(), lock_wait_s=0.0).open("test", max_attempts=3)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await work
        await (journal := SqliteJournal(path, SystemClock(), lock_wait_s=0.0)).open("test", max_attempts=3)
        await journal.close()

    asyncio.run(main())
    assert verify(path).sessions == 0
