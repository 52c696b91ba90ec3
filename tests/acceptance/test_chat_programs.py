"""What chat programs send, at a real server, as `docs/chat-programs.md` has them set up.

Open WebUI's requests were recorded between the program and a server, while a person would have chatted, edited, had
another answer, used one of the program's own tools, and stopped an answer (`tests/clients/open_webui`). LibreChat's are
those of its package `@librechat/agents` (3.2.21), with the headers of the endpoint as LibreChat fills them in;
AnythingLLM's those of its provider "Generic OpenAI" (August 2026).
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from client_packages import CLIENTS
from docs.pages import DOCS

RECORDED: Final = json.loads((CLIENTS / "open_webui" / "requests.json").read_text())
CHAT: Final = RECORDED["chat"]
PAGE: Final = DOCS / "chat-programs.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As the page says: the program's stop button stops the run."""
    folder = tmp_path_factory.mktemp("programs")
    with serving(TARGETS / "chat_program.py", "--on-disconnect", "cancel", folder=folder) as made:
        yield made


def streamed(lines: Iterator[str], *, until_text: str | None = None, until_finished: bool = False) -> tuple[str, str]:
    """Return the text of a stream, as programs show it, and the id of its last call.

    Stops reading after some text, or as soon as the answer is finished, as some programs do.
    """
    text = call_id = ""
    for line in lines:
        if line == "data: [DONE]":
            return text, call_id
        if not line.startswith("data: "):
            continue
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            text += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or ():
                call_id = call.get("id") or call_id
            if until_finished and choice["finish_reason"]:
                return text, call_id
        if until_text is not None and until_text in text:
            return text, call_id
    raise AssertionError(f"the stream broke off after {text!r}")


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
                if "choices" in answer:
                    return response.status_code, answer["choices"][0]["message"]["content"]
                return response.status_code, answer["error"]["message"]
            text, call_id = streamed(response.iter_lines(), until_text=until_text)
            self.call_id = call_id or self.call_id
            return response.status_code, text


def users(server: Server, session_id: str = CHAT) -> list[str]:
    return texts(server.history(session_id), "user")


def last_run(server: Server, session_id: str = CHAT) -> dict[str, Any]:
    run: dict[str, Any] = server.client.get(f"/v1/sessions/{session_id}/runs").json()["runs"][0]
    return run


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_a_conversation_in_open_webui(server: Server) -> None:
    program = OpenWebUi(server)
    assert program.next() == (200, "Let me call add. \n\nadd returned 5. That was message 1 of this session.")
    for task in ("title_generation", "follow_up_generation"):  # which leave the chat alone
        assert program.next(task)[0] == 200
        assert len(users(server, f"{CHAT}{task}")) == 1
    status, text = program.next()
    assert status == 200
    assert text.startswith("I am a script. You said: hello there. That was message 2 of this session.")
    assert program.next("tags_generation")[0] == 200
    # another answer to the last message
    status, text = program.next()
    assert "That was message 2 of this session." in text
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
    status, text = program.next()
    assert (status, "The last message must be the user's" in text) == (400, True)
    assert len(users(server)) == 4


class LibreChat:
    """Sends what LibreChat sends to a custom endpoint: the shown conversation, and requests for its title."""

    def __init__(self, server: Server, conversation_id: str) -> None:
        self._client = server.client
        self._headers = {
            "accept": "application/json",
            "authorization": "Bearer none",
            "user-agent": "langchainjs-openai/1.0.0 ((node/v20.20.2; linux; x64))",
            "x-stainless-lang": "js",
            "x-stainless-retry-count": "0",
            "x-session-id": conversation_id,
            "x-client-history": "follow",
        }
        self.shown: list[dict[str, str]] = []

    def chat(self, text: str) -> str:
        self.shown = [*self.shown, said("user", text)]
        body = {"model": "strandline", "stream": True, "stream_options": {"include_usage": True}}
        with self._client.stream(
            "POST", "/v1/chat/completions", json={**body, "messages": self.shown}, headers=self._headers
        ) as response:
            assert response.status_code == 200
            answer, _ = streamed(response.iter_lines())
        self.shown = [*self.shown, said("assistant", answer)]
        return answer

    def title(self, **more: Any) -> str:
        wanted = f"A title for: {self.shown}"
        body = {"model": "strandline", "stream": False, "messages": [said("user", wanted)], **more}
        response = self._client.post("/v1/chat/completions", json=body, headers=self._headers)
        assert response.status_code == 200, response.text
        content: str = response.json()["choices"][0]["message"]["content"]
        return content


def test_a_conversation_in_librechat(server: Server) -> None:
    program = LibreChat(server, "libre")
    assert program.chat("add 2 and 3").endswith("add returned 5. That was message 1 of this session.")
    properties = {"language": {"type": "string"}, "title": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["language", "title"]}
    form = {"type": "json_schema", "json_schema": {"name": "extract", "schema": schema}}
    assert json.loads(program.title(response_format=form)).keys() == properties.keys()
    assert program.title()
    # titles that the page advises against are branches of their own: the chat continues where it was
    assert "That was message 2 of this session." in program.chat("hello there")
    assert users(server, "libre") == ["add 2 and 3", "hello there"]
    program.shown = program.shown[:2]
    assert program.chat("hello again").count("That was message 2 of this session.") == 1
    assert users(server, "libre") == ["add 2 and 3", "hello again"]


class AnythingLlm:
    """Sends what one thread of an AnythingLLM sends; all of them have the same headers."""

    def __init__(self, server: Server, headers: str) -> None:
        self._client = server.client
        given = dict(each.split(":", 1) for each in headers.split(","))
        self._headers = {"accept": "application/json", "authorization": "Bearer none", **given}
        self._shown: list[dict[str, str]] = []

    def chat(self, text: str) -> str:
        """It hangs up once the answer is finished, before the stream has ended."""
        messages = [said("system", "Given the following conversation, answer."), *self._shown, said("user", text)]
        body = {"model": "strandline", "stream": True, "messages": messages, "temperature": 0.7, "max_tokens": 1024}
        with self._client.stream("POST", "/v1/chat/completions", json=body, headers=self._headers) as response:
            assert response.status_code == 200
            answer, _ = streamed(response.iter_lines(), until_finished=True)
        self._shown = [*self._shown, said("user", text), said("assistant", answer)]
        return answer


def test_two_threads_in_anythingllm(server: Server) -> None:
    (headers,) = re.findall(r'GENERIC_OPEN_AI_CUSTOM_HEADERS="(.*)"', PAGE.read_text())
    one, two = AnythingLlm(server, headers), AnythingLlm(server, headers)
    assert "add returned 5. That was message 1" in one.chat("add 2 and 3")
    assert "add returned 9. That was message 1" in two.chat("add 4 and 5")
    assert "add returned 3. That was message 2" in one.chat("add 1 and 2")
    assert users(server, "ada") == ["add 2 and 3", "add 1 and 2"]
    assert last_run(server, "ada")["status"] == "succeeded"
