"""The change feed of several servers: one stream of the events of all, whichever server a client is connected to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest

from cluster_support import DEADLINE_S, Served, Servers, cut_connections, partition, run, servers, until
from strandline._access.keyring import new_key
from strandline._http.forwarding.feed import MOST_SERVERS, _MergedResponse, last_numbers
from strandline._journal.cluster import Peer
from strandline._model import ANONYMOUS
from strandline.errors import Invalid


class Feed:
    """A client of the feed."""

    def __init__(self, server: Served, last: str | None = None, query: str = "", body: bytes | None = None) -> None:
        self._body = body
        self._url = f"{server.url}/v1/events{query}"
        self._headers = {} if last is None else {"Last-Event-ID": last}
        self.seen: list[tuple[str, str, str]] = []
        """The session, type and id of each event."""
        self.last = last
        self.began = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Feed":
        self._task = asyncio.create_task(self._read())
        await asyncio.wait_for(self.began.wait(), 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=20) as client,
            client.stream("GET", self._url, headers=self._headers, content=self._body) as answer,
        ):
            assert answer.status_code == 200
            assert not [each for each in answer.headers if each.startswith("strandline-")]
            rest = ""
            async for text in answer.aiter_text():
                self.began.set()
                *blocks, rest = (rest + text).split("\n\n")
                for block in blocks:
                    self._note(block)

    def _note(self, block: str) -> None:
        found: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            found[name] = value
        if "event" in found:
            data: dict[str, Any] = httpx.Response(200, content=found["data"]).json()
            self.last = found.get("id", self.last)
            self.seen.append((data.get("session_id", ""), found["event"], found.get("id", "")))

    async def has(self, session: str, kind: str = "run.finished") -> None:
        await until(lambda: any(each[:2] == (session, kind) for each in self.seen), f"{kind} of {session}")


async def said(server: Served, session: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        answer = await client.post(f"{server.url}/chat", json={"session_id": session, "message": "hello"})
        assert answer.status_code == 200


async def two(found: Servers) -> tuple[Served, Served]:
    """Have two servers: the first one owns session a, the second one session b."""
    first, second = await found.start(), await found.start()
    found.town.give(first, partition("a"))
    found.town.give(second, partition("b"))
    return first, second


def test_a_feed_has_the_events_of_all_servers_and_can_be_resumed_at_another_one() -> None:
    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            async with Feed(first) as feed:
                for session in "ab":
                    await said(second, session)
                    await feed.has(session)
                last = feed.last
            for session in "ba":
                await said(first, session)
            async with Feed(second, last) as feed:
                for session in "ab":
                    await feed.has(session)

                kinds = [each[:2] for each in feed.seen]
                assert [kinds.count((session, "run.finished")) for session in "ab"] == [1, 1]
                assert ("", "stream.gap") not in kinds
                assert len({each[2] for each in feed.seen}) == len(feed.seen)

    run(scene)


def test_a_body_is_ignored() -> None:
    """Some clients send one with every request."""

    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            async with Feed(first, body=b"{}") as feed:
                for session in "ab":
                    await said(second, session)
                    await feed.has(session)

    run(scene)


def test_filters_hold_for_all_servers() -> None:
    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            async with Feed(first, query="?session_id=b&type=run.finished") as feed:
                for session in "ab":
                    await said(second, session)
                await feed.has("b")
                assert [each[:2] for each in feed.seen] == [("b", "run.finished")]

    run(scene)


def test_a_server_that_joins_is_followed_and_one_that_is_lost_leaves_a_gap() -> None:
    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            async with Feed(first) as feed:
                await said(second, "b")
                await feed.has("b")
                await second.kill()
                third = await found.take_over(second)
                await feed.has("", "stream.gap")
                seen = len(feed.seen)
                await said(third, "b")
                await until(lambda: ("b", "run.finished") in [each[:2] for each in feed.seen[seen:]], "its events")
                last = feed.last

            async with Feed(third, last) as feed:
                await said(first, "a")
                await feed.has("a")
                assert ("", "stream.gap") not in [each[:2] for each in feed.seen]

    run(scene)


def test_a_server_whose_feed_ended_once_and_that_is_lost_later_leaves_a_gap() -> None:
    """Its feed may end while it lives: it drops what nobody has read for long. Then it is followed again."""

    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            async with Feed(first) as feed:
                await said(second, "b")
                await feed.has("b")
                changes = second.service._streams._changes
                log = changes._logs.pop(ANONYMOUS)
                changes._last = log.last
                log.end()
                await until(lambda: changes.subscribers, "it is followed again")
                assert ("", "stream.gap") not in [each[:2] for each in feed.seen]
                await second.kill()
                await found.take_over(second)
                await feed.has("", "stream.gap")

    run(scene)


def test_a_client_that_comes_back_after_a_server_was_lost_gets_a_gap() -> None:
    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            async with Feed(first) as feed:
                await said(second, "b")
                await feed.has("b")
                last = feed.last
            await second.kill()
            await found.take_over(second)
            async with Feed(first, last) as feed:
                await feed.has("", "stream.gap")
                assert len(feed.seen) == 1

    run(scene)


def test_a_feed_begins_at_once_beside_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strandline._http.forwarding.feed.BEGIN_S", DEADLINE_S)

    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            await second.kill()  # the first one does not know it yet
            async with Feed(first) as feed:
                await said(first, "a")
                await feed.has("a")

    run(scene)


def test_a_feed_leaves_nothing_behind_of_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strandline._http.forwarding.feed.BEGIN_S", 0.01)

    async def scene() -> None:
        async with servers() as found:
            first = await found.start()
            with socket.create_server(("127.0.0.1", 0)) as silent:
                found.town.peers = {**found.town.peers, 2: Peer(2, f"127.0.0.1:{silent.getsockname()[1]}", "0")}
                before = asyncio.all_tasks()
                async with Feed(first):
                    assert waiting(asyncio.all_tasks() - before) == []

    run(scene)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_server_that_is_silent_when_a_feed_begins_leaves_a_gap(
    monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """Whether it is lost, or answers later: what it did meanwhile is in no feed."""
    monkeypatch.setattr("strandline._http.forwarding.feed.BEGIN_S", 0.01)

    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            known = found.town.peers
            with socket.create_server(("127.0.0.1", 0)) as silent:
                address = f"127.0.0.1:{silent.getsockname()[1]}"
                found.town.peers = {**known, second.id: Peer(second.id, address, "0")}
                async with Feed(first) as feed:
                    await said(second, "b")
                    (held, _) = await asyncio.to_thread(silent.accept)
                    with held:
                        found.town.peers = {first.id: known[first.id]} if is_lost else known
                    await feed.has("", "stream.gap")
                    if not is_lost:
                        await said(second, "b")
                        await feed.has("b")
                        assert [each[1] for each in feed.seen].count("run.finished") == 1

    run(scene)


def test_events_that_wait_for_a_slow_client_are_not_read_again_when_their_server_is_followed_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = asyncio.Event()
    merged, followed = _MergedResponse._merged, list[_MergedResponse]()

    async def waits(feed: _MergedResponse, *given: Any) -> AsyncIterator[bytes]:
        followed.append(feed)
        await slow.wait()
        async for data in merged(feed, *given):
            yield data

    monkeypatch.setattr(_MergedResponse, "_merged", waits)

    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            found.town.give(second, partition("b"), partition("c"))
            async with Feed(first) as feed:
                await said(second, "b")
                await until(lambda: second.id in followed[0]._read, "they have come")
                await until(lambda: _ended(followed[0], second.id), "all of them")
                first.forwarder._others.pool.close()
                cut_connections(second)
                await until(lambda: followed[0]._parts[second.id].done(), "its connection is lost")
                slow.set()
                await said(second, "c")
                await feed.has("c")
                assert [each[:2] for each in feed.seen].count(("b", "run.finished")) == 1

    run(scene)


def _ended(feed: _MergedResponse, server: int) -> bool:
    """Return whether the end of a run of a server waits to be sent."""
    waiting: Any = feed._pieces
    return any(number == server and b"run.finished" in data for number, data, _ in waiting._queue)


def waiting(tasks: Iterable[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Return the tasks that wait for an event, those of the clients here left out."""
    return [task for task in tasks if "Event.wait" in repr(task.get_coro())]


