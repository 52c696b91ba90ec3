"""What the parent of a reloading server does at moments that a test from outside cannot choose."""

import asyncio
import socket
import sys
from pathlib import Path

from strandline._reload.parent import Plan, _Parent
from strandline._settings import Settings
from strandline._supervision.parent import Child


def test_stopped_while_dropping_a_child_it_starts_no_other(tmp_path: Path) -> None:
    """A file is saved a second time, and Ctrl-C comes while the first child is ended: the socket is closed by then."""
    said: list[str] = []

    async def life() -> None:
        ours, theirs = socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as listener, ours, theirs:
            parent = _Parent(Plan([], tmp_path, [], Settings()), listener, said.append)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
            )
            parent._next = Child(process, ours, 0.0)
            parent._changed = {tmp_path / "agent.py"}
            asyncio.get_running_loop().call_soon(parent._stop_requested)
            await parent._reload()
            assert process.returncode is not None
            assert parent._next is None

    asyncio.run(life())
    assert said == ["Stopping"]
