"""examples/original: an image that a host which starts a container for each agent uses in the place of its own.

`Host` does what such a host does, by what it mounts, sets and asks for: folders of each agent on its disk, one
container for each, messages over HTTP, and conversations read from the disk as Strands' session manager has them.
"""

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import strands_sessions
from docker_engine import CHECKOUT, DEADLINE_S, docker, until
from examples_shown import example
from ports import reserved_port
from strandline.testing._checker import check_history

pytestmark = pytest.mark.docker

SHOWN = example("original")
BUILD_S = 600.0
OWNER: Final = 1000
"""Who runs the host."""
SESSION: Final = ".agent/session/session_agent/agents/agent_default/messages"
SERVER = """
from mcp.server import MCPServer

server = MCPServer("shop")


@server.tool()
def stock() -> str:
    "List what is in stock."
    return "tea"


server.run()
"""
TOOL = """
from strands import tool


@tool
def lend(title: str) -> str:
    "Lend a book."
    return f"You have {title} now."
"""


@pytest.fixture(scope="module")
def runner(image: str) -> Iterator[str]:
    """The image, built as the page says, on the image of this checkout."""
    name = f"agent-host-runner-test:{uuid.uuid4().hex[:12]}"
    flags = shlex.split(os.environ.get("DOCKER_BUILD_FLAGS", ""))
    if authority := os.environ.get("CA_BUNDLE") or os.environ.get("PIP_CERT"):
        flags += ["--secret", f"id=pip_ca,src={authority}"]
    build = ("--build-arg", f"STRANDLINE={image}", "--tag", name, str(SHOWN.folder))
    docker("build", *flags, *build, deadline_s=BUILD_S)
    yield name
    docker("rmi", "--force", name)


