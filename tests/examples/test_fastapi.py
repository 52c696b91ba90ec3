"""The example `examples/fastapi` as its README says: a real uvicorn process, asked over real HTTP."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.mounted import MountedServer, mounted
from acceptance.server import texts, until

EXAMPLE = Path(__file__).parents[2] / "examples/fastapi"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MountedServer]:
    folder = tmp_path / "fastapi"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    with mounted("app:app", folder=folder) as server:
        yield server


def test_the_app_answers_and_so_does_its_agent(server: MountedServer) -> None:
    assert server.client.get(f"{server.url}/orders/17").json() == {"status": "on its way"}
    assert server.chat("where is 17?", "ada")["response"] == "Your order is on its way."


def test_two_requests_at_once_are_answered_in_order_each_with_its_own(server: MountedServer) -> None:
    first, second = server.line_up("pack 18", "hello", session_id="ada")
    assert first.result().json()["response"] == "Your order is packed."
    assert second.result().json()["response"] == "This is question 2 of this conversation."
    assert texts(server.history("ada"), "user") == ["pack 18", "hello"]


def test_a_route_of_the_app_asks_the_agent(server: MountedServer) -> None:
    answers = [
        server.client.post(f"{server.url}/orders/17/question", params={"text": "hello"}).json() for _ in range(2)
    ]
    assert [each["answer"] for each in answers] == [f"This is question {n} of this conversation." for n in (1, 2)]
    assert server.run(answers[0]["run_id"])["status"] == "succeeded"
    assert len(server.history("order-17")) == 4


def test_a_restart_keeps_history(server: MountedServer) -> None:
    server.chat("hello", "ada")
    server.terminate()
    assert server.ended() == -signal.SIGTERM
    server.start()
    assert server.chat("hello", "ada")["response"] == "This is question 2 of this conversation."


def test_sigterm_lets_what_executes_finish_and_keeps_what_waits(server: MountedServer) -> None:
    first, second = server.line_up("pack 18", "hello", session_id="ada")
    server.terminate()
    assert server.ended() == -signal.SIGTERM
    assert first.result().json()["response"] == "Your order is packed."
    later = second.result()
    assert (later.status_code, later.json()["status"]) == (202, "queued")
    server.start()
    until(lambda: server.run(later.json()["run_id"])["status"] == "succeeded", "the run that waited")
    assert server.client.get(f"{server.url}{later.headers['location']}").json()["output"].startswith("This is question")
