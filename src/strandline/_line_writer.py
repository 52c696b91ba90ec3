"""Lines on their way to a descriptor that may take them slowly, or never: a bounded queue, and one thread that writes.

Whoever puts a line never waits. Lines keep their order. What has no room, or cannot be written, is dropped and counted;
the next line that has room is preceded by one that says how many are missing. Knows nothing of what is in the lines.
"""

import os
import select
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from strandline._compat.threads import no_thread
from strandline.errors import SetupError

QUEUE_BYTES: Final = 4 * 1024 * 1024
"""How much waits to be written at most: a reader that pauses for some seconds misses nothing."""

Item = bytes | threading.Event
"""A line, or whom to tell that everything before has been written."""


class LineWriter:
    """Lines for one descriptor, which stays open. `missing` returns the line that says how many were dropped.

    Raises `SetupError` if there is no thread to write them.
    """

    def __init__(self, descriptor: int, missing: Callable[[int], bytes], *, most_bytes: int = QUEUE_BYTES) -> None:
        self._descriptor = descriptor
        self._missing = missing
        self._most_bytes = most_bytes
        self._begin()
        self._unheard = 0
        """How many were dropped since it was last said."""
        self.dropped = 0
        """How many lines were dropped so far."""
        self._write_at_once = False
        self._is_torn = False
        """Whether what was written last was no whole line."""
        try:
            threading.Thread(target=self._write_all, name="strandline-log", daemon=True).start()
        except RuntimeError as error:
            raise SetupError(no_thread("the log", error)) from error
        kept = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(kept()))

    def _begin(self) -> None:
        self._lock = threading.RLock()  # (a signal handler may log while its thread does)
        self._queue: SimpleQueue[Item | None] = SimpleQueue()  # (no lock of it is ever held while a handler runs)
        self._put_bytes = 0
        self._written_bytes = 0
        self._stuck_at = -1
        """How much was written when a flush had waited in vain."""

    def put(self, line: bytes) -> None:
        """Have a line written after those before it, or drop it. Never waits, never raises."""
        if self._write_at_once:
            with suppress(OSError):
                self._write(line)
            return
        with self._lock:
            if not self._has_room():
                self._drop()
                return
            self._tell_what_is_missing()
            self._add(line)

    def flush(self, within_s: float) -> bool:
        """Return whether everything that was put so far is written, or dropped; waits so many seconds at most.

        It waits once only for a reader who has taken nothing since: an end has several parts that flush.
        """
        if self._write_at_once:
            return True
        written = threading.Event()
        with self._lock:
            if self._has_room():
                self._tell_what_is_missing()
            self._queue.put(written)
        if self._written_bytes == self._stuck_at:
            within_s = 0.0
        if written.wait(within_s):
            return True
        self._stuck_at = self._written_bytes
        return False

    def close(self) -> None:
        """Let the thread end after what is queued; nothing may be put any more."""
        self._queue.put(None)

    def _has_room(self) -> bool:
        return self._put_bytes - self._written_bytes < self._most_bytes

    def _tell_what_is_missing(self) -> None:
        if self._unheard:
            self._add(self._missing(self._unheard))
            self._unheard = 0

    def _add(self, line: bytes) -> None:
        self._put_bytes += len(line)
        self._queue.put(line)

    def _drop(self) -> None:
        self.dropped += 1
        self._unheard += 1

    def _write_all(self) -> None:
        queue = self._queue
        while (item := queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._write(item)
            except OSError:  # no room on its disk, or nobody reads any more
                with self._lock:
                    self._drop()
            self._written_bytes += len(item)

    def _write(self, line: bytes) -> None:
        """Write a line in one piece, as far as that goes, and never behind a piece of another. Raises `OSError`."""
        rest = line = b"\n" + line if self._is_torn else line
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # another process with the same open file wants that
                    self._until_writable()
        finally:
            if written := line[: len(line) - len(rest)]:
                self._is_torn = not written.endswith(b"\n")

    def _until_writable(self) -> None:
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        ready.poll()

    def leave_to_parent(self) -> None:
        """Write at once from now on, in a child that user code has forked: the thread is its parent's."""
        self._begin()
        self._write_at_once = True


def _forked(lines: LineWriter | None) -> None:
    if lines is not None:
        lines.leave_to_parent()