class Host:
    """Starts a container for each agent, and reads what agents have said: from them, or from the disk."""

    def __init__(self, image: str, folder: Path, aws: Path | None = None, *, is_older: bool = False) -> None:
        self.image = image
        self.folder = folder
        self.aws = aws
        self.inner = "" if is_older else ".agent/"
        """Where a host keeps what is not the agent's work; one of the older version has no folder for that."""
        self.name = f"agent-{uuid.uuid4().hex[:12]}"
        self.id = self.name
        self.port = 0

    def prepare(self, owner: int = OWNER) -> None:
        """Make the folders of an agent."""
        inner = ("tools", "session", "runner", "skills") if self.inner else ("tools",)
        for each in ("workspace", *(f"{self.inner}{name}" for name in inner)):
            (self.folder / each).mkdir(parents=True, exist_ok=True)
        give(self.folder, owner)

    def start(self, *options: str, **variables: str) -> None:
        """Start a container, in the place of one that was there."""
        self.remove()
        self.port = reserved_port()
        mounts = {f"{self.folder}": "/data:rw", f"{self.folder}/{self.inner}tools": "/app/tools:ro"}
        if self.inner:
            mounts[f"{self.folder}/.agent/skills"] = "/app/skills:ro"
        if self.aws is not None:
            mounts[str(self.aws)] = "/root/.aws:ro"
        given = {
            "AGENT_ID": self.id,
            "IDLE_TIMEOUT_MINUTES": "720",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AGENT_MODEL": "scripted",
            **variables,
        }
        arguments = [part for each, to in mounts.items() for part in ("--volume", f"{each}:{to}")]
        arguments += [part for each, value in given.items() for part in ("--env", f"{each}={value}")]
        published = ("--publish", f"{self.port}:8080")
        docker("run", "--detach", "--name", self.name, *published, *arguments, *options, self.image)

    def wait(self) -> None:
        """Wait until it is healthy. Fails if it ends."""
        until(lambda: self.ended() is not None or self.health() is not None, "it is healthy")
        assert self.ended() is None, self.logs()

    def health(self) -> dict[str, Any] | None:
        with suppress(httpx.TransportError):
            got = httpx.get(f"http://localhost:{self.port}/health", timeout=2, trust_env=False)
            if got.status_code == 200:
                said: dict[str, Any] = got.json()
                return said
        return None

    def ended(self) -> int | None:
        """Return its exit code, None while it runs."""
        state = json.loads(docker("inspect", "--format", "{{json .State}}", self.name))
        return None if state["Running"] else int(state["ExitCode"])

    def chat(self, message: str) -> dict[str, Any]:
        """Send a message, which names no session, and return the answer."""
        url = f"http://localhost:{self.port}/chat"
        answer = httpx.post(url, json={"message": message}, timeout=DEADLINE_S, trust_env=False)
        said: dict[str, Any] = answer.raise_for_status().json()
        return said

    def run(self, command: str) -> str:
        """Have the agent run a command in its shell, and return what the agent says of it."""
        answer = self.chat(f"run: {command}")
        assert answer["status"] == "success", answer
        return str(answer["response"])

    def history(self, count: int = 0) -> list[dict[str, Any]]:
        """Ask the container for its last messages."""
        query: dict[str, str | int] = {"count": count, "include_tool_messages": "true"}
        got = httpx.get(f"http://localhost:{self.port}/history", params=query, timeout=DEADLINE_S, trust_env=False)
        messages: list[dict[str, Any]] = got.raise_for_status().json()["messages"]
        return messages

    def on_disk(self) -> list[dict[str, Any]]:
        """Read all messages from the disk."""
        kept = SESSION if self.inner else f"session_{self.id}/agents/agent_default/messages"
        files = sorted((self.folder / kept).glob("message_*.json"), key=lambda file: int(file.stem.split("_")[1]))
        messages = [json.loads(file.read_text())["message"] for file in files]
        return [{"role": each["role"], "content": each["content"]} for each in messages]

    def preview(self) -> str:
        """Return the last text of the agent that is on the disk."""
        texts = [text(each) for each in self.on_disk() if each["role"] == "assistant"]
        return [each for each in texts if each][-1]

    def stop(self) -> int:
        """Stop the container, which has ten seconds; return its exit code."""
        docker("stop", "--time", "10", self.name)
        code = self.ended()
        assert code is not None
        return code

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self.name], capture_output=True, check=False)

    def logs(self) -> str:
        done = subprocess.run(
            ["docker", "logs", self.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.stdout

    def inside(self, code: str) -> str:
        """Return what Python prints in the container, with the agent's module and as its user."""
        python = f"cd /app && HOME=/data/workspace python -c {shlex.quote(code)}"
        return docker("exec", "--user", str(OWNER), self.name, "sh", "-c", python)

    def snapshot(self, file: Path) -> None:
        """Put all of an agent's files into an archive."""
        with zipfile.ZipFile(file, "w") as archive:
            for each in self.folder.rglob("*"):
                if each.is_file():
                    archive.write(each, each.relative_to(self.folder))


def give(folder: Path, owner: int) -> None:
    """Have a folder, and whatever is in it, belong to somebody."""
    for each in (folder, *folder.rglob("*")):
        os.chown(each, owner, owner, follow_symlinks=False)


def owners(folder: Path) -> set[int]:
    """Return who owns what is in a folder, of a container that has stopped: while it runs, files come and go."""
    return {each.lstat().st_uid for each in (folder, *folder.rglob("*"))}


def text(message: Mapping[str, Any]) -> str:
    return "".join(block.get("text", "") for block in message["content"])


@contextmanager
def hosted(image: str, folder: Path, aws: Path | None = None, *, is_older: bool = False) -> Iterator[Host]:
    host = Host(image, folder, aws, is_older=is_older)
    host.prepare()
    try:
        yield host
    finally:
        host.remove()


@pytest.fixture
def _root() -> None:
    """Files of somebody else's are made, which only root can."""
    if os.getuid() != 0:
        pytest.skip("only root can make files of other users")


@pytest.fixture
def aws(tmp_path: Path) -> Path:
    """Credentials that nobody but root may read."""
    folder = tmp_path / "aws"
    (folder / "sso/cache").mkdir(parents=True)
    (folder / "credentials").write_text("[work]\naws_access_key_id = AKIDWORK\naws_secret_access_key = secret\n")
    (folder / "config").write_text("[profile work]\nregion = eu-west-1\n")
    (folder / "sso/cache/token.json").write_text("{}")
    for each in folder.rglob("*"):
        each.chmod(0o700 if each.is_dir() else 0o600)
    return folder


CALLS_BOTO = "python -c 'import boto3; s = boto3.Session(); print(s.get_credentials().access_key, s.region_name)'"


@pytest.mark.usefixtures("_root")
def test_a_host_chats_stops_the_container_reads_the_disk_and_starts_it_again(
    runner: str, tmp_path: Path, aws: Path
) -> None:
    with hosted(runner, tmp_path / "agent", aws) as host:
        host.start(AWS_PROFILE="work")
        host.wait()
        first = host.chat("hello")  # at once: a healthy container accepts messages
        assert (first["status"], first["response"]) == ("success", "Question 1: hello")
        assert {"status", "response", "agent_id"} <= first.keys()
        assert "1000" in host.run("id -u; echo x > here.txt")
        assert (tmp_path / "agent/workspace/here.txt").read_text() == "x\n"
        assert "AKIDWORK" in host.run(CALLS_BOTO)
        assert "eu-west-1" in host.run("unset AWS_DEFAULT_REGION; " + CALLS_BOTO)
        assert "token.json" in host.run("ls ~/.aws/sso/cache")
        output = host.run("git --version && curl --version && uv --version && git config user.name && env")
        for each in ("git version", "curl 8", "uv 0", "Containerized Agent", "BYPASS_TOOL_CONSENT=true"):
            assert each in output
        assert host.chat("fail")["status"] == "error"
        until(lambda: host.on_disk() == host.history(), "the disk has what the container has")
        before = host.history()
        assert host.stop() in (0, 143)
        assert host.on_disk() == before
        assert check_history(before) == []  # type: ignore[arg-type]
        assert "ended early" in host.preview()
        assert not [each for each in (tmp_path / "agent").rglob("*") if "secret" in contents(each)], "none is kept"

        host.start(AWS_PROFILE="work")
        host.wait()
        questions = sum(each["role"] == "user" and "text" in each["content"][0] for each in before)
        assert host.chat("still there?")["response"] == f"Question {questions + 1}: still there?"
        host.stop()
        assert owners(tmp_path / "agent") == {OWNER}


def contents(file: Path) -> str:
    return file.read_text(errors="replace") if file.is_file() else ""


@pytest.mark.usefixtures("_root")
def test_a_snapshot_is_restored_by_root_into_a_folder_of_somebody_elses(runner: str, tmp_path: Path) -> None:
    archive = tmp_path / "agent.zip"
    with hosted(runner, tmp_path / "agent") as host:
        host.start()
        host.wait()
        host.chat("hello")
        host.stop()
        host.snapshot(archive)
    with hosted(runner, tmp_path / "restored") as host:
        with zipfile.ZipFile(archive) as found:
            found.extractall(host.folder)
        assert owners(host.folder) == {0, OWNER}
        host.start()
        host.wait()
        assert host.chat("still there?")["response"] == "Question 2: still there?"
        until(lambda: host.preview() == "Question 2: still there?", "the disk is reused")
        host.stop()
        assert owners(host.folder) == {OWNER}


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("place", [".agent/session/session_agent", "session_{name}"])
def test_the_conversation_of_the_original_is_brought_along_though_root_has_left_it(
    place: str, runner: str, tmp_path: Path
) -> None:
    asyncio.run(strands_sessions.write(tmp_path / "sessions"))  # by a real manager: a tool, failures in between
    with hosted(runner, tmp_path / "agent") as host:
        former = host.folder / place.format(name=host.name)
        shutil.copytree(tmp_path / "sessions/session_failed", former)
        for each in (former, *former.rglob("*")):
            each.chmod(0o700 if each.is_dir() else 0o600)
        assert owners(former) == {0}
        host.start()
        host.wait()
        before = host.history()
        assert [text(each) for each in before if each["role"] == "user" and text(each)] == [
            "one fail",
            "two",
            "tool three fail",
            "four fail",
            "five fail",
        ]
        assert "did tool three fail" in json.dumps(before)
        assert host.chat("and now?")["response"] == "Question 6: and now?"
        until(lambda: host.on_disk() == host.history(), "the disk has all of it")
        host.stop()
        host.start()  # once is enough
        host.wait()
        assert host.chat("and then?")["response"] == "Question 7: and then?"
        until(lambda: host.on_disk() == host.history(), "the disk has all of it again")
        host.stop()
        assert owners(host.folder) == {OWNER}


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("id", [None, "default"])
def test_a_host_of_the_older_version_finds_the_files_on_its_disk(
    id: str | None,  # noqa: A002
    runner: str,
    tmp_path: Path,
) -> None:
    with hosted(runner, tmp_path / "agent", is_older=True) as host:
        host.id = id or host.id
        (host.folder / "system_prompt.txt").write_text("You are a librarian.")
        host.start(CUSTOM_SYSTEM_PROMPT="true")
        host.wait()
        host.chat("hello")
        assert host.inside("import agent; print(agent.system_prompt())").startswith("You are a librarian.")
        before = host.history()
        host.stop()
        assert host.on_disk() == before != []
        host.start(CUSTOM_SYSTEM_PROMPT="true")
        host.wait()
        assert host.chat("and now?")["response"] == "Question 2: and now?"
        host.stop()
        assert host.preview() == "Question 2: and now?"
        assert not (host.folder / ".agent").exists()


@pytest.mark.usefixtures("_root")
def test_git_has_the_hosts_token_for_github_and_for_nobody_else(runner: str, tmp_path: Path) -> None:
    ask_credentials = "printf 'protocol=https\\nhost={host}\\n\\n' | GIT_TERMINAL_PROMPT=0 git credential fill"
    with hosted(runner, tmp_path / "agent") as host:
        host.start(CONTAINERIZED_AGENTS_GITHUB_TOKEN="token-of-the-host")
        host.wait()
        assert "password=token-of-the-host" in host.run(ask_credentials.format(host="github.com"))
        assert "token-of-the-host" not in host.run(ask_credentials.format(host="github.com.evil.example"))
        assert "token-of-the-host" not in host.run(ask_credentials.format(host="git.example"))


@pytest.mark.usefixtures("_root")
def test_what_cannot_be_brought_along_keeps_it_from_being_ready_and_is_left_as_it_was(
    runner: str, tmp_path: Path
) -> None:
    asyncio.run(strands_sessions.write(tmp_path / "sessions"))
    with hosted(runner, tmp_path / "agent") as host:
        former = host.folder / ".agent/session/session_agent"
        shutil.copytree(tmp_path / "sessions/session_failed", former)
        broken = former / "agents/agent_default/messages/message_1.json"
        broken.write_text("{")
        for attempt in range(2):
            host.start()
            until(lambda: host.ended() is not None, "it ends")
            assert host.ended() != 0, attempt
            assert "cannot be imported" in host.logs()
            assert broken.read_text() == "{"
            assert not (host.folder / "journal.db").exists()

        # Without read access, a message says what to type.
        former.chmod(0o700)
        os.chown(former, 0, 0)
        host.start("--user", f"{OWNER}:{OWNER}")
        until(lambda: host.ended() is not None, "it ends")
        assert host.ended() != 0
        assert f"chown -R {OWNER}" in host.logs()


@pytest.mark.usefixtures("_root")
def test_the_agent_has_the_prompt_tools_skills_and_servers_that_the_host_gives_it(runner: str, tmp_path: Path) -> None:
    with hosted(runner, tmp_path / "agent") as host:
        (host.folder / ".agent/system_prompt.txt").write_text("You are a librarian.")
        (host.folder / ".agent/tools/lend.py").write_text(TOOL)
        (host.folder / ".agent/tools/broken.py").write_text("import nothing_such")
        (host.folder / ".agent/skills/cook").mkdir()
        skill = "---\nname: cook\ndescription: How to cook.\n---\nBoil it."
        (host.folder / ".agent/skills/cook/SKILL.md").write_text(skill)
        (host.folder / "shop.py").write_text(SERVER)
        servers = {
            "nothing at first": {},
            "shop": {"command": "python", "args": ["/data/shop.py"], "env": None},
            "gone": {"command": "no-such-command"},
            "nothing": {"type": "stdio"},
            "no object": 5,
            "off": {"command": "no-such-command", "disabled": True},
        }
        (host.folder / ".agent/mcp.json").write_text(json.dumps({"mcpServers": servers}))
        give(host.folder, OWNER)
        metadata = {"A_KEY": {"available": True, "capability": "Lent: keys"}, "B": {"available": False}}
        host.start(CUSTOM_SYSTEM_PROMPT="true", AGENT_ENV_METADATA=json.dumps(metadata))
        host.wait()
        output = host.inside(
            "import agent, json; it = agent.make_agent('s');"
            "print(json.dumps([it.system_prompt, sorted(it.tool_names), type(it.conversation_manager).__name__]))"
        )
        prompt, tools, manager = json.loads(output.splitlines()[-1])
        assert prompt.startswith("You are a librarian.")
        assert "/data/workspace" in prompt
        assert "- Lent: keys" in prompt
        own = {"editor", "file_read", "file_write", "load_tool", "python_repl", "shell", "use_agent"}
        assert own | {"lend", "stock", "skills"} == set(tools)
        assert manager == "SummarizingConversationManager"
        assert host.chat("hello")["response"] == "Question 1: hello"
        assert "broken.py cannot be loaded" in host.logs()


def test_the_pages_show_how_it_is_built_and_what_becomes_of_all_that_a_host_gives() -> None:
    build = next(line for block in SHOWN.blocks("sh") for line in block.splitlines() if "docker build" in line)
    assert shlex.split(build) == ["docker", "build", "--tag", "agent-host-runner", "."]
    text = (CHECKOUT / "docs/contract.md").read_text().partition("## Hosts that start containers")[2]
    for each in ("CUSTOM_SYSTEM_PROMPT", "AGENT_ENV_METADATA", "mcp.json", "AWS_PROFILE", "/app/tools", "/app/skills"):
        assert f"`{each}`" in text, each
        assert each.rpartition("/")[2] in (SHOWN.folder / "agent.py").read_text() or each == "AWS_PROFILE"
