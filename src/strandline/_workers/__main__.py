"""A worker's process, started by `strandline._workers.process` in the serving one, which is at the other end.

Its main thread listens, and never runs user code; agents have a loop and threads of their own, as in a server without
workers. It lives as long as its connection: when the serving process is gone, however that ended, it is at once.
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
"""How long its last spans get to be sent; the serving process waits for it."""
_SET_PARENT_DEATH_SIGNAL: Final = 1


def main() -> None:
    """Serve one connection until its end."""
    _die_with_parent()
    # A signal to all processes of a terminal, a container or a unit is for the serving process to act on. (A handler,
    # since what is ignored would be so in the programs that tools start, too.)
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
        _say(connection, m.LoadFailed(str(error)))
        return
    uvloop.run(_serve(connection, frames, target, loops))
    idle = loops.close()
    flush(FLUSH_S)
    if not idle:
        _gone()  # a thread of user code still works; Python would wait for it


def _loaded(setup: m.Setup, connection: socket.socket) -> tuple[Target, AgentLoops]:
    """Load what is served, and say so; return it with the loop for its agents. Raises `SetupError`."""
    log_to_stderr(level=setup.log_level, form=setup.log_format, details=setup.log_details)
    target = load_target(setup.target, history=setup.history, keys=setup.keys)
    export_if_wanted(os.environ, setup.agent_id)  # (an SDK that the agent's module has set up comes first)
    _say(
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
    """Take orders until it is time to leave; `frames` has what came with the first one."""
    leaving = asyncio.Event()

    def gone() -> None:
        if not leaving.is_set():
            _gone()

    writer = Writer(connection)
    _close_in_forks(writer.fileno())
    runtime = WorkerRuntime(
        target, loops, SystemClock(), Traces().join, leave=leaving.set, gone=gone, frames=frames, write=writer.write
    )
    await asyncio.get_running_loop().create_connection(lambda: runtime.channel, sock=connection)
    beginning = asyncio.create_task(runtime.begin())
    beginning.add_done_callback(lambda _: collect_less_often())
    await leaving.wait()
    beginning.cancel()


def _setup(connection: socket.socket, frames: Frames) -> m.Setup:
    """Read the first order; what has come behind it stays in `frames`."""
    while data := connection.recv(1 << 16):
        for each in frames.feed(data):
            match orders(each):
                case [m.Setup() as setup]:
                    return setup
    return _gone()


def _say(connection: socket.socket, report: m.Report) -> None:
    with suppress(OSError):
        connection.sendall(frame(encode_messages(report)))


def _gone() -> NoReturn:
    """End at once: nothing may work on for a server that is dead, beside the one that takes its place."""
    logs.flush(FLUSH_S)
    logs.flush_printed(FLUSH_S)
    os._exit(0)


def _close_in_forks(descriptor: int) -> None:
    """Have processes that user code forks have nothing in place of a descriptor.

    Through it one that is left behind would keep the connection open, and one that goes on as an agent would report.
    """

    def part() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)

    os.register_at_fork(after_in_child=part)


def _die_with_parent() -> None:
    """Have the kernel end this process with the serving one, even while code that keeps Python from running works."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
