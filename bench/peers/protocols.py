"""The protocol of each server: the requests of a turn, a stream and a probe, and whether a body is an answer."""

import re
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from bench.load import chat, request
from bench.peers.script import text_of

SESSION_HEADER: Final = "X_Amzn_Bedrock_AgentCore_Runtime_Session_Id"

_TEXTS: Final = re.compile(r'"(?:content|data|delta|response|result|text)": ?"((?:[^"\\]|\\.)*)"')
_ANSWER: Final = text_of("").encode()


class Dialect(Protocol):
    """What one kind of server understands."""

    @property
    def health(self) -> str:
        """The path of health probes."""
        ...

    def turn(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn."""
        ...

    def stream(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn whose text is streamed."""
        ...


def answered(message: str, body: bytes) -> bool:
    """Return whether a body has the whole answer to a message, in one piece or in several, whatever the protocol."""
    return text_of(message) in "".join(_TEXTS.findall(body.decode(errors="replace")))


def quickly_answered(status: int, body: bytes) -> bool:
    """Return whether a body is an answer, for messages that cannot fail, at little cost to the load generator."""
    return status == 200 and _ANSWER in body


@dataclass(frozen=True, slots=True)
class Lock:
    """FastAPI and a lock."""

    health: str = "/health"

    def turn(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn."""
        return chat(url, session, message)

    def stream(self, url: str, session: str, message: str) -> bytes:
        """Write the request of a stream."""
        return request(url, "POST", "/stream", {"message": message, "session_id": session})


@dataclass(frozen=True, slots=True)
class Strandline:
    """Strandline's `/chat`, and its runs for streams."""

    health: str = "/health"

    def turn(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn."""
        return chat(url, session, message)

    def stream(self, url: str, session: str, message: str) -> bytes:
        """Write the request of a stream."""
        path = f"/v1/sessions/{session}/runs"
        return request(url, "POST", path, {"input": message}, Accept="text/event-stream")


@dataclass(frozen=True, slots=True)
class AgentCore:
    """The contract of AgentCore Runtime; its session ids have at least 33 characters."""

    health: str = "/ping"

    def turn(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn."""
        return self._ask(url, session, {"prompt": message})

    def stream(self, url: str, session: str, message: str) -> bytes:
        """Write the request of a stream."""
        return self._ask(url, session, {"prompt": message, "stream": True})

    def _ask(self, url: str, session: str, body: object) -> bytes:
        return request(url, "POST", "/invocations", body, **{SESSION_HEADER: session.ljust(33, "-")})


@dataclass(frozen=True, slots=True)
class A2A:
    """A2A 0.3 over JSON-RPC; it has no health route, so probes request its card."""

    health: str = "/.well-known/agent-card.json"

    def turn(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn."""
        return self._ask(url, session, message, "message/send")

    def stream(self, url: str, session: str, message: str) -> bytes:
        """Write the request of a stream."""
        return self._ask(url, session, message, "message/stream")

    def _ask(self, url: str, session: str, message: str, method: str) -> bytes:
        said = {
            "kind": "message",
            "messageId": uuid4().hex,
            "contextId": session,
            "role": "user",
            "parts": [{"kind": "text", "text": message}],
        }
        return request(url, "POST", "/", {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"message": said}})


@dataclass(frozen=True, slots=True)
class AgUi:
    """AG-UI, which always streams."""

    health: str = "/ping"

    def turn(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn."""
        said = [{"id": uuid4().hex, "role": "user", "content": message}]
        empty: dict[str, object] = {"state": {}, "tools": [], "context": [], "forwardedProps": {}}
        body = {"threadId": session, "runId": uuid4().hex, "messages": said, **empty}
        return request(url, "POST", "/", body, Accept="text/event-stream")

    stream = turn


@dataclass(frozen=True, slots=True)
class Agno:
    """AgentOS's plain endpoint, which takes forms."""

    health: str = "/health"

    def turn(self, url: str, session: str, message: str) -> bytes:
        """Write the request of one turn."""
        return self._ask(url, session, message, "false")

    def stream(self, url: str, session: str, message: str) -> bytes:
        """Write the request of a stream."""
        return self._ask(url, session, message, "true")

    def _ask(self, url: str, session: str, message: str, stream: str) -> bytes:
        sent = urlencode({"message": message, "session_id": session, "stream": stream}).encode()
        head = (
            "POST /agents/bench/runs HTTP/1.1",
            f"Host: {urlsplit(url).netloc}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(sent)}",
        )
        return "\r\n".join([*head, "", ""]).encode() + sent
