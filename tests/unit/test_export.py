"""Exports: all of history in its order however pages are cut, and no whole zip if something fails."""

import asyncio
import io
import json
from types import SimpleNamespace
from typing import Any
from zipfile import BadZipFile, ZipFile

import pytest

import strandline
from strandline import SessionId, SessionKey
from strandline._http.routes.export import Export
from strandline._journal.port import HistoryPage
from strandline.errors import JournalUnavailable

KEY = SessionKey(strandline.ANONYMOUS, SessionId("s"))


class Stored:
    """A service with a session of so many messages, pages of which have room for a few."""

    def __init__(self, messages: int, room: int) -> None:
        self.length = messages
        self.room = room
        self.fails = False
        self.files = SimpleNamespace(page=self.page)

    async def history_page(self, key: SessionKey, *, before: int, limit: int, **hidden: bool) -> HistoryPage:
        assert hidden == {"discarded": True, "superseded": True}
        end = min(before, self.length)
        indices = range(max(0, end - min(limit, self.room)), end)
        texts: list[Any] = [{"role": "user", "content": [{"text": str(each)}]} for each in indices]
        runs: list[Any] = ["r"] * len(texts)
        return HistoryPage(texts, indices.start, indices=list(indices), runs=runs)

    async def runs(self, *_: object, **__: object) -> Any:
        if self.fails:
            raise JournalUnavailable("the disk is gone")
        return SimpleNamespace(runs=[], damaged=["run_1"], after=None)

    async def page(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(files=[], damaged=[], after=None)


async def pieces_of(stored: Any) -> list[bytes]:
    made: list[bytes] = []
    try:
        async for piece in Export(stored)._pieces(KEY, b"{}"):
            made.append(piece)
    except JournalUnavailable:
        assert stored.fails
    return made


@pytest.mark.parametrize("messages", [0, 1, 99, 100, 101, 250])
@pytest.mark.parametrize("room", [1, 7, 100])
def test_history_is_whole_and_in_its_order(messages: int, room: int) -> None:
    data = b"".join(asyncio.run(pieces_of(Stored(messages, room))))
    with ZipFile(io.BytesIO(data)) as packed:
        lines = packed.read("history.jsonl").splitlines()
        assert json.loads(packed.read("damaged.json")) == {"runs": ["run_1"], "files": []}
    assert [json.loads(each)["index"] for each in lines] == list(range(messages))


def test_what_fails_on_the_way_is_no_zip() -> None:
    stored = Stored(10, 100)
    stored.fails = True
    data = b"".join(asyncio.run(pieces_of(stored)))
    with pytest.raises(BadZipFile):
        ZipFile(io.BytesIO(data))
