"""Projects the journal's conversations into files: as each run ends, and at the start for all sessions.

The journal is the truth and is only read. Runs never wait for files; deleting a session does. Failed writes are
retried. Files on the journal's disk leave the reserve for accepted runs alone: they wait until there is room. Works on
one session at a time, with file access in threads. Belongs to the serving loop.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from strandline._clock import Clock
from strandline._history import open_tool_uses
from strandline._journal.port import AgentStateQuery, HistoryQuery, Journal, OnDisk, SessionQuery, SessionsQuery
from strandline._model import Message, SessionKey, SessionView
from strandline._session_files import files, layout
from strandline._session_files.layout import Mark
from strandline._session_files.paths import SessionPaths
from strandline.errors import JournalUnavailable, StrandlineError

_log = logging.getLogger("strandline.session_files")

PAGE: Final = 64
PAGE_BYTES: Final = 4 * 1024 * 1024
"""How much of a history is read and held at once, in messages and bytes."""
RETRY_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
"""The waits between retries of a session; the last one repeats."""
SESSIONS: Final = 100
CHECK_DISK_S: Final = 1.0
"""How often to check whether the journal's disk has room."""


class _Gone(Exception):
    """The session was deleted while its files were being written."""


class _NoRoom(Exception):
    """The rest of the journal's disk is reserved for accepted runs."""


