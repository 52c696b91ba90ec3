"""Forks whose workspace cannot be copied."""

import asyncio
import errno
from pathlib import Path

import httpx
import pytest

import strandline
from strandline._agents.function import Session
from strandline._folder_copy import copy_folder


async def noting(message: str, session: Session) -> str:
    Path(session.workspace, "note").write_text(message)
    return "noted"


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(errno.ENOSPC, 503, "disk_low"), (errno.EDQUOT, 503, "disk_low"), (errno.EACCES, 422, "invalid")],
)
def test_a_workspace_that_cannot_be_copied_makes_no_session(
    number: int, status: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(source: Path, to: Path) -> None:
        copy_folder(source, to)
        raise OSError(number, "no")

    async def scene() -> None:
        app = strandline.asgi(noting, journal="memory:", workspace=tmp_path / "w")
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            await client.post("/chat", json={"message": "hi"})
            with monkeypatch.context() as patched:
                patched.setattr("strandline._engine.admission.forks.copy_folder", failing)
                wanted = {"session_id": "new", "workspace": "copy"}
                refused = await client.post("/v1/sessions/default/fork", json=wanted)
            assert (refused.status_code, refused.json()["code"]) == (status, code)
            assert "leave `workspace` out" in refused.json()["detail"]
            assert len(list((tmp_path / "w").iterdir())) == 1, "half a copy is removed"
            assert (await client.get("/v1/sessions/new")).status_code == 404
            both = await asyncio.gather(*(client.post("/v1/sessions/default/fork", json=wanted) for _ in range(2)))
            assert sorted(each.status_code for each in both) == [201, 409]
            assert [(each / "note").read_text() for each in (tmp_path / "w").iterdir()] == ["hi", "hi"]

    asyncio.run(scene())