@pytest.mark.parametrize("comes_back", [False, True])
def test_what_a_server_did_before_a_feed_could_follow_it_is_a_gap(comes_back: bool) -> None:
    async def scene() -> None:
        async with servers() as found:
            first = await found.start()
            found.town.give(first, partition("a"))
            async with Feed(first) as feed:
                await said(first, "a")
                await feed.has("a")
                known = found.town.peers
                third = await found.start()
                found.town.peers = known  # nobody knows of it yet
                found.town.give(third, partition("c"))
                await said(third, "c")
                if not comes_back:
                    found.town.peers = {**known, third.id: Peer(third.id, third.address, "0")}
                    await feed.has("", "stream.gap")
            found.town.peers = {**known, third.id: Peer(third.id, third.address, "0")}
            if comes_back:
                async with Feed(first, feed.last) as feed:
                    await feed.has("", "stream.gap")
            async with Feed(first, feed.last) as feed:
                await said(first, "c")
                await feed.has("c")

    run(scene)


def test_a_server_that_is_lost_before_its_feed_begins_leaves_a_gap() -> None:
    async def scene() -> None:
        async with servers() as found:
            first = await found.start()
            async with Feed(first) as feed:
                known = found.town.peers
                with socket.create_server(("127.0.0.1", 0)) as silent:
                    found.town.peers = {**known, 9: Peer(9, f"127.0.0.1:{silent.getsockname()[1]}", "0")}
                    (await asyncio.to_thread(silent.accept))[0].close()
                    found.town.peers = known
                    await feed.has("", "stream.gap")

    run(scene)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_server_that_came_and_went_unnoticed_is_a_gap(comes_back: bool) -> None:
    async def scene() -> None:
        async with servers() as found:
            first = await found.start()
            found.town.give(first, partition("a"))
            async with Feed(first) as feed:
                await said(first, "a")
                await feed.has("a")
                if not comes_back:
                    await gone(found)
                    await feed.has("", "stream.gap")
            if comes_back:
                await gone(found)
                async with Feed(first, feed.last) as feed:
                    await feed.has("", "stream.gap")
            async with Feed(first, feed.last) as feed:
                await said(first, "a")
                await feed.has("a")
                assert [each[1] for each in feed.seen].count("stream.gap") == 0

    run(scene)


