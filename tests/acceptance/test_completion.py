"""Completion in the shell: the protocol that bash and zsh speak with the command, and bash itself."""

import os
import subprocess
from pathlib import Path

import pytest

from acceptance.server import COMMAND, DEADLINE_S, environment, ran


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("agent.py", "notes.txt", "my.toml", "j.db", "deep/other.py", ".hidden.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def completed(folder: Path, shell: str, line: str) -> str:
    """Ask as that shell does; the last word of the line is the one to complete."""
    variables = {"_STRANDLINE_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "_TYPER_COMPLETE_ARGS": line}
    variables["COMP_CWORD"] = str(line.count(" "))
    done = ran(folder=folder, variables=variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


OFFERED = {
    "strandline se": ["serve", "settings", "sessions"],
    "strandline ca": ["cancel"],
    "strandline pa": ["pause"],
    "strandline sessions change --on-d": ["--on-disconnect"],
    "strandline sessions change --if-busy r": ["reject", "rollback"],
    "strandline runs --wa": ["--watch"],
    "strandline re": ["resume", "restore", "resolve"],
    "strandline check http://x --adapter a": ["agentcore", "a2a", "ag-ui"],
    "strandline cancel --r": ["--running"],
    "strandline journal v": ["verify"],
    "strandline serve ": ["agent.py", "deep/"],
    "strandline serve deep/": ["deep/other.py"],
    "strandline doctor a": ["agent.py"],
    "strandline serve --after-crash ": ["resume", "fail"],
    "strandline serve --stall-action r": ["report"],
    "strandline settings --config ": ["deep/", "my.toml"],
    "strandline journal verify ": ["deep/", "j.db"],
    "strandline init --model o": ["openai:gpt-4o-mini", "ollama:llama3.2"],
    "strandline serve --max-runn": ["--max-running", "--max-running-per-caller"],
}


@pytest.mark.parametrize("line", OFFERED)
def test_what_is_offered_in_bash(folder: Path, line: str) -> None:
    assert completed(folder, "bash", line).split() == OFFERED[line]


@pytest.mark.parametrize("line", ["strandline serve a", "strandline journal v", "strandline serve --after-crash "])
def test_what_is_offered_in_zsh(folder: Path, line: str) -> None:
    said = completed(folder, "zsh", line)
    assert said.startswith("_arguments '*: :((")
    for each in OFFERED.get(line, ["agent.py"]):
        assert f'"{each}"' in said


def test_bash_itself_completes_after_the_script_that_it_is_given(folder: Path) -> None:
    """The script is the one that `--show-completion` prints, and `--install-completion` installs."""
    bin_first = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    script = """
        eval "$(_STRANDLINE_COMPLETE=source_bash strandline)"
        complete -p strandline
        COMP_WORDS=(strandline serve ag) COMP_CWORD=2
        _strandline_completion strandline
        printf 'offered: %s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment({"PATH": bin_first}), capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "-F _strandline_completion strandline" in done.stdout
    assert "offered: agent.py\n" in done.stdout
