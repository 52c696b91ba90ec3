"""What the parent of several servers does at moments that a test from outside cannot choose."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from strandline._settings import Settings
from strandline._supervision.orders import Orders
from strandline._supervision.parent import Child
from strandline._supervision.servers import _Servers

ORDERED = """
import json, socket, sys
link = socket.socket(fileno=int(sys.argv[-1].split(":")[1]))
orders = link.makefile("rb")
orders.readline()
say = lambda **message: link.sendall(json.dumps(message).encode() + b"\\n")
"""
"""The beginning of a child."""
SERVES = 'orders.read(1); say(event="welcome", line="here"); say(event="ready", runs=0); orders.read(1)'
FAILS = "sys.exit(7)"


class Scripted(_Servers):
    """Its children are programs of the test's, one after another."""

    def __init__(self, listener: socket.socket, programs: Sequence[str], servers: int = 2) -> None:
        super().__init__("agent.py", [Settings(servers=servers)] * servers, listener, self._announced)
        self._programs = iter(programs)
        self.announced: list[str] = []

    def _announced(self, line: str) -> None:
        self.announced.append(line)
        self._terminated()

    async def _start(self, arguments: Sequence[str], orders: Orders, path: Sequence[str] | None = None) -> Child:
        self._program = ORDERED + next(self._programs)
        return await super()._start(arguments, orders, path)


def run(*programs: str, kind: type[Scripted] = Scripted) -> tuple[int, Scripted]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = kind(listener, programs)

        async def life() -> int:
            async with asyncio.timeout(60):
                return await made.life()

        return asyncio.run(life()), made


def test_all_are_announced_once_and_a_stop_ends_all() -> None:
    code, made = run(SERVES, SERVES)
    assert (code, made.announced) == (0, ["here"])


def test_the_exit_code_is_that_of_a_server_that_did_not_stop_cleanly() -> None:
    assert run(SERVES, SERVES + "; sys.exit(75)")[0] == 75


@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_while_a_server_is_being_started_ends_all(number: int) -> None:
    class Stopped(Scripted):
        started = 0

        async def _start(self, arguments: Sequence[str], orders: Orders, path: Sequence[str] | None = None) -> Child:
            self.started += 1
            if self.started == number:
                asyncio.get_running_loop().call_soon(self._terminated)  # (its process is there by then)
            return await super()._start(arguments, orders, path)

    code, made = run(SERVES, SERVES, kind=Stopped)
    assert (code, made.announced) == (0, [])


def test_one_that_cannot_start_with_the_others_ends_all_with_its_code() -> None:
    assert run(SERVES, FAILS)[0] == 7


def test_when_none_is_left_and_none_can_start_it_ends_with_the_code_of_the_start() -> None:
    class Lost(Scripted):
        def _announced(self, line: str) -> None:
            self.announced.append(line)
            for child in self._children:
                child.link.sendall(b"!")

    loses = SERVES + "; sys.exit(75)"
    code, made = run(loses, loses, FAILS, FAILS, kind=Lost)
    assert (code, made.announced) == (7, ["here"])


def test_one_that_ends_is_replaced_by_one_that_answers_at_once_only_if_none_is_ready() -> None:
    seen: list[bool] = []

    class Watched(Scripted):
        async def _start(self, arguments: Sequence[str], orders: Orders, path: Sequence[str] | None = None) -> Child:
            seen.append(orders.answers_while_starting)
            return await super()._start(arguments, orders, path)

    run(SERVES, SERVES, kind=Watched)
    assert seen == [True, False]
