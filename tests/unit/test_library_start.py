"""Requests to a starting server: probes are answered at once, and everything else once it takes requests."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from strands import Agent

import strandline
from strandline._access.keyring import new_key
from strandline._engine.maintenance import readiness
from strandline._library import AgentApp
from strandline.testing import Gate, ScriptedModel, question

DEADLINE_S: Final = 20.0
ADA = new_key("ada")
CARD: Final = "/.well-known/agent-card.json"
AT_ONCE: Final = ("/livez", "/readyz", "/ping", "/health", "/metrics", "/openapi.json", "/docs", CARD, "/", "/console")


class World:
    """An app whose factory does not return before `gate` is opened, so that its start takes long."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.gate = Gate()
        gate = self.gate

        async def make_agent(session_id: str):  # type: ignore[no-untyped-def]
            await gate.wait()
            return Agent(model=ScriptedModel(lambda messages: question(messages)), callback_handler=None)

        given: dict[str, Any] = {"journal": "memory:", "workspace": folder / "workspace", **settings}
        self.app: AgentApp = strandline.asgi(make_agent, **given)
        self.started = asyncio.Event()
        self.fails = False
        self._stop = asyncio.Event()
        self.life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        async with self.app.lifespan():
            self.started.set()
            await self._stop.wait()

    async def end(self) -> None:
        self.gate.open()
        self._stop.set()
        await asyncio.wait([self.life])
        assert self.fails or self.life.exception() is None

    def client(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1", headers=headers, timeout=DEADLINE_S
        )


@asynccontextmanager
async def starting(folder: Path, **settings: Any) -> AsyncIterator[World]:
    world = World(folder, **settings)
    try:
        await world.gate.reached.wait()
        yield world
    finally:
        await world.end()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 2 * DEADLINE_S))


async def waiting(world: World, count: int) -> None:
    """Return when so many requests wait."""
    state = world.app._lifespan.service._readiness  # type: ignore[union-attr]
    while state._waiting < count:
        await asyncio.sleep(0)


def test_health_says_starting_until_the_first_request_would_be_taken_and_healthy_from_then_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with starting(tmp_path) as world, world.client() as client:
            early = await client.get("/health")
            assert (early.status_code, early.json()["status"], early.json()["ready"]) == (503, "starting", False)
            assert int(early.headers["retry-after"]) >= 1
            assert early.json().keys() >= {"agent_id", "processing", "queue_depth"}, "its reader finds the keys"
            world.gate.open()
            while (health := await client.get("/health")).status_code == 503:
                await asyncio.sleep(0)
            assert (health.status_code, health.json()["status"]) == (200, "healthy")
            first = await client.post("/chat", json={"message": "sent at once"})
            assert (first.status_code, first.json()["response"]) == (200, "sent at once")
            world.app.service._engine._readiness.exhausted.set()
            late = await client.get("/health")
            assert (late.status_code, late.json()["status"], late.json()["ready"]) == (200, "healthy", False)

    run(main())


def test_requests_that_come_while_a_server_starts_wait_and_are_answered_in_their_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with starting(tmp_path) as world, world.client() as client:
            pending = []
            for number in range(4):
                pending.append(asyncio.create_task(client.post("/chat", json={"message": f"m{number}"})))
                await waiting(world, number + 1)
            reading = asyncio.create_task(client.get("/v1/sessions"))
            await waiting(world, 5)
            assert not any(each.done() for each in (*pending, reading))
            world.gate.open()
            assert [(await each).json()["response"] for each in pending] == [f"m{number}" for number in range(4)]
            assert (await reading).status_code == 200
            said = (await client.get("/history", params={"count": "0"})).json()["messages"]
            assert [each["content"][0]["text"] for each in said if each["role"] == "user"] == ["m0", "m1", "m2", "m3"]

    run(main())


def test_nothing_but_what_needs_a_started_server_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with starting(tmp_path) as world, world.client() as client:
            answer = {path: (await client.get(path)).status_code for path in AT_ONCE}
            assert answer == dict.fromkeys(AT_ONCE, 200) | {"/readyz": 503, "/health": 503}
            assert world.app._lifespan.service.starting, "none of them has waited"  # type: ignore[union-attr]

    run(main())


