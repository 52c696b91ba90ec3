"""Sessions that begin with the history of another one."""

from strandline._encoding import encode_messages
from strandline._journal.changes import (
    AddBranch,
    AddFork,
    ChangeCourse,
    CopyHistory,
    StoreAgent,
    StoreFile,
    StoreOptions,
)
from strandline._journal.checksums import CHECKSUM_BYTES
from strandline._journal.defaults import stored_options
from strandline._journal.forks import stored_fork
from strandline._journal.going_back import GoingBack
from strandline._journal.port import Changed, FilesWanted, Fork, Forked, Refused, Reused, Taken, Unreachable
from strandline._journal.records import ForkRecord, ForkSource
from strandline._journal.state import HistoryEnd, SessionState
from strandline._journal.transitions import NO_RUN
from strandline._model import COPIED_AGENT, NO_AGENT, ForkedFrom, SessionKey


class Forking(GoingBack):
    """Makes sessions from others. Only the new one is changed, and need be ours; the other one is read as stored."""

    def _fork(self, change: Fork) -> Forked | Taken | Reused | Unreachable | FilesWanted | Refused | Changed:
        """Make a session that begins with a copy of another one's history."""
        session = self._find(change.key)
        if session is not None:
            return self._made_before(session, change)
        key = SessionKey(change.key.principal, change.source)
        source = self._fetched(("fork", *key, change.after), lambda records: records.fork_source(key, change.after))
        if source is None:
            return Changed(existed=False)
        if isinstance(source, Unreachable):
            return source
        if wanted := tuple(each.file_id for each in source.files if each.file_id not in change.files):
            return FilesWanted(wanted)
        window = None if source.window is None else encode_messages(source.window)
        state = None if source.state is None else encode_messages(source.state)
        kept = sum(len(each) + CHECKSUM_BYTES for each in (window, state) if each is not None)
        closing = encode_messages(source.closing) if source.closing else b""
        if (low := self._lacks_room(source.size)) is not None:
            return low
        of_files = sum(each.size + len(each.record) + CHECKSUM_BYTES for each in source.files)
        size = source.size + 2 * kept + len(closing) + of_files
        full = self._count_more(key.principal, size, change.stored_bytes)
        if full is not None:
            return full
        if self._room is not None:
            self._room.keeps(source.size)
        made = self._add(change.key)
        forgotten = source.agent is None and source.rows > 0
        agent = NO_AGENT if source.agent in (None, NO_AGENT) else COPIED_AGENT
        self._copy(made, source, agent)
        if agent != NO_AGENT:
            self._note(made, StoreAgent(made.ref, agent, window, state))
        if closing:
            self._append(made, NO_RUN, closing, len(source.closing))
        made.options = stored_options(made.ref, source.options)
        if made.options is not None:
            self._note(made, StoreOptions(made.ref, made.options))
        for file in source.files:
            self._note(made, StoreFile(made.ref, file.file_id, file.size, file.at, file.record, named=True))
        origin = ForkedFrom(session_id=change.source, run_id=source.run_id)
        record = ForkRecord(origin, made.end.length, forgotten, change.named, change.fingerprint)
        self._note(made, AddFork(made.ref, source.ref.no, stored_fork(record)))
        return Forked(made.key, origin, made.end.length, forgotten)

    def _lacks_room(self, size: int) -> Refused | None:
        """Refuse a copy for which there is no space on the disk."""
        if (room := self._room) is not None:
            if room.is_due:
                self._fetched("room", lambda records: records.look_for_room())
            if not room.has_room(size):
                return Refused("disk_low", 0)
        return None

    def _made_before(self, session: SessionState, change: Fork) -> Forked | Taken | Reused:
        """Return the answer for an id that a session has: that of the same request before, if there was one."""
        ref = session.ref
        record = self._fetched(("forked", ref.no), lambda records: records.fork(ref))
        if record is None or change.named is None or record.named != change.named:
            return Taken()
        if record.fingerprint != change.fingerprint:
            return Reused()
        return Forked(session.key, record.origin, record.messages, record.forgotten, replayed=True)

    def _copy(self, made: SessionState, source: ForkSource, agent: int) -> None:
        """Have a new session begin with the rows of another one, and their branches."""
        if source.last is None:
            return
        drawn = self.numbers.rows(self._partition(made), source.rows)
        self._note(
            made,
            CopyHistory(
                made.ref, source.ref, source.last, source.rows, source.size, drawn[0], drawn.step, source.agent, agent,
                self._now,
            ),
        )  # fmt: skip
        made.end = HistoryEnd(drawn[-1], source.rows, source.length, agent)
        made.rests_since = self._now
        for each in source.branches:
            self._note(made, AddBranch(made.no, each.start, each.parent, each.upto, None, forgotten=False))
        if source.branches:
            made.branch = source.branches[-1].start
            self._note(made, ChangeCourse(made.no, made.branch, None))
