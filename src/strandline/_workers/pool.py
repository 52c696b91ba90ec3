"""Start and stop a server's worker processes."""

import logging
import os
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
def worker_pool(target: str, settings: Settings, carrier: Callable[[], Carrier | None]) -> Iterator[WorkersTarget]:
    """Start workers that load `target`, yield a target that uses them, and end them on exit. Raises `TargetError`.

    A singleton agent executes one run at a time, so it gets one worker.
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
        log_server=os.getpid() if settings.servers > 1 else None,
    )
    processes: list[WorkerProcess] = []
    try:
        try:
            processes += (WorkerProcess(setup) for _ in range(settings.workers))
        except OSError as error:
            raise SetupError(f"{settings.workers} worker processes cannot be started: {error}") from error
        loaded = processes[0].loaded()
        if loaded.singleton:
            _log.warning(
                "workers = %d has no effect on one Agent for all sessions: it runs in one worker", settings.workers
            )
            for each in processes[1:]:
                each.kill()
                each.wait(1.0)
            del processes[1:]
    except BaseException:
        for each in processes:
            each.kill()
            each.wait(1.0)
        raise
    loops = WorkerLoops(processes, lambda: WorkerProcess(setup), SystemClock(), resumable=loaded.resumable)
    try:
        yield WorkersTarget(loaded, loops, carrier)
    finally:
        loops.close()
