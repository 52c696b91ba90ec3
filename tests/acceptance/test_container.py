"""The image, in real containers: the line as in a process, and whatever only a container can get wrong."""

import json
import os
import re
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance.race import judge, race
from docker_engine import (
    CHECKOUT,
    DEADLINE_S,
    HARDENED,
    container,
    docker,
    run_to_end,
    until,
    volume,
)
from strandline import __version__
from strandline._config import default_of

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
    # The user in the container is another one here.
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


def text(message: dict[str, Any]) -> str:
    return "".join(block.get("text", "") for block in message["content"])


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


def test_five_requests_at_once_are_answered_in_order_and_an_idle_server_stops_cleanly(image: str, app: App) -> None:
    with container(image, *HARDENED, *app.mount) as server:
        verdict = race(server.until_ready(), n=5, all_inside=app.open)
        assert verdict.good, str(verdict)
        assert verdict.seen_processing
        assert verdict.most_waiting == 4

        # It is the first process, so that it gets the engine's signals; it can do nothing that needs a privilege.
        assert server.execute("cat", "/proc/1/cmdline").split("\0")[1].endswith("/strandline")
        status = server.execute("grep", "-E", "^(Cap|NoNewPrivs|Uid)", "/proc/1/status")
        rights = dict(line.split(":\t", 1) for line in status.splitlines())
        assert rights.pop("Uid") == "\t".join(["10001"] * 4)
        assert rights.pop("NoNewPrivs") == "1"
        assert len(rights) == 5
        assert {int(each, 16) for each in rights.values()} == {0}
        # What a tool leaves in memory there is bounded, or the kernel would end the server for it.
        assert server.execute("df", "--output=size", "--block-size=M", "/tmp").split()[-1] == "64M"
        assert server.stop() in (0, 143)


def test_what_was_accepted_under_load_survives_a_kill(image: str, app: App, waiters: ThreadPoolExecutor) -> None:
    """Ten clients that send on and on, each to a session of its own; the container is killed in the middle of it."""
    app.open()
    with volume(image) as data, container(image, *HARDENED, *app.mount, *data.mount) as server:
        url = server.until_ready()
        accepted: list[list[str]] = [[] for _ in range(10)]

        def send_on(number: int) -> None:
            with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
                for count in range(10_000):
                    body = {"input": f"question {count}"}
                    try:
                        answer = client.post(f"/v1/sessions/s{number}/runs", json=body)
                    except httpx.TransportError:
                        return
                    if answer.status_code == 202:  # (else the session's queue was full)
                        accepted[number].append(answer.json()["run_id"])

        sending = [waiters.submit(send_on, number) for number in range(10)]
        until(lambda: min(map(len, accepted)) >= 10, "ten runs accepted in each session")
        server.kill()
        for each in sending:
            each.result(DEADLINE_S)

        server.start()
        url = server.until_ready()
        until(lambda: not (now := health(url))["processing"] and now["queue_depth"] == 0, "all of them ended")
        for number, runs in enumerate(accepted):
            with httpx.Client(base_url=url) as client:
                ended = [client.get(f"/v1/runs/{each}").json() for each in runs]
            assert [each["status"] for each in ended] == ["succeeded"] * len(runs)
            replies = history(url, f"s{number}")
            assert judge(replies) == []
            answers = [text(message) for message in replies if message["role"] == "assistant"]
            # In the order of acceptance; runs that were accepted without an answer may be between them.
            places = [answers.index(each["output"]) for each in ended]
            assert places == sorted(places)


