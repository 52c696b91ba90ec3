"""Nobody shares a conversation unknowingly: a request without a session is refused, unless the server allows it."""

from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance.server import Server, refused, serving
from strandline._access.keyring import new_key

KEY, KEPT = new_key("ada")
SHOWN: Final = {"Authorization": f"Bearer {KEY}"}
SAID: Final = [{"role": "user", "content": "hello"}]
AGENT: Final = """
async def answer(message, session):
    return f"{session.id}: {message}"
"""


@pytest.fixture
def agent(tmp_path: Path) -> str:
    (tmp_path / "agent.py").write_text(AGENT)
    return "agent.py:answer"


def completion(server: Server, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return server.client.post("/v1/chat/completions", json={"messages": SAID, **body}, headers=headers)


def session_that_answered(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["strandline"]["session_id"])


def test_without_keys_openais_form_wants_a_session_and_chat_does_not(agent: str, tmp_path: Path) -> None:
    with serving(agent, folder=tmp_path) as server:
        refusal = completion(server)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "no_session")
        for how in ("X-Session-Id", "metadata.session_id", "user", "default_session=shared"):
            assert how in refusal.json()["error"]["message"]
        assert server.client.get("/v1/sessions").json()["sessions"] == []
        assert server.chat("hello")["session_id"] == "default"
        assert server.client.get("/history").status_code == 200
        assert server.client.post("/invocations", json={"prompt": "hello"}).json()["session_id"] == "default"
        assert session_that_answered(completion(server, user="default")) == "default"


def test_with_keys_no_route_shares_a_session_unless_it_is_named(agent: str, tmp_path: Path) -> None:
    with serving(agent, "--api-keys", KEPT.line(), folder=tmp_path) as server:
        server.client.headers.update(SHOWN)
        chat = server.client.post("/chat", json={"message": "hello"})
        assert (chat.status_code, chat.json()["code"]) == (422, "no_session")
        assert "`session_id` in the body" in chat.json()["detail"]
        history = server.client.get("/history")
        assert (history.status_code, history.json()["code"]) == (422, "no_session")
        invoked = server.client.post("/invocations", json={"prompt": "hello"})
        assert (invoked.status_code, invoked.json()["error"]) == (400, "no_session")
        assert "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id" in invoked.json()["details"]
        assert completion(server).json()["error"]["code"] == "no_session"
        assert server.client.get("/v1/sessions").json()["sessions"] == []
        assert server.chat("hello", "default")["response"] == "default: hello"


def test_all_share_a_session_where_the_server_says_so(agent: str, tmp_path: Path) -> None:
    with serving(agent, "--api-keys", KEPT.line(), "--default-session", "shared", folder=tmp_path) as server:
        server.client.headers.update(SHOWN)
        assert server.client.post("/chat", json={"message": "hello"}).json()["session_id"] == "default"
        assert server.client.get("/history").status_code == 200
        assert server.client.post("/invocations", json={"prompt": "hello"}).json()["session_id"] == "default"
        assert session_that_answered(completion(server)) == "default"


def test_another_header_names_the_session(agent: str, tmp_path: Path) -> None:
    with serving(agent, "--session-header", "X-OpenWebUI-Chat-Id", folder=tmp_path) as server:
        assert session_that_answered(completion(server, {"x-openwebui-chat-id": "c1"}, user="u")) == "c1"
        refusal = completion(server, {"X-Session-Id": "c1"})
        assert refusal.json()["error"]["code"] == "no_session"
        assert "X-OpenWebUI-Chat-Id" in refusal.json()["error"]["message"]
        two = httpx.Headers([("X-OpenWebUI-Chat-Id", "one"), ("x-openwebui-chat-id", "two")])
        assert "two X-OpenWebUI-Chat-Id headers" in completion(server, two).json()["error"]["message"]  # type: ignore[arg-type]
        parameters = server.client.get("/openapi.json").json()["paths"]["/v1/chat/completions"]["post"]["parameters"]
        assert "X-OpenWebUI-Chat-Id" in {each["name"] for each in parameters}


def test_a_header_that_none_can_be_is_refused_at_the_start(agent: str, tmp_path: Path) -> None:
    assert "session_header" in refused(agent, "--session-header", "X Session", folder=tmp_path)
    assert "default_session" in refused(agent, "--default-session", "mine", folder=tmp_path)
