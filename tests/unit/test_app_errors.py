"""Defects of the server's own: callers learn that there is one, and the log has what it is."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from strandline._http.app.errors import Endpoint
from strandline.errors import InvariantBroken

PLACES = ("/v1/sessions/s/runs", "/v1/chat/completions", "/invocations", "/agui", "/mcp", "/a2a")


@pytest.mark.parametrize("error", [InvariantBroken("the journal refused an operation: hunter2"), KeyError("hunter2")])
@pytest.mark.parametrize("path", PLACES)
def test_a_defect_is_logged_and_its_text_is_not_published(
    path: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Mapping[str, Any]] = []

    async def handler(request: Request) -> Response:
        raise error

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": [], "query_string": b""}
    asyncio.run(Endpoint(handler)(scope, receive, send))

    assert sent[0]["status"] == 500
    text = b"".join(each.get("body", b"") for each in sent[1:]).decode()
    assert "internal_error" in text
    assert "the server has a defect; its log says more" in text
    assert "hunter2" not in text
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert line.exc_info is not None
    assert line.exc_info[1] is error