def test_a_stop_drains_and_a_second_container_on_the_volume_takes_over(
    image: str, app: App, waiters: ThreadPoolExecutor
) -> None:
    """It waits, alive and not ready, for as long as the first one has the journal."""
    with volume(image) as data, container(image, *HARDENED, *app.mount, *data.mount) as first:
        url = first.until_ready()
        running, waiting = line_up(url, waiters, ["first", "second"])
        options = ("--init", *HARDENED, *app.mount, *data.mount)
        with container(image, *options, port=9191, command=["--port", "9191"]) as second:
            until(lambda: second.probes == (200, 503), "the second one waits")
            until(lambda: "starting" in second.health_checks, "the engine has looked at it")
            assert second.state["Health"]["Status"] == "starting", "healthy is who has been ready"
            stopped = waiters.submit(first.stop)
            until(lambda: httpx.get(f"{url}/readyz").status_code == 503, "the first one drains")
            assert second.probes == (200, 503)
            app.open()

            assert running.result(DEADLINE_S).json()["response"].startswith("first")
            later = waiting.result(DEADLINE_S)
            assert later.status_code == 202
            assert stopped.result(DEADLINE_S) == 0

            url = second.until_ready()
            until(lambda: second.state["Health"]["Status"] == "healthy", "the engine calls it healthy")
            until(lambda: len(history(url)) == 4, "the second run answered")
            assert judge(history(url), ["first", "second"]) == []
            run = httpx.get(f"{url}{later.headers['location']}").json()
            assert (run["run_id"], run["status"]) == (later.json()["run_id"], "succeeded")
            assert second.stop() in (0, 143)  # under an init it is the signal that it ends by


def test_neither_a_full_disk_nor_a_thousand_idle_clients_take_the_server_down(image: str, app: App) -> None:
    """A small disk, and room for few files."""
    app.open()
    disk = ("--tmpfs", "/data:uid=10001,gid=10001,size=8m", "--ulimit", "nofile=1024:1024")
    with container(image, *HARDENED, *disk, *app.mount) as server:
        url = server.until_ready()
        log = [json.loads(line) for line in server.logs.splitlines()]
        assert any("at most 668 connections" in each["message"] for each in log), log
        assert ask(url, "before").status_code == 200
        host, port = url.removeprefix("http://").split(":")
        with ExitStack() as idle:
            for _ in range(1_000):
                idle.enter_context(socket.create_connection((host, int(port)), timeout=DEADLINE_S)).send(b"GET /")
            took = []
            for _ in range(20):
                began = time.perf_counter()
                health(url)
                took.append(time.perf_counter() - began)
            assert statistics.median(took) < 0.5
            assert int(server.execute("sh", "-c", "ls /proc/1/fd | wc -l")) < 1024
            assert ask(url, "beside them").status_code == 200

        refused = None
        for number in range(20):
            server.execute("sh", "-c", "cat /dev/zero >> /data/ballast || true")
            refused = ask(url, "more", f"full-{number}")
            if refused.status_code != 200:
                break
        assert refused is not None
        assert refused.status_code == 503
        assert refused.json()["code"] in ("journal_unavailable", "disk_low")  # whichever is found out first
        assert "retry-after" in refused.headers
        until(lambda: server.probes == (200, 503), "it lives, and is not ready while nothing can be kept")
        assert len(history(url)) == 4
        server.execute("rm", "/data/ballast")
        until(lambda: ask(url, "after").status_code == 200, "it resumes when there is space")
        until(lambda: server.probes == (200, 200), "ready again")
        assert judge(history(url)) == []


def test_an_agent_that_cannot_be_imported_ends_it_with_what_to_do(image: str, app: App) -> None:
    (app.folder / "agent.py").write_text("import no_such_module\n")
    done = run_to_end(image, *HARDENED, *app.mount)

    assert done.status == 2
    (line,) = done.stderr.splitlines()
    lines = json.loads(line)["message"].splitlines()
    assert lines[0].startswith("/app/agent.py cannot be imported: ModuleNotFoundError")
    assert lines[-1].startswith("Install it")
    assert "Traceback" not in line


# -- whose it is --------------------------------------------------------------------------------------


WHO: Final = "id -u; id -g; id -G; pwd; echo $HOME; touch journal && grep ^CapEff /proc/self/status | cut -f 2"


