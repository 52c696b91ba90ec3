"""The page about `--reload` and `strandline chat` is true: each block is run, or compared with what is seen."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.server import COMMAND, Server, environment, until
from acceptance.terminal import terminal

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/chat-and-reload.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def block(kind: str, containing: str) -> str:
    return str(next(text for each, text in BLOCKS if each == kind and containing in text))


def pattern(text: str) -> str:
    """Return what a shown text matches: `...` is anything, numbers and ports are what they are that day."""
    parts = [re.escape(part) for part in re.split(r"\.\.\.", text)]
    return ".*".join(parts).replace("8080", r"\d+").replace(re.escape("0.2 s"), r"[\d.]+ s")


def flush_left(text: str) -> str:
    return re.sub(r"(?m)^[ \t]+", "", text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of the page, after the change that the page describes."""
    folder = tmp_path_factory.mktemp("page")
    code = block("python", "make_agent")
    (folder / "agent.py").write_text(code)
    command, target, *flags = block("sh", "--reload").split()[1:]
    assert command == "serve"
    server = Server(target, *flags, folder=folder)
    try:
        server.start()
        (folder / "agent.py").write_text(code.replace("Good morning", "Good evening"))
        until(lambda: "Reloaded" in server.stderr, "reloaded")
        yield server
    finally:
        server.close()


def variables(server: Server) -> dict[str, str]:
    return {"STRANDLINE_PORT": server.url.rpartition(":")[2]}


def test_every_block_is_looked_at() -> None:
    assert [kind for kind, _ in BLOCKS] == ["python", "sh", "text", "text", "sh", "text", "sh", "text", "sh", "json"]


def test_the_screen_of_a_reload(server: Server) -> None:
    shown = block("text", "Reloaded")
    assert re.search(pattern(shown), server.stderr), server.stderr


def test_the_screen_of_code_that_does_not_load(tmp_path: Path) -> None:
    code = block("python", "make_agent").replace("Good morning", "Good evening")
    (tmp_path / "agent.py").write_text(code)
    server = Server("agent.py", "--reload", folder=tmp_path)
    try:
        server.start()
        (tmp_path / "agent.py").write_text(code.replace('{question(messages)}"', "{question(messages)}"))
        until(lambda: "The new code does not load" in server.stderr, "told")
        shown = flush_left(block("text", "SyntaxError"))
        loose = re.sub(r"(?m)^\^$|^SyntaxError.*$", "...", shown)  # (Python's words, which differ between versions)
        assert re.search(pattern(loose), flush_left(server.stderr), re.DOTALL), server.stderr
    finally:
        server.close()


def forget_sessions(server: Server) -> None:
    """Delete what other tests have said there."""
    for each in server.client.get("/v1/sessions").json()["sessions"]:
        server.client.delete(f"/v1/sessions/{each['session_id']}").raise_for_status()


def test_the_conversation(server: Server, tmp_path: Path) -> None:
    """What is typed on the page is typed here; what is shown there comes, line by line."""
    forget_sessions(server)
    lines = block("text", "ada> hello").splitlines()
    command = block("sh", "chat --session").split()[1:]
    with terminal(*command, folder=tmp_path, variables=variables(server)) as at:
        for line in lines:
            if (typed := re.match(r"(\w+> )(.+)", line)) is not None:
                at.until(typed.group(1))
                at.type(f"{typed.group(2)}\n")
            else:
                at.until(re.sub(r"\d+ ms$", "", line).replace("http://127.0.0.1:8080", server.url))
        assert at.ended() == 0


def test_the_commands_of_scripts(server: Server, tmp_path: Path) -> None:
    path = f"{COMMAND.parent}:{Path(shutil.which('sh') or '/bin/sh').parent}"
    for commands, shown in [
        (block("sh", "echo"), block("text", "It is **3**")),
        (block("sh", "--json"), block("json", "status")),
    ]:
        done = subprocess.run(
            ["sh", "-c", commands],
            cwd=tmp_path,
            env={**environment(variables(server)), "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert re.fullmatch(pattern(shown), done.stdout), done.stdout
        assert done.stderr == ""


def test_the_numbers_are_those_of_the_code() -> None:
    from strandline._chat.conversation import PATIENCE_S
    from strandline._reload.changes import IGNORED
    from strandline._settings import Settings

    assert f"`drain_grace` ({Settings().drain_grace_s:g} s)" in PAGE
    assert PAGE.count(f"{PATIENCE_S:g} s") == 2
    assert all(f"`{name}`" in PAGE for name in IGNORED)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target
