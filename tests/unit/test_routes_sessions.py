"""Histories of large messages, read over HTTP as an ASGI app is asked: no page holds more than some megabytes."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

import strandline
from strandline._agents.function import Session
from strandline._engine.reading import PAGE_BYTES

DEADLINE_S = 60.0
LARGE = 1_500_000
"""Two messages of so many characters have room on a page, three have not."""


async def answer(message: str, session: Session) -> str:
    return message.upper()


async def pages(client: httpx.AsyncClient, session: str, **query: Any) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        response = await client.get(f"/v1/sessions/{session}/history", params={"limit": 1000, **query, **cursor})
        assert response.status_code == 200
        page = response.json()
        assert len(response.content) < PAGE_BYTES + 10_000 or len(page["messages"]) == 1
        assert page["messages"], "a page that goes nowhere"
        found.append(page["messages"])
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def text(message: dict[str, Any]) -> str:
    shown: str = message["content"][0]["text"]
    return shown


@pytest.mark.parametrize("journal", ["memory:", "sqlite:journal.db"])
def test_a_page_of_large_messages_ends_early_and_all_pages_have_the_whole_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        app = strandline.asgi(answer, journal=journal, workspace=tmp_path / "workspace")
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            requested = [
                "a" * LARGE,
                "b",
                "c" * LARGE,
                "d" * (3 * LARGE),
                *("e" * n for n in range(1, 41)),
                "f" * LARGE,
            ]
            every = []
            for message in requested:
                assert (await client.post("/chat", json={"message": message})).json()["status"] == "success"
                every += [message, message.upper()]

            found = await pages(client, "default")
            assert [len(page) for page in found] == [2 + 80, 1, 1, 4, 2]
            assert [text(message) for page in reversed(found) for message in page] == every
            assert [len(page) for page in await pages(client, "default", limit=50)] == [50, 32, 1, 1, 4, 2]

            whole = (await client.get("/history", params={"count": 0})).json()["messages"]
            assert [text(message) for message in whole] == every, "who asks for all gets no page"
            for count in (1, 3, 85):
                last = (await client.get("/history", params={"count": count})).json()["messages"]
                assert [text(message) for message in last] == every[-count:]

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


@pytest.mark.parametrize("journal", ["memory:", "sqlite:journal.db"])
def test_each_message_has_its_place_in_history_and_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        app = strandline.asgi(answer, journal=journal, workspace=tmp_path / "workspace")
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            runs = [(await client.post("/chat", json={"message": text})).json()["run_id"] for text in ("hi", "ho")]
            found = await pages(client, "default", limit=3)
            shown = [(each["index"], each["run_id"], each["superseded"]) for page in found for each in page]
            assert shown == [(1, runs[0], False), (2, runs[1], False), (3, runs[1], False), (0, runs[0], False)]

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