@pytest.mark.parametrize(
    ("owner", "options", "uid", "gid"),
    [
        ("10001:10001", [], 10001, 10001),
        ("4321:4322", [], 4321, 4322),
        ("4321:0", [], 4321, 10001),
        ("5555:5556", ["--user", "5555:5556"], 5555, 5556),
        ("0:10001", ["--user", "10001:10001"], 10001, 10001),
    ],
    ids=["the image's", "somebody's", "somebody's with root's group", "started as its owner", "as Kubernetes gives it"],
)
def test_data_works_with_any_owner_and_nothing_runs_as_root(
    image: str, owner: str, options: list[str], uid: int, gid: int
) -> None:
    """(On Kubernetes a disk is root's and, by `fsGroup`, its group may write there.)"""
    with volume(image, owner, mode="2775" if owner == "0:10001" else "755") as data:
        done = run_to_end(image, *options, *data.mount, command=["sh", "-c", WHO])

    assert done.stdout.split() == [f"{uid}", f"{gid}", f"{gid}", *["/data/workspace"] * 2, "0" * 16]


def test_a_root_with_three_capabilities_gives_away_what_is_roots_and_no_agent_runs_as_root(
    image: str, app: App
) -> None:
    """Also what root has left there before, and in folders that only their owner may enter; but nothing that is not of
    /data alone: where a link leads, a file with a second name, another disk.
    """
    app.open()
    few = ("--cap-drop", "ALL", *(each for cap in ("CHOWN", "SETGID", "SETUID") for each in ("--cap-add", cap)))
    with volume(image, "0:0", mode="700") as data:
        leave = """umask 77 && mkdir /data/workspace && touch /data/journal.db /data/workspace/note
            ln -s /etc/passwd /data/link && touch /data/one && ln /data/one /data/two"""
        docker("run", "--rm", "--user", "0", "--entrypoint", "sh", *data.mount, image, "-c", leave)
        disk = ("--tmpfs", "/data/disk:mode=755")
        with container(image, "--read-only", *few, *app.mount, *data.mount, *disk) as server:
            answer = ask(server.until_ready(), "who?").json()["response"]
            names = ("/data", "/data/journal.db", "/data/workspace/note", "/data/link")
            others = ("/data/one", "/data/two", "/data/disk", "/etc/passwd")
            owners = server.execute("stat", "--format", "%u:%g", *names, *others, user="10001")

    assert owners.split() == ["10001:10001"] * 4 + ["0:0"] * 4
    assert answer == ("who? uid 10001 gid 10001 groups [] imported as 10001 in /data/workspace home /data/workspace")


def test_unwritable_data_is_refused_with_the_command_that_fixes_it(image: str, app: App) -> None:
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

    with volume(image, "10001:10001") as data:  # and in it, say, a copy that root has put back
        docker("run", "--rm", "--user", "0", "--entrypoint", "touch", *data.mount, image, "/data/journal.db")
        done = run_to_end(image, *HARDENED, *app.mount, *data.mount)
        assert done.status == 2
        assert done.stderr.startswith("/data/journal.db: not writable for user 10001")
        mend = re.search(r"docker run (.*) -v VOLUME:/data IMAGE (.*)\);", done.stderr)
        assert mend is not None
        docker("run", *mend[1].split(), *data.mount, image, *mend[2].split())
        assert run_to_end(image, *data.mount, command=["true"]).status == 0

    full = ("--tmpfs", "/data:uid=10001,gid=10001,nr_inodes=1")
    done = run_to_end(image, *HARDENED, *app.mount, *full)
    assert done.status == 2
    assert "Free space on the disk mounted at /data" in done.stderr
    assert "chown" not in done.stderr


