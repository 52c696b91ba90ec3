"""Who said it over HTTP: named in every dialect, shown in runs, events and history; refused where callers may not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import strandline
from strandline._access.keyring import new_key
from strandline._agents.function import Session

DEADLINE_S = 60.0
ADA = {"id": "U1", "name": "Ada"}
SESSION = {"X-Session-Id": "s", "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s"}
BODIES: dict[str, dict[str, Any]] = {
    "/chat": {"session_id": "s", "message": "hi"},
    "/v1/sessions/s/runs": {"input": "hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/invocations": {"prompt": "hi"},
}


async def answer(message: str, session: Session) -> str:
    return f"{session.sender and session.sender.name}: {message}"


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = strandline.asgi(answer, journal="memory:", workspace=folder / "workspace", **settings)
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers={**SESSION, "Prefer": "wait=30"}
        ) as client,
    ):
        yield client


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


async def seen(client: httpx.AsyncClient) -> tuple[list[Any], list[Any], dict[tuple[str, str], Any]]:
    """Return the senders in the session's runs, in its history, and in the events of its last run."""
    runs = (await client.get("/v1/sessions/s/runs")).json()["runs"]
    history = (await client.get("/v1/sessions/s/history")).json()["messages"]
    events = (await client.get(f"/v1/runs/{runs[0]['run_id']}/events")).text
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")]
    decoded = [httpx.Response(200, text=line).json() for line in lines]
    named = {
        (each["type"], each["message"]["role"] if each.get("message") else ""): each.get("sender")
        for each in decoded
        if each["type"] in ("run.started", "message.added")
    }
    return [each["sender"] for each in runs], [each["sender"] for each in history], named


@pytest.mark.parametrize("path", BODIES)
def test_each_dialect_lets_a_request_name_its_sender(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        async with served(tmp_path, trusted_senders=True) as client:
            for sender in (ADA, {"id": "U2"}, None):
                said = await client.post(path, json={**BODIES[path], "sender": sender})
                assert said.status_code == 200, said.text
            runs, history, events = await seen(client)
            bob = {"id": "U2", "name": "U2"}
            assert runs == [None, bob, ADA]
            assert history == [ADA, None, bob, None, None, None]
            assert set(events.values()) == {None}
            texts = [
                each["content"][0]["text"] for each in (await client.get("/v1/sessions/s/history")).json()["messages"]
            ]
            assert texts == ["hi", "Ada: hi", "hi", "U2: hi", "hi", "None: hi"]
            await client.post(path, json={**BODIES[path], "sender": ADA})
            _, _, events = await seen(client)
            assert events == {
                ("run.started", ""): ADA,
                ("message.added", "user"): ADA,
                ("message.added", "assistant"): None,
            }

    run(main)


@pytest.mark.parametrize("path", BODIES)
def test_a_request_may_name_its_sender_only_where_the_setting_is_on(tmp_path: Path, path: str) -> None:
    """Else one key's clients could speak in each other's names; the refusal says what to set."""

    async def main() -> None:
        async with served(tmp_path) as client:
            refused = await client.post(path, json={**BODIES[path], "sender": ADA})
            assert refused.status_code == (422 if path in ("/chat", "/v1/sessions/s/runs") else 400)
            assert "STRANDLINE_TRUSTED_SENDERS=true" in refused.text
            assert (await client.get("/v1/sessions/s/runs")).json()["runs"] == [], "nothing was accepted"

    run(main)


@pytest.mark.parametrize(
    "sender", ["Ada", {}, {"id": ""}, {"id": 5}, {"name": "Ada"}, {"id": "x" * 257}, {"id": "a\nb"}]
)
def test_a_sender_of_another_form_is_refused(tmp_path: Path, sender: object) -> None:
    async def main() -> None:
        async with served(tmp_path, trusted_senders=True) as client:
            refused = await client.post("/chat", json={**BODIES["/chat"], "sender": sender})
            assert refused.status_code == 422
            assert "sender" in refused.text

    run(main)


def test_the_sender_of_a_key_is_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        key, found = new_key("ada")
        async with served(tmp_path, api_keys=[found.line()]) as client:
            client.headers["Authorization"] = f"Bearer {key}"
            said = await client.post("/chat", json=BODIES["/chat"])
            assert said.json()["response"] == "ada: hi"
            runs, history, events = await seen(client)
            ada = {"id": "ada", "name": "ada"}
            assert (runs, history) == ([ada], [ada, None])
            assert events["run.started", ""] == events["message.added", "user"] == ada

    run(main)


def test_the_same_key_with_another_sender_is_another_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, trusted_senders=True) as client:
            once = {"Idempotency-Key": "k"}
            body = {**BODIES["/chat"], "sender": ADA}
            first = await client.post("/chat", json=body, headers=once)
            assert (await client.post("/chat", json=body, headers=once)).json() == first.json()
            other = {**body, "sender": {"id": "U2", "name": "Ada"}}
            assert (await client.post("/chat", json=other, headers=once)).status_code == 422

    run(main)