def test_who_is_not_let_in_is_refused_while_a_server_starts_and_no_body_is_read_by_then(tmp_path: Path) -> None:
    async def main() -> None:
        async def receive() -> dict[str, Any]:
            raise AssertionError("its body was read")

        async def send(message: Any) -> None:
            sent.append(message)

        sent: list[Any] = []
        async with starting(tmp_path, api_keys=[ADA[1].line()]) as world, world.client() as nobody:
            assert (await nobody.post("/chat", json={"message": "m"})).status_code == 401
            shown = {"Authorization": f"Bearer {ADA[0]}"}
            async with world.client(**shown) as ada:
                assert (await ada.post("/chat", json={"message": "m"}, headers={"Host": "evil"})).status_code == 403
            scope = {
                "type": "http", "method": "POST", "path": "/chat", "query_string": b"", "root_path": "",
                "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {ADA[0]}".encode())],
                "server": ("127.0.0.1", 80),
            }  # fmt: skip
            reading = asyncio.create_task(world.app(scope, receive, send))
            await waiting(world, 1)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not reading.done()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert world.app._lifespan.service._readiness._waiting == 0, "who has left waits no more"  # type: ignore[union-attr]
        assert not sent

    run(main())


def test_a_request_waits_for_start_wait_and_no_longer(tmp_path: Path) -> None:
    async def main() -> None:
        async with starting(tmp_path, start_wait=0.05) as world, world.client() as client:
            for path, body in (("/chat", {"message": "m"}), ("/v1/chat/completions", {"messages": []})):
                refused = await client.post(path, json=body)
                assert refused.status_code == 503, path
                assert "start_wait" in refused.text
                assert int(refused.headers["retry-after"]) >= 1
            assert (await client.post("/chat", json={"message": "m"})).json()["code"] == "not_ready"
            world.gate.open()
            await world.started.wait()
            assert (await client.post("/chat", json={"message": "m"})).json()["response"] == "m"

    run(main())


def test_so_many_requests_wait_for_a_start_and_the_next_one_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert readiness.MOST_WAITING == 1_000
    monkeypatch.setattr(readiness, "MOST_WAITING", 3)

    async def main() -> None:
        async with starting(tmp_path) as world, world.client() as client:
            pending = [asyncio.create_task(client.post("/chat", json={"message": "m"})) for _ in range(3)]
            await waiting(world, 3)
            refused = await client.post("/chat", json={"message": "one too many"})
            assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
            assert "3 requests wait" in refused.json()["detail"]
            assert (await client.get("/health")).status_code == 503, "a probe is answered"
            world.gate.open()
            assert [(await each).status_code for each in pending] == [200] * 3

    run(main())


def test_an_aborted_start_answers_waiting_requests_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with starting(tmp_path, start_wait=1_000) as world, world.client() as client:
            pending = asyncio.create_task(client.post("/chat", json={"message": "m"}))
            await waiting(world, 1)
            world.app._lifespan.drain_soon()  # type: ignore[union-attr]
            refused = await pending
            assert refused.status_code == 503
            assert refused.json()["code"] in ("not_ready", "draining")
            with pytest.raises(strandline.errors.SetupError):
                await world.life
            world.fails = True

    run(main())


def test_a_drain_before_the_start_is_over_answers_waiting_requests_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with starting(tmp_path, start_wait=1_000) as world, world.client() as client:
            pending = asyncio.create_task(client.post("/chat", json={"message": "m"}))
            await waiting(world, 1)
            world.app._lifespan.service._readiness.begin_to_drain()  # type: ignore[union-attr]
            refused = await pending
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")

    run(main())


def test_a_failed_start_answers_waiting_requests_at_once(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("no journal, but long enough to be looked at as one" * 100)

    async def main() -> None:
        async with starting(tmp_path, start_wait=1_000, journal=f"sqlite:{tmp_path}/journal.db") as world:
            async with world.client() as client:
                pending = asyncio.create_task(client.post("/chat", json={"message": "m"}))
                await waiting(world, 1)
                world.gate.open()
                assert (await pending).status_code == 503
                with pytest.raises(strandline.errors.SetupError):
                    await world.life
            world.fails = True

    run(main())


def test_a_server_that_starts_on_a_disk_with_little_room_lets_nobody_wait_and_shows_what_it_has(tmp_path: Path) -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"journal": f"sqlite:{tmp_path / 'journal.db'}", "disk_reserve_bytes": 1 << 60}
        async with starting(tmp_path, **settings) as world, world.client() as client:
            world.gate.open()
            async with asyncio.timeout(DEADLINE_S):
                pending = await client.post("/chat", json={"message": "hi", "session_id": "s"})
                assert (pending.status_code, pending.json()["code"]) == (503, "disk_low")
                assert int(pending.headers["Retry-After"]) >= 1
                assert (await client.get("/v1/sessions")).status_code == 200
                assert (await client.get("/health")).json()["status"] == "healthy"
                ready = await client.get("/readyz")
                assert (ready.status_code, ready.json()["status"]) == (503, "disk_low")

    asyncio.run(main())