def test_files_of_root_in_anothers_data_become_the_owners_or_are_reported(image: str, app: App) -> None:
    """As from a container that stayed root."""
    left = (
        "mkdir -p /data/workspace/repo && touch /data/workspace/repo/file /data/.hidden && chmod 0600 /data/.hidden"
        " && chown 5555:5556 /data/workspace && ln /data/.hidden /data/workspace/second"
    )
    with volume(image, "5555:5556") as data:
        docker("run", "--rm", "--user", "0", "--entrypoint", "sh", *data.mount, image, "-c", left)
        few = ("--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID")
        done = run_to_end(image, *few, *app.mount, *data.mount)
        assert done.status == 2
        assert "belongs to root" in done.stderr
        assert "chown -R 5555:5556" in done.stderr

        look = ("sh", "-c", "find /data -user 0 -links 1; stat --format %u:%g /data/workspace/repo/file; id -u")
        done = run_to_end(image, *app.mount, *data.mount, command=look)
        assert done.stdout.split() == ["5555:5556", "5555"]
        # A second name of a file may stand anywhere: root's stays root's.
        second = ("stat", "--format", "%u", "/data/.hidden")
        assert run_to_end(image, *app.mount, *data.mount, command=second).stdout == "0\n"


def test_credentials_mounted_for_root_are_passed_on_or_it_says_why_not(image: str, tmp_path: Path) -> None:
    aws = tmp_path / "aws"
    aws.mkdir(mode=0o700)
    (aws / "credentials").write_text("[default]\naws_access_key_id = AKID\naws_secret_access_key = secret\n")
    (aws / "credentials").chmod(0o600)
    mount = ("--volume", f"{aws}:/root/.aws:ro")
    print_key = ("python", "-c", "import boto3; print(getattr(boto3.Session().get_credentials(), 'access_key', None))")
    where = (
        "sh",
        "-c",
        'echo $AWS_SHARED_CREDENTIALS_FILE $(readlink ~/.aws) $(stat --format %a "$(readlink ~/.aws)")',
    )
    kept = ("grep", "-r", "secret", "/data")

    # Root's: copied to where nothing is kept.
    assert run_to_end(image, *mount, command=print_key).stdout == "AKID\n"
    place = "/tmp/aws-10001"
    assert run_to_end(image, *mount, command=where).stdout.split() == [f"{place}/credentials", place, "700"]
    assert run_to_end(image, *mount, command=kept).stdout == ""
    # The user's own: used where they are, so that what is renewed on the host counts.
    with volume(image, f"{os.getuid() or 5555}:5555") as data:
        owner = os.getuid() or 5555
        for each in (aws, aws / "credentials"):
            os.chown(each, owner, -1)
        assert run_to_end(image, *mount, *data.mount, command=print_key).stdout == "AKID\n"
        output = run_to_end(image, *mount, *data.mount, command=where).stdout.split()
        assert output[:2] == ["/root/.aws/credentials", "/root/.aws"]
    # Readable by no user of the container: it prints a sentence, and continues.
    done = run_to_end(image, *HARDENED, *mount, command=print_key)
    assert (done.status, done.stdout) == (0, "None\n")
    assert "/root/.aws, but user 10001" in done.stderr
    assert "\n" not in done.stderr.strip()
    # What the operator says about them stands.
    said = ("--env", "AWS_SHARED_CREDENTIALS_FILE=/other")
    assert run_to_end(image, *mount, *said, command=where).stdout.split()[0] == "/other"


def test_an_unreadable_agent_is_refused_with_the_command_that_fixes_it(image: str, app: App) -> None:
    (app.folder / "agent.py").chmod(0o600)
    done = run_to_end(image, *app.mount)
    app.folder.chmod(0o700)
    behind = run_to_end(image, *app.mount)

    assert (done.status, behind.status) == (2, 2)
    assert "may not read /app/agent.py." in done.stderr
    assert "may not read /app." in behind.stderr
    assert "chmod -R a+rX" in done.stderr


# -- what it serves, and where ------------------------------------------------------------------------


def test_nothing_of_the_environments_runs_before_root_is_given_up(image: str, tmp_path: Path) -> None:
    """Python would import it as root, if it did not ignore the environment."""
    (tmp_path / "typing.py").write_text("import posix; raise SystemExit(f'imported by {posix.getuid()}')")
    tmp_path.chmod(0o755)
    theirs = ("--volume", f"{tmp_path}:/theirs:ro", "--env", "PYTHONPATH=/theirs")
    assert run_to_end(image, *theirs, command=["id", "-u"]).stdout == "10001\n"


