"""One response of events, at the border of ASGI: clients that leave at any moment, and those that read nothing."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from engine_support import key, publish_all
from strandline._engine.events import MessageAdded, Numbered, TextDelta, ToolStarted
from strandline._engine.streams import RunStream
from strandline._engine.streams.log import AT_ONCE, Bounds
from strandline._engine.streams.replay import ReplayBuffer
from strandline._engine.streams.truncation import truncate_arguments, truncate_message
from strandline._http.exchange.sse import AT_ONCE_BYTES, EventResponse, framed, wants_events
from strandline._model import Message, Outcome, RunId, RunStatus
from strandline.testing._desk import StillClock

ENDED = Outcome(status=RunStatus.SUCCEEDED, output="done")
SCOPE = {"type": "http", "method": "GET"}


class Wire:
    """A connection whose client leaves when `leave_at` messages have been sent, and reads when it is let."""

    def __init__(self, leave_at: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._leave_at = leave_at
        self._left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if len(self.sent) == self._leave_at:
            self._left.set()
        self.sent.append(message)
        await self.reads.wait()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def run_with(events: int, text: str = "x", bounds: Bounds | None = None) -> RunStream:
    run = RunStream(RunId("r"), key(), bounds=bounds or Bounds())
    for _ in range(events):
        run.publish(1.0, TextDelta(text))
    return run


def frames_of(run: RunStream) -> list[str]:
    return [framed(sent, run.run_id).decode() for sent in run.subscribe().ready()]


def response(run: RunStream, left: list[bool]) -> EventResponse:
    return EventResponse(run.subscribe(), lambda sent: framed(sent, run.run_id), left.append)


@pytest.mark.parametrize("leave_at", range(6))
def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(leave_at: int) -> None:
    async def play() -> None:
        run, left, wire = run_with(3), list[bool](), Wire(leave_at)
        sending = asyncio.create_task(response(run, left)(SCOPE, wire.receive, wire.send))
        for _ in range(5):
            await asyncio.sleep(0)
        run.publish(2.0, TextDelta("y"))
        for _ in range(5):
            await asyncio.sleep(0)
        if leave_at >= 3:  # at the end of the run or of the response: the client has everything
            run.finish(ENDED, 3.0)
        async with asyncio.timeout(5):
            await sending
        assert left == [leave_at < 3]
        assert not run.readers
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())


def test_a_server_that_cuts_a_response_leaves_nothing_behind() -> None:
    async def play() -> None:
        run, left, wire = run_with(1), list[bool](), Wire()
        sending = asyncio.create_task(response(run, left)(SCOPE, wire.receive, wire.send))
        for _ in range(5):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        await asyncio.sleep(0)
        assert (left, run.readers) == ([False], False)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())


def test_a_client_that_reads_nothing_has_at_most_one_portion_buffered() -> None:
    async def play() -> None:
        run, left, wire = run_with(100, "x" * 5000), list[bool](), Wire()
        sending = asyncio.create_task(response(run, left)(SCOPE, wire.receive, wire.send))
        for _ in range(5):
            await asyncio.sleep(0)
        wire.reads.clear()
        publish_all(run, ((1.0, TextDelta("x" * 5000)) for _ in range(1000)))
        for _ in range(20):
            await asyncio.sleep(0)
        waiting = len(wire.sent[-1]["body"])
        assert 5000 <= waiting <= AT_ONCE_BYTES
        wire.reads.set()
        run.finish(ENDED, 2.0)
        async with asyncio.timeout(5):
            await sending
        assert b"event: stream.gap" in wire.body
        assert wire.body.endswith(b"}\n\n")
        assert left == [False]

    asyncio.run(play())


def test_what_is_large_is_encoded_once_for_all_and_sent_in_pieces() -> None:
    async def play() -> None:
        run, made = run_with(0), list[int | None]()
        publish_all(run, ((1.0, TextDelta(size * "x")) for size in (10, 10 * AT_ONCE_BYTES, 20)))
        run.finish(ENDED, 2.0)
        wires = [Wire() for _ in range(3)]

        def frame(sent: Numbered) -> bytes:
            made.append(sent.number)
            return framed(sent, run.run_id)

        for wire in wires:
            shared = lambda sent: run.encode_once(sent, frame)  # noqa: E731
            await EventResponse(run.subscribe(), shared, lambda lost: None)(SCOPE, wire.receive, wire.send)
        assert all(len(message.get("body", b"")) <= AT_ONCE_BYTES for message in wires[0].sent)
        assert wires[0].body == wires[1].body == wires[2].body
        assert wires[0].body.count(b"event: ") == 4
        assert made.count(2) == 1, "what is large is made once for all"
        assert made.count(1) == made.count(3) == len(wires)

    asyncio.run(play())


def test_bytes_look_the_same_in_every_event_and_so_does_what_an_agent_has_named_like_them() -> None:
    image: Message = {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"abc"}}}]}
    marked = '{"__bytes_encoded__":true,"data":"YWJj"}'
    run = run_with(0)
    run.publish(1.0, MessageAdded(*truncate_message(image, 1000)))
    run.publish(1.0, ToolStarted("t", "n", *truncate_arguments({"given": b"abc"}, 1000)))
    run.finish(Outcome(status=RunStatus.SUCCEEDED, message=image), 1.0)
    buffer = ReplayBuffer(StillClock(), retention_s=60.0, memory=10_000)
    buffer.put(run)
    run_id, live = run.run_id, frames_of(run)
    del run  # so that it is made anew of what is kept
    kept = buffer.get(run_id)
    assert kept is not None
    assert frames_of(kept) == live
    assert [frame.count(marked) for frame in live] == [1, 1, 1]
    assert not any('"__bytes_encoded__":false' in frame for frame in live)


def test_who_has_much_to_catch_up_with_leaves_the_loop_to_others() -> None:
    async def play() -> None:
        run, left, wire = run_with(2000), list[bool](), Wire()
        run.finish(ENDED, 2.0)
        sending = asyncio.create_task(response(run, left)(SCOPE, wire.receive, wire.send))
        turns = 0
        while not sending.done():
            await asyncio.sleep(0)
            turns += 1
        assert wire.body.count(b"event: ") == 2001
        assert turns > 2000 / AT_ONCE

    asyncio.run(play())


def test_a_client_of_an_agent_that_never_pauses_yields_the_loop_to_others() -> None:
    async def play() -> None:
        run, left = run_with(1), list[bool]()

        class Fed(Wire):
            """A client for which another event is ready after each one."""

            async def send(self, message: Any) -> None:
                await super().send(message)
                if len(self.sent) < 100:
                    run.inbox.append((1.0, TextDelta("more")))

        wire = Fed()
        sending = asyncio.create_task(response(run, left)(SCOPE, wire.receive, wire.send))
        turns = 0
        while len(wire.sent) < 100:
            await asyncio.sleep(0)
            turns += 1
            assert turns < 1000
        assert turns >= 99
        run.finish(ENDED, 2.0)
        await sending

    asyncio.run(play())


def test_head_is_answered_with_headers_alone_at_once() -> None:
    async def play() -> None:
        run, left, wire = run_with(3), list[bool](), Wire()
        async with asyncio.timeout(5):
            await response(run, left)({"type": "http", "method": "HEAD"}, wire.receive, wire.send)
        assert wire.sent[0]["status"] == 200
        assert b"event:" not in wire.body
        assert left == [False]

    asyncio.run(play())


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/event-stream", True),
        ("TEXT/Event-Stream ; charset=utf-8", True),
        ("text/event-stream, application/json", True),
        ("text/event-stream;q=0.1, application/json;q=0.2", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=nan", False),
        ("text/event-stream;q=", False),
        ("*/*", False),
        ("", False),
        (",;,q=1;;", False),
    ],
)
def test_who_wants_events_says_so(accept: str, wanted: bool) -> None:
    assert wants_events(Request({"type": "http", "headers": [(b"accept", accept.encode())]})) is wanted
