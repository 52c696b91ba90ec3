"""A client's request that may have to be answered more than once."""

import asyncio
from typing import Any

import pytest

from strandline._http.forwarding.client_request import ClientRequest
from strandline.testing._virtual import VirtualClock, run_virtual

SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "raw_path": b"/", "query_string": b"", "headers": []}


async def nowhere(_: Any) -> None:
    raise AssertionError


@pytest.mark.parametrize("disconnects", ["before", "in the same moment", "after"])
def test_a_client_that_disconnects_acts_on_nothing_that_has_been_answered(disconnects: str) -> None:
    """What acts is the connection to another server, which has the next request of another client by then."""

    async def scene(_: VirtualClock) -> None:
        left = asyncio.Event()
        acted: list[str] = []

        async def receive() -> Any:
            await left.wait()
            return {"type": "http.disconnect"}

        request = ClientRequest(SCOPE, receive, nowhere)
        request.hold_nothing()
        end = request.on_disconnect(lambda: acted.append("acted"))
        if disconnects == "after":
            end()
        left.set()
        while not request.is_left:
            await asyncio.sleep(0)
        if disconnects == "in the same moment":  # (the callback is about to be called)
            end()
        await asyncio.sleep(1.0)
        assert acted == (["acted"] if disconnects == "before" else [])

    run_virtual(scene)