class SessionFiles:
    """The projection of a journal into files."""

    def __init__(self, paths: SessionPaths, journal: Journal, clock: Clock) -> None:
        self._paths = paths
        self._journal = journal
        self._clock = clock
        self._due: dict[SessionKey, None] = {}
        """Sessions with changes, oldest first."""
        self._failed: dict[SessionKey, tuple[float, int]] = {}
        """Sessions with failed writes: the time of the next retry, and the number of retries."""
        self._writing: SessionKey | None = None
        """The session with changes whose files are being written."""
        self._deleted: set[SessionKey] = set()
        """Deleted sessions whose files could not be removed."""
        self._news = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._files = asyncio.Lock()
        """Held while files are being changed."""
        self._task: asyncio.Task[None] | None = None
        self._disk = journal if isinstance(journal, OnDisk) else None
        """Grants room if the files are on its disk."""
        self._lacks_room = False
        """Whether files wait for room."""
        self._is_short = False
        """Whether the disk had no room at the last check."""
        self.failures = 0
        self.caught_up = asyncio.Event()
        """Set when all sessions of earlier servers are checked."""

    @property
    def behind(self) -> int:
        """The number of sessions known to have outdated files."""
        known = self._due.keys() | self._failed.keys()
        return len(known) + (self._writing is not None and self._writing not in known)

    def start(self) -> None:
        """Start with the unfinished work of earlier servers. The journal must be open."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    def changed(self, key: SessionKey) -> None:
        """Note that a session has changed."""
        self._due[key] = None
        self._at_rest.clear()
        self._news.set()

    async def finish(self, within_s: float) -> None:
        """Write changes for at most `within_s`, and end. The next start catches up with the rest."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            await asyncio.wait_for(self._at_rest.wait(), within_s)
        except TimeoutError:
            _log.warning("the files of %d sessions are outdated; the next start updates them", self.behind)
        task.cancel()
        await asyncio.wait([task])

    async def deleting(self, key: SessionKey) -> None:
        """Mark the files of a session that is about to be deleted, so that they do not survive a crash."""
        folder = self._paths.folder(key)
        async with self._files:
            await self._tried(key, lambda: files.intend_deletion(folder, key))

    async def deleted(self, key: SessionKey, *, done: bool) -> None:
        """Remove the files of a deleted session (`done`), or bring them up to date if it was not deleted."""
        folder = self._paths.folder(key)
        if done:
            async with self._files:
                self._deleted.add(key)
                if not await self._tried(key, lambda: files.remove(folder, key, self._paths.root)):
                    return
                self._deleted.discard(key)
        self.changed(key)  # (a new session of this name may exist by now)

    # -- scheduling ------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Write changed sessions first, then check all others, until cancelled."""
        old: AsyncIterator[SessionKey] | None = self._all_sessions()
        while True:
            self._news.clear()
            if self._waits_for_room():
                self._at_rest.set()  # (nothing can be done now)
                await asyncio.sleep(CHECK_DISK_S)
            elif (key := self._next()) is not None:
                await self._attempt(key)
            elif old is not None:
                if (key := await anext(old, None)) is None:
                    old = None
                    self.caught_up.set()
                elif key not in self._failed:
                    await self._attempt(key)
            else:
                self._at_rest.set()
                await self._until_news()

    def _next(self) -> SessionKey | None:
        if self._due:
            return next(iter(self._due))
        self._at_rest.set()
        now = self._clock.monotonic()
        return next((key for key, (at, _) in self._failed.items() if at <= now), None)

    def _waits_for_room(self) -> bool:
        """Return whether the disk has no room. When it has room again, make all retries due."""
        was_short, self._is_short = self._is_short, self._lacks_room and self._journal.low_disk is not None
        if was_short and not self._is_short:
            now = self._clock.monotonic()
            self._failed = {key: (now, times) for key, (_, times) in self._failed.items()}
        return self._is_short

    async def _until_news(self) -> None:
        first = min((at for at, _ in self._failed.values()), default=None)
        wait_s = None if first is None else max(0.0, first - self._clock.monotonic())
        try:
            await asyncio.wait_for(self._news.wait(), wait_s)
        except TimeoutError:
            pass

    async def _all_sessions(self) -> AsyncIterator[SessionKey]:
        """Yield sessions with an unfinished deletion, then all sessions of the journal."""
        pattern = self._paths.pattern(files.DELETING)
        left: list[SessionKey] | None = None
        while left is None:
            try:
                left = await asyncio.to_thread(files.unfinished_deletions, pattern)
            except RuntimeError as error:  # no thread can be started
                _log.warning("files of deleted sessions cannot be searched yet: %s", error)
                await asyncio.sleep(RETRY_S[0])
        for key in left:
            yield key
        after: SessionKey | None = None
        while True:
            try:
                page = await self._journal.read(SessionsQuery(None, after, SESSIONS))
            except StrandlineError as error:
                _log.warning("sessions cannot be listed yet, to write their files: %s", error)
                await asyncio.sleep(RETRY_S[0])
                continue
            for view in page.sessions:
                yield view.key
            if (after := page.after) is None:
                return

    async def _attempt(self, key: SessionKey) -> None:
        """Write the files of a session; schedule a retry if that fails."""
        async with self._files:
            is_due = key in self._due
            self._due.pop(key, None)
            self._writing = key if is_due else None
            try:
                await self._bring_up_to_date(key)
            except _Gone:
                self._due[key] = None
            except _NoRoom:
                self._note_lack_of_room(key)
            except Exception as error:  # no error may end this task or reach a run
                self._note_failure(key, error)
            else:
                self._failed.pop(key, None)
            self._writing = None
            if self._lacks_room and not self.behind:
                self._lacks_room = False
                _log.info("the journal's disk has room again: the files of all sessions are up to date")

    async def _tried(self, key: SessionKey, work: Callable[[], object]) -> bool:
        """Do some work in a thread; return False and schedule a retry if it fails."""
        try:
            await asyncio.to_thread(work)
        except Exception as error:  # (also if no thread can be started)
            self._note_failure(key, error)
            return False
        return True

    def _postpone(self, key: SessionKey) -> int:
        """Schedule a retry of a session; return the number of earlier ones."""
        _, times = self._failed.get(key, (0.0, 0))
        self._failed[key] = (self._clock.monotonic() + RETRY_S[min(times, len(RETRY_S) - 1)], times + 1)
        self._news.set()
        return times

    def _note_lack_of_room(self, key: SessionKey) -> None:
        self._postpone(key)
        if not self._lacks_room:
            self._lacks_room = True
            _log.warning(
                "the files of session %s, and of others, wait: the rest of the journal's disk is reserved for accepted"
                " runs (setting disk_reserve_bytes; what to do: docs/operations.md, StrandlineDiskFills)",
                key.session_id,
            )

    def _note_failure(self, key: SessionKey, error: Exception) -> None:
        times = self._postpone(key)
        self.failures += 1
        if times == 0:
            reason = str(error) if isinstance(error, OSError | StrandlineError) else repr(error)
            _log.warning("the files of session %s could not be written and will be retried: %s", key.session_id, reason)

    # -- writing ---------------------------------------------------------------------------------------

    async def _bring_up_to_date(self, key: SessionKey) -> None:
        folder = self._paths.folder(key)
        view = await self._journal.read(SessionQuery(key))
        was_deleted = key in self._deleted or await asyncio.to_thread(files.is_to_be_removed, folder)
        if view is None:
            if was_deleted:
                await asyncio.to_thread(files.remove, folder, key, self._paths.root)
                self._deleted.discard(key)
            return
        stored = await asyncio.to_thread(files.written, folder, key)
        if stored is not None and not await self._agrees(stored[1], view):
            stored = None
        if was_deleted:
            await asyncio.to_thread(files.cancel_deletion, folder)
            self._deleted.discard(key)
        fresh = Mark(principal=key.principal, session_id=key.session_id, branch=view.branch)
        mark = fresh if stored is None else stored[1]
        if mark.length < view.messages:
            await self._write(folder, mark, view.messages, None if stored is None else stored[0])

    async def _agrees(self, mark: Mark, view: SessionView) -> bool:
        """Return whether the files match the journal's history, and not another branch of it, or that of an earlier
        session of this name."""
        if mark.length > view.messages or mark.branch != view.branch:
            return False
        if mark.length == 0:
            return True
        page = await self._page(mark.key, mark.length - 1, mark.length)
        return page is not None and layout.digest(page[0][0]) == mark.last

    async def _write(self, folder: Path, before: Mark, length: int, created_at: str | None) -> None:
        """Write the messages from a mark to `length`, then the agent, then the mark; rewrite all if there are none."""
        now = layout.time_of(self._clock.now())
        if created_at is not None:
            await self._write_into(folder, before, length, created_at, now)
            return
        await asyncio.to_thread(files.begin, folder)
        try:
            if not await self._write_into(files.beside(folder), before, length, now, now):
                return
        except _NoRoom:
            await asyncio.to_thread(files.begin, folder)
            raise
        if (aside := await asyncio.to_thread(files.put_in_place, folder)) is not None:
            _log.warning("%s was not written by Strandline; it was moved to %s", folder, aside)

    async def _write_into(self, folder: Path, before: Mark, length: int, created_at: str, now: str) -> bool:
        """Write them into a folder; return False if there is nothing to write. Raises `_NoRoom`."""
        mark = before
        disk = self._disk
        if disk is not None and not await asyncio.to_thread(files.share_a_disk, folder, disk.file):
            disk = None
        async for reached, messages in self._records(before, length, now):
            await self._put(disk, folder, messages)
            mark = reached
        if mark == before:
            return False
        agent_state = await self._journal.read(AgentStateQuery(mark.key))
        name = self._paths.name(mark.session_id)
        records = [
            (layout.AGENT_FILE, layout.agent_record(agent_state, mark, created_at, now)),
            (layout.SESSION_FILE, layout.session_record(name, mark, created_at, now)),
        ]
        await self._put(disk, folder, records)
        return True

    async def _put(self, disk: OnDisk | None, folder: Path, records: list[tuple[str, bytes]]) -> None:
        """Write files. If they are on the journal's `disk`, request room first. Raises `_NoRoom` if it has none."""
        if not records:
            return
        if disk is not None:
            try:
                granted = await disk.grant_room(files.room_of(records))
            except JournalUnavailable as error:
                raise _NoRoom from error
            if not granted:
                raise _NoRoom
        await asyncio.to_thread(files.write, folder, records)

    async def _records(self, mark: Mark, length: int, now: str) -> AsyncIterator[tuple[Mark, list[tuple[str, bytes]]]]:
        """Yield the files of messages page by page, and the mark after each page.

        A message with tool requests is written together with the next one that is not left out, since the last round
        may be open.
        """
        seen, limit = mark, PAGE
        open_round: Message | None = None
        while seen.length < length:
            end = min(length, seen.length + limit)
            page = await self._page(mark.key, seen.length, end)
            if page is None:
                limit = max(1, (end - seen.length) // 2)
                continue
            limit = min(PAGE, limit * 2)
            records = []
            for message, hidden in page:
                index = seen.length
                seen = replace(seen, length=index + 1, last=layout.digest(message))
                if hidden:
                    seen = replace(seen, left_out=layout.with_left_out(seen.left_out, index))
                    continue
                number = seen.files_before(index)
                if open_round is not None:
                    records.append(
                        (layout.message_file(number - 1), layout.message_record(open_round, number - 1, now))
                    )
                    open_round = None
                if open_tool_uses([message]):
                    open_round = message
                else:
                    records.append((layout.message_file(number), layout.message_record(message, number, now)))
                    mark = seen
            if open_round is None:
                mark = seen
            yield mark, records

    async def _page(self, key: SessionKey, start: int, end: int) -> list[tuple[Message, bool]] | None:
        """Return messages `start` to `end`, each with whether it is hidden; None if they are too large for one page."""
        query = HistoryQuery(key, end, end - start, discarded=True, most_bytes=PAGE_BYTES, superseded=True)
        page = await self._journal.read(query)
        if page.first > start:
            return None
        if page.first < start or len(page.messages) != end - start:
            raise _Gone
        hidden = {*page.discarded, *page.superseded}
        return [(message, index in hidden) for index, message in enumerate(page.messages)]
