"""Files and folders that nobody but their owner reads."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import strandline
from strandline import _private as private
from strandline._agents.function import Session


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(place: Path) -> int:
    return place.stat().st_mode & 0o7777


def test_a_file_that_is_made_is_its_owners_alone_and_one_that_was_laxer_becomes_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    private.make_empty(file)
    assert mode(file) == 0o600
    file.chmod(0o664)
    os.close(private.open_file(file, os.O_RDWR))
    assert mode(file) == 0o600
    with pytest.raises(FileExistsError):
        private.make_empty(file)


def test_of_folders_only_those_that_are_missing_are_made(tmp_path: Path) -> None:
    before = mode(tmp_path)
    private.make_folder(tmp_path / "a" / "b")
    assert (mode(tmp_path), mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (before, 0o700, 0o700)
    private.make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        private.make_folder(tmp_path / "file" / "b")


def test_links_and_folders_for_all_stay_as_they_are(tmp_path: Path) -> None:
    target, for_all = tmp_path / "target", tmp_path / "for_all"
    target.touch(0o644)
    (tmp_path / "link").symlink_to(target)
    for_all.mkdir()
    for_all.chmod(0o1777)
    for each in (tmp_path / "link", for_all, tmp_path / "nothing"):
        private.tighten(each)
    assert (mode(target), mode(for_all)) == (0o644, 0o1777)


async def where(message: str, session: Session) -> str:
    return session.workspace


def test_workspaces_are_their_owners_alone_also_when_they_were_laxer(tmp_path: Path) -> None:
    root = tmp_path / "made" / "workspace"

    async def folder_of(session: str) -> Path:
        app = strandline.asgi(where, journal="memory:", workspace=root)
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            answer = (await client.post("/chat", json={"message": "hi", "session_id": session})).json()
            return Path(answer["response"])

    folder = asyncio.run(folder_of("s"))
    assert {mode(each) for each in (root.parent, root, folder)} == {0o700}
    for each in (root, folder):
        each.chmod(0o755)
    asyncio.run(folder_of("s"))
    assert {mode(each) for each in (root, folder)} == {0o700}
    root.chmod(0o755)
    (root / "of somebody else").touch()
    asyncio.run(folder_of("s"))
    assert mode(root) == 0o755, "a folder in which there is something else, too"
