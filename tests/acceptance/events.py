"""Events as a client of the wire sees them: `listening` reads server-sent events one by one, with a deadline.

Each that is heard must be as the server's own OpenAPI document describes it.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import httpx
import jsonschema  # type: ignore[import-untyped]

from acceptance.server import DEADLINE_S, Server

_SEGMENT = re.compile(r"(/(session|run)s/)[^/]+")
ACCEPT = {"Accept": "text/event-stream"}


class Sent(NamedTuple):
    """An event: its id as it was sent, its type, and what its data holds."""

    id: str | None
    type: str
    data: dict[str, Any]


class Ear:
    """The events of one response, as they come."""

    def __init__(self, response: httpx.Response, union: str, schemas: dict[str, Any]) -> None:
        self.response = response
        self.heard: list[Sent] = []
        self._types: dict[str, str] = schemas[union]["discriminator"]["mapping"]
        self._needed = schemas[union].get("required", [])
        self._schemas = schemas
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[Sent]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(":")
                assert name not in fields or not name
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                data = json.loads(fields["data"])
                self._check(fields["event"], data)
                self.heard.append(Sent(fields.get("id"), fields["event"], data))
                fields = {}
                yield self.heard[-1]
            else:
                fields = {}

    def _check(self, kind: str, data: dict[str, Any]) -> None:
        assert data["type"] == kind
        assert set(self._needed) <= set(data)
        described = self._schemas[self._types[kind].rpartition("/")[2]]
        assert set(data) <= set(described["properties"]), "every event is described"
        jsonschema.validate(data, {**described, "components": {"schemas": self._schemas}})

    def until(self, kind: str, where: Callable[[dict[str, Any]], object] = lambda data: True) -> Sent:
        """Return the next event of this type."""
        for each in self:
            if each.type == kind and where(each.data):
                return each
        raise AssertionError(f"the stream has ended without {kind}: {self.heard}")

    def rest(self) -> list[Sent]:
        """Return all that was heard, when the stream has ended."""
        for _ in self:
            pass
        return self.heard

    @property
    def last_id(self) -> str:
        """The id of the last event that had one."""
        return [each.id for each in self.heard if each.id is not None][-1]


END: Final = str(2**53 - 1)
"""The id of every `run.finished`."""


def ids_of_a_run(heard: list[Sent]) -> list[str]:
    """Return the ids of all events of a run, which was followed to its end."""
    ids = [each.id for each in heard if each.id is not None]
    assert ids == [*map(str, range(1, len(ids))), END], "no gap and no repeat"
    return ids


@contextmanager
def listening(server: Server, method: str, path: str, *, after: str | None = None, **request: Any) -> Iterator[Ear]:
    """Ask for events over a connection of its own, which ends with the block."""
    headers = {**ACCEPT, **request.pop("headers", {}), **({} if after is None else {"Last-Event-ID": after})}
    with (
        httpx.Client(base_url=server.url, timeout=DEADLINE_S, trust_env=False) as client,
        client.stream(method, path, headers=headers, **request) as response,
    ):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        document = client.get("/openapi.json").json()
        described = document["paths"][_SEGMENT.sub(r"\1{\2_id}", path.partition("?")[0])][method.lower()]
        media = described["responses"]["200"]["content"]["text/event-stream"]
        union = media["schema"]["properties"]["data"]["contentSchema"]["$ref"].rpartition("/")[2]
        yield Ear(response, union, document["components"]["schemas"])


def spoken(heard: list[Sent]) -> str:
    """Return the text that somebody has who reads these events, as they say that it counts."""
    messages: list[str] = []
    text = ""
    for each in heard:
        match each.type:
            case "text.delta":
                text += each.data["text"]
            case "text.reset":
                text = ""
            case "run.restarted":
                messages = [_text(message) for message in each.data["messages"]]
                text = ""
            case "message.added":
                messages.append(_text(each.data["message"]))
                text = ""
    return [*messages, text][-1] or messages[-1]


def _text(message: dict[str, Any]) -> str:
    return "".join(block.get("text", "") for block in message["content"])
