"""The workers of a server, from their start to their end."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from strandline._clock import SystemClock
from strandline._model import Carrier
from strandline._settings import Settings
from strandline._workers.loops import WorkerLoops
from strandline._workers.messages import Setup
from strandline._workers.process import WorkerProcess
from strandline._workers.target import WorkersTarget
from strandline.errors import SetupError

_log = logging.getLogger("strandline.workers")


@contextmanager
def worker_pool(target: str, settings: Settings, carried: Callable[[], Carrier | None]) -> Iterator[WorkersTarget]:
    """Start workers that load `target`, and yield what they serve; they end with the `with`. Raises `TargetError`.

    One `Agent` for all sessions, which executes one run at a time, has one worker.
    """
    setup = Setup(
        target=target,
        history=settings.history,
        keys=settings.has_keys,
        executor_threads=settings.executor_threads,
        path=[str(each) for each in sys.path],
        agent_id=settings.agent_id,
        log_level=settings.log_level,
        log_format=settings.log_format,
        log_details=settings.log_details,
    )
    processes: list[WorkerProcess] = []
    try:
        try:
            processes += (WorkerProcess(setup) for _ in range(settings.workers))
        except OSError as error:
            raise SetupError(f"{settings.workers} worker processes cannot be started: {error}") from error
        loaded = processes[0].loaded()
        if loaded.singleton:
            _log.warning("workers = %d is of no use for one Agent for all sessions: it has one", settings.workers)
            for each in processes[1:]:
                each.kill()
                each.gone(1.0)
            del processes[1:]
    except BaseException:
        for each in processes:
            each.kill()
            each.gone(1.0)
        raise
    loops = WorkerLoops(processes, lambda: WorkerProcess(setup), SystemClock(), resumable=loaded.resumable)
    try:
        yield WorkersTarget(loaded, loops, carried)
    finally:
        loops.close()
