"""Real containers for tests: the engine's command line, an image of this checkout, and one container at a time.

Nothing here outlives its `with`: containers and volumes that a test made are removed, whatever happens. Ports are
chosen by the system. Knows how Strandline is asked (`/readyz`, `/health`), and nothing of what is being tested.
"""

import json
import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

DEADLINE_S: Final = 60.0
BUILD_S: Final = 300.0
CHECKOUT: Final = Path(__file__).resolve().parent.parent
LOCAL_BASES: Final = ("python:3.13-slim", "python-base:3.13")
"""What to build on where BASE_IMAGE is not set: the usual base, or the one that tools/docker_engine.sh makes."""


def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when `condition()` is true. Fails, naming `what`, when it has not become so in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.02)


def docker(*arguments: str, deadline_s: float = DEADLINE_S) -> str:
    """Run one command of the engine and return what it printed. Fails with what it complained about."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=deadline_s, check=False)
    if done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def why_no_engine() -> str | None:
    """Say why there are no containers here, or return None where there are."""
    try:
        docker("version", "--format", "{{.Server.Version}}", deadline_s=20)
    except FileNotFoundError:
        return "Docker is not installed"
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return f"no Docker Engine answers: {str(error).splitlines()[-1]}"
    return None


def build_image(name: str) -> None:
    """Build the image as `make image` does."""
    settings = {**os.environ, "IMAGE": name}
    if "BASE_IMAGE" not in settings:
        settings["BASE_IMAGE"] = next((base for base in LOCAL_BASES if _is_local(base)), LOCAL_BASES[0])
    done = subprocess.run(
        ["make", "image"], cwd=CHECKOUT, env=settings, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"make image failed:\n{done.stderr[-4000:]}")


def _is_local(image: str) -> bool:
    return bool(docker("images", "--quiet", image))


HARDENED: Final = (
    *("--user", "10001:10001", "--read-only", "--tmpfs", "/tmp:size=64m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m", "--pids-limit", "512"),
)
"""How docs/container.md says to run it."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk for /data."""

    name: str
    options: str = ""

    @property
    def mount(self) -> tuple[str, str]:
        """The options that mount it."""
        return ("--volume", f"{self.name}:/data{self.options}")

    @property
    def mount_read_only(self) -> tuple[str, str]:
        """The options that mount it so that nobody can write to it."""
        return ("--volume", f"{self.name}:/data:ro,nocopy")


@contextmanager
def volume(image: str, owner: str | None = None, mode: str = "755") -> Iterator[Volume]:
    """Make an empty volume. The engine gives it to the image's user when it is used first, or it is `owner`'s."""
    # `nocopy`: else the engine would give an empty one to the image's user again at each start.
    made = Volume(f"strandline-test-{uuid.uuid4().hex[:12]}", "" if owner is None else ":nocopy")
    docker("volume", "create", made.name)
    try:
        if owner is not None:
            give = ("--user", "0", "--entrypoint", "sh", *made.mount, image)
            docker("run", "--rm", "--network", "none", *give, "-c", f"chmod {mode} /data && chown {owner} /data")
        yield made
    finally:
        docker("volume", "rm", "--force", made.name)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended that was not meant to stay."""

    status: int
    stdout: str
    stderr: str


def run_to_end(image: str, *options: str, command: Sequence[str] = ()) -> Ended:
    """Run a container that ends by itself, and return how it did. Fails, and removes it, if it does not end."""
    name = f"strandline-test-{uuid.uuid4().hex[:12]}"
    try:
        done = subprocess.run(
            ["docker", "run", "--rm", "--name", name, "--network", "none", *options, image, *command],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        docker("rm", "--force", "--volumes", name)
        raise AssertionError(f"the container did not end by itself within {DEADLINE_S} s") from error
    return Ended(done.returncode, done.stdout, done.stderr)


class Container:
    """A container with a server in it."""

    def __init__(self, container_id: str, port: int) -> None:
        self.id = container_id
        self._port = port

    @property
    def url(self) -> str:
        """Where its server is reached; another one after each start."""
        return f"http://{docker('port', self.id, f'{self._port}/tcp').splitlines()[0]}"

    @property
    def state(self) -> dict[str, Any]:
        """What the engine says about it: `Running`, `ExitCode`, `Health`, ..."""
        state: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", self.id))
        return state

    @property
    def health_checks(self) -> str:
        """What the last checks of its health have said."""
        return "\n".join(check["Output"] for check in self.state["Health"]["Log"] or ())

    @property
    def logs(self) -> str:
        """Everything that it said."""
        done = subprocess.run(
            ["docker", "logs", self.id], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.stdout

    @property
    def probes(self) -> tuple[int | None, int | None]:
        """What /livez and /readyz say, None for nothing."""
        url = self.url
        return _status(f"{url}/livez"), _status(f"{url}/readyz")

    def until_ready(self) -> str:
        """Wait until the server takes requests, and return its URL. Fails with the logs if the container ends."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if not self.state["Running"]:
                raise AssertionError(f"the container ended with {self.state['ExitCode']}:\n{self.logs}")
            url = self.url
            if _status(f"{url}/readyz") == 200:
                return url
            time.sleep(0.02)
        raise AssertionError(f"not ready within {DEADLINE_S} s:\n{self.logs}")

    def execute(self, *command: str, user: str | None = None) -> str:
        """Run a command in it and return what it printed."""
        return docker("exec", *(("--user", user) if user is not None else ()), self.id, *command)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        docker("kill", self.id)

    def start(self) -> None:
        """Start it again, with the same data."""
        docker("start", self.id)

    def stop(self) -> int:
        """Ask it to end (SIGTERM, SIGKILL after 10 s), and return its exit status."""
        docker("stop", self.id)
        return int(self.state["ExitCode"])


@contextmanager
def container(image: str, *options: str, port: int = 8080, command: Sequence[str] = ()) -> Iterator[Container]:
    """Run a container, reached on a port of this machine that the system chooses; removed on the way out."""
    identity = docker("run", "--detach", "--publish", f"127.0.0.1::{port}", *options, image, *command)
    try:
        yield Container(identity, port)
    finally:
        docker("rm", "--force", "--volumes", identity)


@dataclass(frozen=True, slots=True)
class Project:
    """A compose file in a folder, under a name of its own, on a port that the system chooses."""

    folder: Path
    name: str
    environment: Mapping[str, str]

    def compose(self, *arguments: str, deadline_s: float = BUILD_S) -> str:
        """Run one command of compose and return what it printed. Fails with what it complained about."""
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.name, *arguments],
            cwd=self.folder,
            env={**os.environ, "PORT": "0", **self.environment},
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"docker compose {shlex.join(arguments)}: {done.stderr}{self.logs()}")
        return done.stdout.strip()

    def logs(self) -> str:
        """Return what its containers have said."""
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.name, "logs"],
            cwd=self.folder,
            env={**os.environ, "PORT": "0", **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def url(self, service: str) -> str:
        """Return where a service is reached; another one for each new container."""
        return f"http://{self.compose('port', service, '8080')}"

    def container(self, service: str) -> str:
        """Return the id of a service's container; of several, one in each line."""
        return self.compose("ps", "--all", "--quiet", service)


@contextmanager
def project(folder: Path, **environment: str) -> Iterator[Project]:
    """Make what a compose file names, with variables for it; nothing of it is left on the way out."""
    made = Project(folder, f"strandline-test-{uuid.uuid4().hex[:12]}", environment)
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--rmi", "local", "--timeout", "1")


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return None
