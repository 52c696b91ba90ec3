"""Sessions that begin with the history of another one. Belongs to the serving loop."""

import asyncio
import errno
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

from msgspec import Struct, field
from msgspec.structs import replace

from strandline._encoding import encode_messages
from strandline._engine.admission.refusals import unreachable
from strandline._engine.files import Files
from strandline._engine.maintenance import Readiness
from strandline._engine.observers import Projection
from strandline._engine.options import Options
from strandline._engine.ownership import Ownership
from strandline._engine.requests import is_storable
from strandline._engine.shielded import to_the_end
from strandline._folder_copy import copy_folder, remove_folder
from strandline._journal.port import (
    ChangeAnswer,
    Changed,
    FilesWanted,
    Fork,
    Forked,
    Journal,
    Refused,
    Reused,
    Taken,
    Unreachable,
)
from strandline._model import RunId, SessionId, SessionKey, session_id
from strandline.errors import (
    DiskLow,
    Invalid,
    InvariantBroken,
    KeyReused,
    NotFound,
    SessionExists,
    StorageFull,
    StrandlineError,
)

MADE: Final = "fork_"
"""What ids begin with that were not given."""


MOST_MESSAGES: Final = 1 << 53


class ForkRequest(Struct, frozen=True, kw_only=True):
    """A request for a session that begins with the history of session `source`.

    `after` is the run after which the copy ends, or the index of a message of it; None: where history ends. The same
    `token` is the same request, with the same `fingerprint`; without an id `to`, one is derived from it.
    `copies_workspace`: the new session begins with a copy of the source's workspace, too.
    """

    source: SessionKey
    to: str | None = None
    after: str | int | None = None
    copies_workspace: bool = False
    token: str
    fingerprint: bytes = b""

    @property
    def key(self) -> SessionKey:
        """The new session."""
        return SessionKey(self.source.principal, self._id())

    def _id(self) -> SessionId:
        if self.to is not None:
            return session_id(self.to)
        given = "\0".join((*self.source, self.token))
        return SessionId(MADE + hashlib.sha256(given.encode()).hexdigest()[:32])


def fork_request(
    source: SessionKey,
    to: str | None,
    after: str | int | None,
    workspace: str,
    idempotency_key: str | None,
    new_id: Callable[[SessionKey], str],
) -> ForkRequest:
    """Return a program's request, equal ones with equal fingerprints. Raises `Invalid`."""
    is_index = type(after) is int and 0 <= after < MOST_MESSAGES
    if not (after is None or is_index or is_storable(after)):
        raise Invalid(f"after is {after!a}; it must be the id of a run, the index of a message, or None")
    if idempotency_key is not None and not is_storable(idempotency_key):
        raise Invalid(f"idempotency_key is {idempotency_key!a}; it must be text of whole characters")
    if to is not None and not isinstance(to, str):
        raise Invalid(f"session_id is {to!r}; it must be the id of a session, or None")
    if workspace not in ("empty", "copy"):
        raise Invalid(f"workspace is {workspace!r}; it must be 'empty' or 'copy'")
    copies_workspace = workspace == "copy"
    token = new_id(source) if idempotency_key is None else f"key {idempotency_key}"
    encoded = encode_messages([source.session_id, to, after, *(["copy"] if copies_workspace else [])])
    return ForkRequest(
        source=source,
        to=to,
        after=after,
        copies_workspace=copies_workspace,
        token=token,
        fingerprint=hashlib.sha256(encoded).digest(),
    )


