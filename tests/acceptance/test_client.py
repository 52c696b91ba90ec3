"""The client, over real HTTP: connections that are cut, servers that are killed, full, stopped and started again."""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.cutting import cutting
from acceptance.events import END
from acceptance.server import DEADLINE_S, TARGETS, serving, texts, until
from ports import reserved_port
from strandline import AsyncClient, Client, ClientError
from strandline.client import (
    Conflict,
    Event,
    MessageAdded,
    NoServer,
    NotFound,
    NotNow,
    NotStrandline,
    RunChanged,
    RunFinished,
    RunQueued,
    RunRestarted,
    RunStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
)

T = TypeVar("T")
STREAMS = 24
PIECES = 200
TALKING = f"""
async def agent(message, session):
    for number in range({PIECES}):
        yield f"{{message}} \\u2028{{number}}\\x85 "
"""


@pytest.fixture
def asking() -> Iterator[ThreadPoolExecutor]:
    """Threads for clients that come back by themselves: a server that ends is not to wait until they have given up."""
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def whole(label: str) -> str:
    return "".join(f"{label} \u2028{number}\x85 " for number in range(PIECES))


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def run_of(client: AsyncClient, label: str) -> list[Event]:
    async with aclosing(client.run(label, label)) as events:
        return [event async for event in events]


# -- connections that are cut -------------------------------------------------------------------------


def test_streams_that_are_cut_in_the_middle_are_the_same_to_the_byte(tmp_path: Path) -> None:
    """Each connection is cut once to three times, after other numbers of bytes; a few before the first one."""
    (tmp_path / "agent.py").write_text(TALKING)
    chance = random.Random(6)
    early, later = [0, 40, 300], [chance.randrange(1, 12_000) for _ in range(3 * STREAMS)]
    sizes = itertools.chain(early, later, itertools.repeat(None))
    lock = threading.Lock()

    def after() -> int | None:
        with lock:
            return next(sizes)

    async def streamed(url: str) -> list[list[Event]]:
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(run_of(client, f"s{number}") for number in range(STREAMS)))

    with serving("agent.py", folder=tmp_path) as server, cutting(server.url, after) as (url, proxy):
        found = asyncio.run(streamed(url))
        assert proxy.cuts >= STREAMS
        for number, events in enumerate(found):
            label = f"s{number}"
            assert said(events) == whole(label)
            numbers = [event.id for event in events if event.id is not None]
            assert numbers == [*range(1, len(numbers)), int(END)], "no gap and no repeat"
            assert isinstance(events[-1], RunFinished)
            assert texts(server.history(label), "user") == [label], "it was accepted once"


