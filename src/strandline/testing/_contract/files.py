"""The records of files: stored with their sizes, which count for their principal, and deleted with their session."""

from msgspec import structs

from strandline._journal.port import (
    AddFile,
    Busy,
    Changed,
    Delete,
    DropFile,
    FileQuery,
    FilesQuery,
    FilesWanted,
    Fork,
    Forked,
    NameFiles,
    Refused,
    RestingQuery,
    StoredBytesQuery,
    StoredFile,
)
from strandline._model import ANONYMOUS, FileId, Principal, SessionId, SessionKey
from strandline.testing._contract.going_back import turn
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, key

RECORD, AT = b'{"name":"a.png"}', 1_000.0
NOBODYS = SessionKey(Principal("bob"), SessionId("s"))


class FilesContract(Contract):
    """What becomes of the records of files."""

    async def _add_file(self, desk: Desk, name: str = "a", size: int = 1_000, of: SessionKey | None = None) -> None:
        added = AddFile(of or key(), FileId(name), size, RECORD, AT)
        assert await desk.journal.change(added) == Changed(existed=True)

    async def _read_file(self, desk: Desk, name: str = "a", of: SessionKey | None = None) -> StoredFile | None:
        return await desk.journal.read(FileQuery(of or key(), FileId(name)))

    async def _bytes_of(self, desk: Desk, principal: str = ANONYMOUS) -> int:
        return await desk.journal.read(StoredBytesQuery(Principal(principal)))

    @scenario
    async def test_a_file_is_stored_as_it_was_given(self, desk: Desk) -> None:
        """Also one of a session that did not exist; over a restart; another caller's session has none of it."""
        await self._add_file(desk)
        stored = StoredFile(FileId("a"), key(), 1_000, RECORD, AT, named=False)
        assert await self._read_file(desk) == stored
        assert await self._read_file(desk, of=NOBODYS) is None
        await desk.restart()
        assert await self._read_file(desk) == stored
        assert await desk.journal.change(DropFile(NOBODYS, FileId("a"))) == Changed(existed=False)
        assert await desk.journal.change(DropFile(key(), FileId("a"))) == Changed(existed=True)
        assert await desk.journal.change(DropFile(key(), FileId("a"))) == Changed(existed=False)
        assert await self._read_file(desk) is None

    @scenario
    async def test_files_are_listed_in_pages(self, desk: Desk) -> None:
        other = SessionKey(ANONYMOUS, SessionId("other"))
        for name in "bca":
            await self._add_file(desk, name)
        await self._add_file(desk, "d", of=other)
        page = await desk.journal.read(FilesQuery(key(), limit=2))
        assert [each.file_id for each in page.files] == ["a", "b"]
        assert page.after == "b"
        page = await desk.journal.read(FilesQuery(key(), after=page.after, limit=2))
        assert ([each.file_id for each in page.files], page.after) == (["c"], None)
        page = await desk.journal.read(FilesQuery())
        assert page.after is None
        half = await desk.journal.read(FilesQuery(limit=2))
        assert half.after is not None
        rest = await desk.journal.read(FilesQuery(after=half.after, limit=2))
        assert (half.files + rest.files, rest.after) == (page.files, None)
        assert [(each.key, each.file_id) for each in page.files] == [
            (key(), "a"), (key(), "b"), (key(), "c"), (other, "d"),
        ]  # fmt: skip

    @scenario
    async def test_bytes_of_files_count_until_they_are_deleted(self, desk: Desk) -> None:
        await self._add_file(desk)
        first = await self._bytes_of(desk)
        assert first >= 1_000 + len(RECORD)
        full = AddFile(key(), FileId("b"), 1_000, RECORD, AT, stored_bytes=2 * first - 1)
        assert await desk.journal.change(full) == Refused("storage_full", 0)
        assert await self._read_file(desk, "b") is None
        fits = AddFile(key(), FileId("b"), 1_000, RECORD, AT, stored_bytes=2 * first)
        assert await desk.journal.change(fits) == Changed(existed=True)
        assert await self._bytes_of(desk) == 2 * first
        await desk.restart()
        assert await self._bytes_of(desk) == 2 * first
        assert await desk.journal.change(DropFile(key(), FileId("a"))) == Changed(existed=True)
        assert await self._bytes_of(desk) == first
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await self._bytes_of(desk) == 0
        assert await self._read_file(desk, "b") is None

    @scenario
    async def test_a_file_that_a_run_names_is_not_deleted_as_unnamed(self, desk: Desk) -> None:
        for name in ("a", "b"):
            await self._add_file(desk, name)
        both = (FileId("a"), FileId("missing"))
        assert await desk.journal.change(NameFiles(key(), both)) == Changed(existed=False)
        assert await desk.journal.change(NameFiles(NOBODYS, (FileId("a"),))) == Changed(existed=False)
        unnamed = FilesQuery(before=AT + 1)
        assert [each.file_id for each in (await desk.journal.read(unnamed)).files] == ["a", "b"]
        assert (await desk.journal.read(FilesQuery(before=AT))).files == []
        for _ in range(2):
            assert await desk.journal.change(NameFiles(key(), (FileId("a"),))) == Changed(existed=True)
        await desk.restart()
        assert [each.file_id for each in (await desk.journal.read(unnamed)).files] == ["b"]
        assert await desk.journal.change(DropFile(key(), FileId("a"), unnamed=True)) == Busy()
        assert await desk.journal.change(DropFile(key(), FileId("b"), unnamed=True)) == Changed(existed=True)
        assert await desk.journal.change(DropFile(key(), FileId("a"))) == Changed(existed=True)

    @scenario
    async def test_a_session_with_nothing_but_files_is_at_rest(self, desk: Desk) -> None:
        await self._add_file(desk)
        after = desk.clock.now() + 1
        resting = await desk.journal.read(RestingQuery(before=after))
        assert key() in resting.keys
        assert await desk.journal.change(Delete(key(), ended_before=after)) == Changed(existed=True)
        assert await self._read_file(desk) is None

    @scenario
    async def test_a_fork_has_the_files_that_runs_of_its_source_name(self, desk: Desk) -> None:
        """Their bytes count once more; they stay when the source is deleted, and are deleted with the fork."""
        for name in ("a", "b"):
            await self._add_file(desk, name)
        assert await desk.journal.change(NameFiles(key(), (FileId("a"),))) == Changed(existed=True)
        await turn(desk, "r")
        before, fork = await self._bytes_of(desk), Fork(key("copy"), SessionId("s"))
        assert await desk.journal.change(fork) == FilesWanted((FileId("a"),))
        assert await self._read_file(desk, of=key("copy")) is None
        both = frozenset({FileId("a"), FileId("b")})
        full = structs.replace(fork, files=both, stored_bytes=before + 1_000)
        assert await desk.journal.change(full) == Refused("storage_full", 0)
        assert isinstance(await desk.journal.change(structs.replace(fork, files=both)), Forked)
        assert await self._bytes_of(desk) >= before + 1_000 + len(RECORD)
        stored = StoredFile(FileId("a"), key("copy"), 1_000, RECORD, AT, named=True)
        await desk.restart()
        assert await self._read_file(desk, of=key("copy")) == stored
        assert await self._read_file(desk, "b", key("copy")) is None
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await self._read_file(desk) is None
        assert await self._read_file(desk, of=key("copy")) == stored
        assert await desk.journal.change(Delete(key("copy"))) == Changed(existed=True)
        assert await self._read_file(desk, of=key("copy")) is None
        assert await self._bytes_of(desk) == 0