class Forks(Struct, eq=False):
    """Makes sessions from others."""

    _journal: Journal
    _readiness: Readiness
    _ownership: Ownership
    _projection: Projection
    _options: Options
    _storage_full: Callable[[SessionKey, str], StorageFull]
    _files: Files
    _workspace: Callable[[SessionKey], str]
    _under_way: set[asyncio.Task[Any]] = field(default_factory=set)
    _copying: WeakValueDictionary[SessionKey, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def fork(self, request: ForkRequest) -> Forked:
        """Make a session; it is durable on return. The same request again gets the same answer, also after a restart.

        Raises `NotFound` for an unknown session or place, `SessionExists`, `CannotGoBack` if nothing can end there,
        `KeyReused`, `Invalid` if agents keep their history themselves or the workspace cannot be copied, `StorageFull`,
        `DiskLow`, `Draining`. Raises `NotOwner` if the new session is another server's: the other one may be anybody's.
        """
        key = request.key
        self._ownership.check_known(("fork",))
        self._ownership.check(key)
        if self._options.self_managed:
            raise Invalid("no session can be forked: these agents keep their history themselves")
        if request.copies_workspace and self._ownership.is_shared:
            raise Invalid(
                "no workspace can be copied: with PostgreSQL a session's may be on another server's machine; leave"
                " `workspace` out, and the new session begins with an empty one"
            )
        self._readiness.admit()
        made = self._with_workspace(request) if request.copies_workspace else self._made(request)
        answer = await to_the_end(made, self._under_way)
        self._projection.changed(key)
        return answer

    async def _with_workspace(self, request: ForkRequest) -> Forked:
        """Make a session and its workspace. The folder is copied first, so that what fails makes no session; it gets
        its name after: who is killed in between has no answer, sends the request again, and it is copied then."""
        key = request.key
        source, to = Path(self._workspace(request.source)), Path(self._workspace(key))
        copied = Path(self._workspace(SessionKey(key.principal, SessionId(f"{key.session_id}\0copied"))))
        async with self._copying.setdefault(key, asyncio.Lock()):
            try:
                is_there = await asyncio.to_thread(_has_files, to)
                if not is_there:
                    await asyncio.to_thread(copy_folder, source, copied)
                made = await self._made(request)
                is_there = is_there or not await asyncio.to_thread(_renamed, copied, to)
            except OSError as error:
                raise self._not_copied(error) from error
            finally:
                with suppress(OSError):
                    await asyncio.to_thread(remove_folder, copied)
        return replace(made, workspace="kept" if is_there and not made.replayed else "copied")

    def _not_copied(self, error: OSError) -> StrandlineError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskLow(
                "there is no room for a copy of the workspace; make room, or leave `workspace` out",
                retry_after_s=self._options.retry_after_s,
            )
        return Invalid(
            f"the workspace cannot be copied: {error.strerror}; leave `workspace` out, and the new session begins with"
            " an empty one"
        )

    async def _made(self, request: ForkRequest) -> Forked:
        key, after = request.key, request.after
        change = Fork(
            key,
            request.source.session_id,
            after if after is None or isinstance(after, int) else RunId(after),
            request.token,
            request.fingerprint,
            self._options.max_stored_bytes_per_principal,
        )
        answer = await self._with_files(request.source, change)
        if not isinstance(answer, Forked):
            raise self._error(request, answer)
        return answer

    async def _with_files(self, source: SessionKey, change: Fork) -> ChangeAnswer:
        """Make a session, with the files that its history may name."""
        answer = await self._journal.change(change)
        while isinstance(answer, FilesWanted):  # (more than once, if a run names another one meanwhile)
            change = replace(change, files=change.files.union(answer.file_ids))
            async with self._files.shared(source, change.key, sorted(change.files)):
                answer = await self._journal.change(change)
        return answer

    def _error(self, request: ForkRequest, answer: ChangeAnswer) -> StrandlineError:
        source = request.source.session_id
        match answer:
            case Changed():
                return NotFound(f"there is no session {source}")
            case Taken():
                return SessionExists(f"there is a session {request.key.session_id} already: choose another id")
            case Reused():
                return KeyReused(f"session {request.key.session_id} was forked with this idempotency key otherwise")
            case Unreachable("unknown") if isinstance(request.after, int):
                return NotFound(f"there is no message {request.after} in session {source}")
            case Unreachable() as cannot:
                named = f"with message {request.after}" if isinstance(request.after, int) else request.after or ""
                return unreachable(cannot, named or "that asks", source)
            case Refused("disk_low"):
                return DiskLow(
                    "the server's disk is nearly full, and the rest is reserved for accepted runs (setting"
                    " disk_reserve_bytes); no session can be copied until there is more",
                    retry_after_s=self._options.retry_after_s,
                )
            case Refused():
                return self._storage_full(request.key, "this copy")
            case _:
                raise InvariantBroken(f"the journal answered a fork with {answer}")


def _has_files(folder: Path) -> bool:
    """Return whether a folder is there, and not empty."""
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False


def _renamed(folder: Path, to: Path) -> bool:
    """Give a folder its name, unless one of that name has got files."""
    try:
        folder.rename(to)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
