"""`deploy/scale`: three servers over one PostgreSQL behind a balancer, in real containers."""

import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from docker_engine import BUILD_S, CHECKOUT, DEADLINE_S, docker, project, until

pytestmark = pytest.mark.docker

FOLDER: Final = CHECKOUT / "deploy" / "scale"
SESSIONS: Final = [f"s{number}" for number in range(12)]


@pytest.fixture(scope="module")
def debians(image: str) -> Iterator[str]:
    """An image that stands for those of PostgreSQL and HAProxy. (`image` asks for an engine first.)"""
    name = f"strandline-test-scale:{uuid.uuid4().hex[:12]}"
    flags = os.environ.get("DOCKER_BUILD_FLAGS", "").split()
    base = os.environ.get("BASE_IMAGE", "python:3.13-slim")
    folder = str(Path(__file__).parent / "scale_images")
    docker("build", *flags, "--build-arg", f"BASE_IMAGE={base}", "--tag", name, folder, deadline_s=BUILD_S)
    yield name
    docker("rmi", "--force", name)


def ask(url: str, session: str, message: str) -> dict[str, Any]:
    """Send a message, and send it again under its key when the connection to it breaks."""
    headers = {"Idempotency-Key": f'"{session}-{message}"'}
    body = {"message": message, "session_id": session}
    for _ in range(5):
        try:
            got = httpx.post(f"{url}/chat", json=body, headers=headers, timeout=DEADLINE_S, trust_env=False)
        except httpx.TransportError:
            continue
        if got.status_code < 500:
            answer: dict[str, Any] = got.raise_for_status().json()
            return answer
    raise AssertionError(f"no answer for {message!r} of {session}")


@pytest.mark.usefixtures("compose")
def test_a_killed_servers_conversations_go_on_at_the_other_two(image: str, debians: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "scale"))
    images = {"POSTGRES_IMAGE": debians, "HAPROXY_IMAGE": debians, "AGENT_IMAGE": image}
    variables = {**images, "POSTGRES_PASSWORD": uuid.uuid4().hex, "STRANDLINE_DEMO_MODEL": "scripted"}
    file = "compose.scale.yaml"
    (folder / file).rename(folder / "compose.yaml")
    with project(folder, **variables) as scale, ThreadPoolExecutor(len(SESSIONS)) as clients:
        scale.compose("up", "--detach", "--wait", "--quiet-pull")
        servers = scale.container("agent").split()
        assert len(servers) == 3
        url = scale.url("balancer")

        def all_say(message: str) -> list[str]:
            answers = clients.map(lambda session: ask(url, session, message), SESSIONS)
            return [answer["response"] for answer in answers]

        until(lambda: len(set(_servers_that_serve(servers))) == 3, "each server owns a part")
        until(lambda: _answers(f"{url}/readyz"), "the balancer has found them")
        for turn in (1, 2):
            assert all(f"message {turn}" in text for text in all_say(f"hello {turn}"))
        docker("kill", servers[0])
        assert all("message 3" in text for text in all_say("hello 3")), "each conversation goes on where it was"
        history = httpx.get(f"{url}/v1/sessions/{SESSIONS[0]}/history", timeout=DEADLINE_S, trust_env=False).json()
        said = [block["text"] for message in history["messages"] for block in message["content"] if "text" in block]
        assert [text for text in said if text.startswith("hello")] == ["hello 1", "hello 2", "hello 3"]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=DEADLINE_S, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _servers_that_serve(servers: list[str]) -> list[str]:
    """Return the servers that own something, as they say themselves."""
    ask_health = (
        "import json,urllib.request;print(urllib.request.urlopen('http://127.0.0.1:8080/health').read().decode())"
    )
    found = []
    for each in servers:
        shown = docker("exec", each, "python", "-c", ask_health)
        if '"partitions":0' not in shown.replace(" ", ""):
            found.append(each)
    return found
