"""Keeps the files of all sessions as the journal has them: as each run ends, and whatever was missed at the start.

The journal is the truth and is only read. Nobody waits for files but whoever deletes a session, and a session whose
files cannot be written is tried again until they can. Files that lie on the journal's disk take nothing of what is left
there for runs that were accepted: they are behind until there is more. One session at a time, whatever files need in
threads. Belongs to the serving loop.
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
from strandline._model import Message, SessionKey
from strandline._session_files import files, layout
from strandline._session_files.layout import Mark
from strandline._session_files.paths import SessionPaths
from strandline.errors import JournalUnavailable, StrandlineError

_log = logging.getLogger("strandline.session_files")

PAGE: Final = 64
PAGE_BYTES: Final = 4 * 1024 * 1024
"""How much of a history is read and held at once."""
AGAIN_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
"""How long to wait before a session whose files could not be written is tried again, the last one ever after."""
SESSIONS: Final = 100
LOOK_S: Final = 1.0
"""How long to wait before it is seen again whether the journal's disk has room."""


class _Gone(Exception):
    """The session was deleted while its files were written."""


class _NoRoom(Exception):
    """What is left of the journal's disk is kept for what was accepted."""


class SessionFiles:
    """The projection of a journal into files. `start` begins, `finish` ends it."""

    def __init__(self, place: SessionPaths, journal: Journal, clock: Clock) -> None:
        self._place = place
        self._journal = journal
        self._clock = clock
        self._due: dict[SessionKey, None] = {}
        """Sessions with something new, in the order in which it came."""
        self._failed: dict[SessionKey, tuple[float, int]] = {}
        """Sessions whose files could not be written: when they are tried again, and how often they were."""
        self._deleted: set[SessionKey] = set()
        """Sessions that were deleted and whose files could not be removed."""
        self._news = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._files = asyncio.Lock()
        """Held by whoever works on files: one at a time."""
        self._task: asyncio.Task[None] | None = None
        self._disk = journal if isinstance(journal, OnDisk) else None
        """What has to be asked for room, if files lie there."""
        self._lacks_room = False
        """Whether files have waited for that, since all were up to date."""
        self._is_short = False
        """Whether the disk had no room for any when that was looked at last."""
        self.failures = 0
        self.caught_up = asyncio.Event()
        """Set when all that an earlier server has left was looked at."""

    @property
    def behind(self) -> int:
        """How many sessions have something that is not in their files, as far as is known."""
        return len(self._due.keys() | self._failed.keys())

    def start(self) -> None:
        """Begin, with what an earlier server has left undone; the journal is open."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    def changed(self, key: SessionKey) -> None:
        """Note that a session has something new."""
        self._due[key] = None
        self._at_rest.clear()
        self._news.set()

    async def finish(self, within_s: float) -> None:
        """Write what is new, for no longer than this, and end. What is left is caught up with at the next start."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            await asyncio.wait_for(self._at_rest.wait(), within_s)
        except TimeoutError:
            _log.warning("the files of %d sessions are not up to date: they will be at the next start", self.behind)
        task.cancel()
        await asyncio.wait([task])

    async def deleting(self, key: SessionKey) -> None:
        """Note that a session is about to be deleted, so that a crash does not leave its files behind."""
        folder = self._place.folder(key)
        async with self._files:
            await self._tried(key, lambda: files.intend_deletion(folder, key))

    async def deleted(self, key: SessionKey, *, done: bool) -> None:
        """Remove the files of a session that was deleted (`done`); else the journal says what becomes of them."""
        folder = self._place.folder(key)
        if done:
            async with self._files:
                self._deleted.add(key)
                if not await self._tried(key, lambda: files.remove(folder, key, self._place.root)):
                    return
                self._deleted.discard(key)
        self.changed(key)  # (another one of this name may be there by now)

    # -- when ------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Write what is new as it comes, and what is old when nothing is new, until cancelled."""
        old: AsyncIterator[SessionKey] | None = self._all_sessions()
        while True:
            self._news.clear()
            if self._waits_for_room():
                self._at_rest.set()  # (there is nothing that could be done now)
                await asyncio.sleep(LOOK_S)
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
        """Return whether there is no use in trying; once the disk has room again, all that is behind is tried at
        once."""
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
        """Yield what was to be deleted when the last server ended, then all sessions of the journal."""
        pattern = self._place.pattern(files.DELETING)
        left: list[SessionKey] | None = None
        while left is None:
            try:
                left = await asyncio.to_thread(files.meant_to_be_deleted, pattern)
            except RuntimeError as error:  # there is no thread to be had
                _log.warning("files of deleted sessions cannot be looked for yet: %s", error)
                await asyncio.sleep(AGAIN_S[0])
        for key in left:
            yield key
        after: SessionKey | None = None
        while True:
            try:
                page = await self._journal.read(SessionsQuery(None, after, SESSIONS))
            except StrandlineError as error:
                _log.warning("sessions cannot be listed yet, to write their files: %s", error)
                await asyncio.sleep(AGAIN_S[0])
                continue
            for view in page.sessions:
                yield view.key
            if (after := page.after) is None:
                return

    async def _attempt(self, key: SessionKey) -> None:
        """Write the files of a session; what cannot be written is noted for later."""
        async with self._files:
            self._due.pop(key, None)
            try:
                await self._bring_up_to_date(key)
            except _Gone:
                self._due[key] = None
            except _NoRoom:
                self._note_lack_of_room(key)
            except Exception as error:  # whatever it is, it must not end this task, nor reach a run
                self._note_failure(key, error)
            else:
                self._failed.pop(key, None)
                if self._lacks_room and not self.behind:
                    self._lacks_room = False
                    _log.info("the journal's disk has room again: the files of all sessions are up to date")

    async def _tried(self, key: SessionKey, work: Callable[[], object]) -> bool:
        """Do some work in a thread; False if it failed, which is noted for later."""
        try:
            await asyncio.to_thread(work)
        except Exception as error:  # (also if there is no thread to be had)
            self._note_failure(key, error)
            return False
        return True

    def _postpone(self, key: SessionKey) -> int:
        """Have a session tried again later; return how often it was before."""
        _, times = self._failed.get(key, (0.0, 0))
        self._failed[key] = (self._clock.monotonic() + AGAIN_S[min(times, len(AGAIN_S) - 1)], times + 1)
        self._news.set()
        return times

    def _note_lack_of_room(self, key: SessionKey) -> None:
        self._postpone(key)
        if not self._lacks_room:
            self._lacks_room = True
            _log.warning(
                "the files of session %s, and of others, wait: what is left of the journal's disk is kept for runs that"
                " were accepted (setting disk_reserve_bytes; what to do: docs/operations.md, StrandlineDiskFills)",
                key.session_id,
            )

    def _note_failure(self, key: SessionKey, error: Exception) -> None:
        times = self._postpone(key)
        self.failures += 1
        if times == 0:
            told = str(error) if isinstance(error, OSError | StrandlineError) else repr(error)
            _log.warning("the files of session %s are not up to date: %s; it is tried again", key.session_id, told)

    # -- what ------------------------------------------------------------------------------------------

    async def _bring_up_to_date(self, key: SessionKey) -> None:
        folder = self._place.folder(key)
        view = await self._journal.read(SessionQuery(key))
        meant_to_go = key in self._deleted or await asyncio.to_thread(files.is_to_be_removed, folder)
        if view is None:
            if meant_to_go:
                await asyncio.to_thread(files.remove, folder, key, self._place.root)
                self._deleted.discard(key)
            return
        kept = await asyncio.to_thread(files.kept, folder, key)
        if kept is not None and not await self._agrees(kept[1], view.messages):
            kept = None
        if meant_to_go:
            await asyncio.to_thread(files.keep, folder)
            self._deleted.discard(key)
        mark = Mark(principal=key.principal, session_id=key.session_id) if kept is None else kept[1]
        if mark.length < view.messages:
            await self._write(folder, mark, view.messages, None if kept is None else kept[0])

    async def _agrees(self, mark: Mark, length: int) -> bool:
        """Return whether files are of the history that the journal has, and not of another one of that name."""
        if mark.length > length:
            return False
        if mark.length == 0:
            return True
        page = await self._page(mark.key, mark.length - 1, mark.length)
        return page is not None and layout.digest(page[0][0]) == mark.last

    async def _write(self, folder: Path, before: Mark, length: int, created_at: str | None) -> None:
        """Write the messages from a mark to `length`, then the agent, then how far they go; all if there are none."""
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
            _log.warning("%s was there and is nothing that this server has written: it is %s now", folder, aside)

    async def _write_into(self, folder: Path, before: Mark, length: int, created_at: str, now: str) -> bool:
        """Write them into a folder; False if there is nothing to write. Raises `_NoRoom`."""
        mark = before
        disk = self._disk
        if disk is not None and not await asyncio.to_thread(files.share_a_disk, folder, disk.file):
            disk = None
        async for reached, messages in self._records(before, length, now):
            await self._put(disk, folder, messages)
            mark = reached
        if mark == before:
            return False
        standing = await self._journal.read(AgentStateQuery(mark.key))
        name = self._place.name(mark.session_id)
        records = [
            (layout.AGENT_FILE, layout.agent_record(standing, mark, created_at, now)),
            (layout.SESSION_FILE, layout.session_record(name, mark, created_at, now)),
        ]
        await self._put(disk, folder, records)
        return True

    async def _put(self, disk: OnDisk | None, folder: Path, records: list[tuple[str, bytes]]) -> None:
        """Write files, on the disk of the journal if it is given one. Raises `_NoRoom` if that has none for them."""
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
        """Yield the files of messages, portion by portion, and the mark after each.

        A message that asks for tools comes with the next one that is not left out: the round of the last may be open.
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
        """Return messages `start` to `end`, each with whether it is hidden; None if they are too large together."""
        query = HistoryQuery(key, end, end - start, discarded=True, most_bytes=PAGE_BYTES)
        page = await self._journal.read(query)
        if page.first > start:
            return None
        if page.first < start or len(page.messages) != end - start:
            raise _Gone
        hidden = set(page.discarded)
        return [(message, place in hidden) for place, message in enumerate(page.messages)]
