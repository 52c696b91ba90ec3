"""The image, in real containers: the line as in a process, and whatever only a container can get wrong."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.race import judge, race
from docker_engine import (
    DEADLINE_S,
    container,
    docker,
    run_to_end,
    until,
    volume,
)

pytestmark = pytest.mark.docker

AGENT = '''
"""Answers when the file `open` lies beside this one, with whom it runs as."""
import asyncio, os
from pathlib import Path
from strands import Agent, tool
from strandline.testing import ScriptedModel, question

OPEN = Path(__file__).with_name("open")
IMPORTED_AS = os.getuid()

async def script(messages):
    while not OPEN.exists():
        await asyncio.sleep(0.02)
    who = f"uid {os.getuid()} gid {os.getgid()} groups {os.getgroups()} imported as {IMPORTED_AS}"
    return f"{question(messages)} {who} in {os.getcwd()} home {os.environ['HOME']}"

def make_agent(session_id):
    return Agent(model=ScriptedModel(script), callback_handler=None)
'''


@dataclass(frozen=True, slots=True)
class App:
    """A folder with an agent for /app, and the gate that holds its answers."""

    folder: Path

    @property
    def mount(self) -> tuple[str, str]:
        return ("--volume", f"{self.folder}:/app:ro")

    def open(self) -> None:
        (self.folder / "open").touch()


@pytest.fixture
def app(tmp_path: Path) -> App:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "agent.py").write_text(AGENT)
    # Whoever runs in the container is somebody else here.
    folder.chmod(0o755)
    (folder / "agent.py").chmod(0o644)
    return App(folder)


@pytest.fixture
def waiters() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(10) as pool:
        yield pool


def ask(url: str, message: str, session_id: str = "s") -> httpx.Response:
    body = {"message": message, "session_id": session_id}
    return httpx.post(f"{url}/chat", json=body, timeout=DEADLINE_S)


def health(url: str) -> dict[str, Any]:
    got: dict[str, Any] = httpx.get(f"{url}/health").json()
    return got


def history(url: str, session_id: str = "s") -> list[dict[str, Any]]:
    query: dict[str, str | int] = {"session_id": session_id, "count": 0}
    messages: list[dict[str, Any]] = httpx.get(f"{url}/history", params=query).json()["messages"]
    return messages


def line_up(url: str, pool: ThreadPoolExecutor, questions: list[str]) -> list["Future[httpx.Response]"]:
    """Send the questions to one session so that they arrive in this order; all of them wait on return."""
    sent = []
    for waiting, question in enumerate(questions):
        sent.append(pool.submit(ask, url, question))
        until(
            lambda at=waiting: (health(url)["processing"], health(url)["queue_depth"]) == (True, at),  # type: ignore[misc]
            f"{waiting} runs waiting",
        )
    return sent


# -- the line -----------------------------------------------------------------------------------------


def test_five_requests_at_once_are_answered_in_order(image: str, app: App) -> None:
    with container(image, *app.mount) as server:
        verdict = race(server.until_ready(), n=5, all_inside=app.open)

    assert verdict.good, str(verdict)
    assert verdict.seen_processing
    assert verdict.most_waiting == 4


def test_nothing_accepted_is_lost_when_the_container_is_killed(
    image: str, app: App, waiters: ThreadPoolExecutor
) -> None:
    questions = [f"question {number}" for number in range(5)]
    with volume(image) as data, container(image, *app.mount, *data.mount) as server:
        sent = line_up(server.until_ready(), waiters, questions)
        server.kill()
        for request in sent:
            assert isinstance(request.exception(DEADLINE_S), httpx.TransportError)
        app.open()
        server.start()
        url = server.until_ready()
        until(lambda: len(history(url)) >= 10, "all five answered")

        assert judge(history(url), questions) == []
        assert health(url)["queue_depth"] == 0


@pytest.mark.parametrize("options", [[], ["--init"]], ids=["as the first process", "under an init"])
def test_stop_lets_the_running_run_end_and_keeps_the_waiting_one(
    image: str, app: App, waiters: ThreadPoolExecutor, options: list[str]
) -> None:
    with volume(image) as data, container(image, *options, *app.mount, *data.mount) as server:
        url = server.until_ready()
        running, waiting = line_up(url, waiters, ["first", "second"])
        stopped = waiters.submit(server.stop)
        until(lambda: httpx.get(f"{url}/readyz").status_code == 503, "the server drains")
        app.open()

        assert running.result(DEADLINE_S).json()["response"].startswith("first")
        later = waiting.result(DEADLINE_S)
        assert later.status_code == 202
        assert stopped.result(DEADLINE_S) in (0, 143)

        server.start()
        url = server.until_ready()
        until(lambda: len(history(url)) == 4, "the second one answered")
        assert judge(history(url), ["first", "second"]) == []
        run = httpx.get(f"{url}{later.headers['location']}").json()
        assert (run["run_id"], run["status"]) == (later.json()["run_id"], "succeeded")


def test_an_idle_server_stops_at_once_and_cleanly(image: str, app: App) -> None:
    with container(image, *app.mount) as server:
        server.until_ready()
        assert server.execute("cat", "/proc/1/cmdline").split("\0")[1].endswith("/strandline")
        assert server.stop() in (0, 143)


# -- whose it is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "options", "uid", "gid"),
    [
        ("10001:10001", [], 10001, 10001),
        ("0:0", [], 10001, 10001),
        ("4321:4322", [], 4321, 4322),
        ("4321:0", [], 4321, 10001),
        ("5555:5556", ["--user", "5555:5556"], 5555, 5556),
    ],
    ids=["the image's", "root's", "somebody's", "somebody's with root's group", "started as its owner"],
)
def test_data_works_whoever_owns_it_and_no_agent_runs_as_root(
    image: str, app: App, owner: str, options: list[str], uid: int, gid: int
) -> None:
    app.open()
    with volume(image, owner) as data, container(image, *options, *app.mount, *data.mount) as server:
        answer = ask(server.until_ready(), "who?").json()["response"]
        owner_of_journal = server.execute("stat", "--format", "%u:%g", "/data/journal.db")

    groups = [gid] if "--user" in options else []
    assert answer == (
        f"who? uid {uid} gid {gid} groups {groups} imported as {uid} in /data/workspace home /data/workspace"
    )
    assert owner_of_journal == f"{uid}:{gid}"


def test_what_root_left_in_a_data_folder_of_roots_is_given_away_too(image: str) -> None:
    with volume(image, "0:0") as data:
        leave = ("--user", "0", "--entrypoint", "sh", *data.mount)
        docker(
            "run", "--rm", *leave, image, "-c", "mkdir /data/workspace && touch /data/journal.db /data/workspace/note"
        )
        done = run_to_end(image, *data.mount, command=["stat", "--format", "%u", "/data/journal.db", "note"])

    assert (done.status, done.stdout.split()) == (0, ["10001", "10001"])


def test_data_that_cannot_be_written_is_refused_with_the_command_that_mends_it(image: str, app: App) -> None:
    with volume(image, "0:0") as data:
        done = run_to_end(image, "--user", "5555:5556", *app.mount, *data.mount)
        assert done.status == 2
        assert "chown -R 5555:5556" in done.stderr

        done = run_to_end(image, *app.mount, *data.mount_read_only)
        assert done.status == 2
        assert "leave out the :ro" in done.stderr

        done = run_to_end(image, "--cap-drop", "ALL", *app.mount, *data.mount)
        assert done.status == 2
        assert "chown -R 10001:10001" in done.stderr
        assert "--user" in done.stderr


def test_an_agent_that_cannot_be_read_is_refused_with_the_command_that_mends_it(image: str, app: App) -> None:
    (app.folder / "agent.py").chmod(0o600)
    done = run_to_end(image, *app.mount)

    assert done.status == 2
    assert "chmod -R a+rX" in done.stderr


def test_a_read_only_container_without_any_capability_works(image: str, app: App) -> None:
    app.open()
    locked = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "10001:10001")
    with container(image, *locked, *app.mount) as server:
        assert ask(server.until_ready(), "still?").json()["status"] == "success"


def test_a_command_of_the_users_does_not_run_as_root_either(image: str) -> None:
    done = run_to_end(image, command=["sh", "-c", "id -u; pwd; touch $HOME/note"])

    assert (done.status, done.stdout.split()) == (0, ["10001", "/data/workspace"])


# -- what it serves, and where ------------------------------------------------------------------------


def test_without_an_agent_one_paragraph_shows_what_to_mount(image: str) -> None:
    done = run_to_end(image)

    assert done.status == 2
    assert '-v "$PWD:/app:ro"' in done.stderr
    assert "STRANDLINE_DEMO_MODEL=scripted" in done.stderr
    assert "\n" not in done.stderr.strip()


def test_the_scripted_demo_answers_two_at_once_in_order(image: str, waiters: ThreadPoolExecutor) -> None:
    with container(image, "--env", "STRANDLINE_DEMO_MODEL=scripted") as server:
        url = server.until_ready()
        first = waiters.submit(ask, url, "Roll a die with 20 sides.")
        until(lambda: health(url)["processing"], "the first one runs")
        second = waiters.submit(ask, url, "And you?")
        until(lambda: health(url)["queue_depth"] == 1, "the second one waits")

        assert "That was message 1 of this session." in first.result(DEADLINE_S).json()["response"]
        assert "That was message 2 of this session." in second.result(DEADLINE_S).json()["response"]


def test_a_demo_model_that_lacks_its_key_is_told_in_one_paragraph(image: str) -> None:
    """Its client is in the image, so that only the key is missing."""
    done = run_to_end(image, "--env", "STRANDLINE_DEMO_MODEL=openai:gpt-4o-mini")

    assert done.status == 2
    assert "Set OPENAI_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_is_honoured_and_the_health_check_finds_it(image: str, app: App) -> None:
    with container(image, "--env", "PORT=9090", *app.mount, port=9090) as server:
        server.until_ready()
        until(lambda: server.state["Health"]["Status"] == "healthy", "the engine calls it healthy")


def test_a_wrong_port_is_refused(image: str, app: App) -> None:
    done = run_to_end(image, "--env", "PORT=http", *app.mount)

    assert done.status == 2
    assert "PORT is 'http'" in done.stderr


def test_options_behind_the_image_reach_the_server(image: str, app: App) -> None:
    done = run_to_end(image, *app.mount, command=["--no-such-option"])

    assert done.status == 2
    assert "--no-such-option" in done.stderr


def test_the_image_says_what_it_is(image: str) -> None:
    labels = docker("inspect", "--format", "{{json .Config.Labels}}", image)

    assert '"org.opencontainers.image.title":"Strandline"' in labels
    assert '"org.opencontainers.image.licenses":"Apache-2.0"' in labels
