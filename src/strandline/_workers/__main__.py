"""The program of a worker process, started by `strandline._workers.process`.

Its main thread reads orders and never runs user code; agents have their own loop and threads, as in a server without
workers. It exits when its connection is closed, however the serving process ended.
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Final, NoReturn

import uvloop

from strandline import _logs as logs
from strandline._agents.load import load_target
from strandline._agents.port import Target
from strandline._clock import SystemClock
from strandline._encoding import encode_messages
from strandline._engine.loops import AgentLoops
from strandline._garbage import collect_less_often
from strandline._logs import log_to_stderr
from strandline._telemetry.export import export_if_wanted, flush
from strandline._telemetry.traces import Traces
from strandline._workers import messages as m
from strandline._workers.channel import Frames, Writer, frame
from strandline._workers.runtime import WorkerRuntime, orders
from strandline.errors import SetupError

FLUSH_S: Final = 0.5
"""How long the export of its last spans may take; the serving process waits for it."""
_SET_PARENT_DEATH_SIGNAL: Final = 1


def main() -> None:
    """Serve one connection until its end."""
    _die_with_parent()
    # Signals to all processes of a terminal, container or unit are for the serving process. (Handlers that do nothing,
    # since programs that tools start would inherit ignored signals.)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(each, lambda *_: None)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    _close_in_forks(connection.fileno())
    frames = Frames()
    setup = _setup(connection, frames)
    try:
        target, loops = _loaded(setup, connection)
    except SetupError as error:
        _send(connection, m.LoadFailed(str(error)))
        return
    uvloop.run(_serve(connection, frames, target, loops))
    idle = loops.close()
    flush(FLUSH_S)
    if not idle:
        _exit_now()  # a thread of user code still works; Python would wait for it


def _loaded(setup: m.Setup, connection: socket.socket) -> tuple[Target, AgentLoops]:
    """Load the target and report it; return it with its agent loop. Raises `SetupError`."""
    log_to_stderr(level=setup.log_level, form=setup.log_format, details=setup.log_details, server=setup.log_server)
    target = load_target(setup.target, history=setup.history, keys=setup.keys)
    export_if_wanted(os.environ, setup.agent_id)  # (an SDK that the agent's module sets up takes precedence)
    _send(
        connection,
        m.Loaded(
            resumable=target.resumable,
            singleton=target.singleton,
            self_managed=target.self_managed,
            description=target.description,
        ),
    )
    return target, AgentLoops(
        executor_threads=setup.executor_threads, clock=SystemClock(), new_loop=uvloop.new_event_loop
    )


async def _serve(connection: socket.socket, frames: Frames, target: Target, loops: AgentLoops) -> None:
    """Execute orders until `Exit`. `frames` holds what arrived with the first order."""
    exiting = asyncio.Event()

    def closed() -> None:
        if not exiting.is_set():
            _exit_now()

    writer = Writer(connection)
    _close_in_forks(writer.fileno())
    runtime = WorkerRuntime(
        target,
        loops,
        SystemClock(),
        Traces().join,
        on_exit=exiting.set,
        on_close=closed,
        frames=frames,
        write=writer.write,
    )
    await asyncio.get_running_loop().create_connection(lambda: runtime.channel, sock=connection)
    beginning = asyncio.create_task(runtime.begin())
    beginning.add_done_callback(lambda _: collect_less_often())
    await exiting.wait()
    beginning.cancel()


def _setup(connection: socket.socket, frames: Frames) -> m.Setup:
    """Read the first order; later ones stay in `frames`."""
    while data := connection.recv(1 << 16):
        for each in frames.feed(data):
            match orders(each):
                case [m.Setup() as setup]:
                    return setup
    return _exit_now()


def _send(connection: socket.socket, report: m.Report) -> None:
    with suppress(OSError):
        connection.sendall(frame(encode_messages(report)))


def _exit_now() -> NoReturn:
    """Exit at once: nothing may work on for a dead server beside its successor."""
    logs.flush(FLUSH_S)
    logs.flush_printed(FLUSH_S)
    os._exit(0)


def _close_in_forks(descriptor: int) -> None:
    """Replace a descriptor by /dev/null in processes that user code forks.

    A forked process would keep the connection open, or send reports on it.
    """

    def replace() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)

    os.register_at_fork(after_in_child=replace)


def _die_with_parent() -> None:
    """Have the kernel kill this process with the serving one, even while native code blocks Python."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
