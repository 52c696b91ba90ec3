"""Default run options of a session over HTTP: set, shown, merged under a request's own, and removed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import strandline
from strandline._agents.function import Session

DEADLINE_S = 60.0
CHAT = {"session_id": "s", "message": "hi"}


async def answer(message: str, session: Session) -> str:
    return f"{session.context.metadata}"


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = strandline.asgi(answer, **{"journal": "memory:", "workspace": folder / "workspace", **settings})
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        assert (await client.post("/chat", json=CHAT)).status_code == 200
        yield client


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


async def set_options(client: httpx.AsyncClient, options: Any) -> dict[str, Any]:
    answered = await client.patch("/v1/sessions/s", json={"options": options})
    assert answered.status_code == 200, answered.text
    shown: dict[str, Any] = answered.json()["options"]
    assert (await client.get("/v1/sessions/s")).json()["options"] == shown
    assert [each["options"] for each in (await client.get("/v1/sessions")).json()["sessions"]] == [shown]
    return shown


async def last_run(client: httpx.AsyncClient, path: str = "/chat", **body: Any) -> dict[str, Any]:
    given = {"/chat": CHAT, "/v1/sessions/s/runs": {"input": "hi"}}[path]
    answered = await client.post(path, json={**given, **body}, headers={"Prefer": "wait=30"})
    assert answered.status_code == 200, answered.text
    found: dict[str, Any] = (await client.get("/v1/sessions/s/runs")).json()["runs"][0]
    return found


def test_a_session_shows_the_options_that_are_set_and_null_removes_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, trusted_senders=True) as client:
            assert await set_options(client, {}) == {}
            every = {
                "if_busy": "interrupt", "on_question": "dismiss", "priority": 2, "timeout": 7.5, "queue_timeout": 9.0,
                "on_disconnect": "cancel", "metadata": {"team": "a"}, "sender": {"id": "U1", "name": "Ada"},
            }  # fmt: skip
            assert await set_options(client, every) == every
            assert await set_options(client, {"priority": 3.0}) == {**every, "priority": 3}
            left = {name: value for name, value in every.items() if name not in ("priority", "metadata")}
            assert await set_options(client, {"priority": None, "metadata": None}) == left
            assert await set_options(client, {"sender": {"id": "U2"}}) == {**left, "sender": {"id": "U2", "name": "U2"}}
            assert await set_options(client, None) == {}

    run(main)


@pytest.mark.parametrize("path", ["/chat", "/v1/sessions/s/runs"])
def test_a_run_has_the_options_of_its_session_and_its_requests_own(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        async with served(tmp_path, trusted_senders=True) as client:
            await set_options(
                client, {"priority": 1, "metadata": {"team": "a", "of": "session"}, "sender": {"id": "U1"}}
            )
            ran = await last_run(client, path)
            assert (ran["priority"], ran["metadata"]) == (1, {"team": "a", "of": "session"})
            assert (ran["sender"], ran["output"]) == ({"id": "U1", "name": "U1"}, "{'team': 'a', 'of': 'session'}")
            ran = await last_run(client, path, priority=5, metadata={"of": "run"}, sender={"id": "U2"})
            assert (ran["priority"], ran["metadata"]) == (5, {"team": "a", "of": "run"})
            assert ran["sender"] == {"id": "U2", "name": "U2"}
            await set_options(client, None)
            assert (await last_run(client, path))["priority"] == 3

    run(main)


def test_the_policies_of_a_session_count_for_each_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as client:
            await client.post("/v1/sessions/s/pause")
            await set_options(client, {"if_busy": "reject"})
            refused = await client.post("/chat", json=CHAT)
            assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
            own = {"input": "hi", "if_busy": "enqueue"}
            assert (await client.post("/v1/sessions/s/runs", json=own)).status_code == 202

    run(main)


def test_the_same_key_is_the_same_run_whatever_the_options_are_by_then(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as client:
            once = {"Idempotency-Key": "k"}
            first = (await client.post("/chat", json=CHAT, headers=once)).json()
            await set_options(client, {"priority": 1, "metadata": {"x": 1}})
            assert (await client.post("/chat", json=CHAT, headers=once)).json() == first

    run(main)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"priority": 6}, "priority"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 3601}, "timeout"),
        ({"if_busy": "never"}, "if_busy"),
        ({"if_busy": "interrupt", "on_question": "answer"}, "on_question cannot be answer"),
        ({"metadata": {"x": "y" * 20_000}}, "max_metadata_bytes"),
        ({"sender": {"id": "U1"}}, "trusted_senders"),
        ({"not_before": "2030-01-01T00:00:00Z"}, "not_before"),
        ({"prority": 1}, "prority"),
        ([], "options"),
    ],
)
def test_options_are_checked_as_those_of_a_request(tmp_path: Path, options: object, why: str) -> None:
    async def main() -> None:
        async with served(tmp_path) as client:
            refused = await client.patch("/v1/sessions/s", json={"options": options})
            assert refused.status_code == 422
            assert why in refused.json()["detail"]
            assert (await client.get("/v1/sessions/s")).json()["options"] == {}

    run(main)


def test_a_session_that_is_not_there_and_storage_that_is_full_are_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, max_stored_bytes_per_caller=1000) as client:
            body = {"options": {"priority": 1}}
            missing = await client.patch("/v1/sessions/nobody", json=body)
            assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
            full = await client.patch("/v1/sessions/s", json={"options": {"metadata": {"x": "y" * 1000}}})
            assert (full.status_code, full.json()["code"]) == (429, "storage_full")
            assert int(full.headers["Retry-After"]) >= 60
            assert (await client.patch("/v1/sessions/s", json={})).status_code == 422
            assert (await client.patch("/v1/sessions/s", content=b"{}")).status_code == 415

    run(main)


def test_operators_see_no_options_of_others(tmp_path: Path) -> None:
    async def main() -> None:
        from strandline._access.keyring import new_key

        (ada, of_ada), (root, of_root) = new_key("ada"), new_key("root", operator=True)
        app = strandline.asgi(
            answer, journal="memory:", workspace=tmp_path / "w", api_keys=[of_ada.line(), of_root.line()]
        )
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            client.headers["Authorization"] = f"Bearer {ada}"
            await client.post("/chat", json=CHAT)
            await set_options(client, {"metadata": {"secret": "x"}})
            client.headers["Authorization"] = f"Bearer {root}"
            listed = (await client.get("/v1/sessions")).text
            assert "ada" in listed
            assert "secret" not in listed

    run(main)


def test_a_sender_that_a_session_has_counts_only_while_senders_are_trusted(tmp_path: Path) -> None:
    async def main() -> None:
        journal = f"sqlite:{tmp_path / 'journal.db'}"
        for trusted, sender in (
            (True, {"id": "U1", "name": "Ada"}),
            (False, None),
            (True, {"id": "U1", "name": "Ada"}),
        ):
            async with served(tmp_path, journal=journal, trusted_senders=trusted) as client:
                if trusted:
                    await set_options(client, {"sender": {"id": "U1", "name": "Ada"}})
                assert (await last_run(client))["sender"] == sender

    run(main)
