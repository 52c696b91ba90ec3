"""One thread that writes, with group commit: whatever has been queued shares one transaction and one sync.

A verb is a function that runs on this thread; it decides before it writes, so an error of Strandline's own fails that
verb alone and leaves the transaction as it was. Any other error rolls the batch back and runs its verbs one by one, so
that one bad verb fails alone. A verb whose caller is gone is executed all the same. Whether a verb failed for a reason
of its own, or nothing can be kept any more, is tried out. Knows no SQL and no journal.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

from strandline.errors import JournalError, JournalUnavailable, StrandlineError
from strandline.journal.feed import ClaimFeed
from strandline.model import Claim
from strandline.threads import no_thread

BATCH: Final = 500
"""How many verbs share a commit at most."""
TRY_S: Final = 1.0
"""How often it is tried out at most whether anything can be kept."""

LOOK_S: Final = 1.0
"""How long nothing is kept before it is looked whether it could be."""

OnCommit = Callable[[float, int], object]
"""Told, on the writer's thread, how many seconds a commit took to be durable, and how many verbs shared it."""


class Store(Protocol):
    """What a writer drives. Used on the writer's thread only."""

    made: list[Claim]
    """The claims that were made in this transaction; its rollback or its commit does away with them."""

    def begin(self) -> None:
        """Start a transaction."""
        ...

    def commit(self) -> None:
        """Make the transaction durable."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, as far as there is one, and forget whatever was concluded from it."""
        ...

    def make_room(self, error: Exception) -> None:
        """Do what can be done against the reason of a failed transaction before the next one. Raises nothing."""
        ...

    def try_out(self) -> None:
        """Make as much durable as a run needs, and undo it. Raises what hinders it. No transaction is open."""
        ...

    def look(self) -> None:
        """Raise if it is known without a try that nothing can be kept. Cheap. No transaction is open."""
        ...

    def translated(self, error: Exception) -> StrandlineError:
        """Return an error of the driver as one of ours."""
        ...


