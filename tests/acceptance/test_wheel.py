"""The wheel, in an environment that holds nothing else: what people install is all there, and works."""

import json
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from acceptance.server import DEADLINE_S, Server, environment

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/strandline"
PIP_S = 240.0
AGENT = """
from strands import Agent
from strandline.testing import ScriptedModel, question


def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(lambda messages: f"{session_id}: {question(messages)}"))
"""
APP = """
import strandline
from agent import make_agent
from starlette.applications import Starlette
from starlette.routing import Mount

agent = strandline.asgi(make_agent)
app = Starlette(routes=[Mount("/agent", agent)], lifespan=agent.lifespan)
"""
FASTAPI = """
import strandline
from agent import make_agent
from fastapi import FastAPI

agent = strandline.asgi(make_agent)
app = FastAPI(lifespan=agent.lifespan)
app.mount("/agent", agent)


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, int]:
    return {"order": number}
"""
SCRIPT = """
import sys
import strandline
from agent import make_agent

sys.exit(strandline.serve(make_agent, port=0))
"""
DIRECT = """
import asyncio
import strandline
from agent import make_agent


async def main():
    async with strandline.open_service(make_agent) as service:
        ticket = await service.submit(strandline.Request(key=strandline.session_key("ada"), input="hello"))
        print((await ticket.outcome()).output, strandline.__file__)


asyncio.run(main())
"""


def pip(*arguments: str | Path, python: Path | str = sys.executable) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input", *arguments],
        cwd="/", env=clean(), capture_output=True, text=True, timeout=PIP_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def clean(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which nothing of this checkout can be imported."""
    return {name: value for name, value in environment(more or {}).items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install -c` takes: pip has no hash of a wheel that was made here."""
    file = tmp_path_factory.mktemp("versions") / "versions.txt"
    command = [sys.executable, str(ROOT / "tools/pins.py"), "versions"]
    file.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return file


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True, symlinks=True)
    # (most of it is never imported here; what is, is compiled then)
    pip("install", "--no-compile", "--constraint", versions, wheel, python=folder / "bin/python")
    return folder / "bin"


@pytest.fixture(scope="module")
def bin_with_fastapi(bin_folder: Path, versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second environment, which also has FastAPI, for mounting."""
    folder = tmp_path_factory.mktemp("with-fastapi")
    venv.create(folder, symlinks=True)
    (inherited,) = (bin_folder.parent / "lib").glob("*/site-packages")
    (own,) = (folder / "lib").glob("*/site-packages")
    (own / "inherited.pth").write_text(f"{inherited}\n")
    pip(
        "install", "--no-compile", "--constraint", versions, "--target", own, "--no-deps", "fastapi", "annotated-doc",
        "typing-inspection", python=bin_folder / "python",
    )  # fmt: skip
    return folder / "bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "agent.py": AGENT,
        "app.py": APP,
        "shop.py": FASTAPI,
        "serve_it.py": SCRIPT,
        "direct.py": DIRECT,
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


class Installed(Server):
    """A process of the fresh environment."""

    def __init__(self, command: list[str], folder: Path, mounted_at: str = "") -> None:
        self.mounted_at = mounted_at
        self._words = command
        super().__init__("", folder=folder, journal=None, port=None)

    def command(self) -> list[str]:
        return self._words

    def _environment(self) -> dict[str, str]:
        return clean()


@contextmanager
def running(*command: str | Path, folder: Path, mounted_at: str = "") -> Iterator[Server]:
    server = Installed([str(each) for each in command], folder, mounted_at)
    if mounted_at:
        server.announcement = re.compile(r"Uvicorn running on http://[\w.]+:(\d+)")
    try:
        server.start()
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.stderr, server.stderr


def test_everything_that_is_no_code_is_in_it_and_nothing_that_does_not_belong(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"strandline/{file.relative_to(SOURCE)}"
        for file in SOURCE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {"strandline/py.typed", "strandline/_journal/schema/0001_initial.sql"} <= wanted
    assert {name for name in inside if ".dist-info/" not in name} == wanted
    assert any(name.endswith("/licenses/LICENSE") for name in inside)


def test_the_command_prints_its_version(bin_folder: Path, wheel: Path) -> None:
    done = subprocess.run(
        [bin_folder / "strandline", "--version"], env=clean(), capture_output=True, text=True, timeout=DEADLINE_S,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == wheel.name.split("-")[1]


def test_the_command_serves(bin_folder: Path, folder: Path) -> None:
    with running(bin_folder / "strandline", "serve", "agent.py", "--port", "0", folder=folder) as server:
        assert server.chat("hello", "ada")["response"] == "ada: hello"
        assert httpx.get(f"{server.url}/livez", trust_env=False).status_code == 200


def test_it_is_mounted_in_an_app_of_what_comes_with_it(bin_folder: Path, folder: Path) -> None:
    command = (bin_folder / "uvicorn", "app:app", "--port", "0")
    with running(*command, folder=folder, mounted_at="/agent") as server:
        assert server.chat("hello", "ada")["response"] == "ada: hello"


def test_it_is_mounted_in_a_fastapi_app(bin_with_fastapi: Path, bin_folder: Path, folder: Path) -> None:
    command = (bin_with_fastapi / "python", "-m", "uvicorn", "shop:app", "--port", "0")
    with running(*command, folder=folder, mounted_at="/agent") as server:
        assert server.chat("hello", "ada")["response"] == "ada: hello"
        assert server.client.get(f"{server.url}/orders/17").json() == {"order": 17}
    code = "import fastapi, strandline; print(strandline.__file__)"
    done = subprocess.run(
        [bin_with_fastapi / "python", "-c", code], cwd=folder, env=clean(), capture_output=True, text=True,
        timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    assert bin_folder.parent in Path(done.stdout).parents


def test_it_serves_from_a_script(bin_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acceptance.server.WORKERS", None)  # (they have to load what they serve by its name)
    with running(bin_folder / "python", "serve_it.py", folder=folder) as server:
        assert server.chat("hello", "ada")["response"] == "ada: hello"
        server.terminate()
        assert server.ended() == 0
        server.start()
        assert len(server.history("ada")) == 2


def test_it_is_used_without_http(bin_folder: Path, folder: Path) -> None:
    done = subprocess.run(
        [bin_folder / "python", "direct.py"], cwd=folder, env=clean(), capture_output=True, text=True,
        timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    answer, _, where = done.stdout.strip().rpartition(" ")
    assert answer == "ada: hello"
    assert bin_folder.parent in Path(where).parents


def test_whatever_is_installed_with_it_is_to_be_had_for_arm64_without_a_compiler(
    wheel: Path, versions: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    pip(
        "install", "--dry-run", "--ignore-installed", "--report", report, "--target", tmp_path / "nothing",
        "--constraint", versions, "--only-binary=:all:",
        "--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64",
        f"{wheel}[demo,otel]",
    )  # fmt: skip
    found = [each["download_info"]["url"] for each in json.loads(report.read_text())["install"]]
    compiled = [url for url in found if "aarch64" in url]
    assert any("uvloop" in url for url in compiled)
    assert not [url for url in found if "x86_64" in url]
