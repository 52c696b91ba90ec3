"""A command that is forked for a test does what the installed one does."""

import subprocess
from pathlib import Path

import pytest

from acceptance.server import COMMAND, DEADLINE_S, environment, ran

COMMANDS = {
    "a value of each origin": ["settings", "--changed"],
    "its own name": ["journal", "verify", "--help"],
    "nothing such": ["sevre"],
    "a target that is not there": ["serve", "agnt.py"],
    "nobody to talk to": ["chat", "http://127.0.0.1:1"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_forked_command_says_what_the_installed_one_says_and_ends_as_it_does(name: str, tmp_path: Path) -> None:
    (tmp_path / "strandline.toml").write_text("max_running = 3\n")
    (tmp_path / "agent.py").touch()
    variables = {"PORT": "9001", "COLUMNS": "70"}
    forked = ran(*COMMANDS[name], folder=tmp_path, typed="hello\n", variables=variables)
    installed = subprocess.run(
        [COMMAND, *COMMANDS[name]], cwd=tmp_path, env=environment(variables), input="hello\n", capture_output=True,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        installed.returncode,
        installed.stdout,
        installed.stderr,
    )
    assert forked.stdout or forked.stderr
