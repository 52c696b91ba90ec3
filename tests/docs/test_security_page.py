"""`docs/security.md`: each line of the threat model names tests that there are, and its commands do what it says."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from acceptance.server import COMMAND, DEADLINE_S, environment, serving
from docs.pages import ROOT, blocks, printed, text
from strandline._access.keyring import new_key

PAGE = text("security.md")
TABLE = PAGE.partition("\n## Threats and their tests\n")[2].partition("\n## ")[0]
THREATS = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", TABLE, re.MULTILINE)[1:]
SHOWN = [
    ROOT / "README.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*"),
    *(ROOT / "deploy").rglob("*"),
]
PUBLISHED = re.compile(
    r"""(?:(?:^|\s)(?:-p|--publish)[ =]|^\s*-\s)["']?((?:[\w.]+:|\[[\w:]+\]:)?[\w${}:-]*:\d+)["']?(?=\s|$)""", re.M
)


def defined() -> set[str]:
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "src/strandline/testing").rglob("*.py")]
    return {name for file in files for name in re.findall(r"^ *(?:async )?def (\w+)", file.read_text(), re.MULTILINE)}


def test_every_line_of_the_threat_model_names_a_test_that_exists() -> None:
    assert len(THREATS) > 60
    there = defined()
    for threat, _, tests in THREATS:
        named = re.findall(r"`(\w+)`", tests)
        assert named, threat
        assert all(name.startswith("test_") for name in named)
        assert set(named) <= there, f"{threat}: {set(named) - there}"


def test_its_commands_make_keys_and_a_server_that_takes_them(tmp_path: Path) -> None:
    (*made, serve), (ask,) = (block.splitlines() for block in blocks("security.md", "sh"))
    keys = []
    for line in made:
        words = line.partition("#")[0].split()
        done = subprocess.run(
            [COMMAND, *words[1:]], cwd=tmp_path, env=environment({}), capture_output=True, text=True,
            timeout=DEADLINE_S, check=True,
        )  # fmt: skip
        keys.append(done.stdout.strip())
    words = serve.split()
    assert words[:2] == ["strandline", "serve"]
    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message\n")
    with serving("agent.py:answer", *words[2:], folder=tmp_path) as server:
        answer = printed(f"KEY={keys[0]}\n{ask}", folder=tmp_path, url=server.url)
        assert '"status":"success"' in answer


def test_its_token_is_made_as_shown_and_has_one_conversation(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message\n")
    key, kept = new_key("ada")
    (tmp_path / "keys").write_text(kept.line())
    (shown,) = blocks("security.md", "python")
    with serving("agent.py:answer", "--api-keys-file", "keys", folder=tmp_path) as server:
        program = f"key = {key!r}\n{shown.replace('http://127.0.0.1:8080', server.url)}"
        made = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        page = {"Authorization": f"Bearer {made.stdout.strip()}"}
        for session, status in (("ada", 200), ("bob", 403)):
            answer = httpx.post(f"{server.url}/chat", json={"message": "hello", "session_id": session}, headers=page)
            assert answer.status_code == status, answer.text
    assert "made a token for session ada" in server.stderr
    assert made.stdout.strip() not in server.stderr


def test_whatever_an_example_publishes_is_published_to_this_machine_alone() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {port}"
        for file in SHOWN
        if file.is_file() and file.suffix in (".md", ".yaml", ".yml", ".sh", "")
        for port in PUBLISHED.findall(file.read_text())
    }
    assert len(found) > 5
    assert {each for each in found if ": 127.0.0.1:" not in each} == set()


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/security.md"])
def test_where_to_report_is_said_once_and_linked(name: str) -> None:
    text = (ROOT / name).read_text()
    assert ("SECURITY.md" in text) if name.startswith("docs") else ("docs/security.md" in text)