class Job:
    """One verb on its way. Its caller waits for `future`, on `loop`; None if nobody does.

    `lost` is told when a verb that nobody waits for has failed. A `new` one keeps what was not there before; it gives
    way to others where there may not be room for all.
    """

    __slots__ = ("call", "error", "future", "loop", "lost", "new", "result")

    def __init__(
        self,
        call: Callable[[], Any],
        *,
        lost: Callable[[], None] | None = None,
        new: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.call = call
        self.lost = lost
        self.new = new
        self.loop = loop
        self.future: asyncio.Future[Any] | None = None if loop is None else loop.create_future()
        self.result: Any = None
        self.error: StrandlineError | None = None


class Writer:
    """The thread, from `start` to `stop`. Claims go to `feed` once they are durable, after the answers of their batch.

    `prepare` is the first thing that runs on the thread, `clean_up` the last, whatever happened in between.
    """

    def __init__(
        self,
        prepare: Callable[[], Store],
        clean_up: Callable[[], None],
        feed: ClaimFeed,
        *,
        name: str,
        on_commit: OnCommit | None = None,
    ) -> None:
        self._prepare = prepare
        self._clean_up = clean_up
        self._feed = feed
        self._on_commit = on_commit
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._stopping = False
        self._claims: list[Claim] = []
        """Claims that are durable and not delivered."""
        self.trouble: str | None = None
        """Why nothing can be kept, as it was tried out last; None: it can, as far as is known."""
        self._doubtful = False
        """Whether something could not be kept since it was last tried out well."""
        self._tried_at = float("-inf")
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.prepared: Future[None] = Future()
        """Done when `prepare` has returned; if it raised, that, and the thread is at its end."""
        self.finished: Future[None] = Future()
        """Done when everything queued is durable and all is cleaned up."""

    def start(self) -> None:
        """Start the thread. Raises `JournalError` if none can be; all is cleaned up then."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._clean_up()
            raise JournalError(no_thread("the journal", error)) from error

    def put(self, job: Job) -> bool:
        """Queue a job; False if the writer has been stopped."""
        with self._gate:
            if self._stopping:
                return False
            self._queue.put(job)
            return True

    def stop(self) -> None:
        """Let the thread end after what is queued. Idempotent."""
        with self._gate:
            if not self._stopping:
                self._stopping = True
                self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to be gone: a moment, once `finished` is done or `prepared` has failed."""
        self._thread.join()

    # -- on the thread --------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            store = self._prepare()
        except BaseException as error:
            self._clean_up()
            self.finished.set_result(None)
            self.prepared.set_exception(error)
            return
        self.prepared.set_result(None)
        try:
            self._serve(store)
        finally:
            self._clean_up()
            self.finished.set_result(None)

    def _serve(self, store: Store) -> None:
        queue = self._queue
        while (job := self._next(store)) is not None:
            batch = [job]
            while len(batch) < BATCH and not queue.empty():
                job = queue.get()
                if job is None:
                    queue.put(None)
                    break
                batch.append(job)
            if not self._write(store, batch):
                self._write_each(store, batch)
                self._doubtful |= any(isinstance(job.error, JournalUnavailable) for job in batch)
            self._tell(batch)
            if self._doubtful and time.monotonic() >= self._tried_at + TRY_S:
                self._try_out(store)

    def _next(self, store: Store) -> Job | None:
        """Return the next job, None at the end; as long as it is doubtful whether it can be kept, that is tried out.

        While nothing is to be kept it is looked whether it could be, so that a server that nobody asks is not ready.
        """
        while True:
            due_s = self._tried_at + TRY_S - time.monotonic() if self._doubtful else LOOK_S
            try:
                return self._queue.get(timeout=max(0.0, due_s))
            except Empty:
                if not self._doubtful:
                    self._doubtful = _is_doubtful(store)
                if self._doubtful:
                    self._try_out(store)

    def _try_out(self, store: Store) -> None:
        """See whether anything can be kept: a verb may have failed by what only it needs, a damaged page."""
        try:
            store.try_out()
        except Exception as error:
            self.trouble = str(store.translated(error))
        else:
            self.trouble, self._doubtful = None, False
        self._tried_at = time.monotonic()

    def _write(self, store: Store, batch: Sequence[Job]) -> bool:
        """Run all jobs in one transaction. False if it failed: nothing of it was kept."""
        return self._run(store, batch) and self._commit(store, batch)

    def _run(self, store: Store, batch: Sequence[Job]) -> bool:
        """Run all jobs in a transaction that is not committed yet."""
        try:
            store.begin()
            for job in batch:
                try:
                    job.result = job.call()
                except StrandlineError as error:
                    job.error = error
        except Exception as error:
            _undo(store, batch, error)
            return False
        return True

    def _commit(self, store: Store, batch: Sequence[Job]) -> bool:
        """Make what was run durable, and with it the claims that were made."""
        began = time.perf_counter()
        try:
            store.commit()
        except Exception as error:
            _undo(store, batch, error)
            return False
        if self._on_commit is not None:
            self._on_commit(time.perf_counter() - began, len(batch))
        self._claims += store.made
        store.made.clear()
        return True

    def _tell(self, batch: Sequence[Job]) -> None:
        """Answer the callers, then deliver the claims."""
        _resolve(batch)
        if self._claims:
            self._feed.put_after_answers(self._claims)
            self._claims = []

    def _write_each(self, store: Store, batch: Sequence[Job]) -> None:
        """Run each job in a transaction of its own: those that end or go on first, those that are new after them.

        When the journal cannot be written to, the first of the new ones finds out for all.
        """
        refusal: JournalUnavailable | None = None
        for job in sorted(batch, key=lambda job: job.new):
            if refusal is not None:
                job.error = JournalUnavailable(str(refusal))
                continue
            if not self._write_alone(store, job) and job.new and isinstance(job.error, JournalUnavailable):
                refusal = job.error

    def _write_alone(self, store: Store, job: Job) -> bool:
        """Run a job in a transaction of its own. False if that failed."""
        job.error = None
        written = self._write(store, [job])
        if not written and job.lost is not None:
            job.lost()
        return written


def _is_doubtful(store: Store) -> bool:
    try:
        store.look()
    except Exception:
        return True
    return False


def _undo(store: Store, batch: Sequence[Job], error: Exception) -> None:
    """Roll back and leave each job as it was, with `error` as what it fails with if it is not run again."""
    store.made.clear()
    store.rollback()
    store.make_room(error)
    for job in batch:
        job.result = None
        job.error = store.translated(error)


def _resolve(batch: Sequence[Job]) -> None:
    """Tell the callers, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in batch:
        if job.loop is not None:
            by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell, jobs)
        except RuntimeError:  # that loop is closed: nobody waits there any more
            pass


def _tell(jobs: Sequence[Job]) -> None:
    for job in jobs:
        future = job.future
        if future is None or future.done():
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.result)
