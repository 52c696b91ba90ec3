"""Schedules over HTTP: their sender, and that a long list of them leaves the server to others."""

import asyncio
from pathlib import Path

import httpx
import pytest

import strandline
from strandline._agents.function import Session


async def answer(message: str, session: Session) -> str:
    return message


def test_others_are_answered_while_the_times_of_many_schedules_are_found(tmp_path: Path) -> None:
    """Those of a single cron expression can take milliseconds, and a page has a thousand."""

    async def main() -> None:
        app = strandline.asgi(answer, journal="memory:", workspace=tmp_path / "workspace")
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            for number in range(30):
                body = {"session_id": f"s{number}", "input": "hi", "cron": "59 59 23 */28 2 MON#5"}
                assert (await client.post("/v1/schedules", json=body)).status_code == 201
            turns, is_over = 0, asyncio.Event()

            async def count() -> None:
                nonlocal turns
                while not is_over.is_set():
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            listed = await client.get("/v1/schedules")
            is_over.set()
            await counting
            assert len(listed.json()["schedules"]) == 30
            assert turns >= 30

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("trusted", [True, False])
def test_a_schedule_names_its_sender_where_senders_are_trusted(tmp_path: Path, trusted: bool) -> None:
    async def main() -> None:
        app = strandline.asgi(answer, journal="memory:", workspace=tmp_path / "workspace", trusted_senders=trusted)
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            body = {"session_id": "s", "input": "hi", "every": 3600, "sender": {"id": "U1", "name": "Ada"}}
            made = await client.post("/v1/schedules", json=body)
            if not trusted:
                assert (made.status_code, "trusted_senders" in made.json()["detail"]) == (422, True)
                return
            path = f"/v1/schedules/{made.json()['schedule_id']}"
            assert made.json()["sender"] == {"id": "U1", "name": "Ada"}
            assert (await client.post(f"{path}/run")).json()["sender"] == {"id": "U1", "name": "Ada"}
            changed = await client.patch(path, json={"sender": {"id": "U2"}})
            assert changed.json()["sender"] == {"id": "U2", "name": "U2"}
            assert (await client.patch(path, json={"paused": True})).json()["sender"] == {"id": "U2", "name": "U2"}
            assert (await client.patch(path, json={"sender": None})).json()["sender"] is None
            assert (await client.post(f"{path}/run")).json()["sender"] is None

    asyncio.run(asyncio.wait_for(main(), 60))
