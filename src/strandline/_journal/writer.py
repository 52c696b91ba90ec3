"""The writer thread: one piece of work after another, each in its own transaction with one sync. After a failure it
probes whether only that work failed or nothing can be stored. Knows no SQL and no journal.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

from strandline._compat.threads import no_thread
from strandline._journal.changes import Change
from strandline._journal.commits import Work, WriteResult
from strandline._journal.records import Records
from strandline._model import Principal
from strandline.errors import JournalError, JournalUnavailable, StrandlineError

PROBE_S: Final = 1.0
"""The least time between two probes."""

CHECK_S: Final = 1.0
"""How long the writer is idle before it checks whether it could write."""

OnCommit = Callable[[float, int], object]
"""Called on the writer's thread after a commit, with its duration in seconds and the number of operations in it."""


class Transactions(Protocol):
    """What a writer drives, on its own thread only."""

    @property
    def records(self) -> Records:
        """What is stored."""
        ...

    def begin(self) -> None:
        """Start a transaction."""
        ...

    def write(self, changes: Iterable[Change]) -> None:
        """Write rows in their order."""
        ...

    def commit(self) -> None:
        """Make the transaction durable."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, if there is one. Raises nothing."""
        ...

    def make_room(self, error: Exception) -> None:
        """Mitigate the reason of a failed transaction before the next one. Raises nothing."""
        ...

    def probe(self) -> None:
        """Make as much durable as a run needs, then undo it. Raises if that fails. No transaction is open."""
        ...

    def check(self) -> None:
        """Raise if nothing can be stored, as far as is known without a probe. Cheap. No transaction is open."""
        ...

    def translated(self, error: Exception) -> StrandlineError:
        """Return an error of the driver as one of ours."""
        ...


def perform(transactions: Transactions, work: Work, on_commit: OnCommit | None = None) -> WriteResult:
    """Write rows, then read. Raises nothing."""
    stored = WriteResult()
    if work.changes:
        try:
            transactions.begin()
            transactions.write(work.changes)
            stored.bytes_of = _bytes_of(transactions.records, work.principals)
            began = time.perf_counter()
            transactions.commit()
        except Exception as error:
            return WriteResult(error=undone(transactions, error))
        if on_commit is not None:
            on_commit(time.perf_counter() - began, work.operations)
    stored.found = [_read(transactions, read) for read in work.reads]
    return stored


def _bytes_of(records: Records, principals: Iterable[Principal]) -> dict[Principal, int]:
    return {principal: records.stored_bytes(principal) for principal in principals}


def undone(transactions: Transactions, error: Exception) -> StrandlineError:
    """Undo a failed transaction; return why it failed."""
    transactions.rollback()
    transactions.make_room(error)
    return transactions.translated(error)


def _read(transactions: Transactions, read: Callable[[Records], Any]) -> Any:
    """Return what is read, or the error. What a file that was taken away has, or lacks, does not count."""
    found: Any
    try:
        transactions.check()
        found = read(transactions.records)
    except Exception as error:
        found = transactions.translated(error)
    if isinstance(found, StrandlineError):
        try:
            transactions.check()
        except Exception as error:
            return transactions.translated(error)
    return found


Job = Callable[[Transactions], StrandlineError | None]
"""Work for the thread. Raises nothing; returns why nothing was written, None on success."""


