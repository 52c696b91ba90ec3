"""A pool of threads for a machine that may have none left (`pids-limit`, `ulimit -u`).

Python's own queues a call, finds then that no thread can be started, and raises: its caller is told that it failed, and
a thread that comes free later does it all the same. Here nothing is ever done that its caller was told has failed.
Knows nothing of what the calls are.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Any, cast


def no_thread(whose: str, error: object) -> str:
    """Say to an operator that there is none, and what to do."""
    return (
        f"no thread can be started for {whose} ({error}). Let this process have more of them (pids-limit of the"
        " container, ulimit -u)"
    )


class Threads(ThreadPoolExecutor):
    """A pool in which a call waits for which no thread can be started, as it does for one that is busy."""

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self.refusal: str | None = None
        """Why no thread could be started when one was last wanted; None: there was one, or none was wanted."""

    @property
    def backlog(self) -> int:
        """How much waits for a thread."""
        return self._work_queue.qsize()

    @property
    def started(self) -> list[Thread]:
        """The threads that it has started; idle ones too."""
        return list(cast("set[Thread]", self._threads))

    def withdrawn(self, future: Future[Any]) -> bool:
        """Take a call back that nobody would do now, since there is no thread at all; it is never done then."""
        return self.refusal is not None and not self._threads and future.cancel()

    def start_more(self) -> None:
        """Try again to start the threads that could not be; to be called from time to time."""
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
