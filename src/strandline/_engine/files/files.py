"""What callers do with the files of their sessions. Belongs to the serving loop; disks are used in threads."""

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from strandline._clock import Clock
from strandline._encoding import encode
from strandline._engine.maintenance import Readiness
from strandline._engine.options import Options
from strandline._engine.ownership import Ownership
from strandline._engine.requests import check_content
from strandline._engine.shielded import to_the_end
from strandline._files.blocks import blocks_in, ids_in, names_files, reference, with_records
from strandline._files.names import safe_name
from strandline._files.store import FileStore, Incoming, folder_of, new_file_id
from strandline._journal.port import (
    AddFile,
    Busy,
    Changed,
    DropFile,
    FileQuery,
    FilesQuery,
    Journal,
    NameFiles,
    OnDisk,
    Refused,
    StoredBytesQuery,
    StoredFile,
)
from strandline._model import Block, FileId, Input, Principal, SessionKey
from strandline.errors import (
    DiskLow,
    FileTooLarge,
    Invalid,
    JournalUnavailable,
    NotFound,
    NotOwner,
    RecordDamaged,
    StorageFull,
    StrandlineError,
)

_log = logging.getLogger("strandline.files")

BUFFER: Final = 1 << 20
"""How many bytes are written at once."""
ORPHANED_S: Final = 86400.0
"""After which time a file without a record is removed from a folder that other servers write to as well."""
PAGE: Final = 1000
MOST_IN_AN_INPUT: Final = 100
"""Files that one input may name."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
STORAGE_FULL_S: Final = 60.0


class Record(Struct, frozen=True):
    """What the journal keeps of a file besides its size."""

    name: str
    media_type: str
    sha256: str


class File(Struct, frozen=True):
    """A file. `named`: a run names it, so it is kept as long as its session."""

    file_id: FileId
    key: SessionKey
    name: str
    media_type: str
    size: int
    sha256: str
    created_at: float
    named: bool

    @property
    def block(self) -> Block:
        """The content block that stands for it in history."""
        return reference(self.file_id, self.name, self.media_type, self.size)


class FilePage(Struct, frozen=True):
    """Some files, and the id before the next page, None at the end. `damaged` cannot be read."""

    files: list[File]
    after: str | None
    damaged: list[FileId] = []


_record: Final = msgspec.json.Decoder(Record)


def file_of(stored: StoredFile) -> File:
    """Return a file of its record. Raises `RecordDamaged`."""
    try:
        record = _record.decode(stored.record)
    except msgspec.DecodeError:
        raise RecordDamaged(f"the record of file {stored.file_id} is damaged in the journal") from None
    return File(
        stored.file_id, stored.key, record.name, record.media_type, stored.size, record.sha256, stored.at, stored.named
    )


class Files:
    """The files of this server's sessions. `store` None: nowhere to keep any."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        readiness: Readiness,
        ownership: Ownership,
        options: Options,
        store: FileStore | None,
        *,
        spawn: Callable[[Coroutine[Any, Any, object]], object],
        new_id: Callable[[], FileId] = new_file_id,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._readiness = readiness
        self._ownership = ownership
        self._options = options
        self._store = store
        self._spawn = spawn
        self._new_id = new_id
        self._coming: Counter[Principal] = Counter()
        """The bytes of files that are being uploaded, which the journal does not count yet."""
        self._places: Counter[tuple[SessionKey, FileId]] = Counter()
        """Files that are at their places, while their records are being stored."""
        self._begun: set[str] | None = set()
        """Files that this server brings while it looks for those that an earlier one has left; None: it has looked."""
        self._under_way: set[asyncio.Task[Any]] = set()

    @property
    def root(self) -> str | None:
        """The folder that files are read from; None: there is none."""
        return None if self._store is None else str(self._store.root)

    # -- uploads ---------------------------------------------------------------------------------------

    async def add(self, key: SessionKey, name: str, pieces: AsyncIterator[bytes], announced: int = 0) -> File:
        """Store a file of a session, which need not exist yet; it is durable on return, and there is none if it fails.

        `announced` is its size as far as that is known. Raises `Invalid`, `FileTooLarge`, `StorageFull`, `DiskLow`,
        and another `Unavailable`.
        """
        self._ownership.check_known(("files",))
        self._ownership.check(key)
        self._readiness.admit()
        store = self._store_in_force()
        self._check_size(announced)
        stored = await self._journal.read(StoredBytesQuery(key.principal))
        self._check_stored(key, stored + announced)
        file_id = self._new_id()
        self._note_begun(file_id)
        try:
            incoming = await self._begin(store, file_id)
            await self._receive(key, incoming, pieces, stored)
        except OSError as error:
            raise self._unwritable(error) from error
        return await to_the_end(self._keep(key, incoming, safe_name(name)), self._under_way)

    def _store_in_force(self) -> FileStore:
        if self._store is None:
            raise Invalid(
                "this server has no folder for files: its operator sets one with the setting files"
                " (STRANDLINE_FILES=FOLDER), shared by all servers over one database"
            )
        return self._store

    def _check_size(self, size: int) -> None:
        if size > (most := self._options.max_file_bytes):
            raise FileTooLarge(f"a file may have at most {most} bytes (setting max_file_bytes)")

    def _check_stored(self, key: SessionKey, size: int) -> None:
        """Raise `StorageFull` if a caller would have more than it may."""
        most = self._options.max_stored_bytes_per_principal
        if most is not None and size + self._coming[key.principal] > most:
            raise self._full(key)

    def _full(self, key: SessionKey) -> StorageFull:
        return StorageFull(
            f"{self._options.max_stored_bytes_per_principal} bytes may be kept for {key.principal}, in all its sessions"
            " (setting max_stored_bytes_per_caller), and this file would be more; delete files or sessions that are not"
            " needed any more",
            retry_after_s=max(self._options.retry_after_s, STORAGE_FULL_S),
        )

    async def _begin(self, store: FileStore, file_id: FileId) -> Incoming:
        """Begin a file, unless the caller leaves meanwhile."""
        beginning = asyncio.create_task(asyncio.to_thread(store.begin, file_id))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(self._discard_begun)
            raise

    def _discard_begun(self, beginning: "asyncio.Task[Incoming]") -> None:
        if not beginning.cancelled() and beginning.exception() is None:
            self._spawn(asyncio.to_thread(beginning.result().discard))

    async def _receive(self, key: SessionKey, incoming: Incoming, pieces: AsyncIterator[bytes], stored: int) -> None:
        """Write what comes. If it fails, nothing of it is left."""
        size, buffer, buffered = 0, list[bytes](), 0
        try:
            async for piece in pieces:
                size += len(piece)
                buffered += len(piece)
                self._coming[key.principal] += len(piece)
                self._check_size(size)
                self._check_stored(key, stored)
                buffer.append(piece)
                if buffered >= BUFFER:
                    await self._write(incoming, b"".join(buffer))
                    buffer, buffered = [], 0
            if not size:
                raise Invalid("the body is the file itself, and it is empty")
            await self._write(incoming, b"".join(buffer))
        except BaseException:
            await self._discard(incoming)
            raise
        finally:
            self._coming[key.principal] -= size
            if not self._coming[key.principal]:
                del self._coming[key.principal]

    async def _write(self, incoming: Incoming, data: bytes) -> None:
        disk = self._journal if isinstance(self._journal, OnDisk) else None
        if disk is not None and await asyncio.to_thread(self._shares_disk) and not await disk.grant_room(len(data)):
            raise self._disk_low()
        await asyncio.to_thread(incoming.write, data)

    def _shares_disk(self) -> bool:
        """Return whether files are on the disk of the journal, whose last part is for accepted runs."""
        assert self._store is not None
        assert isinstance(self._journal, OnDisk)
        try:
            return self._store.root.stat().st_dev == self._journal.file.stat().st_dev
        except OSError:
            return True

    def _disk_low(self) -> DiskLow:
        return DiskLow("the disk has no room for this file; try again later", retry_after_s=STORAGE_FULL_S)

    def _unwritable(self, error: OSError) -> DiskLow | JournalUnavailable:
        if error.errno in _NO_ROOM:
            return self._disk_low()
        _log.error("files cannot be written to %s: %s", self.root, error)
        return JournalUnavailable(f"the file cannot be stored: {error.strerror}")

    async def _discard(self, incoming: Incoming) -> None:
        await to_the_end(asyncio.to_thread(incoming.discard), self._under_way)

    async def _keep(self, key: SessionKey, incoming: Incoming, name: str) -> File:
        """Bring a file that has come to its place, and store its record."""
        assert self._store is not None
        file_id, at = incoming.file_id, self._clock.now()
        record = Record(name, incoming.media_type(name), incoming.sha256)
        with self._placed(key, (file_id,)):
            try:
                await asyncio.to_thread(incoming.keep, key)
            except OSError as error:
                await self._discard(incoming)
                raise self._unwritable(error) from error
            most = self._options.max_stored_bytes_per_principal
            try:
                answer = await self._journal.change(AddFile(key, file_id, incoming.size, encode(record), at, most))
            except NotOwner:
                await asyncio.to_thread(self._store.remove, folder_of(key), file_id)
                raise
            if isinstance(answer, Refused):
                await asyncio.to_thread(self._store.remove, folder_of(key), file_id)
                raise self._full(key)
        return File(file_id, key, name, record.media_type, incoming.size, record.sha256, at, named=False)

    def _note_begun(self, *file_ids: FileId) -> None:
        if self._begun is not None:
            self._begun.update(file_ids)

    @contextmanager
    def _placed(self, key: SessionKey, file_ids: Sequence[FileId]) -> Iterator[None]:
        """Let nobody remove files of a session for lack of a record. If the journal cannot say what has become of it,
        the next start looks."""
        places = [(key, each) for each in file_ids]
        self._places.update(places)
        try:
            yield
        finally:
            self._places -= Counter(places)

    @asynccontextmanager
    async def shared(self, source: SessionKey, to: SessionKey, file_ids: Sequence[FileId]) -> AsyncIterator[None]:
        """Have the folder of a new session share files of its source, while their records are being stored there. What
        has no record after that is removed."""
        if (store := self._store) is None or not file_ids:
            yield
            return
        self._note_begun(*file_ids)
        with self._placed(to, file_ids):
            try:
                await asyncio.to_thread(store.share, source, to, file_ids)
            except OSError as error:
                raise self._unwritable(error) from error
            yield
        await self.remove_unrecorded(to)

    # -- what is there ---------------------------------------------------------------------------------

    async def read(self, key: SessionKey, file_id: FileId) -> File:
        """Return a file. Raises `NotFound`, also for one of another session or principal."""
        self._readiness.note_request()
        stored = await self._journal.read(FileQuery(key, file_id))
        if stored is None:
            raise NotFound(f"there is no file {file_id} in session {key.session_id}")
        return file_of(stored)

    async def content(self, key: SessionKey, file_id: FileId) -> tuple[File, Path]:
        """Return a file and the path of its bytes. Raises `NotFound`, and `RecordDamaged` without its bytes."""
        file = await self.read(key, file_id)
        path = None if self._store is None else self._store.path(key, file_id)
        if path is None or not await asyncio.to_thread(path.is_file):
            raise RecordDamaged(f"the bytes of file {file_id} are not where files are kept (setting files)")
        return file, path

    async def page(self, key: SessionKey, *, after: FileId | None, limit: int) -> FilePage:
        """Return a page of a session's files, in the order of their ids."""
        self._readiness.note_request()
        page = await self._journal.read(FilesQuery(key, after, limit))
        return FilePage([file_of(each) for each in page.files], page.after, page.damaged)

    async def delete(self, key: SessionKey, file_id: FileId) -> None:
        """Delete a file. History keeps what names it, and says from now on that it is gone. Raises `NotFound`."""
        self._readiness.admit()
        self._ownership.check(key)
        if not await self._drop(key, file_id, unnamed=False):
            raise NotFound(f"there is no file {file_id} in session {key.session_id}")

    async def _drop(self, key: SessionKey, file_id: FileId, *, unnamed: bool) -> bool:
        answer = await self._journal.change(DropFile(key, file_id, unnamed))
        if isinstance(answer, Busy) or answer == Changed(existed=False):
            return False
        if self._store is not None:
            await asyncio.to_thread(self._store.remove, folder_of(key), file_id)
        return True

    # -- in inputs -------------------------------------------------------------------------------------

    async def resolved(self, key: SessionKey, given: Input, before: Input = "") -> Input:
        """Return an input whose files are named as history names them, and are kept from now on as long as the session.

        Those that `before`, the input that this one replaces, names already may have been deleted since. Raises
        `Invalid` if the session lacks another one, or if callers may not send this.
        """
        if not names_files(given):
            return given
        check_content(given, self._options.allowed_content)
        ids = [FileId(each) for each in ids_in(given)]
        if len(ids) > MOST_IN_AN_INPUT:
            raise Invalid(f"input may name at most {MOST_IN_AN_INPUT} files")
        blocks = blocks_in(before)
        self._ownership.check_known(("files",))
        self._ownership.check(key)
        found = [(each, await self._journal.read(FileQuery(key, each))) for each in ids if each not in blocks]
        for file_id, stored in found:
            if stored is None:
                raise _missing(key, file_id)
        files = [file_of(stored) for _, stored in found if stored is not None]
        unnamed = tuple(each.file_id for each in files if not each.named)
        if unnamed and await self._journal.change(NameFiles(key, unnamed)) != Changed(existed=True):
            raise _missing(key, unnamed[0])
        return with_records(given, blocks | {each.file_id: each.block for each in files})

    # -- what goes -------------------------------------------------------------------------------------

    async def remove_unrecorded(self, key: SessionKey) -> None:
        """Remove a session's files without a record, as once it is deleted. A failure is logged: the next start removes
        them."""
        if (store := self._store) is None:
            return
        try:
            there = await asyncio.to_thread(store.listed_of, key)
            for each in there:
                file_id = FileId(each)
                if (key, file_id) in self._places or await self._journal.read(FileQuery(key, file_id)) is not None:
                    continue  # (of a session of the same name that has come since)
                await asyncio.to_thread(store.remove, folder_of(key), file_id)
        except (OSError, StrandlineError) as error:
            _log.warning("files without a record could not be removed yet: %s", error)

    async def remove_orphans(self) -> None:
        """Remove files without a record, which crashes and failed deletions leave. To be called once, at the start."""
        if self._store is not None:
            await self._remove_orphans(self._store)
        self._begun = None

    async def _remove_orphans(self, store: FileStore) -> None:
        shared = self._ownership.is_shared
        there = await asyncio.to_thread(store.listed)
        if not there:
            return
        known: set[tuple[str, str]] = set()
        after: str | None = None
        while True:
            page = await self._journal.read(FilesQuery(after=after, limit=PAGE))
            known |= {(folder_of(each.key), each.file_id) for each in page.files}
            damaged = set(page.damaged)
            there = [each for each in there if each[1] not in damaged]
            if (after := page.after) is None:
                break
        now = self._clock.now()
        for folder, name in there:
            if (folder, name) in known or name in (self._begun or ()):
                continue
            if not shared or await asyncio.to_thread(store.age_s, folder, name, now) > ORPHANED_S:
                await asyncio.to_thread(store.remove, folder, name)

    async def expire(self) -> None:
        """Delete the files that no run has named for longer than the retention."""
        if self._journal.trouble is not None:
            return
        before, after = self._clock.now() - self._options.file_retention_s, None
        while True:
            page = await self._journal.read(FilesQuery(after=after, limit=PAGE, before=before))
            for each in page.files:
                try:
                    if self._ownership.owns(each.key):
                        await self._drop(each.key, each.file_id, unnamed=True)
                except NotOwner:
                    pass  # (each server deletes its own)
            if (after := page.after) is None:
                return


def _missing(key: SessionKey, file_id: FileId) -> Invalid:
    return Invalid(f"input names the file {file_id}, and session {key.session_id} has none of this id (any more)")
