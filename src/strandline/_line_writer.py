"""Writes lines to a descriptor that may block: a bounded queue and one thread.

`put` never waits. Lines keep their order. Lines without room, and those that cannot be written, are dropped and
counted; the next line with room is preceded by one that says how many are missing. Knows nothing of their content.
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
"""The size of the queue: a reader that pauses for some seconds misses nothing."""

Item = bytes | threading.Event
"""A line, or an event to set when everything before it is written."""


class LineWriter:
    """Writes lines to one descriptor, which stays open. `missing` returns the line that reports dropped lines.

    Raises `SetupError` if its thread cannot be started.
    """

    def __init__(self, descriptor: int, missing: Callable[[int], bytes], *, most_bytes: int = QUEUE_BYTES) -> None:
        self._descriptor = descriptor
        self._missing = missing
        self._most_bytes = most_bytes
        self._begin()
        self._unreported = 0
        """How many lines were dropped since the last report."""
        self.dropped = 0
        """How many lines were dropped so far."""
        self._write_at_once = False
        self._is_torn = False
        """Whether the last write ended inside a line."""
        try:
            threading.Thread(target=self._write_all, name="strandline-log", daemon=True).start()
        except RuntimeError as error:
            raise SetupError(no_thread("the log", error)) from error
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(reference()))

    def _begin(self) -> None:
        self._lock = threading.RLock()  # (a signal handler may log while its thread does)
        self._queue: SimpleQueue[Item | None] = SimpleQueue()  # (no lock of it is ever held while a handler runs)
        self._put_bytes = 0
        self._written_bytes = 0
        self._stuck_at = -1
        """How many bytes were written when a flush timed out."""

    def put(self, line: bytes) -> None:
        """Queue a line, or drop it. Never waits, never raises."""
        if self._write_at_once:
            with suppress(OSError):
                self._write(line)
            return
        with self._lock:
            if not self._has_room():
                self._drop()
                return
            self._report_missing()
            self._add(line)

    def flush(self, within_s: float) -> bool:
        """Return whether everything so far is written or dropped; wait at most `within_s`.

        After a timeout it does not wait again until the reader has read something: several parts flush at exit.
        """
        if self._write_at_once:
            return True
        written = threading.Event()
        with self._lock:
            if self._has_room():
                self._report_missing()
            self._queue.put(written)
        if self._written_bytes == self._stuck_at:
            within_s = 0.0
        if written.wait(within_s):
            return True
        self._stuck_at = self._written_bytes
        return False

    def close(self) -> None:
        """End the thread after the queued lines; no more may be put."""
        self._queue.put(None)

    def _has_room(self) -> bool:
        return self._put_bytes - self._written_bytes < self._most_bytes

    def _report_missing(self) -> None:
        if self._unreported:
            self._add(self._missing(self._unreported))
            self._unreported = 0

    def _add(self, line: bytes) -> None:
        self._put_bytes += len(line)
        self._queue.put(line)

    def _drop(self) -> None:
        self.dropped += 1
        self._unreported += 1

    def _write_all(self) -> None:
        queue = self._queue
        while (item := queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._write(item)
            except OSError:  # the disk is full, or the reader is gone
                with self._lock:
                    self._drop()
            self._written_bytes += len(item)

    def _write(self, line: bytes) -> None:
        """Write a line, never behind a partial one. Raises `OSError`."""
        rest = line = b"\n" + line if self._is_torn else line
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # another process made the shared open file non-blocking
                    self._until_writable()
        finally:
            if written := line[: len(line) - len(rest)]:
                self._is_torn = not written.endswith(b"\n")

    def _until_writable(self) -> None:
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        ready.poll()

    def write_directly(self) -> None:
        """Write without a thread from now on, in a forked child: the thread is its parent's."""
        self._begin()
        self._write_at_once = True


def _forked(lines: LineWriter | None) -> None:
    if lines is not None:
        lines.write_directly()