def test_the_blocking_client_comes_back_too(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(TALKING)
    sizes = itertools.chain([100, 2_000, 50, 5_000], itertools.repeat(None))
    pauses: list[str] = []
    with (
        serving("agent.py", folder=tmp_path) as server,
        cutting(server.url, lambda: next(sizes)) as (url, proxy),
        Client(url, on_pause=lambda error, _: pauses.append(error.code)) as client,
    ):
        assert said(list(client.run("one"))) == whole("one")
        assert proxy.cuts == len(pauses) == 4
        sizes = itertools.chain([30], itertools.repeat(None))
        assert client.chat("two").output == whole("two"), "a cut answer is requested again"
        assert texts(server.history(), "user") == ["one", "two"]


def test_what_may_be_said_twice_is_sent_again_when_its_answer_is_cut_off(tmp_path: Path) -> None:
    """Pauses, moves and options of a session; what would be done twice is sent once."""
    (tmp_path / "agent.py").write_text(TALKING)
    sizes: Iterator[int | None] = itertools.repeat(None)
    pauses: list[str] = []
    with (
        serving("agent.py", folder=tmp_path) as server,
        cutting(server.url, lambda: next(sizes)) as (url, proxy),
    ):
        server.client.post("/v1/sessions/s/runs", json={"input": "x"}).raise_for_status()
        server.quiet()

        def cut(do: Callable[[Client], T]) -> T:
            """Do something in a client of its own, whose first answer is cut off."""
            nonlocal sizes
            sizes = itertools.chain([30], itertools.repeat(None))
            with Client(url, on_pause=lambda error, _: pauses.append(error.code)) as client:
                return do(client)

        assert cut(lambda client: client.pause("s")).paused
        waiting = [server.client.post("/v1/sessions/s/runs", json={"input": each}).json() for each in "ab"]
        assert cut(lambda client: client.move(waiting[1]["run_id"])).position == 1
        assert cut(lambda client: client.move(waiting[1]["run_id"], 5)).position == 2
        assert cut(lambda client: client.set_options("s", priority=2)).options == {"priority": 2}
        assert cut(lambda client: client.set_options("s", clear=True)).options == {}
        assert not cut(lambda client: client.resume("s")).paused
        assert proxy.cuts == len(pauses) == 6
        server.quiet()
        with pytest.raises(ClientError):
            cut(lambda client: client.cancel_session("s"))
        assert proxy.cuts == 7
        assert len(pauses) == 6


# -- servers that go ----------------------------------------------------------------------------------


def test_a_server_that_is_killed_in_the_middle_of_a_stream_is_survived(
    at: Checkpoints, asking: ThreadPoolExecutor, tmp_path: Path
) -> None:
    at.hold("one model 1", "two model 0")
    with serving(
        TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=reserved_port()
    ) as server, Client(server.url, patience_s=DEADLINE_S) as client:  # fmt: skip
        first = client.run("one a", "s")
        before = list(itertools.takewhile(lambda event: not isinstance(event, ToolFinished), first))
        assert [type(event) for event in before[:2]] == [RunStarted, MessageAdded]
        second = asking.submit(client.chat, "two", "s")
        server.line_up_behind("three", "s")
        at.reached("one model 1")
        server.wait_until_stored()
        server.kill()
        server.start()
        at.release()
        rest = list(first)
        again = next(event for event in rest if isinstance(event, RunRestarted))
        assert again.attempt == 2
        assert [list(message["content"][0]) for message in again.messages][:1] == [["text"]]
        numbers = [event.id for event in [*before, *rest] if event.id is not None]
        assert numbers == sorted(set(numbers))
        end = rest[-1]
        assert isinstance(end, RunFinished)
        assert end.output == "one: did a"
        assert second.result(DEADLINE_S).output == "two"
        assert at.steps.count("one a") == 1, "no tool is started twice"


def test_a_run_that_waits_while_the_server_restarts_is_answered(
    at: Checkpoints, asking: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """SIGTERM: the stream ends without an end of the run, and a chat is answered with 202."""
    at.hold("one model 0")
    reasons: list[str] = []
    with serving(
        TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=reserved_port()
    ) as server, Client(
        server.url, patience_s=DEADLINE_S, on_pause=lambda error, _: reasons.append(error.code)
    ) as client:  # fmt: skip
        server.line_up("one", session_id="s")
        at.reached("one model 0")
        streamed = client.run("two", "s")
        queued = next(streamed)
        assert isinstance(queued, RunQueued)
        assert queued.position == 1
        pending = asking.submit(client.chat, "three", "s")
        server.line_up_behind("four", "s")
        server.terminate()
        until(lambda: server.client.get("/readyz").status_code == 503, "it stops")  # else two might still begin
        at.release()
        assert server.ended() == 0
        server.start()
        rest = list(streamed)
        assert rest[0].id is not None
        assert queued.id is not None
        assert rest[0].id > queued.id
        assert pending.result(DEADLINE_S).output == "three"
        assert isinstance(rest[-1], RunFinished)
        assert rest[-1].output == "two"
        assert "stream_ended" in reasons


# -- refusals -----------------------------------------------------------------------------------------


def test_a_full_queue_is_waited_for_as_long_as_it_says(
    at: Checkpoints, asking: ThreadPoolExecutor, tmp_path: Path
) -> None:
    paused = threading.Event()
    waits: list[tuple[str, float]] = []

    def on_pause(error: ClientError, seconds: float) -> None:
        waits.append((error.code, seconds))
        paused.set()

    flags = ["--max-queued-per-session", "0"]
    with serving(TARGETS / "agent.py", *flags, folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        server.line_up("one")
        with Client(server.url, on_pause=on_pause) as client, Client(server.url, patience_s=0.5) as hasty:
            with pytest.raises(NotNow) as refused:
                hasty.chat("no")
            assert (refused.value.code, refused.value.status, refused.value.retry_after_s) == ("queue_full", 429, 1.0)
            pending = asking.submit(client.chat, "two")
            assert paused.wait(DEADLINE_S)
            at.release()
            assert pending.result(DEADLINE_S).output == "two"
        assert set(waits) == {("queue_full", 1.0)}
        assert texts(server.history(), "user") == ["one", "two"]


def test_a_key_of_ones_own_is_the_same_run(at: Checkpoints, tmp_path: Path) -> None:
    with (
        serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server,
        Client(server.url) as client,
    ):
        first = client.chat("one", idempotency_key="mine")
        assert client.chat("one", idempotency_key="mine").run_id == first.run_id
        replayed = list(client.run("one", idempotency_key="mine"))
        assert {event.run_id for event in replayed} == {first.run_id}
        assert at.steps.count("one model 0") == 1
        with pytest.raises(ClientError) as refused:
            client.chat("another", idempotency_key="mine")
        assert (refused.value.code, refused.value.status) == ("key_reused", 422)


# -- everything that it can do ------------------------------------------------------------------------


def test_a_client_chats_follows_answers_cancels_and_reads(at: Checkpoints, tmp_path: Path) -> None:
    with (
        serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server,
        Client(f"{server.url}/", key="a-key-is-sent-and-nobody-asks-for-it-here") as client,
    ):
        run = client.chat("one @a", "desk", priority=1, metadata={"from": "a test"})
        assert (run.status, run.metadata, run.ok) == ("needs_input", {"from": "a test"}, False)
        (request,) = run.input_requests
        assert (request.name, request.reason) == ("@a", "may I, one?")
        going_on = client.answer(run.run_id, {request.id: "yes"})
        events = list(client.events(going_on.run_id))
        assert [event.name for event in events if isinstance(event, ToolStarted)] == ["work"]
        assert client.wait(going_on.run_id).output == "one: did @a (yes)"
        with pytest.raises(Conflict) as answered:
            client.answer(run.run_id, {request.id: "no"})
        assert answered.value.code == "already_answered"
        assert texts(client.history("desk"), "user") == ["one @a"]
        assert len(client.history("desk", 1)) == 1
        at.hold("two ?a")
        watched = client.run("two ?a", "desk")
        next(event for event in watched if isinstance(event, ToolStarted))
        run_id = client.ask("GET", "/v1/sessions/desk")["running"]
        waits = client.ask("POST", "/v1/sessions/desk/runs", {"input": "three"})["run_id"]
        seen = client.etag(waits)
        assert seen is not None
        edited = client.edit(waits, "four", metadata={"k": 1}, priority=2, etag=seen)
        assert (edited.metadata, client.etag(waits) != seen, client.etag(run_id)) == ({"k": 1}, True, None)
        for refused, code in ((waits, "changed_meanwhile"), (run_id, "too_late")):
            with pytest.raises(Conflict) as conflict:
                client.edit(refused, "five", etag=seen)
            assert conflict.value.code == code
        assert client.cancel(waits).status == "cancelled"
        assert [each.changed for each in client.events(waits) if isinstance(each, RunChanged)] == [
            ["input", "metadata", "priority"]
        ]
        assert client.cancel(run_id).cancel_requested
        at.release()
        end = list(watched)[-1]
        assert isinstance(end, RunFinished)
        assert (end.status, end.run_id, end.ok) == ("cancelled", run_id, False)
        assert client.cancel(run_id).status == "cancelled", "a cancel may be repeated"
        with pytest.raises(Conflict) as ended:
            client.cancel(going_on.run_id)
        assert ended.value.code == "already_ended"
        with pytest.raises(NotFound):
            client.wait("run_none")
        with pytest.raises(NotFound), Client(f"{server.url}/elsewhere") as lost:
            lost.chat("x")


def test_an_address_is_no_server(tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{reserved_port()}") as client, pytest.raises(NoServer) as nobody:
        client.chat("x")
    assert not nobody.value.reached
    with pytest.raises(ClientError, match="not a server address"):
        Client("http://local\nhost")
    assert not issubclass(NotStrandline, NoServer)
