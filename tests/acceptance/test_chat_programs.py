"""What chat programs send, at a real server, as `docs/chat-programs.md` has them set up.

Open WebUI's requests were recorded between the program and a server, while a person would have chatted, edited, had
another answer, used one of the program's own tools, and stopped an answer (`tests/clients/open_webui`).
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from client_packages import CLIENTS

RECORDED: Final = json.loads((CLIENTS / "open_webui" / "requests.json").read_text())
CHAT: Final = RECORDED["chat"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As the page says: the program's stop button stops the run."""
    folder = tmp_path_factory.mktemp("programs")
    with serving(TARGETS / "chat_program.py", "--on-disconnect", "cancel", folder=folder) as made:
        yield made


class OpenWebUi:
    """Sends what was recorded, one request after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._left = list(RECORDED["requests"])
        self.call_id = ""

    def next(self, task: str = "", *, until_text: str | None = None) -> tuple[int, str]:
        """Send the next request, which is for this task; return its status and text. `until_text`: hang up after it."""
        request = self._left.pop(0)
        assert request["headers"]["x-session-id"] == f"{CHAT}{task}"
        body = request["body"]
        if "tools" in body:
            body = {**body, "tools": RECORDED["tools"]}
        content = json.dumps(body).replace('"CALL"', json.dumps(self.call_id))
        with self._server.client.stream(
            "POST", "/v1/chat/completions", content=content, headers=request["headers"], timeout=DEADLINE_S
        ) as response:
            if not body["stream"] or response.status_code != 200:
                answer = json.loads(response.read())
                said = answer["choices"][0]["message"]["content"] if "choices" in answer else answer["error"]["message"]
                return response.status_code, said
            return response.status_code, self._read(response.iter_lines(), until_text)

    def _read(self, lines: Iterator[str], until_text: str | None) -> str:
        """Return the text of a stream, as the program shows it, and keep the id of a call."""
        text = ""
        for line in lines:
            if line == "data: [DONE]":
                return text
            if not line.startswith("data: "):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls") or ():
                    self.call_id = call.get("id") or self.call_id
            if until_text is not None and until_text in text:
                return text
        raise AssertionError(f"the stream broke off after {text!r}")


def users(server: Server, session_id: str = CHAT) -> list[str]:
    return texts(server.history(session_id), "user")


def last_run(server: Server) -> dict[str, Any]:
    run: dict[str, Any] = server.client.get(f"/v1/sessions/{CHAT}/runs").json()["runs"][0]
    return run


def test_a_conversation_in_open_webui(server: Server) -> None:
    program = OpenWebUi(server)
    assert program.next() == (200, "Let me call add. \n\nadd returned 5. That was message 1 of this session.")
    for task in ("title_generation", "follow_up_generation"):  # which leave the chat alone
        assert program.next(task)[0] == 200
        assert len(users(server, f"{CHAT}{task}")) == 1
    status, said = program.next()
    assert status == 200
    assert said.startswith("I am a script. You said: hello there. That was message 2 of this session.")
    assert program.next("tags_generation")[0] == 200
    # another answer to the last message
    status, said = program.next()
    assert "That was message 2 of this session." in said
    assert users(server) == ["add 2 and 3", "hello there"]
    # the first message, edited
    assert program.next()[1].endswith("add returned 42. That was message 1 of this session.")
    assert users(server) == ["add 2 and 40"]
    # a tool of the program's own
    assert program.next() == (200, "Let me call get_current_timestamp. ")
    assert program.call_id
    assert program.next()[1].startswith('get_current_timestamp returned {"current_timestamp":1')
    assert users(server) == ["add 2 and 40", "get_current_timestamp please"]
    # its stop button
    assert program.next(until_text="Let me call ponder. ") == (200, "Let me call ponder. ")
    until(lambda: last_run(server)["status"] == "cancelled", "the run is cancelled")
    assert program.next() == (200, "Let me call add. \n\nadd returned 2. That was message 4 of this session.")
    assert users(server) == ["add 2 and 40", "get_current_timestamp please", "ponder 60", "add 1 and 1"]
    # its button to continue an answer
    status, said = program.next()
    assert (status, "The last message must be the user's" in said) == (400, True)
    assert len(users(server)) == 4
