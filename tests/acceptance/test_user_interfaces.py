"""User interfaces as they come, in a browser at a real server: `make interfaces` downloads 2 GB and runs them.

CI does not. What they send is sent again by `test_chat_programs.py` and `test_agui.py`.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import pytest

from acceptance.server import TARGETS, environment, serving, texts, until
from client_packages import npm_clients, python_client
from docs.browser import NAMES, needed
from docs.pages import block
from ports import reserved_port

pytestmark = pytest.mark.skipif(
    os.environ.get("STRANDLINE_INTERFACES") != "1", reason="make interfaces downloads and runs it"
)
INSTALL_S: Final = 1200.0
START_S: Final = 180.0
DRIVE_S: Final = 300.0


def driven(script: str, *arguments: str, pictures: Path) -> dict[str, Any]:
    """Have a script use the program in a browser; return what it says. Its pictures stay in a folder."""
    python, folder = python_client("browser")
    done = subprocess.run(
        [python, str(folder / script), arguments[0], str(pictures), needed(*NAMES), *arguments[1:]],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=DRIVE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\npictures are in {pictures}"
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_a_conversation_in_open_webui(tmp_path: Path) -> None:
    python, _ = python_client("open_webui", complete=True, install_s=INSTALL_S)
    url = f"http://127.0.0.1:{reserved_port()}"
    with serving(TARGETS / "chat_program.py", "--on-disconnect", "cancel", folder=tmp_path) as server:
        variables = {
            "DATA_DIR": str(tmp_path / "open-webui"),
            "WEBUI_SECRET_KEY": "secret",
            "OFFLINE_MODE": "true",
            "ENABLE_OLLAMA_API": "false",
            "OPENAI_API_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": "none",
            "RAG_EMBEDDING_ENGINE": "openai",
            "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
        }
        (tmp_path / "open-webui").mkdir()
        with (tmp_path / "open-webui.log").open("w") as log:
            process = subprocess.Popen(
                [Path(python).parent / "open-webui", "serve", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]],
                env=environment(variables),
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                text=True,
            )
        with ended(process):
            until(lambda: _answers(f"{url}/health"), "Open WebUI answers", START_S)
            headers = block("chat-programs.md", "json", "CHAT_ID")
            seen = driven("open_webui.py", url, f"{server.url}/v1", headers, pictures=tmp_path)
        said = texts(server.history(seen["chat"]), "user")
        runs = server.client.get(f"/v1/sessions/{seen['chat']}/runs").json()["runs"]
        assert said == ["add 2 and 40", "get_current_timestamp", "ponder 60", "add 1 and 1"]
        assert [each["status"] for each in runs[:2]] == ["succeeded", "cancelled"]
        titles = server.history(f"{seen['chat']}title_generation")
        assert texts(titles, "user")


def test_a_conversation_in_copilotkit(tmp_path: Path) -> None:
    node, folder = npm_clients("copilotkit", install_s=INSTALL_S)
    with (
        serving(TARGETS / "chat_program.py", folder=tmp_path) as server,
        TemporaryDirectory(dir=folder) as name,  # (where its imports are found)
    ):
        made = Path(name)
        program = block("agui.md", "ts", "new CopilotRuntime").replace("http://127.0.0.1:8080", server.url)
        (made / "runtime.mjs").write_text(program)
        fonts = [f"--loader:.{each}=dataurl" for each in ("woff2", "woff", "ttf")]
        options = ["--bundle", "--format=esm", "--splitting", "--jsx=automatic", "--log-level=error", *fonts]
        subprocess.run(
            [folder / "node_modules/.bin/esbuild", "page.jsx", f"--outdir={made}/dist", *options],
            cwd=folder,
            timeout=DRIVE_S,
            check=True,
        )
        process = subprocess.Popen(
            [node, "server.mjs", str(made)],
            cwd=folder,
            env=environment({"COPILOTKIT_TELEMETRY_DISABLED": "true"}),
            stdout=subprocess.PIPE,
            text=True,
        )
        with ended(process):
            assert process.stdout is not None
            port = next(line for line in process.stdout if line.strip().isdigit()).strip()
            seen = driven("copilotkit.py", f"http://127.0.0.1:{port}/", pictures=tmp_path)
        assert json.loads(seen["question"]) == {"amount": 120}
        assert seen["title"].startswith("painted ")
        assert texts(server.history("ada"), "user") == ["add 2 and 3", "pay 120", "pay 70", "paint"]
        statuses = [each["status"] for each in server.client.get("/v1/sessions/ada/runs").json()["runs"]]
        assert sorted(statuses) == ["needs_input"] * 3 + ["succeeded"] * 4


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False