class Writer:
    """The thread, from `start` to `stop`. Implements `commits.Storage`. `prepare` runs first on the thread, `clean_up`
    last, whatever happens in between.
    """

    def __init__(
        self,
        prepare: Callable[[], Transactions],
        clean_up: Callable[[], None],
        *,
        name: str,
        on_commit: OnCommit | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prepare = prepare
        self._clean_up = clean_up
        self._on_commit = on_commit
        self._monotonic = monotonic
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._stopping = False
        self.trouble: str | None = None
        """Why nothing can be stored, by the last probe; None: it can, as far as is known."""
        self._doubtful = False
        """Whether something could not be stored since the last successful probe."""
        self._probed_at = float("-inf")
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.prepared: Future[None] = Future()
        """Done when `prepare` has returned; has its exception if it raised, and the thread ends."""
        self.finished: Future[None] = Future()
        """Done when everything queued is durable and cleaned up."""

    def start(self) -> None:
        """Start the thread. Raises `JournalError`, after cleaning up, if no thread can be started."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._clean_up()
            raise JournalError(no_thread("the journal", error)) from error

    def put(self, work: Work, done: Callable[[WriteResult], None]) -> bool:
        """Queue work; False if the writer has been stopped. `done` is called on the thread."""

        def job(transactions: Transactions) -> StrandlineError | None:
            stored = perform(transactions, work, self._on_commit)
            done(stored)
            return stored.error

        return self._put(job)

    def transact(self, call: Callable[[], Any], done: Callable[[Any], None]) -> bool:
        """Queue a call that writes its own rows; False if the writer has been stopped. `done` is called on the thread,
        with the call's result or a `StrandlineError`.
        """

        def job(transactions: Transactions) -> StrandlineError | None:
            try:
                transactions.begin()
                answer = call()
                transactions.commit()
            except Exception as failure:
                error = undone(transactions, failure)
                done(error)
                return error
            done(answer)
            return None

        return self._put(job)

    def call(self, call: Callable[[], Any], done: Callable[[Any], None]) -> bool:
        """Queue a call that makes its own transactions, if any; else like `transact`."""

        def job(transactions: Transactions) -> StrandlineError | None:
            try:
                answer = call()
            except Exception as failure:
                error = transactions.translated(failure)
                done(error)
                return error
            done(answer)
            return None

        return self._put(job)

    def _put(self, job: Job) -> bool:
        with self._gate:
            if self._stopping:
                return False
            self._queue.put(job)
            return True

    def stop(self) -> None:
        """End the thread after the queued work. Idempotent."""
        with self._gate:
            if not self._stopping:
                self._stopping = True
                self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to end: a moment, once `finished` is done or `prepared` has failed."""
        self._thread.join()

    # -- on the thread --------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            transactions = self._prepare()
        except BaseException as error:
            self._clean_up()
            self.finished.set_result(None)
            self.prepared.set_exception(error)
            return
        self.prepared.set_result(None)
        try:
            while True:
                try:
                    job = self._queue.get(timeout=self._patience_s())
                except Empty:
                    self._idle(transactions)
                    continue
                if job is None:
                    return
                self._do(transactions, job)
        finally:
            self._clean_up()
            self.finished.set_result(None)

    def _patience_s(self) -> float:
        """Return after how long without work to look whether anything can be stored."""
        due_s = self._probed_at + PROBE_S - self._monotonic() if self._doubtful else CHECK_S
        return max(0.0, due_s)

    def _do(self, transactions: Transactions, job: Job) -> None:
        """Do a piece of work. If it was in vain, probe whether anything can be stored."""
        self._doubtful |= isinstance(job(transactions), JournalUnavailable)
        if self._doubtful and self._monotonic() >= self._probed_at + PROBE_S:
            self._probe(transactions)

    def _idle(self, transactions: Transactions) -> None:
        """Check whether anything could be stored, so that a server without requests notices that it is not ready; probe
        while that is doubtful."""
        if not self._doubtful:
            self._doubtful = _is_doubtful(transactions)
        if self._doubtful:
            self._probe(transactions)

    def _probe(self, transactions: Transactions) -> None:
        """Probe whether anything can be stored: work may have failed on something only it needs, like a damaged
        page."""
        try:
            transactions.probe()
        except Exception as error:
            self.trouble = str(transactions.translated(error))
        else:
            self.trouble, self._doubtful = None, False
        self._probed_at = self._monotonic()


def _is_doubtful(transactions: Transactions) -> bool:
    try:
        transactions.check()
    except Exception:
        return True
    return False
