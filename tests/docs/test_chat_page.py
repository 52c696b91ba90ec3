"""`docs/chat-and-reload.md`: what a reload logs, and a conversation in a terminal."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.server import Server, until
from acceptance.terminal import terminal
from docs import pages
from docs.pages import block, shell, shows_text

PAGE = "chat-and-reload.md"


def pattern(shown: str) -> str:
    """Return what shown lines match, wherever they are in an output; how long something took differs."""
    return pages.pattern(shown.replace("0.2 s", "... s"))


def flush_left(text: str) -> str:
    return re.sub(r"(?m)^[ \t]+", "", text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of the page, after the change that the page describes."""
    folder = tmp_path_factory.mktemp("page")
    code = block(PAGE, "python", "make_agent")
    (folder / "agent.py").write_text(code)
    command, target, *flags = block(PAGE, "sh", "--reload").split()[1:]
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


def test_the_screen_of_a_reload(server: Server) -> None:
    shown = block(PAGE, "text", "Reloaded")
    assert re.search(pattern(shown), server.stderr), server.stderr


def test_the_screen_of_code_that_does_not_load(tmp_path: Path) -> None:
    code = block(PAGE, "python", "make_agent").replace("Good morning", "Good evening")
    (tmp_path / "agent.py").write_text(code)
    server = Server("agent.py", "--reload", folder=tmp_path)
    try:
        server.start()
        (tmp_path / "agent.py").write_text(code.replace('{question(messages)}"', "{question(messages)}"))
        until(lambda: "The new code does not load" in server.stderr, "told")
        shown = flush_left(block(PAGE, "text", "SyntaxError"))
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
    lines = block(PAGE, "text", "ada> hello").splitlines()
    command = block(PAGE, "sh", "chat --session").split()[1:]
    with terminal(*command, folder=tmp_path, variables=variables(server)) as at:
        for line in lines:
            if (typed := re.match(r"(\w+> )(.+)", line)) is not None:
                at.until(typed.group(1))
                at.type(f"{typed.group(2)}\n")
            else:
                at.until(re.sub(r"\d+ ms$", "", line).replace("http://127.0.0.1:8080", server.url))
        assert at.ended() == 0


def test_the_commands_of_scripts(server: Server, tmp_path: Path) -> None:
    for commands, shown in [
        (block(PAGE, "sh", "echo"), block(PAGE, "text", "It is **3**")),
        (block(PAGE, "sh", "--json"), block(PAGE, "json", "status")),
    ]:
        done = shell(commands, folder=tmp_path, **variables(server))
        assert shows_text(done.stdout, shown), done.stdout
        assert (done.returncode, done.stderr) == (0, "")
