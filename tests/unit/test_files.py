"""Uploaded files: types by content, safe names, nothing left of what fails, and what models see."""

import asyncio
import errno
import io
import os
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from strands import Agent
from strands.agent.conversation_manager import SummarizingConversationManager

import strandline
from strandline import FileId, Principal, Request, Service, SessionId, SessionKey
from strandline._files.blocks import LARGEST, FileReader, ids_in, reference
from strandline._files.kinds import BINARY, TypeProbe
from strandline._files.names import LONGEST, NAMELESS, safe_name
from strandline._files.store import (
    COPIES,
    INCOMING,
    FileStore,
    Incoming,
    copy_for_tools,
    folder_of,
    is_file_id,
    new_file_id,
)
from strandline._journal.port import AddFile
from strandline.errors import DiskLow, FileTooLarge, Invalid, NotFound, StorageFull
from strandline.testing import ScriptedModel
from strandline.testing._desk import StillClock

KEY = SessionKey(strandline.ANONYMOUS, SessionId("s"))
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


# -- types and names ---------------------------------------------------------------------------------------


def office(name: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("[Content_Types].xml", "x" * 200_000)
        packed.writestr(name, "x")
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (PNG, "a.txt", "image/png"),
        (b"\xff\xd8\xff\xe0", "a", "image/jpeg"),
        (b"GIF89a", "a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "a.webp", BINARY),
        (b"%PDF-1.7", "a.png", "application/pdf"),
        (office("word/document.xml"), "a", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (office("xl/workbook.xml"), "a", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        (office("other.xml"), "a.docx", BINARY),
        (b"a;b\n1;2", "A.CSV", "text/csv"),
        (b"# Hello", "a.md", "text/markdown"),
        (b"<script>", "a.html", "text/html"),
        ("schön".encode(), "a.png", "text/plain"),
        ("schön".encode()[:-2], "a.txt", BINARY),
        (b"a\0b", "a.txt", BINARY),
        (b"\xff\xfe\x00", "a.txt", BINARY),
    ],
)
def test_the_content_decides_about_the_type(data: bytes, name: str, kind: str) -> None:
    """Whatever the pieces are that it comes in."""
    for size in (1 if len(data) < 100 else 7_001, 50_000, len(data)):
        probe = TypeProbe()
        for at in range(0, len(data), size):
            probe.add(data[at : at + size])
        assert probe.media_type(name) == kind


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ada\\a.txt", "a.txt"),
        ("a/", NAMELESS),
        ("..", NAMELESS),
        ("", NAMELESS),
        (".bashrc", "bashrc"),
        ("a\r\nSet-Cookie: x", "a Set-Cookie_ x"),
        ("gpj.\u202eexe", "gpj.exe"),
        ("a\0b\u200b.txt", "ab.txt"),
        ('a"b.txt', "a_b.txt"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("x" * 500 + ".pdf", "x" * (LONGEST - 4) + ".pdf"),
        ("\ud800.txt", "txt"),
    ],
)
def test_a_name_is_safe_anywhere(given: str, safe: str) -> None:
    assert safe_name(given) == safe
    assert safe_name(safe) == safe


def test_a_name_in_any_script_fits_into_a_file_system() -> None:
    for given in ("字" * 500 + ".pdf", "🦀" * 500, "a." + "x" * 500):
        assert len(safe_name(given).encode()) <= 255
        assert len(safe_name(given)) <= LONGEST


# -- where they are ----------------------------------------------------------------------------------------


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    incoming = store.begin(FileId("file_" + "a" * 32))
    incoming.write(b"hello")
    assert not store.path(KEY, incoming.file_id).exists()
    incoming.keep(KEY)
    kept = store.path(KEY, incoming.file_id)
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (b"hello", 0o400)
    assert [each.stat().st_mode & 0o077 for each in (store.root, kept.parent)] == [0, 0]
    incoming.discard()
    assert kept.exists()
    assert store.listed() == [(folder_of(KEY), incoming.file_id)]
    store.remove(folder_of(KEY), incoming.file_id)
    assert (store.listed(), kept.parent.exists()) == ([], False)


def test_ids_are_safe_as_names_of_files() -> None:
    assert is_file_id(new_file_id())
    assert not any(map(is_file_id, ("file_../../x", "file_" + "A" * 32, "", "file_" + "0" * 33)))
    known = FileId("file_" + "0" * 32)
    assert ids_in([{"file": known}, {"file": {"id": known}}, {"file": "file_../x"}, {"text": "x"}]) == [known]


# -- a service ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(folder: Path, seen: list[Any] | None = None, **settings: Any) -> AsyncIterator[Service]:
    """Open a service whose model notes what it is called with."""

    def script(messages: Any) -> str:
        (seen if seen is not None else []).append(messages)
        return "seen"

    target = settings.pop("target", lambda: Agent(model=ScriptedModel(script)))
    given = {"journal": f"sqlite:{folder / 'journal.db'}", "workspace": folder / "workspace", **settings}
    async with strandline.open_service(target, **given) as service:
        yield service


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


async def said(service: Service, *given: Any, key: SessionKey = KEY, **more: Any) -> str:
    ticket = await service.submit(Request(key=key, input=list(given), **more))
    outcome = await ticket.outcome()
    assert isinstance(outcome, strandline.Outcome)
    return str(outcome.status)


def left_in(folder: Path) -> list[Path]:
    return [each for each in (folder / "journal.db.files").rglob("*") if each.is_file()]


async def pieces(*given: bytes | Exception) -> AsyncIterator[bytes]:
    for each in given:
        if isinstance(each, Exception):
            raise each
        yield each


def test_nothing_is_left_of_an_upload_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It breaks off, is too large, too much, empty, or finds the disk full: while it comes, or at its end."""

    async def scene() -> None:
        limits: dict[str, Any] = {"max_file_bytes": 3_000_000, "max_stored_bytes_per_caller": 2_500_000}
        async with serving(tmp_path, **limits) as service:
            failing: list[tuple[Any, type[Exception]]] = [
                (pieces(b"x" * 1_500_000, ConnectionResetError()), OSError),
                (pieces(*[b"x" * 500_000] * 7), StorageFull),
                (pieces(), Invalid),
                (b"x" * 3_000_001, FileTooLarge),
                (b"x" * 2_600_000, StorageFull),
            ]
            for content, error in failing:
                with pytest.raises((error, strandline.errors.Unavailable) if error is OSError else error):
                    await service.upload(KEY, content)

            def full(*_: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            for name in ("write", "keep"):
                with monkeypatch.context() as patched:
                    patched.setattr(Incoming, name, full)
                    with pytest.raises(DiskLow):
                        await service.upload(KEY, b"x" * 10)
            assert (await service.files(KEY)).files == []
            assert (await service.upload(KEY, b"x" * 2_000_000)).size == 2_000_000, "nothing of them counts"
        assert len(left_in(tmp_path)) == 1

    play(scene)


def test_nothing_is_left_of_an_upload_whose_caller_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with serving(tmp_path) as service:
            arrived = asyncio.Event()

            async def half() -> AsyncIterator[bytes]:
                yield b"x" * 2_000_000
                arrived.set()
                await asyncio.Event().wait()

            upload = asyncio.create_task(service.upload(KEY, half()))
            await arrived.wait()
            assert len(left_in(tmp_path)) == 1
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            assert left_in(tmp_path) == [], "at once"

            begin, begun, go_on = FileStore.begin, threading.Event(), threading.Event()

            def slow(store: FileStore, file_id: FileId) -> Incoming:
                incoming = begin(store, file_id)
                begun.set()
                go_on.wait(20)
                return incoming

            monkeypatch.setattr(FileStore, "begin", slow)
            upload = asyncio.create_task(service.upload(KEY, b"x"))
            assert await asyncio.to_thread(begun.wait, 20)
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            go_on.set()
            async with asyncio.timeout(20):
                while left_in(tmp_path):
                    await asyncio.sleep(0)

    play(scene)


def test_no_clean_up_takes_the_folder_of_uploads_from_one_that_begins(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    left = store.begin(new_file_id())
    left.discard()
    store.remove(INCOMING, left.file_id)
    assert (tmp_path / "files" / INCOMING).is_dir()


def test_uploads_at_the_same_time_count_together(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path, max_stored_bytes_per_caller=1_500_000) as service:
            arrived = asyncio.Event()

            async def slow() -> AsyncIterator[bytes]:
                yield b"x" * 1_000_000
                arrived.set()
                await until.wait()

            until = asyncio.Event()
            first = asyncio.create_task(service.upload(KEY, slow()))
            await arrived.wait()
            with pytest.raises(StorageFull):
                await service.upload(KEY, b"x" * 1_000_000)
            other = SessionKey(Principal("bob"), SessionId("s"))
            assert (await service.upload(other, b"x" * 1_000_000)).size == 1_000_000
            until.set()
            assert (await first).size == 1_000_000

    play(scene)


def test_a_start_removes_files_that_have_no_record(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path) as service:
            kept = await service.upload(KEY, b"kept")
        store = FileStore(tmp_path / "journal.db.files")
        crashed = store.begin(new_file_id())
        crashed.write(b"half")
        crashed._file.close()
        moved = store.begin(new_file_id())
        moved.write(b"whole")
        moved.keep(KEY)
        assert len(left_in(tmp_path)) == 3
        async with serving(tmp_path) as service:
            while len(store.listed()) > 1:
                await asyncio.sleep(0)
            _, path = await service.file(KEY, kept.file_id)
            assert path.read_bytes() == b"kept"

    play(scene)


def test_an_upload_goes_on_while_leftovers_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its first folder, and at its place before its record is there."""

    async def scene() -> None:
        async with serving(tmp_path) as service:
            files = service._checked(KEY).files
            while files._begun is not None:  # (at its start it looks itself)
                await asyncio.sleep(0)
            files._begun = set()

            async def looked_for_between() -> AsyncIterator[bytes]:
                yield b"one "
                assert len(left_in(tmp_path)) == 1
                await files._remove_orphans(FileStore(tmp_path / "journal.db.files"))
                yield b"two"

            change = files._journal.change

            async def looked_for_before(asked: Any) -> Any:
                if isinstance(asked, AddFile):
                    await files.remove_orphans()
                return await change(asked)

            monkeypatch.setattr(files._journal, "change", looked_for_before)
            file = await files.add(KEY, "a", looked_for_between())
            monkeypatch.undo()
            assert (await service.file(KEY, file.file_id))[1].read_bytes() == b"one two"

    play(scene)


def test_a_file_that_no_run_names_is_deleted_after_its_time_and_a_named_one_is_not(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path, file_retention=3600) as service:
            named, unnamed = await service.upload(KEY, b"named"), await service.upload(KEY, b"unnamed")
            assert await said(service, {"file": named.file_id}) == "succeeded"
            files = service._checked(KEY).files
            for later, there in ((3590, {named.file_id, unnamed.file_id}), (3610, {named.file_id})):
                files._clock = clock = StillClock()
                clock.at = unnamed.created_at + later
                await files.expire()
                assert {each.file_id for each in (await service.files(KEY)).files} == there
                assert {each.name for each in left_in(tmp_path)} == there

    play(scene)


def test_without_a_folder_uploads_say_which_setting_is_missing(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path, journal="memory:") as service:
            with pytest.raises(Invalid, match="STRANDLINE_FILES"):
                await service.upload(KEY, b"x")
            with pytest.raises(Invalid, match="has none of this id"):
                await said(service, {"file": new_file_id()})
        async with serving(tmp_path, journal="memory:", files=tmp_path / "files") as service:
            file = await service.upload(KEY, PNG)
            assert await said(service, {"file": file.file_id}) == "succeeded"

    play(scene)


# -- in conversations --------------------------------------------------------------------------------------


def blocks_of(seen: list[Any]) -> list[Any]:
    return [block for message in seen[-1] for block in message["content"]]


def test_the_model_sees_each_file_once_and_tools_get_copies(tmp_path: Path) -> None:
    async def scene() -> None:
        seen: list[Any] = []
        async with serving(tmp_path, seen) as service:
            image, note = await service.upload(KEY, PNG, "a b.png"), await service.upload(KEY, b"hi", "note (1).md")
            other = await service.upload(KEY, b"\0\1", "data.bin")
            assert await said(service, {"file": image.file_id}, {"file": note.file_id}, {"file": other.file_id}) == (
                "succeeded"
            )
            assert await said(service, {"file": image.file_id}) == "succeeded"
            first, shown, second, document, third, *_, again = blocks_of(seen)
            assert shown == {"image": {"format": "png", "source": {"bytes": PNG}}}
            assert (document["document"]["format"], document["document"]["source"]) == ("md", {"bytes": b"hi"})
            assert document["document"]["name"].startswith("note-1-md-")
            for block, file in ((first, image), (second, note), (third, other), (again, image)):
                assert f"{file.name} ({file.media_type}, {file.size} bytes)" in block["text"]
                copy = Path(block["text"].partition("at ")[2].rstrip("]"))
                assert copy.parts[-3:] == ("uploads", file.file_id, file.name)
                assert copy.is_relative_to(tmp_path / "workspace")
                copy.write_bytes(b"changed by a tool")
            _, path = await service.file(KEY, image.file_id)
            assert path.read_bytes() == PNG
            history = await service.history(KEY)
            assert history[0]["content"][0] == reference(image.file_id, "a b.png", "image/png", len(PNG))

    play(scene)


def test_no_link_that_a_tool_has_left_is_followed(tmp_path: Path) -> None:
    """Neither in place of a folder of the copies, nor of a copy."""
    store, workspace, outside = FileStore(tmp_path / "files"), tmp_path / "w", tmp_path / "outside"
    incoming = store.begin(new_file_id())
    incoming.write(PNG)
    incoming.keep(KEY)
    kept, file_id = store.path(KEY, incoming.file_id), incoming.file_id
    outside.mkdir()
    (victim := outside / "a.png").write_bytes(b"before")
    for link, to in ((COPIES, outside), (f"{COPIES}/{file_id}", outside), (f"{COPIES}/{file_id}/a.png", victim)):
        (at := workspace / link).parent.mkdir(parents=True, exist_ok=True)
        at.symlink_to(to)
        if to == victim:
            assert copy_for_tools(kept, workspace, file_id, "a.png") == at
            assert not at.is_symlink()
            assert at.read_bytes() == PNG
        else:
            with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
                copy_for_tools(kept, workspace, file_id, "a.png")
            at.unlink()
        assert [each.name for each in outside.iterdir()] == ["a.png"]
        assert victim.read_bytes() == b"before"
    (workspace / COPIES / file_id / "b").mkdir()
    with pytest.raises(OSError, match="directory"):
        copy_for_tools(kept, workspace, file_id, "b")
    assert sorted(each.name for each in (workspace / COPIES / file_id).iterdir()) == ["a.png", "b"]
    kept.unlink()
    assert copy_for_tools(kept, workspace, file_id, "c") is None


def test_a_conversation_manager_that_asks_the_model_itself_shows_it_the_files(tmp_path: Path) -> None:
    async def scene() -> None:
        seen: list[Any] = []

        def script(messages: Any) -> str:
            seen.append(messages)
            return "seen"

        def make_agent() -> Agent:
            manager = SummarizingConversationManager(
                summary_ratio=0.8, preserve_recent_messages=1, proactive_compression={"compression_threshold": 0.001}
            )
            model = ScriptedModel(script)
            model.update_config(context_window_limit=1_000)
            return Agent(model=model, conversation_manager=manager)

        async with serving(tmp_path, target=make_agent) as service:
            file = await service.upload(KEY, PNG)
            for given in ({"file": file.file_id}, {"text": "x" * 4_000}, {"text": "y" * 4_000}):
                assert await said(service, given) == "succeeded"
        assert len(seen) > 3, "it has summarized"
        for messages in seen:
            assert not [block for message in messages for block in message["content"] if "file" in block]

    play(scene)


def test_a_file_that_is_gone_is_a_text_and_its_key_still_finds_its_run(tmp_path: Path) -> None:
    async def scene() -> None:
        seen: list[Any] = []
        async with serving(tmp_path, seen) as service:
            file = await service.upload(KEY, PNG)
            asked = Request(key=KEY, input=[{"file": file.file_id}], idempotency_key="k")
            ticket = await service.submit(asked)
            await ticket.outcome()
            await service.delete_file(KEY, file.file_id)
            assert left_in(tmp_path) == []
            assert (await service.submit(asked)).run_id == ticket.run_id
            with pytest.raises(Invalid, match="has none of this id"):
                await service.submit(Request(key=KEY, input=[{"file": file.file_id}]))
            assert await said(service, {"text": "and now?"}) == "succeeded"
            assert "has been deleted" in blocks_of(seen)[0]["text"]
            assert not any("image" in block for block in blocks_of(seen))

    play(scene)


def test_no_session_finds_files_of_another_one(tmp_path: Path) -> None:
    """Neither by its id in a request, nor in a block that an agent has made up."""

    async def scene() -> None:
        async with serving(tmp_path) as service:
            file = await service.upload(KEY, PNG)
            for other in (SessionKey(KEY.principal, SessionId("t")), SessionKey(Principal("bob"), KEY.session_id)):
                with pytest.raises(NotFound):
                    await service.file(other, file.file_id)
                with pytest.raises(NotFound):
                    await service.delete_file(other, file.file_id)
                with pytest.raises(Invalid, match="has none of this id"):
                    await said(service, {"file": file.file_id}, key=other)
                reader = FileReader(str(tmp_path / "journal.db.files"), other, None)
                (message,) = reader.expanded([{"role": "user", "content": [file.block]}])
                assert "deleted" in message["content"][0]["text"]
            assert (await service.file(KEY, file.file_id))[1].read_bytes() == PNG

    play(scene)


def test_a_session_takes_its_files_along_and_one_of_its_name_has_its_own(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path) as service:
            gone = await service.upload(KEY, b"gone")
            assert await said(service, {"file": gone.file_id}) == "succeeded"
            assert await service.delete(KEY)
            assert left_in(tmp_path) == []
            new = await service.upload(KEY, b"new")
            assert [each.file_id for each in (await service.files(KEY)).files] == [new.file_id]
            with pytest.raises(NotFound):
                await service.file(KEY, gone.file_id)

    play(scene)


@pytest.mark.parametrize("links", [True, False])
def test_a_fork_has_its_files_whatever_becomes_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also on a file system without links."""

    def no_link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    fork, second = (KEY._replace(session_id=SessionId(each)) for each in ("fork", "second"))

    async def scene() -> None:
        seen: list[Any] = []
        async with serving(tmp_path, seen) as service:
            file, unnamed = await service.upload(KEY, PNG, name="a.png"), await service.upload(KEY, b"unnamed")
            assert await said(service, {"file": file.file_id}) == "succeeded"
            for of, to in ((KEY, fork), (fork, second)):
                await service.fork(of, to.session_id)
                assert [each.file_id for each in (await service.files(to)).files] == [file.file_id]
            await service.delete_file(KEY, file.file_id)
            assert await service.delete(fork)
            with pytest.raises(NotFound):
                await service.file(KEY, file.file_id)
        async with serving(tmp_path, seen) as service:  # (a start removes what has no record)
            assert await said(service, {"text": "again"}, key=second) == "succeeded"
            image = seen[-1][0]["content"][-1]["image"]["source"]["bytes"]
            assert image == PNG
            assert {each.name for each in left_in(tmp_path)} == {file.file_id, unnamed.file_id}
            assert await service.delete(second)
            assert [each.name for each in left_in(tmp_path)] == [unnamed.file_id]

    play(scene)


def test_a_fork_that_is_refused_leaves_no_links(tmp_path: Path) -> None:
    fork = KEY._replace(session_id=SessionId("fork"))

    async def scene() -> None:
        async with serving(tmp_path, max_stored_bytes_per_caller=50_000) as service:
            file = await service.upload(KEY, b"x" * 30_000)
            assert await said(service, {"file": file.file_id}) == "succeeded"
            with pytest.raises(StorageFull):
                await service.fork(KEY, fork.session_id)
            assert [each.parent.name for each in left_in(tmp_path)] == [folder_of(KEY)]

    play(scene)


def test_a_large_file_is_named_but_not_shown(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    incoming = store.begin(new_file_id())
    incoming.write(PNG)
    os.truncate(incoming._path, LARGEST + 1)
    incoming.keep(KEY)
    block = reference(incoming.file_id, "large.png", "image/png", LARGEST + 1)
    (message,) = FileReader(str(tmp_path), KEY, None).expanded([{"role": "user", "content": [block]}])
    assert [list(each) for each in message["content"]] == [["text"]]
