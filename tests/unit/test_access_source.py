"""A file of keys that changes: what counts afterwards, what is said, and what never reaches a log."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from logged import ours
from strandline._access import source
from strandline._access.keyring import ApiKey, new_key
from strandline._access.source import Keys
from strandline._settings import Settings

ADA, BOB, EVE = (new_key(name) for name in ("ada", "bob", "eve"))


def write(file: Path, *made: tuple[str, ApiKey]) -> None:
    file.write_text("".join(f"{kept.line()}\n" for _, kept in made))


def knows(keys: Keys, made: tuple[str, ApiKey]) -> bool:
    return keys.ring.find(made[0].encode()) == made[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    write(file, ADA, BOB)
    return file


def test_what_the_file_says_by_now_counts(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes: list[str] = []
    keys = Keys(Settings(api_keys=[EVE[1].line()], api_keys_file=str(file)))
    keys.on_change(lambda: changes.append("changed"))
    asyncio.run(keys.reload())
    assert changes == []
    carol = new_key("carol")
    write(file, ADA, carol)
    with caplog.at_level(logging.INFO):
        asyncio.run(keys.reload())
        asyncio.run(keys.reload())
    assert changes == ["changed"]
    assert [knows(keys, each) for each in (ADA, BOB, carol, EVE)] == [True, False, True, True]
    assert [each.getMessage() for each in caplog.records] == ["the keys have changed: 1 new, 1 gone, 3 in all"]


@pytest.mark.parametrize("content", ["", "THISISTHEKEY\n", "ada sha256:THISISTHEKEY\n", None])
def test_a_wrong_file_changes_nothing_and_is_logged_once_each_time(
    content: str | None, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(Settings(api_keys_file=str(file)))
    for _ in range(2):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        with caplog.at_level(logging.INFO):
            asyncio.run(keys.reload())
            asyncio.run(keys.reload())
        assert knows(keys, ADA)
        assert knows(keys, BOB)
        (record,) = ours(caplog)
        assert record.levelno == logging.ERROR
        assert "stay valid" in record.getMessage()
        assert "THISISTHEKEY" not in caplog.text
        caplog.clear()
        write(file, ADA, BOB)
        asyncio.run(keys.reload())
    write(file, ADA)
    asyncio.run(keys.reload())
    assert not knows(keys, BOB)


@pytest.mark.parametrize("empty", ["", "\n", "# none for now\n"])
def test_the_last_key_goes_when_another_one_stands_in_its_place_and_not_by_an_empty_file(
    empty: str, file: Path
) -> None:
    write(file, ADA)
    keys = Keys(Settings(api_keys_file=str(file)))
    file.write_text(empty)
    asyncio.run(keys.reload())
    assert knows(keys, ADA)
    write(file, EVE)
    asyncio.run(keys.reload())
    assert not knows(keys, ADA)
    assert knows(keys, EVE)


def test_a_key_that_changes_hands_is_gone_for_whom_it_stood_for(file: Path) -> None:
    keys = Keys(Settings(api_keys_file=str(file)))
    before = keys.ring.find(ADA[0].encode())
    assert before is not None
    assert before in keys.ring
    file.write_text("mallory" + ADA[1].line().removeprefix("ada"))
    asyncio.run(keys.reload())
    assert before not in keys.ring
    file.write_text(ADA[1].line() + " operator")
    asyncio.run(keys.reload())
    assert before in keys.ring, "the same principal, with more rights"


def test_the_slower_of_two_reloads_does_not_restore_older_keys(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP may come while the look of every two seconds waits for its disk."""

    async def main() -> None:
        keys, began, go_on = Keys(Settings(api_keys_file=str(file))), [], asyncio.Event()

        async def read(content: Callable[..., bytes], file: Path, **options: bool) -> bytes:
            began.append(found := content(file, **options))
            if len(began) == 1:
                await go_on.wait()
            return found

        monkeypatch.setattr("strandline._access.source.asyncio.to_thread", read)
        write(file, ADA)
        slow = asyncio.create_task(keys.reload())
        await asyncio.sleep(0)
        assert len(began) == 1
        write(file, BOB)
        fast = asyncio.create_task(keys.reload())
        for _ in range(5):
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(slow, fast)
        assert [knows(keys, each) for each in (ADA, BOB)] == [False, True]

    asyncio.run(main())


def test_the_file_is_looked_at_by_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "POLL_S", 0.001)

    async def main() -> None:
        keys = Keys(Settings(api_keys_file=str(file)))
        changed = asyncio.Event()
        keys.on_change(changed.set)
        following = asyncio.create_task(keys.follow())
        write(file, ADA)
        await asyncio.wait_for(changed.wait(), 20)
        following.cancel()
        assert not knows(keys, BOB)

    asyncio.run(main())


def test_without_a_file_there_is_nothing_to_look_at() -> None:
    keys = Keys(Settings(api_keys=[ADA[1].line()]))
    asyncio.run(asyncio.wait_for(keys.follow(), 20))
    asyncio.run(keys.reload())
    assert knows(keys, ADA)


def test_a_file_of_an_editor_that_marks_utf_8_and_ends_lines_with_two_characters_is_read(file: Path) -> None:
    keys = Keys(Settings(api_keys_file=str(file)))
    file.write_bytes(b"\xef\xbb\xbf" + f"{ADA[1].line()}\r\n{EVE[1].line()}\r\n".encode())
    asyncio.run(keys.reload())
    assert [knows(keys, each) for each in (ADA, BOB, EVE)] == [True, False, True]


def test_a_pipe_is_read_once_and_waited_for_by_nobody(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A thread that waited in it would keep the process when it is to stop."""
    keys = Keys(Settings(api_keys_file=str(file)))
    file.unlink()
    os.mkfifo(file)
    asyncio.run(asyncio.wait_for(keys.reload(), 20))
    assert knows(keys, ADA)
    assert "is a pipe" in caplog.text


def test_without_a_thread_to_read_the_file_the_keys_go_on_counting_and_it_is_looked_at_again(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(Settings(api_keys_file=str(file)))

    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none)
            await keys.reload()
        assert knows(keys, ADA)
        assert "can't start new thread" in caplog.text
        write(file, EVE)
        await keys.reload()
        assert (knows(keys, ADA), knows(keys, EVE)) == (False, True)

    asyncio.run(main())
