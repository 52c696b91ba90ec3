"""From nothing to a queued answer: `strandline init`, `strandline serve`, two requests at once, history."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.server import COMMAND, DEADLINE_S, Server, environment, ran, texts, until
from acceptance.terminal import terminal
from ports import reserved_port

BIN = COMMAND.parent
ROOT = Path(__file__).parents[2]


def strandline(*arguments: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return ran(*arguments, folder=folder, variables=variables)


def commands(said: str) -> list[str]:
    """Return what is to be typed: the indented lines that are commands."""
    lines = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    return [line for line in lines if re.match(r"(cd|strandline|curl)\b", line)]


def test_from_nothing_to_two_answers_that_waited_for_each_other(tmp_path: Path) -> None:
    """What init says to type is typed, and what it says comes back comes back; the file is served as it stands."""
    made = strandline("init", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == [".strandline", "agent.py"]
    serve, first, second, history = commands(made.stdout)
    assert serve == "strandline serve"

    port = reserved_port()
    server = Server(None, folder=tmp_path, port=port, journal=None, installed=True)
    try:
        server.start()
        asking = f"{first} {second}".replace("localhost:8080", f"127.0.0.1:{port}")
        done = subprocess.run(["sh", "-c", asking], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
        assert sorted(re.findall(r'"status":"(\w+)"', done.stdout)) == ["success", "success"]
        output = "".join(re.findall(r'"response":"([^"]*)"', done.stdout))
        assert "message 1 of this session" in output
        assert "message 2 of this session" in output
        assert "add returned 5." in output
        assert "I am a script. You said: and hello." in output
        kept = subprocess.run(
            ["sh", "-c", history.replace("localhost:8080", f"127.0.0.1:{port}")],
            capture_output=True, text=True, timeout=DEADLINE_S, check=True,
        ).stdout  # fmt: skip
        assert '"add 2 and 3"' in kept
        assert sorted(texts(server.history(), "user")) == ["add 2 and 3", "and hello"]
        assert "callback_handler" not in server.stderr
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()
    assert (tmp_path / ".strandline" / "journal.db").is_file()


def test_the_second_request_really_waits(tmp_path: Path) -> None:
    """The scripted model thinks long enough that the queue can be seen."""
    assert strandline("init", folder=tmp_path).returncode == 0
    server = Server("agent.py", folder=tmp_path, variables={"STRANDLINE_DEMO_PACE": "0.5"})
    try:
        server.start()
        first, second = server.line_up("add 2 and 3", "and hello")
        assert server.health()["queue_depth"] == 1
        assert first.result(DEADLINE_S).json()["response"].endswith("That was message 1 of this session.")
        assert "That was message 2 of this session." in second.result(DEADLINE_S).json()["response"]
        until(lambda: server.inside() == 0, "nothing is left")
    finally:
        server.close()


@pytest.mark.parametrize("model", ["scripted", "openai:gpt-4o-mini", "bedrock:us.amazon.nova-lite-v1:0"])
def test_the_file_pleases_ruff_and_mypy(tmp_path: Path, model: str) -> None:
    """With their own defaults and mypy's strictest, since it becomes part of somebody's project."""
    assert strandline("init", "--model", model, folder=tmp_path).returncode == 0
    for command in (
        ["ruff", "check", "--isolated", "--select", "E,F,W,I,D1,UP,B", "--line-length", "88", "agent.py"],
        ["ruff", "format", "--isolated", "--check", "agent.py"],
    ):
        done = subprocess.run(
            [BIN / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    text = (tmp_path / "agent.py").read_text()
    assert f'model = load_model("{model}")\n' in text
    ast.parse(text)


def test_mypy_finds_nothing_in_it(tmp_path: Path) -> None:
    assert strandline("init", folder=tmp_path).returncode == 0
    known = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
    command = [sys.executable, "-m", "mypy", "--strict", *known, "agent.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("mine = True\n")
    refused = strandline("init", folder=tmp_path)
    assert refused.returncode == 2
    assert "agent.py already exists, and was left unchanged" in refused.stderr
    assert (tmp_path / "agent.py").read_text() == "mine = True\n"


def test_in_a_folder_of_its_own_it_says_how_to_get_there(tmp_path: Path) -> None:
    made = strandline("init", "my agent/one", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert commands(made.stdout)[0] == "cd 'my agent/one' && strandline serve"
    assert (tmp_path / "my agent" / "one" / ".strandline" / ".gitignore").read_text() == "*\n"


def test_a_model_whose_name_cannot_be_one_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name in ('a"b', "a b", "a\nb", "a\\b", "caf\udce9"):
        refused = strandline("init", "--model", f"openai:{name}", folder=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), name
        assert "`openai:NAME`" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    assert strandline("init", "--model", " openai:small ", folder=tmp_path).returncode == 0
    assert 'load_model("openai:small")' in (tmp_path / "agent.py").read_text()


def test_a_file_in_place_of_the_journals_folder_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / ".strandline").write_text("mine")
    refused = strandline("init", folder=tmp_path)
    assert refused.returncode == 2
    assert ".strandline is a file" in refused.stderr
    assert [each.name for each in tmp_path.iterdir()] == [".strandline"]


def test_without_room_for_it_nothing_is_left(tmp_path: Path) -> None:
    """The system lets this process write no byte into a file."""
    refused = subprocess.run(
        ["sh", "-c", f"ulimit -f 0; trap '' XFSZ; exec {COMMAND} init"],
        cwd=tmp_path, env=environment({}), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "agent.py cannot be written: File too large" in refused.stderr
    assert not (tmp_path / "agent.py").exists()


def test_on_a_narrow_terminal_no_word_is_broken(tmp_path: Path) -> None:
    with terminal("init", folder=tmp_path, columns=60) as shown:
        assert shown.ended() == 0
    prose = [line for line in shown.screen.splitlines() if not line.startswith("  ")]
    assert max(map(len, prose)) <= 60
    assert "`strandline doctor`" in " ".join(prose)


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    refused = strandline("init", "/proc/mine", folder=tmp_path)
    assert refused.returncode == 2
    assert "cannot be written" in refused.stderr
    assert "`strandline init FOLDER`" in refused.stderr


def test_a_model_without_its_key_is_reported_at_once_and_again_by_serve(tmp_path: Path) -> None:
    """The file is made all the same; serving it says the same in one paragraph, with the line of the file."""
    made = strandline("init", "--model", "openai:gpt-4o-mini", folder=tmp_path, OPENAI_API_KEY="")
    assert made.returncode == 0
    assert "Set OPENAI_API_KEY" in made.stdout
    served = strandline("serve", folder=tmp_path, OPENAI_API_KEY="", OPENAI_BASE_URL="")
    assert served.returncode == 2
    assert "Set OPENAI_API_KEY" in served.stderr
    line = 'model = load_model("openai:gpt-4o-mini")'
    number = (tmp_path / "agent.py").read_text().splitlines().index(line) + 1
    assert f"agent.py, line {number}:\n    {line}" in served.stderr
    assert "Traceback" not in served.stderr


def test_without_a_file_serve_names_init(tmp_path: Path) -> None:
    refused = strandline("serve", folder=tmp_path)
    assert refused.returncode == 2
    assert "there is no agent.py here" in refused.stderr
    assert "`strandline init` makes one" in refused.stderr
