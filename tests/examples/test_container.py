"""examples/container: an image of one's own and its compose file, built and run by a real engine."""

import json
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from docker_engine import BUILD_S, DEADLINE_S, HARDENED, container, docker, project, volume
from examples_shown import example
from strandline._config import default_of

pytestmark = pytest.mark.docker

SHOWN = example("container")
FROM = "FROM strandline\n"
NETWORK_OF_ITS_OWN = "build: {network: host}"
"""How a build reaches a package registry on machines where only the host can."""


@pytest.fixture(scope="module")
def base(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image that `FROM strandline` stands for; on a network with an authority of its own, pip knows that one."""
    authority = os.environ.get("CA_BUNDLE") or os.environ.get("PIP_CERT")
    if not authority:
        yield image
        return
    folder = tmp_path_factory.mktemp("base")
    shutil.copy(authority, folder / "authority.crt")
    dockerfile = f"FROM {image}\nCOPY authority.crt /etc/authority.crt\nENV PIP_CERT=/etc/authority.crt\n"
    (folder / "Dockerfile").write_text(dockerfile)
    name = f"{image}-here"
    docker("build", "--tag", name, str(folder), deadline_s=BUILD_S)
    yield name
    docker("rmi", "--force", name)


@pytest.fixture
def folder(base: str, tmp_path: Path) -> Path:
    """A copy of the example that builds on the image of this checkout."""
    folder = SHOWN.copy(tmp_path / "container")
    dockerfile = (folder / "Dockerfile").read_text()
    assert dockerfile.startswith(FROM)
    (folder / "Dockerfile").write_text(dockerfile.replace(FROM, f"FROM {base}\n"))
    return folder


def ask(url: str, message: str) -> dict[str, Any]:
    response = httpx.post(f"{url}/chat", json={"message": message}, timeout=DEADLINE_S, trust_env=False)
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def layers(image: str) -> list[str]:
    made: list[str] = json.loads(docker("inspect", "--format", "{{json .RootFS.Layers}}", image))
    return made


def test_four_lines_make_an_image_whose_conversations_are_in_its_volume(base: str, folder: Path) -> None:
    assert len(SHOWN.folder.joinpath("Dockerfile").read_text().splitlines()) == 4
    mine = f"strandline-test-mine:{uuid.uuid4().hex[:12]}"
    flags = shlex.split(os.environ.get("DOCKER_BUILD_FLAGS", ""))
    docker("build", *flags, "--tag", mine, str(folder), deadline_s=BUILD_S)
    try:
        with volume(mine) as data:
            with container(mine, *HARDENED, *data.mount) as server:
                assert ask(server.until_ready(), "hello")["response"] == "Question 1: hello"
                look = "cd /app && OPENAI_API_KEY=key python -c 'import agent; print(type(agent.model).__name__)'"
                assert server.execute("sh", "-c", look) == "OpenAIModel"
                server.kill()

            (folder / "agent.py").write_text((folder / "agent.py").read_text().replace("one sentence", "two"))
            before = layers(mine)
            docker("build", *flags, "--tag", mine, str(folder), deadline_s=BUILD_S)
            assert layers(mine)[:-1] == before[:-1], "another agent makes the last layer anew, and no other"
            assert layers(mine) != before
            with container(mine, *HARDENED, *data.mount) as server:
                assert ask(server.until_ready(), "still there?")["response"] == "Question 2: still there?"
                assert server.stop() in (0, 143)
    finally:
        docker("rmi", "--force", mine)


@pytest.mark.usefixtures("compose")
def test_what_the_page_says_about_compose(folder: Path) -> None:
    """Ready when `up --wait` returns, the second answer counts on in a new container, and a stop is a clean one."""
    if "--network=host" in os.environ.get("DOCKER_BUILD_FLAGS", ""):
        (folder / "compose.override.yaml").write_text(f"services: {{agent: {{{NETWORK_OF_ITS_OWN}}}}}\n")
    shown = [
        shlex.split(line, comments=True)[2:]
        for block in SHOWN.blocks("sh")
        for line in block.splitlines()
        if line.startswith("docker compose ")
    ]
    assert [command[0] for command in shown] == ["up", "down", "up"]
    first, second = SHOWN.chat_bodies
    with project(folder) as agent:
        agent.compose(*shown[0])
        before = agent.container("agent")
        assert docker("inspect", "--format", "{{.State.Health.Status}}", before) == "healthy"
        answer = ask(agent.url("agent"), first["message"])
        assert (answer["response"], answer["agent_id"]) == ("Question 1: hello", "compose")
        page = {"Host": "evil.example", "Origin": "http://evil.example"}  # (of a name that leads to this machine)
        rebound = httpx.post(
            f"{agent.url('agent')}/chat", json=first, headers=page, timeout=DEADLINE_S, trust_env=False
        )
        assert (rebound.status_code, rebound.json()["code"]) == (403, "foreign")

        agent.compose(*shown[1])
        agent.compose(*shown[2])
        assert agent.container("agent") != before
        assert ask(agent.url("agent"), second["message"])["response"] == "Question 2: still there?"

        config = json.loads(docker("inspect", "--format", "{{json .Config}}", agent.container("agent")))
        assert config["User"] == "10001:10001"
        # (for what comes after the grace see `test_the_command_that_locks_it_down_is_the_one_that_is_tested`)
        drain_s = next(
            int(each.partition("=")[2]) for each in config["Env"] if each.startswith("STRANDLINE_DRAIN_GRACE=")
        )
        assert config["StopTimeout"] > drain_s + 4
        limits = json.loads(docker("inspect", "--format", "{{json .HostConfig}}", agent.container("agent")))
        assert (limits["ReadonlyRootfs"], limits["CapDrop"], limits["CapAdd"]) == (True, ["ALL"], None)
        assert limits["SecurityOpt"] == ["no-new-privileges:true"]
        assert limits["RestartPolicy"]["Name"] == "unless-stopped"
        assert set(limits["LogConfig"]["Config"]) == {"max-size", "max-file"}, "else the log grows for ever"
        assert (limits["Memory"], limits["PidsLimit"]) == (1 << 30, 512)
        assert limits["Tmpfs"] == {"/tmp": "size=64m"}, "files in there take of the memory"
        # An executor thread for each sync tool, and the threads of servers, journals and libraries.
        assert limits["PidsLimit"] >= 1.5 * default_of("executor_threads")
        # as the run-book has it
        assert agent.compose("exec", "-T", "agent", "strandline", "stacks") == "No run is executing."
        agent.compose("stop", "agent")
        assert docker("inspect", "--format", "{{.State.ExitCode}}", agent.container("agent")) in ("0", "143")
        looked = agent.compose("run", "--rm", "-T", "agent", "sh", "-c", "id -u && ls /data").split()
        assert {"10001", "journal.db", "workspace"} <= set(looked)