def test_without_an_agent_one_paragraph_shows_what_to_mount(image: str) -> None:
    done = run_to_end(image)

    assert done.status == 2
    assert '-v "$PWD:/app:ro"' in done.stderr
    assert "STRANDLINE_DEMO_MODEL=scripted" in done.stderr
    assert "\n" not in done.stderr.strip()


def test_the_scripted_demo_answers_two_at_once_in_order(image: str, waiters: ThreadPoolExecutor) -> None:
    """With no other option than a port, which the health check finds."""
    variables = ("--env", "STRANDLINE_DEMO_MODEL=scripted", "--env", "PORT=9090")
    with container(image, *variables, port=9090) as server:
        url = server.until_ready()
        first = waiters.submit(ask, url, "Roll a die with 20 sides.")
        until(lambda: health(url)["processing"], "the first one runs")
        second = waiters.submit(ask, url, "And you?")
        until(lambda: health(url)["queue_depth"] == 1, "the second one waits")

        assert "That was message 1 of this session." in first.result(DEADLINE_S).json()["response"]
        assert "That was message 2 of this session." in second.result(DEADLINE_S).json()["response"]
        until(lambda: server.state["Health"]["Status"] == "healthy", "the engine calls it healthy")

        # What is typed into it is the server's: its user's, in its folder, with its settings. (`docker exec` is root.)
        assert server.execute("id", "-u") == "0"
        assert server.execute("strandline", "stacks") == "No run is executing."
        settings = json.loads(server.execute("strandline", "settings", "--json"))["settings"]
        in_force = {each["name"]: each["value"] for each in settings}
        assert (in_force["host"], in_force["port"]) == ("0.0.0.0", 9090)
        made = "/data/workspace/copy.db"
        server.execute("strandline", "journal", "backup", "copy.db")
        assert server.execute("stat", "--format", "%u:%g", made) == "10001:10001"
        server.execute("sh", "-c", f"cd /data && mv {made} . && strandline journal verify copy.db")


def test_a_demo_model_without_its_key_is_reported_in_one_paragraph(image: str) -> None:
    """Its client is in the image, so that only the key is missing."""
    done = run_to_end(image, "--env", "STRANDLINE_DEMO_MODEL=openai:gpt-4o-mini")

    assert done.status == 2
    assert "Set OPENAI_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_port_is_refused_under_the_name_that_it_was_given_by(image: str, app: App) -> None:
    """Such as a URL, which Kubernetes sets where a Service has the name of this one."""
    for name, wrong in (("PORT", "http"), ("STRANDLINE_PORT", "tcp://10.0.0.7:8080")):
        done = run_to_end(image, "--env", f"{name}={wrong}", *app.mount)
        assert done.status == 2
        assert f"port is '{wrong}' ({name})" in done.stderr


def test_options_behind_the_image_reach_the_server(image: str, app: App) -> None:
    done = run_to_end(image, *app.mount, command=["--no-such-option"])

    assert done.status == 2
    assert "--no-such-option" in done.stderr

    done = run_to_end(image, command=["no-such-command"])
    assert (done.status, done.stderr) == (127, "no-such-command: No such file or directory\n")


def test_the_image_says_what_it_is_and_is_for_any_processor(image: str) -> None:
    shown = docker("inspect", "--format", "{{json .Config.Labels}}", image)
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in json.loads(shown).items()}

    assert {"title", "description", "vendor", "licenses", "version"} <= set(labels)
    assert (labels["title"], labels["licenses"], labels["version"]) == ("Strandline", "Apache-2.0", __version__)
    if (CHECKOUT / ".git").exists():
        assert re.fullmatch("[0-9a-f]{40}", labels["revision"])
        assert datetime.fromisoformat(labels["created"]).tzinfo is not None
    assert not re.search("amd64|x86_64|arm64|aarch64|--platform", (CHECKOUT / "Dockerfile").read_text())

    check = json.loads(docker("inspect", "--format", "{{json .Config.Healthcheck}}", image))
    assert check["StartPeriod"] / 1e9 >= 2 * default_of("lock_wait"), "nobody is unhealthy for waiting its turn"
