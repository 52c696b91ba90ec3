"""A thread pool for machines that may run out of threads (`pids-limit`, `ulimit -u`).

Python's own pool queues a call before it starts a thread. If that fails it raises, and a thread that becomes free later
executes the call all the same. Here a call that was reported as failed is never executed.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Any, cast


def no_thread(whose: str, error: object) -> str:
    """Return the message for an operator, with what to do."""
    return (
        f"no thread can be started for {whose} ({error}). Let this process have more of them (pids-limit of the"
        " container, ulimit -u)"
    )


class Threads(ThreadPoolExecutor):
    """A pool whose calls wait while no thread can be started, as they do while all are busy."""

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self.refusal: str | None = None
        """Why no thread could be started at the last try; None if one could."""

    @property
    def backlog(self) -> int:
        """The number of calls that wait for a thread."""
        return self._work_queue.qsize()

    @property
    def started(self) -> list[Thread]:
        """The started threads, including idle ones."""
        return list(cast("set[Thread]", self._threads))

    def withdrawn(self, future: Future[Any]) -> bool:
        """Cancel a call if there is no thread at all; return whether it was cancelled."""
        return self.refusal is not None and not self._threads and future.cancel()

    def start_more(self) -> None:
        """Retry to start missing threads. Call it periodically."""
        with self._shutdown_lock:
            for _ in range(0 if self._shutdown or self.refusal is None else self.backlog):
                self._adjust_thread_count()
                if self.refusal is not None:
                    return

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            self.refusal = str(error)
        else:
            self.refusal = None