async def gone(found: Servers) -> tuple[Served, Served]:
    """Have a server come and go, and another one come after it; return both."""
    known = found.town.peers
    second = await found.start()
    found.town.peers = known
    await second.kill()
    third = await found.start()
    assert second.id not in found.town.peers
    assert third.id in found.town.peers
    return second, third


def test_an_id_names_no_server_after_one_that_is_missing_before_its_gap_is_sent() -> None:
    """A client that leaves between an event and the gap would come back with that id, and never learn of it."""

    async def scene() -> None:
        async with servers() as found:
            first = await found.start()
            found.town.give(first, partition("a"))
            async with Feed(first) as feed:
                await said(first, "a")
                await feed.has("a")
            second, third = await gone(found)
            await said(first, "a")  # (what the client has missed waits when it comes back)
            async with Feed(first, feed.last) as feed:
                await feed.has("a")
            gap = [kind for _, kind, _ in feed.seen].index("stream.gap")
            named = [last_numbers(number) for _, _, number in feed.seen]
            assert second.id not in {server for each in named for server in each}
            assert [third.id in each for each in named] == [place >= gap for place in range(len(named))]

    run(scene)


def test_a_new_client_gets_no_gap_of_what_was_before_it() -> None:
    async def scene() -> None:
        async with servers() as found:
            first, second = await two(found)
            for session in "ab":
                await said(first, session)
            async with Feed(second) as feed:
                await said(first, "b")
                await feed.has("b")
                assert "stream.gap" not in [each[1] for each in feed.seen]

    run(scene)


@pytest.mark.parametrize(
    "text", ["x", "1.x", "1..2", ".", "1.2.", "9" * 17, ".".join(["4294967296"] * (MOST_SERVERS + 1))]
)
def test_what_is_no_id_of_a_feed_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="Last-Event-ID"):
        last_numbers(text)
    assert last_numbers("") == last_numbers("0") == {}
    assert last_numbers("4294967301.8589934593") == {1: 4294967301, 2: 8589934593}


def test_another_callers_events_are_in_no_feed() -> None:
    async def scene() -> None:
        (ada, ada_kept), (bob, bob_kept) = new_key("ada"), new_key("bob")
        lines = [ada_kept.line(), bob_kept.line()]
        async with servers() as found:
            first, second = await found.start(api_keys=lines), await found.start(api_keys=lines)
            for owner, name in ((second, "ada"), (second, "bob"), (first, "ada")):
                found.town.give(owner, partition("b" if owner is second else "a", name))
            feed = Feed(first)
            feed._headers = {"Authorization": f"Bearer {ada}"}
            async with feed, httpx.AsyncClient(base_url=second.url, trust_env=False) as client:
                for key in (bob, ada):
                    bearer = {"Authorization": f"Bearer {key}"}
                    await client.post("/chat", json={"session_id": "b", "message": "hi"}, headers=bearer)
                await feed.has("b")
                assert len([each for each in feed.seen if each[1] == "run.finished"]) == 1

    run(scene)
