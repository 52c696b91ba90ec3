"""`docs/chat-programs.md` is true: what the programs send, filled in as they do it, names the session that it says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml  # type: ignore[import-untyped]
from msgspec import json

from acceptance.server import Server, ran, serving
from docs.pages import DOCS, block, printed

PAGE: Final = "chat-programs.md"
TEXT: Final = (DOCS / PAGE).read_text()
CHAT: Final = "0d9f5b8e-53c1-4f0e-9d6a-2f6f3c1b7a10"
SAID: Final = {"model": "strandline", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("programs")
    assert ran("init", folder=folder).returncode == 0
    with serving(None, folder=folder) as server:
        yield server


def session_of(server: Server, headers: dict[str, str]) -> str:
    answer = server.client.post("/v1/chat/completions", json=SAID, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["strandline"]["session_id"])


def filled(template: str, **values: str) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: values.get(found[1], found[0]), template)


def test_its_command_talks_in_the_session_that_it_names(server: Server, tmp_path: Path) -> None:
    answer = json.decode(printed(block(PAGE, "sh", "curl"), folder=tmp_path, url=server.url))
    assert answer["strandline"]["session_id"] == CHAT


def test_open_webui_has_a_session_for_each_chat_and_others_for_its_own_tasks(server: Server) -> None:
    ((name, template), follows) = json.decode(block(PAGE, "json", "CHAT_ID")).items()
    assert follows == ("X-Client-History", "follow")
    assert session_of(server, {name: filled(template, CHAT_ID=CHAT, TASK="")}) == CHAT
    task = filled(template, CHAT_ID=CHAT, TASK="title_generation")
    assert session_of(server, {name: task}) == f"{CHAT}title_generation"
    unknown = server.client.post("/v1/chat/completions", json=SAID, headers={name: filled(template, CHAT_ID=CHAT)})
    assert unknown.status_code == 400


def test_librechat_has_a_session_for_each_conversation(server: Server) -> None:
    (endpoint,) = yaml.safe_load(block(PAGE, "yaml", "endpoints"))["endpoints"]["custom"]
    assert endpoint["baseURL"].endswith(":8080/v1")
    ((name, template), follows) = endpoint["headers"].items()
    assert follows == ("X-Client-History", "follow")
    assert session_of(server, {name: filled(template, LIBRECHAT_BODY_CONVERSATIONID=CHAT)}) == CHAT


def test_the_header_of_older_versions_of_open_webui_may_name_the_session(tmp_path: Path) -> None:
    flags = block(PAGE, "sh", "--session-header").split()[2:]
    assert ran("init", folder=tmp_path).returncode == 0
    with serving(None, *flags, folder=tmp_path) as server:
        assert session_of(server, {flags[1]: CHAT}) == CHAT
