"""The example `examples/fastapi` as its README says: a real uvicorn process, asked over real HTTP."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.mounted import MountedServer, mounted
from acceptance.server import DEADLINE_S, texts, until

EXAMPLE = Path(__file__).parents[2] / "examples/fastapi"


TAKES_A_WHILE = "await asyncio.sleep(2)"
PAUSE_OPTION = 'from acceptance.checkpoints import pass_step; await asyncio.to_thread(pass_step, "pack")'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "fastapi"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[MountedServer]:
    with mounted("app:app", folder=folder) as server:
        yield server


@pytest.fixture
def packing(folder: Path) -> Iterator[tuple[MountedServer, Checkpoints]]:
    """The example, but packing takes as long as a test wants it to, instead of two seconds."""
    text = (folder / "app.py").read_text()
    assert text.count(TAKES_A_WHILE) == 1
    (folder / "app.py").write_text(text.replace(TAKES_A_WHILE, PAUSE_OPTION))
    with checkpoints() as at, mounted("app:app", folder=folder, variables=at.environment) as server:
        at.hold("pack")
        yield server, at


def test_the_app_answers_and_so_does_its_agent(server: MountedServer) -> None:
    assert server.client.get(f"{server.url}/orders/17").json() == {"status": "on its way"}
    assert server.chat("where is 17?", "ada")["response"] == "Your order is on its way."


def test_two_requests_at_once_are_answered_in_order_each_with_its_own(
    packing: tuple[MountedServer, Checkpoints],
) -> None:
    server, at = packing
    first, second = server.line_up("pack 18", "hello", session_id="ada")
    at.release()
    assert first.result().json()["response"] == "Your order is packed."
    assert second.result().json()["response"] == "This is question 2 of this conversation."
    assert texts(server.history("ada"), "user") == ["pack 18", "hello"]
    assert server.client.get(f"{server.url}/orders/18").json() == {"status": "packed"}


def test_a_route_of_the_app_calls_the_agent(server: MountedServer) -> None:
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


def test_sigterm_lets_what_executes_finish_and_keeps_what_waits_whichever_way_it_came(
    packing: tuple[MountedServer, Checkpoints],
) -> None:
    server, at = packing
    (first,) = server.line_up("pack 18", session_id="order-18")
    at.reached("pack")
    (second,) = server.line_up("hello", session_id="order-18")
    url = f"{server.url}/orders/18/question"
    third = server.submit(server.client.post, url, params={"text": "hello"})
    until(lambda: server.health()["queue_depth"] == 2, "both wait")
    server.terminate()
    later = [each.result(DEADLINE_S) for each in (second, third)]  # while the first one still executes
    assert not first.done()
    at.release()
    assert first.result(DEADLINE_S).json()["response"] == "Your order is packed."
    assert server.ended() == -signal.SIGTERM
    assert [each.status_code for each in later] == [202, 202]
    server.start()
    for number, each in enumerate(later, 2):
        run = server.client.get(f"{server.url}{each.headers['location']}", headers={"Prefer": "wait=20"}).json()
        assert run["run_id"] == each.json()["run_id"]
        assert run["output"] == f"This is question {number} of this conversation."
